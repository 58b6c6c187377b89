# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Two processes on the CPU train as one does, continue each other's runs, and end together."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

from launched_trainer import train  # noqa: E402

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_test_support.waiting import eventually  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model  # noqa: E402
from gr00t_training.cli import finetune as command  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402
from gr00t_training.train.distributed import Processes  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
STEPS, HALF = 4, 2
WHOLE = {"batch_size": 4, "max_steps": STEPS, "save_steps": HALF}
ALL_PARTS = {"tune_llm": True, "learning_rate": 1e-3}
KINDS = {
    "ddp": {"rtc_max_delay": 3, "state_dropout": 0.5},
    "ddp in parts": {"accumulate": 2, "ema_decay": 0.5, "tune_visual": False, "validation_share": 0.5},
    "fsdp": {"parallel": "fsdp", "ema_decay": 0.5, "validation_share": 0.5},
    "fsdp in parts": {"parallel": "fsdp", "accumulate": 2, "checkpoint_activations": True},
}
DEADLINE_S = 900.0  # for a busy machine


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    embodiment = make_embodiment()
    with DatasetWriter(root, embodiment) as writer:
        for count in (9, 6):
            episode = writer.start_episode("lift the cube")
            for frame in make_frames(embodiment, count, seed=count):
                episode.add_frame(frame)
            episode.save()
    return EpisodeDataset(root)


def launch(*words, gpus="", **options):
    """Start two processes with torchrun; without `gpus` they see none."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": gpus,
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    return subprocess.Popen(line, env=environment, start_new_session=True, text=True, **options)


def ended(process):
    """Wait for the end of all processes; returns the exit code and what was printed."""
    try:
        output, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    return process.returncode, output, errors


def run_of(output, kind, weights=None, stop_at=None):
    settings = {**WHOLE, **ALL_PARTS, **KINDS[kind]}
    return {"output": str(output), "weights": weights and str(weights), "stop_at": stop_at, "settings": settings}


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Whole runs and halves by one process and by two; then each half is continued by the other number."""
    root = tmp_path_factory.mktemp("runs")
    two = []
    for kind in KINDS:
        train(run_of(root / kind / "one", kind), dataset, Processes())
        half = train(run_of(root / kind / "one then two", kind, stop_at=HALF), dataset, Processes())
        two += [
            run_of(root / kind / "two", kind),
            run_of(root / kind / "two then one", kind, stop_at=HALF),
            run_of(root / kind / "one then two", kind, weights=half),
        ]
    jobs = root / "jobs.json"
    jobs.write_text(json.dumps({"dataset": str(dataset.path), "runs": two}))
    code, output, errors = ended(
        launch(HERE / "launched_trainer.py", jobs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    )
    assert code == 0, output + errors
    for kind in KINDS:
        half = root / kind / "two then one" / f"checkpoint-{HALF}"
        train(run_of(half.parent, kind, weights=half), dataset, Processes())
    return root


def losses(folder, steps=STEPS):
    events = accumulator.EventAccumulator(str(folder / "logs"))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name in ("train/loss", "train/grad_norm", "validation/loss")]
    found = {name: torch.tensor([event.value for event in events.Scalars(name)]) for name in names}
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, steps + 1))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["two", "two then one", "one then two"])
def test_losses_and_weights_are_those_of_one_process(runs, kind, name):
    expected, found = losses(runs / kind / "one"), losses(runs / kind / name)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)
    assert len(set(expected["train/loss"].tolist())) == STEPS
    assert ("validation/loss" in expected) == ("validation_share" in KINDS[kind])
    weights = load_model(load_checkpoint(runs / kind / name / f"checkpoint-{STEPS}")).state_dict()
    for key, weight in load_model(load_checkpoint(runs / kind / "one" / f"checkpoint-{STEPS}")).state_dict().items():
        torch.testing.assert_close(
            weights[key], weight, rtol=1e-3, atol=2e-4, msg=lambda text, key=key: f"{key} {text}"
        )


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_checkpoint_of_two_processes_is_one_that_a_policy_loads(runs, kind):
    folder = runs / kind / "two" / f"checkpoint-{STEPS}"
    assert Policy.from_checkpoint(folder, device="cpu").embodiment == make_embodiment()
    assert (folder / "optimizer" / ".metadata").exists() == (kind == "fsdp")
    assert sorted(path.name for path in folder.parent.glob("[!b]*")) == ["checkpoint-2", "checkpoint-4", "logs"]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two CUDA GPUs")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_gpus_with_graphs_have_the_losses_of_one(kind, dataset, tmp_path):
    steps = 8  # two plain ones, then the graph; after the sixth validation and saving between two graphed ones
    how = {**ALL_PARTS, **KINDS[kind], "batch_size": 4, "max_steps": steps, "save_steps": 6, "device": "cuda"}
    how |= {"bf16": False, "compile_blocks": False, "num_workers": 0, "learning_rate": 1e-4}
    one, two = (
        {"output": str(tmp_path / n), "weights": None, "stop_at": None, "settings": how} for n in ("one", "two")
    )
    train(one, dataset, Processes())
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"dataset": str(dataset.path), "runs": [two]}))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    code, output, errors = ended(launch(HERE / "launched_trainer.py", jobs, gpus="0,1", **pipes))
    assert code == 0, output + errors
    expected, found = losses(tmp_path / "one", steps), losses(tmp_path / "two", steps)
    torch.testing.assert_close(found["train/loss"], expected["train/loss"], rtol=5e-3, atol=1e-4)


