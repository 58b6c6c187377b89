# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Images that are changed on the device are those that are changed on the CPU with the same draws."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
cv2 = pytest.importorskip("cv2")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import ConfigError, ObservationError  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.data.samples import ImageChanges, Source, StepDataset  # noqa: E402
from gr00t_training.train.device_images import DeviceImages  # noqa: E402
from gr00t_training.train.planned_batch import BatchPlanner  # noqa: E402
from gr00t_training.train.settings import TrainerSettings  # noqa: E402
from gr00t_training.train.trainer import Trainer  # noqa: E402
from gr00t_training.transforms.augmentation import draw_images, jitter_bytes, jitter_factors  # noqa: E402
from gr00t_training.transforms.device_augmentation import ColorJitter, crop_at, draw_numbers  # noqa: E402
from gr00t_training.transforms.images import HALF_RANGES, EagleImages, QwenImages, SquareImages  # noqa: E402
from gr00t_training.transforms.processor import ProcessorOptions  # noqa: E402

torch.set_num_threads(1)
CPU = torch.device("cpu")
RANDOM = ImageChanges()
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]
LEVEL = 2 / 255  # a gray level in pixels, which are scaled to [-1, 1]
JITTERED = ProcessorOptions(use_albumentations=True, color_jitter_params=HALF_RANGES)
PLAIN = ProcessorOptions(use_albumentations=True, letter_box_transform=True)
TORCHVISION = ProcessorOptions(
    image_crop_size=(230, 230), image_target_size=(256, 256), color_jitter_params={"brightness": 0.3, "hue": 0.05}
)
PROCESSORS = {
    "square": SquareImages(168, torch.float32, tokens=1),
    "eagle": EagleImages(JITTERED),
    "eagle, borders": EagleImages(PLAIN),
    "qwen": QwenImages(JITTERED),
    "qwen, torchvision": QwenImages(TORCHVISION),
}
EMBODIMENT = dataclasses.replace(make_embodiment(size=(64, 96)), action_horizon=16)


