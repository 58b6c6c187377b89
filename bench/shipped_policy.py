#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Make the policy of the simulated arm again: record expert episodes with recoveries, fine-tune on them.

    python3 -m bench.shipped_policy --output out/shipped --episodes 540 --jobs 14

The scripted expert demonstrates each scene once per color, with one of several phrases. A part of the episodes begins
where things went wrong: in a strange pose, beside the cube after a failed grasp, or above a cube that was dropped. What
led there is not recorded, so every row is the expert's.

The recorder is that of `recorder_node` (its samples, picking, episodes and encoder). Robot, expert and recorder run in
simulated time in one process, without ROS, so that an episode of 8 s takes less than two; `--jobs` processes write a
dataset each. The training is `gr00t finetune --recipe bench/shipped_policy.yaml` from the shipped checkpoint; options
that are not listed here go to it. Equal indices give equal episodes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_bringup.sim.expert import ABOVE_HEIGHT_M, OPEN_RAD, SQUEEZE_RAD, Demonstration, plan_demonstration
from gr00t_bringup.sim.kinematics import JOINTS, ToolPose, inverse
from gr00t_bringup.sim.robot import SimRobot
from gr00t_bringup.sim.scene import CAMERAS, CUBES, IMAGE_HEIGHT, IMAGE_WIDTH
from gr00t_bringup.sim.task import PHRASES, task_text
from gr00t_recorder.episodes.capture import RecorderOptions
from gr00t_recorder.episodes.conditions import Conditions
from gr00t_recorder.episodes.disk import DiskBudget
from gr00t_recorder.episodes.recorder import EpisodeRecorder
from gr00t_recorder.episodes.requests import Start, Stop
from gr00t_recorder.episodes.view import RecorderListener
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.serialized_images import Header, RawImage, Stamp
from gr00t_training.dataset import schema
from gr00t_training.dataset.quality import Marks
from gr00t_training.dataset.writer import DatasetWriter

ROBOT = "sim_arm"
RECIPE = Path(__file__).with_suffix(".yaml")
TICK_NS = 10_000_000  # joint states at 100 Hz, as sim_node
COMMAND_TICKS, IMAGE_TICKS = 2, 5  # the expert's commands at 50 Hz, images at 20 Hz
BEFORE_TICKS = 20  # messages before an episode starts
SETTLE_S = 0.4  # as expert_node: until a dropped cube is at rest
MAX_QUEUED = 100  # rows that wait for the encoder before the simulation waits for it
FIRST_SCENE = 500_000  # no trial of gr00t_rollout has these seeds by default
STARTS = {"home": 0.5, "pose": 0.14, "beside": 0.2, "dropped": 0.16}  # share of the episodes by how they begin


class WarningListener(RecorderListener):
    """Prints what goes wrong; nobody waits for the other reports."""

    def on_warning(self, text: str) -> None:
        """Print it."""
        print(text, flush=True)


