# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Lifecycle node that records topics into a dataset, episode by episode.

Callbacks convert and delegate: streams go to the frame assembler, episodes to `gr00t_recorder.episodes`. Nothing here
waits: services and the action await the end of an episode while the executor goes on taking messages.
"""

from __future__ import annotations

import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gr00t_msgs.action import RecordEpisode
from gr00t_msgs.msg import RecorderStatus
from gr00t_msgs.srv import StartEpisode, StopEpisode
from rclpy.action.server import ActionServer, CancelResponse, ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # Humble has it nowhere else
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from gr00t_recorder.episodes import EpisodeRecorder, EpisodeResult, EventKind, RecorderState, parse_event
from gr00t_recorder.ros.ingest import TopicIngest
from gr00t_recorder.ros.parameters import declare
from gr00t_recorder.ros.spin import run_node
from gr00t_recorder.ros.status import diagnostic_array, key_value, stream_diagnostics, stream_statuses
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_recorder.topics.frames import DEFAULT_HORIZON_S, FrameAssembler
from gr00t_training.dataset.video import VideoCodec, VideoSettings
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ConfigError, Gr00tError, ObservationError
from gr00t_training.settings import setting

ADVANCE_PERIOD_S = 0.05
STATUS_PERIODS = 20  # 1 Hz
FEEDBACK_PERIODS = 10  # 2 Hz
STATES = {
    RecorderState.IDLE: RecorderStatus.IDLE,
    RecorderState.RECORDING: RecorderStatus.RECORDING,
    RecorderState.SAVING: RecorderStatus.SAVING,
    RecorderState.FAILED: RecorderStatus.FAILED,
}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class RecorderSettings:
    """Parameters of the node."""

    topics_file: str = setting("", "Topic map, a YAML file; empty is refused at configure.")
    dataset_path: str = setting("", "Dataset folder, appended to when it exists; empty is refused at configure.")
    task: str = setting("", "Task text where neither the request nor the task topic gives one.")
    use_events: bool = setting(True, "Whether markers on the events topic start and stop episodes.")
    min_free_disk_gb: float = setting(2.0, "Free space below which no episode starts [GB].", ge=0.0, le=10000.0)
    max_lag_s: float = setting(
        1.0, "Longest wait for a slow stream before its last sample is used [s].", ge=0.05, le=10.0
    )
    max_queued_frames: int = setting(200, "Rows that may wait for the video encoder.", ge=10, le=10000)
    video_codec: VideoCodec = setting(VideoCodec.H264, "Video codec of the dataset.")
    video_crf: int = setting(20, "Constant rate factor of the video: lower is better and larger.", ge=0, le=51)
    autostart: bool = setting(False, "Whether the node configures and activates itself.", read_only=True)


@dataclass
class _Session:
    """What exists between configure and cleanup."""

    settings: RecorderSettings
    assembler: FrameAssembler
    dataset: DatasetWriter
    recorder: EpisodeRecorder
    ingest: TopicIngest | None = None


class RecorderNode(LifecycleNode):
    """See the module."""

    def __init__(self, **options: Any) -> None:
        """Declare parameters and offer the services; they answer NOT_ACTIVE until the node is active."""
        super().__init__("recorder", **options)
        settings = declare(self, RecorderSettings)
        self._session: _Session | None = None
        self._is_active = False
        self._lock = threading.Lock()  # one start at a time: services and markers come in different threads
        self._waiters: list[Future] = []
        self._pending: tuple[str, int] | None = None  # task and time of a start marker that came during a save
        self._goal: ServerGoalHandle | None = None
        self._goal_end_ns: int | None = None
        self._num_periods = 0
        self._published: tuple[Any, ...] = ()
        # re-entrant: a service that awaits the end of an episode must not keep the others waiting
        group = ReentrantCallbackGroup()
        self.create_service(StartEpisode, "~/start_episode", self._on_start, callback_group=group)
        stop: Any = self._on_stop  # a coroutine, which rclpy awaits but does not declare
        self.create_service(StopEpisode, "~/stop_episode", stop, callback_group=group)
        self._action = ActionServer(
            self,
            RecordEpisode,
            "~/record_episode",
            execute_callback=self._on_record,
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
            callback_group=group,
        )
        self._status_publisher = self.create_lifecycle_publisher(RecorderStatus, "~/status", LATCHED)
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
            self._session = self._open()
            session = self._session
            session.ingest = TopicIngest(
                self, session.assembler.topic_map.streams, session.assembler, on_message=self._on_message
            )
        except Gr00tError as error:
            self.get_logger().error(f"not configured: {error}")
            self._teardown()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to publish and to accept episodes."""
        result = super().on_activate(state)
        self._is_active = True
        self._publish_status(force=True)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Save a running episode, then stop publishing."""
        self._is_active = False
        if self._session is not None:
            self._session.recorder.finish(self._now_ns())
            self._publish_status(force=True)
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
        if self._session is not None:
            self._session.recorder.finish(self._now_ns())
            self._publish_status(force=True)
        self._teardown()

    def _open(self) -> _Session:
        settings = declare(self, RecorderSettings)
        for name in ("topics_file", "dataset_path"):
            if not getattr(settings, name):
                raise ConfigError(f"parameter '{name}' is empty; set it in the parameters file")
        topic_map, embodiment = load_topic_map(settings.topics_file)
        if not topic_map.action:
            raise ConfigError(
                f"{settings.topics_file}: no action is bound; a recording without actions teaches nothing"
            )
        horizon_s = DEFAULT_HORIZON_S + settings.max_lag_s
        assembler = FrameAssembler(topic_map, embodiment, horizon_s=horizon_s)
        video = VideoSettings(codec=settings.video_codec, crf=settings.video_crf)
        dataset = DatasetWriter(Path(settings.dataset_path).expanduser(), embodiment, video=video)
        recorder = EpisodeRecorder(
            assembler,
            dataset,
            source=self.get_fully_qualified_name(),
            max_lag_s=settings.max_lag_s,
            max_queued_frames=settings.max_queued_frames,
            on_done=self._on_done,
        )
        return _Session(settings, assembler, dataset, recorder)

    def _teardown(self) -> None:
        """Release what there is; tolerates a half-built session."""
        self._is_active = False
        session, self._session = self._session, None
        if session is None:
            return
        if session.ingest is not None:
            session.ingest.close()
        session.recorder.close(self._now_ns())
        session.dataset.close()

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
        if event.kind is EventKind.START and session.recorder.state is RecorderState.SAVING:
            # the demonstration has begun: its samples are buffered until the one before it is saved
            self._pending = (event.task, receive_ns)
            if session.recorder.state is not RecorderState.SAVING:  # the save ended in between
                self._start_pending()
        elif event.kind is EventKind.START:
            self._start_marked(event.task, receive_ns)
        elif self._take_pending() is not None:
            if event.kind is EventKind.STOP:
                self.get_logger().error("an episode was not recorded: it was over before the one before it was saved")
        elif not session.recorder.stop(keep=event.kind is EventKind.STOP, end_ns=receive_ns):
            self.get_logger().error(f"{event.kind.value} marker ignored: no episode is running")

    def _take_pending(self) -> tuple[str, int] | None:
        with self._lock:
            pending, self._pending = self._pending, None
        return pending

    def _start_pending(self) -> None:
        pending = self._take_pending()
        if pending is not None:
            self._start_marked(*pending)

    def _start_marked(self, task: str, start_ns: int) -> None:
        """Start the episode of a marker that came at `start_ns`; it cannot be refused, so what is wrong is told."""
        session = self._session
        if session is not None:
            # by then the marker's episode runs: its rows begin as soon as all inputs are there
            for reason in session.assembler.unready(start_ns):
                self.get_logger().warning(f"start marker: {reason}; waiting for it")
            late_s = (self._now_ns() - start_ns) / 1e9
            if late_s > DEFAULT_HORIZON_S:
                self.get_logger().warning(f"saving took {late_s:.1f} s: the next episode may lack its beginning")
            code, text, _ = self._start(task, start_ns, check_streams=False)
            if code != StartEpisode.Response.NONE:
                self.get_logger().error(f"start marker ignored: {text}")

    def _on_start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        response.error_code, response.error_msg, response.episode_index = self._start(request.task, self._now_ns())
        return response

    async def _on_stop(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        session = self._session
        done = self._wait_for_end()
        if session is None or not session.recorder.stop(keep=request.keep, end_ns=self._now_ns()):
            self._forget(done)
            response.error_code, response.error_msg = StopEpisode.Response.NOT_RECORDING, "no episode is running"
            return response
        result: EpisodeResult = await done  # type: ignore[assignment]
        response.episode_index, response.frames = result.index, result.num_frames
        response.error_msg = result.reason
        if result.is_empty:
            response.error_code = StopEpisode.Response.TOO_SHORT
        elif not result.is_saved and not result.is_discarded:
            response.error_code = StopEpisode.Response.SAVE_FAILED
        return response

    async def _on_record(self, goal: ServerGoalHandle) -> RecordEpisode.Result:
        request = goal.request
        done = self._wait_for_end()
        code, text, _ = self._start(request.task, self._now_ns())
        if code != StartEpisode.Response.NONE:
            self._forget(done)
            goal.abort()
            return RecordEpisode.Result(error_code=RecordEpisode.Result.NOT_STARTED, error_msg=text)
        self._goal_end_ns = self._now_ns() + round(request.max_duration * 1e9) if request.max_duration > 0 else None
        self._goal = goal
        result: EpisodeResult = await done  # type: ignore[assignment]
        self._goal = None
        response = RecordEpisode.Result(error_msg=result.reason, episode_index=result.index, frames=result.num_frames)
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

    def _start(self, task: str, start_ns: int, *, check_streams: bool = True) -> tuple[int, str, int]:
        """Start an episode; return (error code of StartEpisode, text, episode index)."""
        codes = StartEpisode.Response
        with self._lock:
            session = self._session
            if session is None or not self._is_active:
                return codes.NOT_ACTIVE, "the recorder is not active; configure and activate it first", 0
            if session.recorder.is_busy:
                return codes.BUSY, f"an episode is {session.recorder.state.value}; stop it or wait", 0
            task_stream = session.assembler.topic_map.task
            topic_text = session.assembler.text(task_stream.stream) if task_stream else ""
            task = task.strip() or topic_text.strip() or session.settings.task.strip()
            if not task:
                return codes.NO_TASK, "no task text in the request, on the task topic or in the parameter 'task'", 0
            reasons = session.assembler.unready(start_ns) if check_streams else []
            if reasons:
                return codes.STREAMS_NOT_READY, "; ".join(reasons), 0
            free_gb = shutil.disk_usage(session.dataset.path).free / 1e9
            if free_gb < session.settings.min_free_disk_gb:
                text = f"{free_gb:.1f} GB free at {session.dataset.path}, {session.settings.min_free_disk_gb:g} wanted"
                return codes.DISK_FULL, f"{text}; make room or lower 'min_free_disk_gb'", 0
            try:
                index = session.recorder.start(task, start_ns)
            except Gr00tError as error:
                return codes.DISK_FULL, str(error), 0
        self.get_logger().info(f"recording episode {index}: {task}")
        return codes.NONE, "", index

    def _wait_for_end(self) -> Future:
        done: Future = Future()
        self._waiters.append(done)
        return done

    def _forget(self, done: Future) -> None:
        if done in self._waiters:
            self._waiters.remove(done)

    def _on_done(self, result: EpisodeResult) -> None:
        """Tell everybody who waits; runs in the recorder's worker thread."""
        if result.is_saved:
            ending = f"; it ended early: {result.reason}" if result.reason else ""
            self.get_logger().info(f"saved episode {result.index}: {result.num_frames} rows{ending}")
        elif result.is_discarded:
            self.get_logger().info("discarded the episode")
        else:
            self.get_logger().error(f"episode not saved: {result.reason}")
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.set_result(result)
        self._start_pending()
        if self.executor is not None:
            self.executor.wake()

    def _on_timer(self) -> None:
        session = self._session
        if session is None:
            return
        self._num_periods += 1
        now_ns = self._now_ns()
        session.recorder.advance(now_ns)
        self._watch_goal(session, now_ns)
        if self._is_active:
            is_full_second = self._num_periods % STATUS_PERIODS == 0
            self._publish_status(force=is_full_second)
            if is_full_second:
                self._publish_diagnostics(session)

    def _watch_goal(self, session: _Session, now_ns: int) -> None:
        """End the action's episode on cancel or at its time limit, and give feedback."""
        goal = self._goal
        if goal is None or session.recorder.state is not RecorderState.RECORDING:
            return
        if goal.is_cancel_requested:
            session.recorder.stop(keep=False, end_ns=now_ns)
        elif self._goal_end_ns is not None and now_ns >= self._goal_end_ns:
            session.recorder.stop(keep=True, end_ns=self._goal_end_ns)
        elif self._num_periods % FEEDBACK_PERIODS == 0:
            feedback = RecordEpisode.Feedback(
                duration=session.recorder.duration_s(now_ns),
                frames=session.recorder.num_frames,
                streams=self._stream_statuses(session, now_ns),
            )
            goal.publish_feedback(feedback)

    def _publish_status(self, *, force: bool) -> None:
        session = self._session
        if session is None:
            return
        recorder = session.recorder
        current = (recorder.state, recorder.reason, session.dataset.num_episodes, recorder.task)
        if not force and current == self._published:
            return
        self._published = current
        now = self.get_clock().now()
        message = RecorderStatus(
            state=STATES[recorder.state],
            reason=recorder.reason,
            dataset_path=str(session.dataset.path),
            episode_index=session.dataset.num_episodes,
            episodes=session.dataset.num_episodes,
            task=recorder.task,
            frames=recorder.num_frames,
            duration=recorder.duration_s(now.nanoseconds),
            disk_free=shutil.disk_usage(session.dataset.path).free,
            streams=self._stream_statuses(session, now.nanoseconds),
        )
        message.header.stamp = now.to_msg()
        self._status_publisher.publish(message)

    def _publish_diagnostics(self, session: _Session) -> None:
        now = self.get_clock().now()
        recorder, free_gb = session.recorder, shutil.disk_usage(session.dataset.path).free / 1e9
        is_full = free_gb < session.settings.min_free_disk_gb
        is_bad = is_full or recorder.state is RecorderState.FAILED
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if is_bad else DiagnosticStatus.OK,
            name=f"{self.get_name()}: recorder",
            message=recorder.reason or ("disk is too full to start an episode" if is_full else recorder.state.value),
            hardware_id=str(session.dataset.path),
            values=[
                key_value("free disk [GB]", free_gb),
                key_value("episodes", session.dataset.num_episodes),
                key_value("frames", recorder.num_frames),
            ],
        )
        streams = stream_diagnostics(self.get_name(), session.assembler.reports(now.nanoseconds))
        self._diagnostics_publisher.publish(diagnostic_array(now, [status, *streams]))

    def _stream_statuses(self, session: _Session, now_ns: int) -> list[Any]:
        topic_name = session.ingest.topic_name if session.ingest else None
        return stream_statuses(session.assembler.reports(now_ns), topic_name)

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds


def main() -> int:
    """Run the node until it is told to end."""
    return run_node(RecorderNode)


if __name__ == "__main__":
    sys.exit(main())
