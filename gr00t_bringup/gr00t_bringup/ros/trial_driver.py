# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Carry out one trial after another, and record them if asked; here on the simulated robot, which judges itself."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from gr00t_msgs.msg import ActionChunk, CommandSource
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.time import Time
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gr00t_bringup.robots import TrialRobot
from gr00t_bringup.ros.task_giver import REST_TIMEOUT_S, DemoError, Goal, TaskGiver
from gr00t_bringup.ros.trial_recorder import ANSWER_TIMEOUT_S, TrialRecorder
from gr00t_bringup.trials.boundaries import ChunkTrack, asked_steps, sent_steps
from gr00t_bringup.trials.grid import HEIGHT, WIDTH
from gr00t_bringup.trials.table import LATENCIES, Spec, Trial
from gr00t_training.io.text import printable

IMAGES_PER_SHOWN = 2  # 20 Hz to the 10 Hz of a trial's video


@dataclass
class Watched:
    """What was seen during a trial."""

    chunks: list[ChunkTrack] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)  # of the references
    references: list[np.ndarray] = field(default_factory=list)  # (D,)
    images: list[np.ndarray] = field(default_factory=list)
    num_images: int = 0
    ticks: list[tuple[int, int, int]] = field(default_factory=list)  # stamp [ns], holds and clamps of the node so far

    def totals(self, end_ns: int) -> tuple[int, int]:
        """Return holds and clamps since the first control tick, up to a time."""
        counted = [counts for stamp_ns, *counts in self.ticks if stamp_ns <= end_ns]
        return (counted[-1][0] - counted[0][0], counted[-1][1] - counted[0][1]) if counted else (0, 0)

    def latencies_s(self) -> dict[str, float | None]:
        """Return median and 95th percentile of the time from an observation to its chunk, by column of the table."""
        times_s = [(chunk.taken_ns - chunk.start_ns) / 1e9 for chunk in self.chunks]
        found = np.percentile(times_s, (50, 95)).tolist() if times_s else (None, None)
        return dict(zip(LATENCIES, found, strict=True))

    def until(self, end_ns: int) -> Watched:
        """Return what belongs to the time before `end_ns`: how soon the policy stops then says nothing of it."""
        count = int(np.searchsorted(self.times_ns, end_ns, side="right"))
        chunks = [chunk for chunk in self.chunks if chunk.taken_ns < end_ns]
        times_ns, references = self.times_ns[:count], self.references[:count]
        return Watched(chunks, times_ns, references, self.images, self.num_images, self.ticks)


class TrialDriver(TaskGiver):
    """Watches a policy node; what a trial is follows from the subclass."""

    def __init__(self, dataset: Path | None) -> None:
        """Subscribe to what the policy does.

        Args:
            dataset: a recorder node writes each trial to it; None: trials are not recorded.
        """
        self.watched = Watched()
        super().__init__("rollout")
        self.recorder = None if dataset is None else TrialRecorder(self, dataset)
        self.create_subscription(ActionChunk, "policy/action_chunk", self._on_chunk, 20)
        self.release = self.create_client(Trigger, "policy/reset")

    def is_ready(self) -> bool:
        """Whether the policy node is active and has no task, and a recorder that is needed is idle.

        Raises:
            DemoError: the recorder writes to another dataset.
        """
        return self.has_policy() and (self.recorder is None or self.recorder.is_idle())

    def run(self, spec: Spec) -> Trial:
        """Carry out a trial.

        Raises:
            DemoError: robot or policy node do not answer.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is not of ROS."""

    def _begin(self) -> str:
        """Forget the trial before, end what the policy node does; return the date and time."""
        self.call(self.release)
        self.wait_for_rest()
        self.watched = Watched()
        return datetime.now(timezone.utc).isoformat(timespec="seconds")

    def _end(self, goal: Goal) -> str:
        """End the task if it runs; return how it ended by itself, empty if it did not."""
        outcome = ""
        if goal.is_over:
            outcome = goal.outcome()
        else:
            goal.cancel()
            goal.outcome()
        self.wait_for("status without a task", lambda: self.status and not self.status.instruction, REST_TIMEOUT_S)
        self.wait_for_rest(may_be_stopped=True)
        return outcome

    def _counts(self) -> dict[str, int]:
        """Return what the status has counted so far; a stop or a takeover is a trial's also after its success."""
        status = self.status
        assert status is not None
        return {"stops": sum(each.count for each in status.stops), "takeovers": status.takeovers}

    def _trial(self, spec: Spec, begun: str, before: dict[str, int], end_ns: int, **known: Any) -> Trial:
        """Return the record of a trial whose holds and clamps count until `end_ns`, its success."""
        after, seen = self._counts(), self.watched
        holds, clamps = seen.totals(end_ns)
        return Trial(
            spec=spec,
            begun=begun,
            chunks=len(seen.chunks),
            asked=asked_steps(seen.chunks),
            sent=sent_steps(np.array(seen.times_ns), np.array(seen.references), seen.chunks),
            holds=holds,
            clamps=clamps,
            **seen.latencies_s(),
            **{name: after[name] - before[name] for name in after},
            **known,
        )

    def _abandon(self, goal: Goal) -> None:
        """End the task of a trial that does not count, whatever has happened, and take back its episode."""
        with suppress(DemoError):
            self._end(goal)
        if self.recorder is not None:
            with suppress(DemoError):
                self.recorder.drop()

    def _on_source(self, message: CommandSource) -> None:
        super()._on_source(message)
        self.watched.ticks.append((Time.from_msg(message.header.stamp).nanoseconds, message.holds, message.clamps))

    def _on_chunk(self, message: ActionChunk) -> None:
        start_ns = Time.from_msg(message.header.stamp).nanoseconds
        rows = np.array(message.data, np.float64).reshape(message.horizon, -1)
        step_ns = message.step.sec * 1_000_000_000 + message.step.nanosec
        taken_ns = start_ns + round(float(message.observation_latency) * 1e9)
        self.watched.chunks.append(ChunkTrack(start_ns, step_ns, rows, taken_ns))


