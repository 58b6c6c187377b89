# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
import math
import os
import platform
import re
import resource
import shutil
import sqlite3
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

from gr00t_test_support.builders import make_embodiment, record_episode  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint  # noqa: E402
from gr00t_training.checkpoint.training_run import read_training_run  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError, DatasetError, Gr00tError  # noqa: E402
from gr00t_training.judge.evaluate import evaluate, prepare_evaluation  # noqa: E402
from gr00t_training.judge.settings import EvaluationSettings  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.data.samples import Source, StepDataset  # noqa: E402
from gr00t_training.train.finetune import finetune, starting_trainer  # noqa: E402
from gr00t_training.train.optimizer import make_optimizer, schedule  # noqa: E402
from gr00t_training.train.run_folder import saved_checkpoints  # noqa: E402
from gr00t_training.train.run_log import _WaitClock  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, Shuffle, TrainerSettings  # noqa: E402
from gr00t_training.train.trackers import check_trackers  # noqa: E402
from gr00t_training.train.trainer import Trainer  # noqa: E402
from gr00t_training.types import KeyRef  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record_episode(tmp_path_factory.mktemp("dataset"), EMBODIMENT, 7)


def make_trainer(dataset, output_dir, *, weights=None, **changes):
    options = {"batch_size": 2, "max_steps": 6, "save_steps": 3, "device": "cpu", "seed": 1, **changes}
    settings = TrainerSettings(**options)
    if weights is None:
        checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
        torch.manual_seed(settings.seed)
        model = Gr00tModel(checkpoint.config)
    else:
        checkpoint = load_checkpoint(weights)
        model = load_model(checkpoint)
    return Trainer(settings, dataset, checkpoint, model, output_dir)


@pytest.mark.slow
def test_loss_decreases_on_one_batch(dataset):
    checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
    torch.manual_seed(0)
    model = Gr00tModel(checkpoint.config)
    model.set_trainable()
    samples = StepDataset([Source(dataset, checkpoint.pipeline())], seed=0)
    batch = samples.pipeline.collate([samples[(0, i)] for i in range(4)])
    noise, time = torch.randn(4, 16, 32), torch.rand(4)
    optimizer = make_optimizer(model, TrainerSettings(learning_rate=1e-3))
    losses = []
    for _ in range(25):
        loss = model.loss(batch, noise, time)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses


@pytest.mark.slow
def test_resumed_run_equals_the_whole_one_bit_by_bit(dataset, tmp_path):
    make_trainer(dataset, tmp_path / "whole").train()
    make_trainer(dataset, tmp_path / "parts").train(stop_at=3)
    assert [path.name for path in saved_checkpoints(tmp_path / "parts")] == ["checkpoint-3"]
    torch.manual_seed(99)  # whatever the new process did before
    half = tmp_path / "parts/checkpoint-3"
    resumed = make_trainer(dataset, tmp_path / "parts", weights=half)
    resumed.resume(half)
    assert resumed.train() == tmp_path / "parts/checkpoint-6"
    whole, parts = (load_model(load_checkpoint(tmp_path / name / "checkpoint-6")) for name in ("whole", "parts"))
    weights = parts.state_dict()
    for name, expected in whole.state_dict().items():
        assert torch.equal(weights[name], expected), name
    states = [torch.load(tmp_path / name / "checkpoint-6/trainer_state.pt") for name in ("whole", "parts")]
    assert states[0]["step"] == states[1]["step"] == 6
    assert torch.equal(states[0]["rng"], states[1]["rng"])
    moments = [state["optimizer"]["state"] for state in states]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])
    # the control: three further steps did change the weights
    before = load_model(load_checkpoint(half)).state_dict()
    assert any(not torch.equal(before[name], weights[name]) for name in weights)


