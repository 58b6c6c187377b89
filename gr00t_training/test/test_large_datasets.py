# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What keeps operations on datasets of many episodes within bounded memory and time."""

import errno
import functools
import json
import os
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_test_support.many_episodes import make_dataset
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoCodec, VideoSettings
from gr00t_training.dataset.metadata import table_writer
from gr00t_training.dataset.metadata.episode_statistics import StoredStatistics, read_episode_statistics
from gr00t_training.dataset.metadata.episodes_table import EpisodePlace, full_row, make_tables
from gr00t_training.dataset.metadata.model import inspect_metadata, read_metadata
from gr00t_training.dataset.metadata.shared_places import read_all_places, read_shared_places
from gr00t_training.dataset.statistics import stored_rows
from gr00t_training.dataset.tools.edit import layouts, operations
from gr00t_training.dataset.tools.edit.restate import recompute_statistics
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.dataset.tools.validate import columns
from gr00t_training.dataset.tools.validate.dataset import validate_dataset, workers
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.dataset.writing import remembered, store_v2, store_v3
from gr00t_training.errors import DatasetError

EMBODIMENT = make_embodiment()
NUM_EPISODES = 30


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Return a dataset of many episodes as v2.1 and as v3.0."""
    folder = tmp_path_factory.mktemp("large")
    make_dataset(folder / "v21", NUM_EPISODES)
    operations.convert_dataset(folder / "v21", folder / "v30", "v3.0")
    return folder / "v21", folder / "v30"


def record(writer, count, *, seed=0):
    episode = writer.start_episode("lift")
    for frame in make_frames(EMBODIMENT, count, seed=seed):
        episode.add_frame(frame)
    return episode.save()


def files_of(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and schema.STAGING not in path.parts
    }


def test_listed_episodes_are_made_when_asked_for(datasets):
    for path in datasets:
        episodes = read_metadata(path).episodes
        assert [episode.index for episode in episodes] == list(range(NUM_EPISODES))
        assert episodes[3] == list(episodes)[3]
        assert [episode.index for episode in episodes[-2:]] == [NUM_EPISODES - 2, NUM_EPISODES - 1]
        assert episodes[3].entry == {"episode_index": 3, "tasks": ["pick the cube"], "length": 20}
        with pytest.raises(IndexError):
            episodes[NUM_EPISODES]


def test_listing_episodes_takes_some_hundred_bytes_of_each(tmp_path):
    count = 5000
    make_dataset(tmp_path / "few", 1)
    entries = [{"episode_index": index, "tasks": ["lift"], "length": 20} for index in range(count)]
    (tmp_path / "few" / schema.EPISODES_FILE).write_text(schema.json_lines_text(entries))
    tracemalloc.start()
    metadata = read_metadata(tmp_path / "few")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert metadata.num_frames == 20 * count
    assert kept / count < 200


def test_columns_and_rows_of_the_table_give_the_same_places(datasets, tmp_path):
    path = next(datasets[1].glob(schema.EPISODES_TABLE_PATTERN))
    info = {"fps": 20.0, "chunks_size": 1000}
    fast = read_shared_places(path, [], info)
    table = pq.read_table(path)
    as_text = pa.array([str(value) for value in table["length"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("length"), "length", as_text), tmp_path / "other.parquet")
    slow = read_shared_places(tmp_path / "other.parquet", [], info)
    for name in ("index", "length", "data_file", "from_index", "to_index"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))
    assert fast.tasks == slow.tasks and slow.entries == fast.entries == {}
    places = read_all_places(datasets[1], info, [])
    assert [place.from_index for place in places] == list(range(0, 20 * NUM_EPISODES, 20))


def test_damaged_places_are_named(datasets, tmp_path):
    path = next(datasets[1].glob(schema.EPISODES_TABLE_PATTERN))
    table = pq.read_table(path)
    values = pa.array([None, *table["dataset_from_index"].to_pylist()[1:]], pa.int64())
    table = table.set_column(table.column_names.index("dataset_from_index"), "dataset_from_index", values)
    pq.write_table(table, tmp_path / "other.parquet")
    with pytest.raises(DatasetError, match=r"other\.parquet: episode 0: dataset_from_index is missing"):
        read_shared_places(tmp_path / "other.parquet", [], {"fps": 20.0, "chunks_size": 1000})


def test_statistics_of_one_episode_are_read_from_both_versions(datasets):
    separate, shared = (read_episode_statistics(path, read_metadata(path).info) for path in datasets)
    assert list(separate) == list(shared) == list(range(NUM_EPISODES))
    for index in (NUM_EPISODES - 1, 0, 7):
        for feature, entry in separate[index].items():
            assert entry == {name: shared[index][feature][name] for name in entry}
    assert separate.get(NUM_EPISODES) is None


def test_damaged_line_of_statistics_is_named(datasets, tmp_path):
    lines = (datasets[0] / schema.EPISODES_STATS_FILE).read_text().splitlines(keepends=True)
    (tmp_path / schema.META).mkdir()
    (tmp_path / schema.EPISODES_STATS_FILE).write_text("".join([*lines[:4], lines[4][:50] + "\n", *lines[5:]]))
    with pytest.raises(DatasetError, match=r"episodes_stats.jsonl:5: not valid JSON"):
        StoredStatistics(tmp_path)


def test_table_in_groups_has_the_rows_of_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(table_writer, "GROUP_ROWS", 4)
    places = [EpisodePlace(index, 5, ("lift",), 0, 5 * index, {}) for index in range(11)]
    entries = [
        {"episode_index": place.index, "tasks": ["lift"], "length": 5} | ({"mark": 1} if place.index == 6 else {})
        for place in places
    ]
    described = {place.index: {"action": {"max": [1.5] if place.index % 2 else [1]}} for place in places}
    writer = table_writer.EpisodesTableWriter(tmp_path / "table.parquet")
    for place, entry in zip(places, entries, strict=True):
        writer.add(full_row(place, entry, described[place.index], 10))
    writer.close()
    file = pq.ParquetFile(tmp_path / "table.parquet")
    assert file.num_row_groups == 3 and writer.num_rows == 11
    assert file.read().to_pylist() == make_tables(places, entries, described, 10).to_pylist()
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_small_blocks_give_the_same_dataset(datasets, tmp_path, monkeypatch, version):
    operations.merge_datasets(datasets, tmp_path / "whole", version=version)
    monkeypatch.setattr(stored_rows.StoredRows.__init__, "__defaults__", (None, 1000))
    monkeypatch.setattr(table_writer, "GROUP_ROWS", 7)
    monkeypatch.setattr(layouts, "GROUP_BYTES", 1)
    operations.merge_datasets(datasets, tmp_path / "blocks", version=version)
    whole, blocks = SourceDataset(tmp_path / "whole"), SourceDataset(tmp_path / "blocks")
    assert whole.episodes == blocks.episodes
    for one, other in zip(whole.episodes, blocks.episodes, strict=True):
        assert whole.read_rows(one).equals(blocks.read_rows(other))
        assert whole.statistics_of(one) == blocks.statistics_of(other)
    for name, entry in schema.read_object(tmp_path / "whole" / schema.STATS_FILE).items():
        found = schema.read_object(tmp_path / "blocks" / schema.STATS_FILE)[name]
        for key, values in entry.items():
            np.testing.assert_allclose(found[key], values, rtol=1e-12, atol=1e-15)


def test_statistics_again_change_nothing(datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(table_writer, "GROUP_ROWS", 7)
    for number, path in enumerate(datasets):
        operations.merge_datasets([path], tmp_path / str(number))
        before = files_of(tmp_path / str(number))
        recompute_statistics(tmp_path / str(number))
        assert files_of(tmp_path / str(number)) == before


def test_episodes_table_rolls_over_by_size(datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(table_writer, "GROUP_ROWS", 4)
    info = json.loads((datasets[1] / schema.INFO_FILE).read_text()) | {"data_files_size_in_mb": 0.02}
    (datasets[1] / schema.INFO_FILE).write_text(schema.json_text(info))
    operations.convert_dataset(datasets[1], tmp_path / "out", "v3.0")
    assert len(list((tmp_path / "out").glob(schema.EPISODES_TABLE_PATTERN))) > 1
    metadata, problems = inspect_metadata(tmp_path / "out")
    assert not problems and len(metadata.episodes) == NUM_EPISODES
    assert metadata.episodes == read_metadata(datasets[1]).episodes


@pytest.mark.parametrize(("version", "store"), [("v2.1", store_v2), ("v2.0", store_v2), ("v3.0", store_v3)])
def test_dataset_that_nobody_changed_opens_without_its_rows(tmp_path, monkeypatch, version, store):
    for root, is_remembered in ((tmp_path / "read", False), (tmp_path / "remembered", True)):
        with DatasetWriter(root, EMBODIMENT, version=version) as writer:
            record(writer, 5, seed=1)
            record(writer, 4, seed=2)
        if is_remembered:
            monkeypatch.setattr(store, "read_float_rows", lambda *_: pytest.fail("rows were read"))
        else:
            (root / remembered.REMEMBERED_FILE).unlink()
        with DatasetWriter(root, EMBODIMENT) as writer:
            assert (writer.num_episodes, writer.num_frames) == (2, 9)
            record(writer, 6, seed=3)
    assert files_of(tmp_path / "read") == files_of(tmp_path / "remembered")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_dataset_that_another_tool_changed_is_checked_again(tmp_path, version):
    with DatasetWriter(tmp_path, EMBODIMENT, version=version) as writer:
        record(writer, 5)
        record(writer, 4)
    next(tmp_path.glob(schema.DATA_PATTERN)).unlink()
    with pytest.raises(DatasetError, match="is missing; restore it from a copy"):
        DatasetWriter(tmp_path, EMBODIMENT)


def test_damaged_totals_are_computed_again(tmp_path):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 5)
    path = tmp_path / remembered.REMEMBERED_FILE
    path.write_bytes(path.read_bytes()[:100])
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        assert writer.num_frames == 5


def test_killed_while_an_episode_is_saved_is_followed_by_a_full_check(tmp_path, monkeypatch):
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 5)
        monkeypatch.setattr(writer._store, "remember", lambda: None)  # the process ends before
        record(writer, 4)
    assert remembered.Remembered(tmp_path).recall() is None


def test_statistics_appended_in_place_are_those_of_a_new_file(tmp_path, monkeypatch):
    for name, num_bytes in (("whole", store_v2.APPENDED_BYTES), ("appended", 0)):
        monkeypatch.setattr(store_v2, "APPENDED_BYTES", num_bytes)
        with DatasetWriter(tmp_path / name, EMBODIMENT) as writer:
            for seed in range(3):
                record(writer, 4, seed=seed)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "appended")


@pytest.mark.parametrize("num_bytes", [1, 100, None])
def test_line_that_a_power_cut_left_is_removed(tmp_path, monkeypatch, num_bytes):
    monkeypatch.setattr(store_v2, "APPENDED_BYTES", 0)
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 4)
        record(writer, 5)
    path = tmp_path / schema.EPISODES_STATS_FILE
    whole = path.read_bytes()
    with open(path, "ab") as file:
        file.write(whole.splitlines(keepends=True)[-1][:num_bytes])
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        assert writer.num_episodes == 2
        assert path.read_bytes() == whole


def test_full_disk_leaves_no_part_of_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(store_v2, "APPENDED_BYTES", 0)
    with DatasetWriter(tmp_path, EMBODIMENT) as writer:
        record(writer, 4)
        before = (tmp_path / schema.EPISODES_STATS_FILE).read_bytes()
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", refuse_once(fsync, tmp_path / schema.EPISODES_STATS_FILE))
        with pytest.raises(DatasetError, match="No space left"):
            record(writer, 5)
        monkeypatch.setattr(os, "fsync", fsync)
        assert (tmp_path / schema.EPISODES_STATS_FILE).read_bytes() == before
        assert record(writer, 5) == 1


def refuse_once(fsync, path):
    def refused(descriptor):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    return refused


def test_validation_finds_the_same_with_its_rows_on_the_disk(tmp_path, monkeypatch):
    """A picture that stands still while the robot moves, a constant channel and wrong statistics need all rows."""
    with DatasetWriter(tmp_path / "data", EMBODIMENT, video=VideoSettings(codec=VideoCodec.H264)) as writer:
        for seed in range(3):
            episode = writer.start_episode("lift")
            for frame in make_frames(EMBODIMENT, 6, seed=seed):
                frame.state["gripper"][:] = 0.5
                frame.images["front"][:] = 100
                episode.add_frame(frame)
            episode.save()
    path = tmp_path / "data" / schema.STATS_FILE
    statistics = json.loads(path.read_text())
    statistics["action"]["mean"][0] += 1
    path.write_text(json.dumps(statistics))
    expected = list(validate_dataset(tmp_path / "data"))
    texts = " ".join(map(str, expected))
    for text in ("mean of 'action'", "1 of 4 channels never change", "every frame shows the same picture"):
        assert text in texts
    moved = []
    stored = functools.partial(stored_rows.StoredRows, memory_bytes=100)
    monkeypatch.setattr(columns, "StoredRows", stored)
    move = stored_rows.StoredRows._move_to_file
    monkeypatch.setattr(stored_rows.StoredRows, "_move_to_file", lambda self: moved.append(self) or move(self))
    assert list(validate_dataset(tmp_path / "data")) == expected
    assert moved


def test_workers_of_a_validation_get_a_few_files_at_a_time(monkeypatch):
    """All at once, what is to be done and what is done was in memory for every file."""
    taken = []

    def files():
        for number in range(100):
            taken.append(number)
            yield number

    with workers(2) as run:
        results = run(str, files())
        assert next(results) == "0"
        assert len(taken) < 20
        assert list(results) == [str(number) for number in range(1, 100)]
