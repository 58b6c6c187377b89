# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run gives the action head in training and what it hides: first rows of the chunk, and the state.

The choice is part of the model's configuration, so that the checkpoint says how it was trained.
"""

from __future__ import annotations

import dataclasses
import logging

from gr00t_training.checkpoint import Checkpoint
from gr00t_training.errors import ConfigError
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.settings import TrainerSettings

logger = logging.getLogger(__name__)


def check_delay(settings: TrainerSettings, checkpoint: Checkpoint) -> None:
    """Check the training for delays.

    Raises:
        ConfigError: `rtc_max_delay` leaves no row of a chunk to predict.
    """
    shortest = min((trained.embodiment for trained in checkpoint.trained), key=lambda it: it.action_horizon)
    if settings.rtc_max_delay >= shortest.action_horizon:
        raise ConfigError(
            f"rtc_max_delay is {settings.rtc_max_delay}, a chunk of embodiment '{shortest.name}' has "
            f"{shortest.action_horizon} rows and needs some to predict; pass at most {shortest.action_horizon - 1}"
        )


def condition(settings: TrainerSettings, checkpoint: Checkpoint, model: Gr00tModel) -> Checkpoint:
    """Set the model up as the settings say and return the checkpoint that describes it.

    Raises:
        ConfigError: `rtc_max_delay` leaves no row of a chunk to predict.
    """
    check_delay(settings, checkpoint)
    before = model.config.action_head
    if before.rtc_max_delay > settings.rtc_max_delay:
        logger.info(
            "rtc_max_delay %d -> %d: the base model's training for delays is not continued",
            before.rtc_max_delay,
            settings.rtc_max_delay,
        )
    family = checkpoint.family
    shares = (settings.state_dropout, family.finetuned_state_dropout, before.state_dropout)
    share = next(share for share in shares if share is not None)
    model.set_conditioning(
        rtc_max_delay=settings.rtc_max_delay,
        state_dropout=share,
        has_mask_token=family.release.action_head.has_mask_token and share > 0,
    )
    options = checkpoint.options
    if options and family.processor and "state_dropout_prob" in family.processor.options:
        # of N1.7: model and transforms each hide the state of some samples, as in the release
        options = dataclasses.replace(options, state_dropout_prob=share)
    return dataclasses.replace(checkpoint, config=model.config, options=options)
