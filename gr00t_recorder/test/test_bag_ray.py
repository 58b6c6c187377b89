# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags converted as Ray tasks: the dataset of one process, whatever happens to the workers."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from gr00t_recorder.bag import ray_workers
from gr00t_recorder.bag.batch import convert_bags
from gr00t_recorder.bag.boundaries import BoundarySettings
from gr00t_recorder.bag.convert import ConversionSettings
from gr00t_recorder.bag.convert_cli import main
from gr00t_recorder.bag.converting import BatchSettings, Engine
from gr00t_recorder.bag.sources import BagSource
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_test_support.bag_builder import STEP_NS, ToyBag, write_toy_topics
from gr00t_training.dataset.media.video import VideoSettings

pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NUM_BAGS = int(os.environ.get("GR00T_NUM_BAGS", "8"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Return a topic map, a folder of good bags with one refused among them, and the dataset of one process."""
    folder = tmp_path_factory.mktemp("ray")
    topics = write_toy_topics(folder)
    (folder / "bags").mkdir()
    for number in range(NUM_BAGS):
        bag = ToyBag().steps(number, number + 5 + number % 3)
        bag.event(number * STEP_NS, "start", f"task {number % 4}").event((number + 5) * STEP_NS, "stop")
        bag.write(folder / "bags" / f"{number:03d}.mcap")
    ToyBag().image(3).write(folder / "bags" / "002_refused.mcap")
    assert convert(topics, folder / "bags", folder / "one") == 1
    return topics, folder / "bags", contents(folder / "one")


def convert(topics, bags, output, *options):
    return main([str(bags), "--topics", str(topics), "--output", str(output), *options])


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".staging" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def children():
    """Return the processes below this one that run a conversion."""
    found, names = [str(os.getpid())], []
    while found:
        number = found.pop()
        try:
            for task in Path(f"/proc/{number}/task").iterdir():
                found += (task / "children").read_text().split()
            names.append((int(number), Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace")))
        except OSError:
            continue
    return [number for number, name in names if "ray::_convert_task" in name]


def test_ray_gives_the_dataset_of_one_process(toy, tmp_path, capsys):
    topics, bags, expected = toy
    assert convert(topics, bags, tmp_path / "out", "--engine", "ray", "--jobs", "2") == 1
    captured = capsys.readouterr()
    assert f"{bags}/002_refused.mcap: no topic /joint_states" in captured.err
    assert f"{NUM_BAGS} episodes" in captured.out
    assert contents(tmp_path / "out") == expected
    assert not list((tmp_path / "out" / ".staging").glob("bag_*"))


def test_killed_workers_lose_nothing(toy, tmp_path):
    topics, bags, expected = toy
    is_over, killed = threading.Event(), []

    def kill():
        while not is_over.wait(0.05):
            for number in children()[:1] if len(killed) < 3 else ():
                os.kill(number, signal.SIGKILL)
                killed.append(number)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert convert(topics, bags, tmp_path / "out", "--engine", "ray", "--jobs", "2") == 1
    finally:
        is_over.set()
        killer.join()
    assert killed
    assert contents(tmp_path / "out") == expected


class DeadlyBag(BagSource):
    """Ends every worker that it is sent to."""

    def __reduce__(self):
        return os._exit, (1,)


def test_bag_that_ends_its_workers_costs_itself_only(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_workers, "MAX_ATTEMPTS", 2)
    topics, bags, _ = toy
    topic_map, embodiment = load_topic_map(topics)
    settings = BatchSettings(
        topic_map=topic_map, embodiment=embodiment, output=tmp_path / "out", video=VideoSettings(), version=None,
        conversion=ConversionSettings(boundaries=BoundarySettings()), jobs=2, engine=Engine.RAY,
    )  # fmt: skip
    names = ("000", "001", "003")
    sources = [BagSource(bags / f"{name}.mcap") for name in names]
    sources[1] = DeadlyBag(sources[1].path)
    reports = convert_bags(sources, settings)
    assert [bool(report.error) for report in reports] == [False, True, False]
    assert "worker died (out of memory?)" in reports[1].error and "2 attempts" in reports[1].error
    entries = json.loads((tmp_path / "out" / "conversion.json").read_text())["bags"]
    assert [len(entry["episodes"]) for entry in entries] == [1, 0, 1]


def test_cluster_that_does_not_answer_is_one_line(toy, tmp_path, capsys):
    topics, bags, _ = toy
    options = ("--engine", "ray", "--ray-address", "ray:///nowhere")
    assert convert(topics, bags, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert "--ray-address ray:///nowhere: Ray does not answer" in error and len(error.splitlines()) == 1
