# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import fcntl
import json
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.depth import DepthReader
from gr00t_training.dataset.media.packets import CodedVideo, part_of
from gr00t_training.dataset.media.video import VideoCache, VideoReader, VideoSettings
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics.compute import STATISTIC_NAMES, ImageStatistics
from gr00t_training.dataset.tools.edit import exchange
from gr00t_training.dataset.tools.edit.kept import KeptEpisode
from gr00t_training.dataset.tools.edit.operations import (
    convert_dataset,
    delete_episodes,
    episodes_with_marks,
    merge_datasets,
    rename_task,
    retask_episodes,
    split_by_fraction,
    split_by_task,
    split_dataset,
    write_kept,
)
from gr00t_training.dataset.tools.edit.restate import recompute_statistics
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.dataset.tools.edit.statistics import describe_frames
from gr00t_training.dataset.tools.edit.trim import TrimSettings, find_idle_ends, moving_rows, trim_dataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import DepthKey, load_embodiment
from gr00t_training.errors import DatasetError

FRONT = "observation.images.front"
LENGTHS = (6, 5, 4)
TASKS = ("lift", "push", "lift")
EMBODIMENT = dataclasses.replace(make_embodiment(), depth={"wrist": DepthKey(height=8, width=10)})


def depth_image(row):
    return np.full((8, 10), 100 * row + 7, np.uint16)


def frames_of(count, seed, embodiment=EMBODIMENT):
    """Frames of which row k has depth k, an age of k ms, and is filled where k is 2."""
    return [
        dataclasses.replace(
            frame,
            depth={"wrist": depth_image(row)} if embodiment.depth else {},
            ages_ns={"state.arm": row * 1_000_000},
            filled=frozenset({"state.arm"} if row == 2 else ()),
            task="",
        )
        for row, frame in enumerate(make_frames(embodiment, count, seed=seed))
    ]


