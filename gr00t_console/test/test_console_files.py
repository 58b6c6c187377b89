# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What pages fetch: datasets and their edits, the table of trials, curves of runs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gr00t_bringup.trials.table import TrialTable
from gr00t_console.datasets import Shelf
from gr00t_console.robot import PolicyView
from gr00t_console.runs import RunCurves, Runs
from gr00t_console.trial_desk import TrialDesk
from gr00t_test_support.builders import make_embodiment, record_episode
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.train.run_names import LAST_STEP, LOG_FOLDER


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    for count in (8, 6):
        record_episode(tmp_path / "sets" / "cubes", make_embodiment(), count)
    return Shelf([tmp_path / "sets", tmp_path / "missing"])


def test_episodes_of_a_dataset(shelf: Shelf) -> None:
    (entry,) = shelf.list()
    assert entry["name"] == "cubes"
    found = shelf.describe(entry["id"])
    assert [episode["rows"] for episode in found["episodes"]] == [8, 6]
    assert found["cameras"]
    curves = shelf.curves(entry["id"], 1)
    assert len(curves["t"]) == 6
    assert all(np.shape(key["rows"]) == (6, len(key["names"])) for key in curves["keys"].values())
    clip = shelf.clip(entry["id"], 1, found["cameras"][0])
    assert clip.path.is_file()
    assert clip.end_s - clip.start_s == pytest.approx(6 / found["fps"])


def test_edits_are_those_of_the_command(shelf: Shelf) -> None:
    dataset = shelf.list()[0]["id"]
    assert "1 episodes" in shelf.edit("delete", dataset, [0], "", "fewer")
    assert [entry["name"] for entry in shelf.list()] == ["cubes", "fewer"]
    shelf.edit("retask", dataset, [1], "fold the towel", "")
    assert shelf.describe(dataset)["episodes"][1]["tasks"] == ["fold the towel"]
    path = str(shelf.find(dataset))
    assert ("fold the towel", 1) in shelf.task_counts(path)


@pytest.mark.parametrize(
    ("kind", "episodes", "output", "reason"),
    [
        ("burn", [0], "", "unknown"),
        ("delete", [], "", "no episode is chosen"),
        ("delete", [7], "", "no episode 7"),
        ("delete", [0], "../elsewhere", "expected letters"),
        ("delete", [0], "cubes", "exists"),
    ],
)
def test_edits_that_are_refused(shelf: Shelf, kind: str, episodes: list[int], output: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        shelf.edit(kind, shelf.list()[0]["id"], episodes, "", output)
    assert len(shelf.list()) == 1


def test_a_dataset_that_a_recorder_writes_is_not_edited(shelf: Shelf, tmp_path: Path) -> None:
    shelf.set_recording(str(tmp_path / "sets" / "cubes"))
    (entry,) = shelf.list()
    with pytest.raises(DatasetError, match="a recorder has"):
        shelf.edit("delete", entry["id"], [0], "", "")
    shelf.set_recording("")
    shelf.edit("delete", entry["id"], [0], "", "")


def test_other_folders_cannot_be_named(shelf: Shelf) -> None:
    for name in ("..", "/etc", "cubes", ""):
        with pytest.raises(DatasetError):
            shelf.describe(name)


def test_a_judged_trial_is_a_row_of_the_rollout_table(tmp_path: Path) -> None:
    desk = TrialDesk(tmp_path / "trials.csv")
    before = PolicyView("running", "policy", chunks=5, holds=2, clamps=10, stops=1, takeovers=0)
    for number, success in enumerate([True, False, True]):
        desk.begin("fold the towel", "checkpoint-10", 60.0, before, now_s=100.0)
        desk.observe(before, 101.0)  # no answer yet
        desk.observe(PolicyView("running", "policy", chunks=6, holds=3, clamps=10), 102.0)
        after = PolicyView("running", "policy", chunks=9, holds=4, clamps=13, stops=1, takeovers=1)
        trial = desk.end(success, "a note", after, now_s=110.0)
        assert (trial.spec.seed, trial.time_s) == (number, 8.0)
        assert (trial.chunks, trial.holds, trial.clamps, trial.stops, trial.takeovers) == (4, 1, 3, 0, 1)
    with pytest.raises(ConfigError, match="no trial is running"):
        desk.end(True, "", before, 0.0)
    assert [trial.success for trial in TrialTable(tmp_path / "trials.csv").trials] == [True, False, True]
    (group,) = desk.section()["groups"]
    assert (group["successes"], group["trials"]) == (2, 3)
    assert group["interval"] == pytest.approx([0.208, 0.939], abs=0.001)  # Wilson, by hand
    assert TrialDesk(tmp_path / "trials.csv").section()["trials"][2]["note"] == "a note"


def event(time_s: float, step: int, **values: float) -> bytes:
    """Return a record of a TensorBoard file, by the definition of protocol buffers."""

    def varint(number: int) -> bytes:
        out = bytearray()
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        return bytes([*out, number])

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    entries = b"".join(
        field(1, field(1, tag.replace("__", "/").encode()) + varint(2 << 3 | 5) + struct.pack("<f", value))
        for tag, value in values.items()
    )
    message = varint(1 << 3 | 1) + struct.pack("<d", time_s) + varint(2 << 3) + varint(step) + field(5, entries)
    return struct.pack("<Q", len(message)) + b"\0" * 4 + message + b"\0" * 4


def test_curves_of_a_run_while_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "run" / LOG_FOLDER / "events.out.tfevents.1"
    file.parent.mkdir(parents=True)
    records = [event(1000.0 + step, step, train__loss=1.0 / (step + 1)) for step in range(0, 300, 10)]
    half = records[10][:20]
    tag = {LAST_STEP.replace("/", "__"): 1000.0}
    file.write_bytes(event(1000.0, 0, **tag) + b"".join(records[:10]) + half)
    run = RunCurves(tmp_path / "run")
    run.read()
    found: dict[str, Any] = run.section(now_s=1095.0)
    assert (found["step"], found["last_step"], found["is_running"]) == (90, 1000, True)
    assert found["left_s"] == pytest.approx(910.0)  # a second per step
    assert found["curves"]["train/loss"][-1] == (90, pytest.approx(1 / 91))
    with file.open("ab") as opened:
        opened.write(b"".join(records[10:])[20:])
    run.read()
    assert run.section(now_s=1400.0)["step"] == 290
    assert not run.section(now_s=9999.0)["is_running"]
    file.write_bytes(file.read_bytes() + b"\xff" * 40)  # damaged: what was read stays
    run.read()
    assert run.section(now_s=1400.0)["step"] == 290
    assert [each["name"] for each in Runs([tmp_path]).sections()] == ["run"]


@pytest.mark.slow
def test_curves_as_the_trainer_writes_them(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from gr00t_training.train.trackers import open_trackers

    (tracker,) = open_trackers(["tensorboard"], tmp_path / LOG_FOLDER, start=0, title="run", config={})
    for step in (1, 2, 300):
        tracker.log({"train/loss": 0.5 / step, LAST_STEP: 300.0}, step)
    tracker.close()
    run = RunCurves(tmp_path)
    run.read()
    found = run.section(0.0)
    assert found["is_done"]
    assert [step for step, _ in found["curves"]["train/loss"]] == [1, 2, 300]
    assert found["curves"]["train/loss"][1][1] == pytest.approx(0.25)
