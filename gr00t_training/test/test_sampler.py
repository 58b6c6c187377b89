# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""From noise to actions: integration, and the continuation of an earlier chunk, by hand and on small models."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

import torch
from reference_release import load_batch, load_packed, load_tiny
from torch import Tensor

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.model.gr00t import Gr00tModel, Inpainting
from gr00t_training.model.sampler import guidance_weight, integrate

FAMILIES = ("n1_tiny", "n1_5_tiny", "n1_6_tiny", "n1_7_tiny", "n1_7_tiny_variant")
OVERLAP, FROZEN = 8, 3


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def row(*values: float) -> Tensor:
    """Return actions of one sample with one channel."""
    return torch.tensor(values)[None, :, None]


def test_steps_add_up_to_the_integral():
    """Velocities 1, 2, 3, 4 at four steps: 2.5 on average."""
    found = integrate(lambda actions, step: torch.full_like(actions, step + 1), row(0.5, -1.0), 4)
    assert found.flatten().tolist() == [3.0, 1.5]


def test_rows_follow_the_velocity_the_less_the_sooner_they_are_due():
    """Two of four rows frozen: the ramp's inner points are at 1/3 and 2/3."""
    earlier = Inpainting(row(10, 20, 30, 40), 2, ramp_rate=6.0)
    inner = [(1 - math.exp(-6 * u)) / (1 - math.exp(-6)) for u in (1 / 3, 2 / 3)]
    strength = earlier.strength(6).flatten().tolist()
    assert strength == pytest.approx([0, 0, *inner, 1, 1], abs=1e-6)
    found = integrate(lambda actions, _step: torch.ones_like(actions), torch.zeros(1, 6, 1), 4, earlier)
    expected = [10, 20, 30 + inner[0], 40 + inner[1], 1, 1]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_all_overlapping_rows_may_be_frozen():
    assert Inpainting(row(1, 2), 2).strength(3).flatten().tolist() == [0, 0, 1]
    assert Inpainting(row(1, 2), 2, guidance=5.0).pull(3).flatten().tolist() == [1, 1, 0]


def test_the_pull_fades_with_the_distance_to_the_frozen_rows():
    """Two rows frozen, six of ten overlap: shares 4/5, 3/5, 2/5, 1/5, bent by c (e^c - 1) / (e - 1)."""
    pull = Inpainting(torch.zeros(1, 6, 1), 2, guidance=5.0).pull(10).flatten().tolist()
    bent = [c * (math.exp(c) - 1) / (math.e - 1) for c in (0.8, 0.6, 0.4, 0.2)]
    assert pull == pytest.approx([1, 1, *bent, 0, 0, 0, 0])


@pytest.mark.parametrize(("time", "weight"), [(0.0, 5.0), (0.1, 5.0), (0.25, 10 / 3), (0.5, 2.0), (0.75, 10 / 3)])
def test_the_guidance_is_limited_where_it_would_not_end(time: float, weight: float):
    """(t^2 + (1 - t)^2) / (t (1 - t)): 9.1 at 0.1, at 0.25 (1/16 + 9/16) / (3/16)."""
    assert guidance_weight(time, 5.0) == pytest.approx(weight)


def test_guidance_adds_the_gradient_by_hand():
    """Velocity a x: the actions it leads to are x (1 + (1 - t) a), and so is their derivative."""
    a, limit, earlier, noise = 0.5, 1.5, (1.0, -2.0, 3.0), (0.2, 0.4, -0.6, 0.8)
    inpainting = Inpainting(row(*earlier), 1, guidance=limit)
    found = integrate(lambda actions, _step: a * actions, row(*noise), 2, inpainting)
    weights = inpainting.pull(4).flatten().tolist()
    expected = []
    for x, weight, goal in zip(noise, weights, (*earlier, 0.0), strict=True):
        for time, strength in ((0.0, 1.5), (0.5, 1.5)):  # 2 at 0.5, limited
            slope = 1 + (1 - time) * a
            x += (a * x + strength * slope * weight * (goal - slope * x)) / 2
        expected.append(x)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert found[0, 3, 0] == pytest.approx(0.8 * 1.25**2)  # behind the overlap nothing pulls


