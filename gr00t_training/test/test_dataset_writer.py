# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_test_support.waiting import DEADLINE_S
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoCodec, VideoReader, VideoSettings, VideoWriter, count_frames
from gr00t_training.dataset.quality import Marks
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.view.summary import summarize
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.dataset.writing.files import DatasetFiles
from gr00t_training.embodiment import VideoKey, load_embodiment
from gr00t_training.errors import ConfigError, DatasetError

EMBODIMENT = make_embodiment()


def record(writer, count, *, seed=0, task="lift the cube", report=None):
    episode = writer.start_episode(task)
    for frame in make_frames(writer.embodiment, count, seed=seed, task=""):
        episode.add_frame(frame)
    return episode.save(report)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def visible_files(root):
    """Files that a LeRobot reader can see."""
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and schema.STAGING not in path.parts
    }


def assert_whole(root, lengths):
    """Hold the metadata of a dataset of the test arm against its files."""
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"]) == (len(lengths), sum(lengths))
    assert [entry["length"] for entry in lines(root / "meta/episodes.jsonl")] == lengths
    assert len(lines(root / "meta/episodes_stats.jsonl")) == len(lengths)
    assert len(list(root.glob("data/*/*"))) == len(list(root.glob("videos/*/*/*"))) == len(lengths)
    index = []
    for number, length in enumerate(lengths):
        table = pq.read_table(root / schema.data_path(number))
        assert table["frame_index"].to_pylist() == list(range(length))
        index += table["index"].to_pylist()
        assert count_frames(root / schema.video_path(number, "observation.images.front")) == length
    assert index == list(range(sum(lengths)))


def test_rows_and_metadata_of_two_episodes(tmp_path):
    root = tmp_path / "set"
    with DatasetWriter(root, EMBODIMENT) as writer:
        assert record(writer, 5, seed=1) == 0
        assert record(writer, 3, seed=2, task="贴标签") == 1
        assert (writer.num_episodes, writer.num_frames) == (2, 8)
    assert_whole(root, [5, 3])
    assert visible_files(root) == {
        *(f"meta/{name}.json" for name in ("info", "stats", "modality", "embodiment")),
        *(f"meta/{name}.jsonl" for name in ("episodes", "tasks", "episodes_stats")),
        *(f"meta/quality/episode_00000{i}.json" for i in (0, 1)),
        *(f"data/chunk-000/episode_00000{i}.parquet" for i in (0, 1)),
        *(f"videos/chunk-000/observation.images.front/episode_00000{i}.mp4" for i in (0, 1)),
    }
    table = pq.read_table(root / "data/chunk-000/episode_000001.parquet")
    frames = make_frames(EMBODIMENT, 3, seed=2)
    expected = np.array([[*frame.state["arm"], *frame.state["gripper"]] for frame in frames], np.float32)
    assert np.array_equal(np.array(table["observation.state"].to_pylist(), np.float32), expected)
    assert table["timestamp"].to_pylist() == np.array([0, 0.1, 0.2], np.float32).tolist()
    assert table["episode_index"].to_pylist() == [1, 1, 1]
    assert table["index"].to_pylist() == [5, 6, 7]
    assert table["task_index"].to_pylist() == [1, 1, 1]
    assert lines(root / "meta/tasks.jsonl")[1] == {"task_index": 1, "task": "贴标签"}
    assert "贴标签" in (root / "meta/tasks.jsonl").read_text(encoding="utf-8")
    assert lines(root / "meta/episodes.jsonl")[1] == {"episode_index": 1, "tasks": ["贴标签"], "length": 3}
    assert load_embodiment(root / "meta/embodiment.json") == EMBODIMENT


