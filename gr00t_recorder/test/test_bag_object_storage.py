# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags in object storage are found, downloaded while they are read, and removed."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("moto", reason="moto")
pytest.importorskip("flask", reason="moto")

from bag_truth import frame_number

from gr00t_recorder.bag.convert_cli import main
from gr00t_recorder.bag.sources import BagSource, find_bags
from gr00t_test_support.bag_builder import ToyBag, write_toy_topics
from gr00t_test_support.s3_server import BUCKET, running_server
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import ConfigError, Gr00tError

URL = f"s3://{BUCKET}/bags"


@pytest.fixture(scope="module")
def server():
    with running_server() as found:
        yield found


@pytest.fixture(autouse=True)
def environment(server, monkeypatch):
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def bags(server, tmp_path_factory):
    """Two good bags, one in a folder with metadata, and one with a missing topic; here and in the storage."""
    folder = tmp_path_factory.mktemp("bags") / "bags"
    for name, first in (("bag_2", 0), ("bag_10/deep", 20)):
        (folder / name).mkdir(parents=True)
        ToyBag().steps(first, first + 9).write(folder / name / "x.mcap")
    (folder / "b").mkdir()
    ToyBag().image(3).write(folder / "b" / "x.mcap")
    server.put_folder(folder, "bags")
    return folder


def convert(bag, folder, *options):
    options = ("--task", "lift", "--episodes-by", "bag", *options)
    return main([str(bag), "--topics", str(write_toy_topics(folder)), "--output", str(folder / "out"), *options])


def test_bags_of_object_storage_convert_as_those_of_a_folder(bags, tmp_path, capsys, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    held = []
    fetched = BagSource.fetched

    def counted(self, folder):
        held.append(len(list((there / "out/.staging").glob("bag_*_download"))))
        return fetched(self, folder)

    monkeypatch.setattr(BagSource, "fetched", counted)
    assert convert(URL, there) == 1
    assert f"{URL}/b: no topic /joint_states" in capsys.readouterr().err
    assert held == [0, 0, 0]  # one at a time
    assert not list((there / "out/.staging").glob("bag_*"))
    assert convert(bags, here) == 1
    found, expected = EpisodeDataset(there / "out"), EpisodeDataset(here / "out")
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.action("arm"), other.action("arm"))
        np.testing.assert_array_equal(one.images("front"), other.images("front"))
    assert [frame_number(one.images("front", [0])[0]) for one in found] == [0, 20]
    entries = json.loads((there / "out/conversion.json").read_text())["bags"]
    assert [entry["bag"] for entry in entries] == [f"{URL}/{name}" for name in ("b", "bag_2", "bag_10/deep")]

    capsys.readouterr()
    assert convert(URL, there) == 1  # the refused one is tried again, the others are known without a download
    assert "2 bags were already converted" in capsys.readouterr().out
    assert held[3:6] == [0, 0, 0]
    assert len(EpisodeDataset(there / "out")) == 2


def test_bags_are_found_by_the_names_of_their_files(server, bags, tmp_path):
    def names(url):
        return [(bag.url.removeprefix(f"s3://{BUCKET}/"), len(bag.files)) for bag in find_bags([url])]

    assert names(URL) == [("bags/b", 1), ("bags/bag_2", 1), ("bags/bag_10/deep", 1)]
    assert names(f"{URL}/b/x.mcap") == [("bags/b/x.mcap", 1)]
    folder = tmp_path / "tree"
    for name in ("day/run_0.mcap", "day/run_1.mcap", "ros1/a.bag", "ros1/b.bag", "full/metadata.yaml", "full/x.db3"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    server.put_folder(folder, "tree")
    expected = [path.relative_to(tmp_path).as_posix() for path in find_bags([folder])]
    found = names(f"s3://{BUCKET}/tree")
    assert [name for name, _ in found] == expected
    assert found == [("tree/day", 2), ("tree/full", 2), ("tree/ros1/a.bag", 1), ("tree/ros1/b.bag", 1)]
    server.put("no_bag/notes.txt", b"x")
    for name, message in (("none", "no such bag"), ("no_bag", "holds no bag")):
        with pytest.raises(ConfigError, match=f"s3://{BUCKET}/{name}: {message}"):
            find_bags([f"s3://{BUCKET}/{name}"])


def test_a_bag_that_changes_is_refused_or_converted_again(server, bags, tmp_path, capsys):
    server.put_folder(bags / "bag_2", "changing/bag_2")
    url = f"s3://{BUCKET}/changing"
    (bag,) = find_bags([url])
    time.sleep(1.1)  # the storage's clock
    server.put_folder(bags / "bag_2", "changing/bag_2")
    with (
        pytest.raises(Gr00tError, match=f"{url}/bag_2/x.mcap: changed since it was listed"),
        BagSource(tmp_path, remote=bag).fetched(tmp_path / "download"),
    ):
        pass
    assert not (tmp_path / "download").exists()
    assert convert(url, tmp_path) == 0
    assert convert(url, tmp_path) == 0
    assert "1 bags were already converted" in capsys.readouterr().out


def test_a_dry_run_and_a_first_topic_map_take_an_address(bags, tmp_path, capsys):
    assert convert(f"{URL}/bag_2", tmp_path, "--dry-run") == 0
    assert f"{URL}/bag_2: 1.0 s from" in capsys.readouterr().out
    assert main([f"{URL}/bag_2", "--suggest", str(tmp_path / "robot")]) == 0
    assert (tmp_path / "robot/topics.yaml").exists()
