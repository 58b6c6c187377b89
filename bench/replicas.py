#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Replicas of Ray Serve behind one address: throughput by their number, a killed one, and an update, under load.

    python3 -m bench.replicas                                       # compact model on the CPU
    python3 -m bench.replicas --model n1_2b --replicas 1 2 --robots 150 --fault-robots 100     # random weights, on GPUs

Robots are those of `bench/serve_robots.py`: open loop, each with its own image, state and chunk to continue; a lost
connection is made again when the robot is to ask next. A trial with as many robots per replica as given compares
numbers of replicas. Then, with the greatest number, a replica and its server are killed (SIGKILL) in one trial, and
another checkpoint (other weights) is taken in another one. There every answer is compared with what each robot is
answered alone, by either checkpoint.

    asked, answered, refused   requests for actions; refused: with a reason, or because there was no server
    lost           requests whose connection was lost before the answer
    wrong          answers that are nearer to those of another robot
    p50, p99       of the answered ones [ms], from the moment at which the robot was to ask
    rate           answers per second
    holds          robots that were without an answer for more than twice their period
    longest        time without an answer, of the robot for which it was longest [ms]
    again          time after which a new replica served, or all robots were answered by the new checkpoint [s]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.serve_robots import CYCLE, WORDS, Asked, Trial, answers_alone, drive
from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import Embodiment, VideoKey
from gr00t_training.serve.images import ImageForm
from gr00t_training.serve.observer import Observer
from gr00t_training.serve.server import PolicyServer

START_S = 4.0  # for processes to make their requests and connect
FAULT_S = 2.0  # after the first request
PATIENCE_S = 300.0
OLD, NEW = "7", "8"  # checkpoints: seeds of random weights
FORM = ImageForm.JPEG
COLUMNS = ("trial", "robots", "asked", "answered", "refused", "lost", "wrong", "p50", "p99", "rate", "holds")
COLUMNS += ("longest", "again")


def main() -> int:
    """Measure and print the table; return 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="n1_compact", help="variant (default: n1_compact)")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--replicas", nargs="+", type=int, default=[1, 2], help="default: 1 2")
    parser.add_argument("--robots", type=int, default=2, help="of each replica, for the throughput (default: 2)")
    parser.add_argument("--fault-robots", type=int, default=2, help="in all, for kill and update (default: 2)")
    parser.add_argument("--rate", type=float, default=5.0, help="of each robot [Hz] (default: 5)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a throughput trial (default: 8)")
    parser.add_argument("--kill-seconds", type=float, default=15.0, help="of the trial with a kill (default: 15)")
    parser.add_argument("--update-seconds", type=float, default=60.0, help="of the trial with an update (default: 60)")
    parser.add_argument("--valid-s", type=float, default=0.2, help="time limit of a request (default: 0.2)")
    parser.add_argument("--size", default="480x640", help="height x width of the camera (default: 480x640)")
    parser.add_argument("--processes", type=int, default=4, help="of robots (default: 4)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve(options)
        return 0
    rows: list[dict[str, Any]] = []
    embodiment = _embodiment(options)
    for count in options.replicas:
        with _started(options, count) as started:
            for row in _trials(options, embodiment, started, count):
                rows.append(row)
                _print_row(row, is_first=len(rows) == 1)
    print(f"\n{os.cpu_count()} cores", flush=True)
    for number, row in enumerate(rows):
        _print_row(row, is_first=number == 0)
    best, first = rows[len(options.replicas) - 1], rows[0]
    print(f"{best['trial']} / {first['trial']}: {best['rate'] / first['rate']:.2f} times the answers")
    for error in sorted({error for row in rows for error in row["errors"]})[:5]:
        print(f"refused: {error}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["wrong"] for row in rows))


# Trials.


def _trials(
    options: argparse.Namespace, embodiment: Embodiment, started: _Started, count: int
) -> Iterator[dict[str, Any]]:
    yield _throughput(options, embodiment, started.port, count)
    if count == max(options.replicas):
        old = answers_alone(started.port, embodiment, options.fault_robots, FORM, True)
        yield _kill(options, embodiment, started, old)
        yield _update(options, embodiment, started, old)


def _throughput(options: argparse.Namespace, embodiment: Embodiment, port: int, count: int) -> dict[str, Any]:
    asked, _ = _drive(options, embodiment, port, count * options.robots, options.seconds, None, is_marked=False)
    return {"trial": f"{count} replicas"} | _summary(options, asked, None, options.seconds)


def _kill(options: argparse.Namespace, embodiment: Embodiment, started: _Started, old: np.ndarray) -> dict[str, Any]:
    """Kill a replica; returns when another one serves, but not before the trial's time."""
    again: list[float] = []

    def kill() -> None:
        with _addresses(started) as addresses:
            before, victim, start_s = addresses(), _replicas(started.name)[0], time.monotonic()
            for number in (*_children(victim), victim):
                os.kill(number, signal.SIGKILL)
            _await(lambda: bool(addresses() - before), "a new replica")
        again.append(time.monotonic() - start_s)

    asked, _ = _drive(options, embodiment, started.port, len(old), options.kill_seconds, kill, is_marked=True)
    row = {"trial": "kill"} | _summary(options, asked, [old], options.kill_seconds)
    return row | {"again": again[0] if again else float("nan")}


