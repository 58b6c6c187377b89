# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Public names of embodiment tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gr00t_training.errors import ConfigError


def resolve_tag(name: str, known: Iterable[str], public_names: Mapping[str, str]) -> str:
    """Return the embodiment tag of a name: a public name first, otherwise the tag itself, upper or lower case.

    Args:
        name: typed by the user.
        known: tags of the checkpoint or family.
        public_names: public name -> tag of the family. A name counts only where its tag is in `known`.

    Raises:
        ConfigError: no such tag; lists the known ones.
    """
    tags = list(known)
    public = public_names.get(name.upper())
    if public is not None and public in tags:
        return public
    for tag in tags:
        if tag.lower() == name.lower():
            return tag
    names = {tag: public for public, tag in public_names.items() if public.lower() != tag}
    listed = ", ".join(f"{tag} ({names[tag]})" if tag in names else tag for tag in tags)
    raise ConfigError(f"embodiment tag '{name}' is unknown, known: {listed or 'none'}; choose one of them")
