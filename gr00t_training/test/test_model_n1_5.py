# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The N1.5 model against numbers of the reference release (float32, CPU, small random weights)."""

from __future__ import annotations

import copy
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
from gr00t_training.model.config import DitConfig, RefinerConfig
from gr00t_training.model.families import family, variants
from gr00t_training.model.families.n1_5 import N1_5
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.weight_names import assign_weights, published_weights

TOLERANCE = 2e-4  # largest difference over largest value
CASES = ("single", "batch")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(fixtures_dir: ReferenceFiles) -> Path:
    return fixtures_dir / "n1_5_tiny"


@pytest.fixture(scope="module")
def expected(tiny: Path) -> dict[str, Tensor]:
    return load_file(tiny / "expected.safetensors")


@pytest.fixture
def reference(tiny: Path) -> dict:
    return json.loads((tiny / "train_reference.json").read_text())


@pytest.fixture
def model_json(tiny: Path) -> dict:
    return json.loads((tiny / "config.json").read_text())


@pytest.fixture
def vlm_json(tiny: Path) -> dict:
    return json.loads((tiny / "eagle_config.json").read_text())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_features_equal_the_reference(tiny: Path, expected: dict[str, Tensor], case: str, attention: str):
    seen: dict[str, Tensor] = {}
    model = load_tiny(tiny, attention)
    refiner = model.action_head.refiner
    assert refiner is not None
    record(model.backbone.vision, seen, "vision_last_hidden")
    record(model.backbone.connector, seen, "vit_embeds")
    record(model.backbone.language, seen, "llm_last_hidden")
    record(model.backbone, seen, "backbone_features")
    record(refiner.norm, seen, "vlln_out")
    record(refiner, seen, "vl_self_attention_out")
    record(model.action_head.state_encoder, seen, "state_features")
    model.sample_actions(load_batch(tiny, case), num_steps=1)
    for name, tensor in seen.items():
        assert relative(tensor, expected[f"{case}.{name}"]) < 1e-5, name
    assert len(seen) == 7


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_each_denoising_step_equals_the_reference(
    tiny: Path, expected: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, case: str, attention: str
):
    """Every step starts from the reference's features, time embedding and actions.

    So only one step's rounding is seen. Angles of the time's sinusoids reach 750 rad, where the last bit of a frequency
    is 5e-5 rad; the fixture's badly conditioned blocks make 7e-4 of that in one sample.
    """
    seen: dict[str, Tensor] = {}
    model, batch = load_tiny(tiny, attention), load_batch(tiny, case)
    head = model.action_head
    record(head.action_encoder, seen, "action_features")
    record(head.dit, seen, "dit_out")
    for i, block in enumerate(head.dit.blocks):
        record(block, seen, f"dit_block{i}")
    actions, ids = batch["init_noise"], batch["embodiment_id"]
    leading = head._leading_tokens(head._state_tokens(batch["state"], ids))
    keys_values = head.dit.keys_values(expected[f"{case}.vl_self_attention_out"])
    for k in range(4):
        bucket = torch.full((len(ids),), 250 * k)
        temb = expected[f"{case}.step{k}.temb"]
        assert relative(head.dit.timestep(bucket), temb) < 2e-5
        with monkeypatch.context() as patch:
            patch.setattr(head.dit.timestep, "forward", lambda _bucket, temb=temb: temb)
            modulations = head.dit.modulations(bucket)
        velocity = head._velocity(actions, leading, head.time_codes(bucket), modulations, keys_values, ids)
        seen |= {"velocity": velocity, "actions": actions + velocity / 4}
        names = [name for name in seen if f"{case}.step{k}.{name}" in expected]
        assert len(names) == (8 if k == 0 else 4)
        for name in names:
            assert relative(seen[name], expected[f"{case}.step{k}.{name}"]) < 5e-5, (k, name)
        actions = expected[f"{case}.step{k}.actions"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("num_steps", "name"), [(None, "action_pred"), (8, "action_pred_8steps"), (1, "action_pred_1steps")]
)
def test_sampled_actions_equal_the_reference(
    tiny: Path, expected: dict[str, Tensor], case: str, attention: str, num_steps: int | None, name: str
):
    model, batch = load_tiny(tiny, attention), load_batch(tiny, case)
    model.check_batch(batch)
    actions = model.sample_actions(batch, batch["init_noise"], num_steps)  # config.json says 4
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
    assert len(seen) == 2