def _update(options: argparse.Namespace, embodiment: Embodiment, started: _Started, old: np.ndarray) -> dict[str, Any]:
    """Let the replicas take another checkpoint."""
    words = [sys.executable, "-m", "gr00t_training.cli.serve", NEW, "--update", started.name]
    words += ["--ray-address", started.cluster]

    def update() -> None:
        subprocess.run(words, check=True)

    asked, fault_s = _drive(options, embodiment, started.port, len(old), options.update_seconds, update, is_marked=True)
    new = answers_alone(started.port, embodiment, len(old), FORM, True)
    changes = [_changed_s(robot, number, old, new) for number, robot in enumerate(asked)]
    print(f"answered by the new checkpoint: {sum(each is not None for each in changes)} of {len(changes)} robots")
    row = {"trial": "update"} | _summary(options, asked, [old, new], options.update_seconds)
    last_s = max((each for each in changes if each is not None), default=np.nan)
    return row | {"again": last_s - fault_s, "updated": sum(each is not None for each in changes)}


def _drive(
    options: argparse.Namespace,
    embodiment: Embodiment,
    port: int,
    num_robots: int,
    seconds: float,
    fault: Callable[[], None] | None,
    *,
    is_marked: bool,
) -> tuple[list[list[Asked]], float]:
    """Let robots ask, with a fault meanwhile; return what each was answered, and when the fault began."""
    robots, count = range(num_robots), min(options.processes, num_robots)
    begin_s = time.monotonic() + START_S
    trials = [
        Trial(port, robots[i::count], options.rate, seconds, options.valid_s, FORM, is_marked, begin_s)
        for i in range(count)
    ]
    thread = threading.Thread(target=_at, args=(begin_s + FAULT_S, fault))
    with multiprocessing.get_context("fork").Pool(count) as pool:  # before there are threads
        results = pool.starmap_async(drive, [(trial, embodiment) for trial in trials], chunksize=1)
        if fault:
            thread.start()
        parts = results.get()
        if fault:
            thread.join()
    asked: dict[int, list[Asked]] = {}
    for trial, part in zip(trials, parts, strict=True):
        asked |= dict(zip(trial.robots, part, strict=True))
    return [asked[robot] for robot in robots], begin_s + FAULT_S


def _at(moment_s: float, work: Callable[[], None]) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))
    work()


def _summary(
    options: argparse.Namespace, asked: Sequence[Sequence[Asked]], alone: Sequence[np.ndarray] | None, seconds: float
) -> dict[str, Any]:
    every = [each for robot in asked for each in robot if each.place is not None]
    times_ms = [1000 * (each.answered_s - each.due_s) for each in every if each.actions is not None and each.answered_s]
    middle, last = np.percentile(times_ms, (50, 99)) if times_ms else (np.nan, np.nan)
    gaps_s = [_longest_gap(robot) for robot in asked]
    return {
        "robots": len(asked),
        "asked": len(every),
        "answered": len(times_ms),
        "refused": sum(bool(each.error) for each in every),
        "lost": sum(each.answered_s is None and not each.error for each in every),
        "wrong": sum(_count_wrong(number, robot, alone) for number, robot in enumerate(asked)) if alone else 0,
        "p50": float(middle),
        "p99": float(last),
        "rate": len(times_ms) / seconds,
        "holds": sum(gap_s > 2 / options.rate for gap_s in gaps_s),
        "longest": 1000 * max(gaps_s),
        "again": float("nan"),
        "errors": sorted({each.error for each in every if each.error})[:3],
    }


def _longest_gap(robot: Sequence[Asked]) -> float:
    """Return the longest time without an answer [s], up to the last request."""
    answered_s = [each.answered_s for each in robot if each.actions is not None and each.answered_s]
    if not answered_s:
        return float("inf")
    return float(np.diff([robot[0].due_s, *answered_s, max(robot[-1].due_s, answered_s[-1])]).max())


def _count_wrong(robot: int, asked: Sequence[Asked], alone: Sequence[np.ndarray]) -> int:
    return sum(nearest != robot for _, nearest, _ in _nearest(asked, alone))


def _changed_s(asked: Sequence[Asked], robot: int, old: np.ndarray, new: np.ndarray) -> float | None:
    """Return when the first answer of the new checkpoint came; None: it never came, or one of the old came later."""
    found = [(moment_s, which) for moment_s, nearest, which in _nearest(asked, [old, new]) if nearest == robot]
    if not found or found[-1][1] != 1:
        return None
    return next(moment_s for moment_s, which in found if which == 1)