def record(root, episodes, *, embodiment=EMBODIMENT, version="v2.1", video=None):
    """Write a dataset of (task, frames, report) each."""
    with DatasetWriter(root, embodiment, version=version, video=video) as writer:
        for task, frames, report in episodes:
            episode = writer.start_episode(task)
            for frame in frames:
                episode.add_frame(frame)
            episode.save(report)
    return root


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Three episodes in each version; the second is marked a failure."""
    episodes = [
        (task, frames_of(count, seed), {"success": seed != 1, "valid": True})
        for seed, (task, count) in enumerate(zip(TASKS, LENGTHS, strict=True))
    ]
    return {
        version: record(tmp_path_factory.mktemp("recorded") / version, episodes, version=version)
        for version in ("v2.1", "v3.0")
    }


@pytest.fixture
def copy(recorded, tmp_path):
    shutil.copytree(recorded["v2.1"], tmp_path / "copy")
    return tmp_path / "copy"


def faults(root):
    return [str(finding) for finding in validate_dataset(root) if finding.is_fault]


def assert_holds(root, seeds, tasks, *, rows=None):
    """Hold every row, picture, depth image and age of a dataset against what was recorded with these seeds."""
    assert faults(root) == []
    dataset = EpisodeDataset(root)
    lengths = [LENGTHS[seed] for seed in seeds]
    rows = rows or [(0, length) for length in lengths]
    assert [episode.length for episode in dataset.episodes] == [stop - start for start, stop in rows]
    assert [episode.index for episode in dataset.episodes] == list(range(len(seeds)))
    index = 0
    for episode, (seed, (start, stop)) in enumerate(zip(seeds, rows, strict=True)):
        frames = frames_of(LENGTHS[seed], seed)[start:stop]
        count = stop - start
        expected = np.array([[*frame.state["arm"], *frame.state["gripper"]] for frame in frames], np.float32)
        assert np.array_equal(dataset.column(episode, "observation.state"), expected)
        assert np.array_equal(dataset.column(episode, "index"), np.arange(index, index + count))
        assert np.array_equal(dataset.column(episode, "frame_index"), np.arange(count))
        assert np.array_equal(dataset.column(episode, "timestamp"), schema.make_timestamps(count, 10))
        assert dataset.task(episode, 0) == tasks[episode]
        levels = [frame.images["front"][0, 0, 0] for frame in frames]
        np.testing.assert_allclose(dataset.images(episode, "front", range(count))[:, 5, 5, 0], levels, atol=2)
        quality = dataset.quality(episode)
        assert quality is not None
        assert quality.ages_ns["state.arm"].tolist() == [row * 1_000_000 for row in range(start, stop)]
        assert np.flatnonzero(quality.filled["state.arm"]).tolist() == [
            row - start for row in [2] if start <= row < stop
        ]
        assert quality.marks.is_success is (seed != 1)
        depth = DepthReader(root / schema.depth_path(episode, "wrist"))
        assert np.array_equal(depth.read(range(count)), [depth_image(row) for row in range(start, stop)])
        assert depth.num_frames == count and depth.unit_m == 0.001
        depth.close()
        index += count
    dataset.close()


def pictures(episode):
    """Return the decoded frames of an episode of a `SourceDataset`."""
    span = episode.videos[FRONT]
    return VideoReader(span.path).read(range(span.first, span.first + span.count))


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def names_beside(path):
    return sorted(item.name for item in path.parent.iterdir())


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_deleted_episode_is_gone_and_the_others_move_up(recorded, tmp_path, version):
    before = {path: path.stat().st_mtime_ns for path in recorded[version].rglob("*")}
    report = delete_episodes(recorded[version], [1], tmp_path / "out")
    assert (report.num_episodes, report.num_frames, report.encoded, report.notes) == (2, 10, [], [])
    assert_holds(tmp_path / "out", [0, 2], ["lift", "lift"])
    assert list(EpisodeDataset(tmp_path / "out").tasks.values()) == ["lift"]  # no episode has the task "push" any more
    assert {path: path.stat().st_mtime_ns for path in recorded[version].rglob("*")} == before
    assert names_beside(tmp_path / "out") == ["out"]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_merged_datasets_of_different_versions_hold_all_episodes(recorded, tmp_path, version):
    first, other = recorded[version], recorded["v3.0" if version == "v2.1" else "v2.1"]
    merge_datasets([first, other], tmp_path / "out")
    assert EpisodeDataset(tmp_path / "out").version.value == version
    assert_holds(tmp_path / "out", [0, 1, 2, 0, 1, 2], [*TASKS, *TASKS])


def test_tasks_of_merged_datasets_are_numbered_by_text(tmp_path):
    bare = make_embodiment()
    first = record(tmp_path / "a", [("push", make_frames(bare, 3, task=""), None)], embodiment=bare)
    frames = make_frames(bare, 3, task="")
    other = record(tmp_path / "b", [("lift", frames, None), ("push", frames, None)], embodiment=bare)
    merge_datasets([first, other], tmp_path / "out")
    dataset = EpisodeDataset(tmp_path / "out")
    assert dict(dataset.tasks) == {0: "push", 1: "lift"}
    assert [int(dataset.column(episode, "task_index")[0]) for episode in range(3)] == [0, 1, 0]
    assert [episode.tasks for episode in dataset.episodes] == [("push",), ("lift",), ("push",)]


@pytest.mark.parametrize(("there", "back"), [("v2.1", "v3.0"), ("v3.0", "v2.1")])
def test_conversion_there_and_back_gives_equal_rows_and_pictures(recorded, tmp_path, there, back):
    convert_dataset(recorded[there], tmp_path / "there", back)
    assert_holds(tmp_path / "there", [0, 1, 2], TASKS)
    convert_dataset(tmp_path / "there", tmp_path / "back", there)
    assert_holds(tmp_path / "back", [0, 1, 2], TASKS)
    first, last = SourceDataset(recorded[there]), SourceDataset(tmp_path / "back")
    for one, other in zip(first.episodes, last.episodes, strict=True):
        assert first.read_rows(one).equals(last.read_rows(other))
        assert np.array_equal(pictures(one), pictures(other))


def test_reference_sets_of_both_versions_convert_into_each_other(data_dir, tmp_path):
    old, new = data_dir / "lerobot_v21_reference", data_dir / "lerobot_v30_reference"
    convert_dataset(old, tmp_path / "new", "v3.0")
    convert_dataset(new, tmp_path / "old", "v2.1")
    for written, reference in ((tmp_path / "new", new), (tmp_path / "old", old)):
        found, expected = SourceDataset(written), SourceDataset(reference)
        assert found.tasks == expected.tasks
        for one, other in zip(found.episodes, expected.episodes, strict=True):
            assert one.entry == other.entry
            rows, wanted = found.read_rows(one), expected.read_rows(other)
            assert rows.select(wanted.column_names).to_pydict() == wanted.to_pydict()
            assert (one.videos[FRONT].first, one.videos[FRONT].count) == (
                other.videos[FRONT].first,
                other.videos[FRONT].count,
            )
            # the sets were encoded apart: alike, not equal
            assert np.abs(pictures(one).astype(int) - pictures(other)).mean() < 2
    assert faults(tmp_path / "new") == []
    assert faults(tmp_path / "old") == ["fault: meta/modality.json: missing, GR00T cannot open the dataset; write it"]


def test_set_of_version_2_0_without_frame_index_becomes_one_that_lerobot_opens(data_dir, tmp_path):
    path = data_dir / "lerobot_v20_gr1"
    whole = SourceDataset(path)
    write_kept([KeptEpisode(whole, 4)], whole, tmp_path / "out", "v2.1")
    assert faults(tmp_path / "out") == []
    info = schema.read_json(tmp_path / "out" / schema.INFO_FILE)
    assert "observation.images.egoview" not in info["features"]  # has no files
    assert info["features"]["observation.images.ego_view"]["names"] == ["height", "width", "channels"]
    dataset, source = EpisodeDataset(tmp_path / "out"), EpisodeDataset(path)
    assert np.array_equal(dataset.column(0, "frame_index"), np.arange(328))
    assert np.array_equal(dataset.column(0, "timestamp").astype(np.float32), schema.make_timestamps(328, 20))
    assert np.array_equal(dataset.column(0, "action"), source.column(4, "action"))
    assert dataset.task(0, 0) == source.task(4, 0)
    assert dataset.task(0, 0, "human.validity") == "valid"
    images = schema.read_json_lines(tmp_path / "out" / schema.EPISODES_STATS_FILE)[0]["stats"]
    assert np.shape(images["observation.images.ego_view"]["mean"]) == (3, 1, 1)


def test_split_parts_hold_every_episode_once(recorded, tmp_path):
    parts = split_by_fraction(recorded["v2.1"], {"train": 0.7, "val": 0.3}, seed=3)
    assert [len(episodes) for episodes in parts.values()] == [2, 1]
    assert sorted(parts["train"] + parts["val"]) == [0, 1, 2]
    assert parts == split_by_fraction(recorded["v2.1"], {"train": 0.7, "val": 0.3}, seed=3)
    split_dataset(recorded["v2.1"], parts, tmp_path / "out")
    for name, episodes in parts.items():
        assert_holds(tmp_path / "out" / name, episodes, [TASKS[index] for index in episodes])
    assert split_by_task(recorded["v2.1"]) == {"lift": [0, 2], "push": [1]}
    with pytest.raises(DatasetError, match="part 'test' would have no episode"):
        split_dataset(recorded["v2.1"], {"test": []}, tmp_path / "none")
    assert names_beside(tmp_path / "out") == ["out"]
    with pytest.raises(DatasetError, match="add up to at most 1"):
        split_by_fraction(recorded["v2.1"], {"train": 0.7, "val": 0.4}, seed=0)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_marks_find_their_episodes(recorded, version):
    assert episodes_with_marks(recorded[version], {"success": False}) == [1]
    assert episodes_with_marks(recorded[version], {"valid": False}) == []
    assert episodes_with_marks(recorded[version], {"valid": True}) == [0, 1, 2]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_retasked_episodes_tell_the_new_text_everywhere(recorded, tmp_path, version):
    retask_episodes(recorded[version], [2], "wave", tmp_path / "out")
    assert_holds(tmp_path / "out", [0, 1, 2], ["lift", "push", "wave"])
    dataset = EpisodeDataset(tmp_path / "out")
    assert [episode.tasks for episode in dataset.episodes] == [("lift",), ("push",), ("wave",)]
    assert dict(dataset.tasks) == {0: "lift", 1: "wave", 2: "push"}
    rename_task(tmp_path / "out", "wave", "push", tmp_path / "joined")
    assert_holds(tmp_path / "joined", [0, 1, 2], ["lift", "push", "push"])
    assert dict(EpisodeDataset(tmp_path / "joined").tasks) == {0: "lift", 1: "push"}
    with pytest.raises(DatasetError, match="no task 'sing'; its tasks are 'lift'; 'push'"):
        rename_task(recorded[version], "sing", "dance", tmp_path / "no")
    with pytest.raises(DatasetError, match="task text: the instruction is empty"):
        retask_episodes(recorded[version], [0], " ", tmp_path / "no")


def test_retasking_leaves_other_annotations_alone(data_dir, tmp_path):
    retask_episodes(data_dir / "lerobot_v20_gr1", [1], "wave", tmp_path / "out")
    dataset = EpisodeDataset(tmp_path / "out")
    assert dataset.task(1, 0, "human.action.task_description") == "wave"
    assert dataset.task(1, 0, "human.validity") == "valid"
    assert dataset.episode(1).tasks == ("wave", "valid")
    assert dataset.task(0, 0).startswith("pick the pear")


# ---- trimming ----


def idle_episode(rows_before, rows_moving, rows_after, *, noise=0.0):
    """Frames of an arm that rests, moves its first joint by 0.1 rad a row, and rests."""
    count = rows_before + rows_moving + rows_after
    position = np.clip(np.arange(count) - rows_before, 0, rows_moving) * 0.1
    rng = np.random.default_rng(0)
    return [
        dataclasses.replace(
            frame,
            state={"arm": np.array([x, 0.2, rng.normal(0, noise)]), "gripper": np.array([0.01])},
            action={"arm": np.array([x, 0.2, 0.0]), "gripper": np.array([0.01])},
            task="",
        )
        for frame, x in zip(make_frames(make_embodiment(), count), position, strict=True)
    ]


def test_motion_is_seen_from_both_ends():
    values = np.array([[0.0, 5.0], [0.01, 5.0], [0.5, 5.0], [1.0, 5.0], [0.99, 5.0], [1.0, 5.0]])
    assert moving_rows(values, np.array([0.02, 1.0])) == (2, 3)
    assert moving_rows(values, np.array([2.0, 1.0])) is None
    there_and_back = np.array([[0.0], [0.0], [1.0], [0.0], [0.0]])
    assert moving_rows(there_and_back, np.array([0.1])) == (2, 3)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_trimmed_episode_has_the_rows_and_pictures_of_the_motion(tmp_path, version):
    frames = idle_episode(12, 10, 15, noise=0.001)
    root = record(tmp_path / "in", [("lift", frames, None)] * 2, embodiment=make_embodiment(), version=version)
    settings = TrimSettings(margin_s=0.2)
    # the first joint is away from its rest in row 13; rows 11 and 23 are two rows, 0.2 s, outside the motion
    expected = (10, 24)  # row 11 is not a key frame, row 10 is
    ends = find_idle_ends(root, settings)
    assert [(end.start, end.stop, end.encoded, end.num_cut) for end in ends] == [(*expected, (), 23)] * 2
    report, _ = trim_dataset(root, tmp_path / "out", settings)
    assert report.encoded == [] and report.num_frames == 28
    assert faults(tmp_path / "out") == []
    before, after = EpisodeDataset(root), EpisodeDataset(tmp_path / "out")
    for episode in range(2):
        for column in ("observation.state", "action"):
            kept = before.column(episode, column)[slice(*expected)]
            assert np.array_equal(after.column(episode, column), kept)
        kept = before.images(episode, "front", range(*expected))
        assert np.array_equal(after.images(episode, "front", range(14)), kept)  # nothing was re-encoded
    quality = schema.read_json(tmp_path / "out" / schema.quality_path(1))
    assert quality["start_ns"] == 1_000_000_000 and quality["length"] == 14


def test_video_that_cannot_be_cut_is_encoded_again_and_named(tmp_path):
    frames = idle_episode(12, 10, 15)
    root = record(tmp_path / "in", [("lift", frames, None)], embodiment=make_embodiment(), video=VideoSettings(gop=100))
    report, ends = trim_dataset(root, tmp_path / "out", TrimSettings(margin_s=0.2))
    assert [(end.start, end.stop, end.encoded) for end in ends] == [(11, 24, (FRONT,))]
    assert report.encoded == [schema.video_path(0, FRONT)]
    assert faults(tmp_path / "out") == []
    before, after = EpisodeDataset(root), EpisodeDataset(tmp_path / "out")
    kept = before.images(0, "front", range(11, 24)).astype(int)
    assert np.abs(after.images(0, "front", range(13)) - kept).max() <= 3


def test_episode_in_which_nothing_moves_is_kept_and_named(tmp_path):
    root = record(
        tmp_path / "in",
        [("lift", idle_episode(9, 0, 0), None), ("lift", idle_episode(2, 5, 2), None)],
        embodiment=make_embodiment(),
    )
    _, ends = trim_dataset(root, tmp_path / "out", TrimSettings(margin_s=0.0))
    assert [(end.is_still, end.start, end.stop) for end in ends] == [(True, 0, 9), (False, 2, 7)]
    assert [episode.length for episode in EpisodeDataset(tmp_path / "out").episodes] == [9, 5]


def test_quality_and_depth_lose_the_rows_that_the_episode_loses(recorded, tmp_path):
    source = SourceDataset(recorded["v2.1"])
    kept = [KeptEpisode(source, 0, 2, 5), KeptEpisode(source, 1)]
    write_kept(kept, source, tmp_path / "out")
    assert_holds(tmp_path / "out", [0, 1], ["lift", "push"], rows=[(2, 5), (0, 5)])


# ---- what is refused, and what is left behind ----


def test_datasets_that_do_not_fit_are_refused_with_the_difference(recorded, tmp_path, data_dir):
    slower = make_embodiment(fps=5)
    slow = record(tmp_path / "slow", [("x", make_frames(slower, 3), None)], embodiment=slower)
    with pytest.raises(DatasetError, match=r"cannot be one dataset: 5 Hz and 10 Hz"):
        merge_datasets([recorded["v2.1"], slow], tmp_path / "out")
    large = make_embodiment(size=(64, 48))
    big = record(tmp_path / "big", [("x", make_frames(large, 3), None)], embodiment=large)
    with pytest.raises(DatasetError, match=f"'{FRONT}' is 48x64 h264 in the one and 48x32 h264 in the other"):
        merge_datasets([recorded["v2.1"], big], tmp_path / "out")
    other = dataclasses.replace(EMBODIMENT, action_horizon=8)
    short = record(tmp_path / "short", [("x", frames_of(3, 0), None)], embodiment=other)
    with pytest.raises(DatasetError, match=r"their embodiments differ: action_horizon: found 8, expected 16"):
        merge_datasets([recorded["v2.1"], short], tmp_path / "out")
    shutil.copytree(recorded["v2.1"], tmp_path / "meaning")
    edit_json(tmp_path / "meaning" / schema.MODALITY_FILE, lambda content: content["state"]["arm"].update(end=2))
    with pytest.raises(DatasetError, match=r"differ in meta/modality\.json"):
        merge_datasets([recorded["v2.1"], tmp_path / "meaning"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_existing_folder_is_not_touched(recorded, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="exists already"):
        delete_episodes(recorded["v2.1"], [0], tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    with pytest.raises(DatasetError, match="no episode 7; it has episodes 0 to 2"):
        delete_episodes(recorded["v2.1"], [7], tmp_path / "new")
    with pytest.raises(DatasetError, match="no episode is left"):
        delete_episodes(recorded["v2.1"], [0, 1, 2], tmp_path / "new")
    assert names_beside(tmp_path / "out") == ["out"]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda root: (root / schema.data_path(2)).write_bytes(b"PAR1"),
            r"episode_000002\.parquet: cannot be read .* restore it, or leave episode 2 out",
        ),
        (
            lambda root: shutil.copy(root / schema.video_path(0, FRONT), root / schema.video_path(2, FRONT)),
            r"episode 2: episode_000002\.mp4 of .*front has 6 frames, the episode 4 rows; restore the video",
        ),
        (
            lambda root: (root / schema.video_path(2, FRONT)).unlink(),
            r"episode_000002\.mp4: not a readable video .* leave its episode out",
        ),
    ],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_damaged_episode_is_named_and_leaves_nothing_half(copy, tmp_path, damage, expected, in_place):
    damage(copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError, match=expected):
        delete_episodes(copy, [0], None if in_place else tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before
    assert names_beside(copy) == ["copy"]
    delete_episodes(copy, [2], tmp_path / "out")  # the damaged one can be left out
    assert_holds(tmp_path / "out", [0, 1], ["lift", "push"])


def test_missing_rows_are_not_hidden_by_new_times(copy, tmp_path):
    path = copy / schema.data_path(1)
    table = pq.read_table(path)
    times = table["timestamp"].to_numpy().copy()
    times[3:] += np.float32(0.1)
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", [times]), path)
    with pytest.raises(DatasetError, match=r"episode 1: row 3 is at 0\.4000 s, expected 0\.3000 s at 10 Hz"):
        convert_dataset(copy, tmp_path / "out", "v3.0")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_dataset_is_replaced_in_place(recorded, tmp_path, version):
    root = tmp_path / "copy"
    shutil.copytree(recorded[version], root)
    (root / schema.IGNORED / "episode_000009").mkdir(parents=True)
    (root / schema.IGNORED / "episode_000009" / "rows").write_text("to be repaired")
    (root / "NOTES.md").write_text("about this dataset")
    delete_episodes(root, [0], None)
    assert_holds(root, [1, 2], ["push", "lift"])
    assert (root / schema.IGNORED / "episode_000009" / "rows").read_text() == "to be repaired"
    assert (root / "NOTES.md").read_text() == "about this dataset"
    assert names_beside(root) == ["copy"]
    with DatasetWriter(root, EMBODIMENT) as writer:  # and it can be recorded on
        episode = writer.start_episode("lift")
        for frame in frames_of(6, 0):
            episode.add_frame(frame)
        assert episode.save({"success": True}) == 2
    assert_holds(root, [1, 2, 0], ["push", "lift", "lift"])


def test_dataset_is_not_replaced_while_it_is_recorded(copy):
    with DatasetWriter(copy, EMBODIMENT), pytest.raises(DatasetError, match="a recorder has it open"):
        delete_episodes(copy, [0], None)
    assert_holds(copy, [0, 1, 2], TASKS)


def test_what_a_killed_run_left_is_removed_and_a_running_one_is_not_disturbed(recorded, tmp_path):
    staging = tmp_path / ".out.staging"
    staging.mkdir()
    (staging / "half").write_text("")
    delete_episodes(recorded["v2.1"], [0], tmp_path / "out")
    assert names_beside(tmp_path / "out") == ["out"]
    with open(tmp_path / ".new.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="another run is writing it"):
            delete_episodes(recorded["v2.1"], [0], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_full_disk_is_told_and_leaves_the_dataset_as_it_was(copy):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DatasetError, match=r"copy: cannot be written .*; check path and disk"):
            delete_episodes(copy, [0], None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_holds(copy, [0, 1, 2], TASKS)
    assert names_beside(copy) == ["copy"]


REPLACE_FOR_EVER = """
import sys
from gr00t_training.dataset.tools.edit.operations import retask_episodes
number = 0
while True:
    number += 1
    retask_episodes(sys.argv[1], [0], f"lift {number % 10}", None)
    print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_replacements_leave_a_whole_dataset(copy):
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", REPLACE_FOR_EVER, str(copy)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "done\n"
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        assert faults(copy) == []
        assert [episode.length for episode in EpisodeDataset(copy).episodes] == list(LENGTHS)
        assert EpisodeDataset(copy).task(0, 0).startswith("lift ")
    retask_episodes(copy, [0], "lift", None)
    assert_holds(copy, [0, 1, 2], TASKS)
    assert names_beside(copy) == ["copy"]


