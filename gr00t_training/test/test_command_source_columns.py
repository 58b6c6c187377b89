# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The columns that say who commanded stay what they were, whatever is done with a dataset."""

import dataclasses
import json

import numpy as np
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.edit.kept import KeptEpisode
from gr00t_training.dataset.tools.edit.operations import (
    convert_dataset,
    delete_episodes,
    merge_datasets,
    retask_episodes,
    split_dataset,
    write_kept,
)
from gr00t_training.dataset.tools.edit.restate import recompute_statistics
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.dataset.tools.repair.dataset import repair_dataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.view.page import write_page
from gr00t_training.dataset.view.summary import summarize
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import DatasetError
from gr00t_training.types import Commander

EMBODIMENT = make_embodiment()
VERSIONS = ("v2.0", "v2.1", "v3.0")
# who commanded, by episode and row
SOURCES = ([1, 1, 2, 2, 4, 1], [0, 1, 5, 5], [2, 2, 2])


def frames_of(sources, seed):
    return [
        dataclasses.replace(frame, command_source=code)
        for frame, code in zip(make_frames(EMBODIMENT, len(sources), seed=seed), sources, strict=True)
    ]


def record(root, episodes=SOURCES, version="v2.1", seed=0):
    with DatasetWriter(root, EMBODIMENT, version=version, has_source=True) as writer:
        for number, sources in enumerate(episodes):
            episode = writer.start_episode("lift")
            for frame in frames_of(sources, seed + number):
                episode.add_frame(frame)
            episode.save()
    return root


def assert_sources(root, episodes):
    """Every row says who commanded, both columns agree, and the dataset has no fault."""
    assert [str(finding) for finding in validate_dataset(root) if finding.is_fault] == []
    dataset = EpisodeDataset(root)
    assert dataset.features["intervention"] == {"dtype": "bool", "shape": [1], "names": None}
    assert dataset.features["command_source"] == {"dtype": "int64", "shape": [1], "names": None}
    assert [dataset.column(i, "command_source").tolist() for i in range(len(dataset))] == [*map(list, episodes)]
    for index, sources in enumerate(episodes):
        assert dataset.column(index, "intervention").dtype == bool
        assert dataset.interventions(index).tolist() == [code == Commander.PERSON for code in sources]


@pytest.mark.parametrize("version", VERSIONS)
def test_written_in_every_version_and_appended_after_reopening(tmp_path, version):
    record(tmp_path / "data", SOURCES[:2], version)
    record(tmp_path / "data", SOURCES[2:], version, seed=2)
    assert_sources(tmp_path / "data", SOURCES)


@pytest.mark.parametrize(("first", "second"), [("v2.1", "v3.0"), ("v3.0", "v2.0"), ("v2.0", "v2.1"), ("v3.0", "v2.1")])
def test_converted_between_versions(tmp_path, first, second):
    record(tmp_path / "first", version=first)
    convert_dataset(tmp_path / "first", tmp_path / "second", second)
    assert_sources(tmp_path / "second", SOURCES)
    convert_dataset(tmp_path / "second", None, first)
    assert_sources(tmp_path / "second", SOURCES)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_merged_split_deleted_trimmed_and_retasked(tmp_path, version):
    data = record(tmp_path / "data", version=version)
    merge_datasets([data, data], tmp_path / "merged")
    assert_sources(tmp_path / "merged", [*SOURCES, *SOURCES])
    split_dataset(data, {"train": [0, 2], "test": [1]}, tmp_path / "parts")
    assert_sources(tmp_path / "parts" / "train", [SOURCES[0], SOURCES[2]])
    delete_episodes(data, [1], tmp_path / "deleted")
    assert_sources(tmp_path / "deleted", [SOURCES[0], SOURCES[2]])
    retask_episodes(data, [0], "push", tmp_path / "retasked")
    assert_sources(tmp_path / "retasked", SOURCES)
    source = SourceDataset(data)
    kept = [KeptEpisode(source, episode.index, 1 if episode.index == 0 else 0) for episode in source.episodes]
    write_kept(kept, source, tmp_path / "trimmed")  # as trim does
    assert_sources(tmp_path / "trimmed", [SOURCES[0][1:], *SOURCES[1:]])
    recompute_statistics(data)
    assert_sources(data, SOURCES)


