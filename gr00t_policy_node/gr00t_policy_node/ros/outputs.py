# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Outputs: send the channels of each output from the controller's command to the robot.

Topics get a message per control tick. Actions get goals: short trajectories that end at the commanded position, so that
the robot comes to rest by itself when this node dies, and gripper positions when they change. Nothing here waits for an
answer; a server that is absent, does not answer or refuses is a fault, on which the controller holds.

All calls come from the executor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from action_msgs.msg import GoalStatus
from rclpy.action.client import ActionClient, ClientGoalHandle
from rclpy.lifecycle import LifecycleNode

from gr00t_policy_node.ros.command_messages import (
    ArrayEncoder,
    Channels,
    JointStateEncoder,
    PoseEncoder,
    TrajectoryEncoder,
    TwistEncoder,
)
from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.topics.commands import CommandConfig
from gr00t_training.embodiment import VectorKey

GOAL_PERIOD_S = 0.1
MIN_CHANGE = 0.001
ANSWER_S = 1.0  # a server that has not accepted or rejected after this time does not answer
RETRY_S = 1.0  # pause after a goal that was not executed
CHECK_S = 0.1  # between two checks of whether the server is there, which cost more than a command


class CommandOutput(Protocol):
    """One output."""

    def fault(self, now_ns: int) -> str:
        """Return why commands do not reach the robot, empty if they do or it is not known."""
        ...

    def send(self, command: np.ndarray, now_ns: int) -> None:
        """Send a command (N,) of the controller at this time of the node's clock."""
        ...

    def halt(self) -> None:
        """Note that no more commands follow for now."""
        ...

    def close(self) -> None:
        """Destroy the interfaces."""
        ...


class CommandOutputs:
    """All outputs of one robot."""

    def __init__(
        self, node: LifecycleNode, configs: Sequence[CommandConfig], keys: Mapping[str, VectorKey], period_ns: int
    ) -> None:
        """Create them; ConfigError when a message or action is not installed."""
        self._outputs: list[CommandOutput] = []
        self._is_commanding = False
        try:
            for config in configs:
                self._outputs.append(make_output(node, config, keys, period_ns))
        except BaseException:
            self.close()
            raise

    def fault(self, now_ns: int) -> str:
        """Return why commands do not reach the robot, empty if they do."""
        faults = [output.fault(now_ns) for output in self._outputs]
        return next((fault for fault in faults if fault), "")

    def send(self, command: np.ndarray | None, now_ns: int) -> None:
        """Send a command (N,); None: there is none, and no more follow for now."""
        if command is None:
            self.halt()
            return
        for output in self._outputs:
            output.send(command, now_ns)
        self._is_commanding = True

    def halt(self) -> None:
        """Note that no more commands follow for now."""
        if self._is_commanding:
            for output in self._outputs:
                output.halt()
        self._is_commanding = False

    def close(self) -> None:
        """Destroy all interfaces."""
        for output in self._outputs:
            output.close()
        self._outputs.clear()


class TopicOutput:
    """Publishes a message per command."""

    def __init__(self, node: LifecycleNode, config: CommandConfig, encode: Callable[[np.ndarray, int], Any]) -> None:
        """Create the publisher; `encode` makes the message of a command, ValueError when there is none."""
        self._node = node
        self._topic = config.topic
        self._encode = encode
        self._fault = ""
        # depth 1: a late command must not be followed by older ones
        self._publisher: Any = node.create_lifecycle_publisher(message_class(config.type), config.topic, 1)

    def fault(self, now_ns: int) -> str:
        """Return why the last command could not be encoded, until the robot is at rest."""
        return self._fault

    def send(self, command: np.ndarray, now_ns: int) -> None:
        """Publish a command (N,)."""
        try:
            self._publisher.publish(self._encode(command, now_ns))
        except ValueError as error:  # limits by channel can take the length from a rotation
            self._fault = f"{self._topic}: {error}"

    def halt(self) -> None:
        """Forget what could not be encoded."""
        self._fault = ""

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_lifecycle_publisher(self._publisher)


