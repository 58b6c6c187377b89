# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets of v3.0: reading LeRobot's own, and writing them so that a kill at any instant loses nothing."""

import dataclasses
import itertools
import json
import os
import shutil

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoReader, VideoSettings
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics.compute import compute_statistics
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.dataset.writing import shared_files
from gr00t_training.embodiment import VideoKey
from gr00t_training.errors import DatasetError

pytestmark = pytest.mark.slow

EMBODIMENT = make_embodiment()
TABLE = "meta/episodes/chunk-000/file-000.parquet"
CAMERA = "observation.images.front"


def record(writer, count, *, seed, task="lift the cube"):
    episode = writer.start_episode(task)
    for frame in make_frames(writer.embodiment, count, seed=seed, task=""):
        episode.add_frame(frame)
    return episode.save()


def write(root, lengths, *, first=0, **settings):
    with DatasetWriter(root, EMBODIMENT, version="v3.0", video=VideoSettings(**settings)) as writer:
        for seed, length in enumerate(lengths, start=first):
            record(writer, length, seed=seed)


def names(root, pattern):
    return [path.relative_to(root).as_posix() for path in sorted(root.glob(pattern))]


def assert_reads_back(root, lengths):
    """Compare every row and image of the episodes (seeds 0, 1, ...) with the frames they were made from."""
    dataset = EpisodeDataset(root)
    assert [episode.length for episode in dataset.episodes][: len(lengths)] == lengths
    first = 0
    for number, length in enumerate(lengths):
        frames = make_frames(EMBODIMENT, length, seed=number)
        expected = np.stack([frame.action["arm"] for frame in frames]).astype(np.float32)
        assert np.array_equal(dataset.action(number, "arm"), expected)
        assert dataset.column(number, "index").tolist() == list(range(first, first + length))
        levels = [frame.images["front"][0, 0, 0] for frame in frames]
        found = dataset.images(number, "front", range(length)).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(found, levels, atol=1.5)
        first += length
    dataset.close()
    return dataset


def assert_whole(root, lengths):
    """As `assert_reads_back`, and there is nothing else: what lerobot finds by looking for files is what is listed."""
    dataset = assert_reads_back(root, lengths)
    assert len(dataset.episodes) == len(lengths)
    files = [root / name for name in names(root, "data/*/*.parquet")]
    index = np.concatenate([pq.read_table(path)["index"].to_numpy() for path in files])
    assert index.tolist() == list(range(sum(lengths)))
    rows = [row for name in names(root, "meta/episodes/*/*.parquet") for row in pq.read_table(root / name).to_pylist()]
    assert [row["episode_index"] for row in rows] == list(range(len(lengths)))
    frames = sum(VideoReader(root / name).num_frames for name in names(root, "videos/*/*/*.mp4"))
    assert frames == sum(lengths)
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"]) == (len(lengths), sum(lengths))


@pytest.fixture
def small_files(monkeypatch):
    """Let files of v3.0 hold a few short episodes."""
    monkeypatch.setattr(shared_files, "BYTES_PER_MB", 100)


def test_lerobots_v30_equals_its_v21(data_dir):
    """Both were written by lerobot itself, 0.4.4 and 0.3.3, of the same frames."""
    old, new = (EpisodeDataset(data_dir / f"lerobot_{version}_reference") for version in ("v21", "v30"))
    assert (new.version, new.has_modality, new.num_frames, new.fps) == ("v3.0", False, 155, 30)
    assert new.tasks == old.tasks
    for episode, (length, task) in enumerate(((60, "stack"), (45, "press"), (50, "stack"))):
        assert new.episode(episode) == old.episode(episode)
        for column in ("observation.state", "action", "timestamp", "frame_index", "episode_index", "index"):
            assert np.array_equal(new.column(episode, column), old.column(episode, column))
        assert np.array_equal(new.state(episode, "state")[:, :7], old.state(episode, "arm"))
        for key in ("front", "wrist"):
            ours, theirs = (dataset.images(episode, key, range(length)) for dataset in (new, old))
            # encoded twice, with other neighbors: equal up to the codec
            assert np.abs(ours.astype(int) - theirs).mean() < 3
            assert new.video_span(episode, key).first == (0, 60, 105)[episode]
        assert new.task(episode, 0).startswith(task)
        assert new.num_rows(episode) == length


