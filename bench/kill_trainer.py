#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Kill a training process with SIGKILL at random instants, mostly while it writes a checkpoint, and resume each time.

After every kill

* every folder called checkpoint-N is complete: `gr00t_checkpoint verify` finds no fault in it, and the state of the run
  can be read from it;
* the newest one is at least as new as the last one that was reported as saved;
* at most one checkpoint is half written and one half removed: the next run removes them;
* `best.json`, if there is one, can be read and names a checkpoint that is there.

The run continues from there, so the next process proves that the folder can be used. At the end its weights are
compared, bit by bit, with those of a run of as many steps that nobody killed. Training is on the CPU.

    python3 -m bench.kill_trainer --kills 50
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.checkpoint import load_checkpoint, load_model
from gr00t_training.checkpoint.audit import audit_checkpoint
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.train.best import BEST_FILE
from gr00t_training.train.finetune import FinetuneRun, newest_checkpoint, prepare_finetuning
from gr00t_training.train.run_folder import RunState, saved_checkpoints, saved_settings
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings

KEPT = 2
SETTINGS = TrainerSettings(
    max_steps=100_000,  # never reached
    batch_size=1,
    warmup_ratio=0.0,
    save_steps=1,
    keep_checkpoints=KEPT,
    device="cpu",
    num_workers=0,
    tune_llm=True,
    validation_episodes=("1",),
    validation_samples=2,
    report_to=("none",),
)
PHASES = ("starting", "training", "writing")
DEADLINE_S = 300.0
FIRST_WRITE_S = 0.5  # assumed until the first checkpoint was measured


def write_dataset(path: Path) -> None:
    """Record two short episodes."""
    embodiment = make_embodiment()
    with DatasetWriter(path, embodiment) as writer:
        for seed in range(2):
            episode = writer.start_episode("lift the cube")
            for frame in make_frames(embodiment, 6, seed=seed):
                episode.add_frame(frame)
            episode.save()


def prepare(folder: Path, name: str, settings: TrainerSettings) -> FinetuneRun:
    """Start or continue the run `name` in `folder`, next to its dataset."""
    torch.set_num_threads(1)
    dataset = folder / "dataset"
    return prepare_finetuning(
        FinetuneSettings(output=folder / name, dataset=dataset, variant="n1_compact", resume=True, trainer=settings)
    )


def train_until_killed(folder: Path) -> None:
    """Continue the run and print each checkpoint; the child process."""
    print("open", flush=True)
    trainer = prepare(folder, "run", SETTINGS).trainer
    save = trainer._save

    def reported(*args: Any) -> Path:
        print("save", trainer.step, flush=True)
        began_s = time.monotonic()
        path = save(*args)
        print("saved", trainer.step, time.monotonic() - began_s, flush=True)
        return path

    trainer._save = reported  # type: ignore[method-assign]
    print("ready", trainer.step, flush=True)
    trainer.train()


@dataclass
class Results:
    """What came out of all kills."""

    kills: Counter[str] = field(default_factory=Counter)  # by phase
    num_partial: int = 0  # checkpoints that were being written at a kill, and were there when it was checked
    num_doomed: int = 0  # checkpoints that were being removed
    num_checked: int = 0  # folders
    faults: list[str] = field(default_factory=list)  # unusable folders and lost checkpoints
    num_steps: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        phases = ", ".join(f"{self.kills[phase]} while {phase}" for phase in PHASES)
        lines = [
            f"{self.kills.total()} kills: {phases}",
            f"found after a kill: {self.num_partial} checkpoints half written, {self.num_doomed} half removed",
            f"{self.num_checked} folders checked, {len(self.faults)} unusable or lost",
            f"{self.num_steps} steps, weights equal those of a run without kills; {self.seconds:.0f} s in all",
        ]
        return "\n".join([*lines, *self.faults])


def run_kills(folder: Path, *, kills: int, seed: int, show: bool = False) -> Results:
    """Kill and resume in an empty folder, checking after each kill.

    Raises:
        AssertionError: the run ended by itself, or trained to other weights than a run without kills.
    """
    write_dataset(folder / "dataset")
    rng, results, began_s, write_s = random.Random(seed), Results(), time.monotonic(), FIRST_WRITE_S
    for number in range(kills):
        events = _train_and_kill(folder, rng, write_s)
        phase = {"save": "writing", "ready": "training", "saved": "training"}.get(events[-1][0], "starting")
        results.kills[phase] += 1
        write_s = max([float(event[2]) for event in events if event[0] == "saved"], default=write_s)
        _check(folder / "run", max([int(event[1]) for event in events if event[0] == "saved"], default=0), results)
        if show:
            print(
                f"\rkill {number + 1} while {phase}, {len(results.faults)} faults ", end="", file=sys.stderr, flush=True
            )
    if show:
        print(file=sys.stderr)
    _compare_with_a_quiet_run(folder, results)
    results.seconds = time.monotonic() - began_s
    return results


