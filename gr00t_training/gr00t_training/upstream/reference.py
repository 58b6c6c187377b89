# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write an embodiment as the Python file that NVIDIA's scripts of N1.6 and N1.7 read."""

from __future__ import annotations

import pprint

from gr00t_training.embodiment import Embodiment
from gr00t_training.upstream.modality import modality_from_embodiment


def reference_config(embodiment: Embodiment) -> str:
    """Return a Python file that registers the embodiment in NVIDIA's scripts (`--modality-config-path`).

    Raises:
        ConfigError: see `modality_from_embodiment`.
    """
    modality = pprint.pformat(modality_from_embodiment(embodiment), sort_dicts=False, width=110, compact=True)
    return (
        f"# Modality configuration of '{embodiment.name}', written by gr00t_training.\n"
        "from gr00t.configs.data.embodiment_configs import register_modality_config\n"
        "from gr00t.data.embodiment_tags import EmbodimentTag\n"
        "from gr00t.data.types import ModalityConfig\n\n"
        f"MODALITY = {modality}\n\n"
        "register_modality_config(\n"
        "    {kind: ModalityConfig(**part) for kind, part in MODALITY.items()},\n"
        f"    embodiment_tag=EmbodimentTag({embodiment.tag!r}),\n"
        ")\n"
    )
