# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The inference path against the plain layers: on the CPU always, with kernels and graphs where there is a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from gr00t_training.model.config import Gr00tConfig, QwenVisionConfig  # noqa: E402
from gr00t_training.model.families import variants  # noqa: E402
from gr00t_training.model.fast.inference import InferenceModel  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel, to_device  # noqa: E402
from gr00t_training.model.sampler import Inpainting  # noqa: E402
from gr00t_training.policy.engine import Engine, Request  # noqa: E402

torch.set_num_threads(1)

STEPS = 4
PROJECTOR = 1
VOCABULARY = 300
FAMILIES = ("n1_2b", "n1_5_3b", "n1_6_3b", "n1_7_3b")
NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU"))
DEVICES = ("cpu", pytest.param("cuda", marks=NEEDS_GPU))


def small(name: str) -> Gr00tConfig:
    """Return a release's structure with few and narrow layers; the image token is the last of the vocabulary."""
    config = variants()[name].config
    backbone, head = config.backbone, config.action_head
    if isinstance(backbone.vision, QwenVisionConfig):
        vision = replace(backbone.vision, num_heads=4, deepstack_layers=(0, 2), output_dim=48)
    else:
        vision = replace(backbone.vision, num_heads=4)
    vision = replace(vision, hidden_size=32, intermediate_size=48, num_layers=4)
    language = replace(
        backbone.language, vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_layers=3, num_heads=4
    )
    if language.num_kv_heads:
        language = replace(language, num_kv_heads=2, head_dim=24)
    if language.rope_sections:
        language = replace(language, rope_sections=(4, 4, 4))
    backbone = replace(backbone, vision=vision, language=language, select_layer=3, image_token_id=VOCABULARY - 1)
    if backbone.projector_dim != -1:
        backbone = replace(backbone, projector_dim=48)
    head = replace(
        head,
        dit=replace(head.dit, num_heads=4, head_dim=8, num_layers=8, output_dim=24),
        refiner=replace(head.refiner, num_heads=4, head_dim=12, num_layers=2) if head.refiner else None,
        hidden_size=24,
        num_embodiments=3,
    )
    return replace(config, backbone=backbone, action_head=head)


def make_model(config: Gr00tConfig, device: str) -> Gr00tModel:
    """Return a model in which all weights matter: fresh norms and biases are ones and zeros."""
    torch.manual_seed(0)
    model = Gr00tModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.to(device)


def make_batch(config: Gr00tConfig, grids: list[tuple[int, int]], samples: int, padding: int) -> dict:
    """Return a batch of samples with two images each; the first one's prompt is shorter by `padding`."""
    backbone, head = config.backbone, config.action_head
    generator = torch.Generator().manual_seed(1)
    rows, pixels = [], []
    for _ in range(samples):
        row = torch.randint(0, VOCABULARY - 10, (5,), generator=generator)
        for grid in grids:
            count = backbone.image_tokens(*grid) if backbone.is_packed else backbone.num_image_tokens
            text = torch.randint(0, VOCABULARY - 10, (3,), generator=generator)
            row = torch.cat([row, torch.full((count,), backbone.image_token_id), text])
            size = (1, 3, config.image_size, config.image_size)
            shape = (grid[0] * grid[1], backbone.vision.patch_dim) if backbone.is_packed else size
            pixels.append(torch.randn(shape, generator=generator))
        rows.append(row)
    input_ids = torch.stack(rows)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, :padding] = 0
    batch = {
        "pixel_values": torch.cat(pixels),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "state": torch.randn((samples, head.state_history or 1, head.state_dim), generator=generator),
        "embodiment_id": torch.full((samples,), PROJECTOR),
    }
    if backbone.is_packed:
        batch["image_grid"] = torch.tensor(grids * samples)
    return batch


def make_noise(config: Gr00tConfig, samples: int) -> torch.Tensor:
    """Return the start of the sampler."""
    head = config.action_head
    shape = (samples, head.action_horizon, head.action_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("samples", "padding"), [(1, 0), (2, 0), (2, 3)])
