# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the documentation's reference from the code: `make reference`.

python -m gr00t_test_support.ros.reference docs/reference

Topics, services and actions are those that each node has when it runs with the files of the simulated arm.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rclpy.action.graph import get_action_client_names_and_types_by_node, get_action_server_names_and_types_by_node
from rclpy.node import Node

from gr00t_bringup.commands import COMMANDS as BRINGUP
from gr00t_bringup.robots import compact_checkpoint, robot_file
from gr00t_console.commands import COMMANDS as CONSOLE
from gr00t_policy_node.commands import COMMANDS as POLICY
from gr00t_recorder.commands import COMMANDS as RECORDER
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_test_support.reference import GENERATED, commands_page, files_page, messages_page, settings_table, table
from gr00t_test_support.ros.nodes import Peer, parameter_arguments
from gr00t_training.cli.commands import COMMANDS as TRAINING

ROOT = Path(__file__).resolve().parents[3]
ROBOT = "sim_arm"
SETTLED_S = 4.0  # nothing new for so long: a node has all that it creates
NODES = {
    "policy": "gr00t_policy_node.ros.policy_node",
    "recorder": "gr00t_recorder.ros.recorder_node",
    "teleop": "gr00t_policy_node.ros.teleop_node",
    "sim": "gr00t_bringup.ros.sim_node",
    "expert": "gr00t_bringup.ros.expert_node",
    "fake_robot": "gr00t_bringup.ros.fake_robot_node",
}
LIFECYCLE = ("policy", "recorder")
_OF_EVERY_NODE = ("parameter", "/get_type_description", "/rosout", "/diagnostics", "/clock")
_OF_LIFECYCLE = (
    "change_state",
    "get_state",
    "get_available_states",
    "get_available_transitions",
    "get_transition_graph",
)


@dataclass(frozen=True)
class Connections:
    """What a running node has, name -> type."""

    publishes: dict[str, str]
    subscribes: dict[str, str]
    services: dict[str, str]
    actions: dict[str, str]
    calls: dict[str, str]


def pages() -> dict[str, str]:
    """Return the pages by file name."""
    return {
        "commands.md": all_commands(),
        "nodes.md": nodes_page(running_connections()),
        "files.md": files_page(),
        "messages.md": messages_page(ROOT / "gr00t_msgs"),
    }


def all_commands() -> str:
    """Return the page of all commands that are not nodes."""
    every = (*TRAINING, *RECORDER, *POLICY, *BRINGUP, *CONSOLE)
    return commands_page([each for each in every if each.word and not each.name.endswith("_node")])


def nodes_page(connections: dict[str, Connections]) -> str:
    """Return the page of nodes."""
    intro = (
        "Names are relative to the namespace, `~` is the node's name. Left out: what every node has (parameter "
        "services, `/diagnostics`, lifecycle services), and the streams and commands of the topic map.\n"
        "Behavior: [Nodes](../nodes.md).\n"
    )
    parts = [f"{GENERATED}# Nodes and parameters\n\n{intro}"]
    for name, module in NODES.items():
        command: NodeCommand = import_module(module).COMMAND
        assert command.settings is not None
        parts.append(f"## {command.name}\n\n{command.purpose} Node name `{name}`.\n")
        parts.append(_connections_table(name, connections[name]))
        parts.append(settings_table(command.settings, "parameter"))
    return "\n".join(part for part in parts if part)


def running_connections() -> dict[str, Connections]:
    """Start every node, each in a domain of its own, and return what it has."""
    topics, limits = robot_file(ROBOT, "topics.yaml"), robot_file(ROBOT, "limits.yaml")
    with tempfile.TemporaryDirectory() as scratch:
        policy = {
            "topics_file": topics,
            "limits_file": limits,
            "checkpoint_path": compact_checkpoint(),
            "device": "cpu",
        }
        given: dict[str, dict[str, Any]] = {
            "policy": {**policy, "autostart": True},
            "recorder": {"topics_file": topics, "dataset_path": f"{scratch}/data", "autostart": True},
            "teleop": {"teleop_file": robot_file(ROBOT, "teleop.yaml")},
            "sim": {},
            "expert": {},
            "fake_robot": {"robot": "so101"},
        }
        found = {name: _running(name, values) for name, values in given.items()}
    return {name: _without_map(each, name, topics) for name, each in found.items()}


def _running(name: str, parameters: dict[str, Any]) -> Connections:
    """Start a node, and return what it has once that stays the same."""
    domain = next_domain()
    with NodeProcess(NODES[name], *parameter_arguments(**parameters), domain=domain), Peer(domain) as peer:
        seen: list[tuple[float, Connections | None]] = [(time.monotonic(), None)]

        def is_settled() -> bool:
            found = _connections(peer.node, name) if name in peer.node.get_node_names() else None
            if found != seen[0][1]:
                seen[0] = (time.monotonic(), found)
            # a lifecycle node has its status when it is configured
            is_complete = found is not None and (name not in LIFECYCLE or "~/status" in found.publishes)
            return is_complete and time.monotonic() - seen[0][0] > SETTLED_S

        peer.until(is_settled, f"{name} is there")
        found = seen[0][1]
        assert found is not None
        return found


def _connections(node: Node, name: str) -> Connections:
    def named(found: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
        return {_relative(each, name): kinds[0] for each, kinds in sorted(found) if _is_own(each)}

    services = node.get_service_names_and_types_by_node(name, "/")
    clients = [
        *node.get_client_names_and_types_by_node(name, "/"),
        *get_action_client_names_and_types_by_node(node, name, "/"),
    ]
    return Connections(
        named(node.get_publisher_names_and_types_by_node(name, "/")),
        named(node.get_subscriber_names_and_types_by_node(name, "/")),
        named(services),
        named(get_action_server_names_and_types_by_node(node, name, "/")),
        named(clients),
    )


def _is_own(name: str) -> bool:
    is_general = any(word in name for word in _OF_EVERY_NODE) or name.rpartition("/")[2] in _OF_LIFECYCLE
    return not is_general and "/_action/" not in name and not name.endswith("/transition_event")


def _relative(name: str, node: str) -> str:
    own = f"/{node}/"
    return f"~/{name.removeprefix(own)}" if name.startswith(own) else name.removeprefix("/")


def _without_map(found: Connections, name: str, topics: Path) -> Connections:
    """Leave out what the topic map names: it differs from robot to robot."""
    if name in ("sim", "expert"):
        return found
    if name == "fake_robot":
        return Connections({}, {}, found.services, found.actions, found.calls)
    topic_map, _ = load_topic_map(topics)
    named = {each.topic.lstrip("/") for each in (*topic_map.streams.values(), *topic_map.commands)}
    publishes = {each: kind for each, kind in found.publishes.items() if each not in named}
    subscribes = {each: kind for each, kind in found.subscribes.items() if each not in named}
    return Connections(publishes, subscribes, found.services, found.actions, found.calls)


def _connections_table(name: str, found: Connections) -> str:
    kinds = {
        "publishes": found.publishes,
        "subscribes to": found.subscribes,
        "service": found.services,
        "action": found.actions,
        "calls": found.calls,
    }
    rows = [(kind, f"`{topic}`", _type(each)) for kind, names in kinds.items() for topic, each in names.items()]
    return table((name, "name", "type"), rows)


def _type(name: str) -> str:
    if not name.startswith("gr00t_msgs/"):
        return name
    return f"[{name}](messages.md#{name.replace('/', '').lower()})"


def main() -> None:
    """Write the pages into the folder that is given."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
