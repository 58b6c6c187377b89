# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation on held-out episodes, and the best checkpoint of a run."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint  # noqa: E402
from gr00t_training.checkpoint.training_data import episode_digest, read_training_data  # noqa: E402
from gr00t_training.cli.finetune import main  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import ConfigError  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.train.best import best_checkpoint, name_best  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.data.samples import Source  # noqa: E402
from gr00t_training.train.optimizer import make_optimizer  # noqa: E402
from gr00t_training.train.planned_batch import BatchPlanner  # noqa: E402
from gr00t_training.train.run_folder import saved_checkpoints  # noqa: E402
from gr00t_training.train.settings import TrainerSettings  # noqa: E402
from gr00t_training.train.step import GraphedStep  # noqa: E402
from gr00t_training.train.trainer import Trainer  # noqa: E402
from gr00t_training.train.validation import Validation, ValidationResult, spread  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()
LENGTH = 5


def write_dataset(root, num_episodes):
    with DatasetWriter(root, EMBODIMENT) as writer:
        for number in range(num_episodes):
            episode = writer.start_episode("lift")
            for frame in make_frames(EMBODIMENT, LENGTH, seed=number):
                episode.add_frame(frame)
            episode.save()
    return EpisodeDataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"), 3)


@pytest.fixture(scope="module")
def checkpoint(dataset):
    return new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))


def make_model(checkpoint, seed=0):
    torch.manual_seed(seed)
    return Gr00tModel(checkpoint.config)


def make_trainer(dataset, checkpoint, output_dir, **changes):
    options = {"batch_size": 2, "max_steps": 4, "save_steps": 4, "device": "cpu", "tune_llm": True, **changes}
    return Trainer(TrainerSettings(**options), dataset, checkpoint, make_model(checkpoint), output_dir)


def make_validation(dataset, checkpoint, **changes):
    source = Source(dataset, checkpoint.pipeline()).part([2])
    return Validation([source], **{"num_samples": 4, "batch_size": 3, "seed": 1, "denoising_steps": 2, **changes})


def assert_equal_weights(found, expected):
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize(
    ("size", "count", "expected"), [(9, 3, [1, 4, 7]), (2, 5, [0, 1]), (4, 4, [0, 1, 2, 3]), (5, 1, [2]), (0, 3, [])]
)
def test_samples_are_spread(size, count, expected):
    assert spread(size, count) == expected


def test_two_validations_of_the_same_weights_are_equal_and_leave_no_trace(dataset, checkpoint):
    model, validation = make_model(checkpoint).train(), make_validation(dataset, checkpoint)
    before, random_state = {name: w.clone() for name, w in model.state_dict().items()}, torch.get_rng_state()
    first = validation.run(model, 10)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert_equal_weights(model.state_dict(), before)
    torch.manual_seed(99)
    again = validation.run(model, 10)
    assert again == first == make_validation(dataset, checkpoint).run(make_model(checkpoint), 10)
    # the controls: other weights and other draws give other values
    assert validation.run(make_model(checkpoint, 5), 10).loss != first.loss
    assert make_validation(dataset, checkpoint, seed=2).run(model, 10).loss != first.loss


def test_the_loss_is_that_of_the_model_on_the_held_out_rows(dataset, checkpoint):
    model, pipeline = make_model(checkpoint).eval(), checkpoint.pipeline()
    found = make_validation(dataset, checkpoint, batch_size=4).run(model, 0).loss
    source = Source(dataset, pipeline)
    batch = pipeline.collate([pipeline.encode(*source.recorded(2 * LENGTH + row)) for row in spread(LENGTH, 4)])
    torch.manual_seed(1)
    noise = torch.randn_like(batch["action"])
    expected = model.loss(batch, noise, model.action_head.sample_time(4, torch.device("cpu")))
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_errors_are_in_the_units_of_the_robot_and_of_rows_of_the_episode_only(dataset, checkpoint, monkeypatch):
    model = make_model(checkpoint)
    monkeypatch.setattr(
        model, "loss_and_actions", lambda batch, *_: (torch.tensor(0.5), torch.zeros_like(batch["action"]))
    )
    result = make_validation(dataset, checkpoint, num_samples=2).run(model, 7)
    assert (result.step, result.loss) == (7, 0.5)
    for key in ("arm", "gripper"):
        statistics, recorded = checkpoint.statistics["action"][key], dataset.action(2, key)
        middle = (statistics.min + statistics.max) / 2  # zero in the model's units
        errors = np.concatenate([recorded[row:] - middle for row in spread(LENGTH, 2)])  # a chunk is longer than this
        assert result.errors[key].mae == pytest.approx(np.abs(errors).mean(), rel=1e-4)
        assert result.errors[key].mse == pytest.approx(np.square(errors).mean(), rel=1e-4)
    assert [error.unit for error in result.errors.values()] == ["rad", "m"]
    assert list(result.figures()) == [
        "validation/loss",
        *("validation/mse/arm", "validation/mae/arm", "validation/mse/gripper", "validation/mae/gripper"),
    ]


