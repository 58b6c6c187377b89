#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure what the policy node adds to its model: three raw 640x480 cameras at 30 Hz, joints at 500 Hz, on two cores.

The publishers of `bench/record.py` and the real `policy_node` run as separate processes on the same cores. The
model runs behind a policy server that takes a fixed time, as one on a GPU leaves the host's cores alone. At the same
time a plain process makes the bare call at the same pace, to a separate server, with observations of the same size:
so both calls meet the same work on the machine, and what the node's takes longer is the node's doing. With `--local` a
compact policy of random weights computes in the node, on these very cores, and the bare calls come afterwards, while
the node has no task but continues to receive. The node reports its stages itself.

    overhead    query (from the moment the observation is begun to the published chunk) less the bare call, quantile by
                quantile
    cpu         share of one core; of the node also while it only receives

    python3 -m bench.policy_node --seconds 30 --json policy_node.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from gr00t_msgs.msg import PolicyStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger

from bench.record import JOINTS, Role, cpu_s, write_topic_map
from gr00t_bringup.robots import fastdds_profile
from gr00t_policy_node.timing import Quantiles, RecentValues, Stage, format_table
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_test_support.builders import make_checkpoint
from gr00t_test_support.ros.nodes import call, parameter_arguments
from gr00t_test_support.waiting import eventually
from gr00t_training.embodiment import Embodiment
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.client import PolicyClient
from gr00t_training.serve.server import PolicyServer, ServerSettings
from gr00t_training.types import ActionChunk, Observation

INSTRUCTION = "put the red cube into the box"
LIMITS = {"min": -3.0, "max": 3.0, "max_velocity": 1.0}
NUM_OBSERVATIONS = 8  # made beforehand for the bare calls
READY = "ready"
IDLE_S = 5.0
CHECKPOINT, ADDRESS = "checkpoint", "server.txt"  # in the folder of the run


