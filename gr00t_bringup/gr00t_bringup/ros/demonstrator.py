# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of a simulated robot's tasks, one after another, with marks for a recorder.

What to do next is one generator, advanced by one step per tick of a timer; nothing blocks the executor. How a task is
done follows from the subclass.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from gr00t_msgs.msg import RecorderStatus
from rclpy.client import Client
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameters import declare
from gr00t_recorder.ros.spin import run_node
from gr00t_training.errors import Gr00tError
from gr00t_training.settings import setting

COMMAND_HZ = 50
ACKNOWLEDGE_S = 2.0
ANSWER_S = 10.0
RETRY_S = 2.0
WARN_PERIOD_S = 5.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class DemonstratorSettings:
    """Parameters of a scripted demonstrator."""

    episodes: int = setting(
        1, "Successful demonstrations to give before the node ends.", ge=1, le=100000, read_only=True
    )
    max_failures: int = setting(
        10, "Failed demonstrations after which the node gives up with exit code 1.", ge=0, le=100000, read_only=True
    )
    seed: int = setting(0, "Seed of the variation between demonstrations.", ge=0, le=2**31, read_only=True)
    pause_s: float = setting(
        1.5, "Rest after each episode, for a recorder to save it [s].", ge=0.0, le=600.0, read_only=True
    )
    wait_for_recorder: bool = setting(
        False, "Start each demonstration only when the recorder is idle and receives its streams.", read_only=True
    )
    recorder_wait_s: float = setting(
        10.0,
        "Longest wait for a recorder before the first demonstration, if wait_for_recorder is not set: the recorder "
        "may start together with this node [s].",
        ge=0.0,
        le=3600.0,
        read_only=True,
    )


