# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn stream reports into messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from gr00t_msgs.msg import EpisodeMarks, StreamStatus
from rclpy.time import Time

from gr00t_recorder.topics.streams import StreamReport, StreamState
from gr00t_training.dataset.quality import Marks
from gr00t_training.io.text import printable

STATES = {
    StreamState.OK: StreamStatus.OK,
    StreamState.WAITING: StreamStatus.WAITING,
    StreamState.STALE: StreamStatus.STALE,
    StreamState.INVALID: StreamStatus.INVALID,
}
LEVELS = {
    StreamState.OK: DiagnosticStatus.OK,
    StreamState.WAITING: DiagnosticStatus.WARN,
    StreamState.STALE: DiagnosticStatus.STALE,
    StreamState.INVALID: DiagnosticStatus.ERROR,
}
NO_AGE_S = -1.0
MAX_REASON = 1000  # [characters]; reasons quote names that others chose
ANSWERS = {None: EpisodeMarks.UNKNOWN, True: EpisodeMarks.YES, False: EpisodeMarks.NO}


def marks_message(marks: Marks) -> EpisodeMarks:
    """Return marks as a message."""
    return EpisodeMarks(success=ANSWERS[marks.is_success], valid=ANSWERS[marks.is_valid], note=marks.note)


def marks_of(message: EpisodeMarks) -> Marks:
    """Return the marks of a message; a value that is not a constant counts as unknown."""
    said = {number: answer for answer, number in ANSWERS.items()}
    return Marks(said.get(message.success), said.get(message.valid), message.note.strip())


def stream_statuses(
    reports: Iterable[StreamReport], topic_name: Callable[[str], str] | None = None
) -> list[StreamStatus]:
    """Return one message per stream; `topic_name` gives the fully qualified topic of a stream where it is known."""
    return [
        StreamStatus(
            name=report.name,
            topic=topic_name(report.name) if topic_name else report.topic,
            state=STATES[report.state],
            reason=printable(report.reason, MAX_REASON),
            rate=report.rate_hz,
            age=NO_AGE_S if report.age_s is None else max(report.age_s, 0.0),
            max_age=report.max_age_s,
            received=report.received,
            used=report.used,
            late=report.late,
            dropped=report.dropped + report.invalid,
        )
        for report in reports
    ]


def stream_diagnostics(node_name: str, reports: Iterable[StreamReport]) -> list[DiagnosticStatus]:
    """Return one diagnostic per stream, named `<node>: <stream>`."""
    return [
        DiagnosticStatus(
            level=max(LEVELS[report.state], DiagnosticStatus.WARN if report.conflict else DiagnosticStatus.OK),
            name=f"{node_name}: {report.name}",
            message=printable(report.reason or report.conflict, MAX_REASON) or "ok",
            hardware_id=report.topic,
            values=_key_values(report),
        )
        for report in reports
    ]


def diagnostic_array(now: Time, statuses: Iterable[DiagnosticStatus]) -> DiagnosticArray:
    """Wrap diagnostics for `/diagnostics`."""
    array = DiagnosticArray(status=list(statuses))
    array.header.stamp = now.to_msg()
    return array


def key_value(key: str, value: object) -> KeyValue:
    """Return one entry of a diagnostic."""
    return KeyValue(key=key, value=f"{value:.3f}" if isinstance(value, float) else str(value))


def _key_values(report: StreamReport) -> list[KeyValue]:
    return [
        key_value("rate [Hz]", report.rate_hz),
        key_value("age [s]", NO_AGE_S if report.age_s is None else report.age_s),
        key_value("max_age [s]", report.max_age_s),
        key_value("received", report.received),
        key_value("used", report.used),
        key_value("late", report.late),
        key_value("dropped", report.dropped),
        key_value("invalid", report.invalid),
        key_value("conflicts", report.conflicts),
        key_value("zero stamps", report.zero_stamps),
        key_value("clock resets", report.clock_resets),
    ]
