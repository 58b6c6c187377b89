# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Publish status and diagnostics of a policy node, and log when its state changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from diagnostic_msgs.msg import DiagnosticArray
from gr00t_msgs.msg import PolicyStatus
from rclpy.lifecycle import LifecycleNode

from gr00t_policy_node.control.changes import ChangeFilter
from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.state import ControlState
from gr00t_policy_node.observing import Observer
from gr00t_policy_node.ros.diagnostics import policy_diagnostics, policy_status
from gr00t_policy_node.ros.task_server import LATCHED
from gr00t_policy_node.timing import Measurements, StageTimers, Summarizer
from gr00t_recorder.ros.clock_watch import create_steady_timer
from gr00t_recorder.ros.status import diagnostic_array, stream_diagnostics, stream_statuses
from gr00t_training.io.text import printable

STATUS_PERIOD_S = 1.0


class StatusPublisher:
    """`~/status` and `/diagnostics`, in every lifecycle state; also while the node's clock does not advance."""

    def __init__(
        self,
        node: LifecycleNode,
        embodiment: str,
        controller: Controller,
        observer: Observer,
        timers: StageTimers,
        *,
        input_fault: Callable[[], str],
        topic_name: Callable[[str], str],
    ) -> None:
        """Create publishers, their timer and the thread that summarizes the measurements.

        Args:
            node: owner of the interfaces.
            embodiment: its name.
            controller: state and counts, smoothness of the chunks.
            observer: gates and streams.
            timers: stages and ages.
            input_fault: returns why the inputs cannot be used now, empty if they can.
            topic_name: returns the fully qualified topic of a stream.
        """
        self._node, self._embodiment = node, embodiment
        self._controller, self._observer, self._timers = controller, observer, timers
        self._input_fault, self._topic_name = input_fault, topic_name
        self._changes = ChangeFilter()
        with ExitStack() as opened:
            self._summarizer = Summarizer(self._measured, STATUS_PERIOD_S)
            opened.callback(self._summarizer.close)
            self._status = node.create_publisher(PolicyStatus, "~/status", LATCHED)
            opened.callback(node.destroy_publisher, self._status)
            self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 5)
            opened.callback(node.destroy_publisher, self._diagnostics)
            opened.callback(node.destroy_timer, create_steady_timer(node, STATUS_PERIOD_S, self._publish_all))
            self._opened = opened.pop_all()

    def close(self) -> None:
        """End the thread and destroy the interfaces."""
        self._opened.close()

    def publish_change(self) -> None:
        """Log and publish the state if it changed; for every control tick."""
        report, now_s = self._controller.report(), time.monotonic()
        text = f"{report.state.value}{': ' if report.reason else ''}{report.reason}"
        if report.device:
            text += f"; '{report.device}' has control"
        if report.teleop_fault:
            text += f"; {printable(report.teleop_fault)}"
        # numbers in a reason change at every tick
        ending = self._changes.note("".join(c for c in text if not c.isdigit()), now_s)
        if ending is not None:
            log, text = self._node.get_logger(), f"{text}{ending}"
            if report.state in (ControlState.HOLDING, ControlState.STOPPED):
                log.warning(text)
            else:
                log.info(text)
        if self._changes.is_status_due(now_s):
            self.publish()

    def publish(self) -> None:
        """Publish the status now."""
        self._status.publish(
            policy_status(
                self._node.get_clock().now(),
                self._embodiment,
                self._controller.report(),
                dict(self._observer.gates),
                self._summarizer.newest,
                stream_statuses(self._observer.reports(), self._topic_name),
                self._input_fault(),
            )
        )

    def _publish_all(self) -> None:
        self.publish()
        name, report = self._node.get_fully_qualified_name(), self._controller.report()
        gates, measured = dict(self._observer.gates), self._summarizer.newest
        statuses = [
            *policy_diagnostics(name, report, gates, measured, self._input_fault()),
            *stream_diagnostics(name, self._observer.reports()),
        ]
        self._diagnostics.publish(diagnostic_array(self._node.get_clock().now(), statuses))

    # In the summarizer's thread.

    def _measured(self) -> Measurements:
        return Measurements(tuple(self._timers.describe()), tuple(self._controller.jitter.describe()))