def test_guidance_of_a_field_that_couples_rows_moves_the_rows_behind():
    """Velocity of each row is the mean of all: the pull on row 0 goes through the derivative to row 1."""

    def velocity(actions: Tensor, _step: int) -> Tensor:
        return actions.mean(1, keepdim=True).expand_as(actions)

    found = integrate(velocity, row(0.0, 0.0), 1, Inpainting(row(1.0), 1, guidance=2.0))
    # estimate 0, error (1, 0); derivative of estimate 0 after (x0, x1): (3/2, 1/2)
    assert found.flatten().tolist() == pytest.approx([3.0, 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frozen_steps": 3}, "frozen_steps is 3, expected 0 to the 2 rows"),
        ({"frozen_steps": -1}, "frozen_steps is -1"),
        ({"frozen_steps": 1, "ramp_rate": 0.0}, "ramp_rate is 0.0, expected a positive number"),
        ({"frozen_steps": 1, "guidance": -1.0}, "guidance is -1.0, expected 0 or more"),
    ],
)
def test_impossible_continuations_are_refused(arguments: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Inpainting(torch.zeros(1, 2, 1), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 4, 3), (1, 4, 2), (1, 9, 3)])
def test_a_chunk_that_does_not_fit_is_refused(shape: tuple[int, int, int]):
    with pytest.raises(ValueError, match=r"inpainting: actions of shape .*, expected \(1, up to 8, 3\)"):
        integrate(lambda actions, _step: actions, torch.zeros(1, 8, 3), 2, Inpainting(torch.zeros(shape), 0))


def make_case(fixtures_dir: ReferenceFiles, name: str) -> tuple[Gr00tModel, dict[str, Tensor], Tensor, Tensor]:
    """Return a model of the fixture's sizes, its batch, an earlier chunk and noise for the next.

    N1 and N1.5 get fresh weights: with those of their fixtures, any small change grows a hundredfold over the steps.
    """
    model, folder = load_tiny(fixtures_dir / name), fixtures_dir / name
    if model.config.backbone.is_packed:
        batch = load_packed(folder)
    else:
        torch.manual_seed(0)
        model, batch = Gr00tModel(model.config).eval(), load_batch(folder, "batch")
    head = model.config.action_head
    generator = torch.Generator().manual_seed(0)
    shape = (2, len(batch["state"]), head.action_horizon, head.action_dim)
    before, noise = torch.randn(shape, generator=generator)
    return model, batch, model.sample_actions(batch, before), noise


@pytest.mark.parametrize("name", FAMILIES)
def test_guidance_draws_the_overlap_to_the_earlier_chunk(fixtures_dir: ReferenceFiles, name: str):
    model, batch, earlier, noise = make_case(fixtures_dir, name)
    free = model.sample_actions(batch, noise)
    weights = [parameter.requires_grad for parameter in model.parameters()]
    guided = model.sample_actions(batch, noise, inpainting=Inpainting(earlier[:, :OVERLAP], FROZEN, guidance=5.0))

    def distance(chunk: Tensor, start: int, stop: int) -> float:
        return float((chunk - earlier)[:, start:stop].norm())

    assert distance(guided, 0, FROZEN) < 0.05 * distance(free, 0, FROZEN)
    assert distance(guided, FROZEN, OVERLAP) < 0.8 * distance(free, FROZEN, OVERLAP)
    assert (guided - free)[:, OVERLAP:].norm() < 0.2 * free[:, OVERLAP:].norm()
    assert not guided.requires_grad
    assert weights == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    none = model.sample_actions(batch, noise, inpainting=Inpainting(earlier[:, :OVERLAP], FROZEN, guidance=0.0))
    torch.testing.assert_close(none, free)


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_rows_come_back_as_they_were(fixtures_dir: ReferenceFiles, name: str):
    model, batch, earlier, noise = make_case(fixtures_dir, name)
    found = model.sample_actions(batch, noise, inpainting=Inpainting(earlier[:, :OVERLAP], FROZEN))
    assert torch.equal(found[:, :FROZEN], earlier[:, :FROZEN])
    assert not torch.equal(found[:, FROZEN:OVERLAP], earlier[:, FROZEN:OVERLAP])
    with pytest.raises(ValueError, match="inpainting: actions of shape"):
        model.sample_actions(batch, noise, inpainting=Inpainting(earlier[:, :OVERLAP, :3], FROZEN))
