# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Draw what a policy would see now: each camera with its age, joints against limits and training data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from gr00t_policy_node.onboard.comparison import Trained
from gr00t_policy_node.onboard.evidence import Evidence, Look
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.io.files import replacing
from gr00t_training.types import KeyKind, KeyRef

CAMERA_IN = 3.6  # width of an image
ROW_IN = 0.26  # of a joint
MAX_CAMERAS = 4  # in a row
MAX_ROWS = 24  # of joints in a column
LIMIT, SEEN, TRAINING, NOW, OUTSIDE = "0.85", "#56b4e9", "#009e73", "black", "#d55e00"


@dataclass(frozen=True)
class JointRow:
    """One channel of the state, in its unit."""

    name: str
    unit: str
    value: float  # NaN: it never came
    seen: tuple[float, float] | None
    limit: tuple[float, float] | None
    trained: tuple[float, float] | None

    @property
    def span(self) -> tuple[float, float]:
        """Ends of its axis: the limits, else all that is known."""
        pairs = [pair for pair in (self.limit, self.trained, self.seen) if pair and all(map(math.isfinite, pair))]
        ends = (
            [*pairs[0]] if self.limit and pairs and pairs[0] == self.limit else [end for pair in pairs for end in pair]
        )
        ends = ends or [0.0 if math.isnan(self.value) else self.value]
        low, high = min(ends), max(ends)
        margin = max(0.1 * (high - low), 1e-3)
        return low - margin, high + margin

    @property
    def is_outside(self) -> bool:
        """Whether the value is beyond the limits."""
        return (
            self.limit is not None and not math.isnan(self.value) and not self.limit[0] <= self.value <= self.limit[1]
        )


def joint_rows(
    embodiment: Embodiment, evidence: Evidence, limits: Mapping[str, JointLimit], trained: Trained | None
) -> list[JointRow]:
    """Return the channels of the state in order."""
    rows = []
    for key, vector in embodiment.state.items():
        values = evidence.state.get(key)
        seen = evidence.ranges.get(KeyRef(KeyKind.STATE, key))
        statistics = trained.state.get(key) if trained else None
        for i, name in enumerate(vector.names):
            limit = limits.get(name)
            rows.append(
                JointRow(
                    name,
                    vector.unit,
                    math.nan if values is None else float(values[i]),
                    None if seen is None else (float(seen[0][i]), float(seen[1][i])),
                    None if limit is None else (limit.min, limit.max),
                    None if statistics is None else (float(statistics.min[i]), float(statistics.max[i])),
                )
            )
    return rows


def draw_sight(title: str, looks: Mapping[str, Look], rows: Sequence[JointRow], path: Path) -> None:
    """Draw cameras above joints as PNG.

    Raises:
        ConfigError: the file cannot be written.
    """
    across = min(MAX_CAMERAS, max(len(looks), 2))
    down = -(-len(looks) // across)
    columns = -(-len(rows) // MAX_ROWS) or 1
    per_column = -(-len(rows) // columns)
    sizes = [look.image.shape for look in looks.values() if look.image is not None]
    tallest = max((height / width for height, width, _ in sizes), default=0.75)
    heights = [down * (CAMERA_IN * tallest + 0.4), per_column * ROW_IN + 1.0]
    width = max(across * CAMERA_IN, columns * 6.0)
    figure = Figure(figsize=(width, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium", parse_math=False)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_cameras(above, looks, down, across)
    axes = below.subplots(1, columns, squeeze=False)[0]
    for place, column in enumerate(axes):
        _draw_joints(column, rows[place * per_column : (place + 1) * per_column])
    handles = [
        axes[0].plot([], [], color=color, linewidth=size, label=label)[0]
        for color, size, label in (
            (LIMIT, 9, "limits"),
            (TRAINING, 6, "training"),
            (SEEN, 2, "seen"),
            (NOW, 1.5, "now"),
            (OUTSIDE, 1.5, "now, outside the limits"),
        )
        if color != TRAINING or any(row.trained for row in rows)
    ]
    below.legend(handles=handles, loc="outside lower left", ncols=5, fontsize="small", frameon=False)
    try:
        with replacing(path) as file:
            figure.savefig(file, dpi=90, format="png")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); check free space and permissions") from error


def _draw_cameras(figure: SubFigure, looks: Mapping[str, Look], down: int, across: int) -> None:
    axes = figure.subplots(max(down, 1), across, squeeze=False).ravel()
    for each in axes:
        each.set_axis_off()
    for place, (key, look) in zip(axes, looks.items(), strict=False):
        if look.image is None:
            place.imshow(np.full((3, 4, 3), 235, np.uint8))
            place.text(1.5, 1, f"no image\n{_wrapped(look.reason)}", ha="center", va="center", fontsize="small")
            place.set_title(key, fontsize="small", color=OUTSIDE, parse_math=False)
            continue
        height, width = look.image.shape[:2]
        place.imshow(look.image)
        title = f"{key}  {width}x{height}, {1e3 * look.age_s:.0f} ms old"
        place.set_title(title, fontsize="small", parse_math=False)


def _wrapped(text: str, width: int = 34) -> str:
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "\n".join([*lines, line][:6])


def _draw_joints(axes: Axes, rows: Sequence[JointRow]) -> None:
    """Draw one line per joint, each scaled to its own span."""
    for place, row in enumerate(rows):
        low, high = row.span

        def share(value: float, low: float = low, high: float = high) -> float:
            return min(max((value - low) / (high - low), 0.0), 1.0)

        for pair, color, size in ((row.limit, LIMIT, 9), (row.trained, TRAINING, 6), (row.seen, SEEN, 2)):
            if pair is not None and not any(map(math.isnan, pair)):
                ends = [share(end) for end in pair]
                if ends[1] - ends[0] < 0.004:  # a joint that stood still is still seen
                    ends = [ends[0] - 0.002, ends[1] + 0.002]
                axes.plot(ends, [place] * 2, color=color, linewidth=size, solid_capstyle="butt")
        if not math.isnan(row.value):
            at = share(row.value)
            axes.plot([at, at], [place - 0.36, place + 0.36], color=OUTSIDE if row.is_outside else NOW, linewidth=1.5)
        text = "never came" if math.isnan(row.value) else f"{row.value:.3g} {row.unit}"
        ends = f" ({row.limit[0]:.3g} to {row.limit[1]:.3g})" if row.limit else " (no limits)"
        color = OUTSIDE if row.is_outside or math.isnan(row.value) else "black"
        axes.text(1.02, place, text + ends, va="center", fontsize="small", color=color, parse_math=False)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize="small", parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
