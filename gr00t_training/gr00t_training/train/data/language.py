# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The instruction of a training sample, where a dataset or the user has several for one task.

Which one a sample gets depends on (seed, epoch, sample) only, so that a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.train.data_settings import Variants


@dataclass(frozen=True)
class Texts:
    """Texts to draw from: first an annotation, then a variant of its text, each with equal chances."""

    keys: Sequence[str]  # of annotations; at least one
    variants: Variants = field(default_factory=dict)  # texts that are not in it stay

    def draw(self, dataset: EpisodeDataset, episode: int, row: int, rng: np.random.Generator) -> str:
        """Return an instruction for a row.

        Raises:
            DatasetError: the dataset has no text there.
        """
        text = dataset.task(episode, row, _one_of(self.keys, rng))
        return _one_of(self.variants.get(text, (text,)), rng)


def _one_of(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
