# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The N1.6 model against numbers of the reference release (float32, CPU, small random weights)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from reference_release import (
    contains,
    load_packed,
    load_tiny,
    one_sample,
    pack,
    record,
    record_calls,
    relative,
    sampler_steps,
    training_values,
)
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import DitConfig, RefinerConfig
from gr00t_training.model.families import family, variants
from gr00t_training.model.families.n1_6 import N1_6
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.plan import resized_positions
from gr00t_training.model.vision import unshuffle_patches
from gr00t_training.model.weight_names import assign_weights, published_weights

TOLERANCE = 1e-5  # largest difference over largest value
EMBEDDINGS = "backbone.model.language_model.model.embed_tokens.weight"
OUTPUT = "backbone.model.language_model.lm_head.weight"
# Before the final norm, and what the samplers of both families show though the reference's file has it of N1.7 only.
DECOYS = {"backbone.pre_final_norm_NOT_used"}
NOT_IN_FILE = {"denoise.0.action_features_before_pos", *(f"denoise.{k}.temb" for k in range(4))}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny(fixtures_dir: ReferenceFiles) -> Path:
    return fixtures_dir / "n1_6_tiny"


@pytest.fixture
def model_json(tiny: Path) -> dict[str, Any]:
    return read_json(tiny, "config.json")


@pytest.fixture
def vlm_json(tiny: Path) -> dict[str, Any]:
    return read_json(tiny, "backbone/config.json")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def drawn(noise: dict[str, Tensor]) -> Tensor:
    """Return the samples with a state hidden by the reference; config.json says 0.8."""
    return noise["train_state_dropout_uniform"] < 0.8


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_number_of_the_batch_equals_the_reference(tiny: Path, attention: str):
    """All tensors of the file but those of single samples, which the next test has."""
    model, batch, noise = load_tiny(tiny, attention), load_packed(tiny), load_file(tiny / "noise.safetensors")
    backbone, head = model.backbone, model.action_head
    assert head.refiner is not None
    seen: dict[str, Tensor] = {}
    model.check_batch(batch)
    plan = model.plan(batch)
    with torch.no_grad():
        towers = record_calls(backbone.vision)
        seen["backbone.visual_tokens"] = backbone.image_tokens(batch["pixel_values"], plan)[0][None]
        seen["backbone.vision_last_hidden"] = towers[0][1].flatten(0, 1)[None]
        record(backbone, seen, "backbone_features")
        record(head.state_encoder, seen, "state_features")
        record(head.refiner, seen, "vl_embeds")
        seen |= sampler_steps(model, batch, noise["inference_noise"])
    into_transformer = record_calls(head.dit)
    seen |= training_values(model, batch, noise, drawn(noise))
    seen["train.state_features_after_dropout"] = into_transformer[0][0][:, :1]
    is_token, is_image = batch["attention_mask"].bool(), batch["input_ids"] == model.config.backbone.image_token_id
    seen |= {"backbone_attention_mask": is_token, "image_mask": is_image}

    expected = {k: v for k, v in load_file(tiny / "expected.safetensors").items() if not k.startswith("single.")}
    assert seen.keys() - NOT_IN_FILE == expected.keys() - DECOYS
    for name in seen.keys() - NOT_IN_FILE:
        found, right = seen[name], expected[name]
        if name in ("backbone_features", "vl_embeds"):
            found, right = found[is_token], right[is_token]  # nothing looks at padding
        if right.is_floating_point():
            assert relative(found, right) < TOLERANCE, name
        else:
            assert torch.equal(found, right), name


def test_single_samples_equal_the_reference_and_the_batch(tiny: Path):
    model, batch = load_tiny(tiny), load_packed(tiny)
    expected, noise = load_file(tiny / "expected.safetensors"), load_file(tiny / "noise.safetensors")["inference_noise"]
    together = model.sample_actions(batch, noise)
    counts = [sample["n_images"] for sample in read_json(tiny, "meta.json")["samples"]]
    for i in range(len(counts)):
        single = one_sample(batch, i, counts)
        plan = model.plan(single)
        assert plan.padding_mask is None
        with torch.no_grad():
            features = model.features(single["pixel_values"], plan)
        assert relative(features, expected[f"single.{i}.backbone_features"]) < TOLERANCE
        actions = model.sample_actions(single, noise[i : i + 1])
        assert relative(actions, expected[f"single.{i}.action_pred"]) < TOLERANCE
        assert relative(actions, together[i : i + 1]) < TOLERANCE


