# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Features of a frozen backbone on disk, so that the action head trains without running it.

A file holds the features of some hundred consecutive rows, in the type in which the backbone computes them. Its name is
a digest of everything they depend on: weights and configuration of the backbone, prompts, videos, image processing, and
the random choices where images have fixed views. They are those before the backbone's last projection, which always
trains. Padding has none: training hides it.

Letters in shapes: B batch, T prompt tokens, D width of the backbone's features.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
import logging
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.cache_folder import CacheFolder, NewFile
from gr00t_training.io.processes import starting_workers
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.plan import HOST_KEYS, make_context_plan
from gr00t_training.train.data.frame_cache import file_states
from gr00t_training.train.data.loader import start_loader
from gr00t_training.train.data.mapped import HEADER_BYTES, map_array, write_header
from gr00t_training.train.data.order import Position
from gr00t_training.train.data.samples import ImageChanges, Source, StepDataset
from gr00t_training.train.planned_batch import BatchPlanner, PlannedBatch
from gr00t_training.train.step import uncompiled
from gr00t_training.transforms.images import draw_images
from gr00t_training.transforms.pipeline import Pipeline

logger = logging.getLogger(__name__)

VERSION = 1  # of what a backbone computes: to be raised when its code changes the features of the same weights
_ROWS = 256  # of a file; about 100 MB for N1 with one camera
_OPEN_FILES = 4096  # mapped at the same time in a process; the kernel allows about 65,000
_TRAINED = "backbone.linear."  # always; not part of the features
_LINE_S = 10.0  # between lines of progress where stderr is no terminal
_STORED = {torch.float32: "<f4", torch.bfloat16: "<i2", torch.float16: "<f2"}  # numpy has no bfloat16


@dataclass(frozen=True)
class _Block:
    """Consecutive samples of a source whose features are in one file for each view."""

    first: int  # sample of the source
    prompts: np.ndarray  # (rows,) int32, places in the source's list
    names: tuple[str, ...]  # of the files, by view


@dataclass
class _Features:
    """The blocks of one source."""

    prompts: list[tuple[int, ...]] = field(default_factory=list)  # different ones
    blocks: list[_Block] = field(default_factory=list)

    def lengths(self, block: _Block) -> np.ndarray:
        """Return the number of tokens of each row of a block."""
        return np.array([len(prompt) for prompt in self.prompts])[block.prompts]


