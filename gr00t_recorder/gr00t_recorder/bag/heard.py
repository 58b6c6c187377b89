# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What was heard of a running robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Heard:
    """Messages of a running robot as a bag, and its topics by fully qualified name."""

    bag: Path
    published: Mapping[str, str] = field(default_factory=dict)  # topic -> type
    subscribed: Mapping[str, str] = field(default_factory=dict)
    best_effort: frozenset[str] = frozenset()  # topics with a publisher that is not reliable
    actions: Mapping[str, str] = field(default_factory=dict)  # of servers: action -> type
    missing: Mapping[str, str] = field(default_factory=dict)  # message types that are not installed here: why
