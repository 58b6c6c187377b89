# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Vision towers and language models against those of the library transformers, with the same weights.

Weights go into the library's modules under their published names, so the tables of names are tested too.
"""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from test_inference import make_batch, make_model, small  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from gr00t_training.model.config import LanguageConfig, QwenVisionConfig, VisionConfig  # noqa: E402
from gr00t_training.model.families import FAMILIES  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.model.plan import Plan  # noqa: E402
from gr00t_training.model.vision import by_group  # noqa: E402
from gr00t_training.model.weight_names import published_weights  # noqa: E402

torch.set_num_threads(1)
# relative to values of order 1 to 10; float32 sums in another order
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
PREFIXES = {  # of the published names: language model, vision tower
    "n1_2b": ("backbone.model.language_model.model.", "backbone.model.vision_model.vision_model."),
    "n1_5_3b": ("backbone.eagle_model.language_model.model.", "backbone.eagle_model.vision_model.vision_model."),
    "n1_6_3b": ("backbone.model.language_model.model.", "backbone.model.vision_model.vision_model."),
}
GRIDS = [(4, 6), (8, 4)]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def language_options(config: LanguageConfig, num_layers: int) -> dict:
    """Return the library's settings of a language model."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads or config.num_heads,
        "head_dim": config.head_width,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attn_implementation": "eager",
    }


def load(module: nn.Module, model: Gr00tModel, prefix: str) -> nn.Module:
    """Put the model's weights whose published names begin with `prefix` into a module of the library."""
    weights = published_weights(model, FAMILIES[model.config.model_type].names)
    found = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    assert found
    missing, surplus = module.load_state_dict(found, strict=False)
    assert not surplus
    assert not [name for name in missing if not name.startswith("head.")], missing  # pooling, which we do not have
    return module.eval()


def outputs_of(module: nn.Module, text: nn.Module, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the last norm of `text` takes, and what it gives, when `module` runs."""
    taken: list[Tensor] = []
    handle = text.norm.register_forward_pre_hook(lambda _module, inputs: taken.append(inputs[0]))
    normed = module(**inputs, use_cache=False).last_hidden_state
    handle.remove()
    return taken[0], normed


def make_case(name: str, padding: int) -> tuple[Gr00tModel, dict[str, Tensor], Plan]:
    model = make_model(small(name), "cpu")
    batch = make_batch(model.config, GRIDS, 2, padding)
    return model, batch, model.plan(batch)


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("name", PREFIXES)
def test_language_models(name: str, padding: int):
    """Llama of N1, Qwen3 of N1.5 and N1.6; rows of padding are ours alone, see `LanguageModel.forward`."""
    model, batch, plan = make_case(name, padding)
    config = model.config.backbone
    options = language_options(config.language, config.num_kept_layers)
    if name == "n1_2b":
        library = transformers.LlamaModel(transformers.LlamaConfig(**options))
    else:
        library = transformers.Qwen3Model(transformers.Qwen3Config(**options))
    library = load(library, model, PREFIXES[name][0])
    x = model.backbone.language.embed_tokens(plan.input_ids)
    torch.testing.assert_close(library.embed_tokens(batch["input_ids"]), x)
    raw, normed = outputs_of(library, library, inputs_embeds=x, attention_mask=batch["attention_mask"])
    found = model.backbone.language(x, plan)
    valid = batch["attention_mask"].bool()
    assert found[valid].abs().mean() > 0.1
    torch.testing.assert_close(found[valid], (normed if config.norms_output else raw)[valid], **TOLERANCE)


@pytest.mark.parametrize("name", ["n1_2b", "n1_5_3b"])
def test_siglip(name: str):
    model, batch, _ = make_case(name, 0)
    config = model.config.backbone.vision
    assert isinstance(config, VisionConfig)
    library = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(**vision_options(config), image_size=config.image_size)
    )
    library = load(getattr(library, "vision_model", library), model, PREFIXES[name][1])
    expected = library(pixel_values=batch["pixel_values"]).last_hidden_state
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(model.backbone.vision(batch["pixel_values"]), expected, **TOLERANCE)


def test_siglip_2_with_images_of_any_size():
    model, batch, plan = make_case("n1_6_3b", 0)
    config = model.config.backbone.vision
    assert isinstance(config, VisionConfig)
    library = transformers.Siglip2VisionModel(
        transformers.Siglip2VisionConfig(**vision_options(config), num_patches=config.grid**2)
    )
    library = load(getattr(library, "vision_model", library), model, PREFIXES["n1_6_3b"][1])
    for patches, group in zip(by_group(batch["pixel_values"], plan.image_grid, plan.images), plan.images, strict=True):
        expected = library(
            patches,
            torch.ones(patches.shape[:2], dtype=torch.long),
            torch.tensor([group.grid] * len(patches)),
        ).last_hidden_state
        assert expected.abs().mean() > 0.1
        torch.testing.assert_close(model.backbone.vision(patches, group), expected, **TOLERANCE)
    assert len(plan.images) == 2


def vision_options(config: VisionConfig) -> dict:
    """Return the library's settings of a tower without the pooling head."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "patch_size": config.patch_size,
        "layer_norm_eps": config.norm_eps,
        "vision_use_head": False,
        "attn_implementation": "eager",
    }