def main() -> int:
    """Measure once and print the tables; return 1 when the overhead is above the target."""
    parser = argparse.ArgumentParser(description="Measure the policy node next to the bare call of its model.")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each of both runs [s], at most 60")
    parser.add_argument("--joint-hz", type=float, default=500.0, help="rate of the joints [Hz]")
    parser.add_argument("--cameras", type=int, default=3, choices=range(1, 4), help="number of cameras")
    parser.add_argument("--control-hz", type=float, default=100.0, help="rate of the commands [Hz]")
    parser.add_argument("--period", type=float, default=0.2, help="time between queries [s]")
    parser.add_argument("--inference-ms", type=float, default=100.0, help="time that the server takes [ms]")
    parser.add_argument("--local", action="store_true", help="compute in the node instead, with a compact policy")
    parser.add_argument("--threads", type=int, default=1, help="threads of a local model")
    parser.add_argument("--cores", type=int, default=2, help="cores for everything together")
    parser.add_argument("--target-ms", type=float, default=5.0, help="largest p95 of the overhead [ms]")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)  # folder: this process makes the bare calls
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)  # folder: this process is the server
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(dataclasses.asdict(call_bare(options.bare, options))))
        return 0
    if options.serve:
        serve(options.serve, options)
        return 0
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # inherited by all processes
    with tempfile.TemporaryDirectory(prefix="bench_policy_node_") as folder:
        result = measure(Path(folder), options)
    print_tables(result, options.target_ms)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["overhead"]["p95"] <= options.target_ms / 1e3 else 1


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run all processes and return their output."""
    domain = next_domain()
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(fastdds_profile())
    publishing = argparse.Namespace(**vars(options), reliability="best_effort", depth=None, subscribers=1)
    topics = write_topic_map(folder, publishing)
    with ExitStack() as running:
        parameters = _node_parameters(folder, topics, running, options)
        bare = running.enter_context(_Own("--bare", folder, options))
        peer = running.enter_context(spinning_node("bench", domain))
        node = running.enter_context(NodeProcess("gr00t_policy_node.ros.policy_node", *parameters, domain=domain))
        statuses: list[PolicyStatus] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        peer.create_subscription(PolicyStatus, "/policy/status", statuses.append, latched)
        eventually(lambda: statuses or node.process.poll(), lambda: f"the policy node; its log: {node.output}")
        if node.process.poll():
            raise SystemExit(node.output)
        publishers = [running.enter_context(Role(role, domain, publishing)) for role in ("cameras", "joints")]
        eventually(
            lambda: statuses[-1].state == PolicyStatus.RUNNING,
            lambda: f"a running policy: {statuses[-1].reason}; its log: {node.output}",
        )
        bare.wait_ready()
        output = ""
        if options.local:
            busy, _ = _cpu_share(node, lambda: time.sleep(options.seconds))
        else:
            busy, output = _cpu_share(node, bare.run)
        status = statuses[-1]
        call(peer, Trigger, "/policy/stop", Trigger.Request())
        call(peer, Trigger, "/policy/reset", Trigger.Request())
        if options.local:
            idle, output = _cpu_share(node, bare.run)
        else:
            idle, _ = _cpu_share(node, lambda: time.sleep(IDLE_S))
        for publisher in publishers:
            publisher.finish()
    bare_call = Quantiles(**json.loads(output))
    stages = [Quantiles(s.name, s.count, s.p50, s.p95, s.p99, s.worst) for s in status.stages]
    query = next(stage for stage in stages if stage.name == Stage.QUERY.value)
    return {
        "seconds": options.seconds,
        "cores": options.cores,
        "control_hz": options.control_hz,
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "bare_call": dataclasses.asdict(bare_call),
        "overhead": {share: getattr(query, share) - getattr(bare_call, share) for share in ("p50", "p95", "p99")},
        "cpu": {"running": busy, "receiving": idle},
        "chunks": status.chunks,
        "holds": {hold.name: hold.count for hold in status.holds},
        "streams": {stream.name: {"rate": stream.rate, "dropped": stream.dropped} for stream in status.streams},
    }


def _node_parameters(folder: Path, topics: Path, running: ExitStack, options: argparse.Namespace) -> list[str]:
    """Make checkpoint or servers, and return the node's arguments."""
    (folder / "limits.yaml").write_text(json.dumps({"joints": dict.fromkeys(JOINTS, LIMITS)}))
    if options.local:
        model: dict[str, Any] = {"checkpoint_path": make_checkpoint(folder / CHECKPOINT, load_topic_map(topics)[1])}
    else:
        servers = [running.enter_context(_Own("--serve", folder, options)) for _ in range(2)]
        model = {"server": servers[0].read_line()}
        (folder / ADDRESS).write_text(servers[1].read_line())
    return parameter_arguments(
        **model,
        topics_file=topics,
        limits_file=folder / "limits.yaml",
        instruction=INSTRUCTION,
        device="cpu",
        num_threads=options.threads,
        control_rate_hz=options.control_hz,
        inference_period_s=options.period,
        autostart=True,
    )


def call_bare(folder: Path, options: argparse.Namespace) -> Quantiles:
    """Ask the same policy at the pace of the node, without a node."""
    embodiment = load_topic_map(folder / "topics.yaml")[1]
    durations = RecentValues()
    with ExitStack() as opened:
        if options.local:
            policy: Any = _local_policy(folder, options.threads)
        else:
            host, port = (folder / ADDRESS).read_text().split(":")
            policy = opened.enter_context(PolicyClient(embodiment, host, int(port)))
        asked = [_made_up(embodiment, seed) for seed in range(NUM_OBSERVATIONS)]
        policy.infer(asked[0])  # the first call connects, or warms up
        print(READY, flush=True)
        sys.stdin.readline()
        end_s, number = time.monotonic() + options.seconds, 0
        while time.monotonic() < end_s:
            started_s = time.perf_counter()
            policy.infer(asked[number % NUM_OBSERVATIONS])
            durations.add(time.perf_counter() - started_s)
            number += 1
            time.sleep(max(0.0, started_s + options.period - time.perf_counter()))
    return durations.describe("bare call")


def _made_up(embodiment: Embodiment, seed: int) -> Observation:
    rng = np.random.default_rng(seed)
    images = {
        key: rng.integers(0, 256, (1, video.height, video.width, 3), np.uint8)
        for key, video in embodiment.video.items()
    }
    state = {key: rng.uniform(-1, 1, (1, vector.dim)) for key, vector in embodiment.state.items()}
    return Observation(images, state, INSTRUCTION)


