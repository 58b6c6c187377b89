# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the robots of all namespaces by the types of their status topics, and post them while somebody watches.

A console says its own address as a parameter, so that the list links every robot to its page. The list only listens:
what commands a robot is on that robot's own page.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from gr00t_msgs.msg import PolicyStatus, RecorderStatus
from rcl_interfaces.srv import GetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription

from gr00t_console.board import Board
from gr00t_console.fleet import Fleet, PolicyNumbers, RecorderNumbers, robot_name
from gr00t_console.ros.messages import policy_view
from gr00t_recorder.ros.clock_watch import create_steady_timer
from gr00t_recorder.ros.terminal import NAMES as RECORDER_STATES

SECTION = "fleet"
PERIOD_S = 1.0
STATUS = "/status"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
POLICY_TYPE, RECORDER_TYPE = "gr00t_msgs/msg/PolicyStatus", "gr00t_msgs/msg/RecorderStatus"
CONSOLE = "gr00t_console_"  # what the names of consoles begin with
PAGE_PARAMETER, POLICY_PARAMETER = "page", "policy"
MAX_ROBOTS = 500  # a domain with more is not one that a person looks at


class FleetWatch:
    """Posts the section `fleet`."""

    def __init__(self, node: Node, board: Board) -> None:
        """Begin; nothing is subscribed to before somebody watches."""
        self._node, self._board = node, board
        self._fleet = Fleet()
        self._subscriptions: dict[str, Subscription] = {}  # by topic
        self._clients: dict[str, Client] = {}  # by node
        self._own = ""  # robot of this page
        create_steady_timer(node, PERIOD_S, self._look)

    def announce(self, page: str, policy: str) -> None:
        """Declare where this page is and for which policy node, for the lists of other consoles."""
        policy = self._node.resolve_topic_name(policy)
        self._own = robot_name(policy)
        self._node.declare_parameter(PAGE_PARAMETER, page)
        self._node.declare_parameter(POLICY_PARAMETER, policy)

    def _look(self) -> None:
        if not self._board.num_readers:
            return
        self._subscribe()
        rows = self._fleet.rows()
        self._board.post(SECTION, [{**row, "is_here": row["name"] == self._own} for row in rows])

    def _subscribe(self) -> None:
        types = {POLICY_TYPE: (PolicyStatus, self._on_policy), RECORDER_TYPE: (RecorderStatus, self._on_recorder)}
        for topic, found in self._node.get_topic_names_and_types():
            kind = types.get(found[0])
            if kind is None or not topic.endswith(STATUS) or len(self._subscriptions) >= MAX_ROBOTS:
                continue
            path = topic.removesuffix(STATUS)
            name = robot_name(path)
            if topic not in self._subscriptions:
                taking = partial(kind[1], name)
                self._subscriptions[topic] = self._node.create_subscription(kind[0], topic, taking, LATCHED)
            if found[0] == POLICY_TYPE:
                self._ask(path, ("checkpoint_path", "server"), partial(self._on_facts, name))
        for path in self._consoles():
            self._ask(path, (PAGE_PARAMETER, POLICY_PARAMETER), self._on_page)

    def _consoles(self) -> Iterator[str]:
        for name, namespace in self._node.get_node_names_and_namespaces():
            if name.startswith(CONSOLE) and name != self._node.get_name():
                yield f"{namespace.rstrip('/')}/{name}"

    def _ask(self, path: str, names: tuple[str, ...], take: Any) -> None:
        """Ask a node for parameters that are texts."""
        client = self._clients.get(path)
        if client is None:
            client = self._clients[path] = self._node.create_client(GetParameters, f"{path}/get_parameters")
        if not client.service_is_ready():
            return

        def answer(future: Any) -> None:
            if future.exception() is None:
                values = [parameter_value_to_python(value) for value in future.result().values]
                take(*(str(value or "") for value in (*values, *([""] * (len(names) - len(values))))))

        client.call_async(GetParameters.Request(names=list(names))).add_done_callback(answer)

    def _on_facts(self, name: str, checkpoint: str, server: str) -> None:
        self._fleet.note_facts(name, checkpoint, server)

    def _on_page(self, page: str, policy: str) -> None:
        self._fleet.note_page(robot_name(policy), page)

    def _on_policy(self, name: str, status: PolicyStatus) -> None:
        numbers = PolicyNumbers(
            policy_view(status),
            reason=status.reason,
            instruction=status.instruction,
            inference_s=status.inference_latency_p50,
            observation_s=status.observation_latency_p50,
            observation_p95_s=status.observation_latency_p95,
        )
        self._fleet.note_policy(name, numbers)

    def _on_recorder(self, name: str, status: RecorderStatus) -> None:
        state = RECORDER_STATES.get(status.state, "")
        self._fleet.note_recorder(name, RecorderNumbers(state, status.reason, status.episodes))
