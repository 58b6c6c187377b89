# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The remaining rows of a chunk: between two rows, and outside the range that a model can express."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from test_policy_published import load

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.embodiment import Interpolation, Pose, Rotation, VectorKey
from gr00t_training.policy.continuation import corrected, rows_at
from gr00t_training.types import Continuation, Observation

torch.set_num_threads(1)

QUATERNION = VectorKey(names=("w", "x", "y", "z"), rotation=Rotation.QUATERNION)
POSE = VectorKey(names=tuple("abcdef"), pose=Pose.XYZ_AXIS_ANGLE)
JOINT = VectorKey(names=("j",))
GRIPPER = VectorKey(names=("g",), interpolation=Interpolation.STEP)


def about_z(angle: float) -> list[float]:
    return [np.cos(angle / 2), 0, 0, np.sin(angle / 2)]


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


def test_rows_between_two_rows():
    found = rows_at(JOINT, column(0, 10, 30), np.array([0.25, 1.5, 2.0]))
    assert found.ravel().tolist() == [2.5, 20.0, 30.0]


def test_a_key_of_steps_has_no_values_between():
    assert rows_at(GRIPPER, column(0, 1, 0), np.array([0.4, 0.6, 1.7])).ravel().tolist() == [0, 1, 0]


@pytest.mark.parametrize("interpolation", [Interpolation.LINEAR, Interpolation.SLERP])
def test_rotations_turn_at_a_steady_rate(interpolation: Interpolation):
    """A quarter of the way from 0 to 120 degrees, also where the second quaternion has the other sign."""
    key = VectorKey(names=QUATERNION.names, rotation=Rotation.QUATERNION, interpolation=interpolation)
    rows = np.array([about_z(0.0), about_z(2 * np.pi / 3)])
    for sign in (1, -1):
        found = rows_at(key, rows * [[1.0], [sign]], np.array([0.25]))
        np.testing.assert_allclose(found, [about_z(np.pi / 6)], atol=1e-12)


def test_a_key_that_slerps_without_a_form_is_a_quaternion():
    key = VectorKey(names=QUATERNION.names, interpolation=Interpolation.SLERP)
    found = rows_at(key, np.array([about_z(0.0), about_z(1.0)]), np.array([0.5]))
    np.testing.assert_allclose(found, [about_z(0.5)], atol=1e-12)


def test_the_rotation_of_a_pose_turns_too():
    first, second = [1.0, 0, 0, 0, 0, 0.2], [3.0, 0, 0, 0, 0, 0.6]
    found = rows_at(POSE, np.array([first, second]), np.array([0.5]))
    np.testing.assert_allclose(found[0, 3:], [0, 0, 0.4], atol=1e-12)
    np.testing.assert_allclose(found[0, :3], [2, 0, 0], atol=1e-12)


def test_what_the_model_cannot_express_fades_over_the_rows_that_follow():
    """1 expressed instead of 5, and the model continues from there: 5 in the frozen rows, then 2 and 0 more."""
    new = column(1, 2, 3, 4)
    found = corrected(JOINT, new, column(1, 1, 1), column(5, 5, 5), np.array([1, 1, 0.5]))
    assert found.ravel().tolist() == [5, 5, 3 + 2, 4]
    assert new.ravel().tolist() == [1, 2, 3, 4]


def test_what_the_model_can_express_is_continued_by_the_model_alone():
    new, left = column(1, 2, 3), column(1, 7)
    assert corrected(JOINT, new, left, left, np.array([1, 0.5])).ravel().tolist() == [1, 2, 3]


def test_steps_do_not_fade():
    found = corrected(GRIPPER, column(0, 0, 0), column(0, 0), column(1, 1), np.array([1, 0.5]))
    assert found.ravel().tolist() == [1, 0, 0]


def test_rotations_fade_by_their_angle():
    """0.2 expressed instead of 1.0 about z: half of the difference on top of 0.5."""
    half = np.array([0.5])
    new, expressed, left = (np.array([about_z(angle)]) for angle in (0.5, 0.2, 1.0))
    np.testing.assert_allclose(corrected(QUATERNION, new, expressed, left, half), [about_z(0.9)], atol=1e-12)
    new, expressed, left = (np.array([[0, 0, height, 0, 0, turn]]) for height, turn in ((5, 0.5), (2, 0.2), (6, 1.0)))
    np.testing.assert_allclose(corrected(POSE, new, expressed, left, half), [[0, 0, 7, 0, 0, 0.9]], atol=1e-12)


@pytest.mark.parametrize("guidance", [None, 5.0])
@pytest.mark.parametrize("shift", [3.0, 2.6])
def test_frozen_rows_are_the_earlier_ones_though_the_model_cannot_express_them(
    fixtures_dir: ReferenceFiles, shift: float, guidance: float | None
):
    """Relative actions of N1.7 have a narrow range in every row; counted from a new state, left-overs leave it."""
    policy, observation, _ = load(fixtures_dir / "n1_7_tiny", 0)
    noise = np.random.default_rng(0).normal(size=(1, 12, policy.pipeline.inputs.action_dim))
    earlier, step_ns = policy.infer_batch([observation], noise=noise)[0], policy.embodiment.step_ns
    moved = {key: rows + 0.05 for key, rows in observation.state.items()}
    later = Observation(observation.images, moved, observation.instruction, stamp_ns=round(shift * step_ns))
    keys = policy.embodiment.action
    left = {key: rows_at(keys[key], rows, shift + np.arange(6)) for key, rows in earlier.actions.items()}
    expressed = policy.pipeline.decode(policy.pipeline.encode_actions(left, later), later)
    assert np.abs(expressed["joint_position"] - left["joint_position"])[:4].max() > 0.05
    chunk = policy.infer(later, Continuation(earlier, frozen_steps=4, overlap_steps=6, guidance=guidance))
    for key in policy.embodiment.action_keys:
        np.testing.assert_allclose(chunk.actions[key][:4], left[key][:4], rtol=0, atol=1e-7, err_msg=key)
    free = policy.infer(later)
    assert np.abs(free.actions["joint_position"][:4] - left["joint_position"][:4]).max() > 1e-2
