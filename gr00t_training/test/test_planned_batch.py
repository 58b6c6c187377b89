# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A sample trains as it is computed alone, whatever the prompts beside it; a robot asks alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from test_inference import FAMILIES, make_batch, make_model, small  # noqa: E402

from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.model.plan import make_plan  # noqa: E402

GRIDS = [(4, 6), (8, 4)]
PADDING = 3
torch.set_num_threads(1)


@pytest.fixture(params=FAMILIES)
def model(request):
    return make_model(small(request.param), "cpu")


def batch_of(model: Gr00tModel, padding: int) -> dict:
    """Return two samples with actions; the first prompt is padded."""
    batch, head = make_batch(model.config, GRIDS, 2, padding), model.config.action_head
    generator = torch.Generator().manual_seed(3)
    shape = (2, head.action_horizon, head.action_dim)
    actions = {name: torch.randn(shape, generator=generator) for name in ("action", "noise")}
    return batch | actions | {"action_mask": torch.ones(shape), "time": torch.tensor([0.3, 0.6])}


def alone(batch: dict, sample: int) -> dict:
    """Return one sample without its padding."""
    found = {name: value[sample : sample + 1] for name, value in batch.items() if name not in ("pixel_values",)}
    is_token = found["attention_mask"][0].bool()
    found |= {name: found[name][:, is_token] for name in ("input_ids", "attention_mask")}
    if "image_grid" in batch:
        found["image_grid"] = batch["image_grid"][: len(GRIDS)]
    found["pixel_values"] = batch["pixel_values"].chunk(2)[sample]
    return found


def loss(model: Gr00tModel, batch: dict, *, hides_padding: bool) -> torch.Tensor:
    plan = make_plan(model.config, batch, torch.device("cpu"), model.dtype, hides_padding=hides_padding)
    drops = torch.zeros(len(batch["state"]), dtype=torch.bool)
    return model.planned_loss(batch, plan, batch["noise"], batch["time"], drops, None)


def gradients(model: Gr00tModel, value: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    value.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_loss_and_gradients_are_those_of_the_samples_alone(model):
    batch = batch_of(model, PADDING)
    separate = [loss(model, alone(batch, sample), hides_padding=True) for sample in (0, 1)]
    expected = sum(separate) / 2
    found = loss(model, batch, hides_padding=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    right = gradients(model, expected)
    for name, gradient in gradients(model, found).items():
        torch.testing.assert_close(gradient, right[name], rtol=1e-3, atol=1e-5 * float(right[name].abs().max() + 1))


@pytest.mark.parametrize("name", ["n1_2b", "n1_5_3b", "n1_7_3b"])
def test_the_releases_attend_to_padding(name):
    """So hiding it matters."""
    model = make_model(small(name), "cpu")
    batch = batch_of(model, PADDING)
    with torch.no_grad():
        change = loss(model, batch, hides_padding=True) - loss(model, batch, hides_padding=False)
    assert abs(change.item()) > 1e-4


def test_a_batch_without_padding_has_no_mask(model):
    plan = make_plan(model.config, batch_of(model, 0), torch.device("cpu"), model.dtype, hides_padding=True)
    assert plan.token_mask is None