def _train_and_kill(folder: Path, rng: random.Random, write_s: float) -> list[list[str]]:
    """Start the process, kill it at a random instant of a phase drawn at random, and return what it printed."""
    waits = [("open", 1, 4.0), ("saved", 1, 0.5), ("save", rng.randint(1, 3), 1.2 * write_s)]
    event, count, while_s = rng.choices(waits, [1, 2, 7])[0]
    with tempfile.NamedTemporaryFile("r") as log, open(log.name, "w") as output, open(folder / "errors", "w") as errors:
        command = [sys.executable, "-m", "bench.kill_trainer", "--child", str(folder)]
        child = subprocess.Popen(command, stdout=output, stderr=errors)
        try:
            deadline_s, text = time.monotonic() + DEADLINE_S, ""
            while sum(line.split(" ")[0] == event for line in text.split("\n")[:-1]) < count and child.poll() is None:
                assert time.monotonic() < deadline_s, f"'{event}' was not reported: {text[-200:]}"
                time.sleep(0.001)
                text += log.read()
            time.sleep(rng.uniform(0, while_s))
        finally:
            child.send_signal(signal.SIGKILL)
            code = child.wait()
        said = (folder / "errors").read_text()[-2000:]
        assert code == -signal.SIGKILL, f"the run ended by itself ({code}): {said}"
        log.seek(0)
        lines = log.read().split("\n")[:-1]  # behind the last line break is what was being printed
    return [line.split() for line in lines] or [["open"]]


def _check(run: Path, reported: int, results: Results) -> None:
    """Check every checkpoint of the run; `reported` is the newest step that was reported as saved."""
    left = {state: len(list(run.glob(f".checkpoint-*.{state}"))) for state in ("partial", "removed")}
    results.num_partial += left["partial"]
    results.num_doomed += left["removed"]
    if max(left.values()) > 1:
        results.faults.append(f"{left} folders of earlier runs are left")
    steps = []
    for path in saved_checkpoints(run):
        results.num_checked += 1
        try:
            state, settings = RunState.read(path), saved_settings(path)
            faults = [str(finding) for finding in audit_checkpoint(path) if finding.is_fault]
            assert not faults, "; ".join(faults)
            assert path.name == f"checkpoint-{state.step}" and settings == SETTINGS
            steps.append(state.step)
        except Exception as error:  # whatever a damaged folder raises is to be counted
            results.faults.append(f"{path.name}: {error}")
    if reported > max(steps, default=0):
        results.faults.append(f"checkpoint-{reported} was reported as saved and is lost")
    if len(steps) > KEPT + 2:  # the best one, and one that was to be removed
        results.faults.append(f"{len(steps)} checkpoints are left")
    if (run / BEST_FILE).exists():
        named = json.loads((run / BEST_FILE).read_text())["checkpoint"]
        if not (run / named).is_dir():
            results.faults.append(f"{BEST_FILE} names {named}, which is not there")


def _compare_with_a_quiet_run(folder: Path, results: Results) -> None:
    """Train as many steps again without a kill; AssertionError where a weight differs."""
    newest = newest_checkpoint(folder / "run")
    assert newest is not None, "no checkpoint was written; kill later"
    results.num_steps = RunState.read(newest).step
    quiet = prepare(folder, "quiet", dataclasses.replace(SETTINGS, save_steps=SETTINGS.max_steps))
    path = quiet.train(should_stop=lambda: quiet.trainer.step == results.num_steps).checkpoint
    found, expected = (load_model(load_checkpoint(each)).state_dict() for each in (newest, path))
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), f"{name} differs from that of a run without kills"


def main() -> int:
    """Parse, kill, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: %(default)s)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_until_killed(options.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results = run_kills(Path(folder), kills=options.kills, seed=options.seed, show=True)
    print(results)
    return 1 if results.faults else 0


if __name__ == "__main__":
    sys.exit(main())
