# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The action RecordEpisode of recorder_node."""

from __future__ import annotations

from gr00t_msgs.action import RecordEpisode
from gr00t_msgs.msg import ErrorCode
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import LifecycleNode

from gr00t_recorder.episodes.requests import RefusedError, RunningEpisode, Start, Stop
from gr00t_recorder.ros.error_codes import refusal_code, result_code
from gr00t_recorder.ros.recorder_requests import RecorderRequests
from gr00t_recorder.ros.recorder_session import RecorderSession
from gr00t_recorder.ros.recorder_status import session_streams
from gr00t_recorder.ros.status import MAX_REASON, marks_message
from gr00t_training.io.text import TextError, printable

FEEDBACK_PERIODS = 10  # 2 Hz


class RecorderAction:
    """Serves the action; one goal at a time records."""

    def __init__(self, node: LifecycleNode, requests: RecorderRequests, group: CallbackGroup) -> None:
        """Offer the action."""
        self._requests = requests
        self._goal: tuple[ServerGoalHandle, RunningEpisode] | None = None
        self._end_ns: int | None = None  # its time limit
        self._num_periods = 0
        self._action = ActionServer(
            node,
            RecordEpisode,
            "~/record_episode",
            execute_callback=self._on_record,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
            callback_group=group,
        )

    async def _on_record(self, goal: ServerGoalHandle) -> RecordEpisode.Result:
        request, start_ns = goal.request, self._requests.now_ns()
        try:
            episode = await self._requests.ask(Start(request.task, start_ns))
        except (RefusedError, TextError) as error:
            goal.abort()
            return RecordEpisode.Result(error_code=refusal_code(error), error_msg=printable(str(error), MAX_REASON))
        self._end_ns = start_ns + round(request.max_duration * 1e9) if request.max_duration > 0 else None
        self._goal = (goal, episode)
        result = await self._requests.completion(episode.ended)
        self._goal = None
        response = RecordEpisode.Result(
            error_code=result_code(result),
            error_msg=printable(result.reason, MAX_REASON),
            episode_index=result.index,
            frames=result.num_frames,
            marks=marks_message(result.marks),
        )
        if result.is_saved:
            goal.succeed()
        elif result.is_discarded and goal.is_cancel_requested:
            response.error_code = ErrorCode.CANCELLED
            goal.canceled()
        else:
            goal.abort()
        return response

    def watch(self, session: RecorderSession) -> None:
        """End the goal's episode on cancel or at its time limit, and give feedback; call it at each period."""
        self._num_periods += 1
        view = session.recorder.view
        if self._goal is None or not view.is_recording:
            return
        (goal, episode), now_ns, end_ns = self._goal, self._requests.now_ns(), self._end_ns
        if goal.is_cancel_requested:
            self._requests.send(Stop(False, now_ns, only=episode), "end of the episode")
        elif end_ns is not None and now_ns >= end_ns:
            reason = f"time limit of {goal.request.max_duration:g} s"
            self._requests.send(Stop(True, end_ns, reason=reason, only=episode), "end of the episode")
        elif self._num_periods % FEEDBACK_PERIODS == 0:
            feedback = RecordEpisode.Feedback(
                duration=view.duration_s(now_ns), frames=view.num_frames, streams=session_streams(session, now_ns)
            )
            goal.publish_feedback(feedback)
