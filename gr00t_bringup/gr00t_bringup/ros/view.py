# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_view`: show a running robot in Rerun, Foxglove and RViz.

Cameras, joints with commands and limits, predicted chunks ahead of the joints, statuses, holds and clamps. It only
listens, next to the nodes, before or after they start.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rclpy.node import Node

from gr00t_bringup.robots import has_robot_file, robot_file
from gr00t_bringup.ros.path_markers import PathMarkers
from gr00t_bringup.ros.view_node import RerunBridge, ViewSettings
from gr00t_bringup.views.foxglove import foxglove_layout
from gr00t_bringup.views.kinematics import UrdfTree
from gr00t_bringup.views.names import DESCRIPTION_TOPIC, VIEW_NODE, NodeNames
from gr00t_bringup.views.path import PathPlanner
from gr00t_bringup.views.rerun_log import RerunLog, RerunTarget
from gr00t_bringup.views.robot import ViewedRobot, load_viewed_robot
from gr00t_bringup.views.rviz import rviz_config
from gr00t_policy_node.urdf import read_description
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_recorder.ros.spin import run_node
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError

NAME = VIEW_NODE
VIEWER_URL = "rerun+http://127.0.0.1:9876/proxy"  # of a viewer on this machine
MIN_RATE_HZ, MAX_RATE_HZ = 0.2, 60.0
MIN_WIDTH, MAX_WIDTH = 16, 4096
EPILOG = "Without another view, a Rerun viewer is started on this machine (--spawn)."


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the robot until a signal; return 0 after one, or when files were all that was asked for."""
    return run_command(NAME, lambda: _run(*parse_with_ros_args(parser(), arguments)))


def parser() -> CommandParser:
    """Return the parser of the command."""
    found = CommandParser(NAME, description=__doc__, epilog=EPILOG)
    robot = found.add_mutually_exclusive_group()
    add(found, "--robot", group=robot)
    add(found, "--topics", "Instead of --robot.", group=robot)
    text = "Joint limits (YAML) (default: limits.yaml next to the topic map)."
    found.add_argument("--limits", type=Path, metavar="FILE", help=text)
    text = "URDF of the robot, for limits. It also has the joints of the path."
    found.add_argument("--urdf", type=Path, metavar="FILE", help=text)
    rerun = found.add_argument_group("Rerun")
    rerun.add_argument("--save", type=Path, metavar="FILE", help="Recording to write (.rrd).")
    text = f"Send to a viewer that is open (default URL: {VIEWER_URL})."
    rerun.add_argument("--connect", nargs="?", const=VIEWER_URL, metavar="URL", help=text)
    rerun.add_argument("--spawn", action="store_true", help="Start a viewer on this machine.")
    text = "Pictures of a camera per second."
    rerun.add_argument("--picture-rate", type=_within(MIN_RATE_HZ, MAX_RATE_HZ), default=5.0, metavar="X", help=text)
    text = "Most pixels of a picture in width."
    rerun.add_argument("--picture-width", type=_within(MIN_WIDTH, MAX_WIDTH), default=640, metavar="N", help=text)
    others = found.add_argument_group("Foxglove and RViz")
    text = "Publish the predicted path of the end effectors; needs --urdf."
    others.add_argument("--markers", action="store_true", help=text)
    text = "Links whose path is published (default: the end of each commanded arm)."
    others.add_argument("--tip", nargs="+", default=[], metavar="LINK", help=text)
    text = "Layout to write (JSON); with --urdf it has a 3D panel."
    others.add_argument("--foxglove-layout", type=Path, metavar="FILE", help=text)
    text = "RViz configuration to write; needs --urdf."
    others.add_argument("--rviz-config", type=Path, metavar="FILE", help=text)
    nodes = found.add_argument_group("nodes")
    nodes.add_argument("--namespace", default="", metavar="NAME", help="Namespace of the robot's nodes, like /arm1.")
    nodes.add_argument("--policy", default="policy", metavar="NAME", help="Name of the policy node (default: policy).")
    text = "Name of the recorder node (default: recorder)."
    nodes.add_argument("--recorder", default="recorder", metavar="NAME", help=text)
    text = f"Topic of the URDF for other programs (default: {DESCRIPTION_TOPIC})."
    nodes.add_argument("--description-topic", default=DESCRIPTION_TOPIC, metavar="NAME", help=text)
    return found


class ViewNode(Node):
    """A node with the views."""

    def __init__(self, namespace: str, starts: Sequence[Callable[[Node], Callable[[], None]]]) -> None:
        """Create the node and start its views; each of `starts` returns what closes one."""
        super().__init__(NAME, namespace=namespace)
        self._opened = ExitStack()
        for start in starts:
            self._opened.callback(start(self))

    def close(self) -> None:
        """Close the views."""
        self._opened.close()


def _run(options: argparse.Namespace, ros: list[str]) -> int:
    xml = read_description(options.urdf) if options.urdf else ""
    for name in ("markers", "rviz_config", "tip"):
        if getattr(options, name) and not xml:
            raise ConfigError(f"--{name.replace('_', '-')} needs the robot's URDF; give it with --urdf")
    robot = _robot(options, xml)
    has_files = _write_files(options, robot, xml)
    starts: list[Callable[[Node], Callable[[], None]]] = []
    if options.markers:
        planner = PathPlanner(robot, xml, options.tip)
        starts.append(lambda node: PathMarkers(node, robot, planner, options.policy).close)
    is_spawned = options.spawn or not (options.save or options.connect or options.markers or has_files)
    with ExitStack() as opened:
        if options.save or options.connect or is_spawned:
            target = RerunTarget(options.save, options.connect, is_spawned)
            settings = ViewSettings(
                options.policy, options.recorder, options.picture_rate, round(options.picture_width)
            )
            log = RerunLog(target, robot.rows, list(robot.topic_map.video), robot.embodiment.step_ns)
            opened.callback(log.close)
            starts.append(lambda node: RerunBridge(node, robot, log, settings).close)
        if not starts:
            return 0
        print(f"showing {robot.embodiment.name}{f'; recording to {options.save}' if options.save else ''}", flush=True)
        code = run_node(lambda: ViewNode(options.namespace, starts), ros, name=NAME)
    if options.save:
        print(f"saved {options.save}; open it with: rerun {options.save}")
    return code


def _robot(options: argparse.Namespace, xml: str) -> ViewedRobot:
    if options.robot is None and options.topics is None:
        raise ConfigError("no robot: give --robot with its name or folder, or --topics with its topic map")
    if options.robot is None:
        beside = options.topics.parent / "limits.yaml"
        return load_viewed_robot(options.topics, options.limits or (beside if beside.is_file() else None), xml)
    has_limits = has_robot_file(options.robot, "limits.yaml")
    own = robot_file(options.robot, "limits.yaml") if has_limits else None
    return load_viewed_robot(robot_file(options.robot, "topics.yaml"), options.limits or own, xml)


def _write_files(options: argparse.Namespace, robot: ViewedRobot, xml: str) -> bool:
    """Write what was asked for; return whether there was any."""
    names = NodeNames(options.namespace, options.policy, options.recorder)
    root, description = UrdfTree(xml).root if xml else "", options.description_topic
    files = []
    if options.foxglove_layout:
        files.append((options.foxglove_layout, foxglove_layout(robot, names, root=root, description=description)))
    if options.rviz_config:
        files.append((options.rviz_config, rviz_config(robot, names, root, description)))
    for path, text in files:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise ConfigError(f"{path}: exists; choose another name or remove it") from error
        print(f"wrote {path}")
    return bool(files)


def _within(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low:g} to {high:g}")
        return value

    return number
