# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from gr00t_test_support.builders import make_embodiment
from gr00t_training.checkpoint import Checkpoint, new_checkpoint, save_checkpoint
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, Rotation, VectorKey
from gr00t_training.errors import CheckpointError, ConfigError, ObservationError
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.policy.policy import Policy
from gr00t_training.types import ActionChunk, Observation


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def make_checkpoint(embodiment: Embodiment) -> Checkpoint:
    """Actions of the arm are in 10..14, those of the gripper in 0..1; states in -2..2."""

    def spread(low: float, high: float, dim: int) -> KeyStatistics:
        return KeyStatistics(*(np.full(dim, value) for value in (low, high, (low + high) / 2, 1.0, low, high)))

    statistics = {
        "state": {name: spread(-2, 2, key.dim) for name, key in embodiment.state.items()},
        "action": {"arm": spread(10, 14, 3), "gripper": spread(0, 1, 1)},
    }
    return new_checkpoint("n1_compact", embodiment, statistics)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return make_checkpoint(make_embodiment(fps=30))


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Gr00tModel:
    torch.manual_seed(0)
    return Gr00tModel(checkpoint.config)


@pytest.fixture
def policy(checkpoint: Checkpoint, model: Gr00tModel) -> Policy:
    return Policy(checkpoint, model, seed=7)


def make_observation(text: str = "lift the cube", level: int = 90) -> Observation:
    return Observation(
        {"front": np.full((1, 32, 48, 3), level, np.uint8)},
        {"arm": np.full((1, 3), 0.5), "gripper": np.zeros((1, 1))},
        text,
        stamp_ns=1_000,
    )


def assert_same(first: ActionChunk, second: ActionChunk) -> None:
    for key in first.actions:
        np.testing.assert_array_equal(first.actions[key], second.actions[key])


def test_a_chunk_is_in_robot_units(policy: Policy, model: Gr00tModel):
    chunk = policy.infer(make_observation())
    assert {key: values.shape for key, values in chunk.actions.items()} == {"arm": (16, 3), "gripper": (16, 1)}
    assert all(values.dtype == np.float64 for values in chunk.actions.values())
    assert (chunk.start_ns, chunk.step_ns, chunk.horizon) == (1_000, 33_333_333, 16)
    batch = policy.pipeline.collate([policy.pipeline.encode(make_observation())])
    noise = torch.randn((1, 16, 32), generator=torch.Generator().manual_seed(7))
    normalized = model.sample_actions(batch, noise, 4)[0].double().numpy()  # by hand: y -> (y + 1) / 2 * range + min
    np.testing.assert_allclose(chunk.actions["arm"], (normalized[:, :3] + 1) / 2 * 4 + 10, atol=1e-5)
    np.testing.assert_allclose(chunk.actions["gripper"], (normalized[:, 3:4] + 1) / 2, atol=1e-5)


def test_a_seed_makes_an_episode_repeatable(policy: Policy, checkpoint: Checkpoint, model: Gr00tModel):
    first, second = policy.infer(make_observation()), policy.infer(make_observation())
    assert not np.array_equal(first.actions["arm"], second.actions["arm"])  # fresh noise
    policy.reset()
    assert_same(policy.infer(make_observation()), first)
    assert_same(Policy(checkpoint, model, seed=7).infer(make_observation()), first)
    unseeded = [Policy(checkpoint, model).infer(make_observation()) for _ in range(2)]
    assert not np.array_equal(unseeded[0].actions["arm"], unseeded[1].actions["arm"])


def test_warming_up_uses_no_noise_and_needs_no_observation(policy: Policy):
    cold = policy.infer(make_observation())
    policy.reset()
    policy.warm_up()
    assert_same(policy.infer(make_observation()), cold)


def test_warming_up_gives_rotations_a_valid_value(monkeypatch: pytest.MonkeyPatch):
    turned = VectorKey(names=("w", "x", "y", "z"), rotation=Rotation.QUATERNION, target_rotation=Rotation.ROTATION_6D)
    checkpoint = make_checkpoint(replace(make_embodiment(), state={"pose": turned}))
    policy, seen = Policy(checkpoint, Gr00tModel(checkpoint.config)), []
    infer = policy.infer
    monkeypatch.setattr(policy, "infer", lambda observation: seen.append(observation) or infer(observation))
    policy.warm_up()
    (observation,) = seen
    np.testing.assert_allclose(np.linalg.norm(observation.state["pose"], axis=-1), 1.0)


@pytest.mark.parametrize(
    "texts",
    [("lift the cube",) * 3, ("lift", "lift the cube and put it down", "lift"), ("lift the cube", "lift", "put it")],
)
def test_a_batch_answers_like_its_observations_alone(policy: Policy, texts: tuple[str, ...]):
    """Also where the instructions differ in length: the model attends to padding."""
    levels = (40, 200, 90)
    observations = [make_observation(text, level) for text, level in zip(texts, levels, strict=True)]
    alone = [policy.infer(observation) for observation in observations]
    policy.reset()
    together = policy.infer_batch(observations)
    for one, other in zip(alone, together, strict=True):
        for key in one.actions:
            np.testing.assert_allclose(one.actions[key], other.actions[key], atol=1e-4)


def test_image_state_and_instruction_reach_the_actions(policy: Policy):
    base = make_observation()
    changed = [
        replace(base, images={"front": np.full((1, 32, 48, 3), 200, np.uint8)}),
        replace(base, state={**base.state, "arm": np.full((1, 3), -0.5)}),
        replace(base, instruction="open the drawer"),
    ]
    policy.reset()
    reference = policy.infer(base).actions["arm"]
    for observation in changed:
        policy.reset()
        assert np.abs(policy.infer(observation).actions["arm"] - reference).max() > 1e-4


def test_denoising_steps(policy: Policy, checkpoint: Checkpoint, model: Gr00tModel):
    assert policy.denoising_steps == 4
    many = Policy(checkpoint, model, seed=7, denoising_steps=8)
    assert not np.array_equal(
        many.infer(make_observation()).actions["arm"], policy.infer(make_observation()).actions["arm"]
    )
    with pytest.raises(ConfigError, match="denoising_steps is 0"):
        Policy(checkpoint, model, denoising_steps=0)


def test_a_saved_policy_answers_the_same(tmp_path: Path, policy: Policy, checkpoint: Checkpoint, model: Gr00tModel):
    path = save_checkpoint(tmp_path / "run", checkpoint, model)
    loaded = Policy.from_checkpoint(path, embodiment=make_embodiment(fps=30), device="cpu", seed=7)
    assert loaded.embodiment == policy.embodiment
    assert_same(loaded.infer(make_observation()), policy.infer(make_observation()))
    with pytest.raises(CheckpointError, match="fps: found 30, expected 20"):
        Policy.from_checkpoint(path, embodiment=make_embodiment(fps=20), device="cpu")


def test_malformed_observations_are_refused(policy: Policy):
    with pytest.raises(ObservationError, match=r"video\.front: missing"):
        policy.infer(replace(make_observation(), images={}))
    with pytest.raises(ObservationError, match=r"state\.arm: .*not finite"):
        policy.infer(replace(make_observation(), state={"arm": np.full((1, 3), np.inf), "gripper": np.zeros((1, 1))}))


def test_unknown_devices_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="device 'toaster'"):
        Policy.from_checkpoint(tmp_path, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA GPU found"):
            Policy.from_checkpoint(tmp_path, device="cuda")