def test_merge_with_a_dataset_that_does_not_say_who_commanded_is_refused(tmp_path):
    record(tmp_path / "data")
    with DatasetWriter(tmp_path / "other", EMBODIMENT) as writer:
        episode = writer.start_episode("lift")
        for frame in make_frames(EMBODIMENT, 3):
            episode.add_frame(frame)
        episode.save()
    with pytest.raises(DatasetError, match="intervention"):
        merge_datasets([tmp_path / "data", tmp_path / "other"], tmp_path / "merged")
    assert EpisodeDataset(tmp_path / "other").interventions(0) is None


@pytest.mark.parametrize("version", VERSIONS)
def test_killed_recorder_loses_no_row_of_who_commanded(tmp_path, version):
    """The writer dies with an episode open: the journal has every row."""
    record(tmp_path / "data", SOURCES[:1], version)
    writer = DatasetWriter(tmp_path / "data", EMBODIMENT, has_source=True)
    episode = writer.start_episode("lift")
    for frame in frames_of(SOURCES[1], 1):
        episode.add_frame(frame)
    episode._staged.abandon()  # videos end where they are, as after a kill that the encoder survived
    writer._lock.close()
    report = repair_dataset(tmp_path / "data")
    assert [item.num_rows for item in report.recovered] == [4], report
    assert_sources(tmp_path / "data", SOURCES[:2])


def test_first_episode_of_a_killed_recorder_is_recovered(tmp_path):
    """Nothing but the journal says that rows have the columns."""
    writer = DatasetWriter(tmp_path / "data", EMBODIMENT, has_source=True)
    episode = writer.start_episode("lift")
    for frame in frames_of(SOURCES[0], 0):
        episode.add_frame(frame)
    episode._staged.abandon()
    writer._lock.close()
    repair_dataset(tmp_path / "data")
    assert_sources(tmp_path / "data", SOURCES[:1])


def test_damaged_lists_are_repaired_from_the_rows(tmp_path):
    data = record(tmp_path / "data")
    (data / "meta" / "episodes.jsonl").unlink()
    repair_dataset(data)
    assert_sources(data, SOURCES)


def test_page_and_summary_are_written(tmp_path):
    data = record(tmp_path / "data")
    assert write_page(data, [0, 1, 2], tmp_path / "page.html").num_episodes == 3
    assert summarize(data).num_episodes == 3


def test_dataset_with_and_recorder_without_the_columns_are_refused(tmp_path):
    record(tmp_path / "data")
    with pytest.raises(DatasetError, match=r"has a column 'command_source' \(who commanded\), the topic map"):
        DatasetWriter(tmp_path / "data", EMBODIMENT)
    with DatasetWriter(tmp_path / "other", EMBODIMENT) as writer:
        episode = writer.start_episode("lift")
        with pytest.raises(DatasetError, match="says who commanded, the dataset has no such column"):
            episode.add_frame(frames_of([1], 0)[0])
        episode.add_frame(make_frames(EMBODIMENT, 1)[0])
        episode.save()
    with pytest.raises(DatasetError, match="has no column 'command_source'"):
        DatasetWriter(tmp_path / "other", EMBODIMENT, has_source=True)
    with DatasetWriter(tmp_path / "third", EMBODIMENT, has_source=True) as writer:
        episode = writer.start_episode("lift")
        with pytest.raises(DatasetError, match=r"command_source: missing in row 0"):
            episode.add_frame(make_frames(EMBODIMENT, 1)[0])


def test_column_of_another_tool_is_read_in_its_form(tmp_path):
    """LeRobot's DAgger writes `intervention` alone; others declare a number. A text is no flag and is left alone."""
    data = record(tmp_path / "data")
    info = json.loads((data / "meta" / "info.json").read_text())
    flags = EpisodeDataset(data).interventions(0)
    del info["features"]["command_source"]
    (data / "meta" / "info.json").write_text(json.dumps(info))
    assert np.array_equal(EpisodeDataset(data).interventions(0), flags)
    info["features"]["intervention"]["dtype"] = "string"
    (data / "meta" / "info.json").write_text(json.dumps(info))
    assert EpisodeDataset(data).interventions(0) is None