@pytest.mark.slow
def test_checkpoints_are_whole_and_old_ones_go(dataset, tmp_path):
    path = make_trainer(dataset, tmp_path, max_steps=5, save_steps=1, keep_checkpoints=2).train()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-5", "logs"]
    assert path == tmp_path / "checkpoint-5"
    checkpoint = load_checkpoint(path)
    assert checkpoint.embodiment == EMBODIMENT
    assert (
        checkpoint.statistics["action"]["arm"].q99.tolist()
        == dataset.statistics(KeyRef.parse("action.arm")).q99.tolist()
    )
    assert json.loads((path / "trainer_settings.json").read_text())["batch_size"] == 2


def test_log_is_written(dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(dataset, tmp_path, max_steps=4, log_every=2, warmup_ratio=0.0).train()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [2, 4]
    assert all(math.isfinite(event.value) for event in losses)
    rates = [event.value for event in events.Scalars("train/learning_rate")]
    # steps 1 and 3 from zero: cosine at 1/4 and 3/4
    assert rates == pytest.approx([1e-4 * 0.5 * (1 + math.cos(math.pi * part)) for part in (0.25, 0.75)])
    assert all(0 <= event.value <= 1 for event in events.Scalars("train/data_wait"))


def test_progress_is_one_line_for_people_and_plain_lines_for_a_file(dataset, tmp_path, capsys):
    make_trainer(dataset, tmp_path, max_steps=2, log_every=1).train()
    first, last = capsys.readouterr().err.splitlines()
    figures = r"loss \d+\.\d{4}, lr [\d.e-]+, [\d.]+ samples/s, waits for data \d+%, [\d.]+ (s|min) left"
    assert re.fullmatch(rf"step 1/2: {figures}", first)
    assert re.fullmatch(rf"step 2/2: {figures}", last)
    assert last.endswith("0.0 s left")


def test_time_that_the_loader_takes_is_waiting_and_time_of_a_step_is_not(tmp_path):
    now = iter([0.0, 3.0, 10.0, 11.0])  # two batches take 3 s and 1 s
    clock = _WaitClock(torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gr00t_training.train.run_log.time.perf_counter", lambda: next(now))
        for _ in range(2):
            with clock:
                pass
            clock.step_is_queued()
    assert (clock.take(), clock.take()) == (4.0, 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
def test_a_busy_gpu_does_not_wait_for_data_however_long_the_loader_takes():
    clock, waits = _WaitClock(torch.device("cuda")), []
    for is_busy in (True, False):
        torch.cuda.synchronize()
        clock.step_is_queued()
        now = iter([0.0, 100.0])  # the next batch takes 100 s, as the host sees it
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gr00t_training.train.run_log.time.perf_counter", lambda now=now: next(now))
            if is_busy:
                torch.cuda._sleep(100_000_000)  # clocks of the GPU
                clock.step_is_queued()
            with clock:
                if not is_busy:
                    torch.cuda._sleep(100_000_000)  # stands for time that the GPU is not given work
        torch.cuda.synchronize()
        waits.append(clock.take())
    assert 0 <= waits[0] < waits[1] / 10


def test_figures_go_to_none_or_are_refused_where_a_tracker_is_missing(dataset, tmp_path, monkeypatch):
    make_trainer(dataset, tmp_path, max_steps=1, report_to=("none",)).train()
    assert not (tmp_path / "logs").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"report_to wandb: wandb is not installed .*; pip install wandb, or"):
        check_trackers(["tensorboard", "wandb"])
    with pytest.raises(ConfigError, match="report_to: 'wandbb' is unknown, expected one of tensorboard, wandb, "):
        check_trackers(["wandbb"])
    with pytest.raises(ConfigError, match="report_to: names nothing, expected one of tensorboard, wandb, "):
        check_trackers([])
    with pytest.raises(ConfigError, match="'none' is given with tensorboard"):
        check_trackers(["none", "tensorboard"])


def test_weights_and_biases_without_network_continues_its_run(dataset, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    make_trainer(dataset, tmp_path, max_steps=2, log_every=1, report_to=("wandb",)).train()
    name = (tmp_path / "logs/wandb_run.txt").read_text().strip()
    assert [file.name for file in tmp_path.glob("logs/wandb/offline-run-*/run-*.wandb")] == [f"run-{name}.wandb"]


def test_trackio_continues_its_run(tmp_path):
    pytest.importorskip("trackio")
    code = (
        "import sys; from pathlib import Path; from gr00t_training.train.trackers import open_trackers\n"
        "start = int(sys.argv[1])\n"
        "(tracker,) = open_trackers(['trackio'], Path('run/logs'), start=start, title='run', config={})\n"
        "tracker.log({'train/loss': 0.5}, start + 1)\n"
        "tracker.close()\n"
    )
    for start in ("0", "1"):  # a process each: the library reads its folder when it is imported
        environment = {**os.environ, "TRACKIO_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", code, start], cwd=tmp_path, env=environment, check=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "gr00t.db")) as database:
        found = database.execute("SELECT run_name, step FROM metrics ORDER BY step").fetchall()
    name = "run-" + (tmp_path / "run/logs/trackio_run.txt").read_text().strip()
    assert found == [(name, 1), (name, 2)]


def test_a_disk_without_room_keeps_the_last_checkpoint(dataset, tmp_path, monkeypatch):
    trainer = make_trainer(dataset, tmp_path, save_steps=1, keep_checkpoints=1)
    trainer.train(stop_at=1)
    saved = sum(file.stat().st_size for file in (tmp_path / "checkpoint-1").rglob("*"))
    assert 0.9 < trainer.checkpoint_bytes() / saved < 1.1
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr("gr00t_training.train.run_folder.shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(CheckpointError, match=r"a checkpoint needs .* MB, the disk has 1.0 kB free; make room or"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-1"]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written_keeps_the_last_one(dataset, tmp_path, share):
    make_trainer(dataset, tmp_path).train(stop_at=1)
    largest = max(file.stat().st_size for file in (tmp_path / "checkpoint-1").iterdir())
    trainer = make_trainer(dataset, tmp_path, weights=tmp_path / "checkpoint-1", report_to=("none",))
    trainer.resume(tmp_path / "checkpoint-1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * largest), before[1]))  # a write fails part way
    try:
        with pytest.raises(CheckpointError, match=r"checkpoint-2: cannot be written .*; check free space"):
            trainer.train(stop_at=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-1"]
    make_trainer(dataset, tmp_path, weights=tmp_path / "checkpoint-1").resume(tmp_path / "checkpoint-1")


def test_a_checkpoint_says_how_it_was_trained_also_after_a_resume(dataset, tmp_path):
    base = tmp_path / "base"
    make_trainer(dataset, base, max_steps=1).train()
    (base / "checkpoint-1/LICENSE").write_text("terms")
    options = {"weights": base / "checkpoint-1", "max_steps": 4, "log_every": 1}
    half = make_trainer(dataset, tmp_path / "run", **options).train(stop_at=2)
    resumed = make_trainer(dataset, tmp_path / "run", **{**options, "weights": half})
    resumed.resume(half)
    path = resumed.train()
    run = read_training_run(path)
    assert (run.base, run.step) == (str(base / "checkpoint-1"), 4)
    assert [step for step, _ in run.losses] == [1, 2, 3, 4]
    assert (path / "LICENSE").read_text() == "terms"
    versions = json.loads((path / "versions.json").read_text())
    assert versions["python"] == platform.python_version()
    card = (path / "README.md").read_text()
    assert f"| fine-tuned from | {base / 'checkpoint-1'} |" in card
    assert "| step | 1 | 2 | 3 | 4 |" in card
    assert f"gr00t serve {path}\n" in card
    assert "1 episodes, the last ones from `dataset" in card


def test_frozen_parts_stay(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, max_steps=2, tune_visual=False, tune_projector=False)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert moved
    assert moved <= trained
    assert not any(name.startswith(("backbone.vision", "backbone.language", "action_head.state")) for name in moved)


def test_groups_of_weight_decay(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, tune_llm=False)
    decayed, spared = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-5, 0.0)
    assert (decayed["betas"], decayed["eps"]) == ((0.95, 0.999), 1e-8)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    assert spared_names <= trainer.model.undecayed_names()
    assert "action_head.state_encoder.layer1.b" in {names[id(parameter)] for parameter in decayed["params"]}
    count = len(decayed["params"]) + len(spared["params"])
    assert count == sum(parameter.requires_grad for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (1, 0.5), (2, 1.0), (6, 0.5 * (1 + math.cos(math.pi / 2))), (10, 0.0)]
)
def test_schedule_by_hand(step, expected):
    assert schedule(step, 10, 0.2) == pytest.approx(expected)


def test_loss_that_is_not_finite_stops_the_run(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, save_steps=1)
    trainer.train(stop_at=1)
    with torch.no_grad():
        next(trainer.model.action_head.parameters()).fill_(math.nan)
    with pytest.raises(Gr00tError, match="step 2: loss is nan; lower learning_rate"):
        trainer.train()
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["checkpoint-1"]


def test_weights_that_are_not_finite_do_not_push_out_good_checkpoints(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path, save_steps=1, keep_checkpoints=1)
    trainer.train(stop_at=1)
    step = trainer._step.update

    def overflow(loss):
        result = step(loss)
        with torch.no_grad():
            next(p for p in trainer.model.parameters() if p.requires_grad).view(-1)[0] = math.inf
        return result

    trainer._step.update = overflow  # a step with finite loss and gradient
    with pytest.raises(Gr00tError, match=r"step 2: .* is not finite and is not saved"):
        trainer.train()
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["checkpoint-1"]


def test_a_run_that_is_asked_to_stop_saves_the_step_it_made(dataset, tmp_path):
    trainer = make_trainer(dataset, tmp_path)
    assert trainer.train(should_stop=lambda: trainer.step == 2) == tmp_path / "checkpoint-2"
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["checkpoint-2"]


def test_resume_of_another_run_is_refused(dataset, tmp_path):
    path = make_trainer(dataset, tmp_path).train(stop_at=1)
    other = make_trainer(dataset, tmp_path, weights=path, batch_size=3, tune_visual=False)
    with pytest.raises(ConfigError, match="batch_size: found 2, expected 3; tune_visual: found True, expected False"):
        other.resume(path)
    (path / "trainer_state.pt").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="no state to resume from"):
        make_trainer(dataset, tmp_path, weights=path).resume(path)


