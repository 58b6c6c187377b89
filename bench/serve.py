#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Many robots at one `gr00t_serve`: answers, times and refusals with joined requests, beside one by one.

    python3 -m bench.serve                                              # compact model on the CPU
    python3 -m bench.serve --model n1_2b --robots 20 50 100 150 300     # full size, random weights, on a GPU

Servers and robots are separate processes on this machine; robots ask in open loop over loopback (`serve_robots.py`),
and each has its own image, state, instruction and chunk to continue. Before, every robot asks alone: answers under load
must be nearest to those of the robot that asked, with the same noise.

    asked, answered, refused, lost   requests for actions; lost: no reply, since the server found them expired
    wrong          answers that are nearer to those of another robot; ?: robots are less than twice `diff` apart
    p50, p99       of the answered ones [ms], from the moment at which the robot was to ask
    rate           answers per second; fewest: smallest share of answers that one robot got
    samples        mean of a batch
    diff           greatest difference of an answer to that of the robot alone; apart: least between two robots
    prepare, queue, assemble, compute, finish   means of the server's stages [ms]; queue includes prepare
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.serve_robots import CYCLE, PATIENCE_S, WORDS, Asked, Trial, answers_alone, checkpoint_name, drive
from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import Embodiment, VideoKey
from gr00t_training.serve.images import ImageForm

START_S = 4.0  # for processes to make their requests and connect
SEED = 7
STAGES = ("prepare", "queue", "assemble", "compute", "finish")
COLUMNS = ("server", "images", "robots", "asked", "answered", "refused", "lost", "wrong", "p50", "p99", "rate")
COLUMNS += ("fewest", "samples", "diff", "apart", *STAGES)


def main() -> int:
    """Measure and print the table; return 1 if an answer went to the wrong robot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="n1_compact", help="variant (default: n1_compact)")
    parser.add_argument("--device", default="auto", help="default: auto")
    parser.add_argument("--robots", nargs="+", type=int, default=[1, 2, 4, 8], help="default: 1 2 4 8")
    parser.add_argument("--rate", type=float, default=5.0, help="of each robot [Hz] (default: 5)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each row (default: 6)")
    parser.add_argument("--valid-s", type=float, default=0.2, help="time limit of a request (default: 0.2)")
    parser.add_argument("--size", default="480x640", help="height x width of the camera (default: 480x640)")
    parser.add_argument("--images", nargs="+", default=["jpeg"], choices=[form.value for form in ImageForm])
    parser.add_argument("--max-batch", nargs="+", type=int, default=[1, 32], help="one server each (default: 1 32)")
    parser.add_argument("--plain", action="store_true", help="no chunk to continue: robots are told apart less well")
    parser.add_argument("--checkpoints", type=int, default=1, help="of a server; robots use them in turn (default: 1)")
    parser.add_argument("--processes", type=int, default=4, help="of robots (default: 4)")
    parser.add_argument(
        "--peer", help="command of another server to compare with; it prints 'ready at tcp://HOST:PORT'"
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--serve", nargs=2, type=int, metavar=("MAX_BATCH", "METRICS_PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve(options)
        return 0
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_server(options, size)) for size in options.max_batch]
        if options.peer:
            servers.append(stack.enter_context(_started("peer", options.peer.split(), None)))
        for server in servers:
            server.await_ready()
        rows = _measure(options, servers)
    _print_table(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["wrong"] not in (0, "?") for row in rows) else 0


def _measure(options: argparse.Namespace, servers: Sequence[_Server]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    embodiment = _embodiment(options)
    for form in map(ImageForm, options.images):
        alone = answers_alone(
            servers[0].port, embodiment, max(options.robots), form, not options.plain, options.checkpoints
        )
        for count in options.robots:
            for server in servers:
                rows.append(_row(options, server, embodiment, form, alone[:count]))
                _print_row(rows[-1], is_first=len(rows) == 1)
    return rows


def _row(
    options: argparse.Namespace, server: _Server, embodiment: Embodiment, form: ImageForm, alone: np.ndarray
) -> dict[str, Any]:
    robots, count = range(len(alone)), min(options.processes, len(alone))
    begin_s = time.monotonic() + START_S
    trials = [
        Trial(
            server.port,
            robots[i::count],
            options.rate,
            options.seconds,
            options.valid_s,
            form,
            not options.plain,
            begin_s,
            options.checkpoints,
        )
        for i in range(count)
    ]
    before = server.counts()
    with multiprocessing.get_context("fork").Pool(count) as pool:
        parts = pool.starmap(drive, [(trial, embodiment) for trial in trials], chunksize=1)
    after = server.counts()
    asked: dict[int, list[Asked]] = {}
    for trial, part in zip(trials, parts, strict=True):
        asked |= dict(zip(trial.robots, part, strict=True))
    row = {"server": server.name, "images": form.value, "robots": len(alone)}
    row |= _summary([asked[robot] for robot in robots], alone, options.seconds)
    return row | _stages({name: after[name] - before[name] for name in after})


def _summary(asked: Sequence[Sequence[Asked]], alone: np.ndarray, seconds: float) -> dict[str, Any]:
    every = [each for robot in asked for each in robot if each.place is not None]
    times_ms = [1000 * (each.answered_s - each.due_s) for each in every if each.actions is not None and each.answered_s]
    checked = [_check(i, robot, alone) for i, robot in enumerate(asked)]
    shares = [
        np.mean([each.actions is not None for each in robot if each.place is not None] or [False]) for robot in asked
    ]
    middle, last = np.percentile(times_ms, (50, 99)) if times_ms else (np.nan, np.nan)
    difference, apart = max(difference for _, difference in checked), _least_distance(alone)
    return {
        "asked": len(every),
        "answered": len(times_ms),
        "refused": sum(bool(each.error) for each in every),
        "lost": sum(each.answered_s is None for each in every),
        "wrong": "?" if apart <= 2 * difference else sum(wrong for wrong, _ in checked),
        "p50": float(middle),
        "p99": float(last),
        "rate": len(times_ms) / seconds,
        "fewest": float(min(shares)),
        "diff": difference,
        "apart": apart,
        "errors": sorted({each.error for each in every if each.error})[:3],
    }


def _check(robot: int, asked: Sequence[Asked], alone: np.ndarray) -> tuple[int, float]:
    """Return how many answers are nearer to another robot's, and the greatest difference to the own ones.

    Only requests that were computed took noise: a refused one leaves it for the next.
    """
    wrong, greatest, place = 0, 0.0, -1
    for each in asked:
        if each.place is None:
            place = 0 if not each.error and each.answered_s is not None else -1
        elif each.actions is not None and 0 <= place < CYCLE:
            distances = np.abs(alone[:, place] - each.actions).max(1)
            wrong += int(distances.argmin()) != robot
            greatest = max(greatest, float(distances[robot]))
            place += 1
    return wrong, greatest


def _least_distance(alone: np.ndarray) -> float:
    if len(alone) < 2:
        return float("nan")
    return min(
        float(np.abs(np.delete(alone[:, place], robot, 0) - alone[robot, place]).max(1).min())
        for place in range(CYCLE)
        for robot in range(len(alone))
    )


def _stages(counts: dict[str, float]) -> dict[str, float]:
    def mean(name: str) -> float:
        count = counts.get(f"{name}_count", 0)
        return counts[f"{name}_sum"] / count if count else float("nan")

    return {"samples": mean("batch")} | {stage: 1000 * mean(stage) for stage in STAGES}


# Servers.


class _Server:
    """A server in another process."""

    def __init__(self, name: str, process: subprocess.Popen, metrics_port: int | None) -> None:
        self.name, self.port = name, 0
        self._process, self._metrics_port = process, metrics_port

    def await_ready(self) -> None:
        """Read its address."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(f"{self.name}: {line.rstrip()}", flush=True)
            if "ready at tcp://" in line:
                self.port = int(line.split("ready at tcp://")[1].split(":")[1])
                return
        raise SystemExit(f"{self.name}: ended before it was ready")

    def counts(self) -> dict[str, float]:
        """Return sums and counts of its histograms."""
        if self._metrics_port is None:
            return {}
        from prometheus_client.parser import text_string_to_metric_families

        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=PATIENCE_S) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
        found: defaultdict[str, float] = defaultdict(float)  # of all checkpoints
        for sample in (sample for family in families for sample in family.samples):
            ending = sample.name.rpartition("_")[2]
            if sample.name.startswith("gr00t_serve_stage_seconds") and ending in ("sum", "count"):
                found[f"{sample.labels['stage']}_{ending}"] += sample.value
            elif sample.name.startswith("gr00t_serve_batch_samples") and ending in ("sum", "count"):
                found[f"batch_{ending}"] += sample.value
        return found


