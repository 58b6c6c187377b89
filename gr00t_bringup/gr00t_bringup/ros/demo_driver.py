# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Give the policy node some tasks on the simulated robot, and record what happens."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from gr00t_msgs.action import RunPolicy
from gr00t_msgs.msg import ActionChunk, PolicyStatus
from rclpy.action.client import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from gr00t_bringup.report import ChunkRecord, RoundRecord, RunRecord, RunVideo, write_report
from gr00t_training.errors import Gr00tError

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
VIDEO_FPS = 20
START_TIMEOUT_S = 120.0
REPLY_TIMEOUT_S = 20.0
OUTCOMES = {
    RunPolicy.Result.NONE: "ended",
    RunPolicy.Result.TIME_LIMIT: "time limit reached",
    RunPolicy.Result.CANCELLED: "cancelled",
    RunPolicy.Result.STOPPED: "stopped",
    RunPolicy.Result.NOT_READY: "not ready",
}


class DemoError(Gr00tError):
    """The run did not come about."""


class DemoDriver(Node):
    """Watches robot and policy, and sends goals."""

    def __init__(self, folder: Path) -> None:
        """Subscribe; the video goes to `folder`."""
        super().__init__("demo_driver")
        self.record = RunRecord()
        self.task = ""
        self._status: PolicyStatus | None = None
        self._images: dict[str, np.ndarray] = {}
        self._origin_ns = self.get_clock().now().nanoseconds
        self._folder = folder
        self._video: RunVideo | None = None
        for camera in ("front", "wrist"):
            self.create_subscription(Image, f"{camera}/image_raw", partial(self._on_image, camera), 5)
        self.create_subscription(JointState, "joint_states", self._on_joints, 100)
        self.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._on_command, 10)
        self.create_subscription(ActionChunk, "policy/action_chunk", self._on_chunk, 10)
        self.create_subscription(PolicyStatus, "policy/status", self._on_status, LATCHED)
        self.create_subscription(String, "task", self._on_task, LATCHED)
        self.policy = ActionClient(self, RunPolicy, "policy/run_policy")
        self.reset = self.create_client(Trigger, "sim/reset")
        self.success = self.create_client(Trigger, "sim/success")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def wait_for(self, what: str, is_there: Any, timeout_s: float) -> None:
        """Spin until `is_there()`.

        Raises:
            DemoError: it took too long.
        """
        deadline_s = time.monotonic() + timeout_s
        while not is_there():
            self._executor.spin_once(timeout_sec=0.1)
            if time.monotonic() > deadline_s:
                raise DemoError(f"{what}: not there after {timeout_s:.0f} s; see the logs beside the results")

    def call(self, client: Any) -> Trigger.Response:
        """Call a Trigger service."""
        return self._reply(client.call_async(Trigger.Request()), client.srv_name, REPLY_TIMEOUT_S)

    def run_round(self, time_limit_s: float) -> RoundRecord:
        """Reset the scene, give its task to the policy, and return how it went."""
        answer = self.call(self.reset)
        if not answer.success:
            raise DemoError(f"sim/reset: {answer.message}")
        start_s = self._now_s()
        goal = RunPolicy.Goal(instruction=self.task, time_limit=time_limit_s)
        handle = self._reply(self.policy.send_goal_async(goal), "run_policy", REPLY_TIMEOUT_S)
        result = self._reply(handle.get_result_async(), "run_policy", time_limit_s + REPLY_TIMEOUT_S).result
        outcome = OUTCOMES.get(result.error_code, str(result.error_code))
        if result.error_msg:
            outcome += f" ({result.error_msg})"
        is_success = self.call(self.success).success
        return RoundRecord(start_s, self._now_s(), goal.instruction, outcome, is_success)

    def has_policy(self) -> bool:
        """Whether the policy node is active and waits for a task."""
        return self._status is not None and self.policy.server_is_ready() and self._status.state == PolicyStatus.IDLE

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.close()

    def _reply(self, future: Future, what: str, timeout_s: float) -> Any:
        self.wait_for(what, future.done, timeout_s)
        return future.result()

    def _now_s(self) -> float:
        return (self.get_clock().now().nanoseconds - self._origin_ns) / 1e9

    def _seconds(self, stamp: Any) -> float:
        return (stamp.sec * 1_000_000_000 + stamp.nanosec - self._origin_ns) / 1e9

    def _on_task(self, message: String) -> None:
        self.task = message.data

    def _on_status(self, message: PolicyStatus) -> None:
        self._status = message

    def _on_command(self, message: JointTrajectory) -> None:
        self.record.commands += 1

    def _on_image(self, camera: str, message: Image) -> None:
        self._images[camera] = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        if camera != "front" or len(self._images) < 2 or self._status is None:
            return
        if self._video is None:
            self._video = RunVideo(self._folder / "demo.mp4", message.height, message.width, VIDEO_FPS)
        states = {PolicyStatus.IDLE: "idle", PolicyStatus.RUNNING: "running", PolicyStatus.HOLDING: "holding"}
        state = states.get(self._status.state, "stopped")
        caption = f"{self._seconds(message.header.stamp):5.1f} s   {state}   {self._status.instruction}"
        self._video.add(self._images["front"], self._images["wrist"], caption)

    def _on_joints(self, message: JointState) -> None:
        self.record.joint_names = list(message.name)
        self.record.joint_times_s.append(self._seconds(message.header.stamp))
        self.record.joint_positions.append(np.array(message.position))

    def _on_chunk(self, message: ActionChunk) -> None:
        self.record.chunk_names = list(message.names)
        self.record.chunks.append(
            ChunkRecord(
                start_s=self._seconds(message.header.stamp),
                step_s=message.step.sec + message.step.nanosec / 1e9,
                rows=np.array(message.data, np.float64).reshape(message.horizon, -1),
                inference_latency_s=message.inference_latency,
                observation_latency_s=message.observation_latency,
            )
        )


def main(args: list[str] | None = None) -> int:
    """Run the tasks and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--rounds", type=int, default=3, help="tasks to give (default: 3)")
    parser.add_argument("--round-s", type=float, default=18.0, help="time limit of each task [s] (default: 18)")
    given = parser.parse_args(args)
    rclpy.init()
    driver = DemoDriver(given.output)
    try:
        driver.wait_for("simulated robot", lambda: driver.reset.service_is_ready() and driver.task, START_TIMEOUT_S)
        driver.wait_for("active policy node", driver.has_policy, START_TIMEOUT_S)
        for number in range(given.rounds):
            entry = driver.run_round(given.round_s)
            driver.record.rounds.append(entry)
            print(f"task {number + 1} of {given.rounds}: {entry.instruction}: {entry.outcome}", flush=True)
    except Gr00tError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        driver.close()
        driver.destroy_node()
        try_shutdown()
    if not driver.record.chunks:
        print("the policy published no chunk; see the log of policy_node", file=sys.stderr)
        return 1
    print(write_report(driver.record, given.output))
    return 0