class FeatureCache:
    """Features of all samples of a run; may be sent to other processes."""

    def __init__(
        self, cache: CacheFolder, samples: StepDataset, model: Gr00tModel, *, dtype: torch.dtype = torch.float32
    ) -> None:
        """Name the files and reserve their space; nothing is computed yet.

        Args:
            cache: that holds them.
            samples: of the run.
            model: with its trained parts chosen and frozen parts in the type that they compute in.
            dtype: in which the backbone computes, and features are stored.

        Raises:
            ConfigError: the backbone trains, images change in every epoch, or the cache has no room.
            DatasetError: a video is missing.
        """
        check_fixed(samples.sources, samples.changes, model)
        self.samples = samples
        self.num_views = samples.changes.num_fixed
        self._cache = cache
        self._dtype = dtype
        self._width = model.config.backbone.language.hidden_size
        self._maps: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        backbone = backbone_digest(model, dtype)
        self._sources: list[_Features] = [self._name(number, backbone) for number in range(len(samples.sources))]
        row_bytes = self._width * dtype.itemsize
        cache.reserve({name: count * row_bytes + HEADER_BYTES for name, count in self.sizes().items()})

    def sizes(self) -> dict[str, int]:
        """Return the number of stored rows of each file."""
        counts: dict[str, int] = {}
        for source in self._sources:
            for block in source.blocks:
                counts |= dict.fromkeys(block.names, int(source.lengths(block).sum()))
        return counts

    def missing(self) -> list[tuple[int, _Block, int]]:
        """List what has to be computed, each file once: source, block and view."""
        found: dict[str, tuple[int, _Block, int]] = {}
        for number, source in enumerate(self._sources):
            for block in source.blocks:
                for view, name in enumerate(block.names):
                    if name not in found and self._cache.find(name) is None:
                        found[name] = number, block, view
        return list(found.values())

    def read(self, source: int, sample: int, view: int) -> tuple[Tensor, tuple[int, ...]]:
        """Return the features `(T, D)` of a sample and the ids of its prompt.

        Args:
            source: number of the source.
            sample: number in the source.
            view: of its images.

        Raises:
            DatasetError: the file was removed or damaged during the run.
        """
        found = self._sources[source]
        block = found.blocks[bisect.bisect_right(found.blocks, sample, key=lambda block: block.first) - 1]
        name, row = block.names[view], sample - block.first
        opened = self._maps.pop(name, None) or self._map(name, found.lengths(block))
        self._maps[name] = opened
        if len(self._maps) > _OPEN_FILES:
            self._maps.popitem(last=False)
        stored, ends = opened
        rows = torch.from_numpy(stored[ends[row] : ends[row + 1]].copy())
        return self._typed(rows), found.prompts[block.prompts[row]]

    def build(
        self, model: Gr00tModel, *, batch_size: int, num_workers: int, autocast: torch.dtype | None = None
    ) -> None:
        """Compute what is missing; several processes share the work.

        Args:
            model: on the device that computes.
            batch_size: samples computed at once.
            num_workers: processes that read the images.
            autocast: type in which float32 parts compute; None: unchanged.

        Raises:
            Gr00tError: a video cannot be read, or the cache cannot be written.
        """
        computer = _Computer(self.samples, model, autocast, self._dtype)
        missing = self.missing()
        rows = sum(len(block.prompts) for _, block, _ in missing)
        if not rows:
            return
        logger.info("computing the backbone's features of %d images once, into %s", rows, self._cache.folder)
        interval_s = 0.1 if sys.stderr.isatty() else _LINE_S
        with tqdm(total=rows, unit="image", desc="features", dynamic_ncols=True, mininterval=interval_s) as bar:
            while missing:
                self._build(missing, computer, batch_size, num_workers, bar)
                missing = self.missing()
                if missing:  # other processes compute them; if one was killed, its part is computed again
                    logger.info("waiting for another process that computes %d files", len(missing))
                    _, block, view = missing[0]
                    new = self._cache.begin(block.names[view])
                    if new is not None:
                        new.cancel()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict()}

    def _typed(self, stored: Tensor) -> Tensor:
        return stored.view(torch.bfloat16) if self._dtype is torch.bfloat16 else stored

    def _map(self, name: str, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored rows of a file and the end of each sample's, from 0."""
        path, ends = self._cache.folder / name, np.concatenate([[0], lengths.cumsum()])
        try:
            stored = map_array(path)
            if stored.shape == (ends[-1], self._width) and stored.dtype == np.dtype(_STORED[self._dtype]):
                return stored, ends
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: was removed during the run; resume the run, which makes it again") from error
        except (OSError, ValueError, RuntimeError):
            pass
        raise DatasetError(f"{path}: is damaged; remove it and resume the run, which makes it again")

    def _name(self, number: int, backbone: str) -> _Features:
        """Divide the samples of a source into blocks and name their files."""
        source, found = self.samples.sources[number], _Features()
        dataset, embodiment = source.dataset, source.pipeline.embodiment
        sizes = [dataset.video_size(key) for _ in embodiment.video_history for key in embodiment.video_keys]
        counts = tuple(source.pipeline.inputs.images.num_tokens(*size) for size in sizes)
        processing = _processing_digest(source.pipeline, sizes)
        spans = {e: [dataset.video_span(e, key) for key in embodiment.video_keys] for e in source.episodes()}
        files = file_states({span.path for each in spans.values() for span in each}, self._cache.folder, dataset.path)
        places: dict[tuple[int, ...], int] = {}
        first = 0
        for stretch in source.stretches:
            videos = [(files[span.path].sha256, span.first, span.count) for span in spans[stretch.episode]]
            for start in range(0, stretch.count, _ROWS):
                count = min(_ROWS, stretch.count - start)
                prompts = [source.pipeline.prompt(source.instruction(first + i), counts) for i in range(count)]
                index = np.array([places.setdefault(prompt, len(places)) for prompt in prompts], np.int32)
                rows = (stretch.first + start, count, embodiment.video_history)
                common = _digest(backbone, processing, videos, rows, prompts)
                draws = [self._draws(view, number, first) for view in range(self.num_views)]
                names = tuple(_digest(common, draw) + ".npy" for draw in draws)
                found.blocks.append(_Block(first, index, names))
                first += count
        found.prompts = list(places)
        return found

    def _draws(self, view: int, source: int, first: int) -> tuple[int, int, int] | None:
        """Return what the random choices of a block depend on; None: images do not change."""
        if not self.samples.changes.are_on:
            return None
        return self.samples.seed, view, self.samples.mixture.starts[source] + first

    def _build(
        self,
        missing: Sequence[tuple[int, _Block, int]],
        computer: _Computer,
        batch_size: int,
        num_workers: int,
        bar: tqdm[Any],
    ) -> None:
        """Compute the missing blocks that no other process is computing."""
        with contextlib.ExitStack() as stack:
            batches = _Claims(self._cache, missing, self.samples, batch_size, stack)
            loader = start_loader(
                self.samples, batches, num_workers=num_workers, collate=computer.planner, pin_memory=computer.is_cuda
            )
            with starting_workers():
                planned = iter(loader)
            for batch in planned:
                for rows in computer.features(batch):
                    if not batches.claimed:
                        break  # the last batch is filled up
                    number, block, new, done = batches.claimed[0]
                    done.append(rows)
                    bar.update()
                    if len(done) == len(block.prompts):
                        lengths = self._sources[number].lengths(block)
                        if [len(each) for each in done] != lengths.tolist():
                            path = self.samples.sources[number].path
                            raise DatasetError(
                                f"{path}: images of another size than meta/info.json says; validate the dataset"
                            )
                        with new:
                            _write(new.file, done, _STORED[self._dtype])
                            new.complete()
                        batches.claimed.popleft()


class FeatureDataset(StepDataset):
    """Samples with features in place of images."""

    def __init__(self, cache: FeatureCache) -> None:
        """Take the samples of a cache that is complete."""
        samples = cache.samples
        super().__init__(samples.sources, samples.seed, samples.changes)
        self._cache = cache

    def __getitem__(self, position: Position) -> dict[str, Tensor]:
        epoch, sample = position[:2]
        number = self.mixture.source_of(sample)
        source, own = self.place(sample)
        features, prompt = self._cache.read(number, own, epoch % self._cache.num_views)
        rng = np.random.default_rng([self.seed, epoch, sample])
        draw_images(rng)  # so that the state is dropped as with images
        observation, actions = source.recorded(own, with_images=False)
        return {"features": features} | source.pipeline.encode_vectors(observation, prompt, actions, rng)


class FeaturePlanner:
    """Joins samples with features to planned batches; works in the loader's processes."""

    def __init__(self, pipeline: Pipeline, config: Gr00tConfig) -> None:
        """Prepare.

        Args:
            pipeline: joins the samples.
            config: of the model.
        """
        self._pipeline = pipeline
        self._config = config

    def __call__(self, samples: Sequence[Mapping[str, Tensor]]) -> PlannedBatch:
        """Return the batch on the host."""
        rest = [{name: x for name, x in sample.items() if name != "features"} for sample in samples]
        batch = self._pipeline.collate(rest)
        plan = make_context_plan(self._config, batch, hides_padding=True)
        longest = batch["input_ids"].shape[1]
        like = samples[0]["features"]
        features = like.new_zeros(len(samples), longest, like.shape[1])  # (B, T, D)
        for place, sample in zip(features, samples, strict=True):
            place[longest - len(sample["features"]) :] = sample["features"]
        return PlannedBatch({"features": features} | {n: x for n, x in batch.items() if n not in HOST_KEYS}, plan)


class _Claims:
    """Batches of positions of the blocks that this process computes; each is claimed when its first row is needed.

    All batches have one size, so that the model runs with one shape: the last one is filled up.
    """

    def __init__(
        self,
        cache: CacheFolder,
        missing: Sequence[tuple[int, _Block, int]],
        samples: StepDataset,
        batch_size: int,
        stack: contextlib.ExitStack,
    ) -> None:
        self._cache = cache
        self._missing = missing
        self._starts = samples.mixture.starts
        self._batch_size = batch_size
        self._stack = stack
        self.claimed: deque[tuple[int, _Block, NewFile, list[np.ndarray]]] = deque()  # not complete yet, in order

    def __iter__(self) -> Iterator[list[Position]]:
        batch: list[Position] = []
        for number, block, view in self._missing:
            new = self._cache.begin(block.names[view], wait=False)
            if new is None:
                continue
            self.claimed.append((number, block, self._stack.enter_context(new), []))
            for row in range(len(block.prompts)):
                batch.append((view, self._starts[number] + block.first + row))
                if len(batch) == self._batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch + batch[-1:] * (self._batch_size - len(batch))


class _Computer:
    """Runs the backbone."""

    def __init__(
        self, samples: StepDataset, model: Gr00tModel, autocast: torch.dtype | None, dtype: torch.dtype
    ) -> None:
        self._samples = samples
        self._model = model
        self._device = next(model.parameters()).device
        self._autocast = autocast
        self._dtype = dtype
        self._plan_dtype = model.backbone.language.embed_tokens.weight.dtype
        self.is_cuda = self._device.type == "cuda"
        self.planner = BatchPlanner(samples.pipeline, model.config, self._plan_dtype)

    def features(self, batch: PlannedBatch) -> list[np.ndarray]:
        """Return the features `(T, D)` of each sample as they are stored, without padding."""
        is_token = batch.plan.padding_mask  # type: ignore[attr-defined]
        on_device = batch.to(self._device)
        stored = self._run(on_device.tensors["pixel_values"], on_device.plan)
        return [rows.numpy() if is_token is None else rows[is_token[i]].numpy() for i, rows in enumerate(stored)]

    @torch.no_grad()
    def _run(self, pixels: Tensor, plan: Any) -> Tensor:
        """Return the features `(B, T, D)` on the host, bfloat16 as int16."""
        casting = torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None)
        with casting, uncompiled():
            found = self._model.hidden_features(pixels, plan)
        stored = found.to(self._dtype).cpu()
        return stored.view(torch.int16) if self._dtype is torch.bfloat16 else stored


