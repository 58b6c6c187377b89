# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hooks for the tests of all packages: the marker `ros`, names of parametrized cases, the count of skipped tests."""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

LONGEST_ID = 60  # characters of one value


def pytest_configure() -> None:
    """Keep hypothesis from failing a test because the machine is slow."""
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
