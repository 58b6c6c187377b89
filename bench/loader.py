#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Time the loader alone, in its modes, on videos with distant key frames and on those that the recorder writes.

Data: `far`: a dataset given by --dataset (GR1's demonstrations have a key frame every 250 frames), repeated under other
episode numbers to --rows, or else made up; `recorder`: made up, three 640x480 cameras as the recorder writes them. Rows
of the table:

    random     a permutation, each frame decoded from the last key frame: the baseline
    memory     a permutation, decoded frames in memory
    streams    mixed segments of episodes, decoded in order
    cached     a permutation, images from the cache on disk, which is filled before
    bytes      the same, not scaled or changed: the GPU does it (--augment-on-gpu)
    features   a permutation, features of the size of N1's from the cache on disk instead of images, of --feature-rows
    lerobot    the dataset class of the installed lerobot, where one is, on the same data

Columns: time to the first batch, samples/s after the first --warm-batches batches, ratio to random, time of a core per
sample and its parts (measured in this process, without workers): images, rows, transforms, joining to a batch.

With --decoders it also compares the suite's reader with torchcodec, where that is installed: single random frames and
64 frames in order, per second of a core, and whether all are equal.

    python3 -m bench.loader --dataset shared/data/lerobot_v20_gr1 --workers 12
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bench.open_in_lerobot import let_torchvision_import
from gr00t_training.checkpoint import new_checkpoint
from gr00t_training.cli.dataset import main as convert
from gr00t_training.dataset.media.video import VideoCodec, VideoReader, VideoSettings
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey, load_embodiment
from gr00t_training.io.cache_folder import CacheFolder
from gr00t_training.model.families import variants
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.data import access, loader
from gr00t_training.train.data.feature_cache import FeatureCache, FeatureDataset, FeaturePlanner
from gr00t_training.train.data.fit import dataset_statistics
from gr00t_training.train.data.order import LANES, BatchOrder
from gr00t_training.train.data.samples import ImageChanges, Source, StepDataset
from gr00t_training.train.settings import Shuffle
from gr00t_training.transforms.images import SquareImages
from gr00t_training.types import Frame, KeyKind, KeyRef

ROWS = ("random", "memory", "streams", "cached", "bytes", "features", "lerobot")
SIZE_PX = 224  # of N1's images
HORIZON = 16


@dataclass
class Measured:
    """One row of the table."""

    data: str
    row: str
    first_s: float
    rate_hz: float
    core_ms: float = 0.0
    parts_ms: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["far", "recorder"], choices=["far", "recorder"])
    parser.add_argument("--dataset", type=Path, help="v2 dataset of GR1's arms with one camera, for `far`")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--frames", type=int, default=20_000, help="rows of `far`; 0: the dataset as it is")
    parser.add_argument("--recorder-frames", type=int, default=600)
    parser.add_argument("--feature-rows", type=int, default=4096, help="of the row `features`, 0.4 MB each")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, help="default: what the trainer would take on a GPU")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    parser.add_argument("--warm-batches", type=int, default=96)
    parser.add_argument("--decoders", action="store_true", help="compare with torchcodec, too")
    parser.add_argument("--folder", type=Path, help="where data is made (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.workers is None:
        options.workers = loader.choose_workers(10**9, torch.device("cuda"))
    print(f"{options.workers} workers, {len(os.sched_getaffinity(0))} cores, batch {options.batch}")
    table: list[Measured] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in options.data:
            path, embodiment = (_far if name == "far" else _recorder)(folder, options)
            print(
                f"\n{name}: {path}\n{'row':9}{'first s':>9}{'samples/s':>11}{'ratio':>7}{'core ms':>9}  parts of it",
                flush=True,
            )
            if options.decoders:
                _compare_decoders(path, embodiment)
            for row in options.rows:
                found = _measure(name, row, path, embodiment, folder / "cache", options)
                if found is None:
                    continue
                table.append(found)
                base = next((each.rate_hz for each in table if each.data == name and each.row == "random"), None)
                ratio = f"{found.rate_hz / base:.2f}" if base else "-"
                parts = ", ".join(f"{part} {ms:.2f}" for part, ms in found.parts_ms.items())
                print(
                    f"{row:9}{found.first_s:>9.2f}{found.rate_hz:>11.0f}{ratio:>7}{found.core_ms:>9.2f}  {parts}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps([each.__dict__ for each in table], indent=1) + "\n", encoding="utf-8")


def _measure(
    name: str, row: str, path: Path, embodiment: Embodiment, cache: Path, options: argparse.Namespace
) -> Measured | None:
    if row == "lerobot":
        return _lerobot(name, path, cache.parent, embodiment, options)
    samples, collate = _samples(path, embodiment), None
    shuffle = Shuffle.STREAMS if row == "streams" else Shuffle.FULL
    if row == "features":
        samples, collate = _features(samples, cache, options.feature_rows)
    if row == "bytes":
        samples.scale_on_device()
    if row in ("cached", "bytes"):
        samples.cache_frames(str(cache), 1000.0)
        for episode in samples.sources[0].episodes():
            for key in embodiment.video_keys:
                samples.sources[0].images(episode, key, [0])
    access.KEPT_BYTES = 2**40 if row == "memory" else 0
    if row == "memory":
        access.NEAR_FRAMES = 0.0  # the recorder's videos, too
    started_s = time.perf_counter()
    batches = loader.make_loader(
        samples,
        batch_size=options.batch,
        seed=0,
        start=0,
        stop=10**6,
        num_workers=options.workers,
        shuffle=shuffle,
        collate=collate,
        pin_memory=torch.cuda.is_available(),
    )
    first_s, rate_hz = _time(iter(batches), started_s, options)
    parts = _parts(samples, shuffle, collate, options)
    return Measured(name, row, first_s, rate_hz, sum(parts.values()), parts)


def _time(batches: Iterator[Any], started_s: float, options: argparse.Namespace) -> tuple[float, float]:
    """Return the time to the first batch, and samples per second after the warm-up."""
    next(batches)
    first_s = time.perf_counter() - started_s
    for _ in itertools.islice(batches, options.warm_batches):
        pass
    since_s, count = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - since_s) < options.seconds:
        next(batches)
        count += 1
    return first_s, count * options.batch / passed_s


def _parts(
    samples: StepDataset, shuffle: Shuffle, collate: FeaturePlanner | None, options: argparse.Namespace
) -> dict[str, float]:
    """Return the milliseconds of a core per sample by part, of samples in the middle of a run."""
    orders = access.choose_access(samples, batch_size=options.batch, seed=0, shuffle=shuffle, num_workers=0)
    source, spent = samples.sources[0], {"images": 0.0, "rows": 0.0, "transforms": 0.0, "joining": 0.0}

    def timed(part: str, function: Callable[..., Any], *inside: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before, other = time.process_time(), sum(spent[name] for name in inside)
            result = function(*args, **kwargs)
            spent[part] += time.process_time() - before - (sum(spent[name] for name in inside) - other)
            return result

        return call

    source.images = timed("images", source.images)  # type: ignore[method-assign]
    source.recorded = timed("rows", source.recorded, "images")  # type: ignore[method-assign]
    pick = timed("transforms", samples.__getitem__, "images", "rows")
    join = timed("joining", collate or samples.pipeline.collate)
    # batches of one lane follow each other, as in a worker
    lane = BatchOrder(samples.mixture, options.batch, 0, 0, 10**6, orders)
    step, num_warm, num_batches = (LANES, 20, 40) if shuffle is Shuffle.STREAMS else (1, 1, 4)
    for count, batch in enumerate(itertools.islice(lane, 0, (num_warm + num_batches) * step, step)):
        if count == num_warm:  # files are open, streams run
            spent.update(dict.fromkeys(spent, 0.0))
        join([pick(position) for position in batch])
    return {part: 1e3 * seconds / (num_batches * options.batch) for part, seconds in spent.items()}


def _compare_decoders(path: Path, embodiment: Embodiment) -> None:
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec cannot be used: {str(error).strip().splitlines()[0]}")
        return
    file = EpisodeDataset(path).video_span(0, embodiment.video_keys[0]).path
    own = VideoReader(file)
    other = VideoDecoder(file, dimension_order="NHWC", num_ffmpeg_threads=1)
    count = min(64, own.num_frames)
    singles = np.random.default_rng(0).integers(0, own.num_frames, 48).tolist()
    ranges = [range(start, start + count) for start in (0, own.num_frames - count)] * 4

    def rate(read: Callable[[Any], np.ndarray], wanted: list[Any], each: int) -> tuple[float, list[np.ndarray]]:
        read(wanted[0])
        since_s = time.process_time()
        found = [read(one) for one in wanted]
        return len(wanted) * each / (time.process_time() - since_s), found

    for what, wanted, each in (("single", [[index] for index in singles], 1), ("in order", ranges, count)):
        mine, theirs = (
            rate(own.read, wanted, each),
            rate(lambda indices: other.get_frames_at(list(indices)).data.numpy(), wanted, each),
        )
        is_equal = all(np.array_equal(one, two) for one, two in zip(mine[1], theirs[1], strict=True))
        print(f"{what:9} suite {mine[0]:.0f} /s, torchcodec {theirs[0]:.0f} /s, {'equal' if is_equal else 'DIFFERENT'}")


def _samples(path: Path, embodiment: Embodiment) -> StepDataset:
    dataset = EpisodeDataset(path)
    checkpoint = new_checkpoint("n1_compact", embodiment, dataset_statistics(dataset, embodiment))
    pipeline = checkpoint.pipeline()
    tokens = pipeline.inputs.images.num_tokens(SIZE_PX, SIZE_PX)
    pipeline.inputs = replace(pipeline.inputs, images=SquareImages(SIZE_PX, torch.bfloat16, tokens=tokens))
    return StepDataset([Source(dataset, pipeline)], seed=0)


def _features(samples: StepDataset, folder: Path, num_rows: int) -> tuple[StepDataset, FeaturePlanner]:
    """Return samples with made-up features that have the shape of N1's, and what joins them."""
    release = variants()["n1_2b"].config
    # one layer of each tower: the size of features does not depend on more
    backbone = replace(
        release.backbone,
        vision=replace(release.backbone.vision, num_layers=1),
        language=replace(release.backbone.language, num_layers=1),
        select_layer=1,
    )
    dit = replace(release.action_head.dit, num_layers=1)
    model = Gr00tModel(replace(release, backbone=backbone, action_head=replace(release.action_head, dit=dit)))
    model.set_trainable(tune_visual=False)
    source = samples.sources[0]
    pipeline = source.pipeline
    tokens = backbone.num_image_tokens
    pipeline.inputs = replace(pipeline.inputs, images=SquareImages(SIZE_PX, torch.bfloat16, tokens=tokens))
    ends = np.cumsum([stretch.count for stretch in source.stretches])
    stretches = source.stretches[: int(np.searchsorted(ends, num_rows)) + 1]
    chosen = StepDataset(
        [Source(source.dataset, pipeline, stretches=stretches)], samples.seed, ImageChanges(are_on=False)
    )
    disk = CacheFolder(folder / "features", 1000.0, "feature_cache_gib")
    cache = FeatureCache(disk, chosen, model, dtype=torch.bfloat16)
    rows = np.random.default_rng(0).integers(0, 2**14, (2**16, backbone.language.hidden_size), np.int16)
    for name, count in cache.sizes().items():
        disk.make(name, lambda file, count=count: np.save(file, rows[:count]))  # type: ignore[misc]
    return FeatureDataset(cache), FeaturePlanner(pipeline, model.config)


def _lerobot(
    name: str, path: Path, folder: Path, embodiment: Embodiment, options: argparse.Namespace
) -> Measured | None:
    if importlib.util.find_spec("lerobot") is None:
        print("lerobot   is not installed")
        return None
    let_torchvision_import()
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset  # type: ignore[import-not-found]

    version = CODEBASE_VERSION if CODEBASE_VERSION.count(".") == 1 else CODEBASE_VERSION.rsplit(".", 1)[0]
    root = path
    if EpisodeDataset(path).version.value != version:
        root = folder / f"{path.name}_{version}"
        if not root.exists():
            convert(["convert", str(path), "--output", str(root), "--dataset-version", version])
    own = EpisodeDataset(root)
    columns = {own.slice_of(KeyRef(KeyKind.ACTION, key)).column for key in embodiment.action_keys}
    window = {column: [tick / own.fps for tick in range(HORIZON)] for column in columns}
    started_s = time.perf_counter()
    dataset = LeRobotDataset("bench/loader", root=root, delta_timestamps=window)
    batches = torch.utils.data.DataLoader(
        dataset,
        batch_size=options.batch,
        shuffle=True,
        num_workers=options.workers,
        pin_memory=torch.cuda.is_available(),
    )
    endless = itertools.chain.from_iterable(iter(batches) for _ in itertools.count())
    first_s, rate_hz = _time(endless, started_s, options)
    return Measured(name, "lerobot", first_s, rate_hz)


def _far(folder: Path, options: argparse.Namespace) -> tuple[Path, Embodiment]:
    if options.dataset is None:
        embodiment = _embodiment("far", {"ego_view": VideoKey(height=256, width=256)}, fps=20)
        path = _written(folder / "far", embodiment, max(2000, options.frames), 400, gop=250)
        return path, embodiment
    embodiment = load_embodiment("gr1_arms_only")
    if not options.frames:
        return options.dataset, embodiment
    return _repeated(options.dataset, folder / "far_repeated", options.frames), embodiment


def _recorder(folder: Path, options: argparse.Namespace) -> tuple[Path, Embodiment]:
    cameras = {key: VideoKey(height=480, width=640) for key in ("front", "left", "right")}
    embodiment = _embodiment("recorder", cameras, fps=30)
    return _written(folder / "recorder", embodiment, options.recorder_frames, 200, gop=None), embodiment


def _embodiment(name: str, cameras: dict[str, VideoKey], fps: int) -> Embodiment:
    names = tuple(f"joint_{i}" for i in range(7))
    return Embodiment(
        name=name,
        tag="new_embodiment",
        fps=fps,
        state={"arm": VectorKey(names=names)},
        action={"arm": VectorKey(names=names)},
        video=cameras,
    )


def _written(path: Path, embodiment: Embodiment, num_rows: int, length: int, *, gop: int | None) -> Path:
    """Write a dataset of moving structure and noise, as a camera sees it; nothing if it is there."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    settings = VideoSettings() if gop is None else VideoSettings(codec=VideoCodec.H264, gop=gop)
    patterns = {
        key: np.kron(rng.integers(0, 200, (video.height // 16 + 8, video.width // 16 + 8, 3)), np.ones((16, 16, 1)))
        for key, video in embodiment.video.items()
    }
    with DatasetWriter(path, embodiment, video=settings) as writer:
        for start in range(0, num_rows, length):
            episode = writer.start_episode("put the cube on the plate")
            for row in range(min(length, num_rows - start)):
                images = {}
                for key, video in embodiment.video.items():
                    shift = row % 100
                    view = patterns[key][shift : shift + video.height, shift : shift + video.width]
                    images[key] = (view + rng.integers(0, 8, view.shape)).astype(np.uint8)
                values = np.sin(row / 20 + np.arange(7))
                episode.add_frame(
                    Frame(
                        tick_ns=round(row * 1e9 / embodiment.fps),
                        images=images,
                        state={"arm": values},
                        action={"arm": values},
                        task="put the cube on the plate",
                    )
                )
            episode.save()
    return path


def _repeated(source: Path, path: Path, num_rows: int) -> Path:
    """Copy a v2 dataset so often that it has `num_rows`, each copy under other numbers; nothing if it is there."""
    if path.exists():
        return path
    read = EpisodeDataset(source)
    shutil.copytree(source / "meta", path / "meta")
    lines, total = [], 0
    given = [json.loads(line) for line in (source / "meta/episodes.jsonl").read_text().splitlines()]
    for number in itertools.count():
        if total >= num_rows:
            break
        old = read.episodes[number % len(read)]
        lines.append({**given[number % len(read)], "episode_index": number})
        total += old.length
        table = pq.read_table(old.rows.path)
        if "episode_index" in table.column_names:
            place = table.column_names.index("episode_index")
            table = table.set_column(place, "episode_index", pa.array([number] * table.num_rows))
        for old_file in (old.rows.path, *(span.path for span in old.videos.values())):
            new_file = path / str(old_file.relative_to(source)).replace(f"{old.index:06d}", f"{number:06d}")
            new_file.parent.mkdir(parents=True, exist_ok=True)
            if old_file == old.rows.path:
                pq.write_table(table, new_file)
            elif old_file.exists():
                shutil.copy(old_file, new_file)
    info = json.loads((source / "meta/info.json").read_text()) | {"total_episodes": len(lines), "total_frames": total}
    (path / "meta/info.json").write_text(json.dumps(info))
    (path / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


if __name__ == "__main__":
    main()