def test_columns_and_features_are_those_of_lerobot(tmp_path, data_dir):
    """The reference was written by lerobot 0.3.3."""
    reference = data_dir / "lerobot_v21_reference"
    wanted = json.loads((reference / "meta/info.json").read_text())
    names = wanted["features"]["action"]["names"]
    base = make_embodiment(fps=30, size=(120, 160))
    arm, grip = (dataclasses.replace(base.state["arm"], names=tuple(part)) for part in (names[:7], names[7:]))
    arms = {"arm": arm, "gripper": grip}
    cameras = {key: VideoKey(height=120, width=160) for key in ("front", "wrist")}
    embodiment = dataclasses.replace(base, robot_type="arm7", state=arms, action=arms, video=cameras)
    with DatasetWriter(tmp_path, embodiment) as writer:
        for length, task in ((60, "stack the red cube on the blue cube"), (45, "press the button")):
            record(writer, length, task=task)
        record(writer, 50, task="stack the red cube on the blue cube")
    written = json.loads((tmp_path / "meta/info.json").read_text())
    for feature in wanted["features"].values():
        if feature["dtype"] == "video":
            feature["info"]["video.codec"] = "h264"
    assert written == wanted
    assert list(written) == list(wanted)
    for found, expected in (
        [pq.read_schema(root / "data/chunk-000/episode_000000.parquet") for root in (tmp_path, reference)],
    ):
        assert found.equals(expected)
        assert json.loads(found.metadata[b"huggingface"]) == json.loads(expected.metadata[b"huggingface"])
    for name in ("episodes.jsonl", "tasks.jsonl"):
        assert lines(tmp_path / "meta" / name) == lines(reference / "meta" / name)
    ours, theirs = (lines(root / "meta/episodes_stats.jsonl")[1]["stats"] for root in (tmp_path, reference))
    assert {key: set(value) for key, value in ours.items()} == {key: set(value) for key, value in theirs.items()}
    assert [np.shape(v) for v in ours["observation.images.front"].values()] == [(3, 1, 1)] * 4 + [(1,)]


def test_gr00t_metadata(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 5, seed=1)
        record(writer, 4, seed=2)
    modality = json.loads((tmp_path / "meta/modality.json").read_text())
    assert modality["action"]["gripper"] == {"start": 3, "end": 4, "absolute": True}
    assert modality["video"] == {"front": {"original_key": "observation.images.front"}}
    assert modality["annotation"] == {"human.task_description": {"original_key": "task_index"}}
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    assert set(stats) == {"observation.state", "action", "timestamp"}
    both = [
        frame.action["arm"] for seed, count in ((1, 5), (2, 4)) for frame in make_frames(EMBODIMENT, count, seed=seed)
    ]
    for name, values in (("min", np.min(both, 0)), ("mean", np.mean(both, 0)), ("q99", np.quantile(both, 0.99, 0))):
        np.testing.assert_allclose(stats["action"][name][:3], values, rtol=1e-6)
    assert all(len(values) == 4 for values in stats["action"].values())


