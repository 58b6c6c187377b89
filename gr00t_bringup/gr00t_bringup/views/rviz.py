# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A configuration file for RViz: the robot, its cameras and the predicted path."""

from __future__ import annotations

from typing import Any

import yaml

from gr00t_bringup.views.names import DESCRIPTION_TOPIC, NodeNames
from gr00t_bringup.views.robot import ViewedRobot


def rviz_config(robot: ViewedRobot, names: NodeNames, root: str, description: str = "") -> str:
    """Return the YAML.

    Args:
        robot: whose cameras are shown.
        names: of its nodes.
        root: root link of its URDF, in whose frame everything is drawn.
        description: topic of the URDF; empty: `robot_description`.
    """
    model = {
        "Description Source": "Topic",
        "Description Topic": _topic(names.topic(description or DESCRIPTION_TOPIC), durability="Transient Local"),
        "Visual Enabled": True,
        "Alpha": 1,
    }
    displays = [
        _display("Grid", "Grid", {"Cell Size": 0.1, "Plane Cell Count": 20}),
        _display("RobotModel", "Robot", model),
        _display("MarkerArray", "Predicted path", {"Topic": _topic(names.path), "Namespaces": {}}),
        *(_camera(key, names, robot) for key in robot.topic_map.video),
    ]
    view = {"Class": "rviz_default_plugins/Orbit", "Distance": 1.5, "Pitch": 0.5, "Yaw": 0.8, "Value": "Orbit (rviz)"}
    manager = {
        "Class": "",
        "Displays": displays,
        "Enabled": True,
        "Global Options": {"Fixed Frame": root, "Frame Rate": 30, "Background Color": "48; 48; 48"},
        "Name": "root",
        "Tools": [{"Class": f"rviz_default_plugins/{name}"} for name in ("Interact", "MoveCamera", "Measure")],
        "Value": True,
        "Views": {"Current": view, "Saved": None},
    }
    panels = [{"Class": "rviz_common/Displays", "Name": "Displays"}, {"Class": "rviz_common/Views", "Name": "Views"}]
    return yaml.safe_dump({"Panels": panels, "Visualization Manager": manager}, sort_keys=False)


def _camera(key: str, names: NodeNames, robot: ViewedRobot) -> dict[str, Any]:
    topic = robot.topic_map.streams[robot.topic_map.video[key].stream].topic  # its last part names the transport
    return _display("Image", f"Camera {key}", {"Topic": _topic(names.topic(topic), reliability="Best Effort")})


def _display(kind: str, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"Class": f"rviz_default_plugins/{kind}", "Name": name, "Enabled": True, **settings, "Value": True}


def _topic(name: str, *, reliability: str = "Reliable", durability: str = "Volatile") -> dict[str, Any]:
    return {
        "Depth": 5,
        "Durability Policy": durability,
        "History Policy": "Keep Last",
        "Reliability Policy": reliability,
        "Value": name,
    }