def test_who_stops_a_run_does_not_wait_for_a_validation(dataset, checkpoint, tmp_path):
    trainer = make_trainer(dataset, checkpoint, tmp_path, validate_every=1, batch_size=1, validation_episodes=("2",))
    asked = []

    def should_stop():
        asked.append(trainer.step)
        return len(asked) > 2  # after the first step and before the second batch of its validation

    assert trainer.train(should_stop=should_stop) == tmp_path / "checkpoint-2"
    assert asked == [1, 1, 1, 2]
    assert not (tmp_path / "checkpoint-2/validation.json").exists()


def test_averages_are_validated_in_the_place_of_the_weights(dataset, checkpoint):
    model, other, validation = make_model(checkpoint), make_model(checkpoint, 5), make_validation(dataset, checkpoint)
    weights = [p.data for p in model.parameters()]
    averages = [p.detach().clone() for p in other.parameters()]
    before = [w.clone() for w in weights], [a.clone() for a in averages]
    places = [w.data_ptr() for w in weights]
    found = validation.run(model, 0, averages=list(zip(weights, averages, strict=True)))
    assert found == validation.run(other, 0)
    assert all(torch.equal(a, b) for a, b in zip([*weights, *averages], [*before[0], *before[1]], strict=True))
    assert [p.data_ptr() for p in model.parameters()] == places


def test_sources_of_several_robots_are_told_apart(dataset, checkpoint):
    twin = dataclasses.replace(checkpoint, embodiment=dataclasses.replace(EMBODIMENT, name="twin"))
    sources = [Source(dataset, each.pipeline(), weight=weight) for each, weight in ((checkpoint, 3), (twin, 1))]
    validation = Validation(sources, num_samples=8, batch_size=4, seed=1, denoising_steps=1)
    assert [source for source, _ in validation._chosen].count(sources[0]) == 6
    assert set(validation.run(make_model(checkpoint), 0).errors) == {
        f"{name}/{key}" for name in ("test_arm", "twin") for key in ("arm", "gripper")
    }


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"accumulate": 2}], ids=["plain", "ema", "accumulate"])
def test_a_run_trains_the_same_with_and_without_validation(dataset, checkpoint, tmp_path, options):
    smaller = write_dataset(tmp_path / "smaller", 2)
    plain = make_trainer(smaller, checkpoint, tmp_path / "plain", **options).train()
    trainer = make_trainer(
        dataset, checkpoint, tmp_path / "validated", validation_episodes=("2",), validate_every=1, **options
    )
    validated = trainer.train()
    found, expected = (load_model(load_checkpoint(path)).state_dict() for path in (validated, plain))
    assert_equal_weights(found, expected)
    assert best_checkpoint(tmp_path / "validated").checkpoint == validated
    assert best_checkpoint(tmp_path / "plain") is None
    # the control: the checkpoint's own validation is that of its weights
    stored = json.loads((validated / "validation.json").read_text())
    model = load_model(load_checkpoint(validated))
    # as in the run: on some processors one layer and one of a table of layers are multiplied by different kernels
    model.action_head.keep_rows([checkpoint.pipeline().projector])
    again = make_validation(
        dataset, checkpoint, num_samples=128, batch_size=2 // trainer.settings.accumulate, seed=42, denoising_steps=4
    ).run(model, 4)
    assert stored == json.loads(json.dumps(again.to_mapping()))


@pytest.mark.slow
def test_the_log_has_every_validation_and_held_out_episodes_are_not_called_trained(
    dataset, checkpoint, tmp_path, capsys
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(dataset, checkpoint, tmp_path, validation_share=0.3, validate_every=2, save_steps=3)
    (held_out,) = trainer.held_out
    (chosen,) = held_out.episodes()
    path = trainer.train()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("validation/loss")]
    assert [step for step, _ in found] == [2, 3, 4]
    assert len(events.Scalars("validation/mae/arm")) == 3
    printed = [line for line in capsys.readouterr().err.splitlines() if "validation loss" in line]
    assert [line.split(":")[0] for line in printed] == ["step 2", "step 3", "step 4"]
    trained = read_training_data(path)
    known = {episode: episode_digest(dataset, episode, EMBODIMENT.action_keys) for episode in range(3)}
    assert sorted(trained.episodes) == sorted(digest for episode, digest in known.items() if episode != chosen)