def test_frames_may_change_the_task(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        episode = writer.start_episode("first")
        for frame, task in zip(make_frames(EMBODIMENT, 4), ["", "second", "second", "first"], strict=True):
            episode.add_frame(dataclasses.replace(frame, task=task))
        episode.save()
    assert pq.read_table(tmp_path / schema.data_path(0))["task_index"].to_pylist() == [0, 1, 1, 0]
    assert lines(tmp_path / "meta/episodes.jsonl")[0]["tasks"] == ["first", "second"]


def test_quality_report(tmp_path):
    frames = make_frames(EMBODIMENT, 3)
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        episode = writer.start_episode("lift")
        for age_ms, frame in zip((1, 2, 6), frames, strict=True):
            filled = frozenset({"video.front"}) if age_ms == 6 else frozenset()
            episode.add_frame(dataclasses.replace(frame, ages_ns={"video.front": age_ms * 10**6}, filled=filled))
        episode.save({"streams": {"front": {"received": 7, "invalid": 1}}})
    quality = json.loads((tmp_path / "meta/quality/episode_000000.json").read_text())
    assert quality["filled_rows"] == {"video.front": [2]}
    assert quality["ages_ns"] == {"video.front": {"mean": 3 * 10**6, "max": 6 * 10**6}}
    assert quality["report"]["streams"]["front"]["received"] == 7
    assert (quality["length"], quality["tasks"], quality["start_ns"]) == (3, ["lift the cube"], 0)


def test_images_come_back_at_their_rows(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 25)
    reader = VideoReader(tmp_path / schema.video_path(0, "observation.images.front"))
    levels = [frame.images["front"][0, 0, 0] for frame in make_frames(EMBODIMENT, 25)]
    np.testing.assert_allclose(reader.read(range(25)).mean(axis=(1, 2, 3)), levels, atol=1.5)
    np.testing.assert_allclose(reader.presentation_s, np.arange(25) / 10, atol=1e-9)


def test_sessions_append(tmp_path):
    for session in range(3):
        with DatasetWriter(tmp_path, EMBODIMENT) as writer:
            assert writer.num_episodes == session
            record(writer, 3 + session, seed=session)
    assert_whole(tmp_path, [3, 4, 5])
    assert lines(tmp_path / "meta/tasks.jsonl") == [{"task_index": 0, "task": "lift the cube"}]
    rows = [pq.read_table(tmp_path / schema.data_path(i))["action"].to_pylist() for i in range(3)]
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    np.testing.assert_allclose(stats["action"]["mean"], np.concatenate(rows).mean(axis=0), rtol=1e-6)


def test_another_embodiment_is_refused_naming_the_items(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 2)
    other = dataclasses.replace(EMBODIMENT, fps=20, video={"front": VideoKey(height=64, width=48)})
    with pytest.raises(DatasetError, match=r"fps: found 10, expected 20; video.front.height: found 32, expected 64"):
        DatasetWriter(tmp_path, other)
    with pytest.raises(DatasetError, match="'front' is stored as h264, cannot append av1"):
        DatasetWriter(tmp_path, EMBODIMENT, video=VideoSettings(codec=VideoCodec.AV1))


def test_foreign_dataset_is_refused(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v3.0"}')
    with pytest.raises(DatasetError, match="not written by this suite"):
        DatasetWriter(tmp_path, EMBODIMENT)


def test_lost_list_of_episodes_is_named(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 2)
    (tmp_path / "meta/episodes.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"episodes.jsonl is missing"):
        DatasetWriter(tmp_path, EMBODIMENT)


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_version_is_that_of_the_dataset(tmp_path, version):
    with DatasetWriter(tmp_path, EMBODIMENT, version=version) as writer:
        record(writer, 2)
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        assert writer.version == version
        record(writer, 3)
    assert json.loads((tmp_path / "meta/info.json").read_text())["codebase_version"] == version
    other = "v2.1" if version == "v3.0" else "v3.0"
    with pytest.raises(DatasetError, match=f"is version {version}, cannot append {other}"):
        DatasetWriter(tmp_path, EMBODIMENT, version=other)
    with pytest.raises(ConfigError, match=r"version 'v4': expected one of v2.0, v2.1, v3.0"):
        DatasetWriter(tmp_path, EMBODIMENT, version="v4")


def test_v20_has_statistics_of_images_for_the_whole_dataset(tmp_path):
    for session in range(2):
        with DatasetWriter(tmp_path, EMBODIMENT, version="v2.0") as writer:
            record(writer, 3 + session, seed=session)
    assert not (tmp_path / "meta/episodes_stats.jsonl").exists()
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    assert set(stats) == {"observation.state", "action", "timestamp", "observation.images.front"}
    images = stats["observation.images.front"]
    assert {"min", "max", "mean", "std", "q01", "q99"} <= set(images)  # N1 computes all again if one is missing
    levels = [16 + 7 * i for length in (3, 4) for i in range(length)]
    np.testing.assert_allclose(np.ravel(images["mean"]), np.mean(levels) / 255, rtol=1e-9)
    np.testing.assert_allclose(np.ravel(images["std"]), np.std(levels) / 255, rtol=1e-9)


def test_last_episode_is_taken_out_and_recorded_again(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        with pytest.raises(DatasetError, match="there is no finished episode"):
            writer.discard_last()
        record(writer, 4)
        before = {name: (tmp_path / name).read_bytes() for name in visible_files(tmp_path)}
        record(writer, 3, seed=1, task="other")
        folder = writer.discard_last()
        assert {name: (tmp_path / name).read_bytes() for name in visible_files(tmp_path)} == before
        assert len(list(folder.iterdir())) == 3
        record(writer, 5, seed=2)
        episode = writer.start_episode("lift")
        with pytest.raises(DatasetError, match="episode 2 is open"):
            writer.discard_last()
        episode.discard()
    assert_whole(tmp_path, [4, 5])
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:  # one that did not record it
        writer.discard_last()
        record(writer, 6, seed=3)
        writer.discard_last()
        writer.discard_last()
        assert writer.num_episodes == 0
        record(writer, 2)
    assert_whole(tmp_path, [2])


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_relative_statistics_are_removed_when_rows_come_or_go(tmp_path, version):
    path = tmp_path / "meta/relative_stats.json"
    with DatasetWriter(tmp_path, EMBODIMENT, version=version) as writer:
        record(writer, 2)
        path.write_text("{}")
        record(writer, 3)
        assert not path.exists()
        path.write_text("{}")
        writer.discard_last()
        assert not path.exists()


@pytest.mark.parametrize("mark", [{"success": "yes"}, {"valid": 1}, {"note": 3}])
def test_marks_of_other_types_are_refused(tmp_path, mark):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        with pytest.raises(DatasetError, match=f"mark '{next(iter(mark))}' is"):
            record(writer, 2, report=mark)
        assert writer.num_episodes == 0


def test_text_files_grow_without_being_changed_in_place(tmp_path):
    """A reader that has opened the file keeps its content; a reader that opens it later finds whole lines."""
    files = DatasetFiles(tmp_path)
    for number in range(3):
        staged = files.stage_appended("list.txt", f"line {number}\n")
        opened = (tmp_path / "list.txt").read_text() if number else ""
        assert opened == "".join(f"line {i}\n" for i in range(number))
        files.move(staged)
        assert (tmp_path / "list.txt").read_text() == opened + f"line {number}\n"
    files.stage_appended("list.txt", "never moved\n")
    files.move(files.stage_appended("list.txt", "line 3\n"))
    assert (tmp_path / "list.txt").read_text().splitlines() == [f"line {i}" for i in range(4)]


def test_second_writer_is_refused(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT), pytest.raises(DatasetError, match="open in another writer"):
        DatasetWriter(tmp_path, EMBODIMENT)
    DatasetWriter(tmp_path, EMBODIMENT).close()


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("state", "arm", np.array([0, np.nan, 0]), "state.arm: channel 'j1' is not finite in row 1"),
        ("action", "gripper", np.array([np.inf]), "action.gripper: channel 'grip' is not finite"),
        ("action", "gripper", np.array([1e39]), "action.gripper: channel 'grip' is not finite"),
        ("state", "arm", np.zeros(4), r"state.arm: got shape \(4,\).* expects \(3,\)"),
        ("action", "arm", None, "action.arm: missing in row 1"),
        ("state", "leg", np.zeros(1), "state.leg: embodiment 'test_arm' has no such key"),
        ("images", "front", np.zeros((32, 47, 3), np.uint8), r"video.front: got shape \(32, 47, 3\)"),
        ("images", "front", np.zeros((32, 48, 3), np.float32), "float32.* uint8"),
        ("images", "front", None, "video.front: missing in row 1"),
        ("images", "rear", np.zeros((32, 48, 3), np.uint8), "video.rear: embodiment 'test_arm' has no such camera"),
    ],
)
def test_bad_frame_is_refused_and_leaves_no_trace(tmp_path, part, key, value, words):
    first, second, third = make_frames(EMBODIMENT, 3)
    changed = {**getattr(second, part), key: value}
    bad = dataclasses.replace(second, **{part: {k: v for k, v in changed.items() if v is not None}})
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        episode = writer.start_episode("lift")
        episode.add_frame(first)
        with pytest.raises(DatasetError, match=words):
            episode.add_frame(bad)
        episode.add_frame(second)
        episode.add_frame(third)
        episode.save()
    assert_whole(tmp_path, [3])


def test_gap_in_the_ticks_is_refused(tmp_path):
    first, _, third = make_frames(EMBODIMENT, 3)
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        episode = writer.start_episode("lift")
        episode.add_frame(first)
        with pytest.raises(
            DatasetError, match=r"row 1: tick is 0.200000 s after the first, expected 0.100000 s at 10 Hz"
        ):
            episode.add_frame(third)


def test_misuse_is_refused(tmp_path):
    writer = DatasetWriter(tmp_path, EMBODIMENT)
    with pytest.raises(DatasetError, match="task text is empty"):
        writer.start_episode("  ")
    episode = writer.start_episode("lift")
    with pytest.raises(DatasetError, match="episode 0 is open"):
        writer.start_episode("lift")
    with pytest.raises(DatasetError, match="has no frames"):
        episode.save()
    episode.discard()
    with pytest.raises(DatasetError, match="is closed"):
        episode.add_frame(make_frames(EMBODIMENT, 1)[0])
    writer.close()
    with pytest.raises(DatasetError, match="the writer is closed"):
        writer.start_episode("lift")


def test_discard_leaves_nothing(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 2)
        before = visible_files(tmp_path)
        episode = writer.start_episode("lift")
        episode.add_frame(make_frames(EMBODIMENT, 1)[0])
        episode.discard()
        record(writer, 3)
    assert len(visible_files(tmp_path)) == len(before) + 3
    left = {path.name for path in (tmp_path / schema.STAGING).rglob("*") if path.is_file()}
    assert left == {"lock", "totals.npz"}


def test_report_that_is_not_json_is_refused(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        with pytest.raises(DatasetError, match="the report is not plain JSON"):
            record(writer, 2, report={"x": np.float32(1)})
        record(writer, 3)
    assert_whole(tmp_path, [3])


class Killed(BaseException):
    """Stands for the end of the process: no handler of the writer may catch it."""


def kill_at(monkeypatch, call_number, calls):
    """Let the writer die instead of making its n-th rename."""
    replace = os.replace

    def dying(source, target):
        calls.append(target)
        if len(calls) > call_number:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)


def test_killed_between_any_two_renames_loses_no_finished_episode(tmp_path, monkeypatch):
    seen = set()
    for call_number in range(20):
        root = tmp_path / str(call_number)
        with DatasetWriter(root, EMBODIMENT) as writer:
            record(writer, 2)
        calls = []
        writer = DatasetWriter(root, EMBODIMENT)
        with monkeypatch.context() as patch:
            kill_at(patch, call_number, calls)
            try:
                record(writer, 3, seed=1, task="other")
            except Killed:
                finished = False
            else:
                finished = True
        writer._lock.close()  # as the end of a process does
        with DatasetWriter(root, EMBODIMENT) as again:
            count = again.num_episodes
            record(again, 4, seed=2)
        assert_whole(root, [2, 3, 4] if count == 2 else [2, 4])
        ignored = [path for path in (root / schema.IGNORED).rglob("*") if path.suffix == schema.STAGED_SUFFIX]
        if count == 1:
            assert len(ignored) == 3  # video, rows and report of the unfinished episode are kept
        seen.add(count)
        if finished:
            assert count == 2
            break
    assert finished
    assert seen == {1, 2}


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_killed_while_the_first_episode_is_saved(tmp_path, monkeypatch, version):
    counts = set()
    for call_number in range(20):
        root, calls = tmp_path / str(call_number), []
        writer = DatasetWriter(root, EMBODIMENT, version=version)
        with monkeypatch.context() as patch:
            kill_at(patch, call_number, calls)
            with contextlib.suppress(Killed):
                record(writer, 3)
        writer._lock.close()  # as the end of a process does
        with DatasetWriter(root, EMBODIMENT, version=version) as again:
            count = again.num_episodes
            record(again, 4, seed=2)
        dataset = EpisodeDataset(root)
        assert [episode.length for episode in dataset.episodes] == [3, 4][1 - count :]
        counts.add(count)
        if version == "v2.1":
            assert_whole(root, [3, 4][1 - count :])
        if len(calls) <= call_number:
            break
    assert counts == {0, 1}


def refuse_renames_to(monkeypatch, name):
    replace = os.replace

    def failing(source, target):
        if str(target).endswith(name):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)


def test_failing_rename_keeps_the_writer_usable(tmp_path, monkeypatch):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 2)
        with monkeypatch.context() as patch:
            refuse_renames_to(patch, "/stats.json")
            with pytest.raises(DatasetError, match=r"No space left on device.*make room.*unharmed.*staged is in"):
                record(writer, 3)
        assert writer.num_episodes == 1
        record(writer, 4)
    assert_whole(tmp_path, [2, 4])