def test_folders_change_places_without_help_of_the_file_system(tmp_path, monkeypatch):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    monkeypatch.setattr(exchange.ctypes, "CDLL", lambda *arguments, **options: object())
    exchange.exchange_folders(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "content").read_text() == "new"
    assert (tmp_path / "new" / "content").read_text() == "old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["new", "old"]


# ---- parts ----


def test_joined_videos_of_other_coding_start_a_new_file(recorded, tmp_path):
    """One set of parameters describes a whole mp4: frames coded with others would not decode in it."""
    other = record(
        tmp_path / "other",
        [("push", frames_of(5, 1), {"success": False})],
        video=VideoSettings(preset="slow", gop=50),
    )
    merge_datasets([recorded["v3.0"], other], tmp_path / "out")
    assert_holds(tmp_path / "out", [0, 1, 2, 1], [*TASKS, "push"])
    assert len(list((tmp_path / "out" / "videos" / FRONT).rglob("*.mp4"))) == 2


def test_coded_video_with_b_frames_is_cut_where_its_packets_stand_together(data_dir, tmp_path):
    path = data_dir / "lerobot_v20_gr1" / "videos/chunk-000/observation.images.ego_view/episode_000000.mp4"
    video = CodedVideo(path)
    assert video.delay > 0  # key frames are 0 and 250
    whole = Span(path, 0, video.num_frames)
    assert video.can_cut(whole) and video.can_cut(part_of(whole, 250, 416))
    assert not video.can_cut(part_of(whole, 1, 416))
    # whether a run may end somewhere depends on whether its last frames need a later one
    stops = [stop for stop in range(2, 20) if video.can_cut(part_of(whole, 0, stop))]
    assert 0 < len(stops) < 18
    with pytest.raises(DatasetError, match="frames 400 to 499 requested, the file has 416"):
        list(video.packets(Span(path, 400, 100)))
    with pytest.raises(DatasetError, match="frames 416 to 417 requested, the file has 416"):
        video.can_cut(Span(path, 416, 2))
    video.close()