class GoalSender:
    """Sends goals; only the newest one matters."""

    def __init__(
        self, node: LifecycleNode, config: CommandConfig, failure: Callable[[int, Any], str] = lambda *_: ""
    ) -> None:
        """Create the client.

        Args:
            node: owner of the client.
            config: names action and type.
            failure: returns what went wrong, from status and result of the newest goal.
        """
        self.action_type = message_class(config.type)
        self._node = node
        self._name = config.topic
        self._failure = failure
        self._client = ActionClient(node, self.action_type, config.topic)
        self._count = 0  # goals sent
        self._ended = 0  # goals up to this number are no longer needed
        self._asked_ns: dict[int, int] = {}  # number of a goal without an answer -> when it was sent
        self._running: tuple[int, ClientGoalHandle] | None = None
        self._is_closed = False
        self._fault, self._fault_ns = "", 0
        self._is_there, self._checked_ns = False, -round(CHECK_S * 1e9)

    def fault(self, now_ns: int) -> str:
        """Return why goals are not executed, empty if they are."""
        if not 0 <= now_ns - self._checked_ns < CHECK_S * 1e9:
            self._is_there, self._checked_ns = self._client.server_is_ready(), now_ns
        if not self._is_there:
            self._give_up()
            return f"action server '{self._name}' is not there"
        if self._asked_ns and not 0 <= now_ns - min(self._asked_ns.values()) < ANSWER_S * 1e9:
            self._give_up()
            self._fault, self._fault_ns = f"action server '{self._name}' does not answer", now_ns
        if self._fault and not 0 <= now_ns - self._fault_ns < RETRY_S * 1e9:
            self._fault = ""
        return self._fault

    def send(self, goal: Any, now_ns: int) -> None:
        """Send a goal that replaces those before it."""
        self._count += 1
        self._asked_ns[self._count] = now_ns
        self._client.send_goal_async(goal).add_done_callback(partial(self._on_answer, self._count))

    def cancel(self) -> None:
        """Have the newest goal ended, at the latest when it is accepted."""
        self._ended = self._count
        if self._running is not None:
            self._running[1].cancel_goal_async()
            self._running = None

    def close(self) -> None:
        """Destroy the client; messages already sent are still delivered."""
        self._is_closed = True
        self._client.destroy()

    def _give_up(self) -> None:
        """Forget the goals of a server that is not there or does not answer."""
        self._ended = self._count
        self._asked_ns.clear()
        self._running = None

    def _on_answer(self, number: int, answer: Any) -> None:
        if self._is_closed:  # it had arrived before, and its callback comes only now
            return
        self._asked_ns.pop(number, None)
        handle: ClientGoalHandle = answer.result()
        if not handle.accepted:
            if number > self._ended:
                self._fail(f"action server '{self._name}' rejected the goal")
            return
        if number <= self._ended or (self._running is not None and number < self._running[0]):
            handle.cancel_goal_async()
            return
        if self._running is not None and self._running[1].status in (
            GoalStatus.STATUS_ACCEPTED,
            GoalStatus.STATUS_EXECUTING,
        ):
            # most servers have ended it already; one that queues goals must not carry out both
            self._running[1].cancel_goal_async()
        self._running = number, handle
        handle.get_result_async().add_done_callback(partial(self._on_result, number))

    def _on_result(self, number: int, answer: Any) -> None:
        if self._running is not None and self._running[0] == number:
            self._running = None
        # the end of a goal that was replaced, or is no longer needed, says nothing
        if number == self._count and number > self._ended:
            response = answer.result()
            failure = self._failure(response.status, response.result)
            if failure:
                self._fail(f"action server '{self._name}' {failure}")

    def _fail(self, fault: str) -> None:
        self._fault, self._fault_ns = fault, self._node.get_clock().now().nanoseconds


