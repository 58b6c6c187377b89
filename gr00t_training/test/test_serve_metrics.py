# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The metrics page of a policy server, and the dashboard that shows it."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("zmq")
parser = pytest.importorskip("prometheus_client.parser")

from test_serve import Asking, Serving, SumPolicy, make_observation, nested  # noqa: E402

from gr00t_test_support.waiting import eventually  # noqa: E402
from gr00t_training.errors import ConfigError  # noqa: E402
from gr00t_training.serve import metrics  # noqa: E402
from gr00t_training.serve.metrics import MetricsPage, PrometheusObserver  # noqa: E402
from gr00t_training.serve.observer import Stage  # noqa: E402

DASHBOARD = Path(__file__).parents[2] / "docker/grafana/gr00t_serve.json"
NAME = "test"
MEMORY = {"used": 3, "total": 10, "tensors": 2}


@pytest.fixture
def observer():
    made = PrometheusObserver({NAME: "gr00t_n1"})
    made.watch(lambda: 4, lambda: 5, lambda: MEMORY, {NAME: 7})
    return made


@pytest.fixture
def page(observer):
    made = MetricsPage(observer, 0)
    yield made
    made.close()


def read(page):
    """Return the samples of the page: (name, labels as text) -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics") as answer:
        families = list(parser.text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value for each in families for sample in each.samples
    }


def test_what_a_server_does_is_on_its_page(observer, page):
    with Serving(SumPolicy(), observer=observer, token="secret") as serving:
        with serving.client(token="secret") as client:
            for _ in range(3):
                client.infer(make_observation())
        with Asking(serving.port) as asking:
            asking.error(nested())  # no token
            asking.error({**nested(language={}), "api_token": "secret"})
            asking.error({**nested(language={"task": [["fail"]]}), "api_token": "secret"})
    total = "gr00t_serve_stage_seconds_count", f"{NAME} total"
    found = eventually(lambda: found if (found := read(page))[total] == 3 else None, "three")
    # the one that failed was started too
    assert found["gr00t_serve_batch_samples_count", NAME] == found["gr00t_serve_computed_samples_total", NAME] == 4
    for stage, count in {Stage.PREPARE: 4, Stage.QUEUE: 4, Stage.COMPUTE: 3, Stage.FINISH: 3}.items():
        assert found["gr00t_serve_stage_seconds_count", f"{NAME} {stage.value}"] == count
    refused = {cause: found["gr00t_serve_refused_total", cause] for cause in metrics.CAUSES}
    assert refused == {"busy": 0, "deadline": 0, "fault": 1, "request": 1, "stopping": 0, "token": 1}
    assert found["gr00t_serve_expired_total", ""] == 0
    assert found["gr00t_serve_waiting_requests", ""] == 4
    assert {use: found["gr00t_serve_gpu_memory_bytes", use] for use in MEMORY} == MEMORY
    assert found["gr00t_serve_weight_bytes", NAME] == 7
    assert any(name == "gr00t_serve_info" and labels.startswith(f"{NAME} gr00t_n1 ") for name, labels in found)


def test_the_dashboard_asks_for_metrics_that_are_exported(page):
    exported = {name for name, _ in read(page)}
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["definition"] for each in dashboard["templating"]["list"] if "definition" in each]
    asked = {name for query in queries for name in re.findall(r"\b(?:gr00t|process)_\w+", query)}
    assert len(asked) > 10
    assert asked <= exported, asked - exported
    stages = {stage for query in queries for stage in re.findall(r'stage!?="(\w+)"', query)}
    assert stages <= set(Stage)
    shown = {name for name in exported if name.startswith("gr00t_") and not name.endswith("_created")}
    kinds = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} >= kinds, "a metric that no panel shows"


def test_a_port_in_use_and_a_missing_library_are_named(observer, page, monkeypatch):
    with pytest.raises(ConfigError, match=rf"metrics_port {page.port}: cannot listen .Address already in use."):
        MetricsPage(observer, page.port)
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with pytest.raises(
        ConfigError, match=r"needs the library prometheus_client .*pip install 'gr00t_training\[metrics\]'"
    ):
        PrometheusObserver({NAME: "gr00t_n1"})
