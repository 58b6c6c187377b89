#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure the operator page: from a button to its effect, and what open pages cost the nodes.

The simulated arm, `policy_node` with the shipped policy, `recorder_node` and `gr00t console` run as separate processes.

* Effect: presses in a headless browser (emergency stop and reset, in turn) until `~/status` of the policy node says so,
  seen by a node of this process. The browser's own time from the input event is part of it.
* Cost: an episode is recorded without a page, with two clients that take all that pages get but draw nothing (as
  browsers on other machines), and with two pages in browsers on the same cores. Control ticks (from `~/command_source`,
  which has one message per tick) and what the recorder counted of each stream are compared.

    ticks           control ticks per second, and the longest time between two
    lost            messages that the recorder has not received, all streams
    rows            rows of the episode per second

    python3 -m bench.console --presses 50 --seconds 20 --json console.json --screenshots FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gr00t_msgs.msg import CommandSource, PolicyStatus, RecorderStatus
from gr00t_msgs.srv import SetInstruction, StartEpisode, StopEpisode
from rclpy.qos import DurabilityPolicy, QoSProfile
from websockets.sync.client import connect

from gr00t_bringup.robots import compact_checkpoint, fastdds_profile, robot_file
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_test_support.browser import Browser, Page
from gr00t_test_support.ros.nodes import call, parameter_arguments
from gr00t_test_support.waiting import eventually

ROBOT = "sim_arm"
TASK = "put the red cube in the bin"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TABS = ("robot", "collect", "policy", "trials", "data", "train")


class Rig:
    """The processes, and what they publish."""

    def __init__(self, folder: Path, opened: ExitStack, options: argparse.Namespace) -> None:
        """Start everything and wait until it works."""
        domain = next_domain()
        profile = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(fastdds_profile())}
        self.node = opened.enter_context(spinning_node("bench", domain))
        self.statuses: list[PolicyStatus] = []
        self.recorders: list[RecorderStatus] = []
        self.ticks_s: list[float] = []
        subscribe = self.node.create_subscription
        subscribe(PolicyStatus, "policy/status", self.statuses.append, LATCHED)
        subscribe(RecorderStatus, "recorder/status", self.recorders.append, LATCHED)
        subscribe(CommandSource, "policy/command_source", self._on_tick, 100)

        def start(module: str, *arguments: Any) -> NodeProcess:
            return opened.enter_context(NodeProcess(module, *arguments, domain=domain, **profile))

        topics = {"topics_file": robot_file(ROBOT, "topics_policy.yaml"), "autostart": True}
        start("gr00t_bringup.ros.sim_node", "--ros-args", "--params-file", robot_file(ROBOT, "sim.yaml"))
        policy = parameter_arguments(
            checkpoint_path=compact_checkpoint(), limits_file=robot_file(ROBOT, "limits.yaml"), **topics
        )
        start("gr00t_policy_node.ros.policy_node", *policy, "--params-file", robot_file(ROBOT, "policy.yaml"))
        recorder = parameter_arguments(dataset_path=folder / "data", min_free_disk_gb=0.0, **topics)
        start("gr00t_recorder.ros.recorder_node", *recorder)
        extra = [
            word
            for name in ("datasets", "runs")
            if getattr(options, name)
            for word in (f"--{name}", getattr(options, name))
        ]
        console = start("gr00t_console.ros.console", "--port", "0", "--trials", folder / "trials.csv", *extra)
        found = eventually(lambda: re.search(r"operator page: (http\S+)", console.output), lambda: console.output)
        self.address = found[1]
        eventually(lambda: self.statuses and self.statuses[-1].state == PolicyStatus.IDLE, "an idle policy node")

    def _on_tick(self, message: CommandSource) -> None:
        self.ticks_s.append(message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)

    def record(self, seconds: float) -> dict[str, float]:
        """Run the policy and record an episode; return what was counted meanwhile."""
        assert not call(
            self.node, SetInstruction, "policy/set_instruction", SetInstruction.Request(instruction=TASK)
        ).error_code

        def starts() -> bool:
            request = StartEpisode.Request(task=TASK)
            return not call(self.node, StartEpisode, "recorder/start_episode", request).error_code

        eventually(starts, "an episode that starts")
        before, first = self.recorders[-1], len(self.ticks_s)
        time.sleep(seconds)
        after, ticks_s = self.recorders[-1], np.array(self.ticks_s[first:])
        ended = call(self.node, StopEpisode, "recorder/stop_episode", StopEpisode.Request(keep=False))
        assert not ended.error_code, ended.error_msg
        lost = sum(each.dropped for each in after.streams) - sum(each.dropped for each in before.streams)
        return {
            "ticks": len(ticks_s) / seconds,
            "longest_tick_ms": 1e3 * float(np.diff(ticks_s).max()),
            "lost": lost,
            "rows": (after.frames - before.frames) / seconds,
        }


