# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run is checked for before it starts."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("tensorboard")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_training.cli import finetune  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.tools.validate.dataset import validate_sample  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import ConfigError  # noqa: E402
from gr00t_training.io.image_header import read_header  # noqa: E402
from gr00t_training.train.finetune import check_finetuning  # noqa: E402
from gr00t_training.train.preflight import Verdict, check_ranges  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()


def record(root, *, change=lambda frame: frame, counts=(6,), task="lift the cube"):
    with DatasetWriter(root, EMBODIMENT) as writer:
        for number, count in enumerate(counts):
            episode = writer.start_episode(task)
            for frame in make_frames(EMBODIMENT, count, seed=number, task=""):
                episode.add_frame(change(frame))
            episode.save()
    return root


def scaled_action(factor):
    return lambda frame: dataclasses.replace(
        frame, action={**frame.action, "arm": frame.state["arm"] * factor}, state=frame.state
    )


def check(root, output, **options):
    trainer = TrainerSettings(**{"device": "cpu", "tune_llm": True, **options})
    return check_finetuning(FinetuneSettings(output=output, dataset=root, variant="n1_compact", trainer=trainer))


def verdicts(report):
    found = {}
    for each in report.checks:
        found.setdefault(each.name, []).append((each.verdict, each.text))
    return found


def test_a_sound_dataset_is_a_go_with_a_picture(tmp_path):
    report = check(record(tmp_path / "data"), tmp_path / "run")
    found = verdicts(report)
    assert {name: [verdict.value for verdict, _ in lines] for name, lines in found.items()} == {
        "dataset": ["go"],
        "embodiment": ["go"],
        "statistics": ["go"],
        "language": ["go"],
        "samples": ["go"],
        "disk": ["go"],
    }
    assert found["dataset"][0][1].startswith("1 episodes, 6 rows at 10 Hz; all checked and decoded; 0 faults")
    assert found["statistics"][0][1] == "4 state and 4 action channels move"
    assert "1 texts in 1 episodes, the longest 'lift the cube'" in found["language"][0][1]
    header = read_header((tmp_path / "run/preflight.png").read_bytes())
    assert header.width > 800
    assert header.height > 600
    report.refuse_no_go()


def test_a_black_camera_is_refused_unless_told_otherwise(tmp_path, capsys):
    def black(frame):
        return dataclasses.replace(frame, images={key: np.zeros_like(image) for key, image in frame.images.items()})

    root = record(tmp_path / "data", change=black)
    words = ["--dataset", str(root), "--variant", "n1_compact", "--device", "cpu", "--output", str(tmp_path / "run")]
    words += ["--max-steps", "1", "--batch-size", "1"]
    for more in ([], ["--check"]):
        assert finetune.main([*words, *more]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "pre-flight found 1 no-go: dataset: " in error
        assert "the video is black from start to end" in error
        assert error.endswith("correct it, or pass --no-preflight to train anyway")
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert finetune.main([*words, "--no-preflight"]) == 0
    assert (tmp_path / "run/checkpoint-1").is_dir()


def change_rows(root, change):
    file = root / "data/chunk-000/episode_000000.parquet"
    pq.write_table(change(pq.read_table(file)), file)


def test_faults_that_other_readers_have_are_a_look_and_rows_that_are_missing_a_no_go(tmp_path):
    root = record(tmp_path / "data")
    change_rows(root, lambda table: table.drop_columns("index").append_column("index", pa.array([7] * len(table))))
    ((verdict, text),) = verdicts(check(root, tmp_path / "run"))["dataset"]
    assert verdict is Verdict.LOOK
    assert "index is 7 in row 0" in text
    change_rows(root, lambda table: table.slice(0, 3))
    assert verdicts(check(root, tmp_path / "run"))["dataset"][0][0] is Verdict.NO_GO


def test_numbers_in_lists_of_one_are_a_look(tmp_path):
    root = record(tmp_path / "data")

    def listed(table):
        values = pa.array([[value] for value in table["timestamp"].to_pylist()])
        return table.drop_columns("timestamp").append_column("timestamp", values)

    change_rows(root, listed)
    ((verdict, text),) = verdicts(check(root, tmp_path / "run"))["dataset"]
    assert verdict is Verdict.LOOK
    assert "timestamp is list<" in text


def test_check_prints_the_table_and_trains_nothing(tmp_path, capsys):
    root = record(tmp_path / "data")
    words = ["--dataset", str(root), "--variant", "n1_compact", "--device", "cpu", "--output", str(tmp_path / "run")]
    assert finetune.main([*words, "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["go", name] for name in ("dataset", "embodiment", "statistics", "language", "samples", "disk")
    ]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["preflight.png"]


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (scaled_action(180 / np.pi), Verdict.LOOK, "action.arm 'j0' reaches "),
        (scaled_action(180 / np.pi), Verdict.LOOK, "(degrees and radians?)"),
        (
            lambda frame: dataclasses.replace(frame, state={**frame.state, "gripper": np.array([frame.tick_ns / 1e6])}),
            Verdict.LOOK,
            "state.gripper 'grip' reaches 500 m (millimeters?)",
        ),
        (
            lambda frame: dataclasses.replace(frame, state={**frame.state, "gripper": np.array([0.5])}),
            Verdict.LOOK,
            "constant: state.gripper 'grip'",
        ),
        (
            lambda frame: dataclasses.replace(frame, action={"arm": np.ones(3), "gripper": np.ones(1)}),
            Verdict.NO_GO,
            "no channel of the action ever changes",
        ),
    ],
    ids=["degrees", "degrees in the action only", "millimeters", "constant", "no action"],
)
def test_ranges_are_compared_with_units(tmp_path, change, verdict, words):
    found = check_ranges(EpisodeDataset(record(tmp_path, change=change)), EMBODIMENT)
    assert any(each is verdict and words in text for each, text in found), found


