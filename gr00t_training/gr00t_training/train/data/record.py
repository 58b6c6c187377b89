# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about the data of its run, and how other data of a resumed run are noticed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gr00t_training.checkpoint.training_data import (
    TrainedSource,
    TrainingData,
    episode_digest,
    joined_digest,
    training_data,
)
from gr00t_training.dataset.episode_ranges import ranges_text
from gr00t_training.io.mirror import address_of
from gr00t_training.train.data.samples import StepDataset

_COMPARED = ("tag", "episodes", "num_samples", "share", "rows_digest")
_MAY_CHANGE = ("dataset", "embodiment")  # of the settings: a dataset may move, an embodiment is compared itself


def record_data(samples: StepDataset, before: TrainingData | None) -> TrainingData:
    """Describe the data of a run; reads its actions.

    Args:
        samples: of the run.
        before: of the checkpoint that it starts from.
    """
    digests, sources = [], []
    for source, described in zip(samples.sources, describe_sources(samples), strict=True):
        keys = source.pipeline.embodiment.action_keys
        found = [episode_digest(source.dataset, episode, keys) for episode in source.episodes()]
        sources.append(dataclasses.replace(described, data_digest=joined_digest(found)))
        digests += found
    return training_data(digests, sources, before)


def describe_sources(samples: StepDataset) -> list[TrainedSource]:
    """Describe the sources of a run without reading their rows: `data_digest` is empty."""
    return [
        TrainedSource(
            path=address_of(source.path.resolve()),
            tag=source.pipeline.embodiment.tag,
            episodes=ranges_text(source.episodes()),
            num_samples=len(source),
            share=share,
            rows_digest=joined_digest(f"{part.episode} {part.first} {part.count}" for part in source.stretches),
            data_digest="",
            settings=dict(source.chosen_by),
        )
        for source, share in zip(samples.sources, samples.mixture.shares, strict=True)
    ]


def data_changes(found: TrainingData | None, samples: StepDataset) -> list[str]:
    """List how the data of a run differ from those of the run that it continues, one item per difference.

    Args:
        found: of the checkpoint; None or without sources: an older one, of which nothing is known.
        samples: of the run.
    """
    if found is None or not found.sources:
        return []
    expected = describe_sources(samples)
    if len(found.sources) != len(expected):
        return [f"datasets: found {len(found.sources)}, expected {len(expected)}"]
    items = []
    for number, (old, new) in enumerate(zip(found.sources, expected, strict=True), 1):
        place = f"dataset {number} " if len(expected) > 1 else "dataset "
        items += [place + item for item in _differences(old, new)]
    return items


def _differences(old: TrainedSource, new: TrainedSource) -> list[str]:
    items = [
        f"{name}: found {getattr(old, name)}, expected {getattr(new, name)}"
        for name in _COMPARED
        if getattr(old, name) != getattr(new, name)
    ]
    names: Sequence[str] = sorted({*old.settings, *new.settings} - set(_MAY_CHANGE))
    return items + [
        f"{name}: found {old.settings.get(name, 'none')!s:.80}, expected {new.settings.get(name, 'none')!s:.80}"
        for name in names
        if old.settings.get(name) != new.settings.get(name)
    ]
