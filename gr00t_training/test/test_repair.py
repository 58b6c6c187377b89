# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_test_support.waiting import eventually
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.depth import DepthReader
from gr00t_training.dataset.media.video import VideoCodec, VideoReader, VideoSettings, VideoWriter
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.repair.dataset import repair_dataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.dataset.writing.journal import JournalWriter, read_journal
from gr00t_training.embodiment import DepthKey
from gr00t_training.errors import DatasetError

pytestmark = pytest.mark.slow

FRONT = "observation.images.front"
EMBODIMENT = make_embodiment()
LENGTHS = (6, 5, 4)
ROWS, VIDEO = schema.data_path(1), schema.video_path(1, FRONT)
STATS = schema.EPISODES_STATS_FILE


def record(writer, count, seed):
    episode = writer.start_episode(f"task {seed % 2}")
    for frame in make_frames(EMBODIMENT, count, seed=seed, task=""):
        episode.add_frame(frame)
    return episode.save()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    roots = {}
    for version in ("v2.1", "v3.0"):
        roots[version] = tmp_path_factory.mktemp(version)
        with DatasetWriter(roots[version], EMBODIMENT, version=version) as writer:
            for seed, count in enumerate(LENGTHS):
                record(writer, count, seed)
    return roots


@pytest.fixture
def copy(written, tmp_path):
    shutil.copytree(written["v2.1"], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def copy_v3(written, tmp_path):
    shutil.copytree(written["v3.0"], tmp_path / "copy_v3")
    return tmp_path / "copy_v3"


def faults(root):
    return [str(finding) for finding in validate_dataset(root) if finding.is_fault]


def assert_as_recorded(root, lengths=LENGTHS):
    """Hold every row and picture against what was fed."""
    dataset = EpisodeDataset(root)
    assert [episode.length for episode in dataset.episodes] == list(lengths)
    for index, count in enumerate(lengths):
        frames = make_frames(EMBODIMENT, LENGTHS[index], seed=index)[:count]
        expected = np.array([[*frame.state["arm"], *frame.state["gripper"]] for frame in frames], np.float32)
        assert np.array_equal(dataset.column(index, "observation.state"), expected)
        assert dataset.task(index, 0) == f"task {index % 2}"
        levels = [frame.images["front"][0, 0, 0] for frame in frames]
        images = dataset.images(index, "front", range(count))
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), levels, atol=1.5)
    dataset.close()


