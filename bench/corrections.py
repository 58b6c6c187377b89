#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""One round of corrections on the simulated robot: roll out, take over, fine-tune, roll out again.

    python3 -m bench.corrections --output out/camera --camera-shift 0 0.025 0
    python3 -m bench.corrections --output out/light --light 0.5

The front camera is elsewhere than in training, or the room is darker, so that the shipped policy errs. In the
attempts the scripted expert is the person: it engages as a device of the controller when the policy makes no
progress, and has control until the cube is in the bin. Rows say who commanded. The policy is fine-tuned by
`gr00t_finetune` on the rows by the person, on attempts that went well without one, and on demonstrations in the scene
of training, without which it forgets that scene. Both policies are then tried without a person in both scenes, on the
same seeds, which neither attempts nor demonstrations had. The same command continues an interrupted round.

The controller with its arbiter, guard and limits, the dataset writer and the training are those of the suite; robot,
policy and controller run in lock step in one process, without ROS and without latency, so that the load of the
machine changes nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_bringup.sim.expert import Demonstration, plan_demonstration
from gr00t_bringup.sim.kinematics import JOINTS
from gr00t_bringup.sim.robot import SimRobot
from gr00t_bringup.sim.scene import CUBE_M
from gr00t_bringup.sim.task import asked_colour
from gr00t_bringup.trials.statistics import mcnemar, wilson
from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.person import Request
from gr00t_policy_node.safety.limits import LimitsFile
from gr00t_training.dataset.tools.edit.operations import merge_datasets
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import load_embodiment
from gr00t_training.policy.policy import Policy
from gr00t_training.settings import load_settings
from gr00t_training.types import Commander, Frame, Observation

ROBOT = "sim_arm"
CONTROL_S = 0.01
ASKED_S = 0.4  # between two questions to the policy, as in policy.yaml
TRIAL_S = 10.0  # the shipped policy needs about 6 s
ATTEMPT_S = 26.0  # with the person's time
LIFTED_M = CUBE_M / 2 + 0.02
LIFTED_BY_S, PLACED_BY_S = 5.0, 9.0  # a person takes over when the policy has not lifted, or placed, the cube by then
FIRST_ATTEMPT, FIRST_TRIAL, FIRST_DEMONSTRATION = 100_000, 200_000, 300_000  # seeds
# shares of the samples: as many of the scene of training as of corrections; few attempts go well without a person
DEMONSTRATIONS_WEIGHT, CORRECTIONS_WEIGHT, ALONE_WEIGHT = 2, 2, 1


@dataclass(frozen=True)
class Scene:
    """What differs from the scene of training."""

    camera_shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the front camera
    light: float = 1.0  # brightness of all lights, relative

    def __str__(self) -> str:
        return f"front camera moved by {list(self.camera_shift_m)} m, light times {self.light:g}"


TRAINING = Scene()


@dataclass(frozen=True)
class Trial:
    """What came of one start."""

    seed: int
    task: str
    success: bool
    seconds: float
    takeover_s: float | None  # None: the policy alone


@dataclass(frozen=True)
class Phase:
    """A part of the round whose result is kept, so that the same command continues after an interruption."""

    folder: Path
    name: str

    def of(self, work: Callable[[], Any]) -> Any:
        """Return the result, as plain JSON values; `work` makes it if there is none."""
        path = self.folder / f"{self.name}.json"
        if not path.exists():
            result = work()
            path.write_text(json.dumps(result, indent=1))
        return json.loads(path.read_text())


