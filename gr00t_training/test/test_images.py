# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Image processors against the releases, against the libraries that these use, and the device against the CPU."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")
pytest.importorskip("PIL")

import torch
from reference_processor import ProcessorReference, load_processor
from reference_release import load_reference
from safetensors.numpy import load_file
from torch import Tensor

from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_training.errors import ConfigError, ObservationError
from gr00t_training.transforms import resampling
from gr00t_training.transforms.augmentation import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    jitter_bytes,
    jitter_factors,
    rotate_bytes,
)
from gr00t_training.transforms.images import (
    HALF_RANGES,
    EagleImages,
    ImageDraw,
    ImageProcessor,
    QwenImages,
    SquareImages,
    draw_images,
)
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.transforms.resampling import Size

CPU = torch.device("cpu")
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]
RELEASED = ProcessorOptions(use_albumentations=True)  # 256 px, crop 0.95
TORCHVISION = ProcessorOptions(image_crop_size=(230, 230), image_target_size=(256, 256))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def with_borders(options: ProcessorOptions) -> ProcessorOptions:
    return replace(options, letter_box_transform=True)


def make_square(size: int = 224) -> SquareImages:
    return SquareImages(size, torch.float32, tokens=64)


def make_image(size: Size, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def make_gray(size: Size, seed: int = 0) -> np.ndarray:
    """One color: sums of the same weights then differ by their rounding alone."""
    return np.ascontiguousarray(np.broadcast_to(make_image((1, 1), seed), (*size, 3)))


def make_ramp(size: Size, seed: int = 0) -> np.ndarray:
    """Smooth in both directions, with edges of full contrast."""
    rows, columns = np.meshgrid(*(np.linspace(0, 1, side) for side in size), indexing="ij")
    smooth = np.stack([rows, columns, rows * columns], -1) * 255
    smooth[size[0] // 3 : size[0] // 2, size[1] // 4 :] = 255
    return smooth.astype(np.uint8)


# The releases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["n1", "n1_5"])
def test_square_images_equal_the_release(fixtures_dir: ReferenceFiles, spec_dir: ReferenceFiles, version: str):
    configs = json.loads((spec_dir / f"data_configs_{version}.json").read_text())
    folders = sorted(path for path in (fixtures_dir / f"transforms_{version}").iterdir() if path.is_dir())
    assert folders
    for folder in folders:
        reference = load_reference(folder, configs[folder.name])
        images = [reference.raw[f"eval.video.{key}"][0] for key in reference.embodiment.video]
        found = torch.stack(make_square().frames(images)).permute(0, 2, 3, 1).numpy().astype(int)
        difference = np.abs(found - reference.expected["eval.video_concat"][0])
        # CPUs differ in how they round the sums of this resize
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-4, folder.name


@pytest.fixture(scope="module", params=["n1_6_tiny", "n1_7_tiny", "n1_7_tiny_variant"])
def reference(request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles) -> ProcessorReference:
    return load_processor(fixtures_dir / request.param)


def make_processor(options: ProcessorOptions) -> EagleImages | QwenImages:
    """As the tiny checkpoints have it: their backbone takes small images."""
    if options.model_type == "eagle":
        return EagleImages(options)
    return QwenImages(options, min_pixels=4096, max_pixels=1048576)


def raw_images(reference: ProcessorReference, sample: int) -> list[np.ndarray]:
    tag = reference.meta["samples"][sample]["embodiment_tag"]
    views = [reference.part(sample, "video")[key] for key in reference.modalities[tag]["video"]["modality_keys"]]
    return [view[tick] for tick in range(len(views[0])) for view in views]


def as_list(frames: list[Tensor]) -> list[list]:
    return [frame.permute(1, 2, 0).tolist() for frame in frames]


def test_frames_and_pixels_equal_the_release(reference: ProcessorReference):
    processor = make_processor(with_borders(reference.options))
    pixels, grids = [], []
    for i in range(reference.num_samples):
        images = raw_images(reference, i)
        frames = processor.frames(images)
        assert as_list(frames) == reference.expected[f"s{i}.images_after_transform"].tolist()
        packed, grid = processor.pixels(frames)
        sizes = [image.shape[:2] for image in images]
        assert torch.equal(processor.grids(sizes), grid)
        assert [processor.num_tokens(*size) for size in sizes] == [rows * columns // 4 for rows, columns in grid]
        assert torch.equal(processor.on_device(sizes, CPU)([torch.tensor(image) for image in images]), packed)
        pixels.append(packed)
        grids.append(grid)
    found, grid = torch.cat(pixels), torch.cat(grids)
    if "pixel_values" in reference.batch:
        assert torch.equal(found, reference.batch["pixel_values"])
        assert torch.equal(grid, reference.batch["image_grid_thw"][:, 1:])
        return
    for i, (rows, columns) in enumerate(grid.tolist()):  # N1.6: one image each, (1, 3, H, W)
        part, found = found[: rows * columns], found[rows * columns :]
        image = part.view(rows, columns, 14, 14, 3).permute(4, 0, 2, 1, 3).reshape(1, 3, rows * 14, columns * 14)
        assert torch.equal(image, reference.batch[f"pixel_values.{i}"])
    assert len(found) == 0


def test_frames_without_borders_equal_the_release(fixtures_dir: ReferenceFiles):
    reference = load_processor(fixtures_dir / "n1_7_tiny")
    expected = load_file(reference.folder / "image_transform_no_pad.safetensors")
    processor = make_processor(reference.options)
    for i in range(reference.num_samples):
        frames = processor.frames(raw_images(reference, i))
        assert as_list(frames) == expected[f"s{i}.images"].tolist()
        _, grid = processor.pixels(frames)
        assert grid.tolist() == expected[f"s{i}.image_grid_thw"][:, 1:].tolist()


# Stored size --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(480, 640), (256, 256), (180, 320), (97, 131), (640, 480), (720, 1280)], ids=str)
def test_image_in_its_stored_size_gives_the_same_pixels(size: Size):
    """Training and evaluation alike, bit for bit."""
    image, draws = make_image(size), [None, *(draw_images(np.random.default_rng(i)) for i in range(3))]
    for name, processor in processors().items():
        stored = processor.stored(image)
        assert stored.shape[:2] == processor.stored_size(*size), name
        assert stored.size <= image.size, name
        assert processor.stored_size(*stored.shape[:2]) == stored.shape[:2], name
        assert processor.num_tokens(*stored.shape[:2]) == processor.num_tokens(*size), name
        for draw in draws:
            (found,), (expected,) = processor.frames([stored], draw), processor.frames([image], draw)
            assert torch.equal(found, expected), (name, draw)


def test_stored_size_is_that_before_the_random_crop_where_it_is_smaller():
    released, torchvision = EagleImages(RELEASED), QwenImages(TORCHVISION)
    assert released.stored_size(480, 640) == (256, 341)
    assert torchvision.stored_size(480, 640) == (256, 256)
    assert released.stored_size(180, 320) == (180, 320)  # would grow
    assert make_square().stored_size(480, 640) == (480, 640)  # is cropped first
    assert EagleImages(with_borders(RELEASED)).stored_size(480, 640) == (256, 256)
    wide = replace(TORCHVISION, image_target_size=(256, 512), letter_box_transform=True)
    assert QwenImages(wide).stored_size(480, 640) == (480, 640)  # borders would be added again


# Device and CPU -----------------------------------------------------------------------------------------------------

CAMERAS = [(480, 640), (256, 256), (180, 320), (224, 224), (96, 96), (97, 131), (320, 180)]


def processors() -> dict[str, ImageProcessor]:
    both = {"": RELEASED, ", torchvision": TORCHVISION}
    made: dict[str, ImageProcessor] = {
        "square": make_square(),
        "square bfloat16": SquareImages(168, torch.bfloat16, tokens=1),
    }
    for name, options in both.items():
        for borders, chosen in (("", options), (", borders", with_borders(options))):
            made[f"eagle{name}{borders}"] = EagleImages(chosen)
            made[f"qwen{name}{borders}"] = QwenImages(chosen)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("size", CAMERAS, ids=lambda size: f"{size[1]}x{size[0]}")
def test_device_equals_the_cpu(size: Size, device: torch.device):
    images = [make_image(size), make_gray(size, 1), make_ramp(size)]
    for name, processor in processors().items():
        expected, _ = processor.pixels(processor.frames(images))
        program = processor.on_device([size] * len(images), device)
        found = program([torch.tensor(image, device=device) for image in images])
        assert found.dtype == expected.dtype and found.shape == expected.shape, name
        assert torch.equal(found.cpu(), expected), name


@pytest.mark.slow
def test_device_equals_the_cpu_for_full_hd():
    size = (1080, 1920)
    image = make_image(size)
    for processor in (make_square(), QwenImages(RELEASED)):
        expected, _ = processor.pixels(processor.frames([image]))
        assert torch.equal(processor.on_device([size], CPU)([torch.tensor(image)]), expected)


@pytest.mark.slow
def test_cameras_of_several_sizes_keep_their_order():
    sizes = [(96, 128), (64, 64), (96, 128), (120, 90)]
    images = [make_image(size, seed) for seed, size in enumerate(sizes)]
    for name, processor in processors().items():
        expected, grid = processor.pixels(processor.frames(images))
        found = processor.on_device(sizes, CPU)([torch.tensor(image) for image in images])
        assert torch.equal(found, expected), name
        grids = processor.grids(sizes)
        assert (grids is None) == (grid is None)
        if grids is not None and grid is not None:
            assert torch.equal(grids, grid), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
def test_device_programs_can_be_captured():
    device, size = torch.device("cuda"), (480, 640)
    for name, processor in processors().items():
        program = processor.on_device([size], device)
        slot = torch.zeros((*size, 3), dtype=torch.uint8, device=device)
        program([slot])
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = program([slot])
        slot.copy_(torch.tensor(make_image(size)))
        graph.replay()
        assert torch.equal(result, program([slot])), name


# The resizes --------------------------------------------------------------------------------------------------------

# source and target: larger, smaller, one of both, whole factors, one side as it is
RESIZES = [
    ((48, 64), (26, 34)),
    ((48, 64), (24, 32)),
    ((48, 64), (16, 16)),
    ((48, 64), (48, 16)),
    ((48, 64), (60, 91)),
    ((48, 64), (96, 128)),
    ((77, 60), (64, 64)),
    ((60, 77), (64, 64)),
    ((48, 64), (48, 60)),
    ((48, 64), (50, 64)),
    ((61, 243), (64, 256)),
    ((300, 7), (29, 7)),
]


def test_area_resizes_equal_opencv():
    check_resizes(lambda image, size: torch.from_numpy(resampling.resize_area(image, size)), resampling.area_on_device)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialiased_resizes_equal_torch(mode: str):
    def library(image: np.ndarray, size: Size) -> Tensor:
        frame = torch.from_numpy(image).permute(2, 0, 1)[None]
        return resampling.resize_antialiased(frame, size, mode)[0].permute(1, 2, 0)

    def own(source: Size, target: Size, device: torch.device) -> resampling.Resize:
        return resampling.antialiased_on_device(source, target, mode, device)

    check_resizes(library, own)


def test_bicubic_resizes_equal_pillow():
    check_resizes(
        lambda image, size: torch.from_numpy(resampling.resize_pillow(image, size)), resampling.pillow_on_device
    )


def check_resizes(
    library: Callable[[np.ndarray, Size], Tensor],
    own: Callable[[Size, Size, torch.device], resampling.Resize],
) -> None:
    for source, target in RESIZES:
        resize = own(source, target, CPU)
        for make in (make_image, make_ramp, make_gray):
            image = make(source)
            assert torch.equal(resize(torch.from_numpy(image)[None])[0], library(image, target)), (source, target, make)


@pytest.mark.parametrize("target", [(224, 224), (61, 90), (29, 17)])
@pytest.mark.parametrize("group", [4, 1, 16], ids=["x86-64", "nothing fused", "most fused"])
def test_smooth_resizes_differ_from_torch_by_a_gray_level_at_most(
    target: Size, group: int, monkeypatch: pytest.MonkeyPatch
):
    """How torch rounds depends on its build; here it is as on x86-64, or as on two others."""
    monkeypatch.setattr(resampling, "_PLAIN_GROUP", group)
    for source in ((224, 224), (456, 608), (171, 304), (91, 91)):
        resize = resampling.smooth_on_device(source, target, CPU)
        for make in (make_image, make_gray):
            image = torch.from_numpy(make(source))[None].float() / 255
            expected = resampling.resize_smooth(image.permute(0, 3, 1, 2), target).permute(0, 2, 3, 1)
            found, levels = ((pixels * 255).to(torch.uint8).int() for pixels in (resize(image), expected))
            assert (found - levels).abs().max() <= 1, (source, make)


def test_large_images_are_averaged_and_not_sampled():
    stripes = np.zeros((160, 160, 3), np.uint8)
    stripes[:, ::2] = 255  # one pixel wide; the crop leaves 152 columns, 19 for each of the result
    (small,) = make_square(8).frames([stripes])
    assert np.abs(small.numpy().astype(int) - 127).max() <= 12  # the outer filters are cut at the border


def test_borders_are_black_and_the_odd_pixel_comes_last():
    options = ProcessorOptions(
        use_albumentations=True, letter_box_transform=True, shortest_image_edge=7, crop_fraction=1.0
    )
    (frame,) = QwenImages(options).frames([np.full((4, 7, 3), 200, np.uint8)])
    assert frame[0, :, 0].tolist() == [0, 200, 200, 200, 200, 0, 0]


# Sizes and tokens ---------------------------------------------------------------------------------------------------


def test_sizes_and_tokens_by_hand():
    assert QwenImages(RELEASED).num_tokens(256, 256) == 64
    assert QwenImages(RELEASED).grids([(180, 320), (256, 256)]).tolist() == [[16, 28], [16, 16]]
    assert QwenImages(RELEASED).num_tokens(180, 320) == 112
    assert QwenImages(with_borders(RELEASED)).num_tokens(180, 320) == 64
    assert EagleImages(RELEASED).num_tokens(256, 256) == 81
    assert EagleImages(RELEASED).grids([(256, 256)]).tolist() == [[18, 18]]
    assert make_square().num_tokens(480, 640) == 64
    assert make_square().grids([(480, 640)]) is None


def test_small_and_large_frames_are_scaled_to_the_limits():
    # 96 x 96 has too few pixels: x sqrt(65536 / 9216) = 256 / 96
    small = replace(RELEASED, shortest_image_edge=96)
    assert QwenImages(small).grids([(96, 96)]).tolist() == [[16, 16]]
    # 256 x 256 has too many for 10000: x sqrt(10000 / 65536) = 100 / 256, then down to 3 x 32
    assert QwenImages(RELEASED, min_pixels=1, max_pixels=10000).grids([(256, 256)]).tolist() == [[6, 6]]
    # 20 x 20: the next multiples of 28, 28 x 28, are less than 3136 pixels: 56 x 56
    assert EagleImages(replace(RELEASED, shortest_image_edge=20)).grids([(20, 20)]).tolist() == [[4, 4]]
    # 1900 x 1900: 1904 x 1904 is more than 3211264 pixels, 1792 x 1792 just that
    assert EagleImages(replace(RELEASED, shortest_image_edge=1900)).grids([(500, 500)]).tolist() == [[128, 128]]


# Training -----------------------------------------------------------------------------------------------------------


def test_the_same_draw_gives_the_same_images_and_another_draw_others():
    image = make_image((48, 64))
    options = replace(RELEASED, shortest_image_edge=32, color_jitter_params=HALF_RANGES, random_rotation_angle=10)
    for processor in (make_square(28), QwenImages(options)):
        one, two = processor.frames([image, image], draw_images(np.random.default_rng(3)))
        assert torch.equal(one, two)
        assert torch.equal(one, processor.frames([image], draw_images(np.random.default_rng(3)))[0])
        assert not torch.equal(one, processor.frames([image], draw_images(np.random.default_rng(4)))[0])


def test_draws_are_those_of_earlier_versions():
    drawn, rng = draw_images(np.random.default_rng(5)), np.random.default_rng(5)
    factors = [
        ("brightness", rng.uniform(0.7, 1.3)),
        ("contrast", rng.uniform(0.6, 1.4)),
        ("saturation", rng.uniform(0.5, 1.5)),
        ("hue", rng.uniform(-0.08, 0.08)),
    ]
    expected = [factors[i] for i in rng.permutation(4)]
    assert (drawn.top, drawn.left) == (rng.random(), rng.random())
    assert jitter_factors(drawn, HALF_RANGES) == expected
    assert jitter_factors(drawn, {"hue": 0.0, "contrast": 3.0})[0] == (
        "contrast",
        pytest.approx(4 * dict(drawn.jitter)["contrast"]),
    )


def test_training_crops_reach_all_borders():
    """A 40 x 40 image is cut to 38 x 38; at size 38 nothing is resized."""
    image = (np.arange(1600).reshape(40, 40, 1).repeat(3, 2) // 7 % 256).astype(np.uint8)
    for top, left, rows, columns in ((0.0, 0.0, (0, 38), (0, 38)), (0.999, 0.999, (2, 40), (2, 40))):
        cut = make_square(38).frames([image], ImageDraw(top, left, ()))[0].permute(1, 2, 0).numpy()
        part = image[slice(*rows), slice(*columns)]
        assert np.abs(cut.astype(int) - part).max() <= 1
    center = make_square(38).frames([image])[0].permute(1, 2, 0).numpy()
    assert np.abs(center.astype(int) - image[1:39, 1:39]).max() <= 1


@pytest.mark.parametrize(("top", "left", "first"), [(0.0, 0.0, (0, 0)), (0.999, 0.5, (4, 2)), (None, None, (2, 2))])
def test_crops_of_the_torchvision_path_by_hand(top: float | None, left: float | None, first: Size):
    """36 of 40; every pixel of the frame is in the crop, so its corners are the crop's."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(40)[:, None] * 6, np.arange(40) * 6
    options = ProcessorOptions(image_crop_size=(36, 36), image_target_size=(40, 40))
    draw = None if top is None or left is None else ImageDraw(top, left, ())
    (frame,) = QwenImages(options).frames([image], draw)
    assert frame[:2, 0, 0].tolist() == [6 * first[0], 6 * first[1]]
    assert frame[:2, -1, -1].tolist() == [6 * (first[0] + 35), 6 * (first[1] + 35)]


def test_color_jitter_by_hand():
    frame = torch.tensor([[0.8, 0.2], [0.4, 0.2], [0.2, 0.2]]).reshape(3, 1, 2)  # two pixels: (.8, .4, .2), gray .2
    assert adjust_brightness(frame, 1.5)[:, 0, 0].tolist() == pytest.approx([1.0, 0.6, 0.3])
    gray = 0.2989 * 0.8 + 0.587 * 0.4 + 0.114 * 0.2  # 0.49672
    assert adjust_saturation(frame, 0.0)[:, 0, 0].tolist() == pytest.approx([gray] * 3)
    assert adjust_saturation(frame, 1.2)[:, 0, 0].tolist() == pytest.approx(
        [min(1, gray + 1.2 * (v - gray)) for v in (0.8, 0.4, 0.2)]
    )
    mean = (gray + 0.9999 * 0.2) / 2
    assert adjust_contrast(frame, 0.5)[:, 0, 1].tolist() == pytest.approx([mean + 0.5 * (0.2 - mean)] * 3)


def test_hue_equals_the_standard_library():
    colors = [(0.8, 0.4, 0.2), (0.1, 0.9, 0.3), (0.2, 0.3, 0.7), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 0.0, 1.0)]
    frame = torch.tensor(colors).T.reshape(3, 1, -1)
    for shift in (-0.08, 0.0, 0.05):
        found = adjust_hue(frame, shift)[:, 0].T.tolist()
        for color, turned in zip(colors, found, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*color)
            assert turned == pytest.approx(colorsys.hsv_to_rgb((h + shift) % 1, s, v), abs=1e-5)


@pytest.mark.parametrize(
    "step", [("brightness", 1.2), ("brightness", 0.0), ("contrast", 0.7), ("saturation", 1.4), ("hue", 0.05)]
)
def test_colors_in_bytes_are_those_in_floats(step: tuple[str, float]):
    image = make_ramp((40, 60))
    name, factor = step
    adjust = {
        "brightness": adjust_brightness,
        "contrast": adjust_contrast,
        "saturation": adjust_saturation,
        "hue": adjust_hue,
    }[name]
    expected = adjust(torch.from_numpy(image).permute(2, 0, 1) / 255, factor).permute(1, 2, 0).numpy() * 255
    difference = np.abs(jitter_bytes(image, [step]) - expected)
    assert difference.max() <= (12 if name == "hue" else 1.5)  # hues in bytes are two degrees apart
    assert difference.mean() < 1.5


def test_rotations_turn_about_the_center():
    image = make_image((9, 9))
    for is_smooth in (True, False):
        assert np.array_equal(rotate_bytes(image, 90, is_smooth=is_smooth), np.rot90(image))
    white = np.full((9, 9, 3), 255, np.uint8)
    assert rotate_bytes(white, 45, is_smooth=True).min() == 255
    assert rotate_bytes(white, 45, is_smooth=False)[0, 0].tolist() == [0, 0, 0]


# Pixels and errors --------------------------------------------------------------------------------------------------


def test_pixels_run_from_minus_one_to_one():
    black, white = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.full((3, 32, 32), 255, dtype=torch.uint8)
    for processor in (make_square(), QwenImages(RELEASED, min_pixels=1), EagleImages(RELEASED)):
        pixels, _ = processor.pixels([black, white])
        half = len(pixels) // 2
        assert pixels[:half].unique().tolist() == [-1.0] and pixels[half:].unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ProcessorOptions(), "image_crop_size None and image_target_size None; expected both"),
        (ProcessorOptions(image_crop_size=(64, 64), image_target_size=(64, 60)), "with the crop within the target"),
        (replace(RELEASED, crop_fraction=1.5), r"cut to 1\.5 of that; expected .* of at most 1"),
        (replace(RELEASED, shortest_image_edge=None), "images are scaled to None px"),
    ],
)
def test_contradicting_options_are_refused(options: ProcessorOptions, message: str):
    with pytest.raises(ConfigError, match=f"processor_config.json: .*{message}"):
        QwenImages(options)


def test_contradicting_limits_are_refused():
    with pytest.raises(ConfigError, match="at least 9 and at most 4 pixels per image; expected positive numbers"):
        QwenImages(RELEASED, min_pixels=9, max_pixels=4)


def test_images_like_threads_are_refused():
    with pytest.raises(ObservationError, match="at most 200:1 expected"):
        QwenImages(RELEASED).num_tokens(4, 1000)