@contextmanager
def clients(address: str, count: int) -> Iterator[None]:
    """Take state and pictures as so many pages do, without drawing them."""
    base = address.replace("http", "ws").rstrip("/")
    is_over = threading.Event()

    def take(path: str) -> None:
        with connect(f"{base}{path}", max_size=2**24) as socket:
            while not is_over.is_set():
                with contextlib.suppress(TimeoutError):
                    socket.recv(0.5)

    paths = [path for number in range(count) for path in (f"/state?client={number:032d}", "/pictures")]
    threads = [threading.Thread(target=take, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def measure_effect(rig: Rig, page: Page, presses: int) -> dict[str, list[float]]:
    """Press stop and reset in turn; return the times to the effect [ms]."""
    found: dict[str, list[float]] = {"stop": [], "reset": []}
    page.value("document.getElementById('tab-policy').click()")
    for _ in range(presses):
        for name, state in (("stop", PolicyStatus.STOPPED), ("reset", PolicyStatus.IDLE)):
            if not page.value("document.getElementById('holder').textContent.includes('you have control')"):
                page.click("#control")
                page.has("#holder", "you have control")
            found[name].append(_timed(rig, page, name, state))
    return found


def _timed(rig: Rig, page: Page, name: str, state: int) -> float:
    seen = len(rig.statuses)
    arrived: list[float] = []
    watch = _until(lambda: any(each.state == state for each in rig.statuses[seen:]), arrived)
    start_s = time.monotonic()
    if name == "stop":
        page.press("Escape")
    else:
        page.value("document.querySelector('#policy .big button:nth-child(6)').click()")
    next(watch)
    return 1e3 * (arrived[0] - start_s)


def _until(condition: Callable[[], bool], arrived: list[float]) -> Iterator[None]:
    end_s = time.monotonic() + 30.0
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError("a press had no effect within 30 s")
        time.sleep(0.0005)
    arrived.append(time.monotonic())
    yield


@contextmanager
def pages(address: str) -> Iterator[tuple[Page, Page]]:
    """Open two pages, of a desktop and of a phone."""
    with Browser() as browser:
        desk, phone = browser.page(), browser.page(width=390, height=844, is_dark=True, scale=2.0)
        for page in (desk, phone):
            page.open(address)
            page.until("document.querySelector('#robot .camera img')?.naturalWidth > 0", "pictures")
        yield desk, phone
        desk.close()
        phone.close()


def shoot(desk: Page, phone: Page, folder: Path) -> None:
    """Write pictures of all tabs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in (("", desk), ("phone-", phone)):
        for tab in TABS:
            page.value(f"document.getElementById('tab-{tab}').click()")
            time.sleep(2.0)
            page.value("scrollTo(0, 0)")
            page.screenshot(folder / f"{name}{tab}.png")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--presses", type=int, default=50, help="of each button")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each episode")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of all tabs")
    parser.add_argument("--datasets", type=Path, help="for the pictures")
    parser.add_argument("--runs", type=Path, help="for the pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        rig = Rig(Path(folder), opened, options)
        result: dict[str, Any] = {"without a page": rig.record(options.seconds)}
        with clients(rig.address, 2):
            result["two clients"] = rig.record(options.seconds)
        with pages(rig.address) as (desk, phone):
            result["two pages"] = rig.record(options.seconds)
            if options.screenshots:
                shoot(desk, phone, options.screenshots)
            effect = measure_effect(rig, desk, options.presses)
            result["errors of the pages"] = desk.errors + phone.errors
        for name, times_ms in effect.items():
            p50, p95 = np.percentile(times_ms, [50, 95])
            result[f"{name} to effect"] = {"p50_ms": p50, "p95_ms": p95, "worst_ms": max(times_ms)}
    for name, found in result.items():
        numbers = [f"{key} {value:.1f}" for key, value in found.items()] if isinstance(found, dict) else [str(found)]
        print(f"{name:<22}{'  '.join(numbers)}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
