# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The services of recorder_node: requests to wishes, outcomes to error codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gr00t_msgs.srv import DiscardLastEpisode, MarkEpisode, RedoEpisode, SetTask, StartEpisode, StopEpisode
from rclpy.callback_groups import CallbackGroup
from std_srvs.srv import Trigger

from gr00t_recorder.control import Refusal, RefusedError
from gr00t_recorder.episodes import Recording
from gr00t_recorder.ros.operator_thread import NotActiveError, OperatorThread
from gr00t_recorder.ros.recorder_session import RecorderSession
from gr00t_recorder.ros.status import marks_message, marks_of
from gr00t_training.dataset.trace import Marks

T = TypeVar("T")
START_CODES = {
    Refusal.BUSY: StartEpisode.Response.BUSY,
    Refusal.STREAMS_NOT_READY: StartEpisode.Response.STREAMS_NOT_READY,
    Refusal.DISK_FULL: StartEpisode.Response.DISK_FULL,
    Refusal.NO_TASK: StartEpisode.Response.NO_TASK,
    Refusal.WRITE_FAILED: StartEpisode.Response.WRITE_FAILED,
}
REDO_CODES = {
    **START_CODES,
    Refusal.NO_EPISODE: RedoEpisode.Response.NOTHING_TO_REDO,
    Refusal.WRITE_FAILED: RedoEpisode.Response.WRITE_FAILED,
}
MARK_CODES = {
    Refusal.NO_EPISODE: MarkEpisode.Response.NO_EPISODE,
    Refusal.BUSY: MarkEpisode.Response.WRITE_FAILED,
    Refusal.WRITE_FAILED: MarkEpisode.Response.WRITE_FAILED,
}
DISCARD_CODES = {
    Refusal.BUSY: DiscardLastEpisode.Response.BUSY,
    Refusal.NO_EPISODE: DiscardLastEpisode.Response.NO_EPISODE,
    Refusal.WRITE_FAILED: DiscardLastEpisode.Response.WRITE_FAILED,
}
NOT_ACTIVE = "the recorder is not active; configure and activate it first"


class Recorder(Protocol):
    """What the services need of the node."""

    operator: OperatorThread

    @property
    def session(self) -> RecorderSession | None: ...
    def create_service(self, srv_type: Any, srv_name: str, callback: Any, *, callback_group: CallbackGroup) -> Any: ...
    def get_logger(self) -> Any: ...
    def now_ns(self) -> int: ...
    async def operate(self, action: Callable[[RecorderSession], T]) -> T: ...
    def taken_back(self, folder: Path) -> None: ...
    def stop(
        self, session: RecorderSession, keep: bool, end_ns: int, marks: Marks | None = None
    ) -> Recording | None: ...