class Expert:
    """The person: takes over when the policy makes no progress, and plans again until the cube is in the bin."""

    def __init__(self, robot: SimRobot, color: str, seed: int, *, begins: bool = False) -> None:
        """Watch for the cube of this color; `begins`: without waiting for a policy."""
        self._robot, self._color, self._seed, self._begins = robot, color, seed, begins
        self._was_lifted = False
        self._plan: Demonstration | None = None
        self._planned_s = 0.0
        self.engaged_s: float | None = None

    def request(self, now_s: float) -> Request | None:
        """Return what the expert asks for at this time; None while it does not engage.

        Raises:
            ValueError: the cube is out of reach.
        """
        cube = self._robot.cube_poses()[self._color]
        self._was_lifted |= bool(cube.position_m[2] > LIFTED_M)
        is_late = self._begins or now_s > (PLACED_BY_S if self._was_lifted else LIFTED_BY_S)
        if self.engaged_s is None and not is_late:
            return None
        self.engaged_s = now_s if self.engaged_s is None else self.engaged_s
        if self._plan is None or now_s - self._planned_s > self._plan.duration_s:
            self._seed += 1
            place = (float(cube.position_m[0]), float(cube.position_m[1]))
            self._plan = plan_demonstration(self._robot.joint_positions(), place, cube.yaw_rad, self._seed)
            self._planned_s = now_s
        return Request(JOINTS, self._plan.sample(now_s - self._planned_s).tolist())


class Workplace:
    """The robot in a scene, the controller, and a policy."""

    def __init__(self, checkpoint: Path, scene: Scene) -> None:
        """Load the policy and build the scene."""
        torch.set_num_threads(1)
        self.embodiment = load_embodiment(ROBOT)
        self._limits = load_settings(LimitsFile, robot_file(ROBOT, "limits.yaml"))
        self._policy = Policy.from_checkpoint(checkpoint, device="cpu")
        self._robot = SimRobot()
        self._robot.shift_camera("front", scene.camera_shift_m)
        self._robot.set_light(scene.light)

    def run(
        self, seed: int, *, with_person: bool, demonstrates: bool = False, writer: DatasetWriter | None = None
    ) -> Trial:
        """Perform the task of a seed; with a writer it is recorded, whatever comes of it.

        Args:
            seed: of the scene.
            with_person: the expert takes over where the policy makes no progress.
            demonstrates: it does so from the first tick on.
            writer: of the dataset.
        """
        robot, rows = self._robot, round(1 / self.embodiment.fps / CONTROL_S)
        robot.reset(seed)
        self._policy.reset()
        controller = Controller(self.embodiment, self._limits.joints, CONTROL_S)
        controller.start(robot.task)
        expert = Expert(robot, asked_colour(robot.task), seed, begins=demonstrates)
        episode = writer.start_episode(robot.task) if writer else None
        num_ticks = round((ATTEMPT_S if with_person else TRIAL_S) / CONTROL_S)
        is_done, tick = False, 0
        for tick in range(num_ticks):
            now_ns = round(tick * CONTROL_S * 1e9)
            is_done = is_done or (tick % rows == 0 and robot.success())
            if is_done and tick % rows == 0:
                break
            try:
                request = expert.request(now_ns / 1e9) if with_person else None
            except ValueError:  # out of reach: the attempt failed
                break
            if request is not None:
                controller.steer("expert", request, now_ns, now_ns)
            elif tick % round(ASKED_S / CONTROL_S) == 0:
                controller.offer(self._policy.infer(self._observation(now_ns)), robot.task, now_ns)
            is_row = episode is not None and tick % rows == 0
            seen = (robot.images(), self._state()) if is_row else None
            command = controller.tick(now_ns, "", self._measure)
            if seen is not None and episode is not None and (command is not None or episode.num_frames):
                last = controller.last_command if command is None else command
                assert last is not None
                episode.add_frame(self._frame(now_ns, *seen, last, controller))
            if command is not None:
                robot.command(dict(zip(controller.names, command.tolist(), strict=True)))
            robot.step(CONTROL_S)
        if episode is not None:
            episode.save({"success": is_done, "note": "" if expert.engaged_s is None else "taken over"})
        return Trial(seed, robot.task, is_done, tick * CONTROL_S, expert.engaged_s)

    def close(self) -> None:
        """Free the cameras."""
        self._robot.close()

    def _measure(self) -> np.ndarray:
        return self._robot.joint_positions()

    def _state(self) -> dict[str, np.ndarray]:
        positions = self._robot.joint_positions()
        return {"single_arm": positions[:5], "gripper": positions[5:]}

    def _observation(self, now_ns: int) -> Observation:
        images = {camera: image[None] for camera, image in self._robot.images().items()}
        state = {key: values[None] for key, values in self._state().items()}
        return Observation(images, state, self._robot.task, now_ns)

    def _frame(
        self,
        now_ns: int,
        images: dict[str, np.ndarray],
        state: dict[str, np.ndarray],
        command: np.ndarray,
        controller: Controller,
    ) -> Frame:
        source = Commander[controller.report().source.name]
        action = {"single_arm": command[:5], "gripper": command[5:]}
        return Frame(now_ns, state, action, images, command_source=source)


