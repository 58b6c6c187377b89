# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""State and action of N1.6 and N1.7 against the reference release, and by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Normalization, Pose, Rotation, VectorKey
from gr00t_training.errors import ConfigError
from gr00t_training.model.families.n1 import N1
from gr00t_training.model.families.n1_7 import N1_7
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.scaling import ValueRules
from gr00t_training.transforms.state_action import VectorTransform
from gr00t_training.types import KeyKind

# fixture, sample: embodiments with and without relative actions, poses, percentiles, sin/cos, mean/std and clipping
SAMPLES = [("n1_7_tiny", 0), ("n1_7_tiny", 1), ("n1_7_tiny", 2), ("n1_7_tiny_variant", 0), ("n1_7_tiny_variant", 1)]
SAMPLES += [("n1_6_tiny", 0), ("n1_6_tiny", 1), ("n1_6_tiny", 2)]
POSES = {"XYZ_ROT6D": Pose.XYZ_ROTATION_6D, "XYZ_ROTVEC": Pose.XYZ_AXIS_ANGLE}
# The release makes the rows of a 6D rotation orthonormal in float32, we in float64.
ROWS_ATOL = 3e-7
OPTIONS = ProcessorOptions(use_relative_action=True)


@dataclass(frozen=True)
class Sample:
    """One sample of a fixture: transforms as its processor_config.json says, inputs and expected outputs."""

    state: VectorTransform
    action: VectorTransform
    raw: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    prediction: np.ndarray  # (H, A) float32

    def inputs(self, kind: str) -> dict[str, np.ndarray]:
        transform = getattr(self, kind)
        return {key: self.raw[f"{kind}.{key}"].astype(np.float64) for key in transform.keys}

    @property
    def reference(self) -> dict[str, np.ndarray]:
        return {key: self.raw[f"state.{key}"][-1].astype(np.float64) for key in self.action.reference_keys}


@pytest.fixture(scope="module", params=SAMPLES, ids=[f"{name}-{i}" for name, i in SAMPLES])
def sample(request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles) -> Sample:
    name, i = request.param
    return load_sample(fixtures_dir / name, i)


def load_sample(folder: Path, i: int) -> Sample:
    def tensors(file: str) -> dict[str, np.ndarray]:
        found = load_file(folder / file)
        return {key.removeprefix(f"s{i}."): value for key, value in found.items() if key.startswith(f"s{i}.")}

    tag = json.loads((folder / "meta.json").read_text())["samples"][i]["embodiment_tag"]
    described = json.loads((folder / "processor_config.json").read_text())["processor_kwargs"]
    known = {field.name for field in fields(ProcessorOptions)}
    options = ProcessorOptions(**{key: value for key, value in described.items() if key in known})
    statistics = {
        kind: {key: KeyStatistics.from_mapping(lists, f"{tag}.{kind}.{key}") for key, lists in entries.items()}
        for kind, entries in json.loads((folder / "statistics.json").read_text())[tag].items()
    }
    modalities, raw = described["modality_configs"][tag], tensors("raw_samples.safetensors")

    def transform(kind: str, **more: Any) -> VectorTransform:
        keys = vector_keys(kind, modalities[kind], options, raw)
        width = options.max_state_dim if kind == "state" else options.max_action_dim
        return VectorTransform(
            KeyKind(kind), keys, list(keys), statistics[kind], width, rules=rules_of(kind, options), **more
        )

    return Sample(
        transform("state"),
        transform(
            "action",
            relative_statistics=statistics.get("relative_action", {}),
            horizon=len(modalities["action"]["delta_indices"]),
            model_horizon=options.max_action_horizon,
        ),
        raw,
        tensors("processor_expected.safetensors"),
        load_file(folder / "expected.safetensors")["action_pred"][i],
    )


def rules_of(kind: str, options: ProcessorOptions | None) -> ValueRules:
    """Return the rules of N1.7, without options those of N1."""
    return getattr(N1_7.rules(options) if options else N1.rules(None), kind)