def contents_of(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_lines(path, change):
    lines = schema.read_json_lines(path)
    change(lines)
    path.write_text(schema.json_lines_text(lines))


def edit_column(path, name, change):
    table = pq.read_table(path)
    values = table[name].to_pylist()
    change(values)
    position = table.schema.get_field_index(name)
    field = table.schema.field(name)
    pq.write_table(table.set_column(position, field, pa.array(values, field.type)), path)


def write_video(path, levels, *, fps=10, settings=None):
    video = VideoWriter(path, 32, 48, fps, settings or VideoSettings())
    for level in levels:
        video.add(np.full((32, 48, 3), level, np.uint8))
    video.close()


LEVELS = [16 + 7 * k for k in range(5)]  # of the frames of episode 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: edit_column(root / ROWS, "frame_index", lambda t: t.__setitem__(4, 3)),
        lambda root: edit_column(root / ROWS, "episode_index", lambda t: t.__setitem__(0, 0)),
        lambda root: edit_column(root / ROWS, "index", lambda t: t.__setitem__(slice(None), range(5))),
        lambda root: edit_column(root / ROWS, "timestamp", lambda t: t.__setitem__(3, 0.35)),
        lambda root: edit_column(root / ROWS, "task_index", lambda t: t.__setitem__(slice(None), [7] * 5)),
        lambda root: pq.write_table(pq.read_table(root / ROWS).drop(["frame_index"]), root / ROWS),
        lambda root: write_video(root / VIDEO, LEVELS, fps=20),
        lambda root: (root / "data/chunk-000/episode_000007.parquet").write_bytes(b"PAR1"),
        lambda root: shutil.copy(root / VIDEO, root / "videos/chunk-000/extra.mp4"),
        lambda root: edit_json(root / "meta/stats.json", lambda s: s["action"]["q01"].pop()),
        lambda root: edit_json(root / "meta/stats.json", lambda s: s["action"]["max"].__setitem__(0, 1e3)),
        lambda root: (root / "meta/stats.json").unlink(),
        lambda root: edit_lines(root / STATS, lambda lines: lines[1]["stats"]["action"]["mean"].__setitem__(2, 9.0)),
        lambda root: edit_lines(root / STATS, lambda lines: lines[0]["stats"][FRONT].update(mean=[[[0.9]]] * 3)),
        lambda root: edit_lines(root / STATS, lambda lines: lines[0]["stats"][FRONT].update(mean=[0.5])),
        lambda root: edit_lines(root / STATS, lambda lines: lines.pop()),
        lambda root: (root / STATS).write_bytes((root / STATS).read_bytes()[:-50]),
        lambda root: (root / STATS).unlink(),
        lambda root: edit_lines(root / "meta/episodes.jsonl", lambda lines: lines.pop(1)),
        lambda root: edit_lines(root / "meta/episodes.jsonl", lambda lines: lines[1].update(length=4)),
        lambda root: edit_lines(root / "meta/episodes.jsonl", lambda lines: lines.reverse()),
        lambda root: (root / "meta/episodes.jsonl").write_bytes(b'{"episode_index": 0, "ta'),
        lambda root: (root / "meta/episodes.jsonl").unlink(),
        lambda root: (root / "meta/tasks.jsonl").unlink(),
        lambda root: (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": " "}\n'),
        lambda root: (root / "meta/modality.json").unlink(),
        lambda root: edit_json(root / "meta/modality.json", lambda m: m["state"]["arm"].update(end=9)),
        lambda root: edit_json(root / "meta/info.json", lambda i: i.update(total_frames=12, total_episodes=9)),
        lambda root: edit_json(root / "meta/info.json", lambda i: i["features"]["action"]["names"].reverse()),
        lambda root: edit_json(root / "meta/info.json", lambda i: i["features"][FRONT].pop("info")),
        lambda root: edit_json(
            root / "meta/info.json", lambda i: i["features"][FRONT]["info"].update({"video.codec": "x"})
        ),
        lambda root: edit_json(root / "meta/info.json", lambda i: i["features"]["action"].pop("shape")),
        lambda root: (root / "meta/info.json").write_text("{"),
        lambda root: (root / "meta/info.json").unlink(),
    ],
)
def test_damage_is_repaired_and_nothing_is_lost(copy, damage):
    damage(copy)
    before = contents_of(copy)
    assert list(validate_dataset(copy))
    plan = repair_dataset(copy, dry_run=True)
    assert plan.changes
    assert contents_of(copy) == before
    report = repair_dataset(copy)
    assert report.remaining == []
    assert list(validate_dataset(copy)) == []
    assert_as_recorded(copy)
    assert set(before.values()) <= set(contents_of(copy).values())  # every byte is still somewhere
    with DatasetWriter(copy, EMBODIMENT) as writer:
        assert writer.num_episodes == 3
    assert repair_dataset(copy).changes == []


def test_video_that_lacks_its_end_is_refused_and_cuts_nothing(copy):
    write_video(copy / VIDEO, LEVELS[:3])
    before = contents_of(copy)
    report = repair_dataset(copy)
    assert report.changes == []
    assert f"episode 1: 5 rows, but {FRONT} has 3 frames" in str(report)
    assert contents_of(copy) == before


def test_frames_of_no_row_are_a_warning_and_stay(copy):
    write_video(copy / VIDEO, [*LEVELS, 200])
    before = contents_of(copy)
    assert [str(finding) for finding in validate_dataset(copy)] == [
        f"warning: episode 1, {FRONT}: 6 frames, the episode has 5 rows; the frames behind them are used by no row"
    ]
    assert str(repair_dataset(copy)) == "nothing to repair"
    assert contents_of(copy) == before


def test_missing_number_is_closed(copy):
    for name in (ROWS, VIDEO, schema.quality_path(1)):
        (copy / name).unlink()
    edit_lines(copy / "meta/episodes.jsonl", lambda lines: lines.pop(1))
    repair_dataset(copy)
    assert faults(copy) == []
    dataset = EpisodeDataset(copy)
    assert [episode.length for episode in dataset.episodes] == [6, 4]
    expected = np.array([frame.action["gripper"] for frame in make_frames(EMBODIMENT, 4, seed=2)], np.float32)
    assert np.array_equal(dataset.action(1, "gripper"), expected.astype(np.float64))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda root: (root / VIDEO).unlink(), f"{VIDEO}: missing; restore it from a copy"),
        (lambda root: (root / ROWS).write_bytes(b"PAR1"), f"{ROWS}: cannot be read"),
        (lambda root: (root / VIDEO).write_bytes(b"\0" * 99), f"{VIDEO}: not a readable video"),
        (lambda root: write_video(root / VIDEO, [0] * 5), "the video is black from start to end"),
        (
            lambda root: edit_column(root / ROWS, "action", lambda t: t[4].__setitem__(3, float("nan"))),
            "episode 1, action: channel 'grip' is nan in row 4",
        ),
        (
            lambda root: write_video(root / VIDEO, LEVELS, settings=VideoSettings(codec=VideoCodec.AV1)),
            f"{VIDEO}: is av1, expected h264",
        ),
    ],
)
def test_what_cannot_be_repaired_is_named_and_stays(copy, damage, expected):
    damage(copy)
    before = contents_of(copy)
    report = repair_dataset(copy)
    assert any(expected in str(finding) for finding in report.remaining), report.remaining
    assert f"not repaired: {report.remaining[0]}" in str(report)
    kept = {name: digest for name, digest in contents_of(copy).items() if name in (ROWS, VIDEO)}
    assert kept == {name: digest for name, digest in before.items() if name in (ROWS, VIDEO)}


