# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The training step and what makes it fast or small, each compared with the plain computation."""

import copy
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gr00t_test_support.builders import make_checkpoint, make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint  # noqa: E402
from gr00t_training.errors import Gr00tError  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.train.optimizer import load_optimizer, make_optimizer  # noqa: E402
from gr00t_training.train.planned_batch import BatchPlanner  # noqa: E402
from gr00t_training.train.settings import TrainerSettings  # noqa: E402
from gr00t_training.train.step import GraphedStep, TrainStep, change_blocks  # noqa: E402
from gr00t_training.train.transfer import on_device  # noqa: E402
from gr00t_training.train.weights import TrainedWeights  # noqa: E402
from gr00t_training.transforms.observation import observation_from_frames  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", EMBODIMENT))


@pytest.fixture
def model(checkpoint):
    torch.manual_seed(0)
    model = Gr00tModel(checkpoint.config)
    model.set_trainable()
    return model.train()


@pytest.fixture(scope="module")
def batches(checkpoint):
    """Two planned batches of two samples."""
    pipeline, rng = checkpoint.pipeline(), np.random.default_rng(0)
    horizon = pipeline.embodiment.action_horizon
    planner = BatchPlanner(pipeline, checkpoint.config, torch.float32)
    samples = []
    for frame in make_frames(EMBODIMENT, 4):
        observation = observation_from_frames([frame], EMBODIMENT, "lift the cube")
        action = {key: rng.normal(size=(horizon, v.dim)) for key, v in EMBODIMENT.action.items()}
        samples.append(pipeline.encode(observation, action, rng, training=True))
    return [planner(samples[:2]), planner(samples[2:])]


def make_step(model, kind=TrainStep, **options):
    settings = TrainerSettings(learning_rate=1e-3)
    return kind(model, make_optimizer(model, settings), max_grad_norm=settings.max_grad_norm, **options)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found, expected, tolerance=1e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_gradients_of_parts_are_averaged(model, batches):
    torch.manual_seed(1)
    losses, sums = [], {}
    for batch in batches:
        model.zero_grad()
        loss = model.planned_loss(batch.tensors, batch.plan)
        loss.backward()
        losses.append(loss.item())
        for name, gradient in gradients(model).items():
            sums[name] = sums.get(name, 0) + gradient / 2
    step = make_step(model)
    model.zero_grad()
    torch.manual_seed(1)
    found = step.forward_backward(batches)
    assert found.item() == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert_close(gradients(model), sums)
    assert losses[0] != losses[1]


def test_only_the_layers_of_the_robot_are_kept_and_the_loss_is_the_same(model, batches):
    whole, projector = copy.deepcopy(model), int(batches[0].tensors["embodiment_id"][0])
    weights = TrainedWeights(model, [projector], None)
    assert all(len(model.get_parameter(f"action_head.state_encoder.layer{i}.W")) == 1 for i in (1, 2))
    losses = []
    for each in (whole, model):
        torch.manual_seed(2)
        loss = each.planned_loss(batches[0].tensors, batches[0].plan)
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    expected = gradients(whole)
    for name, gradient in gradients(model).items():
        rows = expected[name][projector : projector + 1] if gradient.shape != expected[name].shape else expected[name]
        torch.testing.assert_close(gradient, rows, rtol=1e-4, atol=1e-6)
    assert_close(weights.whole({}), dict(whole.state_dict()), 0)
    with torch.no_grad():
        model.action_head.state_encoder.layer1.W.fill_(7.0)
    saved = weights.whole({})["action_head.state_encoder.layer1.W"]
    assert saved[projector].eq(7.0).all()
    changed = saved != whole.action_head.state_encoder.layer1.W
    assert changed.flatten(1).any(1).nonzero().flatten().tolist() == [projector]


