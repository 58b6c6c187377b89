# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_test_support.forked_python import python  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model  # noqa: E402
from gr00t_training.cli import evaluate, finetune  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.embodiment import load_embodiment, to_mapping  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402

torch.set_num_threads(1)

pytestmark = pytest.mark.slow
EMBODIMENT = make_embodiment()
RUN_S = 1200  # on a loaded machine


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
        ({}, "pass --base-model (a checkpoint) or --variant"),
        ({"base_model_path": "nowhere"}, "nowhere: no such folder"),
        ({"variant": "n1_compact", "dataset_path": "nowhere"}, "nowhere/meta/info.json: cannot be read"),
        ({"variant": "n1_compact", "dataset_path": "CHECKPOINT"}, "CHECKPOINT: is a checkpoint, expected a dataset"),
        ({"variant": "n1_compact", "dataset_path": __file__}, "test_finetune_cli.py: is a file, expected the folder"),
        ({"variant": "n1_compact", "embodiment": "nobody"}, "embodiment 'nobody': neither a file nor a shipped"),
        ({"variant": "n1_compact", "batch_size": 0}, "batch_size is 0, expected 1 to 65536"),
        ({"variant": "n1_compact", "tune_top_llm_layers": 99}, "tune_top_llm_layers is 99, the model keeps 3 layers"),
        ({"variant": "n1_compact", "device": "gpu7"}, "device 'gpu7': not available"),
        ({"variant": "n1_compact", "output_dir": "/dev/null/x"}, "/dev/null/x: cannot be made"),
        (
            {"variant": "n1_compact", "output_dir": __file__},
            "test_finetune_cli.py: is a file, expected a folder or a new",
        ),
        ({"variant": "n1_compact", "report_to": "tensorbord"}, "report_to: 'tensorbord' is unknown, expected one of"),
        ({"variant": "n1_compact", "learning_rate": -1}, "error: learning_rate is -1.0, expected 0 to 10"),
    ],
)
def test_errors_are_one_line(recorded, tmp_path, capsys, options, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CHECKPOINT").mkdir()
    (tmp_path / "CHECKPOINT" / "model.safetensors").touch()
    assert run(**{**quick(recorded, tmp_path), **options}) == 2
    line = error_line(capsys)
    assert line.startswith("gr00t_finetune: error: ")
    assert words in line


def test_missing_memory_is_explained(recorded, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9000000000 bytes.")

    monkeypatch.setattr("gr00t_training.train.finetune.Gr00tModel", refuse)
    assert run(**quick(recorded, tmp_path, variant="n1_compact")) == 2
    line = error_line(capsys)
    assert "out of memory (DefaultCPUAllocator" in line
    assert line.endswith("lower --batch-size, train fewer parts or a smaller --variant")


def test_foreign_dataset_needs_an_embodiment(data_dir, tmp_path, capsys):
    assert run(**quick(data_dir / "lerobot_v20_gr1", tmp_path, variant="n1_compact")) == 2
    assert "has no embodiment (another tool wrote it); 'gr00t init " in error_line(capsys)


def test_evaluation_of_a_trained_checkpoint(recorded, tmp_path, capsys):
    assert run(**quick(recorded, tmp_path, variant="n1_compact", max_steps=1)) == 0
    capsys.readouterr()
    given = ["--checkpoint-path", str(tmp_path / "checkpoint-1"), "--dataset-path", str(recorded), "--device", "cpu"]
    output = tmp_path / "evaluation"
    # after a single step the policy looks at nothing
    assert evaluate.main([*given, "--episodes", "0", "1", "--steps", "5", "--output-dir", str(output)]) == 1
    printed = capsys.readouterr()
    report = json.loads((output / "evaluation.json").read_text())
    assert [judged["verdict"] for judged in report["judgements"]] == ["no-go"]
    assert [entry["rows"] for entry in report["episodes"]] == [5, 4]
    assert all(f"{of_unit['mse']:.6g}" in printed.out for of_unit in report["units"].values())
    assert "warning: the checkpoint was trained on episodes 0-1; their errors do not predict" in printed.err
    assert {path.name for path in output.glob("*.png")} == {"episode_000000.png", "episode_000001.png"}

    assert evaluate.main([*given, "--episodes", "1-", "--steps", "1", "--fail-on", "never"]) == 0
    assert "trained on episodes 1;" in capsys.readouterr().err
    with DatasetWriter(tmp_path / "new", EMBODIMENT) as writer:
        episode = writer.start_episode("lift the cube")
        for frame in make_frames(EMBODIMENT, 3, seed=99):
            episode.add_frame(frame)
        episode.save()
    given[3] = str(tmp_path / "new")
    assert evaluate.main([*given, "--steps", "1", "--no-tests"]) == 0
    assert "warning" not in capsys.readouterr().err

    assert evaluate.main([*given, "--episodes", "7"]) == 2
    assert "gr00t_evaluate: error: " in error_line(capsys)


def test_a_run_is_resumed_by_its_folder_alone_and_changes_are_shown(recorded, tmp_path, capsys, caplog):
    given = {**quick(recorded, tmp_path, variant="n1_compact"), "learning_rate": 0.0001}
    assert run(**given) == 0
    capsys.readouterr()
    with caplog.at_level("INFO"):
        assert run("--resume", output_dir=tmp_path, max_steps=3, learning_rate=0.00005) == 0
    assert "saved" in capsys.readouterr().out
    assert "max_steps 2 -> 3" in caplog.messages
    assert "learning_rate 0.0001 -> 5e-05" in caplog.messages
    assert not any(message.startswith(("batch_size", "dataset")) for message in caplog.messages)
    assert run("--resume", output_dir=tmp_path, max_steps=4, batch_size=2) == 2
    assert "batch_size: found 1, expected 2" in error_line(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-steps", "3", "--max-steps", "4"], "option --max-steps is given more than once"),
        (["--bf16", "--no-bf16"], "option --no-bf16 is given more than once"),
        (["--max-step", "3"], "unknown argument '--max-step'; did you mean '--max-steps'?"),
        (["--datset", "x"], "did you mean '--dataset'?"),
        (["--resume"], "--dataset is missing, and there is no run to resume"),
        (["--learning-rate", "inf"], "learning_rate is inf, expected 0 to 10"),
    ],
)
def test_command_lines_that_cannot_be_meant_are_refused(words, message, tmp_path, capsys):
    try:
        code = finetune.main(["--output-dir", str(tmp_path), *words])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in error_line(capsys)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGINT, 130)], ids=["term", "usr1", "int"]
)
def test_a_signal_saves_a_checkpoint_that_the_run_goes_on_from(number, code, recorded, tmp_path, capsys):
    process = start(recorded, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=RUN_S)
    assert process.returncode == code
    assert "Traceback" not in errors
    (saved,) = tmp_path.glob("checkpoint-*")
    assert f"interrupted at {saved.name}; --resume continues from it" in errors
    step = int(saved.name.removeprefix("checkpoint-"))
    assert run("--resume", output_dir=tmp_path, max_steps=step + 1) == 0
    assert f"steps       {step} to {step + 1} of" in capsys.readouterr().out