V3_ROWS = schema.shared_path(schema.SHARED_DATA_PATH, 0)
V3_TABLE = schema.shared_path(schema.EPISODES_TABLE_PATH, 0)
V3_VIDEO = schema.shared_path(schema.SHARED_VIDEO_PATH, 0, FRONT)


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: edit_column(root / V3_ROWS, "index", lambda t: t.__setitem__(8, 0)),
        lambda root: edit_column(root / V3_ROWS, "frame_index", lambda t: t.__setitem__(8, 0)),
        lambda root: edit_column(root / V3_ROWS, "timestamp", lambda t: t.__setitem__(8, 0.0)),
        lambda root: edit_column(
            root / V3_TABLE, f"videos/{FRONT}/from_timestamp", lambda t: t.__setitem__(1, t[1] + 0.05)
        ),
        lambda root: edit_column(root / V3_TABLE, "dataset_from_index", lambda t: t.__setitem__(2, 9)),
        lambda root: edit_column(root / V3_TABLE, "stats/action/max", lambda t: t[1].__setitem__(0, 99.0)),
        lambda root: (root / "meta/stats.json").unlink(),
        lambda root: edit_json(root / "meta/stats.json", lambda s: s["action"]["mean"].__setitem__(0, 1e3)),
        lambda root: edit_json(root / "meta/info.json", lambda i: i.update(total_frames=1, data_files_size_in_mb=0)),
        lambda root: shutil.copy(root / V3_ROWS, root / "data/chunk-000/file-005.parquet"),
        lambda root: shutil.copy(root / V3_VIDEO, root / V3_VIDEO.replace("000.mp4", "009.mp4")),
    ],
)
def test_damage_of_v3_is_repaired(copy_v3, damage):
    damage(copy_v3)
    before = contents_of(copy_v3)
    assert faults(copy_v3)
    assert repair_dataset(copy_v3, dry_run=True).changes
    assert contents_of(copy_v3) == before
    assert repair_dataset(copy_v3).remaining == []
    assert faults(copy_v3) == []
    assert_as_recorded(copy_v3)
    assert set(before.values()) <= set(contents_of(copy_v3).values())


def test_whole_dataset_is_left_alone(copy, copy_v3):
    for root in (copy, copy_v3):
        before = contents_of(root)
        report = repair_dataset(root)
        assert str(report) == "nothing to repair"
        assert contents_of(root) == before


def test_sample_of_gr00t_becomes_what_lerobot_opens(data_dir, tmp_path):
    shutil.copytree(data_dir / "lerobot_v20_gr1", tmp_path / "gr1", copy_function=shutil.copyfile)
    report = repair_dataset(tmp_path / "gr1")
    assert report.remaining == []
    texts = " ".join(str(finding) for finding in validate_dataset(tmp_path / "gr1", quick=True))
    assert "frame_index" not in texts
    assert "timestamp" not in texts
    assert "total_" not in texts
    before, after = (pq.read_table(root / ROWS) for root in (data_dir / "lerobot_v20_gr1", tmp_path / "gr1"))
    assert after["action"].equals(before["action"])
    assert after["timestamp"].to_numpy()[:3].tolist() == [0, 0.05, 0.1]


CHILD = """
import sys
import time
import numpy as np
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_test_support.builders import make_embodiment, make_frames
embodiment = make_embodiment()
with DatasetWriter(sys.argv[1], embodiment, version=sys.argv[2]) as writer:
    for seed in range(2):
        episode = writer.start_episode(f"task {seed}")
        for number, frame in enumerate(make_frames(embodiment, 30, seed=seed, task="")):
            episode.add_frame(frame)
            if seed == int(sys.argv[3]) and number == 24:
                print("now", flush=True)
                time.sleep(600)
        episode.save()
"""


