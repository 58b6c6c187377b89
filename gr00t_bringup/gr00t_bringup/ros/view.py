# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_view`: show a running robot in Rerun.

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
from gr00t_bringup.ros.view_node import RerunBridge, ViewSettings
from gr00t_bringup.views.rerun_log import RerunLog, RerunTarget
from gr00t_bringup.views.robot import ViewedRobot, load_viewed_robot
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_recorder.ros.spin import run_node
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError

NAME = "gr00t_view"
VIEWER_URL = "rerun+http://127.0.0.1:9876/proxy"  # of a viewer on this machine
MIN_RATE_HZ, MAX_RATE_HZ = 0.2, 60.0
MIN_WIDTH, MAX_WIDTH = 16, 4096
EPILOG = "Without --save, --connect and --spawn a viewer is started on this machine (--spawn)."


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the robot until a signal; return 0 after one."""
    return run_command(NAME, lambda: _run(*parse_with_ros_args(parser(), arguments)))


def parser() -> CommandParser:
    """Return the parser of the command."""
    found = CommandParser(NAME, description=__doc__, epilog=EPILOG)
    robot = found.add_mutually_exclusive_group()
    add(found, "--robot", group=robot)
    add(found, "--topics", "Instead of --robot.", group=robot)
    text = "Joint limits (YAML) (default: limits.yaml next to the topic map)."
    found.add_argument("--limits", type=Path, metavar="FILE", help=text)
    rerun = found.add_argument_group("Rerun")
    rerun.add_argument("--save", type=Path, metavar="FILE", help="Recording to write (.rrd).")
    text = f"Send to a viewer that is open (default URL: {VIEWER_URL})."
    rerun.add_argument("--connect", nargs="?", const=VIEWER_URL, metavar="URL", help=text)
    rerun.add_argument("--spawn", action="store_true", help="Start a viewer on this machine.")
    text = "Pictures of a camera per second."
    rerun.add_argument("--picture-rate", type=_within(MIN_RATE_HZ, MAX_RATE_HZ), default=5.0, metavar="X", help=text)
    text = "Most pixels of a picture in width."
    rerun.add_argument("--picture-width", type=_within(MIN_WIDTH, MAX_WIDTH), default=640, metavar="N", help=text)
    nodes = found.add_argument_group("nodes")
    nodes.add_argument("--namespace", default="", metavar="NAME", help="Namespace of the robot's nodes, like /arm1.")
    nodes.add_argument("--policy", default="policy", metavar="NAME", help="Name of the policy node (default: policy).")
    text = "Name of the recorder node (default: recorder)."
    nodes.add_argument("--recorder", default="recorder", metavar="NAME", help=text)
    return found


class ViewNode(Node):
    """A node with the views."""

    def __init__(self, namespace: str, start: Callable[[Node], Callable[[], None]]) -> None:
        """Create the node and start its views; `start` returns what closes them."""
        super().__init__(NAME, namespace=namespace)
        self._close = start(self)

    def close(self) -> None:
        """Close the views."""
        self._close()


def _run(options: argparse.Namespace, ros: list[str]) -> int:
    robot = _robot(options)
    settings = ViewSettings(options.policy, options.recorder, options.picture_rate, round(options.picture_width))
    is_spawned = options.spawn or not (options.save or options.connect)
    target = RerunTarget(options.save, options.connect, is_spawned)
    with ExitStack() as opened:
        log = RerunLog(target, robot.rows, list(robot.topic_map.video), robot.embodiment.step_ns)
        opened.callback(log.close)

        def start(node: Node) -> Callable[[], None]:
            return RerunBridge(node, robot, log, settings).close

        print(f"showing {robot.embodiment.name}{f'; recording to {options.save}' if options.save else ''}", flush=True)
        code = run_node(lambda: ViewNode(options.namespace, start), ros, name=NAME)
    if options.save:
        print(f"saved {options.save}; open it with: rerun {options.save}")
    return code


def _robot(options: argparse.Namespace) -> ViewedRobot:
    if options.robot is None and options.topics is None:
        raise ConfigError("no robot: give --robot with its name or folder, or --topics with its topic map")
    if options.robot is None:
        beside = options.topics.parent / "limits.yaml"
        return load_viewed_robot(options.topics, options.limits or (beside if beside.is_file() else None))
    has_limits = has_robot_file(options.robot, "limits.yaml")
    own = robot_file(options.robot, "limits.yaml") if has_limits else None
    return load_viewed_robot(robot_file(options.robot, "topics.yaml"), options.limits or own)


def _within(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low:g} to {high:g}")
        return value

    return number
