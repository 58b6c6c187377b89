# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Several bags, several processes, interruptions; what a dry run says; what a first topic map looks like."""

import json
import os
import shutil

import numpy as np
import pytest
from bag_truth import frame_number

from gr00t_recorder.bag import batch
from gr00t_recorder.bag.batch import convert_bags
from gr00t_recorder.bag.boundaries import BoundarySettings
from gr00t_recorder.bag.convert import ConversionSettings
from gr00t_recorder.bag.convert_cli import main
from gr00t_recorder.bag.converting import BatchSettings
from gr00t_recorder.bag.sources import BagSource, find_bags
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_test_support.bag_builder import EMBODIMENT, IMAGE, START_NS, STEP_NS, TOPICS, ToyBag, write_toy_topics
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.depth import DepthReader
from gr00t_training.dataset.media.video import VideoSettings
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture
def topics(tmp_path):
    return write_toy_topics(tmp_path)


def toy(first, last):
    """A bag of two episodes, with their tasks."""
    middle = (first + last) // 2
    bag = ToyBag().steps(first, last)
    for start, end, task in ((first, middle, f"from {first}"), (middle + 1, last, f"from {middle + 1}")):
        bag.event(start * STEP_NS, "start", task).event(end * STEP_NS + STEP_NS // 2, "stop")
    return bag


@pytest.fixture
def bags(tmp_path):
    """Three good bags and one with a missing topic, in a tree of folders."""
    folder = tmp_path / "bags"
    for name, first in (("a", 0), ("c/deep", 20), ("d", 40)):
        (folder / name).mkdir(parents=True)
        toy(first, first + 9).write(folder / name / "x.mcap")
    (folder / "b").mkdir()
    ToyBag().image(3).write(folder / "b" / "x.mcap")
    return folder


def convert(bags, topics, output, *options):
    return main([*map(str, bags), "--topics", str(topics), "--output", str(output), *options])


def first_images(output):
    dataset = EpisodeDataset(output)
    return [frame_number(dataset.images(index, "front", [0])[0]) for index in range(len(dataset.episodes))]


def contents(folder):
    """Return the bytes of every file but the folder of work in progress."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".staging" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_folders_are_searched_and_the_refused_bag_leaves_nothing(bags, topics, tmp_path, capsys):
    assert convert([bags], topics, tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert f"{bags}/b: no topic /joint_states" in captured.err
    assert "6 episodes, 30 rows written" in captured.out
    assert first_images(tmp_path / "out") == [0, 5, 20, 25, 40, 45]
    entries = json.loads((tmp_path / "out" / "conversion.json").read_text())["bags"]
    assert [bool(entry["error"]) for entry in entries] == [False, True, False, False]
    assert [[episode["index"] for episode in entry["episodes"]] for entry in entries] == [[0, 1], [], [2, 3], [4, 5]]
    counts = entries[0]["episodes"][0]["report"]["streams"]["camera"]
    assert (counts["received"], counts["used"], counts["filled"], counts["late"], counts["dropped"]) == (5, 5, 0, 0, 0)


@pytest.mark.parametrize("version", ["v2.0", "v3.0"])
def test_number_of_processes_does_not_change_the_dataset(bags, topics, tmp_path, version):
    options = ("--version", version, "--allow-partial")
    assert convert([bags], topics, tmp_path / "one", *options) == 1
    assert convert([bags], topics, tmp_path / "two", *options, "--jobs", "2") == 1
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert json.loads(one["meta/info.json"])["codebase_version"] == version


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_depth_of_bags_is_kept_count_by_count(tmp_path, jobs):
    """Episodes are handed from process to process, open files of theirs cannot be."""
    shape, unit = (6, 8), "depth: {front: {height: 6, width: 8}}\n"
    (tmp_path / "bags").mkdir()
    for number in range(2):
        bag = toy(0, 5)
        for step in range(6):
            stamp_ns = START_NS + step * STEP_NS
            counts = np.arange(48, dtype="<u2") * 1000 + step + 10 * number
            message = bag.make(IMAGE, header=bag.header(stamp_ns), height=6, width=8, encoding="16UC1",
                               is_bigendian=0, step=16, data=counts.view(np.uint8))  # fmt: skip
            bag.add(stamp_ns + 1, "/depth", IMAGE, message)
        bag.write(tmp_path / "bags" / f"{number}.mcap")
    (tmp_path / "toy.yaml").write_text(EMBODIMENT + unit)
    text = TOPICS.replace("streams:\n", "streams:\n  depth: {topic: /depth, type: sensor_msgs/msg/Image}\n")
    (tmp_path / "topics.yaml").write_text(text + "depth: {front: {stream: depth}}\n")
    output = tmp_path / "out"
    assert convert([tmp_path / "bags"], tmp_path / "topics.yaml", output, "--jobs", jobs) == 0
    assert [finding for finding in validate_dataset(output) if finding.is_fault] == []
    for episode in range(4):
        reader = DepthReader(output / schema.depth_path(episode, "front"))
        rows = range(3 * (episode % 2), 3 * (episode % 2) + 3)
        expected = [np.arange(48, dtype=np.uint16).reshape(shape) * 1000 + row + 10 * (episode // 2) for row in rows]
        assert np.array_equal(reader.read(range(3)), expected)
        reader.close()


def test_second_run_converts_only_what_is_new(bags, topics, tmp_path, capsys):
    output = tmp_path / "out"
    assert convert([bags / "a", bags / "d"], topics, output) == 0
    assert convert([bags / "a", bags / "c", bags / "d"], topics, output) == 0
    assert "2 bags were already converted" in capsys.readouterr().out
    assert first_images(output) == [0, 5, 40, 45, 20, 25]
    toy(60, 75).write(bags / "a" / "x.mcap")  # another recording in the place of the first
    assert convert([bags / "a"], topics, output) == 0
    assert first_images(output) == [0, 5, 40, 45, 20, 25, 60, 68]


def test_bag_that_was_moved_is_not_converted_again(bags, topics, tmp_path, capsys):
    output = tmp_path / "out"
    assert convert([bags / "a", bags / "d"], topics, output) == 0
    before = contents(output)
    (bags / "a").rename(bags / "moved")
    assert convert([bags / "moved"], topics, output) == 0
    assert "1 bags were already converted" in capsys.readouterr().out
    assert contents(output) == before
    shutil.copytree(bags / "moved", bags / "copy")
    (bags / "moved").rename(bags / "a")  # a copy of a bag that is there counts as another one
    assert convert([bags / "copy"], topics, output) == 0
    assert first_images(output) == [0, 5, 40, 45, 0, 5]


def test_table_shows_every_bag_with_its_cause(bags, topics, tmp_path):
    table = tmp_path / "table.tsv"
    assert convert([bags / "a"], topics, tmp_path / "out") == 0
    assert convert([bags], topics, tmp_path / "out", "--progress", str(table), "--jobs", "2") == 1
    header, *lines = [line.split("\t") for line in table.read_text().splitlines()]
    assert header == ["bag", "state", "read", "episodes", "rows", "cause"]
    assert [line[1:5] for line in lines] == [
        ["converted before", "", "", ""],
        ["refused", "100%", "0", "0"],
        ["converted", "100%", "2", "10"],
        ["converted", "100%", "2", "10"],
    ]
    assert "no topic /joint_states" in lines[1][5]
    assert convert([bags / "b"], topics, tmp_path / "out", "--progress", str(tmp_path / "no" / "table")) == 1


def test_refused_bag_is_tried_again(bags, topics, tmp_path):
    output = tmp_path / "out"
    assert convert([bags / "b"], topics, output) == 1
    toy(0, 9).write(bags / "b" / "x.mcap")
    assert convert([bags / "b"], topics, output) == 0
    entries = json.loads((output / "conversion.json").read_text())["bags"]
    assert [entry["error"] for entry in entries] == [""]


@pytest.mark.parametrize("num_lost", [0, 1])
def test_kill_between_publishing_and_the_log_doubles_nothing(bags, topics, tmp_path, num_lost):
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert convert([bags / "a", bags / "d"], topics, whole) == 0
    assert convert([bags / "a", bags / "d"], topics, output) == 0
    log = json.loads((output / "conversion.json").read_text())
    (output / "conversion.json").write_text(json.dumps({**log, "bags": log["bags"][:1]}))
    _, embodiment = load_topic_map(topics)
    with DatasetWriter(output, embodiment) as dataset:
        for _ in range(num_lost):
            dataset.discard_last()
    assert convert([bags / "a", bags / "d"], topics, output) == 0
    assert contents(output) == contents(whole)


def test_interrupted_run_goes_on_behind_the_last_finished_bag(bags, topics, tmp_path, monkeypatch, capsys):
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert convert([bags / "a", bags / "c", bags / "d"], topics, whole) == 0
    publish = batch._publish

    def interrupt(converted, source, *rest):
        if source.path.name == "deep":
            raise KeyboardInterrupt
        publish(converted, source, *rest)

    monkeypatch.setattr(batch, "_publish", interrupt)
    assert convert([bags / "a", bags / "c", bags / "d"], topics, output) == 130
    assert "repeat the command to continue" in capsys.readouterr().err
    assert first_images(output) == [0, 5]
    monkeypatch.undo()
    assert convert([bags / "a", bags / "c", bags / "d"], topics, output) == 0
    assert contents(output) == contents(whole)
    assert not list((output / ".staging").glob("bag_*"))


class DeadlyBag(BagSource):
    """Ends every process that it is sent to."""

    def __reduce__(self):
        return os._exit, (1,)


def test_process_that_dies_costs_its_bag_only(bags, topics, tmp_path):
    topic_map, embodiment = load_topic_map(topics)
    settings = BatchSettings(
        topic_map=topic_map, embodiment=embodiment, output=tmp_path / "out",
        conversion=ConversionSettings(boundaries=BoundarySettings()), video=VideoSettings(), version=None, jobs=2,
    )  # fmt: skip
    paths = [bags / name / "x.mcap" for name in ("a", "d", "c/deep")]
    sources = [BagSource(paths[0]), DeadlyBag(paths[1]), BagSource(paths[2])]
    reports = convert_bags(sources, settings)
    assert ["died (out of memory?)" in report.error for report in reports] == [False, True, False]
    assert first_images(tmp_path / "out") == [0, 5, 20, 25]


def test_embodiment_and_video_options_are_passed_on(bags, topics, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        (tmp_path / "toy.yaml").read_text().replace("name: toy", "name: other").replace("fps: 10", "fps: 5")
    )
    options = ("--embodiment", str(other), "--codec", "av1", "--crf", "40")
    assert convert([bags / "a"], topics, tmp_path / "out", *options) == 0
    info = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())
    assert (info["robot_type"], info["fps"], info["total_frames"]) == ("other", 5, 6)
    assert info["features"]["observation.images.front"]["info"]["video.codec"] == "av1"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothing"], "no such bag"),
        (["."], "holds no bag"),
        (["bags"], "--topics is missing; --suggest FOLDER writes a first topic map"),
        (["bags", "--topics", "topics.yaml"], "--output is missing"),
        (["bags", "--topics", "topics.yaml", "--output", "out", "--gap-s", "0"], "gap_s is 0.0, expected 0.05 to"),
    ],
)
def test_wrong_options_are_one_clear_line(bags, topics, tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    if arguments == ["."]:
        shutil.rmtree(bags)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.splitlines()) == 1


def test_parts_of_one_bag_and_bags_side_by_side_are_told_apart(tmp_path):
    for name in ("split/bag_0.mcap", "split/bag_1.mcap", "loose/first.mcap", "loose/second.mcap", "old/x_0.bag",
                 "old/x_1.bag", "whole/metadata.yaml", "whole/y_0.db3", ".hidden/z.mcap"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_bags([tmp_path, tmp_path / "whole"])]
    assert found == ["loose/first.mcap", "loose/second.mcap", "old/x_0.bag", "old/x_1.bag", "split", "whole"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no bag"):
        find_bags([tmp_path / "empty"])


def test_dry_run_tells_what_it_would_make_of_each_topic(bags, topics, tmp_path, capsys):
    bag = toy(0, 9).joints("/joint_states", 5 * STEP_NS + 1, value=float("nan"))
    bag.text("/lab/notes", 0, "cold day").write(bags / "a" / "x.mcap")
    assert main([str(bags / "a"), str(bags / "b"), "--topics", str(topics), "--dry-run"]) == 1
    output = capsys.readouterr().out
    first, second = output.split(f"{bags}/b: ", 1)
    lines = {line.split()[0]: line for line in first.splitlines() if line.startswith("/")}
    assert "sensor_msgs/msg/JointState  51" in lines["/joint_states"]
    assert "state.arm" in lines["/joint_states"]
    assert (
        "1 messages that cannot be used, left out (state.arm: position of 'a' is not finite)" in lines["/joint_states"]
    )
    assert "10.0 Hz" in lines["/camera"]
    assert "10 to 10 ms" in lines["/camera"]
    assert "episode markers" in lines["/events"]
    assert "unused" in lines["/lab/notes"]
    assert "not in the bag" in lines["/task"]
    assert "  5 rows      from 0" in first
    assert "refused: " in second
    assert "2 episodes, 10 rows would be written" in output
    assert not (tmp_path / "out").exists()


SUGGESTED = {  # bag -> rows of its first episode
    "gr1_ep0_mcap": 200,
    "gr1_ep1_sqlite3_raw": 40,
    "gr1_session_split_mcap": 70,
    "so101_leader_follower_mcap": 150,
    "arm7_two_cameras_sqlite3": 150,
    "edge_no_metadata_sqlite3": 60,
    "edge_unindexed_mcap": 60,
    "edge_trailing_bytes_mcap": 60,
}


@pytest.mark.parametrize("name", SUGGESTED)
def test_suggested_files_convert_their_bag(bags_dir, tmp_path, capsys, name):
    bag = str(bags_dir / name)
    assert main([bag, "--suggest", str(tmp_path / "first")]) == 0
    topics = tmp_path / "first" / "topics.yaml"
    assert main([bag, "--topics", str(topics), "--dry-run"]) == 0
    assert f"\n  {SUGGESTED[name]} rows" in capsys.readouterr().out
    topic_map, embodiment = load_topic_map(topics)
    assert set(embodiment.state["arm"].names) == set(embodiment.action["arm"].names)
    assert topic_map.action["arm"].stream == "command"
    assert main([bag, "--suggest", str(tmp_path / "first")]) == 2  # existing files are not overwritten


def test_suggestion_says_what_is_missing(bags_dir, tmp_path, capsys):
    assert main([str(bags_dir / "ros1_suite/example.bag"), "--suggest", str(tmp_path / "first")]) == 1
    assert "no joint names on any sensor_msgs/msg/JointState topic; the bag has" in capsys.readouterr().err
    assert not (tmp_path / "first").exists()