@pytest.mark.parametrize("name", FAMILIES)
def test_inference_path_equals_the_layers(name: str, samples: int, padding: int, device: str):
    config = small(name)
    model = make_model(config, device)
    batch = to_device(make_batch(config, [(4, 6), (8, 4)], samples, padding), device)
    noise = make_noise(config, samples).to(device)
    features = model.features(batch["pixel_values"], model.plan(batch))
    expected = model.sample_actions(batch, noise, STEPS)
    inference = InferenceModel(model, PROJECTOR, STEPS)
    with torch.inference_mode():
        prepared = inference.prepare(batch)
        found_features = inference.features(batch["pixel_values"], prepared).view_as(features)
        strength = torch.ones((config.action_head.action_horizon, 1), device=device)
        found = inference(batch["pixel_values"], prepared, batch["state"], noise, strength)
    torch.testing.assert_close(found_features, features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # the layers have become views of the joined weights and still compute the same
    torch.testing.assert_close(model.sample_actions(batch, noise, STEPS), expected, rtol=1e-5, atol=1e-5)


def test_no_weight_lies_in_memory_twice():
    model = make_model(small("n1_7_3b"), "cpu")
    before = sum(weight.untyped_storage().nbytes() for weight in model.parameters())
    InferenceModel(model, PROJECTOR, STEPS)
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in model.parameters()}
    assert sum(storages.values()) == before


def test_continuing_a_chunk_equals_the_plain_sampler():
    config = small("n1_7_3b")
    model = make_model(config, "cpu")
    batch, noise = make_batch(config, [(4, 4)], 1, 0), make_noise(config, 1)
    inpainting = Inpainting(make_noise(config, 1)[:, :6].tanh(), frozen_steps=2)
    expected = model.sample_actions(batch, noise, STEPS, inpainting)
    inference = InferenceModel(model, PROJECTOR, STEPS)
    start = torch.cat([inpainting.actions, noise[:, 6:]], 1)
    with torch.inference_mode():
        prepared = inference.prepare(batch)
        strength = inpainting.strength(noise.shape[1])
        found = inference(batch["pixel_values"], prepared, batch["state"], start, strength)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:, :2], inpainting.actions[:, :2])