def test_writer_that_cannot_read_its_state_back_is_closed(tmp_path, monkeypatch):
    """`episodes.jsonl` has the episode, `info.json` cannot follow: going on would overwrite it."""
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 2)
        with monkeypatch.context() as patch:
            refuse_renames_to(patch, "/info.json")
            with pytest.raises(DatasetError, match="No space left on device"):
                record(writer, 3)
        with pytest.raises(DatasetError, match="the writer is closed; open the dataset again"):
            writer.start_episode("lift")
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 4)
    assert_whole(tmp_path, [2, 3, 4])


def test_episode_whose_last_step_fails_once_is_saved(tmp_path, monkeypatch):
    failures = []
    replace = os.replace

    def failing_once(source, target):
        if str(target).endswith("/info.json") and not failures:
            failures.append(target)
            raise OSError(5, "Input/output error")
        replace(source, target)

    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 2)
        monkeypatch.setattr(os, "replace", failing_once)
        assert record(writer, 3) == 1
        assert record(writer, 4) == 2
    assert failures
    assert_whole(tmp_path, [2, 3, 4])


def test_video_that_lacks_a_frame_is_not_published(tmp_path, monkeypatch):
    add = VideoWriter.add
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(VideoWriter, "add", lambda self, image: image[0, 0, 0] == 23 or add(self, image))
            with pytest.raises(DatasetError, match=r"video.front: 4 frames in the file, 5 rows"):
                record(writer, 5)
        record(writer, 3)
    assert_whole(tmp_path, [3])


