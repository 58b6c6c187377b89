# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Lifecycle node that records topics into a dataset, episode by episode.

Callbacks convert and delegate, and none of them waits. The executor's thread takes messages; the ingest's thread turns
them into rows; the recorder's thread encodes them; and what an operator asks for is done, in order, in a thread of its
own, whether it comes as a service, an action, a marker or from a joystick.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from diagnostic_msgs.msg import DiagnosticArray
from gr00t_msgs.action import RecordEpisode
from gr00t_msgs.msg import RecorderStatus
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # Humble has it nowhere else
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Joy
from std_msgs.msg import String

from gr00t_recorder.bag_recording import BAGS_FOLDER
from gr00t_recorder.buttons import Buttons, Command
from gr00t_recorder.control import RefusedError
from gr00t_recorder.episodes import (
    EpisodeEvent,
    EpisodeResult,
    EventKind,
    RecorderState,
    Recording,
    event_text,
    parse_event,
)
from gr00t_recorder.ros.operator_thread import NotActiveError, OperatorThread
from gr00t_recorder.ros.parameters import declare
from gr00t_recorder.ros.recorder_services import NOT_ACTIVE, RecorderServices
from gr00t_recorder.ros.recorder_session import RecorderSession, open_session
from gr00t_recorder.ros.recorder_settings import RecorderSettings
from gr00t_recorder.ros.recorder_status import recorder_diagnostic, recorder_status, session_streams
from gr00t_recorder.ros.spin import run_node
from gr00t_recorder.ros.status import diagnostic_array, marks_message, stream_diagnostics
from gr00t_recorder.topics.frames import DEFAULT_HORIZON_S
from gr00t_training.dataset.trace import Marks
from gr00t_training.errors import ConfigError, Gr00tError, ObservationError

