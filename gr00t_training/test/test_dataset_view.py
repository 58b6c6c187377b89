# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import base64
import dataclasses
import html.parser
import importlib.util
import json
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoReader
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.edit.operations import convert_dataset
from gr00t_training.dataset.view import page
from gr00t_training.dataset.view.episode import read_episode
from gr00t_training.dataset.view.page import write_page
from gr00t_training.dataset.view.rerun import export_rerun
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import DatasetError

EMBODIMENT = make_embodiment()
STREAMS = {"/joint_states": {"topic": "/joint_states", "received": 60, "used": 6, "filled": 1, "largest_age_s": 0.004}}
SCRIPT = Path(page.__file__).with_name("page.js")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded") / "arm & cubes"
    with DatasetWriter(root, EMBODIMENT) as writer:
        for seed, count in enumerate((6, 5)):
            episode = writer.start_episode("lift </script> & <b>put</b>")
            for row, frame in enumerate(make_frames(EMBODIMENT, count, seed=seed, task="")):
                ages = {"state.arm": row * 1_500_000} if row != 1 else {}
                filled = frozenset({"state.arm"} if row == 3 else ())
                episode.add_frame(dataclasses.replace(frame, ages_ns=ages, filled=filled))
            episode.save({"success": seed == 0, "note": "quick", "streams": STREAMS})
    return root


