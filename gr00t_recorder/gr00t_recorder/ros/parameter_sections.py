# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which sections of a ROS parameters file are for a node."""

from __future__ import annotations

import re

_WILDCARDS = {"**": r"(/\w+)*", "*": r"/\w+"}  # any number of names, one name


def section_matches(section: str, full_name: str) -> bool:
    """Whether a section such as `policy`, `/lab/policy`, `/*/policy` or `/**` is for the node of a full name."""
    parts = [part for part in section.split("/") if part]
    return re.fullmatch("".join(_WILDCARDS.get(part, "/" + re.escape(part)) for part in parts), full_name) is not None