def run_trials(checkpoint: Path, scene: Scene, seeds: Sequence[int]) -> list[Trial]:
    """Try a policy alone on each seed."""
    place = Workplace(checkpoint, scene)
    try:
        return [place.run(seed, with_person=False) for seed in seeds]
    finally:
        place.close()


def try_policy(checkpoint: Path, scene: Scene, given: argparse.Namespace) -> list[Trial]:
    """Try a policy alone on the seeds of all trials, in several processes."""
    seeds = range(FIRST_TRIAL, FIRST_TRIAL + given.trials)
    parts = [seeds[start :: given.jobs] for start in range(given.jobs)]
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        started = [pool.submit(run_trials, checkpoint, scene, part) for part in parts]
        return sorted((trial for each in started for trial in each.result()), key=lambda trial: trial.seed)


def record_part(
    folder: Path, checkpoint: Path, scene: Scene, seeds: Sequence[int], *, demonstrates: bool
) -> list[Trial]:
    """Record the attempts or demonstrations of some seeds as a dataset; return what came of each."""
    place = Workplace(checkpoint, scene)
    try:
        with DatasetWriter(folder, place.embodiment, has_source=True) as writer:
            return [place.run(seed, with_person=True, demonstrates=demonstrates, writer=writer) for seed in seeds]
    finally:
        place.close()


def record(
    folder: Path, checkpoint: Path, scene: Scene, seeds: Sequence[int], jobs: int, *, demonstrates: bool = False
) -> list[Trial]:
    """Record attempts of the policy that the expert corrects, or its demonstrations; return what came of each.

    Each process records a dataset of its own; they are merged in the order of the seeds.
    """
    parts = folder.with_name(f"{folder.name}_parts")
    for old in (folder, parts):  # of a round that was interrupted
        shutil.rmtree(old, ignore_errors=True)
    parts.mkdir()
    given = [part.tolist() for part in np.array_split(seeds, min(jobs, len(seeds)))]
    folders = [parts / f"{number:02d}" for number in range(len(given))]
    record_one = partial(record_part, checkpoint=checkpoint, scene=scene, demonstrates=demonstrates)
    with ProcessPoolExecutor(len(given), mp_context=get_context("spawn")) as pool:
        started = [pool.submit(record_one, folder=part, seeds=own) for part, own in zip(folders, given, strict=True)]
        trials = [trial for each in started for trial in each.result()]
    merge_datasets(folders, folder)
    shutil.rmtree(parts)
    return trials


def finetune(output: Path, attempts: Sequence[Trial], given: argparse.Namespace) -> Path:
    """Fine-tune on attempts and demonstrations by the suite's command; return the checkpoint."""
    trained = output / "run" / f"checkpoint-{given.max_steps}"
    if trained.exists():
        return trained
    shutil.rmtree(output / "run", ignore_errors=True)
    corrected = [i for i, trial in enumerate(attempts) if trial.takeover_s is not None]
    alone = [i for i, trial in enumerate(attempts) if trial.success and trial.takeover_s is None]
    weight = f"marks: success, weight: {CORRECTIONS_WEIGHT}"
    lines = [f"  - {{dataset: attempts, episodes: {corrected}, interventions: only, {weight}}}"]
    lines += [f"  - {{dataset: attempts, episodes: {alone}, weight: {ALONE_WEIGHT}}}"] if alone else []
    if given.demonstrations:
        lines += [f"  - {{dataset: demonstrations, marks: success, weight: {DEMONSTRATIONS_WEIGHT}}}"]
    (output / "corrections.yaml").write_text("datasets:\n" + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "gr00t_training.cli.finetune", "--data", output / "corrections.yaml"]
    command += ["--base-model", given.checkpoint, "--statistics", "base", "--output", output / "run"]
    command += ["--max-steps", given.max_steps, "--save-steps", given.max_steps, "--batch-size", given.batch_size]
    command += ["--learning-rate", given.learning_rate, "--device", given.device, "--report-to", "none"]
    subprocess.run([str(word) for word in command], check=True)
    return trained


