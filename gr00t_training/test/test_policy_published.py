# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A published folder and an embodiment tag, nothing else, give the actions of the release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.numpy import load_file

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.errors import CheckpointError, ConfigError, ObservationError
from gr00t_training.policy.policy import Policy
from gr00t_training.types import ActionChunk, Continuation, Observation

torch.set_num_threads(1)

# What the fixture's images went through: its always-pad code equals the published flag for square images only.
SAMPLES = [("n1_7_tiny", 1), ("n1_6_tiny", 0), ("n1_7_tiny_variant", 1)]


def load(folder: Path, sample: int) -> tuple[Policy, Observation, dict]:
    """Return policy, observation and all expected values of a fixture's sample."""
    described = json.loads((folder / "meta.json").read_text())["samples"][sample]
    raw = load_file(folder / "raw_samples.safetensors")
    start = f"s{sample}."
    images, state = (
        {key.removeprefix(start + kind): value for key, value in raw.items() if key.startswith(start + kind)}
        for kind in ("video.", "state.")
    )
    policy = Policy.from_checkpoint(folder, described["embodiment_tag"], device="cpu")
    observation = Observation(images, {k: v.astype(np.float64) for k, v in state.items()}, described["instruction"])
    expected = {**load_file(folder / "expected.safetensors"), **load_file(folder / "noise.safetensors")}
    return policy, observation, expected


@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_actions_of_a_published_folder(name: str, sample: int, fixtures_dir: ReferenceFiles):
    policy, observation, expected = load(fixtures_dir / name, sample)
    noise = expected["inference_noise"][sample : sample + 1]
    found = policy.infer_batch([observation], noise=noise)[0]
    wanted = policy.pipeline.decode(torch.from_numpy(expected[f"single.{sample}.action_pred"][0]), observation)
    assert list(found.actions) == list(wanted)
    for key, rows in wanted.items():
        scale = max(1.0, np.abs(rows).max())
        np.testing.assert_allclose(found.actions[key], rows, atol=2e-4 * scale, err_msg=key)


def test_history_and_horizon_come_from_the_checkpoint(fixtures_dir: ReferenceFiles):
    policy, observation, _ = load(fixtures_dir / "n1_7_tiny", 0)
    assert policy.embodiment.video_history == (-3, 0)
    chunk = policy.infer(observation)
    assert {key: rows.shape for key, rows in chunk.actions.items()} == {
        "eef_9d": (12, 9),
        "gripper_position": (12, 1),
        "joint_position": (12, 7),
    }
    only_newest = {key: frames[-1:] for key, frames in observation.images.items()}
    with pytest.raises(ObservationError, match=r"exterior_image_1_left.*\(1, 48, 80, 3\).*2"):
        policy.infer(Observation(only_newest, observation.state, observation.instruction))


def test_warming_up_needs_no_observation(fixtures_dir: ReferenceFiles):
    """Also where a state is a pose, which zeros are not."""
    policy, observation, _ = load(fixtures_dir / "n1_7_tiny", 0)
    policy.reset()
    cold = policy.infer(observation)
    policy.reset()
    policy.warm_up("some task")
    np.testing.assert_array_equal(policy.infer(observation).actions["eef_9d"], cold.actions["eef_9d"])


def test_relative_actions_are_continued_from_the_new_state(fixtures_dir: ReferenceFiles):
    """The frozen rows of the next chunk are those of the earlier one in the robot's units, though the arm has moved."""
    policy, observation, _ = load(fixtures_dir / "n1_7_tiny", 0)
    earlier = policy.infer(observation)
    step_ns = policy.embodiment.step_ns
    moved = {key: rows + 0.01 for key, rows in observation.state.items()}
    later = Observation(observation.images, moved, observation.instruction, stamp_ns=3 * step_ns)
    held = ActionChunk(clipped(policy, earlier, later), earlier.start_ns, earlier.step_ns)
    chunk = policy.infer(later, Continuation(held, frozen_steps=4, overlap_steps=6))
    for key in ("joint_position", "gripper_position"):
        np.testing.assert_allclose(chunk.actions[key][:4], held.actions[key][3:7], atol=1e-4, err_msg=key)
    free = policy.infer(later)
    assert np.abs(free.actions["joint_position"][:4] - held.actions["joint_position"][3:7]).max() > 1e-3


def clipped(policy: Policy, chunk: ActionChunk, observation: Observation) -> dict[str, np.ndarray]:
    """Return the chunk's actions as the model can express them at the observation: predictions are clipped."""
    step = round((observation.stamp_ns - chunk.start_ns) / chunk.step_ns)
    left = {key: rows[step:] for key, rows in chunk.actions.items()}
    encoded = policy.pipeline.encode_actions(left, observation)
    horizon = policy.checkpoint.config.action_head.action_horizon
    padded = torch.zeros((horizon, encoded.shape[1]))
    padded[: len(encoded)] = encoded
    decoded = policy.pipeline.decode(padded, observation)
    return {key: np.concatenate([rows[:step], decoded[key][: len(rows) - step]]) for key, rows in chunk.actions.items()}


def test_guided_continuation_draws_the_overlap_to_the_earlier_chunk(fixtures_dir: ReferenceFiles):
    policy, observation, expected = load(fixtures_dir / "n1_7_tiny", 1)
    noise = expected["inference_noise"][1:2]
    free = policy.infer_batch([observation], noise=noise)[0]
    target = ActionChunk({key: 0.5 * rows for key, rows in free.actions.items()}, 0, free.step_ns)
    pulled = policy.infer_batch([observation], [Continuation(target, 3, 5, guidance=5.0)], noise=noise)[0]

    def distance(chunk: ActionChunk) -> float:  # behind the frozen rows, which are the earlier ones in any case
        return float(np.mean([np.abs(chunk.actions[k][3:5] - target.actions[k][3:5]).mean() for k in chunk.actions]))

    assert distance(pulled) < 0.7 * distance(free)


def test_wrong_tag_and_missing_camera_are_named(fixtures_dir: ReferenceFiles):
    folder = fixtures_dir / "n1_7_tiny"
    with pytest.raises((CheckpointError, ConfigError), match=r"unitree_nothing.*libero_sim"):
        Policy.from_checkpoint(folder, "unitree_nothing", device="cpu")
    policy, observation, _ = load(fixtures_dir / "n1_7_tiny", 1)
    with pytest.raises(ObservationError, match=r"video\.wrist_image: missing, found image"):
        policy.infer(Observation({"image": observation.images["image"]}, observation.state, "x"))
