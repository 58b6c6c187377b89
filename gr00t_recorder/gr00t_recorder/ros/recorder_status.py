# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What recorder_node publishes of itself."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
from gr00t_msgs.msg import RecorderStatus, StreamStatus
from rclpy.time import Time

from gr00t_recorder.episodes import RecorderState
from gr00t_recorder.ros.recorder_session import RecorderSession
from gr00t_recorder.ros.status import key_value, marks_message, stream_statuses

STATES = {
    RecorderState.IDLE: RecorderStatus.IDLE,
    RecorderState.RECORDING: RecorderStatus.RECORDING,
    RecorderState.SAVING: RecorderStatus.SAVING,
    RecorderState.FAILED: RecorderStatus.FAILED,
}


def recorder_status(session: RecorderSession, warning: str, now: Time) -> RecorderStatus:
    """Return the status at `now`; `warning` is what goes wrong in the running episode."""
    recorder, num_episodes = session.recorder, session.dataset.num_episodes
    recording = recorder.recording
    status = RecorderStatus(
        state=STATES[recorder.state],
        reason=recorder.reason,
        warning=warning,
        dataset_path=str(session.dataset.path),
        episode_index=num_episodes,
        episodes=num_episodes,
        task=recording.run.task if recording else session.control.next_task(),
        frames=recorder.num_frames,
        queued=len(recording.backlog) if recording else 0,
        spilled=recording.backlog.num_on_disk if recording else 0,
        progress=recording.progress if recording else 1.0,
        duration=recorder.duration_s(now.nanoseconds),
        marks=marks_message(recorder.marks),
        can_redo=recording is not None or recorder.last is not None,
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


def recorder_diagnostic(node_name: str, session: RecorderSession, warning: str) -> DiagnosticStatus:
    """Return the diagnostic of the recorder itself."""
    recorder, disk, bags = session.recorder, session.disk, session.bags
    recording = recorder.recording
    failure = recorder.reason if recorder.state is RecorderState.FAILED else ""
    error = failure or (bags.recording.reason if bags else "")
    error = error or disk.refusal(session.settings.min_episode_s, session.bag_bytes_per_s)
    level = DiagnosticStatus.ERROR if error else DiagnosticStatus.WARN if warning else DiagnosticStatus.OK
    return DiagnosticStatus(
        level=level,
        name=f"{node_name}: recorder",
        message=error or warning or recorder.reason or recorder.state.value,
        hardware_id=str(session.dataset.path),
        values=[
            key_value("free disk [GB]", disk.free_bytes / 1e9),
            key_value("room for [s]", disk.left_s(session.bag_bytes_per_s)),
            key_value("episodes", session.dataset.num_episodes),
            key_value("frames", recorder.num_frames),
            key_value("queued frames", len(recording.backlog) if recording else 0),
            key_value("frames on disk", recording.backlog.num_on_disk if recording else 0),
            key_value("bag messages dropped", bags.recording.num_dropped if bags else 0),
        ],
    )


def session_streams(session: RecorderSession, now_ns: int) -> list[StreamStatus]:
    """Return how every stream is doing."""
    topic_name = session.ingest.topic_name if session.ingest else None
    return stream_statuses(session.assembler.reports(now_ns), topic_name)
