# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`gr00t evaluate --bag`, also `gr00t_bench_policy`: judge a policy on a bag, through the real policy node.

The node runs as a separate process, in a ROS domain that nothing else uses and in shadow mode: it infers and limits
as on the robot, but sends no commands. The bag is played in real time, its stamps moved to the present, so that
ages and latencies are those of a robot that sends what was recorded. Its chunks are compared with what the
demonstration did. ROS arguments set further parameters of the node:

    gr00t evaluate --bag BAG --checkpoint checkpoint --topics topics.yaml --limits limits.yaml --output evaluation \\
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

import numpy as np
import rclpy
from gr00t_msgs.msg import ActionChunk as ActionChunkMsg
from gr00t_msgs.msg import Count, PolicyStatus
from gr00t_msgs.msg import Quantiles as QuantilesMsg
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from rclpy.utilities import try_shutdown
from std_msgs.msg import String

from gr00t_policy_node.observing import input_map
from gr00t_policy_node.ros.task_server import LATCHED
from gr00t_policy_node.shadow.comparing import ShadowChunk, compare
from gr00t_policy_node.shadow.replay import Replay, findings, format_replay, sections
from gr00t_policy_node.timing import Quantiles
from gr00t_recorder.bag.boundaries import absolute_topic
from gr00t_recorder.bag.demonstrations import RecordedEpisode, read_demonstrations
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_recorder.ros.play_bag import BagPlayer
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_recorder.topics.bindings import TopicMap, load_topic_map
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command, shown_name
from gr00t_training.cli.parser import CommandParser
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, DatasetError, Gr00tError
from gr00t_training.io.text import check_instruction
from gr00t_training.judge.judging import baseline_errors, judge_answers
from gr00t_training.judge.output import PAGE_FILE, REPORT_FILE, exit_code, lines, write_page, write_report
from gr00t_training.judge.page import judgement_page, plain
from gr00t_training.train.output import make_folder

