#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Inject faults into a policy node's inputs and measure how soon the robot is held; exit 1 if a limit is exceeded.

    python3 -m bench.faults --repeat 3
    python3 -m bench.faults --only "camera stops" --only "server killed" --repeat 20 --json faults.json

Robot, policy server and policy node are separate processes. The robot publishes a camera at 30 Hz and joint states
at 100 Hz and follows the commands; the node commands at 100 Hz.

Times are taken where things happen, so that this program's own delays do not count: by the stamps of what the robot
published, the node's stamps of its status, and the time at which the middleware sent a message. The time to the hold
counts from the moment at which a node can know of the fault:

    an input that ceases, or has other names   stamp of its last good message + max_age_s of the topic map
    a message that cannot be used              when it was sent
    a request that is not answered             its arrival at the server + server_timeout_s
    an answer that cannot be used              when the server sent it
    a server that is killed                    when another connection to it breaks
    a stop                                     when it was sent
    a person's device that is killed           stamp of its last message + teleop_timeout_s
    a jump of the clock                        when the first message of the new time was sent

It counts to the first command that holds: that of the control tick whose status reports the hold or, where a message
stops the robot between two ticks, the next one. The limit is one control period and 10 ms. A killed policy node cannot
hold anything: counted is until its last command, which the robot's controller reaches within one control period and
then keeps, since every command is a separate point and ends there.

Also checked: the state, words of the reason, that the robot rests, that no step of a command (the whole fault and
the recovery) is longer than the velocity limit allows, and that the robot continues as documented: by itself, or
after a reset if the stop is latched.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gr00t_msgs.msg import PolicyStatus, TeleopTarget
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from bench.fault_rig import (
    CONTROL_HZ,
    JOINTS,
    LINK_TIMEOUT_S,
    MAX_VELOCITY,
    OPERATOR,
    SIZE,
    STEADY_S,
    TIMEOUT_S,
    Part,
    Rig,
    Sent,
)

PERIOD_S = 1.0 / CONTROL_HZ
LIMIT_S = PERIOD_S + 0.010
PAUSE_S = 10.0
JUMP_S = 5.0  # of the clock
BRAKING_S = 0.4  # a rest within the limits takes a third of this
RECOVERY_S = 2.0  # after the cause is removed
RUNNING, HOLDING, STOPPED = PolicyStatus.RUNNING, PolicyStatus.HOLDING, PolicyStatus.STOPPED
STATES = {PolicyStatus.IDLE: "idle", RUNNING: "running", HOLDING: "hold", STOPPED: "latched stop"}
Onset = Callable[[Rig], int]  # when a node could know [ns]; for halted processes called after the cause has ended


@dataclass(frozen=True)
class Fault:
    """Something that breaks, and what is promised then."""

    name: str
    inject: Callable[[Rig], Onset]
    fix: Callable[[Rig], int] | None  # removes the cause; returns when [ns]; None: it has passed by itself
    words: tuple[str, ...]  # one of them is in the reason
    then: str = ""  # in the reason of a stop that follows before the cause is removed
    is_stop: bool = False  # latched at once
    is_between_ticks: bool = False  # a callback decides, and the next tick commands
    rig: str = "server"  # of `RIGS`
    prepare: Callable[[Rig], None] | None = None  # what is not yet the fault

    @property
    def is_latched(self) -> bool:
        """Whether a reset is needed."""
        return self.is_stop or bool(self.then)

    @property
    def end(self) -> str:
        """State of the robot until the cause is removed."""
        return STATES[STOPPED] if self.is_stop else f"hold, then {STATES[STOPPED]}" if self.then else STATES[HOLDING]


RIGS: dict[str, dict[str, Any]] = {
    "server": {},
    "gr00t_serve": {"is_released": True, "silence_s": 120.0},  # it takes its time to load
    "clock": {"has_clock": True},
}


def at(time_ns: int) -> Onset:
    """Return a time that is known already."""
    return lambda rig: time_ns


def old(since_ns: int, *streams: str) -> Onset:
    """Return when the first of some streams gets too old, from their last good messages before `since_ns`."""

    def onset(rig: Rig) -> int:
        return min(rig.robot.ask("last_stamp", stream, since_ns) for stream in streams) + round(rig.max_age_s * 1e9)

    return onset


def bad(since_ns: int, stream: str) -> Onset:
    """Return when the first message of a stream after `since_ns` was sent."""
    return lambda rig: rig.robot.ask("first_sent", stream, since_ns)


def unanswered(rig: Rig) -> Onset:
    """Halt the server when the next request comes."""
    rig.server.send("pause")
    return at(rig.server.answer() + round(TIMEOUT_S * 1e9))


def answered_with_nan(rig: Rig) -> Onset:
    """Let the server answer with NaN."""
    rig.server.send("nan")
    return at(rig.server.answer())