def vector_keys(kind: str, modality: Any, options: ProcessorOptions, raw: Mapping[str, np.ndarray]) -> dict:
    names = modality["modality_keys"]
    described = modality["action_configs"] or [{"rep": "ABSOLUTE"}] * len(names)
    keys = {}
    for name, action in zip(names, described, strict=True):
        is_relative = action["rep"] == "RELATIVE" and options.use_relative_action
        normalization = Normalization.Q99 if options.use_percentiles and not is_relative else Normalization.MIN_MAX
        if options.apply_sincos_state_encoding and name in (modality["sin_cos_embedding_keys"] or ()):
            normalization = Normalization.SIN_COS
        elif name in (modality["mean_std_embedding_keys"] or ()):
            normalization = Normalization.MEAN_STD
        keys[name] = VectorKey(
            names=tuple(f"{name}{i}" for i in range(raw[f"{kind}.{name}"].shape[-1])),
            normalization=normalization,
            relative_to=(action["state_key"] or name) if is_relative else None,
            pose=POSES[action["format"]] if is_relative and action["type"] == "EEF" else None,
        )
    return keys


def atol_of(key: VectorKey) -> float:
    if key.pose is Pose.XYZ_ROTATION_6D:
        return ROWS_ATOL
    return 1e-15 if key.pose else 0.0  # else equal to the last bit


def test_normalised_values_equal_the_release(sample: Sample):
    for kind in ("state", "action"):
        transform, inputs = getattr(sample, kind), sample.inputs(kind)
        for name, key in transform.keys.items():
            found = key.forward(inputs[name], sample.reference)
            expected = sample.expected[f"norm_{kind}.{name}"]
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=0, atol=atol_of(key.key), err_msg=f"{kind}.{name}")


def test_padded_vectors_and_mask_equal_the_release(sample: Sample):
    state, mask = sample.state.pad(sample.state.forward(sample.inputs("state")))
    np.testing.assert_array_equal(state.astype(np.float32), sample.expected["state"])
    assert mask.sum() == sample.state.dim
    action, mask = sample.action.pad(sample.action.forward(sample.inputs("action"), sample.reference))
    atol = max(atol_of(key.key) for key in sample.action.keys.values())
    np.testing.assert_allclose(action.astype(np.float32), sample.expected["action"], rtol=0, atol=atol)
    np.testing.assert_array_equal(mask, sample.expected["action_mask"])


@pytest.mark.parametrize("source", ["roundtrip_action", "decoded_pred"])
def test_decoded_actions_equal_the_release(sample: Sample, source: str):
    y = sample.prediction if source == "decoded_pred" else sample.expected["action"]
    found = sample.action.inverse(y.astype(np.float64), sample.reference)
    expected = {key.split(".")[1]: value[0] for key, value in sample.expected.items() if key.startswith(source)}
    assert list(found) == list(sample.action.keys)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.dtype == np.float64
        atol = atol_of(sample.action.keys[name].key)
        np.testing.assert_allclose(values.astype(expected[name].dtype), expected[name], rtol=0, atol=atol, err_msg=name)


def make_statistics(low: Any, high: Any, mean: Any, std: Any) -> KeyStatistics:
    """Percentiles are half of the extremes."""
    low, high, mean, std = (np.asarray(values, float) for values in (low, high, mean, std))
    return KeyStatistics(min=low, max=high, mean=mean, std=std, q01=low / 2, q99=high / 2)


def make_transform(
    kind: str, key: VectorKey, statistics: KeyStatistics | None, options: ProcessorOptions | None = OPTIONS, **more: Any
) -> VectorTransform:
    known = {} if statistics is None else {"k": statistics}
    plain, relative = (known, {}) if key.relative_to is None else ({}, known)
    rules = rules_of(kind, options)
    return VectorTransform(
        KeyKind(kind), {"k": key}, ["k"], plain, 20, rules=rules, relative_statistics=relative, **more
    )


def test_a_range_that_is_about_empty_becomes_zero_and_comes_back_as_its_bound():
    """lo and hi differ by 1e-9 in the second channel: as far as float32 sees not at all."""
    key = VectorKey(names=("a", "b"), normalization=Normalization.MIN_MAX)
    transform = make_transform("action", key, make_statistics([0, 3], [4, 3 + 1e-9], [0, 0], [1, 1]))
    found = transform.forward({"k": np.array([[1.0, 7.0]])})
    assert found.tolist() == [[-0.5, 0.0]]
    np.testing.assert_allclose(transform.inverse(found)["k"], [[1.0, 3.0]])


