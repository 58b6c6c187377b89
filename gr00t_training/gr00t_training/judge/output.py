# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Files and lines of an evaluation. Needs no matplotlib: a robot's computer may not have it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gr00t_training.errors import ConfigError
from gr00t_training.judge.judging import Judgement
from gr00t_training.judge.verdicts import worst
from gr00t_training.types import Verdict

REPORT_FILE = "evaluation.json"
PAGE_FILE = "report.html"
EXIT_FAILED = 1


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write plain JSON values.

    Raises:
        ConfigError: the folder cannot be written.
    """
    _write(folder / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def write_page(folder: Path, page: str) -> Path:
    """Write the page and return its path.

    Raises:
        ConfigError: the folder cannot be written.
    """
    _write(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def lines(judgement: Judgement) -> Iterator[str]:
    """Yield verdict and reasons for a terminal."""
    yield f"\n{judgement.verdict.upper()}: {judgement.name}"
    for finding in judgement.findings:
        if finding.verdict in (Verdict.LOOK, Verdict.NO_GO):
            yield f"  {finding.verdict!s:6} {finding.group}, {finding.name} ({finding.shown}): {finding.meaning}"


def exit_code(judgements: Sequence[Judgement], fail_on: str) -> int:
    """Return the exit code of a command: 0, or 1 if a policy's verdict is `fail_on` or worse.

    Args:
        judgements: one per policy.
        fail_on: value of `--fail-on`; one that is no verdict never fails.
    """
    order = list(Verdict)
    limit = order.index(Verdict(fail_on)) if fail_on in order else len(order)
    return EXIT_FAILED if order.index(worst([each.verdict for each in judgements])) >= limit else 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be written ({error.strerror}); choose another --output") from error
