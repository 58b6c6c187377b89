# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The N1.7 model against numbers of the reference release (float32, CPU, small random weights)."""

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
    record,
    record_calls,
    relative,
    sampler_steps,
    training_values,
)
from safetensors.torch import load_file
from torch import Tensor

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import DitConfig, RefinerConfig
from gr00t_training.model.dit import Attends, attends
from gr00t_training.model.families import family, variants
from gr00t_training.model.families.n1_7 import N1_7
from gr00t_training.model.gr00t import Gr00tModel, Inpainting, to_device
from gr00t_training.model.plan import corner_positions, image_places, make_plan
from gr00t_training.model.weight_names import assign_weights, published_weights

TOLERANCE = 1e-5  # largest difference over largest value
CASES = ("n1_7_tiny", "n1_7_tiny_variant")
EMBEDDINGS = "backbone.model.model.language_model.embed_tokens.weight"
DECOYS = {"backbone.post_final_norm_NOT_used"}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(params=CASES)
def tiny(request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles) -> Path:
    return fixtures_dir / request.param


@pytest.fixture
def main_tiny(fixtures_dir: ReferenceFiles) -> Path:
    return fixtures_dir / CASES[0]


def read_json(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_number_of_the_batch_equals_the_reference(tiny: Path, attention: str):
    """All tensors of the file but those of single samples, which the next test has."""
    model, batch, noise = load_tiny(tiny, attention), load_packed(tiny), load_file(tiny / "noise.safetensors")
    backbone, head = model.backbone, model.action_head
    seen: dict[str, Tensor] = {}
    model.check_batch(batch)
    plan = model.plan(batch)
    with torch.no_grad():
        seen["backbone.visual_embeds"], deepstack = backbone.image_tokens(batch["pixel_values"], plan)
        seen |= {f"backbone.deepstack.{k}": level for k, level in enumerate(deepstack)}
        embedded = record_calls(backbone.language)
        record(backbone, seen, "backbone_features")
        record(head.state_encoder, seen, "state_features")
        if head.refiner is not None:
            record(head.refiner, seen, "vl_embeds")
        seen |= sampler_steps(model, batch, noise["inference_noise"])
        seen["backbone.inputs_embeds"] = embedded[0][0]
        seen["rtc.action_pred"] = model.sample_actions(
            batch, noise["inference_noise"], inpainting=leftover(tiny, noise)
        )
    seen |= training_values(model, batch, noise)
    is_token, is_image = batch["attention_mask"].bool(), batch["input_ids"] == model.config.backbone.image_token_id
    seen |= {"backbone_attention_mask": is_token, "image_mask": is_image, "backbone.visual_pos_masks": is_image}
    rows = is_image.flatten().nonzero()[:, 0].split([4] * len(batch["image_grid"]))
    seen["backbone.position_ids"] = image_places(is_token, rows, plan.image_grid, 2)

    expected = {k: v for k, v in load_file(tiny / "expected.safetensors").items() if not k.startswith("single.")}
    assert seen.keys() == expected.keys() - DECOYS
    for name, tensor in seen.items():
        if expected[name].is_floating_point():
            assert relative(tensor, expected[name]) < TOLERANCE, name
        else:
            assert torch.equal(tensor, expected[name]), name


def leftover(tiny: Path, noise: dict[str, Tensor]) -> Inpainting:
    options = read_json(tiny, "meta.json")["rtc_options"]
    end, overlap = options["action_horizon"], options["rtc_overlap_steps"]
    earlier = noise["rtc_prev_action"][:, end - overlap : end]
    return Inpainting(earlier, options["rtc_frozen_steps"], options["rtc_ramp_rate"])


def test_single_samples_equal_the_reference(tiny: Path):
    """They differ from the batch's: its shorter prompts are padded, and the action head sees that."""
    model, batch = load_tiny(tiny), load_packed(tiny)
    expected, noise = load_file(tiny / "expected.safetensors"), load_file(tiny / "noise.safetensors")["inference_noise"]
    counts = [sample["n_images"] for sample in read_json(tiny, "meta.json")["samples"]]
    for i in range(len(counts)):
        single = one_sample(batch, i, counts)
        model.check_batch(single)
        plan = model.plan(single)
        assert plan.padding_mask is None
        with torch.no_grad():
            features = model.features(single["pixel_values"], plan)
        assert relative(features, expected[f"single.{i}.backbone_features"]) < TOLERANCE
        actions = model.sample_actions(single, noise[i : i + 1])
        assert relative(actions, expected[f"single.{i}.action_pred"]) < TOLERANCE


def test_gradients_equal_the_reference(tiny: Path):
    model, batch, noise = load_tiny(tiny), load_packed(tiny), load_file(tiny / "noise.safetensors")
    reference = read_json(tiny, "train_grad_norms.json")
    model.set_trainable(tune_llm=False, tune_visual=False)
    model.loss(batch, noise["train_noise"], noise["train_t"]).backward()
    gradients = {
        N1_7.names.to_published(name): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    assert gradients.keys() == reference.keys()
    largest = max(reference.values())
    for name, gradient in gradients.items():
        # gradients of key biases are zero but for rounding: softmax does not see a shift of all keys
        assert float(gradient.norm()) == pytest.approx(reference[name], rel=2e-4, abs=1e-7 * largest), name


def test_text_and_images_are_attended_to_in_turn():
    kinds = [attends(N1_7.release.action_head.dit, i) for i in range(9)]
    assert kinds[1::2] == [Attends.ITSELF] * 4
    assert kinds[::2] == [Attends.TEXT, Attends.IMAGES, Attends.TEXT, Attends.IMAGES, Attends.TEXT]
    every_third = [attends(DitConfig(attend_text_every_n=3), i) for i in range(0, 14, 2)]
    assert [i for i, kind in enumerate(every_third) if kind is Attends.TEXT] == [0, 3, 6]
    assert attends(DitConfig(), 2) is Attends.ALL


def test_an_image_moves_the_text_behind_it_by_its_longer_side():
    """One token of padding, text, an image of 2 x 3 tokens, text; by hand."""
    is_token = torch.tensor([[False] + [True] * 9])
    rows = (torch.arange(2, 8),)
    places = image_places(is_token, rows, ((4, 6),), 2)
    assert places[:, 0].tolist() == [
        [1, 0, 1, 1, 1, 1, 1, 1, 4, 5],
        [1, 0, 1, 1, 1, 2, 2, 2, 4, 5],
        [1, 0, 1, 2, 3, 1, 2, 3, 4, 5],
    ]


def test_stored_positions_are_mixed_from_the_four_around_a_patch():
    """3 x 3 stored, an image of 2 x 4 patches: rows at 0 and 2, columns at 0, 2/3, 4/3 and 2; by hand."""
    index, share = corner_positions(3, (2, 4), 2)
    table = torch.arange(9.0)
    mixed = (table[index] * share).sum(0)
    # both 2 x 2 squares in turn
    torch.testing.assert_close(mixed, torch.tensor([0, 2 / 3, 6, 6 + 2 / 3, 4 / 3, 2, 6 + 4 / 3, 8]))


def test_images_of_several_sizes_equal_each_alone(main_tiny: Path):
    """Three samples with as many tokens each, so that there is no padding to see."""
    model, noise = load_tiny(main_tiny), torch.randn(3, 12, 40, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    image, grids = model.config.backbone.image_token_id, [[(4, 4), (2, 8)], [(2, 8), (8, 2)], [(4, 4), (4, 4)]]
    start, stop = 349, 350
    prompt = [5, start, *[image] * 4, stop, start, *[image] * 4, stop, 7, 8]
    batch = {
        "input_ids": torch.tensor([prompt] * 3),
        "pixel_values": torch.randn(6 * 16, 1536, generator=generator),
        "image_grid": torch.tensor([grid for sample in grids for grid in sample]),
        "state": torch.randn(3, 1, 40, generator=generator),
        "embodiment_id": torch.tensor([24, 2, 2]),
    }
    together = model.sample_actions(batch, noise)
    groups = model.plan(batch).images
    assert [group.images for group in groups] == [(0, 4, 5), (1, 2), (3,)]
    batch["attention_mask"] = torch.ones(3, len(prompt))
    for i in range(3):
        alone = one_sample(batch, i, [2, 2, 2])
        assert relative(together[i : i + 1], model.sample_actions(alone, noise[i : i + 1])) < TOLERANCE
    turned = batch | {"image_grid": batch["image_grid"].flip(1)}
    assert not torch.allclose(model.sample_actions(turned, noise), together, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(variants()))
def test_nothing_but_the_plan_reads_values(variant: str):
    """On the meta device there are none: whatever waited for the device would fail. Also the releases' shapes."""
    config = variants()[variant].config
    with torch.device("meta"):
        model = Gr00tModel(config).eval()
    backbone, head = config.backbone, config.action_head
    grid, patch = (16, 18), backbone.vision.patch_dim
    count = backbone.image_tokens(*grid) if backbone.is_packed else backbone.num_image_tokens
    size = config.image_size
    pixels = torch.zeros(2 * 16 * 18, patch) if backbone.is_packed else torch.zeros(2, 3, size, size)
    ids = torch.full((2, count + 4), 3)
    ids[:, 2:-2] = backbone.image_token_id
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    batch = {
        "pixel_values": pixels,
        "input_ids": ids,
        "attention_mask": mask,
        "image_grid": torch.tensor([grid, grid]),
        "state": torch.zeros(2, 1, head.state_dim),
        "embodiment_id": torch.zeros(2, dtype=torch.long),
    }
    model.check_batch(batch)
    moved = to_device(batch, "meta")
    assert {key for key, value in moved.items() if not value.is_meta} == {"input_ids", "attention_mask", "image_grid"}
    actions = model.sample_actions(moved, num_steps=2)
    assert actions.shape == (2, head.action_horizon, head.action_dim)


def test_the_state_is_hidden_in_training_only(main_tiny: Path):
    model, batch = load_tiny(main_tiny), load_packed(main_tiny)
    head = model.action_head
    tokens = head._state_tokens(batch["state"], batch["embodiment_id"])
    assert torch.equal(head._disturbed(tokens, None), tokens)
    model.train()
    torch.manual_seed(0)
    many = head._disturbed(tokens[:1].expand(2000, -1, -1), None)
    kept = (many == tokens[0]).all(-1).all(-1)
    assert (many[~kept] == 0).all()
    assert kept.float().mean() == pytest.approx(0.2, abs=0.03)  # config.json: 0.8 of them are hidden
    model.eval()
    arguments = (batch, torch.zeros(3, 12, 40), torch.full((3,), 0.5))
    hidden = model.loss(*arguments, torch.tensor([True, False, False]))
    other = {**batch, "state": batch["state"].clone()}
    other["state"][0] = 3.0
    assert model.loss(other, *arguments[1:], torch.tensor([True, False, False])) == hidden
    assert model.loss(other, *arguments[1:]) != model.loss(*arguments)


def test_rows_of_state_are_joined_to_one_token(main_tiny: Path):
    config = N1_7.parse(
        read_json(main_tiny, "config.json") | {"state_history_length": 2}, read_json(main_tiny, "backbone/config.json")
    )
    torch.manual_seed(0)
    model, batch = Gr00tModel(config).eval(), load_packed(main_tiny)
    assert model.action_head.state_encoder.layer1.W.shape == (32, 80, 24)
    with pytest.raises(ValueError, match=r"state: shape \(3, 1, 40\), the model expects \(3, 2, 40\)"):
        model.check_batch(batch)
    batch["state"] = torch.cat([batch["state"], 2 * batch["state"]], 1)
    model.check_batch(batch)
    tokens = model.action_head._state_tokens(batch["state"], batch["embodiment_id"])
    joined = batch["state"].reshape(3, 1, 80)
    assert torch.equal(tokens, model.action_head.state_encoder(joined, batch["embodiment_id"]))
    assert model.sample_actions(batch).shape == (3, 12, 40)


def test_training_times_have_the_release_distribution():
    """E[t] = 0.999 (1 - E[s]) with E[s] = 1.5 / 2.5: 0.3996; deviation of the mean of 20000 draws: 0.002."""
    torch.manual_seed(0)
    with torch.device("meta"):
        head = Gr00tModel(N1_7.release).action_head
    times = head.sample_time(20000, torch.device("cpu"))
    assert float(times.mean()) == pytest.approx(0.3996, abs=0.006)
    assert float(times.min()) >= 0
    assert float(times.max()) <= 0.999


def test_batches_that_do_not_fit_are_refused(main_tiny: Path):
    model, batch = load_tiny(main_tiny), load_packed(main_tiny)
    with pytest.raises(ValueError, match=r"pixel_values: shape \(159, 1536\), the model expects \(160, 1536\)"):
        model.check_batch({**batch, "pixel_values": batch["pixel_values"][1:]})
    with pytest.raises(ValueError, match="image_grid: nothing, the model expects rows and columns"):
        model.check_batch({key: value for key, value in batch.items() if key != "image_grid"})
    with pytest.raises(ValueError, match="image_grid: 3 x 4 patches, the model joins 2 x 2"):
        model.plan({**batch, "image_grid": torch.tensor([[3, 4]])})
    with pytest.raises(ValueError, match="40 image tokens for 9 images, expected 36"):
        model.plan({**batch, "image_grid": batch["image_grid"][1:]})
    torn = batch["input_ids"].clone()
    torn[0, [3, 4]] = torn[0, [4, 3]]
    with pytest.raises(ValueError, match="tokens of an image are not adjacent"):
        model.plan({**batch, "input_ids": torn})
    image = model.config.backbone.image_token_id
    with pytest.raises(ValueError, match="a sample has no image token"):
        model.plan({"input_ids": torch.tensor([[image] * 4, [1] * 4]), "image_grid": torch.tensor([[4, 4]])})


def test_parts_can_be_trained_by_choice(main_tiny: Path):
    model = load_tiny(main_tiny)

    def trained(**flags: Any) -> set[str]:
        off = dict.fromkeys(["tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model", "tune_vlln"], False)
        model.set_trainable(**{**off, **flags})
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def starting(*prefixes: str) -> set[str]:
        return {name for name in model.state_dict() if name.startswith(prefixes)}

    assert trained() == set()
    assert trained(tune_vlln=True) == starting("action_head.refiner.")
    assert trained(tune_diffusion_model=True) == starting("action_head.dit.")
    assert trained(tune_visual=True) == starting("backbone.vision.")
    assert trained(tune_llm=True) == starting("backbone.language.")
    assert trained(tune_top_llm_layers=1) == starting("backbone.language.layers.3.")
    model.train()
    assert model.backbone.language.layers[3].training
    assert not model.backbone.language.layers[2].training
    assert trained(tune_projector=True) == starting(
        "action_head.state_encoder.",
        "action_head.action_encoder.",
        "action_head.action_decoder.",
        "action_head.position_embedding.",
    )
    with pytest.raises(ValueError, match="tune_top_llm_layers is 5, the model keeps 4 layers"):
        model.set_trainable(tune_top_llm_layers=5)


def test_rotary_frequencies_have_the_type_of_the_weights(main_tiny: Path):
    """The release casts its buffers with the model: the second frequency 5e6 ** (-1 / 12) is rounded in bfloat16."""
    config, batch = load_tiny(main_tiny).config, load_packed(main_tiny)
    exact, rounded = (make_plan(config, batch, torch.device("cpu"), kind) for kind in (torch.float32, torch.bfloat16))
    frequency = torch.tensor(5e6 ** (-1 / 12))
    for plan, second in ((exact, frequency), (rounded, frequency.bfloat16().float())):
        cosines = plan.rotary[0]
        assert cosines.dtype == torch.float32
        # token 2 of the first sample is text at place 2; channel pair 0 belongs to time, pair 1 to rows
        torch.testing.assert_close(cosines[0, 0, 2, :2], torch.stack([torch.tensor(2.0), 2 * second]).cos())
    assert frequency != frequency.bfloat16().float()
    patches = rounded.images[0].rotary
    assert patches is not None
    assert torch.equal(patches[0], patches[0].bfloat16().float())


def test_the_release_has_the_published_names_and_shapes(spec_dir: ReferenceFiles):
    manifest = read_json(spec_dir, "n1_7_3b_state_dict.json")
    shapes = {name: entry["shape"] for name, entry in manifest["tensors"].items()}
    with torch.device("meta"):
        model = Gr00tModel(variants()["n1_7_3b"].config)
    ours = {name: list(weight.shape) for name, weight in published_weights(model, N1_7.names).items()}
    assert shapes.pop("backbone.model.lm_head.weight") == ours[EMBEDDINGS]
    assert ours == shapes
    assert {N1_7.names.to_ours(name) for name in shapes} == set(model.state_dict())

    def count(*modules: torch.nn.Module | None) -> int:
        return sum(parameter.numel() for module in modules if module for parameter in module.parameters())

    head = model.action_head
    assert count(model) == 3_144_016_000
    assert count(model.backbone.vision) == 406_957_056
    assert count(model.backbone.language) == 1_116_542_976
    assert count(head.dit) == 1_091_722_240
    assert count(head.state_encoder) == 54_738_944
    assert count(head.action_encoder) == 233_127_936
    assert count(head.action_decoder) == 37_916_800
    assert count(head.refiner) == 4_096 + 201_433_088
    assert count(head.position_embedding) == 1_572_864


@pytest.mark.slow
def test_a_model_of_any_size_can_be_made_from_nothing_and_learns(main_tiny: Path):
    torch.manual_seed(0)
    config = N1_7.parse(read_json(main_tiny, "config.json"), read_json(main_tiny, "backbone/config.json"))
    model, batch, noise = Gr00tModel(config), load_packed(main_tiny), load_file(main_tiny / "noise.safetensors")
    model.set_trainable(tune_llm=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses, shown = [], torch.zeros(3, dtype=torch.bool)
    for _ in range(30):
        loss = model.loss(batch, noise["train_noise"], noise["train_t"], shown)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"backbone.language.norm.weight"}  # kept for the file, not used
    assert losses[-1] < 0.75 * losses[0]  # tokens of width 32 cannot hold the noise of 40 channels


def test_one_of_the_tied_tables_is_enough(main_tiny: Path, caplog: pytest.LogCaptureFixture):
    model, weights = load_tiny(main_tiny), load_file(main_tiny / "model.safetensors")
    output = {"backbone.model.lm_head.weight": weights[EMBEDDINGS] + 1}
    assign_weights(model, {**weights, **output}, N1_7.names, "file")
    assert torch.equal(model.backbone.language.embed_tokens.weight, weights[EMBEDDINGS])
    weights.pop(EMBEDDINGS)
    assign_weights(model, {**weights, **output}, N1_7.names, "file")
    assert torch.equal(model.backbone.language.embed_tokens.weight, output["backbone.model.lm_head.weight"])
    assert not caplog.records
    with pytest.raises(CheckpointError, match=f"1 of 284 weights are missing: {EMBEDDINGS}"):
        assign_weights(model, weights, N1_7.names, "file")


def test_names_of_other_training_programs_are_understood(main_tiny: Path, caplog: pytest.LogCaptureFixture):
    weights = load_file(main_tiny / "model.safetensors")
    exported = {f"_groot_model.{name}": weight for name, weight in weights.items()}
    exported["action_head.dropout_prob_by_embodiment"] = torch.zeros(32)
    model = load_tiny(main_tiny)
    assign_weights(model, exported, N1_7.names, "file")
    assert published_weights(model, N1_7.names).keys() == weights.keys()
    assert not caplog.records


def test_both_configurations_of_the_fixture_mean_the_same(tiny: Path):
    """One holds what differs from the defaults of the class, the other everything."""
    vlm = read_json(tiny, "backbone/config.json")
    config = N1_7.parse(read_json(tiny, "config.json"), vlm)
    assert config == N1_7.parse(read_json(tiny, "config_full.json"), vlm)
    assert config.action_head.state_dropout == 0.8
    assert config.backbone.language.rope_sections == (4, 4, 4)


def test_configuration_keeps_what_it_does_not_know(tiny: Path):
    model_json = read_json(tiny, "config.json") | {"invented": {"a": [1]}}
    vlm_json = read_json(tiny, "backbone/config.json")
    vlm_json["text_config"]["invented"] = 2
    config = N1_7.parse(model_json, vlm_json)
    written_model, written_vlm = N1_7.dump(config)
    assert contains(written_model, model_json)
    assert contains(written_vlm, vlm_json)
    assert N1_7.parse(written_model, written_vlm) == config


def test_the_release_can_be_written_and_read():
    written_model, written_vlm = N1_7.dump(N1_7.release)
    assert N1_7.parse(written_model, written_vlm) == N1_7.release
    assert N1_7.parse(written_model, None) == N1_7.release
    published = {  # what the published file says, by the specification's table
        "model_type": "Gr00tN1d7",
        "architectures": ["Gr00tN1d7"],
        "backbone_embedding_dim": 2048,
        "select_layer": 16,
        "max_state_dim": 132,
        "max_action_dim": 132,
        "action_horizon": 40,
        "hidden_size": 1024,
        "input_embedding_dim": 1536,
        "state_history_length": 1,
        "state_dropout_prob": 0.2,
        "use_alternate_vl_dit": True,
        "attend_text_every_n_blocks": 2,
        "num_inference_timesteps": 4,
        "vl_self_attention_cfg": {"num_layers": 4, "num_attention_heads": 32, "attention_head_dim": 64, "dropout": 0.2},
        "diffusion_model_cfg": {"num_layers": 32, "num_attention_heads": 32, "attention_head_dim": 48},
    }
    assert contains({**written_model, **{k: written_model[k] for k in published}}, published)
    qwen = {"hidden_size": 2048, "num_key_value_heads": 8, "rope_theta": 5e6, "vocab_size": 151936}
    assert contains(written_vlm, {"image_token_id": 151655, "text_config": qwen})
    assert written_vlm["text_config"]["rope_scaling"]["mrope_section"] == [24, 20, 20]
    tower = {"depth": 24, "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17]}
    assert contains(written_vlm, {"vision_config": tower})


def test_absent_keys_have_the_defaults_of_the_class_not_of_the_release():
    parsed = N1_7.parse({"model_type": "Gr00tN1d7"}, None)
    assert parsed.backbone.vision == N1_7.release.backbone.vision
    assert parsed.backbone.select_layer == 12
    assert parsed.action_head.dit.num_layers == 16
    assert parsed.action_head.refiner == RefinerConfig(num_layers=0)
    assert (parsed.action_head.state_dropout, parsed.action_head.action_horizon) == (0.8, 40)
    section = {"positional_embeddings": None, "num_attention_heads": 32}
    refiner = RefinerConfig(num_heads=32, head_dim=64, num_layers=12, dropout=0.1)
    assert N1_7.parse({"vl_self_attention_cfg": section}, None).action_head.refiner == refiner


def test_the_family_is_registered():
    kind = family("Gr00tN1d7")
    assert kind.projectors == N1_7.projectors
    assert (kind.projectors["libero_sim"], kind.projectors["unitree_g1_sonic"]) == (2, 11)
    assert kind.vlm_file == "backbone/config.json"


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("config", {"backbone_model_type": "eagle"}, "config.json.backbone_model_type is 'eagle', only 'qwen'"),
        ("config", {"model_name": "acme/vlm"}, "model_name is 'acme/vlm', supported: nvidia/Cosmos-Reason2"),
        ("config", {"backbone_embedding_dim": 48}, "backbone_embedding_dim is 48, .* need 64"),
        ("config", {"input_embedding_dim": 64}, "input_embedding_dim is 64, .* need 32"),
        ("config", {"action_horizon": 65}, "action horizon 65 exceeds the 64 positions"),
        ("config", {"attend_text_every_n_blocks": 0}, "attend_text_every_n_blocks is 0"),
        ("diffusion_model_cfg", {"interleave_self_attention": False}, "text and images in turn need self attention"),
        ("diffusion_model_cfg", {"positional_embeddings": "sinusoidal"}, "diffusion_model_cfg.positional_embeddings"),
        ("vl_self_attention_cfg", {"num_attention_heads": 3}, "refiner width 48 is not the features' width 64"),
        ("vl_self_attention_cfg", {"positional_embeddings": "sinusoidal"}, "vl_self_attention_cfg.positional"),
        ("vision_config", {"hidden_act": "silu"}, "vision_config.hidden_act is 'silu'"),
        ("vision_config", {"num_position_embeddings": 35}, "35 stored image positions are not a square"),
        ("vision_config", {"out_hidden_size": 48}, "image tokens of width 48 are not the text's 64"),
        ("vision_config", {"deepstack_visual_indexes": [4]}, r"deepstack layers \(4,\)"),
        ("text_config", {"attention_bias": True}, "text_config.attention_bias is True"),
        ("rope_scaling", {"mrope_interleaved": False}, "rope_scaling.mrope_interleaved is False"),
        ("rope_scaling", {"mrope_section": [4, 4, 5]}, "do not add up to 12 channel pairs"),
    ],
)
def test_options_that_are_not_supported_are_refused(
    main_tiny: Path, section: str, change: dict[str, Any], message: str
):
    model_json, vlm_json = read_json(main_tiny, "config.json"), read_json(main_tiny, "backbone/config.json")
    sections = {**model_json, **vlm_json, "config": model_json, "rope_scaling": vlm_json["text_config"]["rope_scaling"]}
    N1_7.parse(copy.deepcopy(model_json), copy.deepcopy(vlm_json))
    sections[section].update(change)
    with pytest.raises(CheckpointError, match=message):
        N1_7.parse(model_json, vlm_json)


def test_the_refiner_can_be_switched_off(main_tiny: Path):
    model_json, vlm_json = read_json(main_tiny, "config.json"), read_json(main_tiny, "backbone/config.json")
    model_json["use_vl_self_attention"] = False
    config = N1_7.parse(model_json, vlm_json)
    assert config.action_head.refiner == RefinerConfig(num_layers=0)
    assert N1_7.parse(*N1_7.dump(config)) == config
    model_json["use_vlln"] = False
    bare = N1_7.parse(model_json, vlm_json)
    assert bare.action_head.refiner is None
    assert N1_7.parse(*N1_7.dump(bare)) == bare
    model_json["use_vl_self_attention"] = True
    unnormed = N1_7.parse(model_json, vlm_json)
    assert N1_7.parse(*N1_7.dump(unnormed)) == unnormed
    names = set(published_weights(Gr00tModel(unnormed), N1_7.names))
    assert "action_head.vl_self_attention.transformer_blocks.0.norm1.weight" in names
    assert not any(name.startswith("action_head.vlln") for name in names)
