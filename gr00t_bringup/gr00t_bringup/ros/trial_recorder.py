# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Have a recorder node write each trial as an episode: kept with the verdict, dropped when the trial does not count."""

from __future__ import annotations

import time
from pathlib import Path

from gr00t_msgs.msg import EpisodeMarks, RecorderStatus
from gr00t_msgs.srv import DiscardLastEpisode, MarkEpisode, StartEpisode, StopEpisode
from rclpy.task import Future

from gr00t_bringup.ros.task_giver import LATCHED, DemoError, TaskGiver
from gr00t_training.io.text import printable

ANSWER_TIMEOUT_S = 120.0
RETRY_S = 0.5
NOTE = "rollout"  # in the marks of each episode


class TrialRecorder:
    """Requests to a recorder node, one episode at a time."""

    def __init__(self, node: TaskGiver, dataset: Path) -> None:
        """Watch the recorder, which must write to this dataset."""
        self._node, self._dataset = node, dataset
        self._status: RecorderStatus | None = None
        self._is_running = False  # the episode of this trial
        self._saving: Future | None = None  # it has been stopped
        node.create_subscription(RecorderStatus, "recorder/status", self._on_status, LATCHED)
        self._start = node.create_client(StartEpisode, "recorder/start_episode")
        self._stop = node.create_client(StopEpisode, "recorder/stop_episode")
        self._mark = node.create_client(MarkEpisode, "recorder/mark_episode")
        self._discard = node.create_client(DiscardLastEpisode, "recorder/discard_last_episode")

    def is_idle(self) -> bool:
        """Whether it can start.

        Raises:
            DemoError: it writes to another dataset.
        """
        if self._status is None:
            return False
        path = Path(self._status.dataset_path).expanduser().resolve()
        if path != self._dataset:
            found = f"recorder: it writes to {printable(str(path))}"
            raise DemoError(f"{found}, --record-to is {self._dataset}; give both the same folder")
        return self._status.state == RecorderStatus.IDLE

    def start(self, task: str) -> str:
        """Ask for an episode; return why there is none, empty if it runs."""
        self._saving = None
        if not self.is_idle():
            return "the recorder is not idle"
        answer = self._node.call(self._start, StartEpisode.Request(task=task))
        self._is_running = not answer.error_code
        return printable(answer.error_msg) if answer.error_code else ""

    def start_soon(self, task: str) -> None:
        """Ask until it runs: it may be behind, as nobody waits for it in lock-step.

        Raises:
            DemoError: it does not start.
        """
        end_s = time.monotonic() + ANSWER_TIMEOUT_S
        while refusal := self.start(task):
            if time.monotonic() > end_s:
                raise DemoError(f"recorder: {refusal}")
            self._node.spin_for(RETRY_S)

    def stop(self) -> None:
        """Begin to end the episode and keep it, without waiting: a robot that is to stop does not wait either."""
        self._is_running = False
        self._saving = self._stop.call_async(StopEpisode.Request(keep=True, marks=EpisodeMarks(note=NOTE)))

    def judge(self, *, is_success: bool) -> str:
        """Mark the episode that was stopped, if there is one; return why it is not kept or marked, empty if it is."""
        if self._saving is None:
            return ""
        saved = self._saved()
        if saved.error_code:
            self._saving = None
            return f"not recorded: {printable(saved.error_msg)}"
        success = EpisodeMarks.YES if is_success else EpisodeMarks.NO
        marks = EpisodeMarks(success=success, note=NOTE)
        marked = self._node.call(self._mark, MarkEpisode.Request(marks=marks))
        return f"recorded without a mark: {printable(marked.error_msg)}" if marked.error_code else ""

    def drop(self) -> None:
        """Take back the episode of this trial, if there is one and the recorder is there.

        Raises:
            DemoError: it does not answer.
        """
        if self._is_running and self._stop.service_is_ready():
            self._node.call(self._stop, StopEpisode.Request(keep=False))
        elif self._saving is not None and self._discard.service_is_ready() and not self._saved().error_code:
            self._node.call(self._discard, DiscardLastEpisode.Request())
        self._is_running, self._saving = False, None

    def _saved(self) -> StopEpisode.Response:
        assert self._saving is not None
        return self._node.reply(self._saving, "saved episode", ANSWER_TIMEOUT_S)

    def _on_status(self, message: RecorderStatus) -> None:
        self._status = message
