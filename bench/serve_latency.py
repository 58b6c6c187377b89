#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Time one robot's query to a policy server without the policy: two raw cameras of 640x480, median and 99th percentile.

    python3 -m bench.serve_latency                          # this checkout
    python3 -m bench.serve_latency --against ../other       # ratio to another checkout, in alternating rounds
    chrt -f 10 python3 -m bench.serve_latency               # where others use the machine

Encoding and decoding are timed alone; the round trip is that of a client in its own process, over loopback, with a
policy that answers at once, and asks every `PERIOD_S` as a robot does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import REPOSITORY

WARM_UP = 20
PERIOD_S = 0.03


def main() -> int:
    """Measure, and print milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=300, help="of a round (default: 300)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(options.queries)))
        return 0
    checkouts = [REPOSITORY, *([options.against.resolve()] if options.against else [])]
    rounds: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
    for _ in range(options.rounds):
        for checkout in checkouts:
            rounds[checkout].append(_round(checkout, options.queries))
    ours = _medians(rounds[REPOSITORY])
    theirs = _medians(rounds[checkouts[-1]])
    print(f"{'':<16}{'ms':>9}" + (f"{'other ms':>11}{'ratio':>8}" if options.against else ""))
    for name, value in ours.items():
        compared = f"{theirs[name]:>11.3f}{value / theirs[name]:>8.2f}" if options.against else ""
        print(f"{name:<16}{value:>9.3f}{compared}")
    return 0


def _round(checkout: Path, queries: int) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "gr00t_training")}
    command = [sys.executable, "-m", "bench.serve_latency", "--measure", "--queries", str(queries)]
    done = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _serve(ports: Any) -> None:
    from bench.fixed_policy import FixedPolicy, two_camera_arm
    from gr00t_training.serve.server import PolicyServer, ServerSettings

    with PolicyServer(FixedPolicy(two_camera_arm()), ServerSettings(port=0)) as server:
        ports.put(server.port)
        server.serve()


def _measure(queries: int) -> dict[str, float]:
    import numpy as np

    from bench.fixed_policy import make_observation, two_camera_arm
    from gr00t_training.serve.client import PolicyClient
    from gr00t_training.serve.images import ImageForm
    from gr00t_training.serve.messages import write_request
    from gr00t_training.serve.wire import Wire, pack, unpack

    embodiment = two_camera_arm()
    observation = make_observation(embodiment)
    data = write_request(
        [observation],
        Wire.N1_7,
        embodiment,
        language="annotation.human.task_description",
        state_dtype=np.float64,
        images=ImageForm.RAW,
    )
    request = {"endpoint": "get_action", "data": data}
    message = pack(request, Wire.N1_7)
    found = {
        "encode": _timed(lambda: pack(request, Wire.N1_7), queries)[1],
        "decode": _timed(lambda: unpack(message), queries)[1],
    }
    found["encode + decode"] = found["encode"] + found["decode"]
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    server = context.Process(target=_serve, args=(ports,), daemon=True)
    server.start()
    try:
        with PolicyClient(embodiment, port=ports.get(timeout=60), timeout_s=30.0) as client:
            for name, value in zip(
                ("p10", "p50", "p99"), _timed(lambda: client.infer(observation), queries, PERIOD_S), strict=True
            ):
                found[f"round trip {name}"] = value
    finally:
        server.terminate()
        server.join()
    return found


def _timed(call: Callable[[], Any], count: int, pause_s: float = 0.0) -> tuple[float, float, float]:
    """Return 10th, 50th and 99th percentile [ms]."""
    times = []
    for number in range(count + WARM_UP):
        time.sleep(pause_s)
        start_s = time.perf_counter()
        call()
        if number >= WARM_UP:
            times.append(1000 * (time.perf_counter() - start_s))
    times.sort()
    return tuple(times[int(share * (len(times) - 1))] for share in (0.1, 0.5, 0.99))  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
