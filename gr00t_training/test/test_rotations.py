# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.embodiment import Pose, Rotation
from gr00t_training.rotations import WIDTHS, convert, from_matrix, identity, to_absolute, to_matrix, to_relative

QUARTER = math.pi / 2
# a quarter turn about z takes x to y and y to -x
QUARTER_TURN_Z = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (Rotation.QUATERNION, [math.sqrt(0.5), 0, 0, math.sqrt(0.5)]),
        (Rotation.AXIS_ANGLE, [0, 0, QUARTER]),
        (Rotation.ROTATION_6D, [0, -1, 0, 1, 0, 0]),
        (Rotation.MATRIX, [0, -1, 0, 1, 0, 0, 0, 0, 1]),
        (Rotation.EULER_RPY, [0, 0, QUARTER]),
        (Rotation.EULER_YPR, [QUARTER, 0, 0]),
    ],
)
def test_a_quarter_turn_about_z_in_every_form(form: Rotation, value: list[float]):
    np.testing.assert_allclose(to_matrix(np.array(value, float), form), QUARTER_TURN_Z, atol=1e-15)
    np.testing.assert_allclose(from_matrix(QUARTER_TURN_Z, form), value, atol=1e-15)


def test_all_conversions_equal_the_reference(fixtures_dir: ReferenceFiles):
    tensors = load_file(fixtures_dir / "transforms_generic" / "rotations.safetensors")
    pairs = [name.split("->") for name in tensors if "->" in name]
    forms = {source for source, _ in pairs}
    assert len(forms) == len(Rotation)  # Euler angles are not converted to Euler angles
    assert len(tensors) == len(pairs) + len(forms)  # nothing of the file is left out
    for source, target in pairs:
        x = tensors[f"value.{source}"].reshape(7, -1)
        found = convert(x, Rotation(source), Rotation(target))
        expected = tensors[f"{source}->{target}"].reshape(7, -1)
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"{source}->{target}")


def test_rows_that_are_not_orthonormal_are_made_so(fixtures_dir: ReferenceFiles):
    tensors = load_file(fixtures_dir / "transforms_generic" / "rotation6d_raw.safetensors")
    np.testing.assert_allclose(to_matrix(tensors["in"], Rotation.ROTATION_6D), tensors["matrix"], atol=1e-12)


@pytest.mark.parametrize("form", list(Rotation))
def test_there_and_back_is_the_same_rotation(form: Rotation):
    rng = np.random.default_rng(0)
    matrices = to_matrix(rng.normal(size=(5, 2, 4)), Rotation.QUATERNION)
    x = from_matrix(matrices, form)
    assert x.shape == (5, 2, WIDTHS[form])
    np.testing.assert_allclose(to_matrix(x, form), matrices, atol=1e-12)


def test_half_turns_and_tiny_turns_survive():
    for vector in ([math.pi, 0, 0], [0, math.pi, 0], [0, 0, math.pi], [1e-9, -2e-9, 0], [0, 0, 0]):
        x = np.array(vector, float)
        matrix = to_matrix(x, Rotation.AXIS_ANGLE)
        back = from_matrix(matrix, Rotation.AXIS_ANGLE)
        np.testing.assert_allclose(to_matrix(back, Rotation.AXIS_ANGLE), matrix, atol=1e-15)
        np.testing.assert_allclose(np.abs(back), np.abs(x), atol=1e-15)  # a half turn has two axes


def test_a_quaternion_is_normalised_and_comes_back_with_positive_real_part():
    x = np.array([-2.0, 0, 0, -2.0])
    back = from_matrix(to_matrix(x, Rotation.QUATERNION), Rotation.QUATERNION)
    np.testing.assert_allclose(back, [math.sqrt(0.5), 0, 0, math.sqrt(0.5)], atol=1e-15)


@pytest.mark.parametrize("form", list(Rotation))
def test_identity_turns_nothing(form: Rotation):
    np.testing.assert_allclose(to_matrix(identity(form), form), np.eye(3), atol=1e-15)


def test_a_pose_in_the_frame_of_another_by_hand():
    """The reference is at x = 1, turned a quarter about z: a point ahead of it in y is ahead of it in its own x."""
    reference = np.array([1, 0, 0, 0, 0, QUARTER])
    poses = np.array([[1, 2, 0, 0, 0, QUARTER], [1, 0, 3, 0, 0, 0]])
    seen = to_relative(poses, reference, Pose.XYZ_AXIS_ANGLE)
    np.testing.assert_allclose(seen, [[2, 0, 0, 0, 0, 0], [0, 0, 3, 0, 0, -QUARTER]], atol=1e-15)
    np.testing.assert_allclose(to_absolute(seen, reference, Pose.XYZ_AXIS_ANGLE), poses, atol=1e-15)
    # one reference per row
    seen = to_relative(poses, poses[::-1], Pose.XYZ_AXIS_ANGLE)
    np.testing.assert_allclose(seen, [[0, 2, -3, 0, 0, QUARTER], [-2, 0, 3, 0, 0, -QUARTER]], atol=1e-15)
    assert to_relative(np.ones((2, 1), np.float32), np.full(1, 3.0), None).tolist() == [[-2.0], [-2.0]]


def test_float32_stays_float32():
    for target in Rotation:
        assert convert(np.array([1, 0.1, 0, 0], np.float32), Rotation.QUATERNION, target).dtype == np.float32


def test_what_is_no_rotation_is_refused():
    with pytest.raises(ValueError, match="quaternion has 4 channels, found 3"):
        convert(np.zeros(3), Rotation.QUATERNION, Rotation.MATRIX)
    with pytest.raises(ValueError, match="a quaternion has no length"):
        convert(np.zeros(4), Rotation.QUATERNION, Rotation.MATRIX)