def test_outliers_are_cut_if_the_checkpoint_says_so_and_always_in_predictions():
    x = np.array([[6.0, 6.0]])  # of ranges up to 4 and, for percentiles, 2
    for mode, scaled in ((Normalization.MIN_MAX, [2.0, 2.0]), (Normalization.Q99, [5.0, 5.0])):
        key = VectorKey(names=("a", "b"), normalization=mode)
        statistics = make_statistics([0, 0], [4, 4], [0, 0], [1, 1])
        loose = make_transform("action", key, statistics, replace(OPTIONS, clip_outliers=False))
        assert loose.forward({"k": x}).tolist() == [scaled]
        assert make_transform("action", key, statistics).forward({"k": x}).tolist() == [[1, 1]]
        bound = 4.0 if mode is Normalization.MIN_MAX else 2.0
        assert loose.inverse(np.array([[3.0, -3.0]]))["k"].tolist() == [[bound, 0]]


def test_mean_and_deviation_leave_a_channel_that_never_moved_and_are_cut_in_actions_only():
    key = VectorKey(names=("a", "b"), normalization=Normalization.MEAN_STD)
    statistics = make_statistics([0, 0], [1, 1], [1, 5], [2, 0])
    x = {"k": np.array([[7.0, 0.75]])}
    assert make_transform("state", key, statistics).forward(x).tolist() == [[3, 0.75]]
    action = make_transform("action", key, statistics)
    assert action.forward(x).tolist() == [[1, 0.75]]
    assert action.inverse(np.array([[3.0, 0.75]]))["k"].tolist() == [[7, 0.75]]


def test_sines_stand_before_cosines():
    key = VectorKey(names=("a", "b"), normalization=Normalization.SIN_COS)
    found = make_transform("state", key, None).forward({"k": np.array([[0.0, np.pi / 2]])})
    np.testing.assert_allclose(found, [[0, 1, 1, 0]], atol=1e-7)


def test_relative_joints_have_one_range_per_step():
    key = VectorKey(names=("a",), normalization=Normalization.MIN_MAX, relative_to="arm")
    statistics = make_statistics([[-1], [-2], [-4]], [[1], [2], [4]], [[0]] * 3, [[1]] * 3)
    transform = make_transform("action", key, statistics, horizon=3, model_horizon=5)
    assert transform.reference_keys == ("arm",)
    x, reference = np.array([[10.5], [11.0], [12.0]]), {"arm": np.array([10.0])}
    scaled = transform.forward({"k": x}, reference)
    assert scaled.tolist() == [[0.5], [0.5], [0.5]]
    padded, mask = transform.pad(scaled)
    assert padded.shape == (5, 20)
    assert mask.sum() == 3
    assert padded[~mask].tolist() == [0] * (5 * 20 - 3)
    assert transform.inverse(padded, reference)["k"].tolist() == x.tolist()
    # a part of a chunk, and a shorter one, have the ranges of the first steps
    assert transform.forward({"k": x[:2]}, reference).tolist() == [[0.5], [0.5]]
    shorter = make_transform("action", key, statistics, horizon=2, model_horizon=5)
    assert shorter.inverse(padded, reference)["k"].tolist() == x[:2].tolist()


def test_relative_values_can_be_scaled_by_mean_and_deviation():
    key = VectorKey(names=("a",), normalization=Normalization.MEAN_STD, relative_to="arm")
    statistics = make_statistics([[-9], [-9]], [[9], [9]], [[1], [2]], [[2], [4]])
    transform = make_transform("action", key, statistics, replace(OPTIONS, clip_outliers=False), horizon=2)
    reference = {"arm": np.array([1.0])}
    scaled = transform.forward({"k": np.array([[6.0], [11.0]])}, reference)  # 5 and 10 away
    assert scaled.tolist() == [[2], [2]]
    assert transform.inverse(scaled, reference)["k"].tolist() == [[6], [11]]


