# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A layout file for Foxglove (and Lichtblick, its open fork), with the topics that a robot and its nodes have.

The format is that of layouts which the application exports and imports: panels by id in `configById`, and their
arrangement as a tree of splits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gr00t_bringup.controls import ARRAY
from gr00t_bringup.views.names import DESCRIPTION_TOPIC, NodeNames
from gr00t_bringup.views.robot import ViewedRobot
from gr00t_recorder.topics.codecs import vector_type
from gr00t_recorder.topics.commands import TWIST_COMPONENTS, CommandConfig

SECONDS = 20  # of the curves that are shown
DIAGNOSTICS = "/diagnostics"
_COMMAND_FIELDS = {
    "trajectory_msgs/msg/JointTrajectory": "points[0].positions",
    "sensor_msgs/msg/JointState": "position",
    ARRAY: "data",
}


def foxglove_layout(robot: ViewedRobot, names: NodeNames, *, root: str = "", description: str = "") -> str:
    """Return the JSON of a layout with a tab for the policy and one for the recorder.

    Args:
        robot: whose topics are shown.
        names: of its nodes.
        root: root link of its URDF, which adds a 3D panel with the predicted path; empty: none.
        description: topic of the URDF; empty: `robot_description`.
    """
    panels: dict[str, Any] = {}
    cameras = _cameras(panels, robot, names)
    scene = _scene(panels, names, root, description or DESCRIPTION_TOPIC) if root else None
    policy = _policy_tab(panels, robot, names, cameras if scene is None else [scene, *cameras])
    recorder = _recorder_tab(panels, robot, names)
    tabs = [{"title": "Policy", "layout": policy}, {"title": "Recorder", "layout": recorder}]
    panels["Tab!robot"] = {"activeTabIdx": 0, "tabs": tabs}
    layout = {
        "configById": panels,
        "globalVariables": {},
        "userNodes": {},
        "playbackConfig": {"speed": 1},
        "layout": "Tab!robot",
    }
    return json.dumps(layout, indent=1) + "\n"


def _policy_tab(panels: dict[str, Any], robot: ViewedRobot, names: NodeNames, views: list[str]) -> Any:
    status, chunk = names.topic(f"{names.policy}/status"), names.topic(f"{names.policy}/action_chunk")
    actions = [name for key in robot.embodiment.action_keys for name in robot.embodiment.action[key].names]
    rows = [(f"{chunk}.data[{i}]", f"next {name}") for i, name in enumerate(actions)]
    latencies = [
        (f"{status}.{stage}_latency_{quantile}", f"{stage} {quantile}")
        for stage in ("inference", "observation")
        for quantile in ("p50", "p95")
    ]
    counts = ("limited_commands", "underruns", "refused_observations", "violations")
    curves = [
        _plot(panels, "measured joints", _states(robot, names)),
        _plot(panels, "commands", _commands(robot, names)),
        _plot(panels, "first row of each chunk", rows),
    ]
    numbers = [
        _plot(panels, "latency [s]", latencies),
        _plot(panels, "counts", [(f"{status}.{name}", name) for name in counts]),
        _transitions(panels, "policy", [f"{status}.state", f"{status}.command_source", f"{status}.reason"]),
    ]
    buttons = [
        _button(panels, "STOP", names.topic(f"{names.policy}/stop"), "{}", "#d0021b"),
        _button(panels, "Hold", names.topic(f"{names.policy}/hold"), "{}", "#4a90d9"),
        _button(panels, "Resume", names.topic(f"{names.policy}/resume"), "{}", "#3a9a4a"),
        _button(panels, "Reset after a stop", names.topic(f"{names.policy}/reset"), "{}", "#4a90d9"),
    ]
    panels["DiagnosticSummary!all"] = _diagnostics()
    below = _split("row", [*numbers, "DiagnosticSummary!all", _split("column", buttons)])
    above = _split("row", [*([_split("column", views)] if views else []), _split("column", curves)])
    return _split("column", [above, below], first_percent=65)


def _recorder_tab(panels: dict[str, Any], robot: ViewedRobot, names: NodeNames) -> Any:
    status = names.topic(f"{names.recorder}/status")
    views = _cameras(panels, robot, names, "recorded ")
    rows = [(f"{status}.{name}", name) for name in ("frames", "queued", "spilled")]
    joints = [*_states(robot, names), *_actions(robot, names)]
    curves = [_plot(panels, "recorded joints", joints), _plot(panels, "rows", rows)]
    states = [f"{status}.state", f"{status}.task", f"{status}.warning"]
    panels["RawMessages!recorder"] = {"topicPath": status, "diffEnabled": False, "diffMethod": "custom"}
    service, red, blue, green = names.topic(names.recorder), "#d0021b", "#4a90d9", "#3a9a4a"
    buttons = [
        _button(panels, "Start", f"{service}/start_episode", "{}", blue),
        _button(panels, "Keep", f"{service}/stop_episode", '{"keep": true}', green),
        _button(panels, "Discard", f"{service}/stop_episode", '{"keep": false}', red),
    ]
    below = [_transitions(panels, "recorder", states), "RawMessages!recorder", _split("column", buttons)]
    above = _split("row", [*([_split("column", views)] if views else []), _split("column", curves)])
    return _split("column", [above, _split("row", below)], first_percent=65)