def serve(folder: Path, options: argparse.Namespace) -> None:
    """Serve a policy that takes a fixed time, until interrupted; prints its address."""
    policy = TimedPolicy(load_topic_map(folder / "topics.yaml")[1], options.inference_ms / 1e3)
    with PolicyServer(policy, ServerSettings(port=0)) as server:
        signal.signal(signal.SIGTERM, lambda number, frame: server.stop())
        print(f"127.0.0.1:{server.port}", flush=True)
        server.serve()


class TimedPolicy(PolicyLike):
    """Holds the pose, and takes its time over it."""

    def __init__(self, embodiment: Embodiment, duration_s: float) -> None:
        """Take `duration_s` for every answer."""
        self.embodiment = embodiment
        self._duration_s = duration_s

    def infer_batch(self, observations: Sequence[Observation], continuations: Any = None) -> list[ActionChunk]:
        """Answer with the state observed."""
        end_s = time.perf_counter() + self._duration_s
        horizon, step_ns = self.embodiment.action_horizon, self.embodiment.step_ns
        chunks = []
        for observation in observations:
            rows = {key: np.repeat(observation.state[key][-1:], horizon, 0) for key in self.embodiment.action_keys}
            chunks.append(ActionChunk(rows, observation.stamp_ns, step_ns))
        time.sleep(max(0.0, end_s - time.perf_counter()))
        return chunks


class _Own:
    """This script as another process."""

    def __init__(self, role: str, folder: Path, options: argparse.Namespace) -> None:
        arguments = [f"--seconds={options.seconds}", f"--period={options.period}", f"--threads={options.threads}",
                     f"--inference-ms={options.inference_ms}", *(["--local"] if options.local else [])]  # fmt: skip
        command = [sys.executable, "-m", "bench.policy_node", role, str(folder), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> _Own:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def read_line(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def wait_ready(self) -> None:
        """Wait until it could begin."""
        if self.read_line() != READY:
            raise SystemExit("the process of the bare calls has ended; its error is above")

    def run(self) -> str:
        """Let it begin, and return what it prints until its end."""
        return self._process.communicate("go\n")[0]


def _local_policy(folder: Path, threads: int) -> Any:
    import torch

    from gr00t_training.policy.policy import Policy

    torch.set_num_threads(threads)
    policy = Policy.from_checkpoint(folder / CHECKPOINT, device="cpu")
    policy.warm_up(INSTRUCTION)
    return policy


def _cpu_share(node: NodeProcess, wait: Callable[[], Any]) -> tuple[float, Any]:
    """Return the share of a core that a process takes while `wait` runs, and what that returns."""
    before_s, started_s = cpu_s(node.process.pid), time.monotonic()
    result = wait()
    return (cpu_s(node.process.pid) - before_s) / (time.monotonic() - started_s), result


def print_tables(result: dict[str, Any], target_ms: float) -> None:
    """Print the results for people."""
    print(f"{result['seconds']:.0f} s on {result['cores']} cores, {result['chunks']} chunks, times in ms")
    stages = [Quantiles(**stage) for stage in (*result["stages"], result["bare_call"])]
    print(format_table(stages, scale=1e3))
    overhead = {share: 1e3 * value for share, value in result["overhead"].items()}
    print(f"{'overhead':32}" + "".join(f"{value:>10.2f}" for value in overhead.values()))
    judged = "within" if overhead["p95"] <= target_ms else "ABOVE"
    print(f"overhead at p95 {overhead['p95']:.2f} ms: {judged} the target of {target_ms:g} ms")
    lateness = next(stage for stage in stages if stage.name == Stage.TICK_LATENESS.value)
    print(f"control at {result['control_hz']:g} Hz: ticks late by {1e3 * lateness.p99:.2f} ms at p99")
    print(f"cpu of the node: {result['cpu']['running']:.0%}, {result['cpu']['receiving']:.0%} while it only receives")
    print(f"holds: {', '.join(f'{name} {count}' for name, count in result['holds'].items())}")
    for name, stream in result["streams"].items():
        print(f"{name}: {stream['rate']:.1f} Hz, {stream['dropped']} dropped")


if __name__ == "__main__":
    sys.exit(main())
