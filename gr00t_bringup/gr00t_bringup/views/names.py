# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of topics and services, as files for other programs need them: fully qualified."""

from __future__ import annotations

from dataclasses import dataclass

VIEW_NODE = "gr00t_view"
PATH_TOPIC = "predicted_path"  # below the view's node
DESCRIPTION_TOPIC = "robot_description"


@dataclass(frozen=True)
class NodeNames:
    """Namespace of a robot, and the names of its nodes there."""

    namespace: str = ""  # empty: none
    policy: str = "policy"
    recorder: str = "recorder"

    def topic(self, name: str) -> str:
        """Return the full name of a topic or service."""
        if name.startswith("/"):
            return name
        namespace = self.namespace.strip("/")
        return f"/{namespace}/{name}" if namespace else f"/{name}"

    @property
    def path(self) -> str:
        """Topic of the predicted path."""
        return self.topic(f"{VIEW_NODE}/{PATH_TOPIC}")
