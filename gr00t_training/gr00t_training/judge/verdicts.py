# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a number means: go, look, no-go, and the threshold that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.types import Verdict

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Finding:
    """Result of one test."""

    group: str  # accuracy, language, vision, state, joints, latency, seed, motion, gripper
    name: str
    verdict: Verdict
    shown: str  # the number, with its interval
    meaning: str  # what it says about this policy
    threshold: str  # which number would have said what, and why
    value: float | None = None


@dataclass(frozen=True)
class Change:
    """Relative change of a mean error with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.0%} ({self.low:+.0%} to {self.high:+.0%})"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the most serious verdict; GO of none."""
    order = list(Verdict)
    found = max(verdicts, key=order.index, default=Verdict.GO)
    return Verdict.GO if found is Verdict.UNTESTED else found


def change(right: np.ndarray, wrong: np.ndarray, episodes: np.ndarray) -> Change:
    """Return how much larger errors are with a changed input.

    The interval is that of a bootstrap over episodes: rows of one episode are alike.

    Args:
        right: `(Q,)` errors with the recorded input.
        wrong: `(Q,)` errors with the changed one.
        episodes: `(Q,)` episode of each.
    """
    unique = np.unique(episodes)
    sums = np.array([[right[episodes == one].sum(), wrong[episodes == one].sum()] for one in unique])
    draws = np.random.default_rng(0).integers(0, len(unique), (RESAMPLES, len(unique)))
    totals = sums[draws].sum(axis=1)
    changes = totals[:, 1] / np.maximum(totals[:, 0], 1e-12) - 1
    low, high = np.quantile(changes, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Change(float(sums[:, 1].sum() / max(sums[:, 0].sum(), 1e-12) - 1), float(low), float(high))


def is_used(found: Change, least: float, much: float) -> Verdict:
    """Judge whether an input is used: a wrong one must make errors larger.

    Args:
        found: change of the errors with the wrong input.
        least: share by which they grow for certain if the input is used.
        much: share by which they do not grow for certain if it hardly matters. Policies that were trained without an
            input still answer a little differently, so an interval below `least` would miss them.

    Returns:
        LOOK if the interval is too wide to tell.
    """
    if found.low >= least:
        return Verdict.GO
    return Verdict.NO_GO if found.high < much else Verdict.LOOK


def is_robust(found: Change, most: float) -> Verdict:
    """Judge whether a policy tolerates a small change: errors may grow by the share `most`."""
    return Verdict.LOOK if found.value > most and found.low > 0 else Verdict.GO
