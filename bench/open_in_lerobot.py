#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check that the real lerobot library opens what this suite writes, and gets equal tensors out of it.

Writes a dataset of two cameras, three episodes and two tasks in the version that the installed lerobot reads (0.3.x:
v2.1, 0.4.x: v3.0), in two sittings of the writer, and compares with what was given to the writer: every row, windows
by `delta_timestamps`, task texts, decoded images, statistics (against lerobot's own functions on the same values).
Images carry their number in their pixels. One line per check; exit code 1 when any differs.

lerobot is not a dependency of the suite: run this in a separate environment, which needs no more than

    pip install torch torchcodec "datasets<4" lerobot==0.3.3        for v2.1
    pip install torch torchcodec "datasets>=4,<5" lerobot==0.4.4    for v3.0

and what this suite's library needs (numpy, pyarrow, av, PyYAML).

    PYTHONPATH=gr00t_training python3 -m bench.open_in_lerobot [--keep FOLDER] [--codec av1]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # a dataset that lerobot finds incomplete must fail here, not be downloaded

import numpy as np
import torch

from gr00t_training.dataset.media.video import VideoCodec, VideoSettings
from gr00t_training.dataset.reader import EpisodeDataset as OwnDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey
from gr00t_training.types import Frame

FPS = 30
EMBODIMENT = Embodiment(
    name="two_cameras",
    tag="new_embodiment",
    fps=FPS,
    state={"arm": VectorKey(names=("a", "b", "still")), "gripper": VectorKey(names=("g",))},
    action={"arm": VectorKey(names=("a", "b", "still")), "gripper": VectorKey(names=("g",))},
    # the first is large enough for lerobot to thin it before it takes statistics
    video={"front": VideoKey(height=240, width=320), "wrist": VideoKey(height=96, width=128)},
)
TASKS = ("lift the cube", "put it into the box – gently")
# (rows, number of the first row that has the second task); one is long enough for lerobot to sample its images
EPISODES = ((40, 40), (25, 0), (130, 60))
NUM_BITS = 8
NUMBER_BLOCK_PX = 8
# Decoders differ by rounding when they turn yuv420p into RGB.
MAX_MEAN_DIFFERENCE = 1.5  # of 255
MAX_DIFFERENCE = 12
# lerobot means and squares float32 in float32: a joint that stands still gets a deviation of a few thousandths.
STATISTIC_TOLERANCE = 5e-3
# Quantiles of images: lerobot samples them and takes a histogram, the writer counts the levels of all.
QUANTILE_TOLERANCE = 0.06


@dataclass(frozen=True)
class Row:
    """What was given to the writer."""

    episode: int
    frame: int
    state: np.ndarray  # (4,) float32
    action: np.ndarray  # (4,) float32
    task: str
    images: Mapping[str, np.ndarray]  # key -> (H, W, 3) uint8


class Checks:
    """Prints each check and remembers whether all were good."""

    def __init__(self) -> None:
        self.num_faults = 0

    def equal(self, what: str, found: Any, expected: Any) -> None:
        """Compare plain values."""
        self._report(what, found == expected, f"found {found!r}, expected {expected!r}")

    def close(self, what: str, found: Any, expected: Any, tolerance: float = 0.0) -> None:
        """Compare arrays of equal shape."""
        found, expected = np.asarray(found), np.asarray(expected)
        if found.shape != expected.shape:
            self._report(what, False, f"shape {found.shape}, expected {expected.shape}")
            return
        worst = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
        self._report(what, worst <= tolerance, f"differs by {worst:.6g}, allowed {tolerance:g}")

    def images(self, what: str, found: np.ndarray, expected: np.ndarray) -> None:
        """Compare decoded images, uint8."""
        if found.shape != expected.shape:
            self._report(what, False, f"shape {found.shape}, expected {expected.shape}")
            return
        difference = np.abs(found.astype(int) - expected.astype(int))
        is_good = difference.mean() <= MAX_MEAN_DIFFERENCE and difference.max() <= MAX_DIFFERENCE
        self._report(what, is_good, f"differ by {difference.mean():.2f} on average, {difference.max()} at most")

    def _report(self, what: str, is_good: bool, difference: str) -> None:
        self.num_faults += not is_good
        print(f"{'ok       ' if is_good else 'DIFFERENT'} {what}{'' if is_good else ': ' + difference}", flush=True)


def main() -> int:
    """Write, open, compare; return 1 when something differs."""
    parser = argparse.ArgumentParser(description="Open a dataset of this suite with the installed lerobot.")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the dataset here and leave it")
    parser.add_argument("--codec", type=VideoCodec, default=VideoCodec.H264, help="codec of the videos (h264, av1)")
    options = parser.parse_args()
    let_torchvision_import()
    import lerobot  # pyright: ignore[reportMissingImports]
    from lerobot.datasets import lerobot_dataset  # pyright: ignore[reportMissingImports]

    version = lerobot_dataset.CODEBASE_VERSION
    print(f"lerobot {lerobot.__version__} reads {version}")
    checks = Checks()
    rows = list(make_rows())
    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "dataset"
        write(path, rows, version, VideoSettings(codec=options.codec))
        dataset = lerobot_dataset.LeRobotDataset("local/dataset", root=path)
        check_metadata(checks, dataset)
        check_rows(checks, dataset, rows, OwnDataset(path))
        check_windows(checks, lerobot_dataset, path, rows)
        check_episode_choice(checks, lerobot_dataset, path, rows)
        check_batches(checks, dataset)
        check_statistics(checks, dataset, rows, Path(folder) / "images")
    print(f"{checks.num_faults} differences" if checks.num_faults else "all equal")
    return 1 if checks.num_faults else 0


def make_rows() -> Iterator[Row]:
    """Yield the rows of all episodes."""
    rng = np.random.default_rng(0)
    for episode, (length, second_task_from) in enumerate(EPISODES):
        for frame in range(length):
            state = np.array([np.sin(frame / 9), rng.normal(), 0.7, frame % 2], np.float32)
            task = TASKS[frame >= second_task_from]
            images = {
                key: make_image(episode * 64 + frame % 64, size.height, size.width, is_red=key == "front")
                for key, size in EMBODIMENT.video.items()
            }
            yield Row(episode, frame, state, (state + episode).astype(np.float32), task, images)


def make_image(number: int, height: int, width: int, *, is_red: bool) -> np.ndarray:
    """Return a colored ramp `(H, W, 3)` with the bits of `number` as black and white blocks in its top row."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = 180 if is_red else 30
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    image[..., 2] = 30 if is_red else 180
    for bit in range(NUM_BITS):
        left = bit * NUMBER_BLOCK_PX
        image[:NUMBER_BLOCK_PX, left : left + NUMBER_BLOCK_PX] = 255 * (number >> bit & 1)
    return image


def number_in(image: np.ndarray) -> int:
    """Return the number that `make_image` put into the pixels."""
    half = NUMBER_BLOCK_PX // 2
    return sum(int(image[half, bit * NUMBER_BLOCK_PX + half, 1] > 127) << bit for bit in range(NUM_BITS))


def write(path: Path, rows: list[Row], version: str, video: VideoSettings) -> None:
    """Write the rows, the last episode with a separate writer."""
    last = len(EPISODES) - 1
    for episodes in (range(last), range(last, last + 1)):
        with DatasetWriter(path, EMBODIMENT, video=video, version=version) as dataset:
            for episode in episodes:
                writer = dataset.start_episode(TASKS[0])
                for row in (row for row in rows if row.episode == episode):
                    writer.add_frame(_frame(row))
                writer.save({"source": "open_in_lerobot"})


def _frame(row: Row) -> Frame:
    return Frame(
        tick_ns=round(row.frame * 1e9 / FPS),
        state={"arm": row.state[:3], "gripper": row.state[3:]},
        action={"arm": row.action[:3], "gripper": row.action[3:]},
        images=row.images,
        task=row.task,
    )


def check_metadata(checks: Checks, dataset: Any) -> None:
    """Compare counts, rate and features."""
    checks.equal("number of episodes", dataset.num_episodes, len(EPISODES))
    checks.equal("number of rows", dataset.num_frames, sum(length for length, _ in EPISODES))
    checks.equal("rate", dataset.fps, FPS)
    checks.equal("cameras", sorted(dataset.meta.camera_keys), sorted(map(_feature, EMBODIMENT.video)))
    checks.equal("channel names", dataset.meta.names["observation.state"], ["a", "b", "still", "g"])
    checks.equal("number of tasks", dataset.meta.total_tasks, len(TASKS))
    columns = {"observation.state", "action", "timestamp", "frame_index", "episode_index", "index", "task_index"}
    checks.equal("columns missing", sorted(columns - set(dataset.hf_dataset.features)), [])


def check_rows(checks: Checks, dataset: Any, rows: list[Row], own: OwnDataset) -> None:
    """Compare every row, and every image with what was written and with what our own reader decodes."""
    items = [dataset[index] for index in range(len(rows))]

    def column(name: str) -> np.ndarray:
        return torch.stack([item[name] for item in items]).numpy()

    checks.close("state", column("observation.state"), [row.state for row in rows])
    checks.close("action", column("action"), [row.action for row in rows])
    checks.close("timestamp", column("timestamp"), [np.float32(row.frame / FPS) for row in rows])
    checks.close("frame_index", column("frame_index"), [row.frame for row in rows])
    checks.close("episode_index", column("episode_index"), [row.episode for row in rows])
    checks.close("index", column("index"), range(len(rows)))
    checks.equal("types", [items[0][name].dtype for name in ("action", "index")], [torch.float32, torch.int64])
    checks.equal("task text of every row", [item["task"] for item in items], [row.task for row in rows])
    for key in EMBODIMENT.video:
        images = np.stack([_pixels(item[_feature(key)]) for item in items])
        numbers = [number_in(row.images[key]) for row in rows]
        checks.equal(f"{key}: number in every image", [number_in(image) for image in images], numbers)
        expected = [own.images(episode, key, range(length)) for episode, (length, _) in enumerate(EPISODES)]
        checks.images(f"{key}: images as our reader decodes them", images, np.concatenate(expected))


def check_windows(checks: Checks, lerobot_dataset: Any, path: Path, rows: list[Row]) -> None:
    """Compare windows that hang over both ends of an episode."""
    steps = {"observation.state": range(-3, 1), "action": range(8), _feature("front"): (-1, 0)}
    times = {name: [step / FPS for step in offsets] for name, offsets in steps.items()}
    dataset = lerobot_dataset.LeRobotDataset("local/dataset", root=path, delta_timestamps=times)
    starts = np.cumsum([0, *(length for length, _ in EPISODES)])
    for episode, (length, _) in enumerate(EPISODES):
        for frame in (0, 1, length // 2, length - 2, length - 1):
            item = dataset[int(starts[episode]) + frame]
            what = f"window at row {frame} of episode {episode}"
            for name, offsets in steps.items():
                wanted = [frame + step for step in offsets]
                inside = [rows[starts[episode] + min(max(place, 0), length - 1)] for place in wanted]
                is_pad = [not 0 <= place < length for place in wanted]
                checks.equal(f"{what}: {name} padding", item[f"{name}_is_pad"].tolist(), is_pad)
                if name == _feature("front"):
                    found = [number_in(_pixels(image)) for image in item[name]]
                    checks.equal(f"{what}: {name}", found, [number_in(row.images["front"]) for row in inside])
                else:
                    values = [row.action if name == "action" else row.state for row in inside]
                    checks.close(f"{what}: {name}", item[name].numpy(), values)


def check_episode_choice(checks: Checks, lerobot_dataset: Any, path: Path, rows: list[Row]) -> None:
    """Open one episode only."""
    dataset = lerobot_dataset.LeRobotDataset("local/dataset", root=path, episodes=[1])
    expected = [row for row in rows if row.episode == 1]
    checks.equal("one episode chosen: rows", len(dataset), len(expected))
    checks.close("one episode chosen: state", torch.stack(list(dataset.hf_dataset["observation.state"])).numpy(),
                 [row.state for row in expected])  # fmt: skip


def check_batches(checks: Checks, dataset: Any) -> None:
    """Go through the dataset as a trainer does."""
    batches = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True)
    indices = sorted(int(index) for batch in batches for index in batch["index"])
    checks.equal("rows of shuffled batches", indices, list(range(len(dataset))))


def check_statistics(checks: Checks, dataset: Any, rows: list[Row], folder: Path) -> None:
    """Compare the statistics that lerobot loads with those its own functions make of the same values."""
    from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats  # pyright: ignore[reportMissingImports]

    per_episode, all_values = [], []
    for episode in range(len(EPISODES)):
        chosen = [row for row in rows if row.episode == episode]
        start = next(index for index, row in enumerate(rows) if row.episode == episode)
        values: dict[str, Any] = {
            "observation.state": np.stack([row.state for row in chosen]),
            "action": np.stack([row.action for row in chosen]),
            "timestamp": np.array([row.frame / FPS for row in chosen], np.float32),
            "frame_index": np.array([row.frame for row in chosen]),
            "episode_index": np.full(len(chosen), episode),
            "index": start + np.arange(len(chosen)),
            "task_index": np.array([TASKS.index(row.task) for row in chosen]),
        }
        all_values.append(dict(values))
        for key in EMBODIMENT.video:
            values[_feature(key)] = _write_images(folder / f"{key}_{episode}", [row.images[key] for row in chosen])
        described = compute_episode_stats(values, dataset.features)
        _correct(described, values)
        per_episode.append(described)
    expected = aggregate_stats(per_episode)
    for name in ("observation.state", "action", "timestamp"):  # what models normalize with is exact over all rows
        joined = np.concatenate([values[name] for values in all_values])
        for kind in {"q01", "q99"} & set(expected[name]):
            expected[name][kind] = np.atleast_1d(np.quantile(joined, int(kind[1:]) / 100, axis=0))
    checks.equal("statistics of", sorted(dataset.meta.stats), sorted(expected))
    for name in sorted(set(expected) & set(dataset.meta.stats)):
        found = dataset.meta.stats[name]
        checks.equal(f"statistics of {name}: kinds missing", sorted(set(expected[name]) - set(found)), [])
        for kind in sorted(set(expected[name]) & set(found)):
            is_estimate = kind.startswith("q") and "images" in name
            tolerance = QUANTILE_TOLERANCE if is_estimate else STATISTIC_TOLERANCE
            if kind in ("min", "max", "count"):
                tolerance = 1e-6
            checks.close(f"statistics of {name}: {kind}", found[kind], expected[name][kind], tolerance)


def _correct(described: dict[str, dict[str, np.ndarray]], values: Mapping[str, Any]) -> None:
    """Put right what lerobot 0.4 gets wrong: it squares images in uint8, and takes quantiles from a histogram."""
    from lerobot.datasets.compute_stats import sample_images  # pyright: ignore[reportMissingImports]

    for name, entry in described.items():
        quantiles = {kind: int(kind[1:]) / 100 for kind in entry if kind.startswith("q")}
        if "images" in name:
            entry["std"] = (sample_images(values[name]) / 255.0).std(axis=(0, 2, 3)).reshape(3, 1, 1)
            continue
        for kind, share in quantiles.items():
            entry[kind] = np.atleast_1d(np.quantile(values[name], share, axis=0))


def _write_images(folder: Path, images: list[np.ndarray]) -> list[str]:
    from PIL import Image

    folder.mkdir(parents=True)
    paths = [folder / f"frame_{number:06d}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path, compress_level=1)
    return [str(path) for path in paths]


def _feature(key: str) -> str:
    return f"observation.images.{key}"


def _pixels(image: torch.Tensor) -> np.ndarray:
    """`(3, H, W)` float 0 to 1 -> `(H, W, 3)` uint8."""
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def let_torchvision_import() -> None:
    """Declare the two operators that torchvision expects of its compiled part.

    lerobot imports torchvision for image transforms only. A wheel built for CUDA cannot load that part together with a
    PyTorch without CUDA, and then cannot be imported at all; nothing here uses these operators.
    """
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        let_torchvision_import.library = library  # type: ignore[attr-defined]  # its end would undo the definitions


if __name__ == "__main__":
    sys.exit(main())