def test_statistics_of_decoded_frames_are_those_of_all_images(recorded):
    path = recorded["v2.1"] / schema.video_path(0, FRONT)
    images = ImageStatistics()
    for image in VideoReader(path).read(range(6)):
        images.add(image)
    with VideoCache() as videos:
        found = describe_frames(Span(path, 0, 6), videos, quantiles=True)
    expected = images.describe(quantiles=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-9)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_statistics_are_computed_again(recorded, tmp_path, version):
    root = tmp_path / "copy"
    shutil.copytree(recorded[version], root)
    right = schema.read_json(root / schema.STATS_FILE)
    edit_json(root / schema.STATS_FILE, lambda content: content["action"].update(max=[9.0] * 4))
    assert faults(root)
    names = recompute_statistics(root, progress=lambda num_done: None)
    assert schema.STATS_FILE in names
    assert faults(root) == []
    found = schema.read_json(root / schema.STATS_FILE)
    for column in ("observation.state", "action"):
        for name in STATISTIC_NAMES:
            np.testing.assert_allclose(found[column][name], right[column][name], rtol=1e-6, atol=1e-9)
    dataset = SourceDataset(root)
    assert all(np.shape(dataset.statistics_of(episode)[FRONT]["mean"]) == (3, 1, 1) for episode in dataset.episodes)
    assert dataset.marks(1).is_success is False