class Averages:
    """Image transforms that are easy to follow: the mean color of an image fills the model's pixels."""

    def __init__(self, config: Gr00tConfig) -> None:
        self._config = config

    def grids(self, sizes):
        """Return patches per side, half the side of an image; None for square images."""
        return torch.tensor(sizes) // 2 if self._config.backbone.is_packed else None

    def frames(self, images):
        """Return the images as they are."""
        return [torch.from_numpy(image) for image in images]

    def pixels(self, frames):
        """Return the model's pixels and the grids."""
        sizes = [tuple(frame.shape[:2]) for frame in frames]
        return self.on_device(sizes, torch.device("cpu"))(frames), self.grids(sizes)

    def on_device(self, sizes, device):
        """Return the transform."""
        shape = (1, 3, self._config.image_size, self._config.image_size)

        def transform(images):
            parts = []
            for image, (height, width) in zip(images, sizes, strict=True):
                mean = image.float().mean((0, 1)) / 255
                if self._config.backbone.is_packed:
                    parts.append(mean.repeat(height * width // 4, self._config.backbone.vision.patch_dim // 3))
                else:
                    parts.append(mean[None, :, None, None].expand(shape))
            return torch.cat(parts)

        return transform


def make_request(config: Gr00tConfig, batch: dict, sizes: list[tuple[int, int]], seed: int) -> Request:
    """Return a request with the prompt of `batch` and random images."""
    rng = np.random.default_rng(seed)
    samples, horizon = len(batch["state"]), config.action_head.action_horizon
    return Request(
        images=[rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes * samples],
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        state=batch["state"].numpy(),
        start=rng.standard_normal((samples, horizon, config.action_head.action_dim)).astype(np.float32),
        strength=np.ones(horizon, np.float32),
    )


def answer_plainly(model: Gr00tModel, images: Averages, request: Request, batch: dict) -> np.ndarray:
    """Return the actions of the plain layers."""
    device = next(model.parameters()).device
    sizes = [image.shape[:2] for image in request.images]
    raw = [torch.from_numpy(image).to(device) for image in request.images]
    plain = to_device({**batch, "pixel_values": images.on_device(sizes, device)(raw)}, device)
    return model.sample_actions(plain, torch.from_numpy(request.start).to(device), STEPS).cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["n1_2b", "n1_7_3b"])
def test_engine_answers_every_request_by_itself(name: str, device: str):
    """Other images, another prompt of the same length, of another length, another number of cameras: each its own."""
    config = small(name)
    model, images = make_model(config, device), Averages(config)
    engine = Engine(InferenceModel(model, PROJECTOR, STEPS), images)  # type: ignore[arg-type]
    first = make_batch(config, [(4, 4)], 1, 0)
    other = {**first, "input_ids": first["input_ids"].clone()}
    other["input_ids"][0, 0] += 1
    shorter = {**first, "input_ids": first["input_ids"][:, 1:], "attention_mask": first["attention_mask"][:, 1:]}
    two = make_batch(config, [(4, 4), (4, 4)], 1, 0)
    cases = [(first, 1), (first, 1), (other, 1), (first, 1), (shorter, 1), (two, 2), (first, 1)]
    answers = []
    for seed, (batch, cameras) in enumerate(cases):
        request = make_request(config, batch, [(8, 8)] * cameras, seed=0 if seed < 4 else seed)
        answers.append(engine.run(request))
        np.testing.assert_allclose(
            answers[-1], answer_plainly(model, images, request, batch), rtol=1e-5, atol=1e-5, err_msg=str(seed)
        )
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[3])
    assert np.abs(answers[0] - answers[2]).max() > 1e-4  # the prompt is heard


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_stays_as_close_as_another_kernel_does(name: str):
    """Two plain runs that differ in the attention kernel set the measure."""
    config = small(name)
    model = make_model(config, "cuda")
    batch = to_device(make_batch(config, [(8, 8), (8, 8)], 1, 0), "cuda")
    noise = make_noise(config, 1).cuda()
    exact = model.sample_actions(batch, noise, STEPS)
    plain = [make_model(config, "cuda").bfloat16()]
    plain.append(Gr00tModel(config, attention="eager").eval().cuda().bfloat16())
    plain[1].load_state_dict(plain[0].state_dict())
    bound = max(float((part.sample_actions(batch, noise, STEPS) - exact).abs().max()) for part in plain)
    inference = InferenceModel(plain[0], PROJECTOR, STEPS)
    with torch.inference_mode():
        strength = torch.ones((config.action_head.action_horizon, 1), device="cuda")
        found = inference(batch["pixel_values"], inference.prepare(batch), batch["state"], noise, strength)
    assert float((found - exact).abs().max()) <= 2 * bound


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
def test_few_queries_and_parts_of_products():
    from gr00t_training.model.fast import kernels

    torch.manual_seed(0)
    x, weight = torch.randn((17, 1536), device="cuda").bfloat16(), torch.randn((64, 1536), device="cuda").bfloat16()
    parts = kernels.product(x, weight)
    assert parts.shape == (4, 17, 64)
    torch.testing.assert_close(parts.sum(0), x.float() @ weight.float().t(), rtol=1e-4, atol=1e-3)
    keys, values = torch.randn((2, 1, 4, 70, 16), device="cuda").bfloat16()
    found = kernels.attend_few(parts, None, keys, values)
    queries = parts.sum(0).bfloat16().view(1, 17, 4, 16).transpose(1, 2)
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).reshape(17, 64)
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