def results(losses):
    """Give a trainer validations of these losses."""
    values = iter(losses)
    return lambda model, step, **_: ValidationResult(step, next(values), {})


@pytest.mark.slow
def test_the_best_checkpoint_stays(dataset, checkpoint, tmp_path):
    options = {"validation_episodes": ("2",), "save_steps": 1, "keep_checkpoints": 1, "max_steps": 5}
    trainer = make_trainer(dataset, checkpoint, tmp_path, **options)
    trainer._validation.run = results([3.0, 1.0, 2.0, math.nan])
    trainer.train(stop_at=3)
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-3"]
    named = json.loads((tmp_path / "best.json").read_text())
    assert named == {"checkpoint": "checkpoint-2", "step": 2, "validation_loss": 1.0}
    trainer.train(stop_at=4)
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4"]
    # a run that is asked to stop does not validate; the next one continues with the same best
    resumed = make_trainer(dataset, checkpoint, tmp_path, **options)
    resumed.resume(tmp_path / "checkpoint-4")
    resumed._validation.run = results([])
    resumed.train(should_stop=lambda: True)
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-5"]
    assert not (tmp_path / "checkpoint-5/validation.json").exists()


def test_the_best_checkpoint_is_known_after_a_kill(tmp_path):
    for step, content in ((1, '{"step": 1, "loss": 0.5}'), (2, '{"step": 2, "loss": 0.25}'), (3, "{"), (4, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if content:
            (tmp_path / f"checkpoint-{step}/validation.json").write_text(content)
    (tmp_path / "best.json").write_text('{"checkpoint": "checkpoint-1"}')  # killed before the new one was named
    (tmp_path / "best.json.part").write_text("{")
    best = best_checkpoint(tmp_path)
    assert (best.checkpoint.name, best.step, best.loss) == ("checkpoint-2", 2, 0.25)
    assert name_best(tmp_path) == best
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "checkpoint-2"
    assert not (tmp_path / "best.json.part").exists()


@pytest.mark.slow
def test_another_choice_of_episodes_is_another_run(dataset, checkpoint, tmp_path):
    path = make_trainer(dataset, checkpoint, tmp_path, validation_episodes=("2",)).train(stop_at=1)
    other = make_trainer(dataset, checkpoint, tmp_path, validation_episodes=("1",))
    with pytest.raises(ConfigError, match=r"validation_episodes: found \('2',\), expected \('1',\)"):
        other.resume(path)


@pytest.mark.slow
def test_the_command_says_what_is_held_out_and_which_checkpoint_is_best(dataset, tmp_path, capsys):
    run = [f"--output={tmp_path / 'run'}", "--max-steps=2", "--batch-size=1", "--device=cpu", "--num-workers=0"]
    run += ["--variant=n1_compact", "--validation-episodes", "0", "--save-steps=1"]
    assert main([f"--dataset={dataset.path}", *run]) == 0
    printed = capsys.readouterr().out
    assert f"validation  1 episodes (0), {LENGTH} rows held out" in printed
    best = best_checkpoint(tmp_path / "run")
    assert f"best {best.checkpoint} (validation loss {best.loss:.4f})" in printed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
def test_validation_between_graphed_steps_leaves_no_trace(dataset, checkpoint):
    source, found, results = Source(dataset, checkpoint.pipeline()), {}, []
    batch = BatchPlanner(source.pipeline, checkpoint.config, torch.float32)(
        [source.pipeline.encode(*source.recorded(row)) for row in range(2)]
    )
    for validates in (False, True):
        model = make_model(checkpoint)
        model.set_trainable()
        model.train().to("cuda")
        optimizer = make_optimizer(model, TrainerSettings(learning_rate=1e-3))
        torch.manual_seed(1)
        step = GraphedStep(model, optimizer, max_grad_norm=1.0, autocast=torch.bfloat16, ema_decay=0.9)
        losses, validation = [], make_validation(dataset, checkpoint)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        pairs = list(zip(trained, step.averages, strict=True))
        for number in range(8):  # plain steps, then the graph
            losses.append(step([batch])[0])
            if validates:
                results.append(validation.run(model, number, autocast=torch.bfloat16, averages=pairs))
        step.check(8)
        assert step.num_graphs == 1
        found[validates] = torch.stack(losses).cpu(), dict(model.state_dict())
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-3, atol=1e-4)
    for name, weight in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], weight, rtol=1e-2, atol=1e-3)
    again = validation.run(model, 7, autocast=torch.bfloat16, averages=pairs)
    assert again.loss == pytest.approx(results[-1].loss, rel=1e-3)
    assert results[0].loss != results[-1].loss
