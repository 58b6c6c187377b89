# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Transforms against the reference release, for each of its data configurations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from reference_release import Reference, load_reference
from safetensors.numpy import load_file

from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, Normalization, Rotation, VectorKey
from gr00t_training.errors import CheckpointError, ConfigError, ObservationError
from gr00t_training.model.families.n1 import N1
from gr00t_training.transforms.images import SquareImages
from gr00t_training.transforms.pipeline import ModelInputs, Pipeline
from gr00t_training.transforms.scaling import denormalize, normalize
from gr00t_training.transforms.state_action import KeyTransform, VectorTransform
from gr00t_training.transforms.text import PromptTokenizer, shipped_tokenizer
from gr00t_training.types import KeyKind, Observation

CONFIGS = (
    "bimanual_panda_gripper",
    "bimanual_panda_hand",
    "gr1_arms_only",
    "gr1_arms_waist",
    "gr1_full_upper_body",
    "single_panda_gripper",
    "so100",
)
INPUTS = ModelInputs(
    rules=N1.rules(None),
    images=SquareImages(224, torch.bfloat16, tokens=64),
    image_token_id=726,
    vocab_size=736,
    state_dim=64,
    action_dim=32,
    action_horizon=16,
    num_projectors=32,
)


@pytest.fixture(scope="module", params=CONFIGS)
def reference(request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles, spec_dir: ReferenceFiles) -> Reference:
    configs = json.loads((spec_dir / "data_configs_n1.json").read_text())
    return load_reference(fixtures_dir / "transforms_n1" / request.param, configs[request.param])


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return PromptTokenizer.from_file(shipped_tokenizer("compact"), N1.prompt)


@pytest.fixture(scope="module")
def pipeline(reference: Reference, tokenizer: PromptTokenizer) -> Pipeline:
    return Pipeline(reference.embodiment, reference.statistics, INPUTS, tokenizer, reference.projector)


def make_statistics(low: float, high: float, dim: int) -> KeyStatistics:
    full = [np.full(dim, value) for value in (low, high, (low + high) / 2, 1.0, low, high)]
    return KeyStatistics(*full)


def make_pipeline(tokenizer: PromptTokenizer, embodiment: Embodiment | None = None) -> Pipeline:
    embodiment = embodiment or make_embodiment()
    statistics = {
        kind: {name: make_statistics(-2.0, 2.0, key.dim) for name, key in getattr(embodiment, kind).items()}
        for kind in ("state", "action")
    }
    return Pipeline(embodiment, statistics, INPUTS, tokenizer, 31)


def make_observation(text: str = "lift") -> Observation:
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    return Observation({"front": image}, {"arm": np.full((1, 3), 0.5), "gripper": np.zeros((1, 1))}, text)


