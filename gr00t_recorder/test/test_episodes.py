# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import queue
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_recorder.episodes.backlog import FrameBacklog
from gr00t_recorder.episodes.capture import RecorderOptions
from gr00t_recorder.episodes.conditions import Conditions
from gr00t_recorder.episodes.disk import DiskBudget
from gr00t_recorder.episodes.events import EpisodeEvent, EventKind, parse_event
from gr00t_recorder.episodes.recorder import EpisodeRecorder
from gr00t_recorder.episodes.requests import (
    Cancel,
    DiscardLast,
    Finish,
    Mark,
    Redo,
    Refusal,
    RefusedError,
    Resume,
    SetTask,
    Start,
    Stop,
)
from gr00t_recorder.episodes.view import RecorderState
from gr00t_recorder.topics.bindings import StreamConfig, TopicMap, VectorBinding, VideoBinding
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.serialized_images import Header, RawImage, Stamp
from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.waiting import DEADLINE_S
from gr00t_training.dataset.quality import Marks
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ObservationError

MS = 1_000_000
EMBODIMENT = make_embodiment(fps=10, size=(32, 48))
VECTORS = {"arm": VectorBinding(stream="joints"), "gripper": VectorBinding(stream="joints")}
TOPICS = TopicMap(
    embodiment="test_arm",
    streams={
        "joints": StreamConfig(topic="joints", type="sensor_msgs/msg/JointState"),
        "camera": StreamConfig(topic="image", type="sensor_msgs/msg/Image"),
    },
    state=VECTORS,
    action=VECTORS,
    video={"front": VideoBinding(stream="camera")},
)


class Listener:
    """Keeps what the recorder reports."""

    def __init__(self):
        self.results = queue.Queue()
        self.events = []
        self.on_event = lambda event, time_ns: self.events.append(event)
        self.on_end = self.results.put
        self.on_start = self.on_taken_back = self.on_decision = self.on_warning = lambda report: None