def answer_well(rig: Rig) -> int:
    """Let the server answer as before."""
    rig.server.send("")
    return time.time_ns()


def kill_node(rig: Rig) -> Onset:
    """Kill the policy node."""
    killed_ns = time.time_ns()
    rig.node.process.kill()
    rig.node.process.wait()
    return at(killed_ns)


def kill_server(rig: Rig) -> Onset:
    """Kill the server; its memory is freed before its connections break, so another connection shows when they do."""
    with socket.create_connection(("127.0.0.1", rig.port)) as connection:
        rig.server.process.kill()
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1024):
                pass
        broken_ns = time.time_ns()
    rig.server.process.wait()
    return at(broken_ns)


def take_over(rig: Rig) -> None:
    """Let a person take over, and follow the person for a while."""
    rig.operator = Part("operator", str(rig.domain))
    rig.until(lambda: rig.statuses[-1].message.device, "a person has control")
    count = len(rig.targets) + round(STEADY_S * CONTROL_HZ)
    rig.until(lambda: len(rig.targets) > count, "targets of the person")


def kill_operator(rig: Rig) -> Onset:
    """Kill the device of the person in control."""
    rig.close_operator()

    def onset(rig: Rig) -> int:
        stamp = next(sent.message.header.stamp for sent in reversed(rig.targets) if sent.message.is_engaged)
        return stamp.sec * 10**9 + stamp.nanosec + round(LINK_TIMEOUT_S * 1e9)

    return onset


def disengage_operator(rig: Rig) -> int:
    """Say for the killed device that its person gives control back."""
    sent_ns = time.time_ns()
    rig.teleop_publisher.publish(TeleopTarget(source=OPERATOR, is_engaged=False))
    return sent_ns


def restart_server(rig: Rig) -> int:
    """Start the server again; return when it was ready."""
    rig.server = rig.start_server()
    return time.time_ns()


def restart_node(rig: Rig) -> int:
    """Start the node again and give it its task; return when it got that."""
    rig.node = rig.start_node()
    fixed_ns = time.time_ns()
    rig.instruct()
    return fixed_ns


def after_a_pause(go_on: Callable[[Rig], int]) -> Callable[[Rig], int]:
    """Wait until about `PAUSE_S` have passed since the fault."""

    def fix(rig: Rig) -> int:
        time.sleep(max(0.0, PAUSE_S - (time.monotonic() - rig.broken_s)))
        return go_on(rig)

    return fix


def stop_by_service(rig: Rig) -> Onset:
    """Call the stop service; its client is as old as the rig, since a new one takes its time to be known."""
    rig.until(rig.stop_client.service_is_ready, "the stop service is there")
    sent_ns = time.time_ns()
    rig.stop_client.call_async(Trigger.Request())
    return at(sent_ns)


def stop_by_topic(rig: Rig) -> Onset:
    """Publish a stop."""
    rig.until(rig.stop_publisher.get_subscription_count, "the node listens to the stop topic")
    sent_ns = time.time_ns()
    rig.stop_publisher.publish(Bool(data=True))
    return at(sent_ns)


FAULTS = (
    Fault(
        "camera stops",
        lambda rig: old(rig.robot.ask("send", "front", False), "front"),
        lambda rig: rig.robot.ask("send", "front", True),
        ("'front'",),
    ),
    Fault(
        "joint states stop",
        lambda rig: old(rig.robot.ask("send", "joints", False), "joints"),
        lambda rig: rig.robot.ask("send", "joints", True),
        ("'joints'",),
    ),
    Fault(
        "wrong joint names",
        lambda rig: old(rig.robot.ask("name", ["a", "b", "c", "d"]), "joints"),
        lambda rig: rig.robot.ask("name", [*JOINTS, "grip"]),
        ("a, b, c, d",),
    ),
    Fault(
        "NaN joint state",
        lambda rig: bad(rig.robot.ask("break_joint", True), "joints"),
        lambda rig: rig.robot.ask("break_joint", False),
        ("j1",),
    ),
    Fault(
        "image size changes",
        lambda rig: bad(rig.robot.ask("resize", 64, 48), "front"),
        lambda rig: rig.robot.ask("resize", *SIZE),
        ("48x64",),
    ),
    Fault(
        "publishers pause 10 s",
        lambda rig: old(rig.robot.pause(), "front", "joints"),
        after_a_pause(lambda rig: rig.robot.go_on()),
        ("'front'", "'joints'"),
    ),
    Fault("stop service", stop_by_service, None, ("stop service",), is_stop=True, is_between_ticks=True),
    Fault("stop topic", stop_by_topic, None, ("stop topic",), is_stop=True, is_between_ticks=True),
    Fault("NaN chunk", answered_with_nan, answer_well, ("not finite", "NaN")),
    Fault(
        "server pauses 10 s",
        unanswered,
        after_a_pause(lambda rig: rig.server.go_on()),
        ("no answer in time", "lost"),
        then="gave no chunk",
    ),
    Fault("server killed", kill_server, restart_server, ("lost",), rig="gr00t_serve"),
    Fault("clock jumps forward", lambda rig: at(rig.robot.ask("jump", JUMP_S)), None, ("old",), rig="clock"),
    Fault("clock jumps back", lambda rig: at(rig.robot.ask("jump", -JUMP_S)), None, ("clock",), rig="clock"),
    Fault("operator killed", kill_operator, disengage_operator, ("is silent",), prepare=take_over),
    Fault("policy node killed", kill_node, restart_node, ()),
)