def test_evaluation_equals_the_reference(reference: Reference, pipeline: Pipeline):
    sample, expected = pipeline.encode(reference.observation("eval")), reference.expected
    concatenated = pipeline.state.forward(reference.vectors("eval", "state"))
    np.testing.assert_allclose(concatenated, expected["eval.state_concat"], atol=1e-12)
    np.testing.assert_allclose(sample["state"], expected["eval.state"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(sample["state_mask"], expected["eval.state_mask"])
    assert sample["embodiment_id"] == reference.projector
    pixels = sample["pixel_values"].float()
    np.testing.assert_allclose(pixels[:, :, 100:132, 100:132], expected["eval.pixel_values_crop"], atol=0.01)
    np.testing.assert_allclose(pixels.mean((1, 2, 3)), expected["eval.pixel_values_mean"], atol=1e-4)


def test_training_equals_the_reference(reference: Reference, pipeline: Pipeline):
    actions, expected = reference.vectors("train", "action"), reference.expected
    np.testing.assert_allclose(pipeline.action.forward(actions), expected["train.action_concat"], atol=1e-12)
    sample = pipeline.encode(reference.observation("train"), actions, np.random.default_rng(0), training=True)
    for key in ("state", "action"):
        np.testing.assert_allclose(sample[key], expected[f"train.{key}"], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(sample[f"{key}_mask"], expected[f"train.{key}_mask"])


def test_predictions_come_back_as_in_the_reference(reference: Reference, pipeline: Pipeline):
    predictions = torch.from_numpy(reference.raw["unapply.action"])
    for i, prediction in enumerate(predictions):
        found = pipeline.decode(prediction, reference.observation("eval"))
        assert list(found) == list(reference.embodiment.action)
        for key, values in found.items():
            assert values.dtype == np.float64
            np.testing.assert_allclose(values, reference.expected[f"unapply.action.{key}"][i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalizations_equal_the_reference(fixtures_dir: ReferenceFiles, dtype: type):
    folder = fixtures_dir / "transforms_generic"
    lists = json.loads((folder / "normalizer_statistics.json").read_text())
    # the reference keeps these statistics in float32, whatever the type of the values
    statistics = KeyStatistics(
        **{name: np.array(values, np.float32).astype(np.float64) for name, values in lists.items()}
    )
    tensors = load_file(folder / "normalizers.safetensors")
    suffix = "f32" if dtype is np.float32 else "f64"
    checked = 0
    for name, expected in tensors.items():
        mode, _, rest = name.partition(".")
        if not rest.startswith(suffix):
            continue
        is_forward = rest.endswith("forward")
        x = tensors["b" if mode == "binary" else "x" if is_forward else "y"].astype(dtype)
        found = (normalize if is_forward else denormalize)(x, Normalization(mode), statistics)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12, err_msg=name)
        checked += 1
    assert checked == 9


def test_actions_there_and_back_are_the_same():
    rng = np.random.default_rng(0)
    keys = {
        "plain": VectorKey(names=("a", "b")),
        "ranged": VectorKey(names=("c", "d"), normalization=Normalization.MIN_MAX),
        "percentile": VectorKey(names=("e",), normalization=Normalization.Q99),
        "spread": VectorKey(names=("f",), normalization=Normalization.MEAN_STD),
        "closed": VectorKey(names=("g",), normalization=Normalization.BINARY),
        "turned": VectorKey(
            names=("w", "x", "y", "z"),
            normalization=Normalization.MIN_MAX,
            rotation=Rotation.QUATERNION,
            target_rotation=Rotation.ROTATION_6D,
        ),
    }
    values = {name: rng.uniform(-1, 1, (5, key.dim)) for name, key in keys.items()}
    values["closed"] = np.array([[0.0], [1], [1], [0], [1]])
    turned = np.abs(values["turned"][:, :1]) + 0.1  # real part positive
    values["turned"] = np.concatenate([turned, values["turned"][:, 1:]], -1)
    values["turned"] /= np.linalg.norm(values["turned"], axis=-1, keepdims=True)
    statistics = {name: make_statistics(-1.0, 3.0, key.dim) for name, key in keys.items()}
    transform = VectorTransform(KeyKind.ACTION, keys, list(keys), statistics, 32)
    assert transform.dim == 2 + 2 + 1 + 1 + 1 + 6
    padded, _ = transform.pad(transform.forward(values))
    for name, found in transform.inverse(padded).items():
        np.testing.assert_allclose(found, values[name], atol=1e-12, err_msg=name)


def test_converted_rotations_use_fixed_bounds():
    key = VectorKey(
        names=("w", "x", "y", "z"),
        normalization=Normalization.MIN_MAX,
        rotation=Rotation.QUATERNION,
        target_rotation=Rotation.AXIS_ANGLE,
    )
    transform = VectorTransform(KeyKind.STATE, {"turn": key}, ["turn"], {}, 64)
    half_turn_x = np.array([[0.0, 1, 0, 0]])
    np.testing.assert_allclose(transform.forward({"turn": half_turn_x}), [[1, 0, 0]], atol=1e-12)  # pi of pi


def test_wide_states_are_cut_and_wide_actions_refused():
    key = VectorKey(names=tuple(f"j{i}" for i in range(40)), normalization=Normalization.SIN_COS)
    state = VectorTransform(KeyKind.STATE, {"joints": key}, ["joints"], {}, 64, rules=N1.rules(None).state)
    padded, mask = state.pad(state.forward({"joints": np.zeros((1, 40))}))
    assert padded.tolist() == [[0.0] * 40 + [1.0] * 24]
    assert mask.all()
    with pytest.raises(ConfigError, match="action: 40 channels, the model has room for 32"):
        VectorTransform(KeyKind.ACTION, {"joints": replace(key, normalization=None)}, ["joints"], {}, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization": Normalization.SIN_COS}, "sin_cos cannot be undone"),
        ({"normalization": Normalization.SCALE}, "scale cannot be undone"),
        ({"normalization": Normalization.Q99}, "needs statistics"),
        ({"target_rotation": Rotation.ROTATION_6D}, "needs 'rotation' too"),
        ({"rotation": Rotation.ROTATION_6D}, "4 channels, a rotation as rotation_6d has 6"),
        (
            {
                "rotation": Rotation.QUATERNION,
                "target_rotation": Rotation.ROTATION_6D,
                "normalization": Normalization.Q99,
            },
            "scaled by min_max",
        ),
        (
            {
                "rotation": Rotation.QUATERNION,
                "target_rotation": Rotation.ROTATION_6D,
                "normalization": Normalization.MIN_MAX,
                "is_absolute": False,
            },
            "if absolute",
        ),
    ],
)
def test_keys_that_cannot_be_transformed_are_refused(changes: dict, message: str):
    key = replace(VectorKey(names=("a", "b", "c", "d")), **changes)
    known = {"k": make_statistics(-1, 1, 4)} if "scale" in message else {}
    with pytest.raises(ConfigError, match=message):
        VectorTransform(KeyKind.ACTION, {"k": key}, ["k"], known, 32)


def test_scale_divides_by_the_larger_bound():
    key = VectorKey(names=("a",), normalization=Normalization.SCALE)
    transform = KeyTransform(key, make_statistics(-4.0, 2.0, 1))
    assert transform.forward(np.array([[2.0], [-4.0]])).tolist() == [[0.5], [-1.0]]
    with pytest.raises(ValueError, match="scale has no inverse"):
        transform.inverse(np.zeros((1, 1)))


def test_batches_join_images_and_pad_prompts(tokenizer: PromptTokenizer):
    pipeline = make_pipeline(tokenizer)
    short, long = (pipeline.encode(make_observation(text)) for text in ("lift", "lift the small red cube"))
    batch = pipeline.collate([short, long])
    padding = len(long["input_ids"]) - len(short["input_ids"])
    assert padding > 0
    assert batch["pixel_values"].shape == (2, 3, 224, 224)
    assert batch["state"].shape == (2, 1, 64)
    assert batch["attention_mask"].sum(1).tolist() == [len(short["input_ids"]), len(long["input_ids"])]
    assert batch["input_ids"][0, :padding].tolist() == [tokenizer.pad_id] * padding
    assert batch["input_ids"][0, padding:].tolist() == short["input_ids"].tolist()


def test_no_instruction_becomes_the_default(tokenizer: PromptTokenizer):
    pipeline = make_pipeline(tokenizer)
    ids = pipeline.encode(make_observation(""))["input_ids"].tolist()
    assert ids == pipeline.encode(make_observation(N1.rules(None).default_instruction))["input_ids"].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {}}, "video.front: missing, found nothing"),
        ({"images": {"front": np.zeros((1, 32, 40, 3), np.uint8)}}, r"video.front: uint8 \(1, 32, 40, 3\).*expects"),
        ({"images": {"front": np.zeros((1, 32, 48, 3))}}, "video.front: float64"),
        ({"state": {"arm": np.zeros((1, 3))}}, "state.gripper: missing, found arm"),
        ({"state": {"arm": np.zeros((1, 2)), "gripper": np.zeros((1, 1))}}, r"state.arm: shape \(1, 2\).*\(1, 3\)"),
        ({"state": {"arm": np.full((1, 3), np.nan), "gripper": np.zeros((1, 1))}}, r"state.arm: .*not finite"),
    ],
)
def test_malformed_observations_are_refused(tokenizer: PromptTokenizer, changes: dict, message: str):
    with pytest.raises(ObservationError, match=message):
        make_pipeline(tokenizer).encode(replace(make_observation(), **changes))