CHILD = """
import sys
import numpy as np
from gr00t_training.dataset.view.summary import summarize
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_test_support.builders import make_embodiment, make_frames
embodiment = make_embodiment()
{setup}
with DatasetWriter(sys.argv[1], embodiment, version=sys.argv[2]) as writer:
    for seed in range(1000):
        episode = writer.start_episode("lift")
        for frame in make_frames(embodiment, 4, seed=seed):
            frame.images["front"][:] = np.random.default_rng(seed).integers(0, 255, (32, 48, 3))
            episode.add_frame(frame)
        print(episode.save(), flush=True)
"""


def start_child(root, setup="", version="v2.1"):
    command = [sys.executable, "-c", CHILD.format(setup=setup), str(root), version]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# small enough for a few episodes a file, so that files are joined while recording
SMALL_FILES = "from gr00t_training.dataset.writing import shared_files; shared_files.BYTES_PER_MB = 150"


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_killed_process_loses_no_finished_episode(tmp_path, version):
    child = start_child(tmp_path, SMALL_FILES, version)
    while int(child.stdout.readline()) < 3:
        pass
    child.send_signal(signal.SIGKILL)
    reported = [int(line) for line in child.stdout.read().split()]
    child.wait()
    child.stderr.close()
    child.stdout.close()
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        assert writer.num_episodes >= max([3, *reported]) + 1
        count = writer.num_episodes
        record(writer, 4)
    if version == "v2.1":
        assert_whole(tmp_path, [4] * (count + 1))
    dataset = EpisodeDataset(tmp_path)
    for number in range(count + 1):
        assert dataset.column(number, "index").tolist() == list(range(4 * number, 4 * number + 4))
        assert dataset.images(number, "front", range(4)).shape == (4, 32, 48, 3)