@pytest.mark.parametrize("pose", list(Pose))
def test_poses_there_and_back_are_the_same(pose: Pose):
    rng = np.random.default_rng(0)
    matrices = np.zeros((5, 4, 4))
    matrices[:, :3, :3] = np.linalg.qr(rng.normal(size=(5, 3, 3)))[0]
    matrices[:, :3, :3] *= np.linalg.det(matrices[:, :3, :3])[:, None, None]
    matrices[:, :3, 3], matrices[:, 3, 3] = rng.normal(size=(5, 3)), 1
    flat = pose_of(matrices, pose)
    key = VectorKey(names=tuple(map(str, range(pose.dim))), relative_to="hand", pose=pose)
    transform = make_transform("action", key, None, horizon=4)
    reference = {"hand": flat[0]}
    seen = transform.forward({"k": flat[1:]}, reference)
    # the oracle: the inverse of the reference matrix times each of the others; values are rounded to float32 first
    np.testing.assert_allclose(seen, pose_of(np.linalg.inv(matrices[0]) @ matrices[1:], pose), atol=1e-6)
    np.testing.assert_allclose(transform.inverse(seen, reference)["k"], flat[1:], atol=1e-6)


def pose_of(matrices: np.ndarray, pose: Pose) -> np.ndarray:
    if pose is Pose.MATRIX:
        return matrices.reshape(-1, 16)
    if pose is Pose.XYZ_ROTATION_6D:
        return np.concatenate([matrices[:, :3, 3], matrices[:, :2, :3].reshape(-1, 6)], -1)
    turns = matrices[:, :3, :3]
    angle = np.arccos((np.trace(turns, axis1=1, axis2=2) - 1) / 2)[:, None]
    axis = np.stack([turns[:, 2, 1] - turns[:, 1, 2], turns[:, 0, 2] - turns[:, 2, 0], turns[:, 1, 0] - turns[:, 0, 1]])
    return np.concatenate([matrices[:, :3, 3], angle * axis.T / (2 * np.sin(angle))], -1)


def test_predicted_matrices_are_made_rotations():
    key = VectorKey(names=tuple(map(str, range(16))), relative_to="hand", pose=Pose.MATRIX)
    transform = make_transform("action", key, None)
    blown_up = np.eye(4)
    blown_up[:3, :3] *= 1.5
    found = transform.inverse(blown_up.reshape(1, 16), {"hand": np.eye(4).reshape(16)})["k"]
    np.testing.assert_allclose(found, np.eye(4).reshape(1, 16), atol=1e-15)
    with pytest.raises(ValueError, match=r"action\.k: a matrix has no positive determinant"):
        transform.inverse(np.zeros((1, 16)), {"hand": np.eye(4).reshape(16)})


def test_what_relative_actions_count_from_must_be_there_and_fit():
    key = VectorKey(names=("a", "b"), relative_to="arm")
    transform = make_transform("action", key, None, horizon=2)
    x = {"k": np.zeros((2, 2))}
    with pytest.raises(ValueError, match=r"action\.k: relative to state\.arm"):
        transform.forward(x)
    with pytest.raises(ValueError, match=r"action\.k: relative to state\.arm: found shape \(1,\), expected \(2,\)"):
        transform.inverse(np.zeros((2, 20)), {"arm": np.zeros(1)})


def test_more_rows_than_there_is_room_for_are_refused():
    key = VectorKey(names=("a",), normalization=Normalization.MIN_MAX, relative_to="arm")
    statistics = make_statistics([[0]] * 2, [[1]] * 2, [[0]] * 2, [[1]] * 2)
    transform = make_transform("action", key, statistics, horizon=2)
    with pytest.raises(ValueError, match=r"action\.k: 3 steps, the statistics of relative actions have 2"):
        transform.forward({"k": np.zeros((3, 1))}, {"arm": np.zeros(1)})
    with pytest.raises(ValueError, match="action: 3 rows, the model has room for 2"):
        transform.pad(np.zeros((3, 1)))


RELATIVE = VectorKey(names=("a",), normalization=Normalization.MIN_MAX, relative_to="arm")
TWO_STEPS = make_statistics([[0]] * 2, [[1]] * 2, [[0]] * 2, [[1]] * 2)
ONE_RANGE = make_statistics([0], [1], [0], [1])


