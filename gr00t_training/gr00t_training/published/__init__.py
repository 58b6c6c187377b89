# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Published descriptions of embodiments, and ours: one read as the other, without torch.

N1 and N1.5 tell dimensions in `metadata.json` and choose keys and scaling by the name of a data configuration; N1.6 and
N1.7 hold both in `processor_config.json` and `statistics.json`. Files are read elsewhere: these functions take and
give their contents.
"""

from gr00t_training.published.builtin import builtin_modality, builtin_tags
from gr00t_training.published.data_configs import (
    DataConfig,
    data_config,
    data_config_names,
    embodiment_from_metadata,
    fitting_data_configs,
)
from gr00t_training.published.modality import (
    embodiment_from_modality,
    modality_differences,
    modality_from_embodiment,
    options_for,
)
from gr00t_training.published.reference import reference_config
from gr00t_training.published.tags import resolve_tag

__all__ = [
    "DataConfig",
    "builtin_modality",
    "builtin_tags",
    "data_config",
    "data_config_names",
    "embodiment_from_metadata",
    "embodiment_from_modality",
    "fitting_data_configs",
    "modality_differences",
    "modality_from_embodiment",
    "options_for",
    "reference_config",
    "resolve_tag",
]