class Elements(html.parser.HTMLParser):
    """Collects tags, their attributes and the texts of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def read_page(path):
    text = path.read_text()
    elements = Elements(text)
    assert elements.open == []
    return text, elements, json.loads(elements.scripts[0])


def test_page_holds_everything_that_it_shows(recorded, tmp_path):
    report = write_page(recorded, [0, 1], tmp_path / "page.html")
    assert dataclasses.astuple(report) == (2, 2, 0)
    text, elements, content = read_page(tmp_path / "page.html")
    assert [tag for tag, _ in elements.tags].count("script") == 2  # a task text opens and ends none
    assert not any(name in attributes for _, attributes in elements.tags for name in ("src", "href"))
    assert not re.search(r"https?://", text)
    assert "<title>arm &amp; cubes</title>" in text
    assert content["fps"] == 10 and [episode["length"] for episode in content["episodes"]] == [6, 5]
    first = content["episodes"][0]
    assert first["tasks"] == [[0, "lift </script> & <b>put</b>"]]
    assert (first["success"], first["valid"], first["note"]) == (True, None, "quick")
    assert first["streams"] == [{"name": "/joint_states", **STREAMS["/joint_states"]}]
    assert first["quality"] == [{"name": "state.arm", "ages_ms": [0.0, None, 3.0, 4.5, 6.0, 7.5], "filled": [3]}]
    arm = first["curves"][0]
    values = np.frombuffer(base64.b64decode(arm["values"]), "<f4").reshape(6, 3)
    assert (arm["key"], arm["names"]) == ("state.arm", ["j0", "j1", "j2"])
    assert np.array_equal(values, EpisodeDataset(recorded).state(0, "arm").astype(np.float32))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_embedded_videos_are_those_of_the_episode(recorded, tmp_path, version):
    root = tmp_path / "data"
    convert_dataset(recorded, root, version)
    write_page(root, [1], tmp_path / "page.html")
    _, _, content = read_page(tmp_path / "page.html")
    (video,) = content["episodes"][0]["videos"]
    assert (video["key"], video["codec"], video["isEmbedded"], video["start"]) == ("front", "h264", True, 0.0)
    (tmp_path / "video.mp4").write_bytes(base64.b64decode(video["source"].removeprefix("data:video/mp4;base64,")))
    images = VideoReader(tmp_path / "video.mp4").read(range(5))
    assert np.array_equal(images, EpisodeDataset(root).images(1, "front", range(5)))


@pytest.mark.parametrize(("version", "start"), [("v2.1", 0.0), ("v3.0", 0.6)])
def test_videos_beyond_the_limit_are_linked(recorded, tmp_path, version, start):
    root = tmp_path / "da ta"
    convert_dataset(recorded, root, version)
    report = write_page(root, [1], tmp_path / "pages" / "page.html", embedded_mb=0)
    assert dataclasses.astuple(report) == (1, 0, 1)
    (video,) = read_page(tmp_path / "pages" / "page.html")[2]["episodes"][0]["videos"]
    assert video["start"] == pytest.approx(start)
    target = (tmp_path / "pages" / urllib.parse.unquote(video["source"])).resolve()
    assert target == EpisodeDataset(root).video_span(1, "front").path.resolve()


def test_dataset_without_modality_and_quality_is_shown(data_dir, tmp_path):
    write_page(data_dir / "lerobot_v30_reference", [2], tmp_path / "page.html")
    (episode,) = read_page(tmp_path / "page.html")[2]["episodes"]
    assert [curves["key"] for curves in episode["curves"]] == ["state.state", "action.action"]
    assert episode["quality"] == [] and episode["success"] is None


def test_rows_of_two_tasks_are_two_stretches(tmp_path):
    with DatasetWriter(tmp_path / "data", EMBODIMENT) as writer:
        episode = writer.start_episode("reach")
        for row, frame in enumerate(make_frames(EMBODIMENT, 5, task="")):
            episode.add_frame(dataclasses.replace(frame, task="grasp" if row >= 3 else ""))
        episode.save()
    assert read_episode(EpisodeDataset(tmp_path / "data"), 0).tasks == [(0, "reach"), (3, "grasp")]


CHECKS = """
const page = require(process.argv[1]);
const equal = require("assert").deepStrictEqual;
for (const fps of [10, 20, 30, 29.97, 50]) {
  for (let row = 0; row < 3000; row++) equal(page.rowAt(page.timeOf(row, fps), fps, 3000), row);
  for (let row = 0; row < 3000; row++) equal(page.rowAt(row / fps, fps, 3000), row);  // as a video reports its time
}
equal([page.rowAt(-1, 10, 5), page.rowAt(9, 10, 5)], [0, 4]);
equal([...page.decodeFloats("AACAPwAAIMA=")], [1, -2.5]);
equal(page.niceTicks(-1.3, 2.2, 4), [-1, 0, 1, 2]);
equal(page.niceTicks(0, 2, 4), [0, 0.5, 1, 1.5, 2]);
equal(page.niceTicks(3, 3, 4), [3]);
const groups = [{ names: ["a", "b"], values: new Float32Array([0, 100, 1, NaN]) }];
equal(page.extremes(groups, new Set(["b"])).map((value) => value.toFixed(2)), ["-0.06", "1.06"]);
equal(page.extremes(groups, new Set(["a", "b"])), [0, 1]);
const still = [{ names: ["a"], values: new Float32Array([2, 2]) }];
equal(page.extremes(still, new Set()).map((value) => value.toFixed(2)), ["1.88", "2.12"]);
const charts = page.chartsOf([{ key: "state.arm" }, { key: "state.left.hand" }, { key: "action.arm" }]);
equal(charts.map((chart) => chart.name), ["arm", "left.hand"]);
equal(charts.map((chart) => chart.groups.map((group) => group.dashed)), [[false, true], [false]]);
equal(page.taskAt([[0, "reach"], [3, "grasp"]], 2), "reach");
equal(page.taskAt([[0, "reach"], [3, "grasp"]], 3), "grasp");
equal(page.rowAfterKey("ArrowRight", false, 4, 10, 30), 5);
equal(page.rowAfterKey("ArrowLeft", true, 4, 10, 30), 0);
equal(page.rowAfterKey("ArrowRight", true, 4, 10, 30), 14);
equal([page.rowAfterKey("Home", false, 4, 10, 30), page.rowAfterKey("End", false, 4, 10, 30)], [0, 29]);
equal(page.rowAfterKey("x", false, 4, 10, 30), null);
equal(page.rowColor(5, true, 10), "#c62828");
equal(page.rowColor(null, false, 10), "#c9d0d8");
equal(page.rowColor(0, false, 0), "hsl(150 55% 72%)");
equal(page.rowColor(10, false, 10), "hsl(50 55% 50%)");
equal([0, 0.25, 12345, NaN].map(page.formatted), ["0.000", "0.250", "1.23e+4", "NaN"]);
"""


def test_script_computes_rows_ticks_and_colors():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, which runs the page's script")
    result = subprocess.run([node, "-e", CHECKS, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(importlib.util.find_spec("rerun") is None, reason="rerun-sdk is not installed")
def test_rerun_recording_is_written(recorded, tmp_path):
    export_rerun(recorded, [0, 1], tmp_path / "out" / "arm.rrd")
    assert (tmp_path / "out" / "arm.rrd").read_bytes().startswith(b"RRF2")


def test_page_parts_are_installed_with_the_package():
    setup = (Path(__file__).parent.parent / "setup.py").read_text()
    for name in ("page.css", "page.html", "page.js"):
        assert SCRIPT.with_name(name).is_file()
        assert f'"dataset/view/*{Path(name).suffix}"' in setup


def test_damaged_video_is_named(recorded, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(recorded, root)
    (root / schema.video_path(0, "observation.images.front")).write_bytes(b"no video")
    with pytest.raises(DatasetError, match=r"episode_000000\.mp4: not a readable video"):
        write_page(root, [0], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