def test_dataset_of_another_robot_is_refused(data_dir, dataset, tmp_path):
    checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
    foreign = EpisodeDataset(data_dir / "lerobot_v21_reference")
    with pytest.raises(DatasetError, match="does not fit embodiment 'test_arm'"):
        Trainer(TrainerSettings(), foreign, checkpoint, Gr00tModel(checkpoint.config), tmp_path)


def test_unknown_device_is_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="device 'gpu7': not available"):
        make_trainer(dataset, tmp_path, device="gpu7")


@pytest.mark.slow
def test_finetune_and_evaluate_as_functions(dataset, tmp_path):
    quick = TrainerSettings(max_steps=3, batch_size=1, device="cpu", tune_llm=True)
    started = FinetuneSettings(output=tmp_path / "run", dataset=dataset.path, variant="n1_compact", trainer=quick)
    stopped = finetune(started, should_stop=lambda: True)
    assert (stopped.checkpoint, stopped.step, stopped.is_complete) == (tmp_path / "run/checkpoint-1", 1, False)
    assert math.isfinite(stopped.loss)
    resumed = FinetuneSettings(output=tmp_path / "run", resume=True)
    assert starting_trainer(resumed) == quick
    ended = finetune(resumed)
    assert (ended.checkpoint.name, ended.step, ended.is_complete) == ("checkpoint-3", 3, True)

    asked = {"checkpoint": ended.checkpoint, "dataset": dataset.path, "device": "cpu"}
    compared = {"episodes": ("0",), "steps": 2, "output": tmp_path / "errors", "baseline": stopped.checkpoint}
    result = evaluate(EvaluationSettings(**asked, **compared))
    assert [(found.episode, found.num_rows) for found in result.episodes] == [(0, 2)]
    assert result.plots == (tmp_path / "errors/episode_000000.png",)
    assert json.loads((tmp_path / "errors/evaluation.json").read_text()) == result.report
    assert result.page == tmp_path / "errors/report.html"
    assert [judgement.name for judgement in result.judgements] == [str(ended.checkpoint)]
    before = evaluate(EvaluationSettings(**{**asked, **compared, "checkpoint": stopped.checkpoint, "output": None}))
    base = result.judgements[0].baselines["base checkpoint"]
    assert base.relative == pytest.approx(before.judgements[0].errors.relative)
    assert base.relative != result.judgements[0].errors.relative
    trained = prepare_evaluation(EvaluationSettings(**asked)).trained  # all were: there are no others to choose
    assert trained == tuple(range(len(dataset.episodes)))
    plain = evaluate(EvaluationSettings(**asked, episodes=("0",), steps=1, tests=False))
    assert (plain.judgements, plain.page) == ((), None)