@pytest.mark.parametrize(
    ("key", "statistics", "more", "message"),
    [
        (RELATIVE, TWO_STEPS, {"options": None}, "use_relative_action; remove relative_to"),
        (RELATIVE, TWO_STEPS, {"options": ProcessorOptions()}, "use_relative_action; remove relative_to"),
        (RELATIVE, None, {}, "needs statistics of relative actions"),
        (RELATIVE, ONE_RANGE, {}, r"of shape \(1,\), expected 1 steps or more of 1 channels"),
        (RELATIVE, TWO_STEPS, {"horizon": 3}, r"of shape \(2, 1\), expected 3 steps or more of 1 channels"),
        (replace(RELATIVE, normalization=Normalization.Q99), TWO_STEPS, {}, "only be scaled by min_max or mean_std"),
        (replace(RELATIVE, relative_to=None), TWO_STEPS, {}, r"statistics of shape \(2, 1\), expected \(1,\)"),
        (VectorKey(names=("a",)), None, {"horizon": 50, "model_horizon": 40}, "50 steps, the model has room for 40"),
        (VectorKey(names=tuple(map(str, range(21)))), None, {}, "action: 21 channels, the model has room for 20"),
    ],
)
def test_actions_that_do_not_fit_the_model_are_refused(
    key: VectorKey, statistics: KeyStatistics | None, more: dict, message: str
):
    with pytest.raises(ConfigError, match=message):
        make_transform("action", key, statistics, **more)


def test_states_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ConfigError, match=r"state\.k: relative_to is 'arm', but only actions are relative"):
        make_transform("state", RELATIVE, ONE_RANGE)
    wide = VectorKey(names=tuple(map(str, range(11))), normalization=Normalization.SIN_COS)
    with pytest.raises(ConfigError, match="state: 22 channels, the model has room for 20"):
        make_transform("state", wide, None)


def test_a_converted_rotation_works_as_in_n1():
    key = VectorKey(names=tuple("wxyz"), rotation=Rotation.QUATERNION, target_rotation=Rotation.AXIS_ANGLE)
    transform = make_transform("state", key, None)
    np.testing.assert_allclose(transform.forward({"k": np.array([[0.0, 1, 0, 0]])}), [[np.pi, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("options", [None, OPTIONS], ids=["N1", "N1.7"])
def test_keys_that_are_scaled_by_one_call_have_the_numbers_of_each_alone(options: ProcessorOptions | None):
    """Also where a channel never moved, beside keys that are scaled otherwise, and in float32."""
    modes = (Normalization.MIN_MAX, Normalization.MIN_MAX, Normalization.Q99, Normalization.MEAN_STD, None, None)
    dims, rng = (3, 1, 2, 2, 2, 1), np.random.default_rng(0)
    keys = {
        f"k{i}": VectorKey(names=tuple(f"{i}{channel}" for channel in range(dim)), normalization=mode)
        for i, (mode, dim) in enumerate(zip(modes, dims, strict=True))
    }
    statistics = {}
    for name, key in keys.items():
        low, high = np.sort(rng.normal(size=(2, key.dim)), axis=0)
        high[0] = low[0]
        statistics[name] = KeyStatistics(min=low, max=high, mean=low, std=high - low, q01=low, q99=high)
    rules = rules_of("action", options)
    joined = VectorTransform(KeyKind.ACTION, keys, list(keys), statistics, 20, rules=rules)
    for dtype in (np.float64, np.float32):
        values = {name: rng.normal(size=(5, key.dim)).astype(dtype) for name, key in keys.items()}
        prediction = rng.normal(size=(5, 20)).astype(dtype)
        found, back, start = joined.forward(values), joined.inverse(prediction), 0
        for name, key in keys.items():
            alone = VectorTransform(KeyKind.ACTION, {name: key}, [name], statistics, 20, rules=rules)
            end = start + key.dim
            np.testing.assert_array_equal(found[:, start:end], alone.forward({name: values[name]}))
            expected = alone.inverse(np.pad(prediction[:, start:end], ((0, 0), (0, 20 - key.dim))))
            np.testing.assert_array_equal(back[name], expected[name])
            start = end
    with pytest.raises(ValueError, match=r"action\.k0: "):  # not taken for a channel of the next key
        joined.forward({**values, "k0": np.zeros((5, 2)), "k1": np.zeros((5, 2))})