# What happened, compared with what is promised.


@dataclass
class Outcome:
    """What one fault did."""

    fault: str
    end: str
    reason: str
    hold_s: float  # until the first command that holds; of a killed node: until its last command
    recovery_s: float  # from the end of the cause, or from the task after a reset
    step_rad: float  # longest of a joint's command
    problems: list[str]  # promises that were not kept, but for those of time
    delays: list[str]  # promises of time that were not kept


def measure(rig: Rig, fault: Fault) -> Outcome:
    """Inject a fault while the robot moves, check the reaction of the node, remove the fault, and check the recovery.

    Raises:
        AssertionError: the robot is not held, or does not continue.
    """
    rig.run()
    if fault.prepare is not None:
        fault.prepare(rig)
    moving, start = len(rig.commands) - round(STEADY_S * CONTROL_HZ), len(rig.statuses)
    rig.broken_s = time.monotonic()
    onset = fault.inject(rig)
    problems: list[str] = []
    delays: list[str] = []
    if rig.node.process.poll() is None:
        end, reason, held_ns = watch_hold(rig, fault, start, problems, delays)
    else:
        end, reason, held_ns = watch_silence(rig)
    fixed_ns = onset(rig) if fault.fix is None else fault.fix(rig)
    if fault.is_latched:
        fixed_ns = reset(rig, problems)
    hold_s = (held_ns - onset(rig)) / 1e9
    if hold_s > LIMIT_S:
        delays.append(f"held after {hold_s * 1e3:.1f} ms (limit {LIMIT_S * 1e3:.0f} ms)")
    recovery_s = (watch_recovery(rig, max(fixed_ns, held_ns), problems) - fixed_ns) / 1e9
    if recovery_s > RECOVERY_S:
        delays.append(f"continued after {recovery_s:.1f} s (limit {RECOVERY_S:g} s)")
    step_rad = longest_step(rig.commands[moving:])
    if step_rad > MAX_VELOCITY * PERIOD_S * (1 + 1e-9):
        problems.append(f"a step of {step_rad:.4f} rad (limit {MAX_VELOCITY * PERIOD_S:g} rad)")
    return Outcome(fault.name, end, reason, hold_s, recovery_s, step_rad, problems, delays)


def watch_hold(rig: Rig, fault: Fault, start: int, problems: list[str], delays: list[str]) -> tuple[str, str, int]:
    """Wait for the hold and what follows; return end, reason and when the first command that holds was sent [ns]."""
    status = rig.until(lambda: rig.first_status(start, lambda m: m.state != RUNNING), f"{fault.name}: a hold")
    end, reason = STATES[status.message.state], status.message.reason
    time.sleep(BRAKING_S + STEADY_S)
    commands = list(rig.commands)
    if fault.is_between_ticks:
        held_ns = next(sent.sent_ns for sent in commands if sent.sent_ns > status.sent_ns)
    else:
        held_ns = next(sent.sent_ns for sent in reversed(commands) if sent.sent_ns <= status.sent_ns)
    if not any(word in reason for word in fault.words):
        problems.append(f"the reason does not contain {' or '.join(map(repr, fault.words))}")
    if fault.fix is not None or fault.is_stop:
        rest = [sent for sent in commands if 0 <= (sent.sent_ns - held_ns) / 1e9 - BRAKING_S <= STEADY_S]
        if len(rest) < 0.8 * STEADY_S * CONTROL_HZ:
            delays.append(f"{len(rest)} commands in {STEADY_S} s of the hold")
        if len(rest) and np.ptp(positions(rest), axis=0).any():
            problems.append("does not rest")
    if fault.then:
        status = rig.until(lambda: rig.first_status(start, lambda m: m.state == STOPPED), f"{fault.name}: a stop")
        end, reason = f"{end}, then {STATES[STOPPED]}", f"{reason}; then: {status.message.reason}"
        if fault.then not in status.message.reason:
            problems.append(f"the stop's reason does not contain '{fault.then}'")
    if end != fault.end:
        problems.append(f"ended in {end}, expected {fault.end}")
    return end, reason, held_ns


