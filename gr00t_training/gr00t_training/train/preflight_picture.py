# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Draw training samples as the model sees them: augmented images, scaled state, scaled target chunk, prompt."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gr00t_training.errors import ConfigError
from gr00t_training.io.files import replacing
from gr00t_training.train.data.samples import Source
from gr00t_training.transforms.images import draw_images
from gr00t_training.transforms.observation import observation_from_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_IN = 3.6  # height of a sample
COLUMN_IN = 4.2
MAX_IMAGES = 6  # of a sample that are drawn
_REPEATED = re.compile(r"((?:<[^<>]+>|<\|[^|]+\|>))\1{3,}")  # tokens of an image
_LEVELS = (-1.25, 1.25)  # of the axes; scaled values are in -1..1 nearly always


@dataclass(frozen=True)
class DrawnSample:
    """One sample as the model gets it, and where it comes from."""

    title: str
    frames: list[np.ndarray]  # `(h, w, 3)` uint8, augmented
    frame_names: list[str]
    state: np.ndarray  # `(T, W)` scaled
    state_mask: np.ndarray
    state_keys: dict[str, int]  # channels of each key as the model sees them, in order
    action: np.ndarray  # `(H, A)` scaled
    action_mask: np.ndarray
    action_keys: dict[str, int]
    ids: list[int]
    prompt: str

    @classmethod
    def of(cls, source: Source, sample: int, seed: int) -> DrawnSample:
        """Make a sample of a source.

        Raises:
            Gr00tError: it cannot be read or encoded.
        """
        pipeline, (episode, row) = source.pipeline, source.step(sample)
        tensors = source.encode(sample, np.random.default_rng(seed))
        embodiment = pipeline.embodiment
        observation = observation_from_rows(source.dataset, episode, row, embodiment)
        draw = draw_images(np.random.default_rng(seed))  # the first draw of `encode`
        frames = pipeline.inputs.images.frames(pipeline.images(observation), draw)
        names = [
            key if tick == 0 else f"{key} {tick}" for tick in embodiment.video_history for key in embodiment.video_keys
        ]
        ids = tensors["input_ids"].tolist()
        return cls(
            title=f"{source.path.name}, episode {episode}, row {row} ({embodiment.name})",
            frames=[frame.permute(1, 2, 0).numpy() for frame in frames],
            frame_names=names,
            state=tensors["state"].numpy(),
            state_mask=tensors["state_mask"].numpy(),
            state_keys={key: transform.dim for key, transform in pipeline.state.keys.items()},
            action=tensors["action"].numpy(),
            action_mask=tensors["action_mask"].numpy(),
            action_keys={key: transform.dim for key, transform in pipeline.action.keys.items()},
            ids=ids,
            prompt=_REPEATED.sub(lambda m: f"{m[1]} x {len(m[0]) // len(m[1])} ", pipeline.tokenizer.decode(ids)),
        )


def draw_samples(samples: Sequence[DrawnSample], path: Path) -> None:
    """Draw samples one below the other as PNG.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # takes a second; only the check before a training draws

    num_images = min(MAX_IMAGES, max(len(sample.frames) for sample in samples))
    size = (COLUMN_IN * (num_images * 0.8 + 3.2), ROW_IN * len(samples) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subfigures(len(samples), 1, squeeze=False)[:, 0]
    for part, sample in zip(rows, samples, strict=True):
        prompt = "\n".join(textwrap.wrap(repr(sample.prompt)[1:-1], int(size[0] * 16))[:4])
        part.suptitle(f"{sample.title}\n{prompt}", x=0.01, ha="left", fontsize="small", parse_math=False)
        axes = part.subplots(1, num_images + 2, width_ratios=[0.8] * num_images + [1.4, 1.8])
        for place in range(num_images):
            axes[place].set_axis_off()
            if place < len(sample.frames):
                frame = sample.frames[place]
                axes[place].imshow(frame)
                axes[place].set_title(
                    f"{sample.frame_names[place]}  {frame.shape[1]}x{frame.shape[0]}", fontsize="small"
                )
        _draw_state(axes[-2], sample)
        _draw_actions(axes[-1], sample)
    try:
        with replacing(path) as file:
            figure.savefig(file, dpi=90, format="png")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); check free space and permissions") from error


def _draw_state(axes: Axes, sample: DrawnSample) -> None:
    newest, is_real = sample.state[-1], sample.state_mask[-1]
    start = 0
    for number, (key, width) in enumerate(sample.state_keys.items()):
        axes.bar(np.arange(start, start + width), newest[start : start + width], color=f"C{number % 10}", label=key)
        start += width
    axes.set_xlim(-0.7, max(int(is_real.sum()), 1) - 0.3)
    _finish(axes, "state (scaled), newest row", "channel")


def _draw_actions(axes: Axes, sample: DrawnSample) -> None:
    ticks = np.flatnonzero(sample.action_mask.any(axis=1))
    start = 0
    for number, (key, width) in enumerate(sample.action_keys.items()):
        for channel in range(start, start + width):
            label = key if channel == start else "_"
            axes.plot(ticks, sample.action[ticks, channel], color=f"C{number % 10}", linewidth=0.9, label=label)
        start += width
    _finish(axes, f"target chunk (scaled), {len(ticks)} ticks", "tick")


def _finish(axes: Axes, title: str, below: str) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, _LEVELS[0]), max(high, _LEVELS[1]))
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_title(title, fontsize="small")
    axes.set_xlabel(below, fontsize="small")
    axes.tick_params(labelsize="small")
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
