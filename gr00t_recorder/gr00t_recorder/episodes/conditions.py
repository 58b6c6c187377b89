# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""When an episode may start, what goes wrong while it runs, and when it has to end. Decides and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

from gr00t_recorder.episodes.disk import DiskBudget
from gr00t_recorder.episodes.requests import Refusal, RefusedError
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.io.text import MAX_INSTRUCTION, check_instruction

NO_ROWS_S = 10.0  # an episode without a row for so long will have none


class Conditions:
    """What the episodes of one recorder depend on: streams, clock, dataset folder and disk."""

    def __init__(
        self,
        assembler: FrameAssembler,
        disk: DiskBudget,
        *,
        min_episode_s: float,
        extra_bytes_per_s: Callable[[], float] = lambda: 0.0,
        clock_fault: Callable[[], str] = lambda: "",
        dataset_fault: Callable[[], str] = lambda: "",
    ) -> None:
        """Judge one recorder.

        Args:
            assembler: reports the streams.
            disk: free space.
            min_episode_s: no episode starts that could not be recorded for so long.
            extra_bytes_per_s: what is written in addition to the dataset.
            clock_fault: why no time passes; empty if it does.
            dataset_fault: why the dataset cannot take an episode; empty if it can.
        """
        self.disk = disk
        self.clock_fault = clock_fault
        self._assembler = assembler
        self._min_episode_s = min_episode_s
        self._extra_bytes_per_s = extra_bytes_per_s
        self._dataset_fault = dataset_fault

    def check_start(self, task: str, now_ns: int, *, check_streams: bool) -> str:
        """Return the task of an episode that may start.

        Raises:
            RefusedError: it may not.
            TextError: the task is too long or not plain text.
        """
        fault = self._dataset_fault()
        if fault:
            raise RefusedError(Refusal.WRITE_FAILED, fault)
        if not task:
            raise RefusedError(
                Refusal.NO_TASK,
                "no task text: none in the request, set before, on the task topic or as parameter 'task'",
            )
        task = check_instruction(task, "the task")
        clock_fault = self.clock_fault()
        if clock_fault:
            raise RefusedError(Refusal.CLOCK_STOPPED, clock_fault)
        reasons = self._assembler.health.unready(now_ns) if check_streams else []
        if reasons:
            raise RefusedError(Refusal.STREAMS_NOT_READY, "; ".join(reasons))
        shortage = self.disk.refusal(self._min_episode_s, self._extra_bytes_per_s())
        if shortage:
            raise RefusedError(Refusal.DISK_FULL, shortage)
        return task

    def warnings(self, now_ns: int, *, is_running: bool) -> dict[str, str]:
        """Return what is wrong with the streams, by stream.

        Args:
            now_ns: the present time.
            is_running: whether streams are needed now; otherwise only that two publishers send the same channels.
        """
        topic_map = self._assembler.topic_map
        needed = {binding.stream for binding in topic_map.bindings.values() if binding.required and is_running}
        found = {}
        for report in self._assembler.health.reports(now_ns):
            subject = f"stream '{report.name}' ({report.topic})"
            if report.conflict:
                found[report.name] = f"{subject} has conflicting publishers: {report.conflict}"
            elif report.name in needed and report.reason:
                found[report.name] = f"{subject} is {report.state.value}: {report.reason}"
        return found

    def end_reason(self, *, waiting_s: float, num_rows: int, duration_s: float, warning: str) -> str:
        """Return why a running episode must end now; empty if it may continue.

        Args:
            waiting_s: length of what is recorded but not encoded yet.
            num_rows: taken so far.
            duration_s: since its start.
            warning: what is wrong at present.
        """
        fault = self._dataset_fault()
        if fault:
            return fault
        if self.disk.is_ending(waiting_s, self._extra_bytes_per_s()):
            free_gb, reserve_gb = self.disk.free_bytes / 1e9, self.disk.reserve_bytes / 1e9
            return f"{free_gb:.1f} GB are free on the disk (reserve {reserve_gb:g} GB); make room for the next episode"
        if not num_rows and duration_s > NO_ROWS_S:
            return f"no row within {NO_ROWS_S:g} s" + (f": {warning}" if warning else "")
        return ""


class NextTask:
    """Task text of an episode that is started without one: the newest of a request and the task topic."""

    def __init__(self, assembler: FrameAssembler, task: str) -> None:
        """Begin with a task, which may be empty."""
        self._assembler = assembler
        self._task = task.strip()
        self._topic_changes: int | None = None  # of the task topic at the time of `set`; None: never set

    def set(self, task: str) -> None:
        """Use a task until the task topic publishes another text; TextError when it is not plain text."""
        self._task = check_instruction(task, "the task")
        stream = self._assembler.topic_map.task
        self._topic_changes = self._assembler.store.num_text_changes(stream.stream) if stream else 0

    def get(self) -> str:
        """Return the task, empty if there is none. It is cut at the length limit, and not checked otherwise."""
        stream = self._assembler.topic_map.task
        text = self._assembler.store.text(stream.stream).strip() if stream else ""
        if stream and text and self._topic_changes != self._assembler.store.num_text_changes(stream.stream):
            return text[: MAX_INSTRUCTION + 1]
        return self._task
