# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Status, diagnostics and readiness of recorder_node."""

from __future__ import annotations

import dataclasses
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gr00t_msgs.msg import RecorderStatus, StreamStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time

from gr00t_recorder.episodes.view import RecorderState, RecorderView
from gr00t_recorder.ros.recorder_session import RecorderSession
from gr00t_recorder.ros.status import (
    MAX_REASON,
    diagnostic_array,
    key_value,
    marks_message,
    stream_diagnostics,
    stream_statuses,
)
from gr00t_training.io.text import printable

STATUS_PERIODS = 20  # 1 Hz
BUSY_STATUS_PERIODS = 4  # 5 Hz while an episode is running
WAIT_LOG_S = 3.0  # after activation; streams take a second to be discovered
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STATES = {
    RecorderState.IDLE: RecorderStatus.IDLE,
    RecorderState.RECORDING: RecorderStatus.RECORDING,
    RecorderState.SAVING: RecorderStatus.SAVING,
    RecorderState.FAILED: RecorderStatus.FAILED,
}


class StatusPublisher:
    """Publishes status and diagnostics of a recorder node, and logs when episodes can start."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._status = node.create_lifecycle_publisher(RecorderStatus, "~/status", LATCHED)
        # the one absolute name: diagnostics are collected there whatever the namespace (REP 107)
        self._diagnostics = node.create_lifecycle_publisher(DiagnosticArray, "/diagnostics", 10)
        self._published: RecorderView | None = None
        self._num_periods = 0
        self._activated_s = 0.0
        self._has_logged_ready = self._has_logged_wait = True

    def activate(self, session: RecorderSession) -> None:
        """Begin with a status."""
        self._activated_s, self._has_logged_ready, self._has_logged_wait = time.monotonic(), False, False
        self.publish(session)

    def on_period(self, session: RecorderSession, clock_fault: str) -> None:
        """Publish what is due; call it every 50 ms while the node is active."""
        self._num_periods += 1
        if not self._has_logged_ready and self._num_periods % BUSY_STATUS_PERIODS == 0:
            self._log_readiness(session, clock_fault)
        view = session.recorder.view
        period = BUSY_STATUS_PERIODS if view.state.is_busy else STATUS_PERIODS
        if self._num_periods % period == 0 or _without_counts(view) != self._published:
            self.publish(session)
        if self._num_periods % STATUS_PERIODS == 0:
            self._publish_diagnostics(session)
            if session.bags is not None:
                session.bags.discover()

    def publish(self, session: RecorderSession) -> None:
        """Publish the status."""
        self._published = _without_counts(session.recorder.view)
        self._status.publish(recorder_status(session, self._node.get_clock().now()))

    def _publish_diagnostics(self, session: RecorderSession) -> None:
        now, name = self._node.get_clock().now(), self._node.get_fully_qualified_name()
        streams = stream_diagnostics(name, session.assembler.health.reports(now.nanoseconds))
        self._diagnostics.publish(diagnostic_array(now, [recorder_diagnostic(name, session), *streams]))

    def _log_readiness(self, session: RecorderSession, clock_fault: str) -> None:
        """Log once that episodes can be started, and before that what they wait for."""
        not_ready = session.assembler.health.unready(self._node.get_clock().now().nanoseconds)
        reasons = "; ".join(filter(None, [session.fault(), clock_fault, *not_ready]))
        if not reasons:
            self._has_logged_ready = True
            self._node.get_logger().info(ready_text(session, self._node.get_fully_qualified_name()))
        elif not self._has_logged_wait and time.monotonic() - self._activated_s > WAIT_LOG_S:
            self._has_logged_wait = True
            text = f"active, but no episode can start yet: {printable(reasons, MAX_REASON)}"
            self._node.get_logger().warning(text)


def _without_counts(view: RecorderView) -> RecorderView:
    """Return what makes a status due at once when it changes."""
    return dataclasses.replace(view, num_frames=0, num_queued=0, num_on_disk=0, progress=1.0)


def recorder_status(session: RecorderSession, now: Time) -> RecorderStatus:
    """Return the status at `now`."""
    view = session.recorder.view
    fault = "" if view.episode else session.fault()
    status = RecorderStatus(
        state=RecorderStatus.FAILED if fault else STATES[view.state],
        reason=printable(fault or view.reason, MAX_REASON),
        warning=printable(view.warning, MAX_REASON),
        dataset_path=str(session.dataset.path),
        episode_index=view.num_episodes,
        episodes=view.num_episodes,
        task=view.task,
        frames=view.num_frames,
        queued=view.num_queued,
        spilled=view.num_on_disk,
        progress=view.progress,
        duration=view.duration_s(now.nanoseconds),
        marks=marks_message(view.marks),
        ended_by_itself=view.can_decide,
        can_redo=view.episode is not None or view.last is not None,
        disk_free=session.disk.free_bytes,
        disk_duration=session.disk.left_s(session.bag_bytes_per_s),
        streams=session_streams(session, now.nanoseconds),
    )
    if session.bags is not None:
        bag = session.bags.recording
        status.bag_path = str(bag.folder or "")
        status.bag_messages, status.bag_dropped = bag.num_messages, bag.num_dropped
    status.header.stamp = now.to_msg()
    return status


def ready_text(session: RecorderSession, node_name: str) -> str:
    """Return the line that says what is recorded where, and how to start an episode."""
    dataset, topic_map = session.dataset, session.assembler.topic_map
    streams = ", ".join(f"{status.name} ({status.topic})" for status in session_streams(session, 0))
    ways = [f"service {node_name}/start_episode", f"gr00t_record --node {node_name}"]
    if topic_map.events is not None and session.settings.use_events and session.ingest is not None:
        ways.append(f"a marker on {session.ingest.topic_name(topic_map.events.stream)}")
    if session.settings.joy_topic and session.settings.joy_start >= 0:
        ways.append(f"button {session.settings.joy_start} on {session.settings.joy_topic}")
    count = f"{dataset.num_episodes} episode{'' if dataset.num_episodes == 1 else 's'}"
    return f"ready: dataset {dataset.path} ({count}); streams {streams}; start with {' or '.join(ways)}"


def recorder_diagnostic(node_name: str, session: RecorderSession) -> DiagnosticStatus:
    """Return the diagnostic of the recorder itself."""
    view, disk, bags = session.recorder.view, session.disk, session.bags
    failure = session.fault() or (view.reason if view.state is RecorderState.FAILED else "")
    error = failure or (bags.recording.reason if bags else "")
    error = error or disk.refusal(session.settings.min_episode_s, session.bag_bytes_per_s)
    level = DiagnosticStatus.ERROR if error else DiagnosticStatus.WARN if view.warning else DiagnosticStatus.OK
    return DiagnosticStatus(
        level=level,
        name=f"{node_name}: recorder",
        message=printable(error or view.warning or view.reason or view.state.value, MAX_REASON),
        hardware_id=str(session.dataset.path),
        values=[
            key_value("free disk [GB]", disk.free_bytes / 1e9),
            key_value("room for [s]", disk.left_s(session.bag_bytes_per_s)),
            key_value("episodes", view.num_episodes),
            key_value("frames", view.num_frames),
            key_value("queued frames", view.num_queued),
            key_value("frames on disk", view.num_on_disk),
            key_value("bag messages dropped", bags.recording.num_dropped if bags else 0),
        ],
    )


def session_streams(session: RecorderSession, now_ns: int) -> list[StreamStatus]:
    """Return how every stream is doing."""
    topic_name = session.ingest.topic_name if session.ingest else None
    return stream_statuses(session.assembler.health.reports(now_ns), topic_name)