def test_relative_statistics_follow_the_rows(tmp_path):
    arm = make_embodiment()
    action = {key: dataclasses.replace(vector, relative_to=key) for key, vector in arm.action.items()}
    relative = dataclasses.replace(arm, action=action, action_horizon=3)
    root = record(
        tmp_path / "in", [("x", make_frames(relative, 6, seed=seed), None) for seed in (0, 1)], embodiment=relative
    )
    recompute_statistics(root, images=False)
    before = schema.read_json(root / schema.RELATIVE_STATS_FILE)
    delete_episodes(root, [1], tmp_path / "out")
    after = schema.read_json(tmp_path / "out" / schema.RELATIVE_STATS_FILE)
    frames = make_frames(relative, 6, seed=0)
    differences = [frames[row].action["gripper"] - frames[row].state["gripper"] for row in range(4)]
    assert after["gripper"]["max"][0] == pytest.approx([float(np.max(differences))], rel=1e-5)
    assert before["gripper"]["max"] != after["gripper"]["max"]
    convert_dataset(tmp_path / "out", tmp_path / "v3", "v3.0")
    assert schema.read_json(tmp_path / "v3" / schema.RELATIVE_STATS_FILE) == after


def test_conversion_takes_the_embodiment_that_the_dataset_lacks(data_dir, tmp_path):
    path = data_dir / "lerobot_v30_reference"
    with pytest.raises(DatasetError, match=r"embodiment 'test_arm' has 10 Hz, the dataset has 30 Hz"):
        convert_dataset(path, tmp_path / "out", "v2.1", embodiment=make_embodiment())
    with pytest.raises(DatasetError, match=r"'observation.state' has channels \[j0, j1, j2, grip\], the dataset has"):
        convert_dataset(path, tmp_path / "out", "v2.1", embodiment=make_embodiment(fps=30))
    reference = make_embodiment(fps=30, size=(120, 160))
    names = SourceDataset(path).features["action"]["names"]
    keys = {"all": dataclasses.replace(reference.state["arm"], names=tuple(names))}
    camera = reference.video["front"]
    fitting = dataclasses.replace(reference, state=keys, action=keys, video={"front": camera, "wrist": camera})
    convert_dataset(path, tmp_path / "out", "v2.1", embodiment=fitting)
    assert faults(tmp_path / "out") == []
    assert load_embodiment(tmp_path / "out" / schema.EMBODIMENT_FILE) == fitting
