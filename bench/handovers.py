#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hand a simulated robot over between policy and persons at random; exit 1 when a command or a hold is not as promised.

    python3 -m bench.handovers --handovers 1000

Robots (limits, rates, rotations, endless joints), control periods, policy chunks, persons' targets, faults of inputs,
stops and the moments of all of it are drawn from a seed. Two devices engage, disengage and fall silent without notice.
The pose that is measured is the last command, so commands may not jump even where a motion ended and another began. The
checks know the commands, the messages and the limits, and share no code with the controller:

* every command is within position, velocity, acceleration and jerk limits (`bench.fuzz_guard`), from the first to the
  last one of a robot;
* a tick at which the device in control has been silent for longer than the timeout commands a hold, and none commands
  for the policy until that device has disengaged, another has taken over, or a person has reset;
* after a person, the policy commands only by an observation that is newer than the hand-over.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from bench.fuzz_guard import SHOWN, ControllerTrial, Result, breaches_of, random_targets, span_of
from gr00t_policy_node.control.person import Engage, Request, TakeoverRules, TeleopMode
from gr00t_policy_node.control.state import CommandSource, ControlState
from gr00t_training.types import ActionChunk

DEVICES = ("leader", "gamepad")
TICKS = 600  # of one robot


class Device:
    """A person's device as this file sees it."""

    def __init__(self, name: str, targets: np.ndarray) -> None:
        """Begin, not engaged."""
        self.name, self.targets = name, targets
        self.is_engaged = self.is_silent = False
        self.heard_ns: int | None = None  # newest message, while engaged


class Handovers(ControllerTrial):
    """A robot between a policy and two persons."""

    def __init__(self, rng: np.random.Generator, result: Result, where: str) -> None:
        """Draw a robot, and who may command it."""
        self.rules = TakeoverRules(
            mode=(TeleopMode.TASK, TeleopMode.ALWAYS)[rng.integers(2)],
            engage=(Engage.APPROACH, Engage.APPROACH, Engage.ALIGN)[rng.integers(3)],
            link_timeout_s=float(rng.choice([0.03, 0.1, 0.3])),
            align_s=float(rng.choice([0.0, 0.05, 0.2])),
            approach_speed=float(rng.uniform(0.05, 1.0)),
        )
        super().__init__(rng, result, where, self.rules)
        self.devices = [Device(name, self.draw_targets()) for name in DEVICES]
        names = list(self.controller.names)
        self.pose = rng.uniform(*span_of(self.limits))
        self.pose[[names.index(name) for name in ("qw", "qx", "qy", "qz")]] = [1.0, 0.0, 0.0, 0.0]
        self.pose[names.index("vx")] = 0.0
        self._first = self.pose.copy()
        self._times_s: list[float] = []
        self._all: list[np.ndarray] = []
        self._since_s = 0.0
        self._newest_chunk_ns = self._handover_ns = 0
        self._before = ""  # device in control at the last tick
        self.handovers = 0
        self.delays_s: list[float] = []  # from the end of a timeout to the tick that holds

    def draw_targets(self) -> np.ndarray:
        """Return what a device asks for (TICKS, N), rotations with a length."""
        targets = np.nan_to_num(random_targets(self._rng, self.limits, TICKS, self.period_s), posinf=1e9, neginf=-1e9)
        hand = self._rng.normal(size=4)
        place = self._places["hand"]
        targets[:, place : place + 4] = hand / np.linalg.norm(hand)
        return np.clip(targets, -1e9, 1e9)

    def measure(self) -> np.ndarray:
        """Return the last command: the robot is where it was sent."""
        return self.pose[:-1].copy()

    def send(self, device: Device, tick: int) -> None:
        """Let a device send its newest target, or that it is not engaged."""
        if device.is_silent:
            return
        names = list(self.controller.names)
        some = [name for name in names if name != "grip"] if device.name == "gamepad" else names
        request = Request(some, [device.targets[tick, names.index(name)] for name in some])
        if device.name == "gamepad":
            request = Request(some, request.positions, ["grip"], [float(self._rng.uniform(-1, 1))])
        age_ns = int(self._rng.integers(0, round(self.rules.link_timeout_s * 3e8)))
        at_ns = max(self.now_ns - age_ns, device.heard_ns or 0)
        fault = self.controller.steer(device.name, request if device.is_engaged else None, at_ns, self.now_ns)
        if fault:
            self._result.breaches.append(f"{self._where}: refused: {fault}")
        device.heard_ns = at_ns if device.is_engaged else None

    def draw_events(self) -> None:
        """Let persons, links, operator and task do something."""
        rng, controller = self._rng, self.controller
        for device in self.devices:
            if rng.random() < 0.02:
                device.is_engaged = not device.is_engaged
            if rng.random() < (0.2 if device.is_silent else 0.01):
                device.is_silent = not device.is_silent
        state, draw = controller.report().state, rng.random()
        if not controller.has_task and state is not ControlState.STOPPED and draw < 0.1:
            controller.start("go")
        elif draw < 0.002:
            controller.stop("operator")
        elif draw < 0.004:
            controller.finish("done")
        elif draw < 0.006:
            controller.fail("server lost")
        elif state is ControlState.STOPPED and draw < 0.1:
            controller.reset()

    def offer_chunk(self) -> None:
        """Offer a chunk of a random age."""
        before = self.controller.report().chunks
        start_ns = self.now_ns - round(self._rng.uniform(0.0, 0.3) * 1e9)
        rows = self.draw_targets()[:16]
        actions = {key: rows[:, place : place + self.embodiment.action[key].dim] for key, place in self._places.items()}
        self.controller.offer(ActionChunk(actions, start_ns, 50_000_000), "go", self.now_ns)
        if self.controller.report().chunks > before:
            self._newest_chunk_ns = start_ns

    def step(self, fault: str) -> None:
        """Let a control period pass, with its jitter, and check the tick."""
        elapsed_s = self.period_s * float(self._rng.uniform(0.8, 1.2))
        before_ns, self.now_ns = self.now_ns, self.now_ns + round(elapsed_s * 1e9)
        self._since_s += (self.now_ns - before_ns) / 1e9
        command = self.controller.tick(self.now_ns, fault, self.measure)
        report = self.controller.report()
        self._check_links(report.source, report.device, before_ns)
        if report.device != self._before:
            self.handovers += 1
            if not report.device:
                self._handover_ns = before_ns  # a stop or reset may have come since that tick
        self._before = report.device
        if report.source is CommandSource.POLICY and self._newest_chunk_ns <= self._handover_ns:
            self._result.breaches.append(f"{self._where}: an observation from before the hand-over is acted on")
        self._result.counts[f"ticks: {report.source.value}"] += 1
        if command is not None:
            self._times_s.append(self._since_s)
            self._all.append(command)
            self._since_s, self.pose = 0.0, command
            self._result.commands += 1

    def _check_links(self, source: CommandSource, holder: str, before_ns: int) -> None:
        for device in self.devices:
            if device.name != holder or device.heard_ns is None:
                continue
            end_ns = device.heard_ns + round(self.rules.link_timeout_s * 1e9)
            if self.now_ns > end_ns:
                if source is not CommandSource.HOLD:
                    self._result.breaches.append(f"{self._where}: {source.value} with a dead link")
                elif before_ns <= end_ns:
                    self.delays_s.append((self.now_ns - end_ns) / 1e9)
        is_engaged = self.devices[0].heard_ns is not None or self.devices[1].heard_ns is not None
        if source is CommandSource.POLICY and is_engaged and not self.controller.report().teleop_fault:
            self._result.breaches.append(f"{self._where}: the policy commands while a person is engaged")

    def check(self) -> None:
        """Hold the whole motion against the limits."""
        if self._all:
            found = breaches_of(self.limits, self.period_s, self._first, self._times_s, np.array(self._all))
            self._result.add(found, self._where)