class Intruder:
    def __reduce__(self):
        return print, ("code of the checkpoint runs",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Intruder()), "builtins.print does not belong into an index"),
        (b"cut", "the state to resume from is damaged"),
        (None, "cannot be read"),
    ],
    ids=["code", "cut", "missing"],
)
def test_a_damaged_or_hostile_optimizer_state_is_refused(content, message, runs, dataset, tmp_path, capsys):
    folder = tmp_path / "checkpoint-2"
    shutil.copytree(runs / "fsdp/two/checkpoint-2", folder)
    index = folder / "optimizer/.metadata"
    index.unlink()
    if content is not None:
        index.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        train(run_of(tmp_path, "fsdp", weights=folder), dataset, Processes())
    assert "code of the checkpoint" not in capsys.readouterr().out


def finetune(dataset, output, *words):
    """Start two processes of the command that train for long."""
    options = ["--dataset", dataset.path, "--output", output, "--variant", "n1_compact", "--device", "cpu"]
    size = [] if "--batch-size" in words else ["--batch-size", "2"]
    size += [] if "--num-workers" in words else ["--num-workers", "0"]
    steps = [*size, "--max-steps", "9999", "--save-steps", "2", "--log-every", "1"]
    words = ["-m", "gr00t_training.cli.finetune", *options, *steps, *words]
    return launch(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_a_step(process):
    """Wait until training has begun; returns what was printed."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("step "):
            return
    raise AssertionError("".join(seen))


def lines_of_the_command(errors):
    return [line for line in errors.splitlines() if line.startswith("gr00t_finetune")]


def workers(process):
    """Return the process ids of the processes that were started, by rank."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(item.split("=", 1) for item in (entry / "environ").read_text().split("\0") if "=" in item)
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ProcessLookupError):  # it has ended
            continue
        if parent == process.pid and "RANK" in variables:
            found[int(variables["RANK"])] = int(entry.name)
    return found


def descendants(pids):
    """Return the process ids of these processes and of those that they started, and so on."""
    found = set(pids)
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def assert_all_end(pids):
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "end of all processes")


def test_sigterm_to_the_launcher_saves_once_and_one_process_continues(dataset, tmp_path):
    process = finetune(dataset, tmp_path)
    wait_for_a_step(process)
    pids = workers(process)
    assert sorted(pids) == [0, 1]
    process.terminate()
    _, _, errors = ended(process)
    assert_all_end(pids.values())
    newest = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    expected = f"gr00t_finetune: interrupted at {newest.name}; --resume continues from it"
    assert lines_of_the_command(errors) == [expected], errors
    assert command.main(["--resume", "--output", str(tmp_path), "--max-steps", newest.name.rpartition("-")[2]]) == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_process_is_killed_the_other_ends_with_one_line(rank, dataset, tmp_path):
    process = finetune(dataset, tmp_path, "--num-workers", "1")
    wait_for_a_step(process)
    pids = workers(process)
    everything = descendants(pids.values())
    assert len(everything) >= 6  # the processes, their fork servers and workers
    os.kill(pids[rank], signal.SIGKILL)
    code, _, errors = ended(process)
    assert code != 0
    assert_all_end(everything)
    (line,) = lines_of_the_command(errors)
    assert "another process of this run ended without a message" in line, errors
    assert not list(tmp_path.glob(".checkpoint-*"))


def test_an_error_of_all_processes_is_one_line(dataset, tmp_path):
    process = finetune(dataset, tmp_path, "--batch-size", "3")
    code, output, errors = ended(process)
    assert code != 0
    assert not output
    (line,) = lines_of_the_command(errors)
    assert "batch_size 3 in 1 parts cannot be shared by 2 processes" in line


class Differing(Processes):
    size = 2

    def gather(self, value):
        return [value, {**value, "rows of the dataset": value["rows of the dataset"] + 1}]


def test_processes_with_other_files_are_refused():
    facts = {"settings": "a", "rows of the dataset": 15}
    with pytest.raises(ConfigError, match="process 1 of 2 differs from the first one in: rows of the dataset; give"):
        Differing().check_same(facts)
    Processes().check_same(facts)


def test_processes_without_an_address_are_told_how_to_start(monkeypatch, capsys, tmp_path):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert command.main(["--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the 2 processes of this run do not find each other" in line
    assert "start them with torchrun" in line


def test_wrong_options_are_explained_once(dataset, tmp_path):
    _, _, errors = ended(finetune(dataset, tmp_path, "--max-stepz", "3"))
    (line,) = lines_of_the_command(errors)
    assert "unknown argument '--max-stepz'" in line