class SimTrials(TrialDriver):
    """Trials on a simulated robot, which resets its scene and judges."""

    def __init__(self, robot: TrialRobot, dataset: Path | None, *, keeps_images: bool) -> None:
        """Subscribe; keep images for videos."""
        super().__init__(dataset)
        self._settled_ns = robot.settled_s * 1e9
        self._verdict: dict[str, Any] = {"stamp_ns": -1, "success": False, "is_ready": False}
        if keeps_images:
            self.create_subscription(Image, robot.image_topic, self._on_image, 5)
        self.create_subscription(JointState, "arm_controller/reference", self._on_reference, 1000)
        self.create_subscription(String, "sim/verdict", self._on_verdict, 100)
        self.reset = self.create_client(Trigger, "sim/reset")
        self.parameters = self.create_client(SetParameters, "sim/set_parameters")
        self.policy_parameters = self.create_client(SetParameters, "policy/set_parameters")

    def is_ready(self) -> bool:
        """Whether robot, policy and recorder are there."""
        return self.reset.service_is_ready() and self._verdict["stamp_ns"] >= 0 and super().is_ready()

    def run(self, spec: Spec) -> Trial:
        """Carry out a trial in a new scene."""
        begun = self._begin()
        before = self._counts()
        self._new_scene(spec)
        if self.recorder is not None:
            self.recorder.start_soon(spec.instruction)
        goal = self.give(spec.instruction)
        try:
            begin_ns = self._verdict["stamp_ns"]
            done_ns = self._watch(goal, begin_ns, spec.time_limit_s)
            ended_ns = self._verdict["stamp_ns"]
            outcome = self._end(goal)
            note = ""
            if self.recorder is not None:
                self.recorder.stop()
                note = self.recorder.judge(is_success=done_ns is not None)
        except BaseException:  # also Ctrl-C
            self._abandon(goal)
            raise
        seen = self.watched
        self.wait_for(
            "reference of the controller", lambda: seen.times_ns and seen.times_ns[-1] >= ended_ns, ANSWER_TIMEOUT_S
        )
        self.watched = seen.until(ended_ns)
        since_ns = self.watched.chunks[0].start_ns if self.watched.chunks else begin_ns
        return self._trial(
            spec,
            begun,
            before,
            ended_ns if done_ns is None else done_ns,
            success=done_ns is not None,
            time_s=((ended_ns if done_ns is None else done_ns) - since_ns) / 1e9,
            outcome="done" if done_ns is not None else outcome or "time limit reached",
            note=note,
        )

    def _watch(self, goal: Goal, begin_ns: int, time_limit_s: float) -> int | None:
        """Follow a task until it is done or over; return when it was done [ns], None: it was not."""
        done_ns, seen_ns = None, begin_ns
        while True:
            is_over = goal.is_over  # before the verdict: the last one counts
            self._await_verdict(seen_ns + 1)
            seen_ns = self._verdict["stamp_ns"]
            if not self._verdict["success"]:
                done_ns = None
            elif done_ns is None:
                done_ns = seen_ns
            if done_ns is not None and seen_ns - done_ns >= self._settled_ns:
                return done_ns
            chunks = self.watched.chunks
            limit_ns = (chunks[0].start_ns if chunks else begin_ns) + time_limit_s * 1e9
            if is_over or (done_ns is None and seen_ns >= limit_ns):
                return done_ns

    def _new_scene(self, spec: Spec) -> None:
        scene = {"scene_seed": spec.seed, "scene_task": spec.task}
        self._set(self.parameters, scene)
        if "seed:=" not in spec.parameters:
            self._set(self.policy_parameters, {"seed": spec.seed})  # the noise of a trial is its own, and repeatable
        since_ns = json.loads(self.call(self.reset).message)["stamp_ns"]
        self._await_verdict(since_ns)  # an observation must not show the scene before
        self.wait_for("new scene", lambda: self._verdict["is_ready"], ANSWER_TIMEOUT_S)

    def _set(self, client: Any, values: dict[str, Any]) -> None:
        given = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        found = self.call(client, SetParameters.Request(parameters=given))
        refused = [each.reason for each in found.results if not each.successful]
        if refused:
            raise DemoError(f"{client.srv_name}: {printable(refused[0])}")

    def _await_verdict(self, stamp_ns: int) -> None:
        self.wait_for("simulated robot", lambda: self._verdict["stamp_ns"] >= stamp_ns, ANSWER_TIMEOUT_S)

    def _on_verdict(self, message: String) -> None:
        self._verdict = json.loads(message.data)

    def _on_reference(self, message: JointState) -> None:
        self.watched.times_ns.append(Time.from_msg(message.header.stamp).nanoseconds)
        self.watched.references.append(np.array(message.position))

    def _on_image(self, message: Image) -> None:
        self.watched.num_images += 1
        if self.watched.num_images % IMAGES_PER_SHOWN == 0:
            image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
            self.watched.images.append(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