def test_v30_written_by_a_bag_converter(data_dir):
    dataset = EpisodeDataset(data_dir / "lerobot_v30_so101")
    assert [episode.length for episode in dataset.episodes] == [383, 386, 379, 382, 90, 162]
    assert dataset.tasks == {0: "pick and place"}
    assert {dataset.task(episode, 5) for episode in range(6)} == {"pick and place"}
    assert dataset.state(4, "state").shape == (90, 6)
    with av.open(str(dataset.video_span(1, "wrist").path)) as container:
        frames = itertools.islice(container.decode(video=0), 383, 386)
        truth = [picture.to_ndarray(format="rgb24") for picture in frames]
    assert np.array_equal(dataset.images(1, "wrist", [0, 2]), [truth[0], truth[2]])
    assert np.array_equal(dataset.images(1, "wrist", [-5])[0], truth[0])  # clamped to its own episode


def test_files_and_tables_are_those_of_lerobot(tmp_path, data_dir):
    """The reference was written by lerobot 0.4.4."""
    reference = data_dir / "lerobot_v30_reference"
    wanted = json.loads((reference / "meta/info.json").read_text())
    channels = wanted["features"]["action"]["names"]
    base = make_embodiment(fps=30, size=(120, 160))
    arm, grip = (dataclasses.replace(base.state["arm"], names=tuple(part)) for part in (channels[:7], channels[7:]))
    arms = {"arm": arm, "gripper": grip}
    cameras = {key: VideoKey(height=120, width=160) for key in ("front", "wrist")}
    embodiment = dataclasses.replace(base, robot_type="arm7", state=arms, action=arms, video=cameras)
    with DatasetWriter(tmp_path, embodiment, version="v3.0") as writer:
        record(writer, 60, seed=0, task="stack the red cube on the blue cube")
        record(writer, 45, seed=1, task="press the button")
        record(writer, 50, seed=2, task="stack the red cube on the blue cube")
    for pattern in ("data/**/*.*", "videos/**/*.*", "meta/episodes/**/*.*", "meta/tasks.parquet"):
        assert names(tmp_path, pattern) == names(reference, pattern)
    for feature in wanted["features"].values():
        if feature["dtype"] == "video":
            feature["info"]["video.codec"] = "h264"
    written = json.loads((tmp_path / "meta/info.json").read_text())
    assert written == wanted
    assert list(written) == list(wanted)

    ours, theirs = (pq.read_table(root / TABLE) for root in (tmp_path, reference))
    assert ours.column_names == theirs.column_names
    for name in theirs.column_names:
        found, expected = ours.schema.field(name).type, theirs.schema.field(name).type
        assert _without_names(found) == _without_names(expected), name
        if not name.startswith("stats/"):
            assert ours[name].to_pylist() == theirs[name].to_pylist(), name
    ours, theirs = (pq.read_table(root / "meta/tasks.parquet") for root in (tmp_path, reference))
    assert ours.to_pydict() == theirs.to_pydict()
    described, expected = (json.loads(table.schema.metadata[b"pandas"]) for table in (ours, theirs))
    assert described["index_columns"] == expected["index_columns"]
    ours, theirs = (json.loads((root / "meta/stats.json").read_text()) for root in (tmp_path, reference))
    assert {key: set(value) for key, value in ours.items()} == {key: set(value) for key, value in theirs.items()}
    assert np.shape(ours[CAMERA]["q10"]) == (3, 1, 1)


def _without_names(kind):
    """Return a parquet type as text without the names of list items, which differ between libraries."""
    if pa.types.is_list(kind):
        return f"list<{_without_names(kind.value_type)}>"
    return str(kind)


def test_episode_statistics_are_those_of_its_rows_and_images(tmp_path):
    write(tmp_path, [4, 7])
    row = pq.read_table(tmp_path / TABLE).to_pylist()[1]
    rows = np.stack([frame.action["arm"] for frame in make_frames(EMBODIMENT, 7, seed=1)]).astype(np.float32)
    for name, share in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        np.testing.assert_allclose(row[f"stats/action/{name}"][:3], np.quantile(rows, share, axis=0), rtol=1e-6)
    assert row["stats/frame_index/max"] == [6]
    assert row["stats/action/count"] == [7]
    # images are plain, of levels 16, 23, ... 58: the fourth of seven is the median
    assert np.ravel(row[f"stats/{CAMERA}/q50"]).tolist() == [37 / 255] * 3
    assert np.ravel(row[f"stats/{CAMERA}/max"]).tolist() == [58 / 255] * 3