def _nearest(asked: Sequence[Asked], alone: Sequence[np.ndarray]) -> Iterator[tuple[float, int, int]]:
    """Yield for each answer its time, and the robot and checkpoint that would be answered most nearly so.

    Only requests that were computed took noise: a refused one leaves it for the next.
    """
    place = -1
    for each in asked:
        if each.place is None:
            place = 0 if not each.error and each.answered_s is not None else -1
        elif each.actions is not None and each.answered_s and 0 <= place < CYCLE:
            distances = np.array([np.abs(answers[:, place] - each.actions).max(1) for answers in alone])
            which, nearest = np.unravel_index(distances.argmin(), distances.shape)
            yield each.answered_s, int(nearest), int(which)
            place += 1


# Servers.


@dataclasses.dataclass(frozen=True)
class _Started:
    """Replicas that run."""

    port: int
    name: str
    cluster: str  # address of Ray


@contextlib.contextmanager
def _started(options: argparse.Namespace, count: int) -> Iterator[_Started]:
    """Start replicas."""
    words = [sys.executable, "-m", "bench.replicas", "--serve", str(count), "--model", options.model]
    words += ["--device", options.device, "--size", options.size]
    begun_s = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(f"{time.monotonic() - begun_s:6.1f} s: {line.rstrip()}", flush=True)
                if "ready at tcp://" in line:
                    break
            else:
                raise SystemExit("ended before it was ready")
            thread = threading.Thread(target=_drain, args=(process.stdout,), daemon=True)
            thread.start()
            found = re.search(r"tcp://[\d.]+:(\d+): .* name (\S+), Ray at (\S+)", line)
            assert found
            yield _Started(int(found[1]), found[2], found[3])
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _drain(lines: Any) -> None:
    for _ in lines:
        pass


def _replicas(name: str) -> list[int]:
    """Return the processes of replicas by the name that Ray gives them."""
    found = subprocess.run(["pgrep", "-f", f"ray::ServeReplica:{name}:"], capture_output=True, text=True, check=False)
    return [int(number) for number in found.stdout.split()]


@contextlib.contextmanager
def _addresses(started: _Started) -> Iterator[Callable[[], set[tuple[str, int]]]]:
    """Yield what returns the addresses of the replicas that serve."""
    from gr00t_training.cli.serve_replicas import NAMESPACE, PACKAGE, directory_name
    from gr00t_training.io.ray_cluster import connect, import_ray

    ray = import_ray("bench.replicas", PACKAGE)
    connect(ray, started.cluster, namespace=NAMESPACE, log_to_driver=False)
    try:
        directory = ray.get_actor(directory_name(started.name))
        yield lambda: set(ray.get(directory.addresses.remote()))
    finally:
        ray.shutdown()


def _children(number: int) -> list[int]:
    """Return the processes that a process started: the policy server of a replica."""
    tasks = Path(f"/proc/{number}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _await(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit(f"{what}: not after {PATIENCE_S:g} s")
        time.sleep(0.1)


def _embodiment(options: argparse.Namespace) -> Embodiment:
    height, width = map(int, options.size.split("x"))
    camera = VideoKey(height=height, width=width)
    return dataclasses.replace(make_embodiment(fps=20), video={"front": camera})


def _serve(options: argparse.Namespace) -> None:
    """Serve a model with random weights as the command does."""
    from gr00t_training.cli.serve_replicas import ReplicaCount, serve_replicas
    from gr00t_training.serve.replica_process import Recipe
    from gr00t_training.serve.server_settings import ServerSettings

    given = argparse.Namespace(
        checkpoint=OLD,
        device=options.device,
        replicas=ReplicaCount(options.serve, options.serve),
        name=None,
        ray_address="local",
    )
    recipe = Recipe("bench.replicas:replica_server", (options.model, options.device, options.size))
    serve_replicas(given, ServerSettings(port=0), recipe)


def replica_server(model: str, device: str, size: str, checkpoint: str, host: str, observer: Observer) -> PolicyServer:
    """Return a server of a model with random weights, of this seed."""
    import torch

    from bench.random_policy import random_policy
    from gr00t_training.cli.serve import calm_python, prepared_server
    from gr00t_training.serve.server_settings import ServerSettings

    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # replicas share the cores
    policy = random_policy(model, _embodiment(argparse.Namespace(size=size)), device=device, seed=int(checkpoint))
    settings = ServerSettings(host=host, port=0)
    server = prepared_server({checkpoint: policy}, settings, None, f"lift the {WORDS[0]} cube", observer)
    calm_python()
    return server


# Table.


def _print_row(row: dict[str, Any], *, is_first: bool = False) -> None:
    if is_first:
        print("".join(f"{name:>{_width(name)}}" for name in COLUMNS))
    print("".join(f"{_cell(row[name]):>{_width(name)}}" for name in COLUMNS), flush=True)


def _width(name: str) -> int:
    return 12 if name == "trial" else 9


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if np.isnan(value) else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