def test_a_second_signal_ends_at_once_and_leaves_nothing_half_written(recorded, tmp_path):
    process = start(recorded, tmp_path)
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "Ctrl-C again" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=RUN_S)
    assert "Traceback" not in errors
    assert process.returncode in (130, 143)  # 130: the save was done already
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_signal_to_a_whole_job_leaves_its_workers_alive_until_the_checkpoint_is_saved(recorded, tmp_path):
    process = start(recorded, tmp_path, sys.executable, num_workers=2)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):  # as SLURM sends them
        os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, errors
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


def test_a_signal_before_the_first_step_ends_at_once(recorded, tmp_path):
    process = launch(recorded, tmp_path)
    while not (tmp_path / "run.lock").exists():  # it loads the model now
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=RUN_S)
    assert process.returncode == 143
    assert "interrupted before the first step was done; nothing new was saved" in errors
    assert "Traceback" not in errors


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_one_is_killed(recorded, tmp_path, capsys):
    process = start(recorded, tmp_path, sys.executable)
    assert run(**quick(recorded, tmp_path, variant="n1_compact")) == 2
    line = error_line(capsys)
    assert f"another run trains here (process {process.pid} on {socket.gethostname()}); stop it" in line
    process.kill()
    process.communicate(timeout=RUN_S)
    assert run(**quick(recorded, tmp_path, variant="n1_compact")) == 0
    assert (tmp_path / "checkpoint-2").is_dir()


def start(recorded, output_dir, executable=None, **options):
    """Start a long run in a separate process and wait until it has made a step."""
    process = launch(recorded, output_dir, executable, **options)
    for line in process.stderr:
        if line.startswith("step "):
            return process
    raise AssertionError(process.communicate())


def launch(recorded, output_dir, executable=None, **options):
    """Start a long run in a separate process, with its own process group; forked unless an executable is given."""
    given = {**quick(recorded, output_dir), "max_steps": 100000, "log_every": 1, **options}
    words = [str(w) for n, v in given.items() for w in ("--" + n.replace("_", "-"), v)]
    code = (
        "import torch; torch.set_num_threads(1); from gr00t_training.cli.finetune import main; raise SystemExit(main())"
    )
    return subprocess.Popen(
        [executable or python(), "-c", code, *words, "--variant", "n1_compact"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