def test_a_quaternion_without_length_is_refused_by_name(tokenizer: PromptTokenizer):
    turned = VectorKey(names=("w", "x", "y", "z"), rotation=Rotation.QUATERNION, target_rotation=Rotation.ROTATION_6D)
    embodiment = replace(make_embodiment(), state={"pose": turned})
    observation = replace(make_observation(), state={"pose": np.zeros((1, 4))})
    with pytest.raises(ObservationError, match=r"state\.pose: a quaternion has no length"):
        make_pipeline(tokenizer, embodiment).encode(observation)


def test_parts_that_do_not_fit_each_other_are_refused(tokenizer: PromptTokenizer):
    embodiment = make_embodiment()
    none: dict[str, dict[str, KeyStatistics]] = {"state": {}, "action": {}}
    with pytest.raises(ConfigError, match="action_horizon is 8, the model's is 16"):
        Pipeline(replace(embodiment, action_horizon=8), none, INPUTS, tokenizer, 0)
    with pytest.raises(ConfigError, match=r"video_history is \[-5, 0\], the model sees the newest images only"):
        Pipeline(replace(embodiment, video_history=(-5, 0)), none, INPUTS, tokenizer, 0)
    with pytest.raises(ConfigError, match=r"state_history is \[-1, 0\], the model takes 1 rows"):
        Pipeline(replace(embodiment, state_history=(-1, 0)), none, INPUTS, tokenizer, 0)
    with pytest.raises(ConfigError, match=r"projector 32, the model has rows 0\.\.31"):
        Pipeline(embodiment, none, INPUTS, tokenizer, 32)
    with pytest.raises(ConfigError, match=r"state\.arm: normalization min_max needs statistics"):
        Pipeline(embodiment, none, INPUTS, tokenizer, 0)
    with pytest.raises(CheckpointError, match="image token 726, the model expects at most 49164 with 49154"):
        Pipeline(embodiment, none, replace(INPUTS, vocab_size=49164, image_token_id=49154), tokenizer, 0)