def test_statistics_of_all_episodes_are_exact(tmp_path):
    lengths = [4, 7, 1, 12]
    write(tmp_path, lengths[:2])
    write(tmp_path, lengths[2:], first=2)
    dataset = EpisodeDataset(tmp_path)
    stored = json.loads((tmp_path / "meta/stats.json").read_text())
    for column in ("observation.state", "action", "timestamp"):
        rows = np.concatenate(
            [dataset.column(episode, column).reshape(length, -1) for episode, length in enumerate(lengths)]
        )
        for name, expected in compute_statistics(rows).to_mapping().items():
            np.testing.assert_allclose(stored[column][name], expected, rtol=1e-12, atol=1e-15)
    assert stored["index"]["max"] == [23]
    assert stored["action"]["count"] == stored[CAMERA]["count"] == [24]


def test_episodes_share_files_when_the_dataset_is_closed(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT, version="v3.0") as writer:
        for seed, length in enumerate((5, 3, 8)):
            record(writer, length, seed=seed)
            assert_whole(tmp_path, [5, 3, 8][: seed + 1])
        assert len(names(tmp_path, "data/*/*")) == 3  # nothing finished is touched while recording
    assert names(tmp_path, "data/*/*") == ["data/chunk-000/file-000.parquet"]
    assert names(tmp_path, "videos/*/*/*") == [f"videos/{CAMERA}/chunk-000/file-000.mp4"]
    assert pq.ParquetFile(tmp_path / "data/chunk-000/file-000.parquet").metadata.num_row_groups == 3
    assert_whole(tmp_path, [5, 3, 8])
    row = pq.read_table(tmp_path / TABLE).to_pylist()[2]
    assert (row[f"videos/{CAMERA}/from_timestamp"], row[f"videos/{CAMERA}/to_timestamp"]) == (0.8, 1.6)
    assert (row["dataset_from_index"], row["dataset_to_index"]) == (8, 16)
    write(tmp_path, [2, 6], first=3)
    assert_whole(tmp_path, [5, 3, 8, 2, 6])
    assert names(tmp_path, "meta/episodes/*/*") == [TABLE]


def test_video_is_joined_without_encoding_it_again(tmp_path):
    lengths = [5, 4]
    separate = []
    with DatasetWriter(tmp_path, EMBODIMENT, version="v3.0") as writer:
        for seed, length in enumerate(lengths):
            record(writer, length, seed=seed)
        for name in names(tmp_path, "videos/*/*/*"):
            with av.open(str(tmp_path / name)) as container:
                separate += [bytes(packet) for packet in container.demux(video=0) if packet.size]
    path = tmp_path / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    with av.open(str(path)) as container:
        assert [bytes(packet) for packet in container.demux(video=0) if packet.size] == separate
    np.testing.assert_allclose(VideoReader(path).presentation_s, np.arange(9) / 10, atol=1e-9)


@pytest.mark.usefixtures("small_files")
def test_files_roll_over_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "DATA_FILES_MB", 90)  # of 100 bytes, see small_files: about two episodes
    lengths = [5, 3, 8, 4, 6, 2, 7]
    write(tmp_path, lengths[:4])
    write(tmp_path, lengths[4:], first=4)
    assert_whole(tmp_path, lengths)
    files = names(tmp_path, "data/*/*")
    assert 3 <= len(files) < len(lengths)
    assert files == [f"data/chunk-000/file-{number:03d}.parquet" for number in range(len(files))]
    assert all((tmp_path / name).stat().st_size <= 9000 for name in files)


def test_videos_of_other_settings_are_not_joined(tmp_path):
    write(tmp_path, [3, 4])
    write(tmp_path, [5], first=2, preset="medium")
    assert len(names(tmp_path, "videos/*/*/*")) == 2
    assert_whole(tmp_path, [3, 4, 5])


def test_joining_that_fails_leaves_small_files(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shared_files.VideoFiles, "join", full)
        write(tmp_path, [5, 3])
    assert "files could not be joined ([Errno 28] No space left on device)" in caplog.text
    assert len(names(tmp_path, "videos/*/*/*")) == 2
    assert_whole(tmp_path, [5, 3])
    write(tmp_path, [4], first=2)
    assert len(names(tmp_path, "videos/*/*/*")) == 1
    assert_whole(tmp_path, [5, 3, 4])


class Killed(BaseException):
    """Stands for the end of the process: no handler of the writer may catch it."""


def kill_at(monkeypatch, call_number, calls):
    """Let the writer die instead of making its n-th rename or removal."""

    def dying(call):
        def wrapped(*arguments, **options):
            calls.append(arguments)
            if len(calls) > call_number:
                raise Killed
            return call(*arguments, **options)

        return wrapped

    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(os, "unlink", dying(os.unlink))


