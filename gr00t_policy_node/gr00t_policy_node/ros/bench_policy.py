# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_bench_policy`: replay a bag through the real policy node and print what it reports.

The node runs as a separate process, in a ROS domain that nothing else uses and in shadow mode: it infers and limits
as on the robot, but sends no commands. The bag is played in real time, its stamps moved to the present, so that
ages and latencies are those of a robot that sends what was recorded. ROS arguments set further parameters of the node:

    gr00t_bench_policy BAG --checkpoint checkpoint --topics topics.yaml --limits limits.yaml --instruction "lift it" \\
        --ros-args -p execution:=real_time_chunking
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from gr00t_msgs.msg import Count, PolicyStatus
from gr00t_msgs.msg import Quantiles as QuantilesMsg
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from gr00t_policy_node.observing import input_map
from gr00t_policy_node.timing import Quantiles, Stage, format_table
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_recorder.ros.play_bag import BagPlayer
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError, Gr00tError
from gr00t_training.io.text import check_instruction

EXIT_NEVER_RAN = 1
START_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 1800.0  # weights may come over a network
SUBSCRIBE_TIMEOUT_S = 30.0
STATUS_PERIODS_S = 2.5  # after which the 1 Hz status has reported everything
STATUS_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PLAIN_COUNTS = (
    "refused_observations",
    "refused_chunks",
    "stale_chunks",
    "limited_commands",
    "violations",
    "underruns",
)
STATE_NAMES = {
    PolicyStatus.IDLE: "idle",
    PolicyStatus.RUNNING: "running",
    PolicyStatus.HOLDING: "holding",
    PolicyStatus.STOPPED: "stopped",
}


@dataclass(frozen=True)
class Replay:
    """What a node reported during a bag."""

    duration_s: float  # of the bag
    chunks: int
    state_s: dict[str, float]  # state -> how long it lasted
    reasons: dict[str, int]  # of holds and stops, as reported -> how often
    stages: tuple[Quantiles, ...]  # [s], of the last minute
    jitter: tuple[Quantiles, ...]
    counts: dict[str, dict[str, int]]  # "holds", "stops", "clamps", "gates" and "others" -> name -> count

    @property
    def has_run(self) -> bool:
        """Whether the policy ever moved the robot, or would have."""
        return self.state_s.get("running", 0.0) > 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay a bag, print the table and return the exit code: 0, 1 when the policy never ran, 2 after an error."""
    return run_command("gr00t_bench_policy", lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = CommandParser(
        prog="gr00t_bench_policy",
        description="Replay a bag through the policy node in shadow mode and print stages, ages, holds and smoothness.",
        epilog="Further parameters of the node: --ros-args -p name:=value or --params-file FILE.",
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="Bag folder or storage file.")
    source = parser.add_mutually_exclusive_group(required=True)
    add(parser, "--checkpoint", group=source)
    source.add_argument("--server", metavar="HOST:PORT", help="Policy server.")
    add(parser, "--topics", required=True)
    parser.add_argument("--limits", type=Path, required=True, metavar="FILE", help="Joint limits (YAML).")
    add(parser, "--instruction", required=True)
    add(parser, "--device")
    text = "Write the results to this file, too."
    parser.add_argument("--json-file", type=Path, metavar="FILE", help=text)
    parser.add_old_spelling("--json", "--json-file")
    options, ros_args = parse_with_ros_args(parser, arguments)
    check_instruction(options.instruction, "--instruction")
    replay = replay_bag(options, ros_args)
    print(format_replay(replay))
    if options.json_file:
        options.json_file.write_text(json.dumps(dataclasses.asdict(replay), indent=1) + "\n")
    if replay.has_run:
        return 0
    print("gr00t_bench_policy: the policy never ran; the reasons are above", file=sys.stderr)
    return EXIT_NEVER_RAN


def replay_bag(options: argparse.Namespace, ros_args: Sequence[str] = ()) -> Replay:
    """Run node and player; `options` as `main` parses them, `ros_args` for the node.

    Raises:
        Gr00tError: bag, topic map or limits cannot be read or do not fit, or the node ends or cannot be configured.
    """
    topics = input_map(load_topic_map(options.topics)[0])
    names = sorted({f"/{stream.topic.lstrip('/')}" for stream in topics.streams.values()})
    domain = next_domain()
    with tempfile.TemporaryDirectory(prefix="gr00t_bench_policy_") as folder, Bag(options.bag) as bag:
        parameters = Path(folder) / "parameters.yaml"
        parameters.write_text(json.dumps({"/**": {"ros__parameters": _parameters(options)}}))
        arguments = [*(ros_args or ["--ros-args"]), "--params-file", parameters]
        rclpy.init(args=[], domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        try:
            player = BagPlayer(bag, names, is_now=True)
            with (
                NodeProcess("gr00t_policy_node.ros.policy_node", *arguments, domain=domain) as process,
                spinning_node("gr00t_bench_policy", domain) as node,
            ):
                try:
                    return _Bench(process, node).run(player)
                except Gr00tError as error:  # raised from here it would bring the node's whole log along
                    failure = error
            raise failure
        finally:
            try_shutdown()


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    model = {"server": options.server} if options.server else {"checkpoint_path": options.checkpoint}
    return {
        **model,
        "topics_file": str(options.topics),
        "limits_file": str(options.limits),
        "instruction": options.instruction,
        "device": options.device,
        "dry_run": True,
        "autostart": False,
        "use_sim_time": False,
    }


class _Bench:
    """One policy node, from its start to the last status."""

    def __init__(self, process: NodeProcess, node: Node) -> None:
        self._process = process
        self._statuses: list[PolicyStatus] = []
        self._clock = node.get_clock()
        self._change = node.create_client(ChangeState, "/policy/change_state")
        node.create_subscription(PolicyStatus, "/policy/status", self._statuses.append, STATUS_QOS)

    def run(self, player: BagPlayer) -> Replay:
        """Configure, activate, play, deactivate."""
        self._wait(self._change.service_is_ready, START_TIMEOUT_S, "start")
        self._transit(Transition.TRANSITION_CONFIGURE, "not configured")
        player.wait_for_subscribers(SUBSCRIBE_TIMEOUT_S)
        start_s = self._now_s()
        self._transit(Transition.TRANSITION_ACTIVATE, "not activated")
        player.play(tail_s=0.0)
        end_s = self._now_s()
        self._transit(Transition.TRANSITION_DEACTIVATE, "not deactivated")
        until_s = self._now_s() + STATUS_PERIODS_S
        self._wait(lambda: bool(self._statuses) and _stamp_s(self._statuses[-1]) > until_s, START_TIMEOUT_S, "report")
        return _replay(list(self._statuses), start_s, end_s)

    def _transit(self, transition: int, failure: str) -> None:
        future = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self._wait(future.done, LOAD_TIMEOUT_S, "answer")
        response = future.result()
        if response is None or not response.success:
            raise ConfigError(self._failure_text(failure))

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            if self._process.process.poll() is not None:
                raise ConfigError(self._failure_text("the policy node has ended"))
            if time.monotonic() > end_s:
                raise ConfigError(self._failure_text(f"the policy node did not {what} within {timeout_s:g} s"))
            time.sleep(0.02)

    def _failure_text(self, failure: str) -> str:
        """Return the node's own words about a failure, or its last ones."""
        lines = [line for line in self._process.output.splitlines() if line.strip()]
        found = next((line for line in reversed(lines) if f"{failure}:" in line), None)
        return f"policy node: {found.partition(': ')[2]}" if found else "\n".join([failure, *lines[-10:]])

    def _now_s(self) -> float:
        return self._clock.now().nanoseconds / 1e9


