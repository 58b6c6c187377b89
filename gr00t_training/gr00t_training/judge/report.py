# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Show an open-loop evaluation: plain JSON values, a table, and a plot per episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gr00t_training.embodiment import Embodiment
from gr00t_training.judge.open_loop import EpisodeEvaluation
from gr00t_training.judge.queries import channel_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUTH_COLOR, PREDICTED_COLOR, STATE_COLOR = "black", "tab:orange", "tab:blue"
PLOT_COLUMNS = 3
PLOT_SIZE_IN = (5.0, 2.2)  # of one channel


def make_report(evaluations: Sequence[EpisodeEvaluation], embodiment: Embodiment) -> dict[str, Any]:
    """Return all errors as plain JSON values; the totals are means over episodes, for each unit."""
    found = [evaluation.units(embodiment) for evaluation in evaluations]
    return {
        "units": {
            unit: {name: float(np.mean([units[unit][name] for units in found])) for name in ("mse", "mae")}
            for unit in found[0]
        },
        "episodes": [
            {
                "episode": evaluation.episode,
                "task": evaluation.task,
                "rows": evaluation.num_rows,
                "horizon": evaluation.horizon,
                "units": units,
                "keys": {key: _key_report(evaluation, key, embodiment) for key in evaluation.truth},
            }
            for evaluation, units in zip(evaluations, found, strict=True)
        ],
    }


def format_table(report: Mapping[str, Any]) -> str:
    """Return the errors of a report as text, a line per key and channel."""
    lines = [f"{'episode':>7}  {'key':<20} {'channel':<28} {'unit':<6} {'MSE':>12} {'MAE':>12}"]
    for entry in report["episodes"]:
        number = entry["episode"]
        for key, values in entry["keys"].items():
            lines += [_table_line(number, key, "(all)", unit, of_unit) for unit, of_unit in values["units"].items()]
            lines += [_table_line(number, "", name, "", value) for name, value in values["channels"].items()]
        lines += [_table_line(number, "(all)", "", unit, values) for unit, values in entry["units"].items()]
    lines += [_table_line("mean", "(all)", "", unit, values) for unit, values in report["units"].items()]
    return "\n".join(lines)


def plot_evaluation(evaluation: EpisodeEvaluation, embodiment: Embodiment, path: Path) -> None:
    """Draw every channel over time, with the rows at which the policy was queried, as PNG."""
    from matplotlib.figure import Figure  # takes a second; only plots need it

    channels = [(key, index) for key in evaluation.truth for index in range(evaluation.truth[key].shape[1])]
    columns = min(PLOT_COLUMNS, len(channels))
    rows = math.ceil(len(channels) / columns)
    figure = Figure(figsize=(PLOT_SIZE_IN[0] * columns, PLOT_SIZE_IN[1] * rows + 1.0), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, (key, index) in zip(grid.flat, channels, strict=False):
        _plot_channel(axes, evaluation, key, index, embodiment)
    for axes in grid.flat[len(channels) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, len(channels) - columns) : len(channels)]:
        axes.set_xlabel("time [s]")
        axes.xaxis.set_tick_params(labelbottom=True)
    lines = {line.get_label(): line for axes in grid.flat[: len(channels)] for line in axes.get_lines()}
    shown = {label: line for label, line in lines.items() if not str(label).startswith("_")}
    figure.legend(shown.values(), shown.keys(), loc="outside upper right", ncols=len(shown))
    totals = [f"{unit}: MSE {of['mse']:.4g}, MAE {of['mae']:.4g}" for unit, of in evaluation.units(embodiment).items()]
    title = f"episode {evaluation.episode}: {evaluation.task}\n{'; '.join(totals)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    figure.savefig(path, dpi=100, format="png")


def _plot_channel(axes: Axes, evaluation: EpisodeEvaluation, key: str, index: int, embodiment: Embodiment) -> None:
    time_s = np.arange(evaluation.num_rows) / evaluation.fps
    if key in evaluation.state:
        axes.plot(time_s, evaluation.state[key][:, index], color=STATE_COLOR, linewidth=1, label="state")
    axes.plot(time_s, evaluation.truth[key][:, index], color=TRUTH_COLOR, linewidth=2.5, label="recorded action")
    predicted = evaluation.predicted[key][:, index]
    for number, start in enumerate(range(0, evaluation.num_rows, evaluation.horizon)):
        part = slice(start, start + evaluation.horizon)
        label = "predicted chunk" if number == 0 else "_"
        axes.plot(time_s[part], predicted[part], color=PREDICTED_COLOR, linewidth=1.2, label=label)
        axes.axvline(time_s[start], color="0.85", linewidth=0.8, zorder=0)
    starts = slice(None, None, evaluation.horizon)
    axes.plot(time_s[starts], predicted[starts], "o", color=PREDICTED_COLOR, markersize=4, label="chunk starts")
    vector = embodiment.action[key]
    mse = evaluation.channel_mse(key)[index]
    axes.set_title(f"{key} / {vector.names[index]}   MSE {mse:.3g}", fontsize="small", loc="left")
    axes.set_ylabel(f"[{channel_units(key, vector)[index]}]", fontsize="small")
    axes.tick_params(labelsize="small")


def _key_report(evaluation: EpisodeEvaluation, key: str, embodiment: Embodiment) -> dict[str, Any]:
    mse, mae = evaluation.channel_mse(key), evaluation.channel_mae(key)
    vector = embodiment.action[key]
    units = channel_units(key, vector)
    return {
        "units": evaluation.units(embodiment, [key]),
        "channels": {
            name: {"unit": units[index], "mse": float(mse[index]), "mae": float(mae[index])}
            for index, name in enumerate(vector.names)
        },
    }


def _table_line(episode: int | str, key: str, channel: str, unit: str, errors: Mapping[str, Any]) -> str:
    return f"{episode:>7}  {key:<20} {channel:<28} {unit:<6} {errors['mse']:>12.6g} {errors['mae']:>12.6g}"
