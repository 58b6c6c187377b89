# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The model against numbers of the reference release (float32, CPU, small random weights)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from reference_release import contains, load_batch, load_tiny, record, relative
from safetensors.torch import load_file
from torch import Tensor

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import DitConfig, Gr00tConfig, with_horizon
from gr00t_training.model.families import family, variants
from gr00t_training.model.families.n1 import N1
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.vision import fold_patches
from gr00t_training.model.weight_names import assign_weights, published_weights

# Largest difference over largest value. The random weights of the fixtures are badly conditioned: rounding of the last
# bit in the backbone grows a hundredfold in the second and fourth block, in the reference as well as here.
TOLERANCE = 2e-4
CASES = ("single", "batch")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(fixtures_dir: ReferenceFiles) -> Path:
    return fixtures_dir / "n1_tiny"


@pytest.fixture(scope="module")
def expected(tiny: Path) -> dict[str, Tensor]:
    return load_file(tiny / "expected.safetensors")


@pytest.fixture
def reference(tiny: Path) -> dict:
    return json.loads((tiny / "train_reference.json").read_text())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_backbone_equals_the_reference(tiny: Path, expected: dict[str, Tensor], case: str, attention: str):
    seen: dict[str, Tensor] = {}
    model = load_tiny(tiny, attention)
    record(model.backbone.vision, seen, "vision_last_hidden")
    record(model.backbone.connector, seen, "vit_embeds")
    record(model.backbone.language, seen, "llm_last_hidden")
    record(model.backbone, seen, "backbone_features")
    record(model.action_head.state_encoder, seen, "state_features")
    model.sample_actions(load_batch(tiny, case), num_steps=1)
    for name, tensor in seen.items():
        assert relative(tensor, expected[f"{case}.{name}"]) < 1e-5, name
    assert len(seen) == 5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_each_denoising_step_equals_the_reference(tiny: Path, expected: dict[str, Tensor], case: str, attention: str):
    """Every step starts from the reference's features and actions, so that only one step's rounding is seen."""
    seen: dict[str, Tensor] = {}
    model, batch = load_tiny(tiny, attention), load_batch(tiny, case)
    head = model.action_head
    record(head.dit.timestep, seen, "temb")
    record(head.action_encoder, seen, "action_features")
    record(head.dit, seen, "dit_out")
    for i, block in enumerate(head.dit.blocks):
        record(block, seen, f"dit_block{i}")
    actions, ids = batch["init_noise"], batch["embodiment_id"]
    state_tokens = head.state_encoder(batch["state"], ids)
    keys_values = head.dit.keys_values(expected[f"{case}.backbone_features"])
    for k in range(4):
        bucket = torch.full((len(ids),), 250 * k)
        velocity = head._velocity(
            actions, state_tokens, head.time_codes(bucket), head.dit.modulations(bucket), keys_values, ids
        )
        assert relative(velocity, expected[f"{case}.step{k}.velocity"]) < TOLERANCE
        actions = actions + velocity / 4
        assert relative(actions, expected[f"{case}.step{k}.actions"]) < TOLERANCE
        names = [name for name in seen if f"{case}.step{k}.{name}" in expected]
        assert len(names) == (7 if k == 0 else 3)
        for name in names:
            assert relative(seen[name], expected[f"{case}.step{k}.{name}"]) < TOLERANCE, (k, name)
        actions = expected[f"{case}.step{k}.actions"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("num_steps", "name"), [(None, "action_pred"), (16, "action_pred_16steps"), (1, "action_pred_1steps")]
)
def test_sampled_actions_equal_the_reference(
    tiny: Path, expected: dict[str, Tensor], case: str, attention: str, num_steps: int | None, name: str
):
    model, batch = load_tiny(tiny, attention), load_batch(tiny, case)
    model.check_batch(batch)
    actions = model.sample_actions(batch, batch["init_noise"], num_steps)  # config.json of the fixture says 4
    assert relative(actions, expected[f"{case}.{name}"]) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_loss_equals_the_reference(tiny: Path, expected: dict[str, Tensor], case: str):
    seen: dict[str, Tensor] = {}
    model, batch = load_tiny(tiny), load_batch(tiny, case)
    record(model.action_head.dit, seen, "dit_out")
    record(model.action_head.action_decoder, seen, "velocity_pred")
    loss = model.loss(batch, batch["train_noise"], batch["train_time"])
    assert loss.item() == pytest.approx(float(expected[f"{case}.train.loss"]), rel=TOLERANCE)
    for name, tensor in seen.items():
        assert relative(tensor, expected[f"{case}.train.{name}"]) < TOLERANCE, name


