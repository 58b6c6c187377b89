# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a table of trials says: success with its interval, smoothness, and two checkpoints on the same scenes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_bringup.trials.boundaries import Steps
from gr00t_bringup.trials.statistics import mcnemar, wilson
from gr00t_bringup.trials.table import LATENCIES, Trial
from gr00t_training.io.text import printable

MAX_BOUNDARY = 1.5  # of a step at a boundary by those beside it; 1 is a motion that goes on
ALL = "all tasks"


def summarize(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the summary as plain JSON values: by checkpoint and task, over all, and pairs of checkpoints."""
    groups = []
    for checkpoint in _unique(trial.spec.checkpoint for trial in trials):
        own = [trial for trial in trials if trial.spec.checkpoint == checkpoint]
        tasks = _unique(trial.spec.task for trial in own)
        parts = [(task, [trial for trial in own if trial.spec.task == task]) for task in tasks]
        parts += [(ALL, own)] if len(tasks) > 1 else []
        groups += [{"checkpoint": checkpoint, "task": task, **_group(part)} for task, part in parts]
    checkpoints = _unique(trial.spec.checkpoint for trial in trials)
    pairs = [compare(trials, *pair) for pair in combinations(checkpoints, 2)]
    return {"groups": groups, "pairs": pairs, "trials": [trial.row() for trial in trials]}


def compare(trials: Sequence[Trial], first: str, second: str) -> dict[str, Any]:
    """Compare two checkpoints on the scenes and tasks that both have tried (McNemar's exact test)."""
    results = [_results(trials, each) for each in (first, second)]
    shared = sorted(results[0].keys() & results[1].keys())
    only_first = sum(results[0][key] and not results[1][key] for key in shared)
    only_second = sum(results[1][key] and not results[0][key] for key in shared)
    both = sum(results[0][key] and results[1][key] for key in shared)
    return {
        "first": first,
        "second": second,
        "scenes": len(shared),
        "both": both,
        "only_first": only_first,
        "only_second": only_second,
        "p": mcnemar(only_first, only_second),
    }


def write_summary(trials: Sequence[Trial], path: Path) -> str:
    """Write the summary as JSON; return it as text for people."""
    found = summarize(trials)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return summary_text(found)


def summary_text(found: dict[str, Any]) -> str:
    """Return the summary as a table for people."""
    width = max([len(printable(group["task"])) for group in found["groups"]] + [4])
    head = f"{'task':<{width}}  {'done':>10}  {'success':>7}  {'95 % interval':>13}  {'time':>6}  {'holds':>5}"
    head += f"  {'clamps':>6}  {'latency':>11}  {'steps':>9}  {'turns back':>10}"
    lines = []
    for checkpoint in _unique(group["checkpoint"] for group in found["groups"]):
        lines += [*([""] if lines else []), printable(checkpoint), head]
        for group in found["groups"]:
            if group["checkpoint"] != checkpoint:
                continue
            low, high = group["interval"]
            lines.append(
                f"{printable(group['task']):<{width}}  {group['successes']:>4} of {group['trials']:>3}"
                f"  {group['share']:>7.1%}  {f'{low:.1%}-{high:.1%}':>13}  {_number(group['median_time_s'], 1):>4} s"
                f"  {group['holds']:>5}  {group['clamps']:>6}"
                f"  {'/'.join(_ms(group[name]) for name in LATENCIES):>8} ms"
                f"  {_number(group['boundary_asked'], 2):>4}/{_number(group['boundary_sent'], 2):<4}"
                f"  {_percent(group['reversals_asked']):>5}/{_percent(group['reversals_sent']):<4}"
            )
    if any(group["latency_p50_s"] is not None for group in found["groups"]):
        lines += ["", "latency: from an observation to its chunk, median/95 %; medians over the trials"]
    if any(group["boundary_asked"] is not None for group in found["groups"]):
        lines += [
            "",
            f"steps: where chunks meet, by those beside them, asked/sent; up to {MAX_BOUNDARY} is smooth",
            "turns back: share of these places at which the motion reverses, asked/sent",
        ]
    for pair in found["pairs"]:
        names = f"{printable(pair['first'])} and {printable(pair['second'])}"
        split = (
            f"both in {pair['both']}, only the first in {pair['only_first']}, only the second in {pair['only_second']}"
        )
        lines += ["", f"{names} on the same {pair['scenes']} scenes: {split}; p = {pair['p']:.3g} (McNemar, exact)"]
    return "\n".join(lines)


def _group(trials: Sequence[Trial]) -> dict[str, Any]:
    done = [trial for trial in trials if trial.success]
    asked, sent = (sum((getattr(trial, name) for trial in trials), Steps()) for name in ("asked", "sent"))
    counts = {name: sum(getattr(trial, name) for trial in trials) for name in ("holds", "clamps", "stops", "takeovers")}
    return {
        "trials": len(trials),
        "successes": len(done),
        "share": len(done) / len(trials),
        "interval": list(wilson(len(done), len(trials))),
        "median_time_s": _median(trial.time_s for trial in done),
        **counts,
        **{name: _median(getattr(trial, name) for trial in trials) for name in LATENCIES},
        "boundary_asked": asked.ratio,
        "boundary_sent": sent.ratio,
        "reversals_asked": asked.reversal_share,
        "reversals_sent": sent.reversal_share,
    }


def _results(trials: Sequence[Trial], checkpoint: str) -> dict[tuple[str, str, int], bool]:
    specs = [(trial.spec, trial.success) for trial in trials if trial.spec.checkpoint == checkpoint]
    return {(spec.task, spec.instruction, spec.seed): success for spec, success in specs}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