def watch_silence(rig: Rig) -> tuple[str, str, int]:
    """Wait until a killed node's commands have ceased; return end, reason and when the last was sent [ns]."""
    time.sleep(BRAKING_S + STEADY_S)
    return "commands cease", "", rig.commands[-1].sent_ns


def reset(rig: Rig, problems: list[str]) -> int:
    """Check that a stop is latched, clear it and give the task again; return when [ns]."""
    time.sleep(STEADY_S)
    if rig.statuses[-1].message.state != STOPPED or not rig.instruct().error_code:
        problems.append("the stop was not latched")
    rig.call(Trigger, "reset")
    fixed_ns = time.time_ns()
    answer = rig.instruct()
    if answer.error_code:
        problems.append(f"no task after the reset: {answer.error_msg}")
    return fixed_ns


def watch_recovery(rig: Rig, after_ns: int, problems: list[str]) -> int:
    """Wait until the robot moves again; return when the node reported that it runs [ns]."""

    def running() -> Sent | None:
        return next((s for s in list(rig.statuses) if s.sent_ns > after_ns and s.message.state == RUNNING), None)

    status = rig.until(running, "the robot continues")
    count = len(rig.commands)
    rig.until(lambda: len(rig.commands) >= count + round(STEADY_S * CONTROL_HZ), "commands")
    if rig.statuses[-1].message.state != RUNNING or not np.ptp(positions(rig.commands[count:]), axis=0).any():
        problems.append("did not continue")
    return status.sent_ns


def positions(commands: Sequence[Sent]) -> np.ndarray:
    """Return the positions (K, 3) of commands."""
    return np.array([sent.message.points[0].positions for sent in commands])


def longest_step(commands: Sequence[Sent]) -> float:
    """Return the longest step of a joint from one command to the next [rad], over those that did not arrive here."""
    numbers = [sent.number or 0 for sent in commands]
    # the numbers of another publisher begin again
    gaps = [max(second - first, 1) for first, second in itertools.pairwise(numbers)]
    steps = np.abs(np.diff(positions(commands), axis=0)).max(axis=1)
    return float((steps / gaps).max())


# The table.


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, break, print."""
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=names, metavar="FAULT", help=f"one of: {', '.join(names)}")
    parser.add_argument("--repeat", type=int, default=1, help="times each fault is tried (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write every outcome to this file")
    options = parser.parse_args(arguments)
    chosen = [fault for fault in FAULTS if fault.name in (options.only or names)]
    outcomes: list[Outcome] = []
    print(f"control {CONTROL_HZ:g} Hz, limit to the hold {LIMIT_S * 1e3:g} ms; each fault {options.repeat} times")
    print(f"{'':24}{'time to the hold [ms]':>24}{'recovery':>10}{'step':>9}")
    print(f"{'fault':24}{'p50':>8}{'p99':>8}{'max':>8}{'max [s]':>10}{'[rad]':>9}  end and reason")
    for kind in RIGS:
        faults = [fault for fault in chosen if fault.rig == kind]
        if not faults:
            continue
        with running_rig(kind) as rig:
            for fault in faults:
                found = [measure(rig, fault) for _ in range(options.repeat)]
                print_row(fault, found)
                outcomes += found
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    num_broken = sum(bool(outcome.problems or outcome.delays) for outcome in outcomes)
    held = np.array([outcome.hold_s for outcome in outcomes]) * 1e3
    p50, p99 = np.quantile(held, (0.5, 0.99))
    print(f"{'all':24}{p50:8.1f}{p99:8.1f}{held.max():8.1f}")
    print(f"{len(outcomes)} faults, {num_broken} not as promised")
    return 1 if num_broken else 0


@contextmanager
def running_rig(kind: str) -> Iterator[Rig]:
    """Give a rig of a kind, in a separate folder."""
    with tempfile.TemporaryDirectory() as folder, Rig(Path(folder), **RIGS[kind]) as rig:
        yield rig


def print_row(fault: Fault, outcomes: Sequence[Outcome]) -> None:
    """Print what one fault did, and each problem."""
    held = np.array([outcome.hold_s for outcome in outcomes]) * 1e3
    p50, p99 = np.quantile(held, (0.5, 0.99))
    recovery_s, step_rad = (max(getattr(outcome, name) for outcome in outcomes) for name in ("recovery_s", "step_rad"))
    last = outcomes[-1]
    end = f"{last.end}: {last.reason}" if last.reason else last.end
    print(f"{fault.name:24}{p50:8.1f}{p99:8.1f}{held.max():8.1f}{recovery_s:10.2f}{step_rad:9.4f}  {end}", flush=True)
    for outcome in outcomes:
        for problem in outcome.problems + outcome.delays:
            print(f"{'':24}NOT AS PROMISED: {problem}; {outcome.reason}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