def paired_p(before: Sequence[Trial], after: Sequence[Trial]) -> float:
    """Return the p value of McNemar's exact test, two-sided: that two policies differ on the same seeds."""
    gained = sum(not a.success and b.success for a, b in zip(before, after, strict=True))
    lost = sum(a.success and not b.success for a, b in zip(before, after, strict=True))
    return mcnemar(gained, lost)


def line(name: str, trials: Sequence[Trial]) -> str:
    """Return the success of some trials as text."""
    successes = sum(trial.success for trial in trials)
    low, high = wilson(successes, len(trials))
    return f"{name:<22} {successes:3d} of {len(trials)}  {successes / len(trials):6.1%}  [{low:.1%}, {high:.1%}]"


def main() -> None:
    """Parse, run the round, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/corrections"), help="Folder of the round.")
    parser.add_argument("--checkpoint", type=Path, default=compact_checkpoint(), help="Policy to correct.")
    parser.add_argument("--camera-shift", type=float, nargs=3, default=(0.0, 0.0, 0.0), help="Of the front camera [m].")
    parser.add_argument("--light", type=float, default=1.0, help="Brightness of all lights, relative.")
    parser.add_argument("--attempts", type=int, default=40, help="With the expert as a person.")
    parser.add_argument("--demonstrations", type=int, default=40, help="In the scene of training; 0: none.")
    parser.add_argument("--trials", type=int, default=60, help="Of each policy in each scene, alone.")
    parser.add_argument("--max-steps", type=int, default=300, help="Of the training.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--device", default="cpu", help="Of the training.")
    parser.add_argument("--jobs", type=int, default=1, help="Processes of trials and recordings.")
    given = parser.parse_args()
    changed = Scene(tuple(given.camera_shift), given.light)
    if changed == TRAINING:
        parser.error("give --camera-shift or --light: in the scene of training there is nothing to correct")
    output = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) for name, value in vars(given).items() if name not in ("jobs", "device")}
    if Phase(output, "settings").of(lambda: settings) != settings:
        parser.error(f"{output} has another round; use another --output")
    started_s = time.monotonic()

    def note(text: str) -> None:
        print(f"{time.monotonic() - started_s:7.0f} s  {text}", flush=True)

    def trials_of(name: str, work: Callable[[], list[Trial]]) -> list[Trial]:
        found = Phase(output, name).of(lambda: [asdict(trial) for trial in work()])
        return [Trial(**each) for each in found]

    note(str(changed))
    scenes = {"changed": changed, "training": TRAINING}
    before, after = {}, {}
    for name, scene in scenes.items():
        before[name] = trials_of(f"before_{name}", partial(try_policy, given.checkpoint, scene, given))
        note(line(f"before, scene {name}", before[name]))
    seeds = range(FIRST_ATTEMPT, FIRST_ATTEMPT + given.attempts)
    attempt = partial(record, output / "attempts", given.checkpoint, changed, seeds, given.jobs)
    attempts = trials_of("attempts", attempt)
    taken = [trial for trial in attempts if trial.takeover_s is not None]
    note(line("attempts with a person", attempts) + f", {len(taken)} taken over")
    if given.demonstrations:
        seeds = range(FIRST_DEMONSTRATION, FIRST_DEMONSTRATION + given.demonstrations)
        folder = output / "demonstrations"
        demonstrate = partial(record, folder, given.checkpoint, TRAINING, seeds, given.jobs, demonstrates=True)
        note(line("demonstrations", trials_of("demonstrations", demonstrate)))
    trained = finetune(output, attempts, given)
    note(f"fine-tuned for {given.max_steps} steps")
    for name, scene in scenes.items():
        after[name] = trials_of(f"after_{name}", partial(try_policy, trained, scene, given))
        p = paired_p(before[name], after[name])
        note(line(f"after, scene {name}", after[name]) + f", p = {p:.2g} (McNemar, exact, two-sided)")


if __name__ == "__main__":
    main()