@pytest.mark.parametrize("padding", [0, 3])
def test_qwen3_vl(padding: int):
    """The whole backbone of N1.7: tower with mergers, positions in three axes, middle layers of the tower."""
    model, batch, plan = make_case("n1_7_3b", padding)
    config = model.config.backbone
    vision = config.vision
    assert isinstance(vision, QwenVisionConfig)
    text = language_options(config.language, config.num_kept_layers)
    text["rope_parameters"] |= {"mrope_section": list(config.language.rope_sections or ()), "mrope_interleaved": True}
    library = transformers.Qwen3VLModel(
        transformers.Qwen3VLConfig(
            text_config=text,
            vision_config={
                "depth": vision.num_layers,
                "hidden_size": vision.hidden_size,
                "intermediate_size": vision.intermediate_size,
                "num_heads": vision.num_heads,
                "patch_size": vision.patch_size,
                "temporal_patch_size": vision.temporal_patch_size,
                "spatial_merge_size": config.downsample,
                "num_position_embeddings": vision.num_positions,
                "out_hidden_size": vision.output_dim,
                "deepstack_visual_indexes": list(vision.deepstack_layers),
            },
            image_token_id=config.image_token_id,
            attn_implementation="eager",
        )
    )
    library = load(library, model, "backbone.model.model.")
    grid = batch["image_grid"]
    places: list[Tensor] = []
    library.language_model.register_forward_pre_hook(
        lambda _module, _inputs, options: places.append(options["position_ids"]), with_kwargs=True
    )
    expected, _ = outputs_of(
        library,
        library.language_model,
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        pixel_values=batch["pixel_values"],
        image_grid_thw=torch.cat([torch.ones_like(grid[:, :1]), grid], 1),
        mm_token_type_ids=(batch["input_ids"] == config.image_token_id).int(),
    )
    found = model.features(batch["pixel_values"], plan)
    valid = batch["attention_mask"].bool()
    assert places[0].shape[0] in (3, 4)
    assert not torch.equal(places[0][-1], places[0][-2])  # rows and columns: the images are where they belong
    assert found[valid].abs().mean() > 0.1
    torch.testing.assert_close(found[valid], expected[valid], **TOLERANCE)


def test_the_oracle_sees_a_wrong_weight():
    """The control of this file: one value of one layer, and the comparison fails."""
    model, batch, plan = make_case("n1_2b", 0)
    config = model.config.backbone
    options = language_options(config.language, config.num_kept_layers)
    library = load(transformers.LlamaModel(transformers.LlamaConfig(**options)), model, PREFIXES["n1_2b"][0])
    library.load_state_dict({name: weight.clone() for name, weight in library.state_dict().items()}, assign=True)
    library.layers[1].mlp.up_proj.weight[0, 0] += 0.5
    x = model.backbone.language.embed_tokens(plan.input_ids)
    expected = outputs_of(library, library, inputs_embeds=x, attention_mask=batch["attention_mask"])[1]
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(model.backbone.language(x, plan), expected, **TOLERANCE)


def test_a_name_without_a_module_of_the_library_is_noticed():
    model, _, _ = make_case("n1_2b", 0)
    config = dataclasses.replace(model.config.backbone.language, num_heads=4)
    library = transformers.LlamaModel(transformers.LlamaConfig(**language_options(config, 2)))
    with pytest.raises(AssertionError):
        load(library, model, PREFIXES["n1_2b"][0])