def test_file_size_limit_ends_an_episode_with_a_remedy(tmp_path):
    """The limit simulates a full disk: writes fail part way, with an errno."""
    child = start_child(tmp_path, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))")
    output, errors = child.communicate(timeout=DEADLINE_S)
    finished = len(output.split())
    message = errors.strip().splitlines()[-1]
    assert finished >= 1
    assert f"episode {finished} could not be written" in message
    assert "make room" in message
    assert "what was staged is in" in message
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        assert writer.num_episodes == finished
    assert_whole(tmp_path, [4] * finished)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_folder_that_vanished_is_not_written_into_and_back_again_it_is_whole(tmp_path, is_replaced):
    root, elsewhere = tmp_path / "dataset", tmp_path / "elsewhere"
    with DatasetWriter(root, EMBODIMENT) as writer:
        record(writer, 3)
        episode = writer.start_episode("lift")
        for frame in make_frames(EMBODIMENT, 2):
            episode.add_frame(frame)
        root.rename(elsewhere)
        if is_replaced:
            root.mkdir()
        for attempt in (
            episode.save, lambda: writer.start_episode("lift"), writer.discard_last, lambda: writer.mark(0, Marks(True))
        ):  # fmt: skip
            with pytest.raises(DatasetError, match="the dataset folder was moved, deleted or unmounted"):
                attempt()
        assert list(root.iterdir()) == [] if is_replaced else not root.exists()
        if is_replaced:
            root.rmdir()
        elsewhere.rename(root)
        record(writer, 4, seed=2)
    assert_whole(root, [3, 4])
    assert summarize(root).num_unfinished == 1  # the one that could not be saved: its rows are still there


def test_discarded_episodes_are_not_unfinished(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 3)
        record(writer, 3)
        writer.discard_last()
        episode = writer.start_episode("lift")
        episode.add_frame(next(iter(make_frames(EMBODIMENT, 1))))
        episode.discard()
    assert summarize(tmp_path).num_unfinished == 0