@contextlib.contextmanager
def _server(options: argparse.Namespace, max_batch: int) -> Iterator[_Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics_port = free.getsockname()[1]
    given = ["--model", options.model, "--device", options.device, "--size", options.size]
    given += ["--checkpoints", str(options.checkpoints)]
    command = [sys.executable, "-m", "bench.serve", "--serve", str(max_batch), str(metrics_port), *given]
    with _started("one by one" if max_batch == 1 else f"up to {max_batch}", command, metrics_port) as server:
        yield server


@contextlib.contextmanager
def _started(name: str, command: Sequence[str], metrics_port: int | None) -> Iterator[_Server]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield _Server(name, process, metrics_port)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _embodiment(options: argparse.Namespace) -> Embodiment:
    height, width = map(int, options.size.split("x"))
    camera = VideoKey(height=height, width=width)
    return dataclasses.replace(make_embodiment(fps=20), video={"front": camera})


def _serve(options: argparse.Namespace) -> None:
    """Serve a model with random weights as the command does."""
    import torch

    from bench.random_policy import random_policy
    from gr00t_training.cli.serve import serve_policies
    from gr00t_training.serve.server_settings import ServerSettings

    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # several servers share the cores
    max_batch, metrics_port = options.serve
    policies = {
        checkpoint_name(number): random_policy(
            options.model, _embodiment(options), device=options.device, seed=SEED + number
        )
        for number in range(options.checkpoints)
    }
    settings = ServerSettings(port=0, max_batch=max_batch, metrics_port=metrics_port)
    serve_policies(policies, settings, token=None, instruction=f"lift the {WORDS[0]} cube")


# Tables.


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{os.cpu_count()} cores", flush=True)
    for number, row in enumerate(rows):
        _print_row(row, is_first=number == 0)
    for error in sorted({error for row in rows for error in row["errors"]})[:3]:
        print(f"refused: {error}")


def _print_row(row: dict[str, Any], *, is_first: bool) -> None:
    if is_first:
        print("".join(f"{name:>{_width(name)}}" for name in COLUMNS))
    print("".join(f"{_cell(name, row[name]):>{_width(name)}}" for name in COLUMNS), flush=True)


def _width(name: str) -> int:
    return 12 if name == "server" else 9


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if np.isnan(value) else f"{value:.{2 if name == 'fewest' else 4 if name in ('diff', 'apart') else 1}f}"


if __name__ == "__main__":
    sys.exit(main())