NAME = "gr00t_bench_policy"
EXIT_NEVER_RAN = 1
START_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 1800.0  # weights may come over a network
SUBSCRIBE_TIMEOUT_S = 30.0
STATUS_PERIODS_S = 2.5  # after which the 1 Hz status has reported everything
STATUS_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
CHUNK_DEPTH = 100
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay a bag and print the table.

    Returns:
        Exit code: 0, 1 when the policy never ran or for a verdict that `--fail-on` names, 2 after an error.
    """
    return run_command(NAME, lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = CommandParser(
        prog=NAME,
        description="Judge a policy on a bag: play it to the policy node in shadow mode, compare the chunks with the "
        "demonstration, and print stages, ages, holds and smoothness.",
        epilog="Further parameters of the node: --ros-args -p name:=value or --params-file FILE.",
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="Bag folder or storage file.")
    source = parser.add_mutually_exclusive_group(required=True)
    add(parser, "--checkpoint", group=source)
    source.add_argument("--server", metavar="HOST:PORT", help="Policy server.")
    add(parser, "--topics", required=True)
    parser.add_argument("--limits", type=Path, required=True, metavar="FILE", help="Joint limits (YAML).")
    add(parser, "--instruction", "Default: the tasks of the bag's episodes.")
    add(parser, "--device")
    add(parser, "--fail-on")
    add(parser, "--output", f"{PAGE_FILE} and {REPORT_FILE}.")
    options, ros_args = parse_with_ros_args(parser, arguments)
    if options.instruction:
        check_instruction(options.instruction, "--instruction")
    if options.output:
        make_folder(options.output)
    topic_map, embodiment = load_topic_map(options.topics)
    with Bag(options.bag) as bag:
        demonstrated = _demonstrations(bag, topic_map, embodiment, options.instruction)
        replay, chunks = replay_bag(bag, input_map(topic_map), demonstrated.episodes, options, ros_args)
    print(format_replay(replay))
    name = str(options.checkpoint or options.server)
    report: dict[str, Any] = {"node": dataclasses.asdict(replay)}
    compared, judgements = compare(embodiment, demonstrated.episodes, chunks), []
    if compared is None:
        why = demonstrated.fault or "no chunk lies within an episode"
        print(f"\nnot compared with the demonstration: {why}")
        report["not_compared"] = why
    else:
        recording, answers = compared
        chunk_s = embodiment.action_horizon / embodiment.fps
        others = list(findings(replay, chunk_s))
        judgement = judge_answers(recording, name, answers, baseline_errors(recording), others)
        judgements.append(judgement)
        print("\n".join(lines(judgement)))
        report["judgements"] = [plain(judgement, recording)]
        if options.output:
            subject = f"{options.bag.resolve().name}: may the policy move the robot?"
            page = judgement_page([judgement], recording, subject, sections=sections(replay))
            print(f"saved {write_page(options.output, page)}")
    if options.output:
        write_report(options.output, report)
    if replay.has_run:
        return exit_code(judgements, options.fail_on)
    print(f"{shown_name(NAME)}: the policy never ran; the reasons are above", file=sys.stderr)
    return EXIT_NEVER_RAN


@dataclass(frozen=True)
class _Demonstrated:
    """Episodes of a bag; none where it has no actions."""

    episodes: Sequence[RecordedEpisode]
    fault: str = ""  # why there are none


def _demonstrations(bag: Bag, topic_map: TopicMap, embodiment: Embodiment, instruction: str | None) -> _Demonstrated:
    """Read what the policy is compared with; without it, the node can still be measured with an instruction."""
    try:
        episodes = read_demonstrations(bag, topic_map, embodiment, instruction or "")
    except DatasetError as error:
        if not instruction:
            raise
        return _Demonstrated((), str(error))
    if not episodes and not instruction:
        raise DatasetError(f"{bag.path}: no episode is complete; pass --instruction to measure the node alone")
    return _Demonstrated(episodes, "" if episodes else f"{bag.path}: no episode is complete")


def replay_bag(
    bag: Bag,
    inputs: TopicMap,
    episodes: Sequence[RecordedEpisode],
    options: argparse.Namespace,
    ros_args: Sequence[str] = (),
) -> tuple[Replay, list[ShadowChunk]]:
    """Run node and player.

    Args:
        bag: open.
        inputs: what the policy needs of the topic map.
        episodes: whose tasks the node gets, unless an instruction is given.
        options: as `main` parses them.
        ros_args: for the node.

    Raises:
        Gr00tError: topic map, limits or bag cannot be read or do not fit, or the node ends or cannot be configured.
    """
    names = sorted({absolute_topic(stream.topic) for stream in inputs.streams.values()})
    domain = next_domain()
    tasks = [] if options.instruction else [(each.frames[0].tick_ns, each.task) for each in episodes]
    with tempfile.TemporaryDirectory(prefix="gr00t_shadow_") as folder:
        parameters = Path(folder) / "parameters.yaml"
        first = options.instruction or episodes[0].task
        parameters.write_text(json.dumps({"/**": {"ros__parameters": _parameters(options, first)}}))
        arguments = [*(ros_args or ["--ros-args"]), "--params-file", parameters]
        rclpy.init(args=[], domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        try:
            player = BagPlayer(bag, names, is_now=True)
            with (
                NodeProcess("gr00t_policy_node.ros.policy_node", *arguments, domain=domain) as process,
                spinning_node("gr00t_shadow", domain) as node,
            ):
                try:
                    return _Shadow(process, node, tasks).run(player)
                except Gr00tError as error:  # raised from here it would bring the node's whole log along
                    failure = error
            raise failure
        finally:
            try_shutdown()


def _parameters(options: argparse.Namespace, instruction: str) -> dict[str, Any]:
    model = {"server": options.server} if options.server else {"checkpoint_path": options.checkpoint}
    return {
        **model,
        "topics_file": str(options.topics),
        "limits_file": str(options.limits),
        "instruction": instruction,
        "device": options.device,
        "dry_run": True,
        "autostart": False,
        "use_sim_time": False,
    }


class _Shadow:
    """One policy node, from its start to the last status."""

    def __init__(self, process: NodeProcess, node: Node, tasks: Sequence[tuple[int, str]]) -> None:
        """Subscribe; `tasks`: log time [ns] from which the policy gets an instruction."""
        self._process = process
        self._statuses: list[PolicyStatus] = []
        self._chunks: list[ActionChunkMsg] = []
        self._tasks = list(tasks)
        self._task = tasks[0][1] if tasks else ""
        self._clock = node.get_clock()
        self._change = node.create_client(ChangeState, "/policy/change_state")
        node.create_subscription(PolicyStatus, "/policy/status", self._statuses.append, STATUS_QOS)
        node.create_subscription(ActionChunkMsg, "/policy/action_chunk", self._chunks.append, CHUNK_DEPTH)
        self._instruction = node.create_publisher(String, "/policy/instruction", LATCHED)

    def run(self, player: BagPlayer) -> tuple[Replay, list[ShadowChunk]]:
        """Configure, activate, play, deactivate."""
        self._wait(self._change.service_is_ready, START_TIMEOUT_S, "start")
        self._transit(Transition.TRANSITION_CONFIGURE, "not configured")
        player.wait_for_subscribers(SUBSCRIBE_TIMEOUT_S)
        start_s = self._now_s()
        self._transit(Transition.TRANSITION_ACTIVATE, "not activated")
        player.play(tail_s=0.0, before=self._instruct)
        end_s = self._now_s()
        self._transit(Transition.TRANSITION_DEACTIVATE, "not deactivated")
        until_s = self._now_s() + STATUS_PERIODS_S
        self._wait(lambda: bool(self._statuses) and _stamp_s(self._statuses[-1]) > until_s, START_TIMEOUT_S, "report")
        chunks = [_chunk(message, player.shift_ns) for message in list(self._chunks)]
        return _replay(list(self._statuses), start_s, end_s), chunks

    def _instruct(self, log_ns: int) -> None:
        """Give the task of the episode that has begun, if it is another one."""
        while self._tasks and self._tasks[0][0] <= log_ns:
            task = self._tasks.pop(0)[1]
            if task != self._task:
                self._task = task
                self._instruction.publish(String(data=task))

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


def _chunk(message: ActionChunkMsg, shift_ns: int) -> ShadowChunk:
    """Return a chunk with the times of the bag; `shift_ns`: from those to the message's."""
    start_ns = Time.from_msg(message.header.stamp).nanoseconds - shift_ns
    return ShadowChunk(
        rows=np.array(message.data, np.float64).reshape(message.horizon, -1),
        start_ns=start_ns,
        arrival_ns=start_ns + round(message.observation_latency * 1e9),
        step_ns=message.step.sec * 1_000_000_000 + message.step.nanosec,
    )


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


def _counts(counts: Sequence[Count]) -> dict[str, int]:
    return {each.name: each.count for each in counts}


def _quantiles(found: Sequence[QuantilesMsg]) -> tuple[Quantiles, ...]:
    return tuple(Quantiles(each.name, each.count, each.p50, each.p95, each.p99, each.worst) for each in found)


def _stamp_s(status: PolicyStatus) -> float:
    return status.header.stamp.sec + status.header.stamp.nanosec / 1e9


if __name__ == "__main__":
    sys.exit(main())