class Demonstrator(Node):
    """Gives demonstrations."""

    settings_type: type[DemonstratorSettings] = DemonstratorSettings

    def __init__(self) -> None:
        """Start when the robot is available."""
        super().__init__("expert")
        self.settings = declare(self, self.settings_type)
        self._recorder: RecorderStatus | None = None
        self._recorder_until_s: float | None = None  # end of the wait for a recorder
        self.is_done = False
        self.leader = self.create_publisher(JointState, "leader/joint_states", 10)
        self.commands: Any = self.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", 1)
        self._events = self.create_publisher(String, "episode/events", QoSProfile(depth=10))
        self.create_subscription(RecorderStatus, "recorder/status", self._on_recorder, LATCHED)
        self._reset = self.create_client(Trigger, "sim/reset")
        self.success = self.create_client(Trigger, "sim/success")
        self._script = self._demonstrate_all()
        self._timer = self.create_timer(1 / COMMAND_HZ, self._on_timer)

    def demonstrate(self, seed: int) -> Generator[None, None, bool]:
        """Give one demonstration in a new scene, marked by events; return True if it succeeded."""
        raise NotImplementedError

    def send(self) -> None:
        """Send what is commanded at this tick of the timer."""

    def missing(self) -> str:
        """Return what else a demonstration needs and does not have; empty: nothing."""
        return ""

    def _on_recorder(self, message: RecorderStatus) -> None:
        self._recorder = message

    def _on_timer(self) -> None:
        """Advance the script by one tick and send what it commands."""
        try:
            next(self._script)
        except StopIteration:
            self._timer.cancel()
            self._events.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))
            self.context.try_shutdown()
            return
        self.send()

    # The script: each `yield` waits for the next tick.

    def _demonstrate_all(self) -> Generator[None, None, None]:
        settings = self.settings
        successes = failures = 0
        while successes < settings.episodes:
            if failures > settings.max_failures:
                self.get_logger().error(f"{failures} demonstrations failed, max_failures is {settings.max_failures}")
                return
            yield from self._wait_for_others()
            has_succeeded = yield from self.demonstrate(settings.seed + successes + failures)
            successes += has_succeeded
            failures += not has_succeeded
            self.get_logger().info(f"episodes: {successes} of {settings.episodes} good, {failures} failed")
            yield from self.rest(settings.pause_s)
        self.is_done = True

    def reset_scene(self) -> Generator[None, None, dict[str, Any]]:
        """Reset the robot; return seed, task and the time from which the new scene holds."""
        return json.loads((yield from self.call(self._reset)).message)

    def begin(self, task: str) -> Generator[None, None, None]:
        """Mark the start of an episode; with a recorder, until it records: it refuses while a clock stops."""
        self.mark("start", task)
        until_s = time.monotonic() + RETRY_S
        while self._recorder is not None and self._recorder.state != RecorderStatus.RECORDING:
            yield
            if time.monotonic() > until_s:
                self.mark("start", task)
                until_s += RETRY_S

    def _wait_for_others(self) -> Generator[None, None, None]:
        def missing() -> str:
            if not (self._reset.service_is_ready() and self.success.service_is_ready()):
                return f"the simulated robot ({self._reset.srv_name})"
            if not self.commands.get_subscription_count():
                return f"a controller on {self.commands.topic_name}"
            if own := self.missing():
                return own
            recorder = self._missing_of_recorder()
            return recorder if self.settings.wait_for_recorder or self._may_still_come(recorder) else ""

        while name := missing():
            self.get_logger().info(f"waiting for {name}", throttle_duration_sec=WARN_PERIOD_S)
            yield

    def _may_still_come(self, missing: str) -> bool:
        """Return True while an optional recorder may still start; warn once if there is none."""
        now_s = time.monotonic()
        if self._recorder_until_s is None:
            self._recorder_until_s = now_s + self.settings.recorder_wait_s
        is_waiting = now_s < self._recorder_until_s and bool(missing)
        if missing and not is_waiting and self._recorder_until_s > 0:
            self.get_logger().warning(f"demonstrating without {missing}")
        if not is_waiting:
            self._recorder_until_s = 0.0
        return is_waiting

    def _missing_of_recorder(self) -> str:
        if self._recorder is None or not self._events.get_subscription_count():
            return f"a recorder that listens to {self._events.topic_name}"
        if self._recorder.state not in (RecorderStatus.IDLE, RecorderStatus.FAILED):  # FAILED is about the last episode
            return "the recorder to be idle"
        own = (self.leader.topic_name, self._events.topic_name)
        missing = [stream.topic for stream in self._recorder.streams if stream.state and stream.topic not in own]
        return f"the recorder to receive {missing[0]}" if missing else ""

    def call(self, client: Client) -> Generator[None, None, Any]:
        """Call a service; return its answer."""
        future = client.call_async(Trigger.Request())
        yield from self.wait(future.done, f"answer of {client.srv_name}")
        return future.result()

    def wait(self, condition: Callable[[], bool], what: str) -> Generator[None, None, None]:
        """Wait for a condition.

        Raises:
            Gr00tError: it took too long.
        """
        until_s = time.monotonic() + ANSWER_S
        while not condition():
            if time.monotonic() > until_s:
                raise Gr00tError(f"expert: no {what} within {ANSWER_S:g} s; is the simulated robot still running?")
            yield

    def rest(self, duration_s: float) -> Generator[None, None, None]:
        """Wait for so long, on the node's clock."""
        until = self.get_clock().now() + Duration(nanoseconds=round(duration_s * 1e9))
        while self.get_clock().now() < until:
            yield

    def mark(self, event: str, task: str) -> None:
        """Tell the recorder that an episode starts, stops or is to be discarded."""
        self._events.publish(String(data=json.dumps({"event": event, "task": task})))


def run_demonstrator(node_type: type[Demonstrator], command: NodeCommand, args: list[str] | None) -> int:
    """Give the demonstrations; return 0 after all of them, 1 if it was stopped or gave up before."""
    nodes: list[Demonstrator] = []

    def make() -> Demonstrator:
        nodes.append(node_type())
        return nodes[0]

    exit_code = run_node(make, args, command)
    return exit_code or (1 if nodes and not nodes[0].is_done else 0)