def test_gradients_equal_the_reference(tiny: Path, reference: dict):
    model, batch = load_tiny(tiny), load_batch(tiny, "batch")
    model.set_trainable(**{key: reference[key] for key in reference if key.startswith("tune_")})
    model.loss(batch, batch["train_noise"], batch["train_time"]).backward()
    gradients = {
        N1_5.names.to_published(name): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    largest = max(reference["grad_l2"].values())
    assert gradients.keys() == reference["grad_l2"].keys()
    for name, gradient in gradients.items():
        # 2e-3: what the last bit of the time's frequencies makes, see above. Gradients of key biases are zero but for
        # rounding: softmax does not see a shift of all keys
        assert float(gradient.norm()) == pytest.approx(reference["grad_l2"][name], rel=2e-3, abs=1e-6 * largest), name


def test_trained_and_decayed_parameters_equal_the_reference(tiny: Path, reference: dict):
    model = load_tiny(tiny)
    model.set_trainable(**{key: reference[key] for key in reference if key.startswith("tune_")})
    trained = {N1_5.names.to_published(name) for name, p in model.named_parameters() if p.requires_grad}
    undecayed = {N1_5.names.to_published(name) for name in model.undecayed_names()}
    assert trained == set(reference["trainable"])
    assert undecayed & trained == set(reference["no_weight_decay"])
    heads = "backbone.eagle_model.language_model.model.layers.0.self_attn"
    assert {f"{heads}.q_norm.weight", f"{heads}.k_norm.weight"} <= undecayed


def test_refiner_and_future_tokens_train_with_everything_else_frozen(tiny: Path):
    model = load_tiny(tiny)
    model.set_trainable(tune_diffusion_model=False, tune_projector=False, tune_visual=False)
    model.train()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        name for name in model.state_dict() if name.startswith(("action_head.refiner.", "action_head.future_tokens."))
    }
    refiner = model.action_head.refiner
    assert refiner is not None
    assert refiner.training
    assert not model.action_head.dit.training
    features = torch.randn(1, 5, refiner.norm.normalized_shape[0])
    assert not torch.equal(refiner(features), refiner(features))  # dropout


def test_the_release_has_the_published_names_and_shapes(spec_dir: ReferenceFiles):
    manifest = json.loads((spec_dir / "n1_5_3b_state_dict.json").read_text())
    used = {name: entry["shape"] for name, entry in manifest.items() if not name.startswith(N1_5.names.ignored)}
    with torch.device("meta"):
        model = Gr00tModel(variants()["n1_5_3b"].config)
    shapes = {name: list(weight.shape) for name, weight in published_weights(model, N1_5.names).items()}
    assert shapes == used
    assert {N1_5.names.to_ours(name) for name in used} == set(model.state_dict())
    assert len(manifest) - len(used) == 12  # eleven of the pooling head, and the output vocabulary
    assert all(N1_5.names.to_ours(name) is None for name in manifest if name not in used)
    assert sum(parameter.numel() for parameter in model.action_head.parameters()) == 1_068_806_144


