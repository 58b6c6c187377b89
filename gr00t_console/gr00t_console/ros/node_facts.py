# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What policy and recorder node are set to: lifecycle state and parameters, and the robot that their files describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

from gr00t_bringup.views.joints import JointReader
from gr00t_console.board import Board
from gr00t_policy_node.safety.limits import JointLimit, LimitsFile
from gr00t_policy_node.urdf import channel_limits, read_description, read_urdf
from gr00t_recorder.ros.clock_watch import create_steady_timer
from gr00t_recorder.topics.bindings import TopicMap, load_topic_map
from gr00t_training.errors import Gr00tError
from gr00t_training.settings import load_settings

PERIOD_S = 2.0
ABSENT = "absent"  # in place of a lifecycle state
PARAMETERS = {
    "policy": (
        *("checkpoint_path", "server", "dry_run", "topics_file", "limits_file", "urdf_file", "teleop", "execution"),
        *("control_rate_hz", "inference_period_s", "denoising_steps", "device"),
    ),
    "recorder": ("topics_file", "dataset_path", "video_codec", "dataset_version", "end_on_stale"),
}


class NodeFacts:
    """Asks both nodes while somebody watches; what changes goes to the board."""

    def __init__(
        self,
        node: Node,
        board: Board,
        paths: Mapping[str, str],
        *,
        topics_file: Path | None,
        limits_file: Path | None,
        on_lifecycle: Callable[[str, str], None],
        on_robot: Callable[[TopicMap, JointReader], None],
    ) -> None:
        """Create the clients; all is called in the thread of the executor.

        Args:
            node: is spun by somebody else.
            board: takes the sections "policy_node" and "recorder_node", and notices.
            paths: of the nodes "policy" and "recorder".
            topics_file: of the robot; None: the one that a node names.
            limits_file: likewise.
            on_lifecycle: gets a node's name and state, every time that it is known.
            on_robot: gets the robot, when other files are named.

        Raises:
            Gr00tError: a given file is wrong.
        """
        self._node, self._board = node, board
        self._topics_file, self._limits_file = topics_file, limits_file
        self._on_lifecycle, self._on_robot = on_lifecycle, on_robot
        self._files: tuple[str, str, str] | None = None  # topics, limits, URDF of the robot that is shown
        self._facts: dict[str, dict[str, Any]] = {name: {} for name in paths}
        self._states = {name: node.create_client(GetState, f"{path}/get_state") for name, path in paths.items()}
        self._parameters = {
            name: node.create_client(GetParameters, f"{path}/get_parameters") for name, path in paths.items()
        }
        create_steady_timer(node, PERIOD_S, self._ask)
        if topics_file is not None:
            self._load(str(topics_file), str(limits_file or ""), "")

    def of(self, name: str) -> Mapping[str, Any]:
        """Return the parameters of a node and its "lifecycle", as far as they are known."""
        return self._facts[name]

    def _ask(self) -> None:
        if not self._board.num_readers and self._files is not None:
            return
        for name, client in self._states.items():
            if not client.service_is_ready():
                self._set(name, {"lifecycle": ABSENT})
                self._on_lifecycle(name, ABSENT)
                continue
            client.call_async(GetState.Request()).add_done_callback(partial(self._on_state, name))
            asked = self._parameters[name].call_async(GetParameters.Request(names=PARAMETERS[name]))
            asked.add_done_callback(partial(self._on_parameters, name))

    def _on_state(self, name: str, future: Any) -> None:
        if future.exception() is not None:
            return
        label = future.result().current_state.label
        self._set(name, {"lifecycle": label})
        self._on_lifecycle(name, label)

    def _on_parameters(self, name: str, future: Any) -> None:
        if future.exception() is not None:
            return
        values = [parameter_value_to_python(value) for value in future.result().values]
        found = dict(zip(PARAMETERS[name], values, strict=False))
        self._set(name, found)
        # the policy node's files come first: its limits are those that count
        if self._topics_file is None and found.get("topics_file") and (name == "policy" or self._files is None):
            limits = str(self._limits_file or found.get("limits_file") or "")
            self._show(str(found["topics_file"]), limits, str(found.get("urdf_file") or ""))

    def _set(self, name: str, found: dict[str, Any]) -> None:
        changed = {**self._facts[name], **found}
        if changed != self._facts[name]:
            self._facts[name] = changed
            self._board.post(f"{name}_node", changed)

    def _show(self, topics: str, limits: str, urdf: str) -> None:
        """Show joints and cameras of the files that a node names, which may be on another machine."""
        if (topics, limits, urdf) == self._files:
            return
        try:
            self._load(topics, limits, urdf)
        except Gr00tError as error:
            text = f"joints and cameras are not shown: {error}"
            self._node.get_logger().warning(text)
            self._board.post("notice", {"text": text})

    def _load(self, topics: str, limits: str, urdf: str) -> None:
        self._files = (topics, limits, urdf)
        topic_map, embodiment = load_topic_map(topics)
        described: dict[str, JointLimit] = {}
        if urdf:
            described = channel_limits(read_urdf(read_description(urdf)).limits, embodiment)
        file = load_settings(LimitsFile, limits) if limits else LimitsFile()
        self._on_robot(topic_map, JointReader(topic_map, embodiment, file.limits(described)))
