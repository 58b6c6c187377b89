#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Time a training step on one and on several GPUs of this machine, with whole weights (ddp) and split ones (fsdp).

Weights are random, since time does not depend on them; the batch is on the host as the loader makes it. Every process
has `--batch` samples; with `--shared` all together have them, and the losses of the same row are those of one process
except for dropout. Rows:

    plain      whole weights, gradients summed during the backward pass
    compiled   the same with compiled blocks
    graph      the same as one CUDA graph, the sums included
    fsdp       split weights, compiled blocks, one CUDA graph

One process trains without any exchange; its row `fsdp` is left out. Columns: processes, median [ms] of a step,
samples/s of all, ratio to one process with the same row (fsdp: to its best row), peak memory [GiB] of a GPU, loss of
the last step.

    python3 -m bench.distributed --processes 1 2 --parts head all --batch 32
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.train import make_batch
from gr00t_training.model.families import variants
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.plan import HOST_KEYS, make_plan
from gr00t_training.train.distributed import Processes, join
from gr00t_training.train.optimizer import make_optimizer
from gr00t_training.train.planned_batch import PlannedBatch
from gr00t_training.train.settings import TrainerSettings
from gr00t_training.train.step import GraphedStep, TrainStep, change_blocks
from gr00t_training.train.weights import TrainedWeights

ROWS = ("plain", "compiled", "graph", "fsdp")
PARTS = {"head": {"tune_visual": False}, "vision": {}, "all": {"tune_llm": True}}
SETTINGS = TrainerSettings()
WARM_UP_STEPS = 8


def main() -> None:
    """Parse, measure in processes of their own, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--model", default="n1_2b", choices=list(variants()))
    parser.add_argument("--parts", nargs="+", default=["head", "all"], choices=list(PARTS))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--batch", type=int, default=32, help="samples of each process")
    parser.add_argument("--shared", action="store_true", help="samples of all processes together")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit-s", type=float, default=600.0, help="time for each number of processes")
    parser.add_argument("--repeat", type=int, default=21)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)  # file of a measuring process
    arguments = parser.parse_args()
    if arguments.result:
        _measure_all(arguments)
        return
    print(
        f"{'model':8}{'trained':>8} {'row':9}{'processes':>10}{'ms':>9}{'samples/s':>11}{'ratio':>7}{'GiB':>7}", end=""
    )
    print(f"{'loss':>9}")
    single: dict[tuple[str, str], float] = {}
    for count in arguments.processes:
        for found in _launch(count, arguments.limit_s):
            part, row, rate = found["part"], found["row"], found["rate"]
            if count == 1:
                single[part, row] = rate
            best = max((value for (name, _), value in single.items() if name == part), default=float("nan"))
            ratio = rate / (best if row == "fsdp" else single.get((part, row), float("nan")))
            print(
                f"{arguments.model:8}{part:>8} {row:9}{count:>10}{found['ms']:>9.1f}{rate:>11.0f}{ratio:>7.2f}"
                f"{found['gib']:>7.1f}{found['loss']:>9.4f}",
                flush=True,
            )


def _launch(count: int, limit_s: float) -> list[dict[str, Any]]:
    """Measure with that many processes, for at most that long."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, *launcher, "-m", "bench.distributed", *sys.argv[1:], "--result", str(result)]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            code = process.wait()
        if code:
            print(f"{count} processes ended with code {code}; rows before that are shown", file=sys.stderr)
        return json.loads(result.read_text(encoding="utf-8")) if result.exists() else []


def _measure_all(arguments: argparse.Namespace) -> None:
    processes = join()
    device = processes.choose_device(arguments.device)
    rows = [row for row in arguments.rows if processes.size > 1 or row != "fsdp"]
    found = []
    for part, row in itertools.product(arguments.parts, rows):
        found.append(_measure(processes, device, part, row, arguments))
        if processes.is_main:
            arguments.result.write_text(json.dumps(found), encoding="utf-8")
    if processes.size > 1:
        torch.distributed.destroy_process_group()


def _measure(
    processes: Processes, device: torch.device, part: str, row: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    torch.manual_seed(0)
    config = variants()[arguments.model].config
    with device:
        model = Gr00tModel(config)
    model.set_trainable(**PARTS[part])
    model.train()
    is_cuda = device.type == "cuda"
    total = arguments.batch * (1 if arguments.shared else processes.size)
    count = total // processes.size
    batch = make_batch(config, total)
    TrainedWeights(model, [int(batch["embodiment_id"][0])], torch.bfloat16 if is_cuda else None)
    if row != "plain" and is_cuda:
        change_blocks(model, compiles=True)
    autocast = torch.bfloat16 if is_cuda else None
    exchange = processes.exchange(model, device, 0, "fsdp" if row == "fsdp" else "ddp", autocast)
    kind = GraphedStep if row in ("graph", "fsdp") and is_cuda else TrainStep
    step = kind(
        model,
        make_optimizer(model, SETTINGS),
        max_grad_norm=SETTINGS.max_grad_norm,
        autocast=autocast,
        exchange=exchange,
    )
    batch = {name: values.chunk(processes.size)[processes.rank] for name, values in batch.items()}
    plan = make_plan(config, batch, torch.device("cpu"), model.backbone.language.embed_tokens.weight.dtype)
    planned = PlannedBatch({name: x for name, x in batch.items() if name not in HOST_KEYS}, plan)
    planned = planned.pin_memory() if is_cuda else planned
    torch.manual_seed(0)
    times, loss = [], float("nan")
    for number in range(WARM_UP_STEPS + arguments.repeat):
        if number == WARM_UP_STEPS and is_cuda:
            torch.cuda.reset_peak_memory_stats()
        _wait(device)
        start_s = time.perf_counter()
        if exchange:
            exchange.start(number)
        loss = step([planned])[0]
        _wait(device)
        times.append(time.perf_counter() - start_s)
    step.check(len(times))
    median_s = statistics.median(times[WARM_UP_STEPS:])
    peak = torch.cuda.max_memory_reserved() / 2**30 if is_cuda else 0.0
    found = {"part": part, "row": row, "ms": 1e3 * median_s, "rate": processes.size * count / median_s, "gib": peak}
    found["loss"] = float(loss)
    del model, step, exchange
    torch._dynamo.reset()
    if is_cuda:
        torch.cuda.empty_cache()
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
