# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hooks for the tests of all packages: workers, the marker `ros`, names of parametrized cases, count of skipped tests.

`make test` runs several files at once, each in one worker of pytest-xdist. A worker has ROS domains, temporary folders
and, for computing, one thread of its own; a file whose tests use anything else of the machine goes to `DEFAULT_PORTS`.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

LONGEST_ID = 60  # characters of one value
# One worker runs these: what they start listens on the ports that users find in the documentation.
DEFAULT_PORTS = ("gr00t_bringup/test/test_docker.py", "gr00t_bringup/test/test_docs_run.py")


def pytest_configure() -> None:
    """Give a worker its part of the machine; keep hypothesis from failing a test because the machine is slow."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        part = int(worker.removeprefix("gw")) + 1
        os.environ["GR00T_DOMAIN_SHARE"] = f"{part}/{max(part, int(os.environ['PYTEST_XDIST_WORKER_COUNT']))}"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of several processes wait for each other busily
    try:
        from hypothesis import HealthCheck, settings
    except ModuleNotFoundError:  # only some packages' tests need it
        return
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    settings.register_profile("suite", deadline=None, suppress_health_check=slow)
    settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of files that need ROS."""
    for item in items:
        if _needs_ros(item.path):
            item.add_marker("ros")
    if "PYTEST_XDIST_WORKER" in os.environ:  # long files first, so that all workers end at about the same time
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: (not item.nodeid.startswith(DEFAULT_PORTS), item.path not in slow))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to workers, so that fixtures of a module are made once, and `DEFAULT_PORTS` to one of them."""
    from xdist.scheduler import LoadFileScheduling  # pyright: ignore[reportMissingImports] - it is there if this runs

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return DEFAULT_PORTS[0] if nodeid.startswith(DEFAULT_PORTS) else super()._split_scope(nodeid)

    return Files(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a case by its value where pytest would name it `<lambda>` or `change0`."""
    if isinstance(val, (str, bytes)) and len(val) > LONGEST_ID:
        text = str(val)
    elif isinstance(val, (dict, list, tuple)) or dataclasses.is_dataclass(val) or type(val).__module__ == "numpy":
        text = repr(val)
    elif getattr(val, "__name__", "") == "<lambda>":
        source = inspect.getsource(val)  # type: ignore[arg-type] - a function
        text = source[source.index("lambda") :] if source.count("lambda") == 1 else source
    else:
        return None
    # an address differs from run to run
    return None if " at 0x" in text else " ".join(text.split())[:LONGEST_ID].rstrip(", ")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Count the skipped tests by what they need, as the last lines."""
    yield
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(longrepr[2].removeprefix("Skipped: ").partition(":")[0] for longrepr in skipped)
    if reasons:
        terminalreporter.write_sep("=", f"{reasons.total()} skipped for want of")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5d}  {reason}")


@cache
def _needs_ros(path: Path) -> bool:
    return '\npytest.importorskip("rclpy")' in path.read_text(encoding="utf-8")
