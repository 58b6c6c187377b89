# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep a node alive with any request to its built-in services.

rclpy raises inside the callback for a lifecycle transition that is not possible or a parameter of an unknown type. The
exception would end the executor, and with it a node that drives a robot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node

from gr00t_training.io.text import one_line, printable

PACKAGES = ("lifecycle_msgs", "rcl_interfaces", "type_description_interfaces")  # of the services that rclpy makes


def guard_services(node: Node) -> None:
    """Make the built-in services of rclpy answer an impossible request with failure instead of an exception."""
    for service in node.services:
        package = service.srv_type.__module__.partition(".")[0]
        if package in PACKAGES and not getattr(service.callback, "is_guarded", False):
            service.callback = _guarded(node, service.srv_name, service.callback)


def _guarded(node: Node, name: str, callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def answer(request: Any, response: Any) -> Any:
        refusal = _transition_refusal(node, request)
        if refusal:
            node.get_logger().warning(refusal)
            return response  # success is false in a new response
        try:
            return callback(request, response)
        except Exception as error:
            found = printable(one_line(f"{type(error).__name__}: {error}"), 500)
            node.get_logger().error(f"{name}: request refused: {found}")
            return type(response)()

    answer.is_guarded = True  # type: ignore[attr-defined]
    return answer


def _transition_refusal(node: Node, request: Any) -> str:
    """Return why a lifecycle transition is not possible; empty for one that is, and for other requests."""
    machine: Any = getattr(node, "_state_machine", None)
    if machine is None or type(request).__name__ != "ChangeState_Request":
        return ""
    # rclpy's order: (id, label, start id, start label, goal id, goal label)
    possible = {label: number for number, label, *_ in machine.available_transitions}
    wanted = request.transition
    if wanted.label in possible if wanted.label else wanted.id in possible.values():
        return ""
    what = f"'{printable(wanted.label)}'" if wanted.label else f"with id {wanted.id}"
    state = machine.current_state[1]
    return f"lifecycle transition {what} refused in state '{state}'; possible: {', '.join(possible)}"