class FollowTrajectoryOutput:
    """FollowJointTrajectory goals that end at the commanded positions, each replacing the one before."""

    def __init__(self, node: LifecycleNode, config: CommandConfig, channels: Channels, period_ns: int) -> None:
        """`period_ns` is the control period."""
        self._sender = GoalSender(node, config, trajectory_failure)
        self._goal_ns = round((config.goal_period_s or GOAL_PERIOD_S) * 1e9)
        self._encode = TrajectoryEncoder(config, channels, self._goal_ns)
        self._slack_ns = period_ns // 2  # ticks come a little early or late
        self._sent_ns: int | None = None
        self._node = node

    def fault(self, now_ns: int) -> str:
        """Return why goals are not executed."""
        return self._sender.fault(now_ns)

    def send(self, command: np.ndarray, now_ns: int) -> None:
        """Send a goal when the last one is over."""
        elapsed_ns = self._goal_ns if self._sent_ns is None else now_ns - self._sent_ns
        if 0 <= elapsed_ns < self._goal_ns - self._slack_ns:
            return
        self._sent_ns = now_ns
        # a later command is farther away: it takes the time that has passed, or the robot would move too fast
        goal_ns = min(max(self._goal_ns, elapsed_ns), max(self._goal_ns, round(ANSWER_S * 1e9)))
        goal = self._sender.action_type.Goal(trajectory=self._encode(command, now_ns, goal_ns))
        self._sender.send(goal, now_ns)

    def halt(self) -> None:
        """Cancel the goal, which is nearly at its end."""
        self._sent_ns = None
        self._sender.cancel()

    def close(self) -> None:
        """Destroy the client."""
        self._sender.close()


class GripperOutput:
    """GripperCommand goals, when the commanded position has changed."""

    def __init__(self, node: LifecycleNode, config: CommandConfig, channels: Channels) -> None:
        """Prepare for one channel."""
        # how a goal ends says nothing: a gripper that holds something does not reach its goal
        self._sender = GoalSender(node, config)
        self._channels = channels
        self._goal_ns = round((config.goal_period_s or GOAL_PERIOD_S) * 1e9)
        self._min_change = MIN_CHANGE if config.min_change is None else config.min_change
        self._max_effort = config.max_effort or 0.0
        self._sent: tuple[float, int] | None = None  # position, when

    def fault(self, now_ns: int) -> str:
        """Return why goals are not executed."""
        return self._sender.fault(now_ns)

    def send(self, command: np.ndarray, now_ns: int) -> None:
        """Send a goal when the position has changed and the last one was sent long enough ago."""
        position = float(self._channels.si(command)[0])
        if self._sent is not None:
            change, elapsed_ns = abs(position - self._sent[0]), now_ns - self._sent[1]
            if change == 0.0 or change < self._min_change or 0 <= elapsed_ns < self._goal_ns:
                return
        self._sent = position, now_ns
        goal = self._sender.action_type.Goal()
        goal.command.position, goal.command.max_effort = position, self._max_effort
        self._sender.send(goal, now_ns)

    def halt(self) -> None:
        """Let the goal finish: a gripper that is stopped could drop what it holds."""
        self._sent = None

    def close(self) -> None:
        """Destroy the client."""
        self._sender.close()


def make_output(
    node: LifecycleNode, config: CommandConfig, keys: Mapping[str, VectorKey], period_ns: int
) -> CommandOutput:
    """Create one output.

    Args:
        node: owner of the publisher or action client.
        config: checked against the embodiment (`CommandConfig.check`).
        keys: the controller's action keys in order.
        period_ns: control period.

    Raises:
        ConfigError: the package of the message or action is not installed.
    """
    message_class(config.type)
    channels = Channels(config, keys)
    kind = config.type.rsplit("/", 1)[1]
    if kind == "FollowJointTrajectory":
        return FollowTrajectoryOutput(node, config, channels, period_ns)
    if kind == "GripperCommand":
        return GripperOutput(node, config, channels)
    encoders: dict[str, Callable[[], Callable[[np.ndarray, int], Any]]] = {
        "JointTrajectory": lambda: TrajectoryEncoder(config, channels, period_ns),
        "Float64MultiArray": lambda: ArrayEncoder(channels),
        "JointState": lambda: JointStateEncoder(config, channels),
        "Twist": lambda: TwistEncoder(config, channels),
        "TwistStamped": lambda: TwistEncoder(config, channels),
        "PoseStamped": lambda: PoseEncoder(config, channels),
    }
    return TopicOutput(node, config, encoders[kind]())


def trajectory_failure(status: int, result: Any) -> str:
    """Return what went wrong with a FollowJointTrajectory goal that nothing of ours has ended; empty: nothing."""
    if status == GoalStatus.STATUS_SUCCEEDED:
        return ""
    if status == GoalStatus.STATUS_CANCELED:
        return "canceled the goal; another client may command the same joints"
    return f"aborted the goal (error {result.error_code}{': ' if result.error_string else ''}{result.error_string})"