def backbone_digest(model: Gr00tModel, dtype: torch.dtype) -> str:
    """Return a digest of everything in the model that its features depend on.

    Args:
        model: weights in the type that they compute in.
        dtype: in which the backbone computes.
    """
    digest = hashlib.sha256(f"{VERSION} {dtype} {model.config.backbone!r}".encode())
    for name, weight in sorted(model.backbone.state_dict().items()):
        if not f"backbone.{name}".startswith(_TRAINED):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_fixed(sources: Sequence[Source], changes: ImageChanges, model: Gr00tModel) -> None:
    """Refuse a run whose features change.

    Args:
        sources: of the run.
        changes: of their images.
        model: with its trained parts chosen.

    Raises:
        ConfigError: says what to change.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    trained = [name for name in names if name.startswith("backbone.") and not name.startswith(_TRAINED)]
    if trained:
        raise ConfigError(
            f"feature_cache: the backbone trains ({len(trained)} tensors, first {trained[0]}), so its features change; "
            "train the head only (--no-tune-visual --no-tune-llm --tune-top-llm-layers 0, no adapters in the "
            "backbone), or leave out --feature-cache"
        )
    if any(source.texts for source in sources):
        raise ConfigError(
            "feature_cache: instructions change in every epoch, and so do the features; leave out language and "
            "instructions in --data, or --feature-cache"
        )
    if not changes.num_fixed:
        raise ConfigError(
            "feature_cache: images change at random in every epoch, and so do their features; pass "
            "--no-augment-images, or --image-views N for N fixed views of each image, or leave out --feature-cache"
        )


def _processing_digest(pipeline: Pipeline, sizes: Sequence[tuple[int, int]]) -> str:
    """Return a digest of what makes pixels of images, augmented or not: of the pixels of a pattern."""
    rng, processor = np.random.default_rng(0), pipeline.inputs.images
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    digest = hashlib.sha256()
    for draw in (None, draw_images(rng)):
        pixels, grid = processor.pixels(processor.frames(images, draw))
        digest.update(pixels.float().numpy().tobytes())
        digest.update(b"" if grid is None else grid.numpy().tobytes())
    return digest.hexdigest()


def _write(file: BinaryIO, parts: Sequence[np.ndarray], kind: str) -> None:
    """Write rows `(T, D)` one after another as one array."""
    shape = (sum(len(part) for part in parts), parts[0].shape[1])
    write_header(file, kind, shape)
    for part in parts:
        file.write(np.ascontiguousarray(part).data)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