def record_and_kill(root, version, seed):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), version, str(seed)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "now\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("resumes", [False, True])
def test_killed_recording_is_recovered(tmp_path, version, seed, resumes):
    root = tmp_path / "set"
    record_and_kill(root, version, seed)
    num_saved = seed
    if resumes:  # another session in between sets the rest aside
        with DatasetWriter(root, EMBODIMENT, version=version) as writer:
            record(writer, 4, 5)
        num_saved += 1
    plan = repair_dataset(root, dry_run=True)
    assert [item.num_rows for item in plan.recovered] == [25]
    report = repair_dataset(root)
    assert report.remaining == []
    assert [item.index for item in report.recovered] == [num_saved]
    count = report.recovered[0].num_frames
    assert 15 < count == plan.recovered[0].num_frames <= 25  # the encoder had the last few
    assert faults(root) == []
    dataset = EpisodeDataset(root)
    assert dataset.version.value == version
    assert len(dataset.episodes) == num_saved + 1
    frames = make_frames(EMBODIMENT, 30, seed=seed)[:count]
    expected = np.array([[*frame.action["arm"], *frame.action["gripper"]] for frame in frames], np.float32)
    assert np.array_equal(dataset.column(num_saved, "action"), expected)
    assert dataset.task(num_saved, 0) == f"task {seed}"
    levels = [frame.images["front"][0, 0, 0] for frame in frames]
    images = dataset.images(num_saved, "front", range(count))
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), levels, atol=1.5)
    quality = dataset.quality(num_saved)
    assert "recovered" in quality.marks.note
    assert str(repair_dataset(root)) == "nothing to repair"


class Killed(BaseException):
    """Stands for the end of the process: no handler of the writer may catch it."""


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("num_saved", [0, 1])
@pytest.mark.parametrize("resumes", [False, True])
def test_killed_between_any_two_renames(tmp_path, monkeypatch, version, num_saved, resumes):
    """The episode was complete, so it is in the dataset afterwards, once, with its depth and report."""
    embodiment = dataclasses.replace(EMBODIMENT, depth={"front": DepthKey(height=4, width=6)})
    frames = [
        dataclasses.replace(frame, depth={"front": np.full((4, 6), seed, np.uint16)})
        for seed in (0, 1)
        for frame in make_frames(embodiment, 4, seed=seed)
    ]
    replace, is_finished, number = os.replace, False, 0
    while not is_finished:
        root, calls = tmp_path / str(number), []

        def dying(source, target, calls=calls, last=number):
            calls.append(target)
            if len(calls) > last:
                raise Killed
            replace(source, target)

        writer = DatasetWriter(root, embodiment, version=version)
        for episode in range(num_saved + 1):
            recording = writer.start_episode("lift")
            for frame in frames[4 * episode : 4 * episode + 4]:
                recording.add_frame(frame)
            with monkeypatch.context() as patch:
                if episode == num_saved:
                    patch.setattr(os, "replace", dying)
                try:
                    recording.save()
                    is_finished = episode == num_saved
                except Killed:
                    writer._lock.close()  # as the end of a process does
        if is_finished:
            writer.close()
        if resumes:
            DatasetWriter(root, embodiment, version=version).close()
        report = repair_dataset(root)
        assert report.remaining == [], (number, str(report))
        assert list(validate_dataset(root)) == []
        dataset = EpisodeDataset(root)
        assert dataset.version.value == version
        assert len(dataset.episodes) == num_saved + 1
        expected = np.array([frame.state["arm"] for frame in frames[: 4 * num_saved + 4]], np.float32)
        found = np.concatenate([dataset.state(index, "arm") for index in range(num_saved + 1)])
        assert np.array_equal(found, expected.astype(np.float64))
        assert (root / schema.quality_path(num_saved)).exists()
        number += 1
    assert number > 6