def _cameras(panels: dict[str, Any], robot: ViewedRobot, names: NodeNames, prefix: str = "") -> list[str]:
    found = []
    for key, binding in robot.topic_map.video.items():
        topic = names.topic(robot.topic_map.streams[binding.stream].topic)
        panel = f"Image!{prefix}{key}".replace(" ", "_")
        panels[panel] = {"cameraTopic": topic, "imageMode": {"imageTopic": topic}, "foxglovePanelTitle": key}
        found.append(panel)
    return found


def _scene(panels: dict[str, Any], names: NodeNames, root: str, description: str) -> str:
    urdf = {
        "layerId": "foxglove.Urdf",
        "sourceType": "topic",
        "topic": names.topic(description),
        "visible": True,
        "label": "URDF",
        "instanceId": "urdf",
        "displayMode": "auto",
    }
    panels["3D!scene"] = {
        "followTf": root,
        "followMode": "follow-pose",
        "topics": {names.path: {"visible": True}},
        "layers": {"urdf": urdf},
        "scene": {},
        "transforms": {},
    }
    return "3D!scene"


def _states(robot: ViewedRobot, names: NodeNames) -> list[tuple[str, str]]:
    return _vectors(robot, names, "state")


def _actions(robot: ViewedRobot, names: NodeNames) -> list[tuple[str, str]]:
    return _vectors(robot, names, "action")


def _vectors(robot: ViewedRobot, names: NodeNames, kind: str) -> list[tuple[str, str]]:
    """Return paths of the values in the messages; their order in a JointState is that of its publisher."""
    bindings = robot.topic_map.state if kind == "state" else robot.topic_map.action
    declared = robot.embodiment.state if kind == "state" else robot.embodiment.action
    counts: dict[tuple[str, str], int] = {}
    for key, binding in bindings.items():
        config = robot.topic_map.streams[binding.stream]
        field = binding.field or vector_type(config.type).field
        if field and not binding.fields and not binding.frames and field not in ("pose", "twist"):
            place = (config.topic, _foxglove_path(field))
            counts[place] = counts.get(place, binding.start) + declared[key].dim
    return [
        (f"{names.topic(topic)}.{field}[{i}]", f"{kind} {topic}[{i}]")
        for (topic, field), count in counts.items()
        for i in range(count)
    ]


def _commands(robot: ViewedRobot, names: NodeNames) -> list[tuple[str, str]]:
    return [path for control in robot.controls for path in _command(control.config, control.channels, names)]


def _command(config: CommandConfig, channels: Sequence[str], names: NodeNames) -> list[tuple[str, str]]:
    topic = names.topic(config.topic)
    field = _COMMAND_FIELDS.get(config.type)
    if field is not None:
        return [(f"{topic}.{field}[{i}]", name) for i, name in enumerate(channels)]
    inside = "twist." if config.type.endswith("Stamped") else ""
    parts = config.names or TWIST_COMPONENTS
    return [(f"{topic}.{inside}{part}", name) for part, name in zip(parts, channels, strict=True)]


def _foxglove_path(field: str) -> str:
    """Return a field path of a topic map in Foxglove's form: `points.0.positions` is `points[0].positions`."""
    found = ""
    for word in field.split("."):
        found += f"[{word}]" if word.lstrip("-").isdigit() else f".{word}"
    return found.lstrip(".")


def _plot(panels: dict[str, Any], title: str, paths: Sequence[tuple[str, str]]) -> str:
    panel = f"Plot!{title}".replace(" ", "_")
    panels[panel] = {
        "title": title,
        "foxglovePanelTitle": title,
        "paths": [
            {"value": value, "label": label, "enabled": True, "timestampMethod": "receiveTime"}
            for value, label in paths
        ],
        "showLegend": True,
        "legendDisplay": "floating",
        "showPlotValuesInLegend": False,
        "showXAxisLabels": True,
        "showYAxisLabels": True,
        "isSynced": True,
        "xAxisVal": "timestamp",
        "followingViewWidth": SECONDS,
    }
    return panel


def _transitions(panels: dict[str, Any], title: str, paths: Sequence[str]) -> str:
    panel = f"StateTransitions!{title}"
    panels[panel] = {
        "paths": [
            {"value": path, "label": path.rpartition(".")[2], "timestampMethod": "receiveTime"} for path in paths
        ],
        "isSynced": True,
    }
    return panel


def _button(panels: dict[str, Any], text: str, service: str, request: str, color: str) -> str:
    panel = f"CallService!{text}".replace(" ", "_")
    panels[panel] = {
        "serviceName": service,
        "requestPayload": request,
        "layout": "vertical",
        "editingMode": False,
        "buttonText": text,
        "buttonColor": color,
        "foxglovePanelTitle": text,
    }
    return panel


def _diagnostics() -> dict[str, Any]:
    return {"topicToRender": DIAGNOSTICS, "minLevel": 0, "pinnedIds": [], "hardwareIdFilter": "", "sortByLevel": True}


def _split(direction: str, parts: Sequence[Any], *, first_percent: float | None = None) -> Any:
    """Return parts of equal size as a tree, in which every split has two."""
    if len(parts) == 1:
        return parts[0]
    return {
        "direction": direction,
        "first": parts[0],
        "second": _split(direction, parts[1:]),
        "splitPercentage": 100.0 / len(parts) if first_percent is None else first_percent,
    }