def test_gradients_equal_the_reference(tiny: Path):
    model, batch, noise = load_tiny(tiny), load_packed(tiny), load_file(tiny / "noise.safetensors")
    reference = read_json(tiny, "train_grad_norms.json")
    model.set_trainable(tune_llm=False, tune_visual=False, tune_top_llm_layers=1)
    model.loss(batch, noise["train_noise"], noise["train_t"], drawn(noise)).backward()
    gradients = {
        N1_6.names.to_published(name): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    assert gradients.keys() == reference.keys()
    largest = max(reference.values())
    for name, gradient in gradients.items():
        # gradients of key biases are zero but for rounding: softmax does not see a shift of all keys
        assert float(gradient.norm()) == pytest.approx(reference[name], rel=2e-4, abs=1e-7 * largest), name


@pytest.mark.parametrize("grid", [(18, 18), (16, 16), (6, 6), (20, 4), (2, 30)])
def test_stored_positions_are_resized_as_a_picture(grid: tuple[int, int]):
    table = torch.randn(256, 5, generator=torch.Generator().manual_seed(0))
    index, share = resized_positions(16, grid)
    picture = table.T.reshape(1, 5, 16, 16)
    resized = F.interpolate(picture, grid, mode="bilinear", align_corners=False, antialias=True)[0].flatten(1).T
    torch.testing.assert_close((table[index] * share[..., None]).sum(0), resized, atol=1e-6, rtol=1e-6)
    if grid == (16, 16):
        assert len(index) == 1
        assert torch.equal(index[0], torch.arange(256))


def test_positions_are_trained_through_the_resizing(tiny: Path):
    model, batch, noise = load_tiny(tiny), load_packed(tiny), load_file(tiny / "noise.safetensors")
    model.loss(batch, noise["train_noise"], noise["train_t"], drawn(noise)).backward()
    gradient = model.backbone.vision.position_embedding.weight.grad
    assert gradient is not None
    assert (gradient != 0).any(1).all()


def test_unshuffle_patches_keeps_the_values_of_a_channel_together():
    """A grid of 2 x 4 patches; channel 0 holds their number, channel 1 ten times it."""
    numbers = torch.arange(8.0)
    patches = torch.stack([numbers, 10 * numbers], -1)[None]
    assert unshuffle_patches(patches, (2, 4), 2)[0].tolist() == [
        [0, 1, 4, 5, 0, 10, 40, 50],
        [2, 3, 6, 7, 20, 30, 60, 70],
    ]


def test_images_of_several_sizes_equal_each_alone(tiny: Path):
    model, generator = load_tiny(tiny), torch.Generator().manual_seed(0)
    image = model.config.backbone.image_token_id
    sizes = [[(56, 84), (84, 84)], [(84, 84)], [(28, 56), (56, 84), (28, 28)]]
    prompts, patches, grids = [], [], []
    for sample in sizes:
        prompt = [5]
        for height, width in sample:
            packed, grid = pack(torch.rand(3, height, width, generator=generator) * 2 - 1)
            patches.append(packed)
            grids.append(grid)
            prompt += [355, *[image] * (grid[0] * grid[1] // 4), 356]
        prompts.append([*prompt, 7])
    longest = max(map(len, prompts))
    batch = {
        "input_ids": torch.tensor([[340] * (longest - len(prompt)) + prompt for prompt in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
        "pixel_values": torch.cat(patches),
        "image_grid": torch.tensor(grids),
        "state": torch.randn(3, 1, 40, generator=generator),
        "embodiment_id": torch.tensor([20, 2, 2]),
    }
    noise = torch.randn(3, 12, 40, generator=generator)
    model.check_batch(batch)
    together = model.sample_actions(batch, noise)
    assert [group.images for group in model.plan(batch).images] == [(0, 4), (1, 2), (3,), (5,)]
    for i in range(3):
        alone = model.sample_actions(one_sample(batch, i, [len(sample) for sample in sizes]), noise[i : i + 1])
        assert relative(together[i : i + 1], alone) < TOLERANCE


def test_every_row_of_state_is_a_token(tiny: Path):
    model, batch, noise = load_tiny(tiny), load_packed(tiny), load_file(tiny / "noise.safetensors")
    one = model.sample_actions(batch, noise["inference_noise"])
    batch["state"] = torch.cat([batch["state"], 2 * batch["state"]], 1)
    model.check_batch(batch)
    tokens = record_calls(model.action_head.dit)
    two = model.sample_actions(batch, noise["inference_noise"])
    assert tokens[0][0].shape == (3, 2 + 12, 32)
    assert two.shape == one.shape
    assert not torch.allclose(one, two, atol=1e-3)


def test_a_learned_token_hides_the_state_in_every_loss_but_in_no_prediction(tiny: Path):
    model, batch = load_tiny(tiny), load_packed(tiny)
    head = model.action_head
    assert head.mask_token is not None
    tokens = head._state_tokens(batch["state"], batch["embodiment_id"])
    torch.manual_seed(0)
    many = head._disturbed(tokens[:1].expand(2000, -1, -1), None)
    hidden = (many == head.mask_token).all(-1).all(-1)
    assert hidden.float().mean() == pytest.approx(0.8, abs=0.03)
    assert torch.equal(many[~hidden], tokens[:1].expand(int((~hidden).sum()), -1, -1))
    before = model.sample_actions(batch, torch.zeros(3, 12, 40))
    with torch.no_grad():
        head.mask_token += 1
    assert torch.equal(model.sample_actions(batch, torch.zeros(3, 12, 40)), before)
    model.set_trainable(tune_projector=False)
    assert not head.mask_token.requires_grad


def test_state_tokens_get_noise_in_training_only(tiny: Path, model_json: dict[str, Any], vlm_json: dict[str, Any]):
    config = N1_6.parse(model_json | {"state_additive_noise_scale": 0.5, "state_dropout_prob": 0.0}, vlm_json)
    head = Gr00tModel(config).action_head
    assert head.mask_token is None
    tokens = torch.zeros(4000, 1, 32)
    noisy = head.train()._disturbed(tokens, None)
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.02)
    assert torch.equal(head.eval()._disturbed(tokens, None), tokens)


def test_the_release_has_the_published_names_and_shapes(spec_dir: ReferenceFiles):
    manifest = read_json(spec_dir, "n1_6_3b_state_dict.json")["tensors"]
    used = {name: entry["shape"] for name, entry in manifest.items() if not name.startswith(N1_6.names.ignored)}
    with torch.device("meta"):
        model = Gr00tModel(variants()["n1_6_3b"].config)
    assert {name: list(weight.shape) for name, weight in published_weights(model, N1_6.names).items()} == used
    assert {N1_6.names.to_ours(name) for name in used} == set(model.state_dict())
    unused = {name: torch.Size(entry["shape"]).numel() for name, entry in manifest.items() if name not in used}
    assert len(unused) == 12  # eleven of the pooling head, and the output vocabulary
    assert unused.pop(OUTPUT) == torch.Size(used[EMBEDDINGS]).numel()

    def count(*modules: torch.nn.Module | None) -> int:
        return sum(parameter.numel() for module in modules if module for parameter in module.parameters())

    backbone, head = model.backbone, model.action_head
    assert count(model) + sum(unused.values()) == 2_975_969_728
    assert count(backbone.vision) + sum(unused.values()) == 427_680_704
    assert count(backbone.connector) == 13_644_800
    assert count(backbone.language) == 1_116_018_688
    assert count(head.dit) == 1_091_722_240
    assert count(head.state_encoder) == 54_607_872
    assert count(head.action_encoder) == 232_931_328
    assert count(head.action_decoder) == 37_785_600
    assert count(head.refiner) == 4_096
    assert head.mask_token is not None
    assert head.mask_token.shape == (1, 1, 1536)


def test_one_of_the_tied_tables_is_enough(tiny: Path, caplog: pytest.LogCaptureFixture):
    model, weights = load_tiny(tiny), load_file(tiny / "model.safetensors")
    output = weights.pop(OUTPUT)
    assign_weights(model, weights, N1_6.names, "file")
    weights.pop(EMBEDDINGS)
    assign_weights(model, {**weights, OUTPUT: output + 1}, N1_6.names, "file")
    assert torch.equal(model.backbone.language.embed_tokens.weight, output + 1)
    assert not caplog.records
    with pytest.raises(CheckpointError, match=f"weights are missing: {EMBEDDINGS}"):
        assign_weights(model, weights, N1_6.names, "file")


def test_a_token_for_the_hidden_state_is_made_where_the_file_has_none(
    tiny: Path, model_json: dict[str, Any], vlm_json: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    weights = load_file(tiny / "model.safetensors")
    without = {name: weight.bfloat16() for name, weight in weights.items() if name != "action_head.mask_token"}
    with torch.device("meta"):
        model = Gr00tModel(N1_6.parse(model_json, vlm_json))
    assign_weights(model, without, N1_6.names, "file")
    token = model.action_head.mask_token
    assert token is not None
    assert (token.dtype, token.device.type) == (torch.bfloat16, "cpu")
    assert 0 < float(token.detach().float().std()) < 0.05
    # and the other way round: a model that does not drop states has no use for it
    undropped = Gr00tModel(N1_6.parse(model_json | {"state_dropout_prob": 0.0}, vlm_json))
    assign_weights(undropped, weights, N1_6.names, "file")
    assert not caplog.records


def test_both_configurations_of_the_fixture_mean_the_same(tiny: Path, vlm_json: dict[str, Any]):
    """One holds what differs from the defaults of the class, the other everything."""
    config = N1_6.parse(read_json(tiny, "config.json"), vlm_json)
    assert config == N1_6.parse(read_json(tiny, "config_full.json"), vlm_json)
    assert config.backbone.vision.grid == 4


def test_configuration_keeps_what_it_does_not_know(model_json: dict[str, Any], vlm_json: dict[str, Any]):
    model_json |= {"invented": {"a": [1]}}
    vlm_json["text_config"]["invented"] = 2
    config = N1_6.parse(model_json, vlm_json)
    written_model, written_vlm = N1_6.dump(config)
    assert contains(written_model, model_json)
    assert contains(written_vlm, vlm_json)
    assert N1_6.parse(written_model, written_vlm) == config


def test_the_release_can_be_written_and_read():
    written_model, written_vlm = N1_6.dump(N1_6.release)
    assert N1_6.parse(written_model, written_vlm) == N1_6.release
    assert N1_6.parse(written_model, None) == N1_6.release
    published = {  # what the published file says, by the specification's table
        "model_type": "Gr00tN1d6",
        "architectures": ["Gr00tN1d6"],
        "select_layer": 16,
        "max_state_dim": 128,
        "max_action_dim": 128,
        "action_horizon": 50,
        "hidden_size": 1024,
        "input_embedding_dim": 1536,
        "state_dropout_prob": 0.8,
        "use_vlln": True,
        "diffusion_model_cfg": {"num_layers": 32, "num_attention_heads": 32, "attention_head_dim": 48},
    }
    assert contains(written_model, published)
    qwen3 = {"head_dim": 128, "num_hidden_layers": 28, "num_key_value_heads": 8, "vocab_size": 151680}
    assert contains(written_vlm, {"image_token_index": 151669, "text_config": qwen3})
    assert contains(written_vlm["vision_config"], {"hidden_size": 1152, "num_hidden_layers": 27, "num_patches": 256})


def test_absent_keys_have_the_defaults_of_the_class_not_of_the_release():
    parsed = N1_6.parse({"model_type": "Gr00tN1d6"}, None)
    assert parsed.backbone == N1_6.release.backbone
    head = parsed.action_head
    assert (head.state_dim, head.action_dim, head.action_horizon, head.state_dropout) == (29, 29, 16, 0.0)
    assert not head.has_mask_token
    assert head.dit == N1_6.release.action_head.dit
    assert head.refiner == RefinerConfig(num_layers=0)
    assert N1_6.parse({"use_vlln": False, "use_alternate_vl_dit": False}, None).action_head.refiner is None
    section = {"positional_embeddings": None, "num_attention_heads": 24, "interleave_self_attention": True}
    expected = DitConfig(num_heads=24, head_dim=64, num_layers=12, output_dim=26, dropout=0.1, attend_text_every_n=2)
    assert N1_6.parse({"diffusion_model_cfg": section}, None).action_head.dit == expected


def test_the_family_is_registered():
    kind = family("Gr00tN1d6")
    assert kind.projectors == N1_6.projectors
    assert (kind.projectors["gr1"], kind.projectors["libero_panda"], kind.projectors["new_embodiment"]) == (20, 2, 10)
    assert kind.vlm_file == "backbone/config.json"


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("config", {"backbone_model_type": "qwen"}, "config.json.backbone_model_type is 'qwen', only 'eagle'"),
        ("config", {"backbone_embedding_dim": 48}, "backbone_embedding_dim is 48, .* need 64"),
        ("config", {"input_embedding_dim": 64}, "input_embedding_dim is 64, .* need 32"),
        ("config", {"action_horizon": 65}, "action horizon 65 exceeds the 64 positions"),
        ("config", {"attend_text_every_n_blocks": 1.5}, "attend_text_every_n_blocks is 1.5"),
        ("diffusion_model_cfg", {"interleave_self_attention": False}, "text and images in turn need self attention"),
        ("diffusion_model_cfg", {"norm_type": "layer_norm"}, "diffusion_model_cfg.norm_type is 'layer_norm'"),
        ("vlm", {"use_pixel_shuffle": False}, "use_pixel_shuffle is False"),
        ("vlm", {"mlp_connector_layers": 1}, "mlp_connector_layers is 1"),
        ("vision_config", {"use_rope": True}, "vision_config.use_rope is True"),
        ("vision_config", {"use_windows_attn": True}, "vision_config.use_windows_attn is True"),
        ("vision_config", {"num_patches": 15}, "15 stored image positions are not a square"),
        ("text_config", {"rope_scaling": {"factor": 2}}, "text_config.rope_scaling"),
    ],
)
def test_options_that_are_not_supported_are_refused(
    model_json: dict[str, Any], vlm_json: dict[str, Any], section: str, change: dict[str, Any], message: str
):
    sections = {**model_json, **vlm_json, "config": model_json, "vlm": vlm_json}
    N1_6.parse(copy.deepcopy(model_json), copy.deepcopy(vlm_json))
    sections[section].update(change)
    with pytest.raises(CheckpointError, match=message):
        N1_6.parse(model_json, vlm_json)