def drive(rng: np.random.Generator, result: Result, where: str) -> Handovers:
    """Drive one robot."""
    trial, fault_ticks = Handovers(rng, result, where), 0
    for tick in range(TICKS):
        trial.draw_events()
        for device in trial.devices:
            if rng.random() < 0.9:
                trial.send(device, tick)
        if rng.random() < 0.1:
            trial.offer_chunk()
        fault_ticks = fault_ticks - 1 if fault_ticks else int(rng.integers(1, 20)) if rng.random() < 0.004 else 0
        trial.step("camera is stale" if fault_ticks else "")
    trial.check()
    report = trial.controller.report()
    for cause, count in report.holds.items():
        result.counts[f"holds: {cause.value}"] += count
    result.counts["takeovers"] += report.takeovers
    result.counts["stops"] += sum(report.stops.values())
    return trial


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, hand over, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--handovers", type=int, default=1000, help="changes of who has control (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    options = parser.parse_args(arguments)
    result, started_s, robots, handovers, delays, largest = Result(), time.perf_counter(), 0, 0, 0, 0.0
    while handovers < options.handovers:
        trial = drive(np.random.default_rng([options.seed, robots]), result, f"robot {robots}")
        robots, handovers, delays = robots + 1, handovers + trial.handovers, delays + len(trial.delays_s)
        largest = max([largest, *(delay / trial.period_s for delay in trial.delays_s)])
    elapsed_s = time.perf_counter() - started_s
    print(f"{handovers} hand-overs of {robots} robots, {result.commands} commands in {elapsed_s:.0f} s")
    for name, count in sorted(result.counts.items()):
        print(f"  {name:32s} {count}")
    print(f"dead links: {delays}, held at most {largest:.2f} control periods after the timeout (ticks jitter by 20 %)")
    print(f"commands outside limits, jumps, dead links not held, old observations: {len(result.breaches)}")
    for breach in result.breaches[:SHOWN]:
        print(f"  {breach}")
    return 1 if result.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
