# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests to recorder_node by markers on the events topic. Nobody gets an answer; refusals go to the log."""

from __future__ import annotations

import dataclasses
from typing import Any

from rclpy.node import Node

from gr00t_recorder.episodes.events import EpisodeEvent, EventKind, parse_event
from gr00t_recorder.episodes.requests import DiscardLast, Mark, RunningEpisode, Start, Stop, check_note
from gr00t_recorder.episodes.run import EpisodeResult
from gr00t_recorder.ros.recorder_requests import RecorderRequests
from gr00t_recorder.ros.status import MAX_REASON
from gr00t_recorder.topics.frames import DEFAULT_HORIZON_S
from gr00t_training.dataset.quality import Marks
from gr00t_training.errors import ObservationError
from gr00t_training.io.text import TextError, printable


class RecorderMarkers:
    """Follows the markers."""

    def __init__(self, node: Node, requests: RecorderRequests) -> None:
        self._node = node
        self._requests = requests

    def on_message(self, stream: str, message: Any, receive_ns: int) -> None:
        """Follow a message of the events topic; runs in the ingest thread."""
        session = self._requests.active_session
        if session is None or not session.settings.use_events:
            return
        events = session.assembler.topic_map.events
        if events is None or stream != events.stream:
            return
        try:
            event = parse_event(message.data)
        except ObservationError as error:
            self._node.get_logger().error(f"{error}; ignored")
            return
        if not event.recorder:  # with a name, a recorder reports what has happened
            self._follow(event, receive_ns)

    def _follow(self, event: EpisodeEvent, time_ns: int) -> None:
        subject = f"{event.kind.value} marker"
        if event.kind is EventKind.START:
            start = Start(event.task, time_ns, check_streams=False, wait_for_save=True)
            self._requests.send(start, subject, self._on_start)
        elif event.kind is EventKind.TAKE_BACK:
            self._requests.send(DiscardLast(), subject)
        elif event.kind is EventKind.MARK:
            self._requests.send(Mark(self._storable(event.marks)), subject)
        else:
            stop = Stop(event.kind is EventKind.STOP, time_ns, self._storable(event.marks))
            self._requests.send(stop, subject, lambda result: self._on_stop(subject, result))

    def _on_start(self, episode: RunningEpisode) -> None:
        for reason in episode.not_ready:
            self._node.get_logger().warning(f"start marker: {printable(reason, MAX_REASON)}; waiting for it")
        if episode.late_s > DEFAULT_HORIZON_S:
            text = f"saving took {episode.late_s:.1f} s: the beginning of the next episode may be missing"
            self._node.get_logger().warning(text)

    def _on_stop(self, subject: str, result: EpisodeResult | None) -> None:
        if result is None:
            self._node.get_logger().error(f"{subject} ignored: no episode is running")

    def _storable(self, marks: Marks) -> Marks:
        """Return the marks of a marker, without a note that cannot be stored: the episode ends anyway."""
        try:
            return check_note(marks)
        except TextError as error:
            self._node.get_logger().warning(f"marker: {error}; the note is left out")
            return dataclasses.replace(marks, note="")