@pytest.mark.slow
def test_a_model_of_any_size_can_be_made_from_nothing_and_learns(tiny: Path, model_json: dict, vlm_json: dict):
    torch.manual_seed(0)
    model, batch = Gr00tModel(N1_5.parse(model_json, vlm_json)), load_batch(tiny, "batch")
    model.set_trainable(tune_llm=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model.loss(batch, batch["train_noise"], batch["train_time"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_configuration_keeps_what_it_does_not_know(model_json: dict, vlm_json: dict):
    model_json |= {"invented": {"a": [1]}}
    vlm_json["text_config"]["invented"] = 2
    config = N1_5.parse(model_json, vlm_json)
    written_model, written_vlm = N1_5.dump(config)
    assert contains(written_model, model_json)
    assert contains(written_vlm, vlm_json)
    assert N1_5.parse(written_model, written_vlm) == config


def test_the_release_can_be_written_and_read():
    written_model, written_vlm = N1_5.dump(N1_5.release)
    assert N1_5.parse(written_model, written_vlm) == N1_5.release
    # values of the published files
    qwen3 = {
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": 151680,
    }
    assert contains(written_vlm, {"force_image_size": 224, "image_token_index": 151669, "text_config": qwen3})
    assert written_model["backbone_cfg"] == {"select_layer": 12, "project_to_dim": None}
    published = {
        "backbone_embedding_dim": 2048,
        "hidden_size": 1024,
        "input_embedding_dim": 1536,
        "max_action_dim": 32,
        "max_state_dim": 64,
        "num_inference_timesteps": 4,
        "num_target_vision_tokens": 32,
        "use_vlln": True,
    }
    assert contains(written_model["action_head_cfg"], published)
    assert contains(
        written_model["action_head_cfg"]["diffusion_model_cfg"],
        {"attention_head_dim": 48, "cross_attention_dim": 2048, "dropout": 0.2, "num_layers": 16, "output_dim": 1024},
    )
    assert contains(
        written_model["action_head_cfg"]["vl_self_attention_cfg"],
        {"attention_head_dim": 64, "dropout": 0.2, "final_dropout": True, "num_attention_heads": 32, "num_layers": 4},
    )


def test_absent_keys_have_the_values_of_the_release():
    assert N1_5.parse({"model_type": "gr00t_n1_5"}, None) == N1_5.release
    assert N1_5.parse({}, {"text_config": {"vocab_size": 151680}, "vision_config": {}}) == N1_5.release
    assert family("gr00t_n1_5").projectors == N1_5.projectors
    assert N1_5.projectors == {"gr1": 24, "oxe_droid": 17, "agibot_genie1": 26, "new_embodiment": 31}
    assert N1_5.release.backbone.num_image_tokens == 256


def test_sections_that_lack_keys_have_the_defaults_of_their_class():
    dit = {"num_attention_heads": 24, "cross_attention_dim": 2048, "positional_embeddings": None}
    refiner = {"num_attention_heads": 32, "positional_embeddings": None}
    parsed = N1_5.parse({"action_head_cfg": {"diffusion_model_cfg": dit, "vl_self_attention_cfg": refiner}}, None)
    assert parsed.action_head.dit == DitConfig(
        num_heads=24, head_dim=64, num_layers=12, output_dim=26, dropout=0.1, interleave_self_attention=False
    )
    assert parsed.action_head.refiner == RefinerConfig(num_heads=32, head_dim=64, num_layers=12, dropout=0.1)


def test_features_can_be_projected_and_left_unrefined(tiny: Path, model_json: dict, vlm_json: dict):
    model_json["backbone_cfg"]["project_to_dim"] = 20
    head = model_json["action_head_cfg"]
    head |= {"backbone_embedding_dim": 20, "use_vlln": False, "num_target_vision_tokens": 0}
    head["diffusion_model_cfg"]["cross_attention_dim"] = 20
    config = N1_5.parse(model_json, vlm_json)
    assert contains(N1_5.dump(config)[0], model_json)
    torch.manual_seed(0)
    model = Gr00tModel(config)
    names = set(published_weights(model, N1_5.names))
    assert {"backbone.eagle_linear.weight", "backbone.eagle_linear.bias"} <= names
    assert not any("vl" in name.split(".")[1] or "future" in name for name in names)
    seen: dict[str, Tensor] = {}
    record(model.action_head.dit, seen, "dit_out")
    model.sample_actions(load_batch(tiny, "single"), num_steps=1)
    assert seen["dit_out"].shape == (1, 1 + 16, 36)  # state and actions, nothing between them


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("backbone_cfg", {"reproject_vision": True}, "backbone_cfg.reproject_vision is True"),
        ("action_head_cfg", {"expand_batch": 4}, "action_head_cfg.expand_batch is 4"),
        ("action_head_cfg", {"backbone_embedding_dim": 64}, "backbone_embedding_dim is 64, .* need 48"),
        ("action_head_cfg", {"input_embedding_dim": 64}, "input_embedding_dim is 64, .* need 40"),
        ("diffusion_model_cfg", {"cross_attention_dim": None}, "cross_attention_dim is 40, .* need 48"),
        ("diffusion_model_cfg", {"positional_embeddings": "sinusoidal"}, "diffusion_model_cfg.positional_embeddings"),
        ("vl_self_attention_cfg", {"num_attention_heads": 3}, "refiner width 36 is not the features' width 48"),
        ("vl_self_attention_cfg", {"positional_embeddings": "sinusoidal"}, "vl_self_attention_cfg.positional"),
        ("eagle_config", {"use_pixel_shuffle": True}, "use_pixel_shuffle is True"),
        ("text_config", {"rope_scaling": {"factor": 2}}, "text_config.rope_scaling"),
    ],
)
def test_options_that_are_not_supported_are_refused(
    model_json: dict, vlm_json: dict, section: str, change: dict, message: str
):
    head = model_json["action_head_cfg"]
    sections = {**model_json, **head, **vlm_json, "eagle_config": vlm_json}
    N1_5.parse(copy.deepcopy(model_json), copy.deepcopy(vlm_json))
    sections[section].update(change)
    with pytest.raises(CheckpointError, match=message):
        N1_5.parse(model_json, vlm_json)


def test_one_of_the_tied_tables_is_enough(tiny: Path, caplog: pytest.LogCaptureFixture):
    model, weights = load_tiny(tiny), load_file(tiny / "model.safetensors")
    language = "backbone.eagle_model.language_model"
    output = weights.pop(f"{language}.lm_head.weight")
    assign_weights(model, weights, N1_5.names, "file")
    assert torch.equal(model.backbone.language.embed_tokens.weight, weights[f"{language}.model.embed_tokens.weight"])
    weights.pop(f"{language}.model.embed_tokens.weight")
    assign_weights(model, {**weights, f"{language}.lm_head.weight": output}, N1_5.names, "file")
    assert torch.equal(model.backbone.language.embed_tokens.weight, output)
    assert not caplog.records
    with pytest.raises(CheckpointError, match=r"weights are missing: .*embed_tokens"):
        assign_weights(model, weights, N1_5.names, "file")


def test_checkpoints_from_before_future_tokens_are_refused_with_the_remedy(
    tiny: Path, model_json: dict, vlm_json: dict
):
    model, weights = load_tiny(tiny), load_file(tiny / "model.safetensors")
    weights.pop("action_head.future_tokens.weight")
    with pytest.raises(CheckpointError, match=r"before 8 July 2025 .* set num_target_vision_tokens .* to 0"):
        assign_weights(model, weights, N1_5.names, "file")
    model_json["action_head_cfg"]["num_target_vision_tokens"] = 0
    assign_weights(Gr00tModel(N1_5.parse(model_json, vlm_json)), weights, N1_5.names, "file")
