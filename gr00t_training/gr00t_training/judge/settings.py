# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Settings of evaluation. Needs no torch. The options of the command are generated from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gr00t_training.dataset.episode_ranges import EPISODES_HELP
from gr00t_training.settings import check_bounds, setting
from gr00t_training.train.settings import DATASET, DEVICE, EMBODIMENT, OUTPUT, SEED, TOKENIZER


@dataclass(frozen=True)
class EvaluationSettings:
    """Which policies are judged on which recorded episodes.

    Raises:
        ValueError: a value is out of bounds, or not exactly one of `checkpoint` and `server` is given.
    """

    checkpoint: str | Path | None = setting(None, "Checkpoint: folder or hub id.", metavar="CHECKPOINT")
    server: str | None = setting(None, "Policy server. It is judged instead of a checkpoint.", metavar="HOST:PORT")
    dataset: str | Path = setting(description=DATASET, metavar="FOLDER")
    embodiment: str | Path | None = setting(None, f"{EMBODIMENT} Or a tag, of a checkpoint with several.")
    tokenizer: str | Path | None = setting(None, TOKENIZER, metavar="FILE")
    baseline: str | Path | None = setting(
        None, "Checkpoint that training started from: a further baseline.", metavar="CHECKPOINT"
    )
    compare: tuple[str, ...] = setting((), "More checkpoints to judge.", metavar="CHECKPOINT")
    episodes: tuple[str, ...] = setting(
        (), f"{EPISODES_HELP} They are compared (default: the first ten that were not trained on).", metavar="LIST"
    )
    steps: int | None = setting(None, "Rows per episode (default: all).", ge=1)
    action_horizon: int | None = setting(None, "Rows taken from a chunk (default: all).", ge=1)
    modality_keys: tuple[str, ...] = setting((), "Action keys of the table (default: all of the model).", metavar="KEY")
    tests: bool = setting(True, "Ask again with changed inputs, and judge: go, look or no-go.")
    denoising_steps: int | None = setting(None, "Steps of the sampler (default: those of the release).", ge=1)
    seed: int = setting(0, f"{SEED} For the noise of the sampler.")
    device: str = setting("auto", DEVICE)
    output: str | Path | None = setting(
        None, f"{OUTPUT} report.html, evaluation.json and a plot per episode.", metavar="FOLDER"
    )

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.server is None):
            raise ValueError("pass one of --checkpoint and --server")
        if self.baseline and self.server:
            raise ValueError("baseline needs the policy's statistics, which a server does not tell; pass --checkpoint")
        if self.baseline and not self.tests:
            raise ValueError("baseline is given and the tests are off; leave out --no-tests or --baseline")
        check_bounds(self)