class RecorderServices:
    """Offers the services; they answer NOT_ACTIVE until the node is active."""

    def __init__(self, recorder: Recorder, group: CallbackGroup) -> None:
        self._recorder = recorder
        services: list[tuple[Any, str, Any]] = [  # coroutines, which rclpy awaits but does not declare
            (StartEpisode, "~/start_episode", self._on_start),
            (StopEpisode, "~/stop_episode", self._on_stop),
            (Trigger, "~/cancel_episode", self._on_cancel),
            (RedoEpisode, "~/redo_episode", self._on_redo),
            (DiscardLastEpisode, "~/discard_last_episode", self._on_discard_last),
            (MarkEpisode, "~/mark_episode", self._on_mark),
            (SetTask, "~/set_task", self._on_set_task),
        ]
        for kind, name, callback in services:
            recorder.create_service(kind, name, callback, callback_group=group)

    async def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        start_ns = self._recorder.now_ns()
        try:
            recording = await self._recorder.operate(lambda session: session.control.start(request.task, start_ns))
        except RefusedError as error:
            response.error_code, response.error_msg = START_CODES[error.refusal], str(error)
        except NotActiveError:
            response.error_code, response.error_msg = StartEpisode.Response.NOT_ACTIVE, NOT_ACTIVE
        else:
            response.episode_index = recording.index
        return response

    async def _on_stop(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        end_ns, marks = self._recorder.now_ns(), marks_of(request.marks)
        try:
            recording = await self._recorder.operate(
                lambda session: self._recorder.stop(session, request.keep, end_ns, marks)
            )
        except NotActiveError:
            recording = None
        if recording is None:
            response.error_code, response.error_msg = StopEpisode.Response.NOT_RECORDING, "no episode is running"
            return response
        result = await self._recorder.operator.completion(recording.done)
        response.episode_index, response.frames = result.index, result.num_frames
        response.error_msg, response.marks = result.reason, marks_message(result.marks)
        if result.is_empty:
            response.error_code = StopEpisode.Response.TOO_SHORT
        elif not result.is_saved and not result.is_discarded:
            response.error_code = StopEpisode.Response.SAVE_FAILED
        elif request.keep and result.is_discarded:
            response.error_code = StopEpisode.Response.CANCELLED
        return response

    async def _on_cancel(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        # not in the operator's thread, which may be waiting for the very save that is to be cancelled
        session = self._recorder.session
        recording = session.recorder.recording if session is not None else None
        if session is None or recording is None or not session.recorder.cancel(self._recorder.now_ns()):
            response.message = "no episode is running"
            return response
        result = await self._recorder.operator.completion(recording.done)
        response.success = not result.is_saved
        response.message = "cancelled" if response.success else f"too late: saved as episode {result.index}"
        return response

    async def _on_redo(self, request: RedoEpisode.Request, response: RedoEpisode.Response) -> RedoEpisode.Response:
        try:
            recording = await self._recorder.operate(
                lambda session: session.control.redo(self._recorder.now_ns, self._recorder.taken_back)
            )
        except RefusedError as error:
            response.error_code, response.error_msg = REDO_CODES[error.refusal], str(error)
        except NotActiveError:
            response.error_code, response.error_msg = StartEpisode.Response.NOT_ACTIVE, NOT_ACTIVE
        else:
            response.episode_index = recording.index
        return response

    async def _on_discard_last(
        self, request: DiscardLastEpisode.Request, response: DiscardLastEpisode.Response
    ) -> DiscardLastEpisode.Response:
        try:
            index, folder = await self._recorder.operate(lambda session: session.control.discard_last())
            self._recorder.taken_back(folder)
        except RefusedError as error:
            response.error_code, response.error_msg = DISCARD_CODES[error.refusal], str(error)
        except NotActiveError:
            response.error_code, response.error_msg = DiscardLastEpisode.Response.NOT_ACTIVE, NOT_ACTIVE
        else:
            response.episode_index, response.moved_to = index, str(folder)
            self._recorder.get_logger().info(f"took episode {index} out of the dataset; its files are in {folder}")
        return response

    async def _on_mark(self, request: MarkEpisode.Request, response: MarkEpisode.Response) -> MarkEpisode.Response:
        index = None if request.episode_index < 0 else request.episode_index
        try:
            found, marks = await self._recorder.operate(
                lambda session: session.control.mark(marks_of(request.marks), index)
            )
        except RefusedError as error:
            response.error_code, response.error_msg = MARK_CODES[error.refusal], str(error)
        except NotActiveError:
            response.error_code, response.error_msg = MarkEpisode.Response.NOT_ACTIVE, NOT_ACTIVE
        else:
            response.episode_index, response.marks = found, marks_message(marks)
        return response

    async def _on_set_task(self, request: SetTask.Request, response: SetTask.Response) -> SetTask.Response:
        try:
            await self._recorder.operate(lambda session: session.control.set_task(request.task))
        except RefusedError as error:
            response.error_code, response.error_msg = SetTask.Response.EMPTY, str(error)
        except NotActiveError:
            response.error_code, response.error_msg = SetTask.Response.NOT_ACTIVE, NOT_ACTIVE
        return response
