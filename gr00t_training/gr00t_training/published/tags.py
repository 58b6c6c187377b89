# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Public names of embodiment tags."""

from __future__ import annotations

from collections.abc import Iterable

from gr00t_training.errors import ConfigError

# N1.7 only: the public names of the other families are their tags in upper case.
PUBLIC_NAMES = {
    "OXE_DROID_RELATIVE_EEF_RELATIVE_JOINT": "oxe_droid_relative_eef_relative_joint",
    "XDOF": "xdof_relative_eef_relative_joint",
    "XDOF_SUBTASK": "xdof_relative_eef_relative_joint_subtask",
    "REAL_G1": "real_g1_relative_eef_relative_joints",
    "REAL_R1_PRO_SHARPA": "real_r1_pro_sharpa_relative_eef",
    "REAL_R1_PRO_SHARPA_HUMAN": "real_r1_pro_sharpa_relative_eef_human",
    "REAL_R1_PRO_SHARPA_MAXINSIGHTS": "real_r1_pro_sharpa_relative_eef_maxinsights",
    "REAL_R1_PRO_SHARPA_MECKA": "real_r1_pro_sharpa_relative_eef_mecka",
    "UNITREE_G1": "unitree_g1_full_body_with_waist_height_nav_cmd",
    "UNITREE_G1_SONIC": "unitree_g1_sonic",
    "SIMPLER_ENV_GOOGLE": "simpler_env_google",
    "SIMPLER_ENV_WIDOWX": "simpler_env_widowx",
    "LIBERO_PANDA": "libero_sim",
    "NEW_EMBODIMENT": "new_embodiment",
    "ROBOCASA_PANDA_OMRON": "robocasa_panda_omron",
    "ROBOCASA_GR1_TABLETOP": "robocasa_gr1_tabletop",
}


def resolve_tag(name: str, known: Iterable[str]) -> str:
    """Return the embodiment tag that `name` stands for: a public name first, else the tag itself, in any case.

    Args:
        name: as the user writes it.
        known: tags of the checkpoint or family. A public name counts only where its tag is among them: LIBERO_PANDA is
            libero_sim in N1.7 and libero_panda in N1.6.

    Raises:
        ConfigError: no such tag; lists the known ones.
    """
    tags = list(known)
    public = PUBLIC_NAMES.get(name.upper())
    if public is not None and public in tags:
        return public
    for tag in tags:
        if tag.lower() == name.lower():
            return tag
    names = {tag: public for public, tag in PUBLIC_NAMES.items() if public.lower() != tag}
    listed = ", ".join(f"{tag} ({names[tag]})" if tag in names else tag for tag in tags)
    raise ConfigError(f"embodiment tag '{name}' is unknown, known: {listed or 'none'}; choose one of them")