def test_gradients_equal_the_reference(tiny: Path, reference: dict):
    model, batch = load_tiny(tiny), load_batch(tiny, "batch")
    model.set_trainable(**{key: reference[key] for key in reference if key.startswith("tune_")})
    model.loss(batch, batch["train_noise"], batch["train_time"]).backward()
    norms = {
        N1.names.to_published(name): float(parameter.grad.norm())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    largest = max(reference["grad_l2"].values())
    assert norms.keys() == reference["grad_l2"].keys()
    for name, norm in norms.items():
        # gradients of key biases are zero but for rounding: softmax does not see a shift of all keys
        assert norm == pytest.approx(reference["grad_l2"][name], rel=5e-3, abs=1e-6 * largest), name


def test_trained_and_decayed_parameters_equal_the_reference(tiny: Path, reference: dict):
    model = load_tiny(tiny)
    model.set_trainable(**{key: reference[key] for key in reference if key.startswith("tune_")})
    trained = {N1.names.to_published(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    undecayed = {N1.names.to_published(name) for name in model.undecayed_names()}
    assert trained == set(reference["trainable"])
    assert undecayed & trained == set(reference["no_weight_decay"]) & trained
    assert undecayed >= set(reference["no_weight_decay"])


def test_frozen_parts_stay_in_evaluation_mode_and_can_be_trained_again(tiny: Path):
    model = load_tiny(tiny)
    model.set_trainable(tune_diffusion_model=False, tune_projector=False, tune_visual=False)
    model.train()
    assert not any(module.training for module in model.action_head.dit.modules())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "backbone.linear.weight",
        "backbone.linear.bias",
    }
    model.set_trainable(tune_llm=True)
    assert model.action_head.dit.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_dropout_acts_in_training_only(tiny: Path):
    model, batch = load_tiny(tiny), load_batch(tiny, "single")
    model.set_trainable()
    arguments = (batch, batch["train_noise"], batch["train_time"])
    assert model.loss(*arguments) == model.loss(*arguments)
    model.train()
    assert model.loss(*arguments) != model.loss(*arguments)


def test_a_batch_without_padding_needs_no_mask(tiny: Path):
    model, batch = load_tiny(tiny), load_batch(tiny, "single")
    with_mask = model.sample_actions(batch, batch["init_noise"])
    del batch["attention_mask"]
    assert relative(model.sample_actions(batch, batch["init_noise"]), with_mask) < TOLERANCE


def test_batches_that_do_not_fit_are_refused(tiny: Path):
    model, batch = load_tiny(tiny), load_batch(tiny, "single")
    with pytest.raises(ValueError, match=r"action: shape \(1, 15, 32\), the model expects \(1, 16, 32\)"):
        model.loss({**batch, "action": batch["action"][:, :15]})
    with pytest.raises(ValueError, match="4 image tokens for 2 images"):
        model.loss({**batch, "pixel_values": batch["pixel_values"].repeat(2, 1, 1, 1)})


def test_fold_patches_joins_squares_row_by_row():
    patches = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid, numbered row by row
    assert fold_patches(patches, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_the_release_has_the_published_names_and_shapes(spec_dir: ReferenceFiles):
    manifest = json.loads((spec_dir / "n1_2b_state_dict.json").read_text())
    with torch.device("meta"):
        model = Gr00tModel(variants()["n1_2b"].config)
    shapes = {name: list(weight.shape) for name, weight in published_weights(model, N1.names).items()}
    assert shapes == {name: entry["shape"] for name, entry in manifest.items()}
    assert {N1.names.to_ours(name) for name in manifest} == set(model.state_dict())
    assert sum(parameter.numel() for parameter in model.parameters()) == 2_190_016_752


def test_compact_model_is_small_and_learns():
    torch.manual_seed(0)
    config = with_horizon(variants()["n1_compact"].config, 8)
    model = Gr00tModel(config)
    assert sum(parameter.numel() for parameter in model.parameters()) < 6_000_000
    model.set_trainable(tune_llm=True)
    model.train()
    image_tokens = torch.full((2, config.backbone.num_image_tokens), config.backbone.image_token_id)
    batch = {
        "pixel_values": torch.rand(2, 3, config.image_size, config.image_size) * 2 - 1,
        "input_ids": torch.cat([torch.full((2, 3), 5), image_tokens], 1),
        "state": torch.randn(2, 1, 64),
        "embodiment_id": torch.tensor([1, 1]),
        "action": torch.randn(2, 8, 32),
        "action_mask": torch.ones(2, 8, 32, dtype=torch.bool),
    }
    noise, time = torch.randn(2, 8, 32), torch.tensor([0.2, 0.7])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        loss = model.loss(batch, noise, time)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_training_times_have_the_release_distribution():
    """E[t] = 1 - E[s] / 0.999 with E[s] = 1.5 / 2.5: 0.3994; deviation of the mean of 20000 draws: 0.002."""
    torch.manual_seed(0)
    head = Gr00tModel(variants()["n1_compact"].config).action_head
    times = head.sample_time(20000, torch.device("cpu"))
    assert float(times.mean()) == pytest.approx(0.3994, abs=0.006)
    assert float(times.min()) >= -0.0011
    assert float(times.max()) <= 1


def test_configuration_keeps_what_it_does_not_know(tiny: Path):
    model_json = json.loads((tiny / "config.json").read_text()) | {"invented": {"a": [1]}}
    vlm_json = json.loads((tiny / "eagle_config.json").read_text())
    config = N1.parse(model_json, vlm_json)
    written_model, written_vlm = N1.dump(config)
    assert contains(written_model, model_json)
    assert contains(written_vlm, vlm_json)
    assert N1.parse(written_model, written_vlm) == config


def test_absent_keys_have_the_values_of_the_release():
    assert N1.parse({"model_type": "gr00t_n1"}, None) == Gr00tConfig()
    assert family("gr00t_n1").projectors == N1.projectors == {"gr1": 24, "new_embodiment": 31}


def test_a_section_that_lacks_keys_has_the_defaults_of_its_class():
    dit = {"num_attention_heads": 24, "positional_embeddings": None}
    parsed = N1.parse({"action_head_cfg": {"diffusion_model_cfg": dit}}, None).action_head.dit
    assert parsed == DitConfig(
        num_heads=24, head_dim=64, num_layers=12, output_dim=26, dropout=0.1, interleave_self_attention=False
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diffusion_model_cfg": {"num_layers": 16}}, "positional_embeddings is 'sinusoidal'"),
        ({"input_embedding_dim": 1000}, "input_embedding_dim is 1000"),
        ({"action_horizon": 2000}, "action horizon 2000"),
    ],
)
def test_options_that_are_not_supported_are_refused(change: dict, message: str):
    with pytest.raises(CheckpointError, match=message):
        N1.parse({"action_head_cfg": change}, None)


def test_another_model_type_is_refused():
    with pytest.raises(CheckpointError, match="model_type is 'gr00t_n2', supported: gr00t_n1"):
        family("gr00t_n2")


def test_missing_and_misshapen_weights_are_named(tiny: Path):
    model, weights = load_tiny(tiny), load_file(tiny / "model.safetensors")
    bias = "backbone.model.mlp1.1.bias"
    with pytest.raises(CheckpointError, match=f"1 of {len(weights)} weights are missing: {bias}"):
        assign_weights(model, {name: w for name, w in weights.items() if name != bias}, N1.names, "file")
    with pytest.raises(CheckpointError, match=rf"{bias} is \(3,\), expected \(48,\)"):
        assign_weights(model, {**weights, bias: torch.zeros(3)}, N1.names, "file")


def test_the_unused_head_of_published_files_is_ignored_silently(tiny: Path, caplog: pytest.LogCaptureFixture):
    model, weights = load_tiny(tiny), load_file(tiny / "model.safetensors")
    assign_weights(model, {**weights, "action_head.decode_layer.weight": torch.zeros(2, 2)}, N1.names, "file")
    assert not caplog.records
    assign_weights(model, {**weights, "action_head.novelty": torch.zeros(2, 2)}, N1.names, "file")
    assert "action_head.novelty" in caplog.text
