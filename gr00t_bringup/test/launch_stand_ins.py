# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Load launch files without a ROS installation, and turn them into the commands that launch would run.

`launch` and `launch_ros` are not pip packages. Where they are not installed, the few classes that the suite's launch
files use are replaced, with the behavior of Humble and Jazzy: arguments without a value are refused, parameters
in a dict go through YAML into a file with the node's full name as section, files are passed in order.
A node is never started by these; `Node.command` is what launch would execute.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

LAUNCH_FOLDER = Path(__file__).resolve().parents[1] / "launch"


class LaunchContext:
    def __init__(self, *, argv: list[str] | None = None) -> None:
        self.argv = argv or []
        self.launch_configurations: dict[str, str] = {}
        self.pushed: list[dict[str, str]] = []


class LaunchDescription:
    def __init__(self, entities: list[Any]) -> None:
        self.entities = entities


class LaunchConfiguration:
    def __init__(self, name: str) -> None:
        self._name = name

    def perform(self, context: LaunchContext) -> str:
        return context.launch_configurations[self._name]


class DeclareLaunchArgument:
    def __init__(self, name: str, *, default_value: str, description: str, choices: list[str] | None = None) -> None:
        self.name, self.description, self.choices, self._default = name, description, choices, default_value
        if choices is not None and default_value not in choices:
            raise RuntimeError(f'Provided default_value "{default_value}" is not in provided choices "{choices}".')

    def visit(self, context: LaunchContext) -> None:
        value = context.launch_configurations.setdefault(self.name, self._default)
        if self.choices is not None and value not in self.choices:
            raise RuntimeError(f'Argument "{self.name}" provided value "{value}" is not valid. {self.choices}')


class OpaqueFunction:
    def __init__(self, *, function: Any) -> None:
        self._function = function

    def visit(self, context: LaunchContext) -> list[Any] | None:
        return self._function(context)


class PushLaunchConfigurations:
    def visit(self, context: LaunchContext) -> None:
        context.pushed.append(dict(context.launch_configurations))


class PopLaunchConfigurations:
    def visit(self, context: LaunchContext) -> None:
        context.launch_configurations = context.pushed.pop()


class Shutdown:
    """Given as `on_exit`: launch ends with the node."""


class Node:
    """Takes what `launch_ros.actions.Node` takes."""

    def __init__(self, *, package: str, executable: str, name: str, namespace: str, parameters: list[Any], **more: Any):
        self.package, self.executable, self.parameters = package, executable, parameters
        self._name, self._namespace, self._arguments = name, namespace, more.pop("arguments")
        self.additional_env = more.pop("additional_env")
        self.timeouts_s = float(more.pop("sigterm_timeout")), float(more.pop("sigkill_timeout"))
        self.ends_launch = isinstance(more.pop("on_exit"), sys.modules["launch.actions"].Shutdown)
        assert more == {"output": "screen"}

    def visit(self, context: LaunchContext) -> None:
        outer = context.launch_configurations.get("ros_namespace", "").rstrip("/")
        namespace = self._namespace if self._namespace.startswith("/") else f"{outer}/{self._namespace}"
        self.namespace = "/" + namespace.strip("/")
        self.full_name = f"{self.namespace.rstrip('/')}/{self._name}"

    def command(self) -> list[str]:
        remaps = ["-r", f"__node:={self._name}", "-r", f"__ns:={self.namespace}"]
        files = [part for entry in self.parameters for part in ("--params-file", self._parameter_file(entry))]
        return [self.executable, *self._arguments, "--ros-args", *remaps, *files]

    def _parameter_file(self, entry: Any) -> str:
        if isinstance(entry, (str, Path)):
            return str(entry)
        values = {name: yaml.safe_load(yaml.dump(value)) for name, value in entry.items()}
        with tempfile.NamedTemporaryFile("w", prefix="launch_params_", suffix=".yaml", delete=False) as file:
            yaml.dump({self.full_name: {"ros__parameters": values}}, file, default_flow_style=False)
        return file.name


@contextmanager
def launch_modules() -> Iterator[None]:
    """Make `launch` importable. `Node` is always the one above: the real one needs a running launch service."""
    modules = {name: ModuleType(name) for name in ("launch_ros", "launch_ros.actions")}
    modules["launch_ros.actions"].Node = Node
    spec = importlib.util.find_spec("launch")
    if spec is None or spec.origin is None:  # the suite's own folder of this name is a namespace package
        modules |= {name: ModuleType(name) for name in ("launch", "launch.actions", "launch.substitutions")}
        modules["launch"].LaunchContext, modules["launch"].LaunchDescription = LaunchContext, LaunchDescription
        modules["launch.actions"].DeclareLaunchArgument = DeclareLaunchArgument
        modules["launch.actions"].OpaqueFunction = OpaqueFunction
        modules["launch.actions"].PushLaunchConfigurations = PushLaunchConfigurations
        modules["launch.actions"].PopLaunchConfigurations = PopLaunchConfigurations
        modules["launch.actions"].Shutdown = Shutdown
        modules["launch.substitutions"].LaunchConfiguration = LaunchConfiguration
    before = {name: sys.modules.get(name) for name in (*modules, "gr00t_bringup.ros.launching")}
    sys.modules.update(modules)
    sys.modules.pop("gr00t_bringup.ros.launching", None)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def declared_arguments(file: str) -> dict[str, Any]:
    """Return the declared arguments of a launch file by name."""
    with launch_modules():
        description = runpy.run_path(str(LAUNCH_FOLDER / file))["generate_launch_description"]()
    return {entity.name: entity for entity in description.entities if hasattr(entity, "choices")}


def launch(file: str, *words: str, outer_namespace: str = "") -> list[Node]:
    """Do what `ros2 launch gr00t_bringup FILE name:=value ...` does, up to the start of the nodes, and return these."""
    for word in words:
        if word.count(":=") == 0 or word.startswith(":=") or (word.count(":=") == 1 and word.endswith(":=")):
            raise RuntimeError(f"malformed launch argument '{word}', expected format '<name>:=<value>'")
    with launch_modules():
        context = sys.modules["launch"].LaunchContext(argv=list(words))
        context.launch_configurations.update(word.split(":=", maxsplit=1) for word in words)
        if outer_namespace:
            context.launch_configurations["ros_namespace"] = outer_namespace
        return include(context, file)


def include(context: Any, file: str) -> list[Node]:
    """Do what an IncludeLaunchDescription of a file does in the context of the launch file around it."""
    nodes = []
    for entity in runpy.run_path(str(LAUNCH_FOLDER / file))["generate_launch_description"]().entities:
        for node in entity.visit(context) or []:
            node.visit(context)
            nodes.append(node)
    return nodes