class RecordedRobot:
    """The simulated arm and the recorder, both in simulated time."""

    def __init__(self, folder: Path) -> None:
        """Begin a dataset in `folder`."""
        topic_map, embodiment = load_topic_map(robot_file(ROBOT, "topics.yaml"))
        self._now_ns, self._ticks = 1_000_000_000, 0
        self._target = np.zeros(len(JOINTS))
        self.robot = SimRobot()
        self._assembler = FrameAssembler(topic_map, embodiment)
        self.dataset = DatasetWriter(folder, embodiment)
        disk = DiskBudget(folder, embodiment, reserve_bytes=500_000_000)
        self.recorder = EpisodeRecorder(
            self._assembler,
            self.dataset,
            Conditions(self._assembler, disk, min_episode_s=60.0),
            WarningListener(),
            RecorderOptions(spill_folder=folder / schema.STAGING, source="/recorder"),
            clock_ns=lambda: self._now_ns,
        )

    def demonstrate(self, index: int) -> str:
        """Record the episode of an index; return how it began, or why it is not kept."""
        scene, color = FIRST_SCENE + index // len(CUBES), list(CUBES)[index % len(CUBES)]
        rng = np.random.default_rng((scene, index % len(CUBES)))
        start = str(rng.choice(list(STARTS), p=list(STARTS.values())))
        task = task_text(color, int(rng.integers(len(PHRASES))))
        self.robot.reset(scene, color)
        self._target = self.robot.joint_positions()
        try:
            self._lead_to(start, color, rng)
            plan = self._plan(color, rng)
        except ValueError:  # out of reach
            return "out of reach"
        self._record_ticks(BEFORE_TICKS)
        self.recorder.ask(Start(task, self._now_ns, wait_for_save=True)).result()
        try:
            self._follow(plan, plan.duration_s, is_recorded=True)
            self._record_ticks(round(SETTLE_S * 1e9) // TICK_NS)
            is_success = self.robot.success()
        except ValueError:
            is_success = False
        stopped = self.recorder.ask(
            Stop(is_success, self._now_ns, Marks(is_success=is_success, note=f"start: {start}"))
        )
        self._record_ticks(BEFORE_TICKS)  # samples of the last rows
        result = stopped.result()
        return start if result is not None and result.is_saved else "failed"

    def close(self) -> None:
        """Finish the dataset."""
        self.recorder.close()
        self.dataset.close()
        self.robot.close()

    def _plan(self, color: str, rng: np.random.Generator, shift_m: float = 0.0) -> Demonstration:
        cube, angle = self.robot.cube_poses()[color], rng.uniform(0, 2 * np.pi)
        x, y = cube.position_m[:2] + shift_m * np.array([np.cos(angle), np.sin(angle)])
        return plan_demonstration(self.robot.joint_positions(), (x, y), cube.yaw_rad, int(rng.integers(2**31)))

    # What happens before an episode; ValueError: out of reach.

    def _lead_to(self, start: str, color: str, rng: np.random.Generator) -> None:
        if start == "pose":
            height = rng.uniform(ABOVE_HEIGHT_M + 0.015, 0.16)
            pose = ToolPose(rng.uniform(-1.2, 1.15), rng.uniform(0.13, 0.21), height, rng.uniform(1.0, 1.57), 0.0)
            goal = np.append(inverse(pose), rng.uniform(SQUEEZE_RAD, OPEN_RAD))
            goal[4] = rng.uniform(-0.7, 0.7)
            self._move(goal, 1.0)
        elif start == "beside":
            plan = self._plan(color, rng, shift_m=rng.uniform(0.02, 0.055))
            self._follow(plan, rng.uniform(1.0, 4.0))  # from approach to lift
        elif start == "dropped":
            plan = self._plan(color, rng)
            self._follow(plan, rng.uniform(3.1, 5.0))  # lift and carry
            self._move(np.append(self._target[:5], OPEN_RAD), 0.3)
            self._move(self._target, rng.uniform(0.2, 0.5))

    def _move(self, goal: np.ndarray, duration_s: float) -> None:
        first, count = self._target, round(duration_s * 1e9) // TICK_NS
        for share in np.linspace(0, 1, count):
            self._target = first + (goal - first) * share
            self._tick(is_recorded=False)

    # Ticks.

    def _follow(self, plan: Demonstration, until_s: float, *, is_recorded: bool = False) -> None:
        start_ns = self._now_ns
        while (passed_s := (self._now_ns - start_ns) / 1e9) < until_s:
            if self._ticks % COMMAND_TICKS == 0:
                self._target = plan.sample(passed_s)
            self._tick(is_recorded=is_recorded)

    def _record_ticks(self, count: int) -> None:
        for _ in range(count):
            self._tick(is_recorded=True)

    def _tick(self, *, is_recorded: bool) -> None:
        """Send the target, simulate one tick, and hand the messages of it to the recorder."""
        if self._ticks % COMMAND_TICKS == 0:
            self.robot.command(dict(zip(JOINTS, self._target.tolist(), strict=True)))
            self._add("leader", self._joints(self._target))
        self.robot.step(TICK_NS / 1e9)
        self._ticks += 1
        self._now_ns += TICK_NS
        self._add("joints", self._joints(self.robot.joint_positions()))
        if is_recorded and self._ticks % IMAGE_TICKS == 0:
            for camera, pixels in self.robot.images().items():
                shape = (IMAGE_HEIGHT, IMAGE_WIDTH, "rgb8", 0, 3 * IMAGE_WIDTH)
                self._add(camera, RawImage(self._header(), *shape, pixels.tobytes()))
            self.recorder.advance(self._now_ns).result()
            while self.recorder.view.num_queued > MAX_QUEUED:
                time.sleep(0.01)

    def _add(self, stream: str, message: Any) -> None:
        self._assembler.store.add(stream, message, self._now_ns)

    def _joints(self, positions: np.ndarray) -> SimpleNamespace:
        """Return the fields of sensor_msgs/msg/JointState."""
        return SimpleNamespace(header=self._header(), name=JOINTS, position=positions.tolist())

    def _header(self) -> Header:
        return Header(Stamp(*divmod(self._now_ns, 1_000_000_000)), "")


def record_part(folder: Path, first: int, step: int, count: int) -> Counter[str]:
    """Record the episodes `first`, `first + step` ... below `count` into a dataset; return how many began how."""
    robot = RecordedRobot(folder)
    try:
        return Counter(robot.demonstrate(index) for index in range(first, count, step))
    finally:
        robot.close()


def record(output: Path, episodes: int, jobs: int) -> list[Path]:
    """Record all episodes in several processes; return the datasets."""
    folders = [output / f"episodes_{job:02d}" for job in range(jobs)]
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        parts: list[Future[Counter[str]]] = [
            pool.submit(record_part, folder, job, jobs, episodes) for job, folder in enumerate(folders)
        ]
        for part in parts:
            total += part.result()
    kept = sum(total[start] for start in STARTS)
    print(f"{kept} of {episodes} episodes kept: {dict(total.most_common())}, cameras {', '.join(CAMERAS)}", flush=True)
    return folders


def finetune(output: Path, datasets: list[Path], further: list[str]) -> None:
    """Fine-tune with the suite's command."""
    command = [sys.executable, "-m", "gr00t_training.cli.finetune", "--recipe", RECIPE, "--output", output / "run"]
    command += ["--base-model", compact_checkpoint(), "--dataset", *datasets, *further]
    subprocess.run([str(word) for word in command], check=True)


def main() -> None:
    """Parse, record, fine-tune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/shipped"), help="New folder.")
    parser.add_argument("--episodes", type=int, default=540, help="To demonstrate; some fail and are not kept.")
    parser.add_argument("--jobs", type=int, default=1, help="Processes that record, each a dataset of its own.")
    parser.add_argument("--record-only", action="store_true", help="Do not train.")
    given, further = parser.parse_known_args()  # further options are of gr00t finetune
    output = given.output.resolve()
    output.mkdir(parents=True)  # an existing folder has other episodes
    begun_s = time.monotonic()
    datasets = record(output, given.episodes, given.jobs)
    print(f"recorded in {time.monotonic() - begun_s:.0f} s", flush=True)
    if not given.record_only:
        finetune(output, datasets, further)


if __name__ == "__main__":
    main()
