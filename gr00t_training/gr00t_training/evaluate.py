# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Open-loop evaluation: how far a policy's actions are from the recorded ones, in the robot's units.

The policy is asked every `horizon` rows and its first `horizon` actions are compared with the recorded rows, as in the
N1 release's evaluation script. Nothing moves: a small error does not say that a robot would succeed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.observation import observation_from_rows
from gr00t_training.types import ActionChunk, Observation

TRUTH_COLOR, PREDICTED_COLOR, STATE_COLOR = "black", "tab:orange", "tab:blue"
PLOT_COLUMNS = 3
PLOT_SIZE_IN = (5.0, 2.2)  # of one channel


class ChunkPolicy(Protocol):
    """Whatever answers observations with action chunks."""

    @property
    def embodiment(self) -> Embodiment:
        """The robot that the policy is for."""
        ...

    def infer(self, observation: Observation) -> ActionChunk:
        """Answer one observation."""
        ...


@dataclass(frozen=True)
class EpisodeEvaluation:
    """Recorded and predicted actions of the first rows of one episode."""

    episode: int
    task: str
    fps: float
    horizon: int  # rows between two questions
    truth: Mapping[str, np.ndarray]  # key -> (N, D), robot units
    predicted: Mapping[str, np.ndarray]  # key -> (N, D)
    state: Mapping[str, np.ndarray]  # (N, D) of the action keys that have a state of the same name and width

    @property
    def num_rows(self) -> int:
        """Number of compared rows."""
        return len(next(iter(self.truth.values())))

    @property
    def mse(self) -> float:
        """Mean squared error over rows and channels."""
        return float(np.mean(np.square(self._errors())))

    @property
    def mae(self) -> float:
        """Mean absolute error over rows and channels."""
        return float(np.mean(np.abs(self._errors())))

    def channel_mse(self, key: str) -> np.ndarray:
        """Mean squared error per channel of a key, `(D,)`."""
        return np.mean(np.square(self.predicted[key] - self.truth[key]), axis=0)

    def channel_mae(self, key: str) -> np.ndarray:
        """Mean absolute error per channel of a key, `(D,)`."""
        return np.mean(np.abs(self.predicted[key] - self.truth[key]), axis=0)

    def _errors(self) -> np.ndarray:
        return np.concatenate([self.predicted[key] - self.truth[key] for key in self.truth], axis=1)


def evaluate_episode(
    policy: ChunkPolicy,
    dataset: LeRobotDataset,
    episode: int,
    *,
    steps: int | None = None,
    horizon: int | None = None,
    keys: Sequence[str] = (),
) -> EpisodeEvaluation:
    """Compare a policy with one recorded episode.

    Args:
        policy: to ask.
        dataset: of the policy's robot.
        episode: index.
        steps: rows to compare; None: the whole episode.
        horizon: rows taken from a chunk before the next question; None: the whole chunk.
        keys: action keys to compare; empty: all that the policy produces.

    Raises:
        ConfigError: more steps or a longer horizon than there is, or a key that the policy does not produce.
        DatasetError: a key is not in the dataset, or cannot be read.
    """
    embodiment = policy.embodiment
    keys = tuple(keys) or embodiment.action_keys
    horizon = embodiment.action_horizon if horizon is None else horizon
    length = dataset.episode(episode).length
    steps = length if steps is None else steps
    _check_request(embodiment, keys, horizon, steps, episode, length)
    chunks: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    for row in range(0, steps, horizon):
        chunk = policy.infer(observation_from_rows(dataset, episode, row, embodiment))
        for key in keys:
            chunks[key].append(chunk.actions[key][:horizon])
    return EpisodeEvaluation(
        episode=episode,
        task=dataset.task(episode, 0, embodiment.language),
        fps=embodiment.fps,
        horizon=horizon,
        truth={key: dataset.action(episode, key)[:steps] for key in keys},
        predicted={key: np.concatenate(parts)[:steps] for key, parts in chunks.items()},
        state={key: dataset.state(episode, key)[:steps] for key in keys if _has_state(dataset, key)},
    )


def make_report(evaluations: Sequence[EpisodeEvaluation], embodiment: Embodiment) -> dict[str, Any]:
    """Return all errors as plain JSON values; the totals are means over episodes."""
    return {
        "mse": float(np.mean([evaluation.mse for evaluation in evaluations])),
        "mae": float(np.mean([evaluation.mae for evaluation in evaluations])),
        "episodes": [
            {
                "episode": evaluation.episode,
                "task": evaluation.task,
                "rows": evaluation.num_rows,
                "horizon": evaluation.horizon,
                "mse": evaluation.mse,
                "mae": evaluation.mae,
                "keys": {key: _key_report(evaluation, key, embodiment) for key in evaluation.truth},
            }
            for evaluation in evaluations
        ],
    }


def format_table(report: Mapping[str, Any]) -> str:
    """Return the errors of a report as text, a line per key and channel."""
    lines = [f"{'episode':>7}  {'key':<20} {'channel':<28} {'unit':<6} {'MSE':>12} {'MAE':>12}"]
    for entry in report["episodes"]:
        number = entry["episode"]
        for key, values in entry["keys"].items():
            lines.append(_table_line(number, key, "(all)", values["unit"], values))
            lines += [_table_line(number, "", name, "", value) for name, value in values["channels"].items()]
        lines.append(_table_line(number, "(all)", "", "", entry))
    lines.append(_table_line("mean", "(all)", "", "", report))
    return "\n".join(lines)


def plot_evaluation(evaluation: EpisodeEvaluation, embodiment: Embodiment, path: Path) -> None:
    """Draw every channel over time, with the rows at which the policy was asked, as PNG."""
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
    title = f"episode {evaluation.episode}: {evaluation.task}\nMSE {evaluation.mse:.4g}, MAE {evaluation.mae:.4g}"
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
    axes.set_ylabel(f"[{vector.unit}]", fontsize="small")
    axes.tick_params(labelsize="small")


def _check_request(
    embodiment: Embodiment, keys: Sequence[str], horizon: int, steps: int, episode: int, length: int
) -> None:
    for key in keys:
        if key not in embodiment.action_keys:
            raise ConfigError(f"action.{key}: the policy does not produce it ({', '.join(embodiment.action_keys)})")
    if not 1 <= horizon <= embodiment.action_horizon:
        raise ConfigError(f"horizon is {horizon}, a chunk of the policy has {embodiment.action_horizon} ticks")
    if not 1 <= steps <= length:
        raise ConfigError(f"steps is {steps}, episode {episode} has {length} rows")


def _has_state(dataset: LeRobotDataset, key: str) -> bool:
    return key in dataset.modality.state and dataset.modality.state[key].dim == dataset.slice_of("action", key).dim


def _key_report(evaluation: EpisodeEvaluation, key: str, embodiment: Embodiment) -> dict[str, Any]:
    mse, mae = evaluation.channel_mse(key), evaluation.channel_mae(key)
    vector = embodiment.action[key]
    return {
        "unit": vector.unit,
        "mse": float(mse.mean()),
        "mae": float(mae.mean()),
        "channels": {
            name: {"mse": float(mse[index]), "mae": float(mae[index])} for index, name in enumerate(vector.names)
        },
    }


def _table_line(episode: int | str, key: str, channel: str, unit: str, errors: Mapping[str, Any]) -> str:
    return f"{episode:>7}  {key:<20} {channel:<28} {unit:<6} {errors['mse']:>12.6g} {errors['mae']:>12.6g}"