def _replay(statuses: Sequence[PolicyStatus], start_s: float, end_s: float) -> Replay:
    last = statuses[-1]
    during = [status for status in statuses if _stamp_s(status) < end_s]
    state_s: dict[str, float] = {}
    for status, next_s in zip(during, [*map(_stamp_s, during[1:]), end_s], strict=True):
        name = STATE_NAMES[status.state]
        state_s[name] = state_s.get(name, 0.0) + max(0.0, next_s - max(_stamp_s(status), start_s))
    others = {name.replace("_", " "): getattr(last, name) for name in PLAIN_COUNTS}
    counts = {kind: _counts(getattr(last, kind)) for kind in ("holds", "stops", "clamps", "gates")}
    return Replay(
        duration_s=end_s - start_s,
        chunks=last.chunks,
        state_s=state_s,
        reasons=_reasons([status for status in during if _stamp_s(status) > start_s]),
        stages=_quantiles(list(last.stages)),
        jitter=_quantiles(list(last.jitter)),
        counts={**counts, "others": others},
    )


def _reasons(statuses: Sequence[PolicyStatus]) -> dict[str, int]:
    """Return why the node held or stopped; reasons that differ in numbers only count as the first of them."""
    texts: dict[str, str] = {}
    counts: dict[str, int] = {}
    before = ""
    for status in statuses:
        is_held = status.state in (PolicyStatus.HOLDING, PolicyStatus.STOPPED)
        form = "".join(c for c in status.reason if not c.isdigit()) if is_held else ""
        if form and form != before:
            text = texts.setdefault(form, status.reason)
            counts[text] = counts.get(text, 0) + 1
        before = form
    return counts


def format_replay(replay: Replay) -> str:
    """Return the results for people."""
    shares = {name: duration_s / replay.duration_s for name, duration_s in replay.state_s.items()}
    states = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0)
    late = next((found for found in replay.stages if found.name == Stage.TICK_LATENESS.value), Quantiles(""))
    head = f"{replay.duration_s:.1f} s of the bag: {replay.chunks} chunks ({replay.chunks / replay.duration_s:.1f}/s)"
    lines = [
        f"{head}, {states or 'no state reported'}",
        f"control ticks late by {1e3 * late.p99:.2f} ms at p99, {1e3 * late.worst:.2f} ms at worst",
        "",
        "stages and ages of the last minute [ms]",
        format_table(replay.stages, scale=1e3),
        "",
        "smoothness of the chunks",
        format_table(replay.jitter),
        "",
        *(f"{kind:8}{_count_text(replay.counts[kind])}" for kind in ("holds", "stops", "gates", "clamps", "others")),
    ]
    lines += ["", *(f"{count:>4} x {reason}" for reason, count in replay.reasons.items())] if replay.reasons else []
    return "\n".join(lines)


def _count_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _counts(counts: Sequence[Count]) -> dict[str, int]:
    return {each.name: each.count for each in counts}


def _quantiles(found: Sequence[QuantilesMsg]) -> tuple[Quantiles, ...]:
    return tuple(Quantiles(each.name, each.count, each.p50, each.p95, each.p99, each.worst) for each in found)


def _stamp_s(status: PolicyStatus) -> float:
    return status.header.stamp.sec + status.header.stamp.nanosec / 1e9


if __name__ == "__main__":
    sys.exit(main())
