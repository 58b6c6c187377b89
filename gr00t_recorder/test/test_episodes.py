# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import queue
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_recorder.episodes import EpisodeEvent, EpisodeRecorder, EventKind, RecorderState, parse_event
from gr00t_recorder.topics.bindings import StreamConfig, TopicMap, VectorBinding, VideoBinding
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.serialised_images import Header, RawImage, Stamp
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import DatasetError, ObservationError
from gr00t_training.testing import make_embodiment

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


class Setup:
    """A recorder on a dataset of its own, fed by hand."""

    def __init__(self, path, **options):
        self.path = path
        self.results = queue.Queue()
        self.assembler = FrameAssembler(TOPICS, EMBODIMENT)
        self.dataset = DatasetWriter(path, EMBODIMENT)
        options.setdefault("spill_folder", path / ".staging" / "spill")
        self.recorder = EpisodeRecorder(self.assembler, self.dataset, on_done=self.results.put, **options)

    def feed(self, first_ms, last_ms, *, camera=True):
        for t in range(first_ms, last_ms + 1, 50):
            header = Header(Stamp(t // 1000, t % 1000 * MS), "")
            names = ["j0", "j1", "j2", "grip"]
            self.assembler.add("joints", SimpleNamespace(header=header, name=names, position=[float(t)] * 4), t * MS)
            if camera and t % 100 == 0:
                # as the ingest gives them: a view of the message's bytes
                pixels = memoryview(bytes([t // 100]) * 32 * 144)
                self.assembler.add("camera", RawImage(header, 32, 48, "rgb8", 0, 144, pixels), t * MS)
            self.recorder.advance(t * MS)

    def result(self):
        return self.results.get(timeout=20)

    def close(self):
        self.recorder.close(0)
        self.dataset.close()


@pytest.fixture
def setup(tmp_path):
    made = Setup(tmp_path / "dataset")
    yield made
    made.close()


def test_episode_passes_through_its_states_and_is_saved(setup):
    recorder = setup.recorder
    assert recorder.state is RecorderState.IDLE
    setup.feed(1000, 1200)
    assert recorder.start("lift", 1150 * MS).index == 0
    assert recorder.state is RecorderState.RECORDING
    with pytest.raises(DatasetError, match="an episode is recording"):
        recorder.start("again", 1200 * MS)
    setup.feed(1250, 2000)
    assert recorder.stop(keep=True, end_ns=2050 * MS)
    assert not recorder.stop(keep=True, end_ns=2050 * MS)
    setup.feed(2050, 2200)
    result = setup.result()
    assert (result.is_saved, result.index, result.num_frames, result.reason) == (True, 0, 9, "")
    assert recorder.state is RecorderState.IDLE
    setup.close()
    dataset = LeRobotDataset(setup.path)
    np.testing.assert_array_equal(dataset.state(0, "gripper")[:, 0], np.arange(1200, 2001, 100))
    assert dataset.task(0, 0) == "lift"


def test_report_counts_only_the_episode_itself(setup):
    setup.feed(1000, 2000)  # 21 joint messages, 11 images before
    setup.recorder.start("lift", 2050 * MS)
    setup.feed(2050, 3000)
    setup.recorder.finish(3000 * MS)
    streams = setup.result().report["streams"]
    assert streams["camera"] == {
        "topic": "image", "received": 10, "used": 10, "late": 0, "dropped": 0, "invalid": 0, "filled": 0,
        "largest_age_s": 0.0,
    }  # fmt: skip
    assert streams["joints"]["received"] == 20


def test_discarded_episode_leaves_nothing(setup):
    setup.recorder.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    assert setup.recorder.stop(keep=False, end_ns=1500 * MS)
    result = setup.result()
    assert (result.is_saved, result.is_discarded, setup.recorder.state) == (False, True, RecorderState.IDLE)
    assert setup.dataset.num_episodes == 0


def test_episode_without_a_complete_frame_is_no_episode(setup):
    setup.feed(1000, 1000)
    setup.recorder.start("lift", 1050 * MS)
    setup.feed(1050, 1500, camera=False)
    setup.recorder.finish(1500 * MS)
    result = setup.result()
    assert result.is_empty
    assert "no image of camera 'front'" in result.reason
    assert (setup.recorder.state, setup.dataset.num_episodes) == (RecorderState.FAILED, 0)
    assert setup.recorder.start("again", 1500 * MS).index == 0  # a failure does not block the next


def test_lost_stream_ends_the_episode_and_keeps_its_rows(setup):
    setup.recorder.start("lift", 1000 * MS)
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
    gate, recorder, decode = threading.Event(), setup.recorder, setup.assembler.decode
    monkeypatch.setattr(setup.assembler, "decode", lambda picked: gate.wait(20) and decode(picked))
    recorder.start("lift", 1000 * MS)
    setup.feed(1000, 8000)  # longer than the buffers reach back
    backlog = recorder.recording.backlog
    # one frame is with the encoder, three wait in memory, all others on disk
    assert (len(backlog), backlog.num_on_disk, recorder.num_frames) == (70, 67, 0)
    assert backlog.memory_bytes == 3 * frame_bytes > 3 * image_bytes
    if is_stopped_early:
        assert recorder.stop(keep=True, end_ns=8000 * MS)
        assert (recorder.state, recorder.recording.progress) == (RecorderState.SAVING, 0.0)
    gate.set()
    recorder.finish(8000 * MS)
    result = setup.result()
    assert (result.is_saved, result.num_frames, result.reason) == (True, 71, "")
    assert result.report["spilled_frames"] == 67
    setup.close()
    dataset = LeRobotDataset(setup.path)
    np.testing.assert_array_equal(dataset.state(0, "gripper")[:, 0], np.arange(1000, 8001, 100))
    shades = np.stack([frame.mean() for frame in dataset.images(0, "front", range(71))])
    np.testing.assert_allclose(shades, np.arange(10, 81), atol=2)


def test_row_that_cannot_be_taken_ends_the_episode_before_it(setup, monkeypatch, caplog):
    """A bug must not leave a row out and go on with the next."""
    setup.recorder.start("lift", 1000 * MS)
    setup.feed(1000, 1500)

    def fail(frame):
        raise TypeError("cannot be written")

    monkeypatch.setattr(setup.recorder.recording.backlog, "put", fail)
    setup.feed(1550, 2000)
    result = setup.result()
    assert (result.is_saved, result.num_frames) == (True, 6)
    assert result.reason == "internal error: TypeError('cannot be written')"
    assert "a row cannot be taken" in caplog.text


def test_spilling_ends_with_the_rows_at_hand_where_the_disk_has_no_room(tmp_path, monkeypatch):
    setup = Setup(tmp_path / "dataset", max_queued_bytes=1, has_room=lambda num_bytes: False)
    setup.recorder.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    result = setup.result()
    assert result.is_empty
    assert "encoded too slowly and the disk has no room" in result.reason
    setup.close()


def test_closing_saves_the_running_episode(setup):
    setup.recorder.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    setup.recorder.close(1500 * MS)
    assert setup.result().num_frames == 6
    assert setup.dataset.num_episodes == 1


def test_frame_refused_by_the_dataset_is_a_failure_with_its_reason(tmp_path):
    setup = Setup(tmp_path / "dataset")
    optional = {key: VectorBinding(stream="command", required=False) for key in ("arm", "gripper")}
    streams = {**TOPICS.streams, "command": StreamConfig(topic="command", type="sensor_msgs/msg/JointState")}
    topics = TopicMap(embodiment="test_arm", streams=streams, state=VECTORS, video=TOPICS.video, action=optional)
    setup.recorder.close(0)
    setup.assembler = FrameAssembler(topics, EMBODIMENT)
    setup.recorder = EpisodeRecorder(
        setup.assembler, setup.dataset, spill_folder=tmp_path, on_done=setup.results.put, max_lag_s=0.1
    )
    setup.recorder.start("lift", 1000 * MS)
    setup.feed(1000, 1500)
    result = setup.result()
    assert not result.is_saved
    assert "action" in result.reason
    assert setup.recorder.state is RecorderState.FAILED
    setup.close()


def test_markers_are_read():
    assert parse_event('{"event": "start", "task": "lift", "episode": 3}') == EpisodeEvent(EventKind.START, "lift")
    assert parse_event('{"event": "discard"}') == EpisodeEvent(EventKind.DISCARD)


@pytest.mark.parametrize("text", ["start", "[]", '{"event": "begin"}', '{"task": "lift"}', ""])
def test_other_texts_are_no_markers(text):
    with pytest.raises(ObservationError, match="expected JSON"):
        parse_event(text)
