# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint  # noqa: E402
from gr00t_training.dataset.reader import LeRobotDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError, DatasetError, Gr00tError  # noqa: E402
from gr00t_training.loader import StepDataset, dataset_statistics  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.testing import make_embodiment, make_frames  # noqa: E402
from gr00t_training.trainer import Trainer, TrainerSettings, make_optimizer, saved_checkpoints, schedule  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    with DatasetWriter(root, EMBODIMENT) as writer:
        episode = writer.start_episode("lift the cube")
        for frame in make_frames(EMBODIMENT, 7):
            episode.add_frame(frame)
        episode.save()
    return LeRobotDataset(root)


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


def test_loss_decreases_on_one_batch(dataset):
    checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
    torch.manual_seed(0)
    model = Gr00tModel(checkpoint.config)
    model.set_trainable()
    samples = StepDataset(dataset, checkpoint.pipeline(), seed=0)
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


def test_checkpoints_are_whole_and_old_ones_go(dataset, tmp_path):
    path = make_trainer(dataset, tmp_path, max_steps=5, save_steps=1, keep_checkpoints=2).train()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-5", "logs"]
    assert path == tmp_path / "checkpoint-5"
    checkpoint = load_checkpoint(path)
    assert checkpoint.embodiment == EMBODIMENT
    assert checkpoint.statistics["action"]["arm"].q99.tolist() == dataset.statistics("action", "arm").q99.tolist()
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
    foreign = LeRobotDataset(data_dir / "lerobot_v21_reference")
    with pytest.raises(DatasetError, match="does not fit embodiment 'test_arm'"):
        Trainer(TrainerSettings(), foreign, checkpoint, Gr00tModel(checkpoint.config), tmp_path)


def test_unknown_device_is_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="device 'gpu7': not available"):
        make_trainer(dataset, tmp_path, device="gpu7")
