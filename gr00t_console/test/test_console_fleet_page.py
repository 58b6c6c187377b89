# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Two robots of two namespaces on the page of one of them, in a headless browser."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("fastapi")

from gr00t_msgs.msg import Count, PolicyStatus, RecorderStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_test_support.browser import Browser, Page, find_browser
from gr00t_test_support.waiting import eventually

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STATUS_PERIOD_S = 0.5


class Robot:
    """Status and parameters of a policy node and a recorder, in a namespace."""

    def __init__(self, node: Node, namespace: str, recorder: bool) -> None:
        self.policy = PolicyStatus(state=PolicyStatus.IDLE)
        self._node = node
        self._policy = node.create_publisher(PolicyStatus, f"{namespace}/policy/status", LATCHED)
        self._recorder = node.create_publisher(RecorderStatus, f"{namespace}/recorder/status", LATCHED)
        self._has_recorder = recorder
        self._timer = node.create_timer(STATUS_PERIOD_S, self._publish)

    def fall_silent(self) -> None:
        self._timer.cancel()

    def _publish(self) -> None:
        self._policy.publish(self.policy)
        if self._has_recorder:
            self._recorder.publish(RecorderStatus(state=RecorderStatus.RECORDING, episodes=7))


def declare(node: Node, checkpoint: str = "", server: str = "") -> None:
    """Give a node the parameters of a policy node that say what it runs."""
    node.declare_parameter("checkpoint_path", checkpoint)
    node.declare_parameter("server", server)


def cell(page: Page, robot: str, column: int) -> str:
    return page.text(f'tr:has([data-robot="{robot}"]) td:nth-child({column})')


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="a browser: install chromium")
def test_two_robots_of_two_namespaces_are_on_one_page(tmp_path: Path) -> None:
    domain = next_domain()
    consoles = [
        ["--port", "0", "--trials", tmp_path / f"{name}.csv", "--ros-args", "-r", f"__ns:=/{name}"]
        for name in ("arm1", "arm2")
    ]
    with ExitStack() as opened:
        node = opened.enter_context(spinning_node("drivers", domain))
        policies = [opened.enter_context(spinning_node("policy", domain, f"/arm{i}")) for i in (1, 2)]
        declare(policies[0], checkpoint="/models/fold/checkpoint-1000")
        declare(policies[1], server="gpu1:5555")
        first, second = Robot(node, "/arm1", True), Robot(node, "/arm2", False)
        second.policy = PolicyStatus(
            state=PolicyStatus.HOLDING,
            reason="front is stale",
            holds=[Count(name="input", count=4)],
            limited_commands=12,
            observation_latency_p50=0.1,
            observation_latency_p95=0.25,
        )
        servers = [opened.enter_context(NodeProcess("gr00t_console.ros.console", *c, domain=domain)) for c in consoles]
        browser = opened.enter_context(Browser())
        urls = [
            eventually(lambda s=s: re.search(r"operator page: (http\S+)", s.output), lambda s=s: s.output)[1]
            for s in servers
        ]
        page = browser.page()
        page.open(f"{urls[0]}#fleet")
        page.until("document.querySelectorAll('#fleet tbody tr').length === 2", "two robots")
        page.until(f"document.querySelector('#fleet a')?.href === '{urls[1]}'", "a link to the other page")
        page.has("#fleet", "gpu1:5555")
        page.has("#fleet", "fold/checkpoint-1000")
        assert cell(page, "arm2", 2) == "holdingfront is stale"
        assert [cell(page, "arm2", column) for column in (5, 6, 7, 8)] == ["4", "0", "12", "100 ms (p95 250)"]
        assert cell(page, "arm1", 9) == "recording7 episodes"
        assert (cell(page, "arm1", 10), cell(page, "arm2", 9)) == ("this page", "–")
        first.policy = PolicyStatus(state=PolicyStatus.RUNNING, command_source=1)
        page.until("document.querySelector('tr:has([data-robot=arm1]) .pill')?.textContent === 'running'", "running")
        second.fall_silent()
        page.has("#fleet", "lost for")
        page.click("#fleet a")
        page.until(f"location.href === '{urls[1]}'", "the page of the other robot")
        assert page.errors == []
        page.close()
        assert all("Traceback" not in server.output for server in servers)
