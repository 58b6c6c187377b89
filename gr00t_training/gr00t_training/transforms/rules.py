# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What differs between checkpoints in how observations and actions become tensors, apart from sizes and images.

A family makes the rules from the options of a checkpoint (`ModelFamily.rules`); the transforms ask nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from gr00t_training.transforms.scaling import ValueRules


@dataclass(frozen=True, kw_only=True)
class InputRules:
    """Rules of one checkpoint; where a setting of processor_config.json decides, it is named."""

    state: ValueRules
    action: ValueRules
    default_instruction: str = ""  # in the place of an empty one
    formalizes: bool = False  # instructions lose capitals and punctuation (formalize_language)
    pads_actions: bool = False  # an action horizon below the model's is padded; False: it must be the model's
    takes_image_history: bool = False  # images of earlier ticks, too
    hides_state: bool = False  # the model sees zeros instead of the state (exclude_state)
    state_dropout: float = 0.0  # training: probability that it does so for one sample (state_dropout_prob)
    trains_on_whole_chunks: bool = False  # no training sample begins where the episode has less than a chunk left
