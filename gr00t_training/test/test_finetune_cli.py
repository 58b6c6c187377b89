# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from gr00t_training.checkpoint import load_checkpoint, load_model  # noqa: E402
from gr00t_training.cli import evaluate, finetune  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.embodiment import load_embodiment, to_mapping  # noqa: E402
from gr00t_training.policy import Policy  # noqa: E402
from gr00t_training.testing import make_embodiment, make_frames  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("recorded")
    with DatasetWriter(root, EMBODIMENT) as writer:
        for count in (5, 4):
            episode = writer.start_episode("lift the cube")
            for frame in make_frames(EMBODIMENT, count, seed=count):
                episode.add_frame(frame)
            episode.save()
    return root


def run(*arguments, **options):
    words = [str(word) for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]
    return finetune.main([*map(str, arguments), *words])


def quick(recorded, output_dir, **options):
    given = {"dataset_path": recorded, "output_dir": output_dir, "batch_size": 1, "max_steps": 2, "device": "cpu"}
    return {**given, **options}


def error_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_gr1_sample_trains_with_a_shipped_embodiment(data_dir, tmp_path, capsys):
    options = quick(data_dir / "lerobot_v20_gr1", tmp_path, embodiment="gr1_arms_only", variant="n1_compact")
    assert run(**{**options, "max_steps": 3}) == 0
    output = capsys.readouterr().out
    assert "5 episodes, 2096 rows at 20 Hz" in output
    assert "left_arm 7, right_arm 7, left_hand 6, right_hand 6, horizon 16" in output
    assert output.splitlines()[-1] == f"saved {tmp_path / 'checkpoint-3'}"
    policy = Policy.from_checkpoint(tmp_path / "checkpoint-3", device="cpu")
    assert policy.embodiment == load_embodiment("gr1_arms_only")
    assert json.loads((tmp_path / "checkpoint-3/trainer_settings.json").read_text())["tune_llm"] is True


def test_recorded_dataset_needs_no_embodiment_and_can_be_resumed_and_built_on(recorded, tmp_path, capsys):
    first = tmp_path / "first"
    assert run(**quick(recorded, first, variant="n1_compact", save_steps=1)) == 0
    assert load_checkpoint(first / "checkpoint-2").embodiment == EMBODIMENT
    capsys.readouterr()

    assert run(**quick(recorded, first, variant="n1_compact")) == 2
    assert "has checkpoint-2 already; pass --resume" in error_line(capsys)

    assert run("--resume", **quick(recorded, first, max_steps=3)) == 0
    assert "steps       2 to 3 of 1 samples" in capsys.readouterr().out

    second = tmp_path / "second"
    base = first / "checkpoint-3"
    assert run(**quick(recorded, second, base_model_path=base, max_steps=1, learning_rate=0)) == 0
    expected, found = (load_model(load_checkpoint(path)).state_dict() for path in (base, second / "checkpoint-1"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())  # started from it; rate is 0


def test_wrong_embodiment_is_refused_naming_each_item(recorded, tmp_path, capsys):
    other = dataclasses.replace(EMBODIMENT, fps=20, language="human.coarse")
    (tmp_path / "other.json").write_text(json.dumps(to_mapping(other)))
    given = quick(recorded, tmp_path / "out", variant="n1_compact", embodiment=tmp_path / "other.json")
    assert run(**given) == 2
    line = error_line(capsys)
    assert "fps: found 10, expected 20" in line
    assert "language: found human.task_description, expected human.coarse" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "pass --base-model-path (a checkpoint) or --variant"),
        ({"base_model_path": "nowhere"}, "nowhere: no such folder"),
        ({"variant": "n1_compact", "dataset_path": "nowhere"}, "nowhere/meta/info.json: cannot be read"),
        ({"variant": "n1_compact", "embodiment": "nobody"}, "embodiment 'nobody': neither a file nor a shipped"),
        ({"variant": "n1_compact", "batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"variant": "n1_compact", "device": "gpu7"}, "device 'gpu7': not available"),
        ({"variant": "n1_compact", "output_dir": "/dev/null/x"}, "/dev/null/x: cannot be made"),
    ],
)
def test_errors_are_one_line(recorded, tmp_path, capsys, options, words):
    assert run(**{**quick(recorded, tmp_path), **options}) == 2
    line = error_line(capsys)
    assert line.startswith("gr00t_finetune: error: ")
    assert words in line


def test_foreign_dataset_needs_an_embodiment(data_dir, tmp_path, capsys):
    assert run(**quick(data_dir / "lerobot_v20_gr1", tmp_path, variant="n1_compact")) == 2
    assert "holds no embodiment (another tool wrote it); pass --embodiment" in error_line(capsys)


def test_evaluation_of_a_trained_checkpoint(recorded, tmp_path, capsys):
    assert run(**quick(recorded, tmp_path, variant="n1_compact", max_steps=1)) == 0
    capsys.readouterr()
    given = ["--checkpoint-path", str(tmp_path / "checkpoint-1"), "--dataset-path", str(recorded), "--device", "cpu"]
    output = tmp_path / "evaluation"
    assert evaluate.main([*given, "--episodes", "0", "1", "--steps", "5", "--output-dir", str(output)]) == 0
    printed = capsys.readouterr().out
    report = json.loads((output / "evaluation.json").read_text())
    assert [entry["rows"] for entry in report["episodes"]] == [5, 4]
    assert f"{report['mse']:.6g}" in printed
    assert {path.name for path in output.glob("*.png")} == {"episode_000000.png", "episode_000001.png"}

    assert evaluate.main([*given, "--episodes", "7"]) == 2
    assert "gr00t_evaluate: error: " in error_line(capsys)
