# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Give the policy node some tasks on the simulated robot, and record what happens."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from gr00t_msgs.msg import ActionChunk, ErrorCode, PolicyStatus
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from gr00t_bringup.demo import add_rounds, check_rounds
from gr00t_bringup.report import ChunkRecord, RoundRecord, RunRecord, RunVideo, write_report
from gr00t_bringup.ros.task_giver import LATCHED, OUTCOMES, DemoError, Goal, TaskGiver
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser

VIDEO_FPS = 20
START_TIMEOUT_S = 120.0
SUCCESS_PERIOD_S = 0.2  # between checks of the task
SCENE_S = 60.0  # longest wait for the first images of a scene
SLOW_S = 0.2  # half of the time between two queries of policy.yaml
SETTLED_S = 0.5  # done for so long: the cube does not roll out again


class DemoDriver(TaskGiver):
    """Watches robot and policy, and sends goals."""

    def __init__(self, folder: Path) -> None:
        """Subscribe; the video goes to `folder`."""
        super().__init__("demo_driver")
        self.record = RunRecord()
        self.task = ""
        self._images: dict[str, np.ndarray] = {}
        self._origin_ns: int | None = None  # of the times in the record; None: nothing is recorded yet
        self._folder = folder
        self._video: RunVideo | None = None
        for camera in ("front", "wrist"):
            self.create_subscription(Image, f"{camera}/image_raw", partial(self._on_image, camera), 5)
        self.create_subscription(JointState, "joint_states", self._on_joints, 100)
        self.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._on_command, 10)
        self.create_subscription(ActionChunk, "policy/action_chunk", self._on_chunk, 10)
        self.create_subscription(String, "task", self._on_task, LATCHED)
        self._ready_ns = -1  # a scene of this time can be used
        self.create_subscription(String, "sim/verdict", self._on_verdict, 100)
        self.reset = self.create_client(Trigger, "sim/reset")
        self.success = self.create_client(Trigger, "sim/success")

    def begin(self) -> None:
        """Record from now on."""
        self._origin_ns = self.get_clock().now().nanoseconds

    def run_round(self, time_limit_s: float) -> RoundRecord:
        """Reset the scene, give its task to the policy until it is done, and return the result."""
        answer = self.call(self.reset)
        if not answer.success:
            raise DemoError(f"sim/reset: {answer.message}")
        since_ns = json.loads(answer.message)["stamp_ns"]
        self.wait_for("new scene", lambda: self._ready_ns >= since_ns, SCENE_S)  # no observation shows the one before
        start_s = self._now_s()
        instruction = self.task
        goal = self.give(instruction)  # its own time limit would be on the clock of the wall
        done_s = self._watch(goal, start_s, time_limit_s)
        if goal.is_over:
            outcome = goal.outcome()
        else:
            goal.cancel()
            outcome = OUTCOMES[ErrorCode.CANCELLED if done_s is not None else ErrorCode.TIME_LIMIT]
            goal.outcome()
        self.wait_for_rest()
        return RoundRecord(start_s, self._now_s(), instruction, outcome, done_s)

    def _watch(self, goal: Goal, start_s: float, time_limit_s: float) -> float | None:
        """Wait until the task is done or over; return its duration, None: it was not done."""
        done_s = None
        while True:
            is_over = goal.is_over  # before the check: the last result counts
            if not self.call(self.success).success:
                done_s = None
            elif done_s is None:
                done_s = self._now_s() - start_s
            elif self._now_s() - start_s - done_s >= SETTLED_S:
                return done_s
            if is_over or (done_s is None and self._now_s() - start_s >= time_limit_s):
                return done_s
            self.spin_for(SUCCESS_PERIOD_S)

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.close()

    def _now_s(self) -> float:
        return self._seconds_at(self.get_clock().now().nanoseconds)

    def _seconds(self, stamp: Any) -> float:
        return self._seconds_at(stamp.sec * 1_000_000_000 + stamp.nanosec)

    def _seconds_at(self, time_ns: int) -> float:
        return (time_ns - (self._origin_ns or 0)) / 1e9

    def _on_task(self, message: String) -> None:
        self.task = message.data

    def _on_verdict(self, message: String) -> None:
        verdict = json.loads(message.data)
        if verdict["is_ready"]:
            self._ready_ns = verdict["stamp_ns"]

    def _on_command(self, message: JointTrajectory) -> None:
        self.record.commands += 1

    def _on_image(self, camera: str, message: Image) -> None:
        self._images[camera] = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        if camera != "front" or len(self._images) < 2 or self.status is None or self._origin_ns is None:
            return
        if self._video is None:
            self._video = RunVideo(self._folder / "demo.mp4", message.height, message.width, VIDEO_FPS)
        states = {PolicyStatus.IDLE: "idle", PolicyStatus.RUNNING: "running", PolicyStatus.HOLDING: "holding"}
        state = states.get(self.status.state, "stopped")
        caption = f"{self._seconds(message.header.stamp):5.1f} s   {state}   {self.status.instruction}"
        self._video.add(self._images["front"], self._images["wrist"], caption)

    def _on_joints(self, message: JointState) -> None:
        if self._origin_ns is None:
            return
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
    parser = CommandParser("demo_driver", description=__doc__)
    add(parser, "--output", required=True)
    add_rounds(parser)
    return run_command("demo_driver", lambda: _drive(*parse_with_ros_args(parser, args)))


def _drive(given: argparse.Namespace, ros: list[str]) -> None:
    check_rounds(given.rounds, given.round_s)
    given.output.mkdir(parents=True, exist_ok=True)
    # keep the signal handlers of the command: they let the video be finished
    rclpy.init(args=ros, signal_handler_options=SignalHandlerOptions.NO)
    driver = DemoDriver(given.output)
    is_real_time = not driver.get_parameter("use_sim_time").value
    try:
        driver.wait_for("simulated robot", lambda: driver.reset.service_is_ready() and driver.task, START_TIMEOUT_S)
        driver.wait_for("active policy node", driver.has_policy, START_TIMEOUT_S)
        driver.begin()
        for number in range(given.rounds):
            entry = driver.run_round(given.round_s)
            driver.record.rounds.append(entry)
            print(f"task {number + 1} of {given.rounds}: {entry.instruction}: {entry.ending}", flush=True)
    finally:
        driver.close()
        driver.destroy_node()
        try_shutdown()
    if not driver.record.chunks:
        raise DemoError("the policy published no chunk; see the log of policy_node")
    print(write_report(driver.record, given.output))
    hint = slowness(driver.record)
    if hint and is_real_time:
        print(f"\n{hint}")


def slowness(record: RunRecord) -> str:
    """Return that the machine was too slow for a task in real time, empty if it was not."""
    inference_s = float(np.median([chunk.inference_latency_s for chunk in record.chunks]))
    if inference_s <= SLOW_S or all(entry.done_s is not None for entry in record.rounds):
        return ""
    return (
        f"inference took {1e3 * inference_s:.0f} ms (limit {1e3 * SLOW_S:.0f} ms): this machine is too slow or busy "
        "for real time; run gr00t_demo --clock lock-step, where time waits for the policy"
    )