def make_image(height, width, seed=0):
    """Return an image with soft colors and hard edges."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
    image[: height // 4] = noise[: height // 4]
    return image


def make_draws(count):
    return [draw_images(np.random.default_rng(seed)) for seed in range(count)]


def assert_within_a_level(found, expected, share=4e-3):
    """A level more at one step can become more at the next, most often in the last columns of bytes.

    OpenCV rounds those behind a multiple of its registers' width, truncates the others, and so do processors differ.
    """
    distance = (found.cpu().float() - expected.float()).abs() / LEVEL
    assert (distance > 1.01).float().mean() < share
    assert distance.max() < 8


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("size", [(96, 128), (256, 320)], ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_same_draws_give_the_same_pixels(name, size, device):
    """Two cameras, one of them of another size, for several samples at once."""
    processor, draws = PROCESSORS[name], make_draws(4)
    sizes = [processor.stored_size(*each) for each in (size, (112, 96), size)]
    images = [[make_image(*each, seed=10 * i + k) for k, each in enumerate(sizes)] for i in range(len(draws))]
    expected = torch.cat(
        [processor.pixels(processor.frames(each, draw))[0] for each, draw in zip(images, draws, strict=True)]
    )
    flat = torch.stack([torch.from_numpy(np.concatenate([x.reshape(-1) for x in each])) for each in images])
    numbers = torch.stack([draw_numbers(draw) for draw in draws])
    found = processor.augmented_on_device(sizes, device)(flat.to(device), numbers.to(device))
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert_within_a_level(found, expected)


@pytest.mark.parametrize("step", HALF_RANGES)
def test_each_color_step_in_bytes_is_that_of_the_cpu(step):
    image, ranges, draws = make_image(128, 160), {step: HALF_RANGES[step]}, make_draws(8)
    numbers = torch.stack([draw_numbers(draw) for draw in draws])
    found = ColorJitter(ranges, CPU).bytes(torch.from_numpy(image).expand(8, -1, -1, -1), numbers)
    for one, draw in zip(found.numpy(), draws, strict=True):
        expected = jitter_bytes(image, jitter_factors(draw, ranges))
        assert np.abs(one.astype(int) - expected).max() <= 1
        assert (one != expected).mean() < 1e-3


def test_colors_stay_where_a_family_changes_none():
    image = torch.from_numpy(make_image(32, 32))[None]
    assert torch.equal(ColorJitter({}, CPU).bytes(image, draw_numbers(make_draws(1)[0])[None]), image)


def test_crops_are_spread_like_those_of_the_cpu():
    """Each place of an image as often as any other, and the same as the CPU's for every draw."""
    image = torch.arange(40 * 30, dtype=torch.int32).view(1, 40, 30, 1)
    draws = make_draws(2000)
    found = crop_at(image.expand(2000, -1, -1, -1), torch.stack([draw_numbers(d) for d in draws]), (38, 28))
    corners = [(int(x) // 30, int(x) % 30) for x in found[:, 0, 0, 0]]
    assert corners == [(int(draw.top * 3), int(draw.left * 3)) for draw in draws]
    counts = [corners.count((row, column)) for row in range(3) for column in range(3)]
    assert min(counts) > 2000 / 9 * 0.75


def test_strengths_are_spread_like_those_of_the_cpu():
    """Order and factors of the color steps are those of `jitter_factors`, draw by draw."""
    draws, gray = make_draws(200), torch.full((1, 3, 2, 2), 0.5)
    brightness = {"brightness": 0.3}
    found = ColorJitter(brightness, CPU).floats(
        gray.expand(200, -1, -1, -1), torch.stack([draw_numbers(d) for d in draws])
    )
    factors = [dict(jitter_factors(draw, brightness))["brightness"] for draw in draws]
    np.testing.assert_allclose(found[:, 0, 0, 0].numpy(), 0.5 * np.array(factors), rtol=1e-6)
    assert min(factors) < 0.72 and max(factors) > 1.28


def test_images_that_are_turned_are_refused():
    turned = dataclasses.replace(JITTERED, random_rotation_angle=5)
    with pytest.raises(ConfigError, match="random_rotation_angle is 5; images are turned on the CPU only"):
        EagleImages(turned).augmented_on_device([(96, 128)], CPU)


# Batches and runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("augmentation") / "dataset"
    with DatasetWriter(root, EMBODIMENT) as writer:
        episode = writer.start_episode("lift the cube")
        for frame in make_frames(EMBODIMENT, 6):
            frame.images["front"][:] = make_image(64, 96, seed=frame.tick_ns % 97)
            episode.add_frame(frame)
        episode.save()
    return EpisodeDataset(root)


def make_samples(dataset, changes=RANDOM):
    checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
    return checkpoint, StepDataset([Source(dataset, checkpoint.pipeline())], 3, changes)


@pytest.mark.parametrize("changes", [ImageChanges(), ImageChanges(num_views=2), ImageChanges(are_on=False)])
def test_batch_of_bytes_becomes_the_batch_of_pixels(dataset, changes):
    checkpoint, samples = make_samples(dataset, changes)
    planner = BatchPlanner(samples.pipeline, checkpoint.config, torch.float32)
    positions = [(0, 1), (3, 2), (1, 5)]
    expected = planner([samples[position] for position in positions])
    sizes = samples.scale_on_device()
    batch = planner([samples[position] for position in positions])
    assert batch.tensors["images"].dtype is torch.uint8 and "pixel_values" not in batch.tensors
    images = DeviceImages(samples.pipeline.inputs.images, sizes, CPU, are_augmented=changes.are_on)
    found = images(batch.tensors)
    assert found.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        if name != "pixel_values":
            assert torch.equal(found[name], tensor), name
    assert_within_a_level(found["pixel_values"], expected.tensors["pixel_values"])
    if not changes.are_on:
        assert torch.equal(found["pixel_values"], expected.tensors["pixel_values"])


def test_images_of_another_size_than_declared_are_refused(dataset):
    _, samples = make_samples(dataset)
    samples.raw_sizes = [(96, 64)]
    with pytest.raises(ObservationError, match=r"images of \[\(64, 96\)\] \(height, width\), expected \[\(96, 64\)\]"):
        samples[(0, 0)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("are_augmented", [True, False])
def test_images_of_a_captured_graph_follow_its_inputs(name, are_augmented):
    processor, device = PROCESSORS[name], torch.device("cuda")
    sizes = [processor.stored_size(96, 128)] * 2
    images = DeviceImages(processor, sizes, device, are_augmented=are_augmented)
    count = sum(height * width * 3 for height, width in sizes)

    def make_batch(seed):
        generator, draws = torch.Generator().manual_seed(seed), make_draws(9)[3 * seed : 3 * seed + 3]
        found = {"images": torch.randint(0, 256, (3, count), generator=generator, dtype=torch.uint8)}
        if are_augmented:
            found["draw"] = torch.stack([draw_numbers(draw) for draw in draws])
        return {key: tensor.to(device) for key, tensor in found.items()}

    slots, other = make_batch(0), make_batch(1)
    images(slots)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = images(slots)["pixel_values"]
    for key, slot in slots.items():
        slot.copy_(other[key])
    graph.replay()
    assert torch.equal(result, images(other)["pixel_values"])


@pytest.mark.slow
def test_run_on_the_device_equals_one_on_the_cpu_and_resumes(dataset, tmp_path):
    def make_trainer(name, weights=None, **changes):
        options = {"batch_size": 2, "max_steps": 4, "save_steps": 2, "device": "cpu", "seed": 1}
        settings = TrainerSettings(**options, **changes)
        if weights:
            checkpoint = load_checkpoint(weights)
            return Trainer(settings, dataset, checkpoint, load_model(checkpoint), tmp_path / name)
        checkpoint, _ = make_samples(dataset)
        torch.manual_seed(1)
        return Trainer(settings, dataset, checkpoint, Gr00tModel(checkpoint.config), tmp_path / name)

    plain = make_trainer("plain")
    plain.train()
    whole = make_trainer("whole", augment_on_gpu=True)
    expected = load_model(load_checkpoint(whole.train())).state_dict()
    assert whole.loss == pytest.approx(plain.loss, rel=1e-2)
    make_trainer("parts", augment_on_gpu=True).train(stop_at=2)
    half = tmp_path / "parts/checkpoint-2"
    resumed = make_trainer("parts", half, augment_on_gpu=True)
    resumed.resume(half)
    found = load_model(load_checkpoint(resumed.train())).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