T = TypeVar("T")
ADVANCE_PERIOD_S = 0.05
STATUS_PERIODS = 20  # 1 Hz
BUSY_STATUS_PERIODS = 4  # 5 Hz while an episode is running
WATCH_PERIOD_S = 0.5
FEEDBACK_PERIODS = 10  # 2 Hz
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class RecorderNode(LifecycleNode):
    """See the module."""

    def __init__(self, **options: Any) -> None:
        """Declare parameters and offer the services; they answer NOT_ACTIVE until the node is active."""
        super().__init__("recorder", **options)
        settings = declare(self, RecorderSettings)
        self._session: RecorderSession | None = None
        self._is_active = False
        self.operator = OperatorThread(self)
        self._goal: tuple[ServerGoalHandle, Recording] | None = None
        self._goal_end_ns: int | None = None
        self._is_end_told = True
        self._joy: Any = None
        self._buttons = Buttons({}, 0.0)
        self._warning = ""
        self._watched_s = 0.0
        self._num_periods = 0
        self._published: tuple[Any, ...] = ()
        # re-entrant: a service that awaits the end of an episode must not keep the others waiting
        group = ReentrantCallbackGroup()
        self._operator_services = RecorderServices(self, group)
        self._action = ActionServer(
            self,
            RecordEpisode,
            "~/record_episode",
            execute_callback=self._on_record,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
            callback_group=group,
        )
        self._status_publisher = self.create_lifecycle_publisher(RecorderStatus, "~/status", LATCHED)
        self._event_publisher = self.create_lifecycle_publisher(String, "~/events", 10)
        # the one absolute name: diagnostics are collected there whatever the namespace (REP 107)
        self._diagnostics_publisher = self.create_lifecycle_publisher(DiagnosticArray, "/diagnostics", 10)
        # steady: status goes on while a simulator stands still
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(ADVANCE_PERIOD_S, self._on_timer, clock=steady)
        if settings.autostart:
            if self.trigger_configure() is not TransitionCallbackReturn.SUCCESS:
                raise ConfigError(f"{self.get_name()}: could not be configured; the log above tells why")
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the topic map, open the dataset and subscribe."""
        try:
            settings = declare(self, RecorderSettings)
            self._session = open_session(self, settings, on_start=self._on_started, on_done=self._on_done)
            self._session.subscribe(self, self._on_message, self._on_wake)
            if settings.joy_topic:
                self._buttons = Buttons(settings.buttons, settings.joy_debounce_s)
                self._joy = self.create_subscription(Joy, settings.joy_topic, self._on_joy, 10)
        except Gr00tError as error:
            self.get_logger().error(f"not configured: {error}")
            self._teardown()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to publish and to accept episodes."""
        result = super().on_activate(state)
        self._is_active = True
        session = self._session
        if session is not None and session.bags is not None and not session.bags.is_per_episode:
            session.bags.begin(session.dataset.path / BAGS_FOLDER, "session")
        self._publish_status(force=True)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save a running episode, then stop publishing."""
        self._is_active = False
        self._finish()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and close the dataset."""
        self._teardown()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save a running episode and release everything."""
        self._teardown()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save a running episode and release everything."""
        self.get_logger().error("a transition failed; releasing everything")
        self._teardown()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Save a running episode before the process ends."""
        self._is_active = False
        self.operator.close()
        self._finish()
        self._teardown()

    def _finish(self) -> None:
        """Save a running episode."""
        if self._session is not None:
            self._session.recorder.finish(self.now_ns())
            self._publish_status(force=True)
            if self._session.bags is not None:
                self._session.bags.recording.end(is_kept=True)

    def _teardown(self) -> None:
        """Release what there is; tolerates a half-built session."""
        self._is_active = False
        session, self._session = self._session, None
        if self._joy is not None:
            self.destroy_subscription(self._joy)
            self._joy = None
        if session is not None:
            session.close(self.now_ns())

    @property
    def session(self) -> RecorderSession | None:
        """What is configured."""
        return self._session

    def now_ns(self) -> int:
        """Return the node's time."""
        return self.get_clock().now().nanoseconds

    async def operate(self, action: Callable[[RecorderSession], T]) -> T:
        """Await what an operator asks for; raises NotActiveError when the node is not active."""
        return await self.operator.do(lambda: self._with_session(action))

    # what an operator asks for

    async def _on_record(self, goal: ServerGoalHandle) -> RecordEpisode.Result:
        request, start_ns = goal.request, self.now_ns()
        try:
            recording = await self.operate(lambda session: session.control.start(request.task, start_ns))
        except (RefusedError, NotActiveError) as error:
            goal.abort()
            text = str(error) or NOT_ACTIVE
            return RecordEpisode.Result(error_code=RecordEpisode.Result.NOT_STARTED, error_msg=text)
        self._goal_end_ns = start_ns + round(request.max_duration * 1e9) if request.max_duration > 0 else None
        self._goal = (goal, recording)
        result = await self.operator.completion(recording.done)
        self._goal = None
        response = RecordEpisode.Result(
            error_msg=result.reason,
            episode_index=result.index,
            frames=result.num_frames,
            marks=marks_message(result.marks),
        )
        if result.is_saved:
            goal.succeed()
        elif result.is_discarded and goal.is_cancel_requested:
            response.error_code = RecordEpisode.Result.CANCELLED
            goal.canceled()
        else:
            is_discarded = result.is_discarded
            response.error_code = RecordEpisode.Result.DISCARDED if is_discarded else RecordEpisode.Result.SAVE_FAILED
            goal.abort()
        return response

    def _on_joy(self, message: Joy) -> None:
        session = self._session
        if session is None or not self._is_active:
            return
        now_ns = self.now_ns()
        is_recording = session.recorder.state is RecorderState.RECORDING
        for command in self._buttons.commands(message.buttons, now_ns, is_recording=is_recording):
            self._submit(
                lambda session, command=command: self._obey(session, command, now_ns), f"button {command.value}"
            )

    def _obey(self, session: RecorderSession, command: Command, now_ns: int) -> None:
        if command is Command.START:
            session.control.start("", now_ns)
        elif command in (Command.STOP, Command.DISCARD):
            self.stop(session, command is Command.STOP, now_ns)
        elif command is Command.REDO:
            session.control.redo(self.now_ns, self.taken_back)
        else:
            session.control.mark(Marks(is_success=command is Command.SUCCESS))

    def _on_message(self, stream: str, message: Any, receive_ns: int) -> None:
        """Follow the markers on the events topic; runs in the ingest thread."""
        session = self._session
        if session is None or not session.settings.use_events or not self._is_active:
            return
        events = session.assembler.topic_map.events
        if events is None or stream != events.stream:
            return
        try:
            event = parse_event(message.data)
        except ObservationError as error:
            self.get_logger().error(f"{error}; ignored")
            return
        self._submit(lambda session: self._follow(session, event, receive_ns), f"{event.kind.value} marker")

    def _follow(self, session: RecorderSession, event: EpisodeEvent, time_ns: int) -> None:
        """Do what a marker of `time_ns` says."""
        if event.kind is EventKind.TAKE_BACK:
            _, folder = session.control.discard_last()
            self.taken_back(folder, is_heard=True)
            return
        if event.kind is not EventKind.START:
            is_kept = event.kind is EventKind.STOP
            if self.stop(session, is_kept, time_ns, event.marks, is_heard=True) is None:
                self.get_logger().error(f"{event.kind.value} marker ignored: no episode is running")
            return
        if session.recorder.state is RecorderState.SAVING:
            # the demonstration has begun: its samples are buffered until the one before it is saved
            session.recorder.wait_until_idle()
        for reason in session.assembler.unready(self.now_ns()):
            self.get_logger().warning(f"start marker: {reason}; waiting for it")
        late_s = (self.now_ns() - time_ns) / 1e9
        if late_s > DEFAULT_HORIZON_S:
            self.get_logger().warning(f"saving took {late_s:.1f} s: the next episode may lack its beginning")
        session.control.start(event.task, time_ns, check_streams=False)

    def stop(
        self,
        session: RecorderSession,
        keep: bool,
        end_ns: int,
        marks: Marks | None = None,
        *,
        reason: str = "",
        is_heard: bool = False,
    ) -> Recording | None:
        """End the running episode; return it, None when none is running."""
        recording = session.recorder.recording
        marks = marks or Marks()
        if not session.recorder.stop(keep=keep, end_ns=end_ns, marks=marks, reason=reason):
            return None
        self._is_end_told = True
        self._tell(EpisodeEvent(EventKind.STOP if keep else EventKind.DISCARD, marks=marks), end_ns, is_heard=is_heard)
        return recording

    def taken_back(self, folder: Path, *, is_heard: bool = False) -> None:
        """Tell that the last saved episode was taken out of the dataset, into `folder`; its own bag follows it."""
        self._tell(EpisodeEvent(EventKind.TAKE_BACK), self.now_ns(), is_heard=is_heard)
        session = self._session
        if session is not None and session.bags is not None and session.bags.is_per_episode:
            session.bags.recording.set_aside(folder)

    def _submit(self, action: Callable[[RecorderSession], object], subject: str) -> None:
        self.operator.submit(lambda: self._with_session(action), subject)

    def _with_session(self, action: Callable[[RecorderSession], T]) -> T:
        session = self._session
        if session is None or not self._is_active:
            raise NotActiveError
        return action(session)

    # what happens to an episode

    def _on_started(self, recording: Recording) -> None:
        session = self._session
        if session is None:
            return
        self.get_logger().info(f"recording episode {recording.index}: {recording.run.task}")
        if session.bags is not None and session.bags.is_per_episode:
            session.bags.begin(session.dataset.path / BAGS_FOLDER, f"episode_{recording.index:06d}")
        self._is_end_told = False
        self._tell(EpisodeEvent(EventKind.START, recording.run.task), recording.start_ns, is_heard=False)

    def _on_done(self, result: EpisodeResult) -> None:
        """Tell how an episode ended; runs in the recorder's worker thread."""
        session = self._session
        if result.is_saved:
            ending = f"; it ended early: {result.reason}" if result.reason else ""
            self.get_logger().info(f"saved episode {result.index}: {result.num_frames} rows{ending}")
        elif result.is_discarded:
            self.get_logger().info("discarded the episode")
        else:
            self.get_logger().error(f"episode not saved: {result.reason}")
        if session is None:
            return
        if not self._is_end_told or result.is_discarded:
            kind = EventKind.STOP if result.is_saved else EventKind.DISCARD
            self._tell(EpisodeEvent(kind, marks=result.marks), self.now_ns(), is_heard=False)
        if session.bags is not None and session.bags.is_per_episode:
            # what failed is kept: the episode may still be made from it
            custom = {"episode_index": str(result.index), "is_saved": str(result.is_saved).lower(), "task": result.task}
            session.bags.recording.end(is_kept=not result.is_discarded, custom=custom)
        session.disk.measure(session.dataset.num_frames)

    def _tell(self, event: EpisodeEvent, time_ns: int, *, is_heard: bool) -> None:
        """Publish a marker and write it into the bag."""
        session = self._session
        self._event_publisher.publish(String(data=event_text(event)))
        if session is not None and session.bags is not None:
            session.bags.mark(event, time_ns, is_heard=is_heard)

    def _on_timer(self) -> None:
        session = self._session
        if session is None or session.ingest is None:
            return
        self._num_periods += 1
        session.ingest.wake()
        self._watch_goal(session)
        if not self._is_active:
            return
        period = BUSY_STATUS_PERIODS if session.recorder.is_busy else STATUS_PERIODS
        self._publish_status(force=self._num_periods % period == 0)
        if self._num_periods % STATUS_PERIODS == 0:
            self._publish_diagnostics(session)
            if session.bags is not None:
                session.bags.discover()

    def _on_wake(self) -> None:
        """Take the rows that are certain; runs in the ingest thread."""
        session = self._session
        if session is None:
            return
        session.recorder.advance(self.now_ns())
        if time.monotonic() - self._watched_s >= WATCH_PERIOD_S:
            self._watched_s = time.monotonic()
            self._watch_episode(session)

    def _watch_episode(self, session: RecorderSession) -> None:
        """Note what goes wrong, and end the episode while it can still be saved."""
        recording = session.recorder.recording
        if recording is None or session.recorder.state is not RecorderState.RECORDING:
            self._warning = ""
            return
        reasons = session.control.warnings(self.now_ns())
        session.recorder.warn(reasons)
        warning = "; ".join(reasons.values())
        if warning and not self._warning:
            self.get_logger().warning(f"episode {recording.index}: {warning}")
        self._warning = warning
        waiting_s = len(recording.backlog) / session.assembler.embodiment.fps
        if session.disk.is_ending(waiting_s, session.bag_bytes_per_s):
            reason = (
                f"the disk has {session.disk.free_bytes / 1e9:.1f} GB left, "
                f"{session.settings.min_free_disk_gb:g} are its reserve; make room before the next episode"
            )
            self._end(recording, True, self.now_ns(), reason)

    def _watch_goal(self, session: RecorderSession) -> None:
        """End the action's episode on cancel or at its time limit, and give feedback."""
        if self._goal is None or session.recorder.state is not RecorderState.RECORDING:
            return
        (goal, recording), now_ns, end_ns = self._goal, self.now_ns(), self._goal_end_ns
        if goal.is_cancel_requested:
            self._end(recording, False, now_ns)
        elif end_ns is not None and now_ns >= end_ns:
            self._end(recording, True, end_ns)
        elif self._num_periods % FEEDBACK_PERIODS == 0:
            feedback = RecordEpisode.Feedback(
                duration=session.recorder.duration_s(now_ns),
                frames=session.recorder.num_frames,
                streams=session_streams(session, now_ns),
            )
            goal.publish_feedback(feedback)

    def _end(self, recording: Recording, keep: bool, end_ns: int, reason: str = "") -> None:
        """Have this very episode ended; by the time it is done, another may be running."""

        def end(session: RecorderSession) -> None:
            if session.recorder.recording is recording:
                self.stop(session, keep, end_ns, reason=reason)

        self._submit(end, "end of the episode")

    def _publish_status(self, *, force: bool) -> None:
        session = self._session
        if session is None:
            return
        recorder = session.recorder
        current = (recorder.state, recorder.reason, session.dataset.num_episodes, recorder.marks, self._warning)
        current = (*current, recorder.task or session.control.next_task())
        if force or current != self._published:
            self._published = current
            self._status_publisher.publish(recorder_status(session, self._warning, self.get_clock().now()))

    def _publish_diagnostics(self, session: RecorderSession) -> None:
        now = self.get_clock().now()
        status = recorder_diagnostic(self.get_name(), session, self._warning)
        streams = stream_diagnostics(self.get_name(), session.assembler.reports(now.nanoseconds))
        self._diagnostics_publisher.publish(diagnostic_array(now, [status, *streams]))


def main() -> int:
    """Run the node until it is told to end."""
    return run_node(RecorderNode)


if __name__ == "__main__":
    sys.exit(main())
