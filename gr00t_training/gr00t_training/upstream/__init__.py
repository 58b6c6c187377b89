# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert between NVIDIA's descriptions of embodiments and ours, without torch.

N1 and N1.5 give dimensions in `metadata.json` and choose keys and scaling by the name of a data configuration; N1.6 and
N1.7 hold both in `processor_config.json` and `statistics.json`. Files are read elsewhere: these functions take and
return their contents.
"""

from gr00t_training.upstream.data_configs import (
    DataConfig,
    data_config,
    data_config_names,
    embodiment_from_metadata,
    fitting_data_configs,
)
from gr00t_training.upstream.metadata import check_metadata
from gr00t_training.upstream.modality import (
    embodiment_from_modality,
    modality_differences,
    modality_from_embodiment,
    options_for,
)
from gr00t_training.upstream.reference import reference_config
from gr00t_training.upstream.tags import resolve_tag

__all__ = [
    "DataConfig",
    "check_metadata",
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