def test_a_disk_without_room_is_a_no_go_and_a_small_one_a_look(tmp_path, monkeypatch):
    root, usage = record(tmp_path / "data"), type(shutil.disk_usage(tmp_path))
    for free, expected in ((10**6, Verdict.NO_GO), (2 * 10**8, Verdict.LOOK)):
        monkeypatch.setattr("gr00t_training.train.preflight.shutil.disk_usage", lambda _, n=free: usage(n, n, n))
        ((verdict, text),) = verdicts(check(root, tmp_path / "run", max_steps=5000))["disk"]
        assert verdict is expected
        assert "per checkpoint, 8 kept" in text


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_large_dataset_is_checked_in_parts_spread_over_it(tmp_path, version):
    with DatasetWriter(tmp_path, EMBODIMENT, version=version) as writer:
        for number in range(8):
            episode = writer.start_episode("lift")
            for frame in make_frames(EMBODIMENT, 5, seed=number):
                episode.add_frame(frame)
            episode.save()
    part = validate_sample(tmp_path, max_frames=11)
    assert (len(part.episodes), part.num_episodes) == ((2, 8) if version == "v2.1" else (8, 8))
    assert part.is_decoded is (version == "v2.1")  # all episodes of v3.0 share a file, which is only listed
    assert not [finding for finding in part.findings if finding.is_fault]
    assert len(validate_sample(tmp_path, max_frames=1000).episodes) == 8


def test_a_part_finds_what_is_wrong_in_it(tmp_path):
    record(tmp_path, counts=(5, 5, 5, 5))
    (tmp_path / "videos/chunk-000/observation.images.front/episode_000000.mp4").write_bytes(b"cut")
    found = [finding for finding in validate_sample(tmp_path, max_frames=5).findings if finding.is_fault]
    assert len(found) == 1
    assert "episode_000000.mp4" in str(found[0])


def test_what_is_held_out_is_told_and_the_best_checkpoint_is_counted(tmp_path):
    root = record(tmp_path / "data", counts=(6, 6, 4))
    ((verdict, text),) = verdicts(check(root, tmp_path / "run", validation_episodes=("1-2",)))["validation"]
    assert verdict is Verdict.GO
    assert text == "2 episodes held out (1-2): 10 rows, 10 are measured; 6 rows are trained on"
    ((_, disk),) = verdicts(check(root, tmp_path / "run", keep_checkpoints=2))["disk"]
    assert "2 kept" in disk
    ((_, disk),) = verdicts(check(root, tmp_path / "run", keep_checkpoints=2, validation_share=0.3))["disk"]
    assert "3 kept" in disk


@pytest.mark.parametrize("option", ["frame_cache", "feature_cache"])
def test_a_cache_that_cannot_be_used_is_refused_before_weights_are_read(option, tmp_path):
    (tmp_path / "file").write_text("")
    frozen = {"augment_images": False, "tune_llm": False, "tune_visual": False}
    with pytest.raises(ConfigError, match="cannot hold a cache"):
        check(record(tmp_path / "data"), tmp_path / "run", **{option: str(tmp_path / "file/cache"), **frozen})