def test_settings_are_checked_where_they_are_made(tmp_path):
    with pytest.raises(ValueError, match="base_model and variant"):
        FinetuneSettings(output=tmp_path, base_model="a", variant="n1_compact")
    with pytest.raises(ValueError, match="batch_size is 0"):
        FinetuneSettings(output=tmp_path, trainer=TrainerSettings(batch_size=0))
    with pytest.raises(ValueError, match="steps is 0"):
        EvaluationSettings(checkpoint="a", dataset="b", steps=0)
    with pytest.raises(ValueError, match="pass one of --checkpoint and --server"):
        EvaluationSettings(dataset="b")
    with pytest.raises(ValueError, match="baseline needs the policy's statistics"):
        EvaluationSettings(server="a:1", dataset="b", baseline="c")
    with pytest.raises(ValueError, match="baseline is given and the tests are off"):
        EvaluationSettings(checkpoint="a", dataset="b", baseline="c", tests=False)
    assert starting_trainer(FinetuneSettings(output=tmp_path, variant="n1_compact")).tune_llm
    assert not starting_trainer(FinetuneSettings(output=tmp_path, base_model="a")).tune_llm


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"ema_decay": 0.9},
        {"num_workers": 2, "accumulate": 2, "ema_decay": 0.9},
        {"num_workers": 2, "shuffle": Shuffle.STREAMS},
    ],
    ids=["accumulate", "ema", "workers, accumulate and ema", "workers and streams"],
)
def test_resumed_run_equals_the_whole_one_bit_by_bit_with(dataset, tmp_path, options):
    options = {"max_steps": 4, "save_steps": 2, **options}
    whole = make_trainer(dataset, tmp_path / "whole", **options).train()
    half = make_trainer(dataset, tmp_path / "parts", **options).train(stop_at=2)
    torch.manual_seed(99)  # whatever the new process did before
    trainer = make_trainer(dataset, tmp_path / "parts", weights=half, **options)
    trainer.resume(half)
    found, expected = (load_model(load_checkpoint(path)).state_dict() for path in (trainer.train(), whole))
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def test_what_a_killed_run_left_behind_is_removed(dataset, tmp_path):
    for name in (".checkpoint-7.partial", ".checkpoint-3.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    make_trainer(dataset, tmp_path, max_steps=1).train()
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["checkpoint-1"]