def test_killed_at_any_change_of_a_file_loses_no_finished_episode(tmp_path, monkeypatch):
    """Two episodes joined before, two more saved and all of them joined by closing: killed at each step of that."""
    write(tmp_path / "base", [2, 3])
    lengths = [2, 3, 4, 5]
    counts = set()
    for call_number in range(60):
        root = tmp_path / str(call_number)
        shutil.copytree(tmp_path / "base", root)
        writer = DatasetWriter(root, EMBODIMENT)
        finished, calls = 2, []
        with monkeypatch.context() as patch:
            kill_at(patch, call_number, calls)
            try:
                for seed in (2, 3):
                    record(writer, lengths[seed], seed=seed)
                    finished += 1
                writer.close()
            except Killed:
                is_killed = True
            else:
                is_killed = False
        writer._lock.close()  # as the end of a process does
        # a reader that comes now finds all that was finished, at the places of its files and of lerobot's row numbers
        assert_reads_back(root, lengths[:finished])
        index = np.concatenate([pq.read_table(root / name)["index"].to_numpy() for name in names(root, "data/*/*")])
        assert index[: sum(lengths[:finished])].tolist() == list(range(sum(lengths[:finished])))
        with DatasetWriter(root, EMBODIMENT) as again:
            count = again.num_episodes
        assert finished <= count <= finished + 1
        counts.add(count)
        assert_whole(root, lengths[:count])
        if not is_killed:
            break
    assert not is_killed
    assert call_number > 20
    assert counts == {2, 3, 4}


def test_last_episode_is_taken_out_of_shared_files(tmp_path):
    write(tmp_path, [5, 3, 8])
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        folder = writer.discard_last()
        assert writer.num_episodes == 2
        assert_whole(tmp_path, [5, 3])
        record(writer, 4, seed=2)
        assert_whole(tmp_path, [5, 3, 4])
        record(writer, 9, seed=3)
        writer.discard_last()
        record(writer, 6, seed=3)
    assert_whole(tmp_path, [5, 3, 4, 6])
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        for _ in range(4):
            writer.discard_last()
        assert EpisodeDataset(tmp_path).episodes == []
        record(writer, 2, seed=0)
    assert_whole(tmp_path, [2])
    assert pq.read_table(folder / "rows.parquet.part")["index"].to_pylist() == list(range(8, 16))
    assert VideoReader(folder / f"{CAMERA}.mp4.part").num_frames == 8


def test_damage_is_named(tmp_path):
    write(tmp_path / "good", [3, 4])

    def copy(name):
        shutil.copytree(tmp_path / "good", tmp_path / name)
        return tmp_path / name

    root = copy("video")
    (root / f"videos/{CAMERA}/chunk-000/file-000.mp4").unlink()
    with pytest.raises(DatasetError, match=r"episode 0: videos/.*file-000.mp4 is missing; restore it"):
        DatasetWriter(root, EMBODIMENT)
    root = copy("rows")
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 5), path)
    with pytest.raises(DatasetError, match=r"file-000.parquet: 5 rows, meta/episodes says 7; restore it"):
        EpisodeDataset(root).state(1, "arm")
    with pytest.raises(DatasetError, match=r"file-000.parquet: 5 rows, meta/episodes says 7; restore it"):
        DatasetWriter(root, EMBODIMENT)
    pq.write_table(pq.read_table(tmp_path / "good/data/chunk-000/file-000.parquet").slice(1), path)
    with pytest.raises(DatasetError, match="rows 0 to 2 should be of episode 0, found 1"):
        EpisodeDataset(root).state(0, "arm")
    root = copy("time")
    table = pq.read_table(root / TABLE)
    column = f"videos/{CAMERA}/from_timestamp"
    halfway = table.set_column(table.column_names.index(column), column, pa.array([0.0, 0.35]))
    pq.write_table(halfway, root / TABLE)
    with pytest.raises(
        DatasetError, match=r"episode 1 starts 3.500 frames into its video of .*front, expected a whole"
    ):
        EpisodeDataset(root)
    (root / TABLE).unlink()
    with pytest.raises(DatasetError, match=r"no meta/episodes/\*/\*.parquet; restore it"):
        EpisodeDataset(root)


def test_texts_of_tasks_may_be_in_a_column_called_task(tmp_path):
    """lerobot 0.5 gives the index a name."""
    write(tmp_path, [3])
    path = tmp_path / "meta/tasks.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["task_index", "task"]), path)
    assert EpisodeDataset(tmp_path).task(0, 0) == "lift the cube"