def test_discarded_episode_is_not_recovered(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        episode = writer.start_episode("lift")
        for frame in make_frames(EMBODIMENT, 5):
            episode.add_frame(frame)
        episode.discard()
        record(writer, 4, 0)
        writer.discard_last()
    assert repair_dataset(tmp_path).recovered == []


def test_episode_of_another_robot_is_named_and_stays(tmp_path):
    root, other = tmp_path / "set", tmp_path / "other"
    with DatasetWriter(root, EMBODIMENT) as writer:
        record(writer, 4, 0)
    arm = dataclasses.replace(EMBODIMENT.state["arm"], names=("j0", "j2", "j1"))
    embodiment = dataclasses.replace(EMBODIMENT, state={**EMBODIMENT.state, "arm": arm})
    writer = DatasetWriter(other, embodiment)
    episode = writer.start_episode("lift")
    for frame in make_frames(embodiment, 20):
        episode.add_frame(frame)
    shutil.copytree(other / schema.STAGING / "episode_000000", root / schema.STAGING / "episode_000001")
    writer.close()
    report = repair_dataset(root)
    assert report.recovered == []
    expected = "belongs to another dataset: state.arm.names: found [j0, j2, j1], expected [j0, j1, j2]"
    assert expected in str(report)
    assert (root / schema.IGNORED / "episode_000001").is_dir()


def test_dataset_that_is_being_written_is_left_alone(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT), pytest.raises(DatasetError, match="a writer has it open"):
        repair_dataset(tmp_path)
    with pytest.raises(DatasetError, match="is not a folder"):
        repair_dataset(tmp_path / "nothing")


@pytest.mark.parametrize("codec", [VideoCodec.H264, VideoCodec.HEVC, VideoCodec.AV1])
def test_killed_video_can_be_read(tmp_path, codec):
    """Closing makes an ordinary file of it; without that every frame that left the encoder is there."""
    video = VideoWriter(tmp_path / "cut.mp4", 64, 96, 10, VideoSettings(codec=codec))
    for level in range(0, 200, 5):
        video.add(np.full((64, 96, 3), level, np.uint8))

    def copied():
        """Read what a kill would leave now; encoders have threads of their own, which may be late."""
        shutil.copy(tmp_path / "cut.mp4", tmp_path / "copy.mp4")
        with contextlib.suppress(DatasetError):
            reader = VideoReader(tmp_path / "copy.mp4")
            return reader if reader.num_frames >= 30 else None

    reader = eventually(copied, "most frames")
    video.close()
    assert 30 <= reader.num_frames <= 40
    np.testing.assert_allclose(reader.read([25])[0].mean(), 125, atol=1.5)
    np.testing.assert_allclose(reader.presentation_s, np.arange(reader.num_frames) / 10, atol=1e-9)


def test_depth_is_recovered_and_checked(tmp_path):
    depth = {"front": DepthKey(height=24, width=32)}
    embodiment = dataclasses.replace(EMBODIMENT, depth=depth)
    images = np.random.default_rng(0).integers(0, 65535, (20, 24, 32), dtype=np.uint16)
    frames = [
        dataclasses.replace(frame, depth={"front": image})
        for frame, image in zip(make_frames(embodiment, 20), images, strict=True)
    ]
    writer = DatasetWriter(tmp_path, embodiment)
    finished = writer.start_episode("lift")
    for frame in frames[:6]:
        finished.add_frame(frame)
    finished.save()
    unfinished = writer.start_episode("lift")
    for frame in frames:
        unfinished.add_frame(frame)
    shutil.copytree(tmp_path, tmp_path / "killed")  # what a kill at this instant leaves
    writer.close()
    root = tmp_path / "killed"
    report = repair_dataset(root)
    assert report.remaining == []
    (recovered,) = report.recovered
    reader = DepthReader(root / schema.depth_path(1, "front"))
    assert reader.num_frames == recovered.num_frames >= 10
    assert np.array_equal(reader.read(range(recovered.num_frames)), images[: recovered.num_frames])
    reader.close()
    (root / schema.depth_path(1, "front")).unlink()
    shutil.copy(root / schema.depth_path(0, "front"), root / schema.depth_path(1, "front"))
    expected = f"{schema.depth_path(1, 'front')}: 6 frames, episode 1 has {recovered.num_frames} rows"
    assert any(expected in line for line in faults(root))


def test_journal_reads_back_equal_up_to_the_cut(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = JournalWriter(path, index=3, task="贴标签", embodiment=EMBODIMENT, codec="h264", version="v3.0")
    frames = [
        dataclasses.replace(frame, ages_ns={"state.arm": 7}, filled=frozenset({"video.front"}))
        for frame in make_frames(EMBODIMENT, 4)
    ]
    for frame in frames:
        journal.add(frame)
    journal.close()
    path.write_bytes(path.read_bytes()[:-20])
    found = read_journal(path)
    assert (found.index, found.task, found.embodiment) == (3, "贴标签", EMBODIMENT)
    assert (found.codec, found.version) == ("h264", "v3.0")
    assert len(found.frames) == 3
    for frame, expected in zip(found.frames, frames, strict=False):
        assert np.array_equal(frame.state["arm"], expected.state["arm"])
        assert np.array_equal(frame.action["gripper"], expected.action["gripper"])
        assert (frame.tick_ns, frame.task) == (expected.tick_ns, expected.task)
        assert (frame.ages_ns, frame.filled) == (expected.ages_ns, expected.filled)
    path.write_bytes(b'{"episode_index": 3')
    with pytest.raises(DatasetError, match="its first line is damaged"):
        read_journal(path)


def rows_of(root):
    """Return state, timestamp and picture by what the numbers of the rows say, and how many rows there are."""
    found, count = {}, 0
    for path in sorted((root / "data").rglob("*.parquet")):
        table = pq.read_table(path)
        for row in table.to_pylist():
            key = row.get("episode_index"), row["frame_index"]
            found[key] = (tuple(row["observation.state"]), row["timestamp"])
            count += 1
    return found, count


def take_rows(path, rows):
    pq.write_table(pq.read_table(path).take(pa.array(rows)), path)


def swap(root, one, two):
    (root / one).rename(root / "x")
    (root / two).rename(root / one)
    (root / "x").rename(root / two)


def mix_rows(root):
    """Exchange row 2 of the files of episodes 0 and 1."""
    names = [schema.data_path(0), schema.data_path(1)]
    tables = [pq.read_table(root / name) for name in names]
    for name, own, other in ((names[0], *tables), (names[1], tables[1], tables[0])):
        pq.write_table(pa.concat_tables([own.slice(0, 2), other.slice(2, 1), own.slice(3)]), root / name)


def exchange(values):
    values[0], values[1] = values[1], values[0]


def recount(root, name, change):
    edit_column(root / V3_TABLE, name, change)


@pytest.mark.parametrize(
    ("version", "damage"),
    [
        ("v2.1", lambda root: take_rows(root / ROWS, [3, 4, 0, 1, 2])),
        ("v2.1", lambda root: swap(root, schema.data_path(0), ROWS)),
        ("v2.1", mix_rows),
        ("v2.1", lambda root: (root / ROWS).rename(root / "data/chunk-000/episode_000009.parquet")),
        ("v3.0", lambda root: take_rows(root / V3_ROWS, [*range(11, 15), *range(11)])),
        ("v3.0", lambda root: take_rows(root / V3_ROWS, list(range(14, -1, -1)))),
        ("v3.0", lambda root: take_rows(root / V3_TABLE, [2, 0, 1])),
        ("v3.0", lambda root: recount(root, "length", exchange)),
        ("v3.0", lambda root: recount(root, "dataset_from_index", exchange)),
    ],
)
def test_rows_that_number_themselves_are_the_truth(written, tmp_path, version, damage):
    root = tmp_path / "copy"
    shutil.copytree(written[version], root)
    before, count = rows_of(root)
    damage(root)
    sent = {(f.subject, f.text) for f in validate_dataset(root) if f.remedy == "run gr00t_dataset repair"}
    assert sent
    report = repair_dataset(root)
    assert report.remaining == []
    assert rows_of(root) == (before, count)
    assert list(validate_dataset(root)) == []
    assert_as_recorded(root)
    assert str(repair_dataset(root)) == "nothing to repair"


OTHER_VIDEO = schema.video_path(0, FRONT)


def swap_without_numbers(root):
    swap(root, schema.data_path(0), ROWS)
    pq.write_table(pq.read_table(root / ROWS).drop_columns(["episode_index"]), root / ROWS)


def shift_places(root, seconds):
    for end in ("from", "to"):
        edit_column(
            root / V3_TABLE,
            f"videos/{FRONT}/{end}_timestamp",
            lambda t: t.__setitem__(slice(None), [v + seconds for v in t]),
        )


@pytest.mark.parametrize(
    ("version", "damage", "expected"),
    [
        ("v2.1", lambda root: take_rows(root / ROWS, [0, 1, 2, 3]), "4 rows, but meta/episodes.jsonl says 5"),
        ("v2.1", lambda root: take_rows(root / ROWS, [0, 1, 1, 2, 3, 4]), "frame_index 1 is there 2 times"),
        ("v2.1", lambda root: take_rows(root / ROWS, [0, 2, 3, 4]), "frame_index 1 is missing in 4 rows"),
        ("v2.1", lambda root: swap(root, VIDEO, OTHER_VIDEO), f"6 rows, but {FRONT} has 5 frames"),
        (
            "v2.1",
            lambda root: edit_column(root / ROWS, "episode_index", lambda t: t.__setitem__(slice(None), [7] * 5)),
            "the list and the file's name say episode 1, its rows say episode 7",
        ),
        (
            "v2.1",
            lambda root: edit_column(root / ROWS, "frame_index", lambda t: t.reverse()),
            "has frame_index 4 but timestamp 0.000000 s, which is frame 0",
        ),
        ("v2.1", swap_without_numbers, "its rows have no episode_index, and those of"),
        (
            "v2.1",
            lambda root: edit_json(root / "meta/info.json", lambda i: i.update(fps=20)),
            f"timestamps in the rows step by 0.100000 s (10 per second), {FRONT} has 10 frames per second",
        ),
        ("v3.0", lambda root: take_rows(root / V3_ROWS, [*range(10), *range(11, 15)]), "episode 1 has 4 rows"),
        ("v3.0", lambda root: take_rows(root / V3_ROWS, [*range(8), *range(7, 15)]), "frame 1 of episode 1 is there 2"),
        ("v3.0", lambda root: shift_places(root, 0.1), "the file has 15 frames, its episodes 15 rows"),
        (
            "v3.0",
            lambda root: edit_json(root / "meta/info.json", lambda i: i.update(fps=20)),
            "fps is 20, but timestamps in the rows step by 0.100000 s",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_with_both_sides(written, tmp_path, version, damage, expected):
    root = tmp_path / "copy"
    shutil.copytree(written[version], root)
    damage(root)
    before, files = rows_of(root), {n: d for n, d in contents_of(root).items() if n.startswith(("data/", "videos/"))}
    if "its episodes 15 rows" in expected:  # the file has exactly the frames of its rows: that can be decided
        assert repair_dataset(root).remaining == []
        assert_as_recorded(root)
        return
    found = [finding for finding in validate_dataset(root) if finding.is_fault]
    assert any(expected in str(finding) for finding in found), found
    report = repair_dataset(root)
    assert any(expected in str(finding) for finding in report.remaining), report.remaining
    assert rows_of(root) == before
    assert {n: d for n, d in contents_of(root).items() if n.startswith(("data/", "videos/"))} == files
    after = list(validate_dataset(root))
    assert not [finding for finding in after if finding.remedy == "run gr00t_dataset repair"]
    assert repair_dataset(root).changes == []


def test_videos_of_equal_length_that_were_exchanged_are_named(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        for level in (0, 100):
            episode = writer.start_episode("lift")
            for frame in make_frames(EMBODIMENT, 5, seed=level):
                image = frame.images["front"] // 2 + np.uint8(level)
                episode.add_frame(dataclasses.replace(frame, images={"front": image}))
            episode.save()
    swap(tmp_path, VIDEO, OTHER_VIDEO)
    before = contents_of(tmp_path)
    report = repair_dataset(tmp_path)
    assert "; were they exchanged?" in str(report)
    assert contents_of(tmp_path) == before  # the statistics, which show it, are not computed again


@pytest.mark.parametrize("kind", ["link", "pipe", "lfs"])
@pytest.mark.parametrize("name", [VIDEO, ROWS, "meta/tasks.jsonl", "data/chunk-000/episode_000008.parquet"])
def test_what_is_no_file_is_named_and_nothing_is_changed(copy, tmp_path, kind, name):
    path = copy / name
    if path.exists():
        path.rename(tmp_path / "outside")
    else:
        shutil.copy(copy / ROWS, tmp_path / "outside")
    if kind == "link":
        path.symlink_to(tmp_path / "outside")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (copy / "meta/stats.json").unlink()
    before = {p.relative_to(copy).as_posix() for p in copy.rglob("*")}
    expected = {"link": "is a symbolic link to", "pipe": "is a named pipe", "lfs": "run 'git lfs pull'"}[kind]
    report = repair_dataset(copy)
    assert report.changes == []
    assert any(name == finding.subject and expected in str(finding) for finding in report.remaining)
    assert {p.relative_to(copy).as_posix() for p in copy.rglob("*")} == before
    assert not [finding for finding in validate_dataset(copy) if finding.remedy == "run gr00t_dataset repair"]


def test_repair_without_staging_and_with_a_planted_link(copy, tmp_path):
    shutil.rmtree(copy / schema.STAGING)
    (copy / "meta/stats.json").unlink()
    shutil.copy(copy / ROWS, copy / "data/chunk-000/episode_000009.parquet")
    assert repair_dataset(copy).remaining == []
    assert (copy / "meta/stats.json").exists()
    shutil.rmtree(copy / schema.STAGING)
    (copy / "meta/stats.json").unlink()
    (tmp_path / "outside").mkdir()
    (copy / schema.STAGING).symlink_to(tmp_path / "outside")
    assert ".staging: is a symbolic link to" in str(repair_dataset(copy))
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize(
    ("version", "damage"),
    [
        ("v2.1", lambda root: swap(root, schema.data_path(0), ROWS)),
        ("v2.1", mix_rows),
        (
            "v3.0",
            lambda root: (take_rows(root / V3_ROWS, [*range(11, 15), *range(11)]), (root / "meta/stats.json").unlink()),
        ),
    ],
)
def test_repair_killed_at_any_step_is_finished_by_the_next(written, tmp_path, monkeypatch, version, damage):
    replace, number, is_finished, num_decided = os.replace, 0, False, 0
    while not is_finished:
        root = tmp_path / str(number)
        shutil.copytree(written[version], root)
        damage(root)
        before, calls = contents_of(root), []

        def dying(source, target, calls=calls, last=number):
            calls.append(target)
            if len(calls) > last:
                raise Killed
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            try:
                repair_dataset(root)
                is_finished = True
            except Killed:
                pass
        if not is_finished:
            if (root / schema.REPAIR_STEPS).exists():
                num_decided += 1
                with pytest.raises(DatasetError, match="a repair was interrupted; run gr00t_dataset repair first"):
                    EpisodeDataset(root)
                assert "a repair was interrupted" in str(next(iter(validate_dataset(root))))
            else:
                after = {name: digest for name, digest in contents_of(root).items() if name in before}
                assert after == before
            assert repair_dataset(root).remaining == []
        assert list(validate_dataset(root)) == []
        assert_as_recorded(root)
        assert str(repair_dataset(root)) == "nothing to repair"
        number += 1
    assert num_decided >= 2


def test_unfinished_episode_waits_until_the_faults_are_mended(tmp_path):
    root = tmp_path / "set"
    with DatasetWriter(tmp_path / "open", EMBODIMENT, version="v3.0") as writer:
        record(writer, 6, 0)
        episode = writer.start_episode("lift")
        for frame in make_frames(EMBODIMENT, 20):
            episode.add_frame(frame)
        shutil.copytree(tmp_path / "open", root)  # what a kill at this instant leaves
    edit_json(root / "meta/info.json", lambda i: i.update(fps=20))
    before = contents_of(root)
    report = repair_dataset(root)
    assert report.recovered == []
    assert "episode_000001: not recovered while there are faults" in str(report)
    assert contents_of(root) == before
    edit_json(root / "meta/info.json", lambda i: i.update(fps=10))
    assert [item.index for item in repair_dataset(root).recovered] == [1]


def test_repair_killed_before_it_marks_an_episode_recovers_it_once(tmp_path, monkeypatch):
    record_and_kill(tmp_path, "v2.1", 1)
    with DatasetWriter(tmp_path, EMBODIMENT, version="v2.1") as writer:
        record(writer, 4, 5)  # takes the number that the unfinished one would have had
    with monkeypatch.context() as patch:
        patch.setattr(
            "gr00t_training.dataset.tools.repair.unfinished._mark_recovered", lambda item: (_ for _ in ()).throw(Killed)
        )
        with pytest.raises(Killed):
            repair_dataset(tmp_path)
    assert len(EpisodeDataset(tmp_path).episodes) == 3
    assert repair_dataset(tmp_path).recovered == []
    assert len(EpisodeDataset(tmp_path).episodes) == 3


def test_bag_of_a_killed_recorder_is_left_alone(copy):
    bag = copy / ".bags/episode_000003/episode_000003_0.mcap"
    bag.parent.mkdir(parents=True)
    bag.write_bytes(b"\x89MCAP0\r\n" + bytes(500))  # without its end
    (copy / "meta/stats.json").unlink()
    assert repair_dataset(copy).remaining == []
    assert bag.read_bytes() == b"\x89MCAP0\r\n" + bytes(500)


def test_damaged_list_is_not_made_without_an_episode_whose_rows_are_refused(copy):
    take_rows(copy / ROWS, [0, 1, 1, 2, 3, 4])
    (copy / "meta/episodes.jsonl").unlink()
    before = contents_of(copy)
    for _ in range(2):
        report = repair_dataset(copy)
        assert (
            f"{ROWS}: meta/episodes.jsonl is missing or damaged, and this file belongs to no complete episode"
            in str(report)
        )
        assert contents_of(copy) == before


def test_gap_is_closed_where_a_stray_file_has_the_number(copy):
    edit_lines(copy / "meta/episodes.jsonl", lambda lines: lines.pop(1))
    (copy / VIDEO).unlink()
    report = repair_dataset(copy)
    assert f"{ROWS}: belongs to no episode, set aside in .staging/ignored" in report.changes
    assert report.remaining == []
    assert [episode.length for episode in EpisodeDataset(copy).episodes] == [6, 4]


@pytest.mark.parametrize("is_behind", [False, True])
def test_writer_joins_no_video_with_frames_of_no_episode(tmp_path, is_behind):
    root = tmp_path / "set"
    with DatasetWriter(tmp_path / "open", EMBODIMENT, version="v3.0") as writer:
        for seed, count in enumerate(LENGTHS):
            record(writer, count, seed)
        shutil.copytree(tmp_path / "open", root)  # each episode still has separate files
    levels = [16 + 7 * k for k in range(LENGTHS[0])]
    write_video(root / V3_VIDEO, [*levels, 240, 240] if is_behind else [240, 240, *levels])
    if not is_behind:
        shift_places(root, 0.2)
    with DatasetWriter(root, EMBODIMENT, version="v3.0") as writer:
        record(writer, 3, 3)
        writer.discard_last()
    assert_as_recorded(root)
    assert VideoReader(root / V3_VIDEO).num_frames == LENGTHS[0] + 2
    with DatasetWriter(root, EMBODIMENT, version="v3.0") as writer:
        for _ in LENGTHS:
            writer.discard_last()
    videos = [path for path in (root / schema.IGNORED).rglob("*mp4*") if path.is_file()]
    assert max(VideoReader(path).num_frames for path in videos) >= LENGTHS[0] + 2  # the pictures of no episode too