class Setup:
    """A recorder on a separate dataset, fed by hand."""

    def __init__(self, path, *, topics=TOPICS, has_room=True, **options):
        self.path = path
        self.now_ns = 0
        self.listener = Listener()
        self.assembler = FrameAssembler(topics, EMBODIMENT)
        self.dataset = DatasetWriter(path, EMBODIMENT)
        disk = DiskBudget(path, EMBODIMENT, reserve_bytes=0, free_bytes=lambda: 10**15)
        disk.has_room = lambda num_bytes: has_room
        options.setdefault("spill_folder", path / ".staging" / "spill")
        self.recorder = EpisodeRecorder(
            self.assembler,
            self.dataset,
            Conditions(self.assembler, disk, min_episode_s=0.0),
            self.listener,
            RecorderOptions(**options),
            clock_ns=lambda: self.now_ns,
        )

    @property
    def view(self):
        return self.recorder.view

    def ask(self, request):
        return self.recorder.ask(request).result(DEADLINE_S)

    def start(self, task, start_ns):
        return self.ask(Start(task, start_ns, check_streams=False))

    def feed(self, first_ms, last_ms, *, camera=True):
        for t in range(first_ms, last_ms + 1, 50):
            self.now_ns = t * MS
            header = Header(Stamp(t // 1000, t % 1000 * MS), "")
            names = ["j0", "j1", "j2", "grip"]
            self.assembler.store.add(
                "joints", SimpleNamespace(header=header, name=names, position=[float(t)] * 4), t * MS
            )
            if camera and t % 100 == 0:
                # as the ingest gives them: a view of the message's bytes
                pixels = memoryview(bytes([t // 100]) * 32 * 144)
                self.assembler.store.add("camera", RawImage(header, 32, 48, "rgb8", 0, 144, pixels), t * MS)
            self.recorder.advance(t * MS).result(DEADLINE_S)

    def result(self):
        return self.listener.results.get(timeout=DEADLINE_S)

    def record(self, first_ms, last_ms):
        """Record and save one episode."""
        self.start("lift", first_ms * MS)
        self.feed(first_ms, last_ms)
        self.recorder.finish()
        self.ask(Resume())
        return self.result()

    def close(self):
        self.recorder.close()
        self.dataset.close()


@pytest.fixture
def setup(tmp_path):
    made = Setup(tmp_path / "dataset")
    yield made
    made.close()


def test_episode_passes_through_its_states_and_is_saved(setup):
    recorder = setup.recorder
    assert setup.view.state is RecorderState.IDLE
    setup.feed(1000, 1200)
    assert setup.start("lift", 1150 * MS).index == 0
    assert setup.view.state is RecorderState.RECORDING
    with pytest.raises(RefusedError, match="an episode is recording") as refused:
        setup.start("again", 1200 * MS)
    assert refused.value.refusal is Refusal.BUSY
    setup.feed(1250, 2000)
    stopped = recorder.ask(Stop(True, 2050 * MS))
    assert setup.ask(Stop(True, 2050 * MS)) is None
    setup.feed(2050, 2200)
    result = setup.result()
    assert stopped.result(DEADLINE_S) == result
    assert (result.is_saved, result.index, result.num_frames, result.reason) == (True, 0, 9, "")
    assert setup.view.state is RecorderState.IDLE
    setup.close()
    dataset = EpisodeDataset(setup.path)
    np.testing.assert_array_equal(dataset.state(0, "gripper")[:, 0], np.arange(1200, 2001, 100))
    assert dataset.task(0, 0) == "lift"


def test_report_counts_only_the_episode_itself(setup):
    setup.feed(1000, 2000)  # 21 joint messages, 11 images before
    setup.start("lift", 2050 * MS)
    setup.feed(2050, 3000)
    setup.recorder.finish()
    streams = setup.result().report["streams"]
    assert streams["camera"] == {
        "topic": "image", "received": 10, "used": 10, "late": 0, "dropped": 0, "invalid": 0, "conflicts": 0,
        "filled": 0, "largest_age_s": 0.0,
    }  # fmt: skip
    assert streams["joints"]["received"] == 20


def test_discarded_episode_leaves_nothing(setup):
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    result = setup.ask(Stop(False, 1500 * MS))
    assert (result.is_saved, result.is_discarded, setup.view.state) == (False, True, RecorderState.IDLE)
    assert setup.dataset.num_episodes == 0


def test_episode_without_a_complete_frame_is_no_episode(setup):
    setup.feed(1000, 1000)
    setup.start("lift", 1050 * MS)
    setup.feed(1050, 1500, camera=False)
    setup.recorder.finish()
    setup.ask(Resume())
    result = setup.result()
    assert result.is_empty
    assert "no image of camera 'front'" in result.reason
    assert (setup.view.state, setup.dataset.num_episodes) == (RecorderState.FAILED, 0)
    assert setup.start("again", 1500 * MS).index == 0  # a failure does not block the next


def test_lost_stream_ends_the_episode_and_keeps_its_rows(setup):
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    setup.feed(1550, 4000, camera=False)
    result = setup.result()
    assert result.is_saved
    assert result.reason.startswith("video.front: the closest sample on image")
    # 1000 to 1500, and as long as the last image may be used: 0.5 s
    assert (result.num_frames, result.report["streams"]["camera"]["filled"]) == (11, 5)


@pytest.mark.parametrize("is_stopped_early", [False, True])
def test_encoder_that_cannot_keep_up_spills_to_disk_and_loses_nothing(tmp_path, monkeypatch, is_stopped_early):
    image_bytes, frame_bytes = 32 * 48 * 3, 32 * 48 * 3 + 2000 + 8 * 8
    setup = Setup(tmp_path / "dataset", max_queued_bytes=3 * frame_bytes)
    gate, decode = threading.Event(), setup.assembler.picker.decode
    backlogs = []

    class Backlog(FrameBacklog):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            backlogs.append(self)

    monkeypatch.setattr("gr00t_recorder.episodes.capture.FrameBacklog", Backlog)
    monkeypatch.setattr(setup.assembler.picker, "decode", lambda picked: gate.wait(DEADLINE_S) and decode(picked))
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 8000)  # longer than the buffers reach back
    (backlog,) = backlogs
    # one frame is with the encoder, three wait in memory, all others on disk
    assert (setup.view.num_queued, setup.view.num_on_disk, setup.view.num_frames) == (70, 67, 0)
    assert backlog.memory_bytes == 3 * frame_bytes > 3 * image_bytes
    if is_stopped_early:
        stopped = setup.recorder.ask(Stop(True, 8000 * MS))
        setup.feed(8050, 8050)
        assert (setup.view.state, setup.view.progress, stopped.done()) == (RecorderState.SAVING, 0.0, False)
    gate.set()
    setup.recorder.finish()
    result = setup.result()
    assert (result.is_saved, result.num_frames, result.reason) == (True, 71, "")
    assert result.report["spilled_frames"] == 67
    setup.close()
    dataset = EpisodeDataset(setup.path)
    np.testing.assert_array_equal(dataset.state(0, "gripper")[:, 0], np.arange(1000, 8001, 100))
    shades = np.stack([frame.mean() for frame in dataset.images(0, "front", range(71))])
    np.testing.assert_allclose(shades, np.arange(10, 81), atol=2)


def test_row_that_cannot_be_taken_ends_the_episode_before_it(setup, monkeypatch, caplog):
    """A bug must not skip a row and continue with the next."""
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)

    def fail(backlog, frame):
        raise TypeError("cannot be written")

    monkeypatch.setattr(FrameBacklog, "put", fail)
    setup.feed(1550, 2000)
    result = setup.result()
    assert (result.is_saved, result.num_frames) == (True, 6)
    assert result.reason == "internal error: TypeError('cannot be written')"
    assert "a row cannot be taken" in caplog.text


def test_spilling_ends_with_the_rows_at_hand_where_the_disk_has_no_room(tmp_path, monkeypatch):
    setup = Setup(tmp_path / "dataset", max_queued_bytes=1, has_room=False)
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    result = setup.result()
    assert result.is_empty
    assert "encoded too slowly and the disk has no room" in result.reason
    setup.close()


def test_closing_saves_the_running_episode(setup):
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    setup.recorder.close()
    assert setup.result().num_frames == 6
    assert setup.dataset.num_episodes == 1


def test_frame_refused_by_the_dataset_is_a_failure_with_its_reason(tmp_path):
    optional = {key: VectorBinding(stream="command", required=False) for key in ("arm", "gripper")}
    streams = {**TOPICS.streams, "command": StreamConfig(topic="command", type="sensor_msgs/msg/JointState")}
    topics = TopicMap(embodiment="test_arm", streams=streams, state=VECTORS, video=TOPICS.video, action=optional)
    setup = Setup(tmp_path / "dataset", topics=topics, spill_folder=tmp_path, max_lag_s=0.1)
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    result = setup.result()
    assert not result.is_saved
    assert "action" in result.reason
    assert setup.view.state is RecorderState.FAILED
    setup.close()


def test_start_that_waits_for_the_save_keeps_the_requests_after_it_in_order(setup, monkeypatch):
    gate, decode = threading.Event(), setup.assembler.picker.decode
    setup.start("first", 1000 * MS)
    monkeypatch.setattr(setup.assembler.picker, "decode", lambda picked: gate.wait(DEADLINE_S) and decode(picked))
    setup.feed(1000, 1500)
    setup.recorder.ask(Stop(True, 1500 * MS))
    ask = setup.recorder.ask
    answers = [ask(Start("second", 1600 * MS, check_streams=False, wait_for_save=True)), ask(Mark(Marks(note="2")))]
    refused = ask(Cancel())
    assert not any(answer.done() for answer in answers)
    gate.set()
    assert refused.result(DEADLINE_S).task == "first"
    assert [answers[0].result(DEADLINE_S).task, answers[1].result(DEADLINE_S)] == ["second", (0, Marks(note="2"))]


def test_request_is_served_before_the_rows_that_wait(setup, monkeypatch):
    setup.record(1000, 1500)
    gate, entered, decode = threading.Semaphore(0), threading.Event(), setup.assembler.picker.decode

    def decode_when_let(picked):
        entered.set()
        return gate.acquire(timeout=DEADLINE_S) and decode(picked)

    monkeypatch.setattr(setup.assembler.picker, "decode", decode_when_let)
    setup.start("second", 2000 * MS)
    setup.feed(2000, 2500)
    assert entered.wait(DEADLINE_S)
    answer = setup.recorder.ask(Mark(Marks(is_success=True), index=0))
    gate.release()  # one row
    assert answer.result(DEADLINE_S) == (0, Marks(is_success=True))
    assert setup.view.num_frames == 1
    gate.release(5)
    setup.recorder.finish()
    assert [event.kind for event in setup.listener.events[-3:]] == [EventKind.START, EventKind.MARK, EventKind.STOP]
    assert setup.listener.events[-2].back == 0


def test_last_episode_is_taken_back_once_and_recorded_again(setup):
    setup.record(1000, 1500)
    index, folder = setup.ask(DiscardLast())
    assert (index, folder.is_dir(), setup.dataset.num_episodes) == (0, True, 0)
    with pytest.raises(RefusedError) as refused:
        setup.ask(DiscardLast())
    assert refused.value.refusal is Refusal.NO_EPISODE
    setup.feed(1550, 1600)
    assert setup.ask(Redo()).task == "lift"
    assert setup.view.is_recording


def test_redo_drops_the_running_episode_and_starts_with_its_task(setup):
    first = setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    second = setup.ask(Redo())
    assert first.ended.result(DEADLINE_S).is_discarded
    assert (second.task, second.index, second.start_ns) == ("lift", 0, 1500 * MS)


def test_redo_that_cannot_start_drops_nothing(setup):
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    setup.now_ns = 5000 * MS  # all streams are stale
    with pytest.raises(RefusedError) as refused:
        setup.ask(Redo())
    assert refused.value.refusal is Refusal.STREAMS_NOT_READY
    assert setup.view.is_recording


@pytest.mark.parametrize("keep", [True, False])
def test_episode_that_ended_by_itself_waits_for_a_decision(setup, keep):
    setup.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    setup.feed(1550, 4000, camera=False)
    assert setup.result().is_unrequested
    assert setup.view.can_decide
    result = setup.ask(Stop(keep, 4000 * MS, Marks(note="said later")))
    assert (result.is_saved, setup.dataset.num_episodes, setup.view.can_decide) == (keep, int(keep), False)
    assert result.marks.note == ("said later" if keep else "")
    assert setup.ask(Stop(False, 4000 * MS)) is None


def test_finish_refuses_what_waits_and_all_that_follows(setup, monkeypatch):
    gate, decode = threading.Event(), setup.assembler.picker.decode
    setup.start("first", 1000 * MS)
    monkeypatch.setattr(setup.assembler.picker, "decode", lambda picked: gate.wait(DEADLINE_S) and decode(picked))
    setup.feed(1000, 1500)
    setup.recorder.ask(Stop(True, 1500 * MS))
    ask = setup.recorder.ask
    answers = [ask(Start("second", 1600 * MS, check_streams=False, wait_for_save=True)), ask(SetTask("third"))]
    finished = ask(Finish(1600 * MS, "the end"))
    answers.append(ask(SetTask("fourth")))
    setup.feed(1550, 3000)
    gate.set()
    assert finished.result(DEADLINE_S) is None
    assert [answer.exception(DEADLINE_S).refusal for answer in answers] == [Refusal.NOT_ACTIVE] * 3
    assert (setup.dataset.num_episodes, setup.view.state) == (1, RecorderState.IDLE)
    setup.ask(Resume())
    assert setup.start("fifth", 3000 * MS).index == 1


def test_markers_are_read():
    assert parse_event('{"event": "start", "task": "lift", "episode": 3}') == EpisodeEvent(EventKind.START, "lift")
    assert parse_event('{"event": "discard"}') == EpisodeEvent(EventKind.DISCARD)


@pytest.mark.parametrize("text", ["start", "[]", '{"event": "begin"}', '{"task": "lift"}', ""])
def test_other_texts_are_no_markers(text):
    with pytest.raises(ObservationError, match="expected JSON"):
        parse_event(text)