def test_frozen_weights_are_saved_as_they_were_loaded(checkpoint):
    model = Gr00tModel(checkpoint.config)
    model.set_trainable(tune_visual=False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights = TrainedWeights(model, [0], torch.bfloat16)
    assert model.backbone.vision.post_layernorm.weight.dtype == torch.bfloat16
    assert model.action_head.dit.proj_out_1.weight.dtype == torch.float32
    saved = weights.whole({})
    assert_close(saved, before, 0)
    assert {weight.dtype for weight in saved.values()} == {torch.float32}


def test_a_loss_that_is_not_finite_changes_nothing_and_is_reported_with_its_step(model, batches):
    step = make_step(model)
    step([batches[0]])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    step.check(1)
    poisoned = batches[1].clone()
    poisoned.tensors["state"].fill_(math.nan)
    step([poisoned])
    assert_close(dict(model.state_dict()), before, 0)
    step([batches[0]])
    with pytest.raises(Gr00tError, match="step 12: loss is nan; lower learning_rate"):
        step.check(13)  # three steps were made: 11, 12 and 13


def test_averages_follow_the_weights(model, batches):
    step = make_step(model, ema_decay=0.75)
    expected = [p.detach().clone() for p in step._parameters]
    for _ in range(3):
        step([batches[0]])
        expected = [0.75 * old + 0.25 * p.detach() for old, p in zip(expected, step._parameters, strict=True)]
    for found, value in zip(step.averages, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("is_graphed", [True, False])
def test_activations_computed_twice_give_the_same_gradients(model, batches, is_graphed):
    for module in model.action_head.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    kept = copy.deepcopy(model)
    change_blocks(model, recomputes=True, is_graphed=is_graphed)
    recomputed = [block for block in model.blocks() if "forward" in vars(block)]
    backbone = set(model.backbone.modules())
    assert recomputed == [block for block in model.blocks() if block in backbone or not is_graphed]
    for each in (kept, model):
        torch.manual_seed(3)
        make_step(each).forward_backward([batches[0]])
    assert_close(gradients(model), gradients(kept))


def test_batches_of_one_layout_can_be_exchanged(batches):
    first, second = batches
    assert first.layout() == second.layout()
    target = first.clone()
    target.copy_from(second)
    assert target.tensors["state"].equal(second.tensors["state"])
    assert not first.tensors["state"].equal(second.tensors["state"])
    shorter = second.to(torch.device("cpu"))
    shorter.tensors["state"] = second.tensors["state"][:1]
    assert shorter.layout() != first.layout()


def test_the_optimizer_of_another_device_keeps_its_own_kernel(model, batches):
    step = make_step(model)
    step([batches[0]])
    state = copy.deepcopy(step.optimizer.state_dict())
    for group in state["param_groups"]:
        group.update(fused=True, capturable=True, lr=torch.tensor(5.0))
    load_optimizer(step.optimizer, state)
    assert [(g["fused"], g["capturable"], g["lr"]) for g in step.optimizer.param_groups] == [(None, False, 1e-3)] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
@pytest.mark.parametrize(
    ("num_parts", "delay", "changes"),
    [(1, 0, {}), (2, 0, {}), (1, 3, {}), (2, 0, {"recomputes": True}), (1, 0, {"recomputes": True, "compiles": True})],
    ids=["one part", "two parts", "delays", "recomputed", "recomputed, compiled"],
)
def test_the_graph_gives_the_losses_and_weights_of_plain_steps(checkpoint, batches, num_parts, delay, changes):
    found = {}
    for kind in (TrainStep, GraphedStep):
        torch.manual_seed(0)
        model = Gr00tModel(checkpoint.config)
        model.set_conditioning(rtc_max_delay=delay, state_dropout=0.0, has_mask_token=False)
        model.set_trainable()
        model.train().to("cuda")
        if kind is GraphedStep:
            change_blocks(model, **changes)
        torch.manual_seed(1)
        step = make_step(model, kind)
        losses = [step(batches[:num_parts]) for _ in range(8)]
        step.check(8)
        found[kind] = torch.stack(losses).cpu(), dict(model.state_dict())
    assert step.num_graphs == 1
    torch.testing.assert_close(found[GraphedStep][0], found[TrainStep][0], rtol=1e-4, atol=1e-5)
    for name, weight in found[TrainStep][1].items():
        torch.testing.assert_close(found[GraphedStep][1][name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
def test_a_fault_inside_the_graph_changes_nothing_and_is_reported(checkpoint, batches):
    model = Gr00tModel(checkpoint.config)
    model.set_trainable()
    step = make_step(model.train().to("cuda"), GraphedStep)
    for _ in range(4):
        step(batches[:1])
    assert step.num_graphs == 1
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    poisoned = batches[0].clone()
    poisoned.tensors["state"].fill_(math.nan)
    step([poisoned])
    assert_close(dict(model.state_dict()), before, 0)
    with pytest.raises(Gr00tError, match="step 5: loss is nan"):
        step.check(5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
def test_steps_on_the_device_are_those_of_the_host_in_order(batches):
    device = torch.device("cuda")
    pinned = [[batches[number % 2].pin_memory()] for number in range(40)]
    for number, parts in enumerate(on_device(pinned, device)):
        busy = torch.ones(2048, 2048, device=device)
        for _ in range(4):  # the next copy starts while this computes
            busy = busy @ busy * 0
        for name, tensor in parts[0].tensors.items():
            assert tensor.device.type == "cuda"
            assert torch.equal(tensor + busy[0, 0].to(tensor.dtype), batches[number % 2].tensors[name].to(device)), name


def test_steps_on_the_cpu_are_not_fetched_ahead(batches):
    fetched = []

    def steps():
        for number in range(3):
            fetched.append(number)
            yield [batches[0], batches[1]]

    for number, parts in enumerate(on_device(steps(), torch.device("cpu"))):
        assert fetched == list(range(number + 1))
        assert torch.equal(parts[1].tensors["action"], batches[1].tensors["action"])
