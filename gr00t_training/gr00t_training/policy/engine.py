# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compute actions from raw images and state, both in host memory; on a CUDA device as one captured graph.

There is a program per shape: sizes of the images, number of samples, length and layout of the prompt. A program has
its own input buffers. All values that the graph does not read from them are part of the program's key, so an answer
never comes from the graph of another prompt, camera or batch. On the CPU the same operations run one by one.

A server starts a request while the one before it is still computed (`Engine.start`); two requests of one shape then use
two programs, so that the buffers of one are filled while the device reads those of the other.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gr00t_training.model.fast.inference import InferenceModel, Prepared
from gr00t_training.transforms.images import ImageProcessor

logger = logging.getLogger(__name__)

Sizes = tuple[tuple[int, int], ...]  # height and width of every image [px]

MAX_PROGRAMS = 48  # captured graphs kept; each holds some tens of megabytes. A server has up to 12 per prompt length
MAX_PROMPTS = 64  # prepared prompts kept
WARM_UP_RUNS = 3  # before a capture: libraries choose and load their kernels then


@dataclass(frozen=True)
class Request:
    """Inputs of the model: `B` samples of one embodiment with the same cameras."""

    images: Sequence[np.ndarray]  # (H, W, 3) uint8 RGB, sample by sample, in the model's order
    input_ids: Tensor  # (B, T) prompt tokens on the CPU, padded on the left
    attention_mask: Tensor  # (B, T), 0 at padding
    state: np.ndarray  # (B, rows, state_dim) float32, normalized
    start: np.ndarray  # (B, H, A) float32 noise, or rows of the earlier chunk that it continues
    strength: np.ndarray  # (H,) or (B, H) float32 share of the velocity that each row follows
    prefix: np.ndarray | None = None  # (H,) or (B, H) float32, 1 at rows given to a model that was trained so


class Engine:
    """Run requests with one model. Not thread-safe."""

    def __init__(self, model: InferenceModel, images: ImageProcessor, *, uses_graphs: bool | None = None) -> None:
        """Join a model and its image transforms.

        Args:
            model: on the device that computes.
            images: evaluation transforms of the images.
            uses_graphs: capture CUDA graphs; None: on a CUDA device.
        """
        self.model = model
        self._images = images
        self._uses_graphs = model.device.type == "cuda" if uses_graphs is None else uses_graphs
        self._pool = torch.cuda.graph_pool_handle() if self._uses_graphs else None
        self._programs: OrderedDict[tuple, _Program] = OrderedDict()
        self._prompts: OrderedDict[tuple, Prepared] = OrderedDict()
        self._layouts: OrderedDict[tuple, Prepared] = OrderedDict()

    @torch.inference_mode()
    def run(self, request: Request) -> np.ndarray:
        """Return normalized actions `(B, H, A)` float32.

        The first request of a shape is slower, because its program is built.

        Raises:
            ValueError: the request does not fit the model; names the input, found and expected.
        """
        return self.start(request).wait()[0]

    @torch.inference_mode()
    def start(self, request: Request) -> Running:
        """Start a request; it is computed after those that were started before. On the CPU it is computed here.

        At most two requests may run at a time.

        Raises:
            ValueError: as `run`.
        """
        prompt = self.prepare(request)
        program = self._program(request, prompt)
        program.start(request, prompt)
        return Running(program)

    @torch.inference_mode()
    def build(self, request: Request) -> None:
        """Build both programs of a request's shape, so that no later request of it waits for that."""
        prompt = self.prepare(request)
        for copy in (0, 1):
            self._built(request, prompt, copy)

    @torch.inference_mode()
    def try_out(self, request: Request) -> None:
        """Run a request once to initialize device and libraries; its program is not kept."""
        sizes = _sizes(request)
        _Program(self.model, self._images, sizes, self._prepared(request, sizes), request).run_once()

    @torch.inference_mode()
    def gpu_ms(self, request: Request, repeat: int) -> float:
        """Return the median time [ms] of the captured graph for `request`; ValueError without graphs."""
        return self._program(request, self.prepare(request)).gpu_ms(repeat)

    def prepare(self, request: Request) -> Prepared:
        """Return what depends on prompts and image sizes only, from a cache of recent requests."""
        sizes, ids, mask = _sizes(request), request.input_ids, request.attention_mask
        layout = (sizes, tuple(ids.shape), mask.numpy().tobytes())
        key = (*layout, ids.numpy().tobytes())
        prompt = self._prompts.get(key)
        if prompt is None:
            prompt = self._with_layout(request, sizes, layout)
            _keep(self._prompts, key, prompt)
        self._prompts.move_to_end(key)
        return prompt

    def _with_layout(self, request: Request, sizes: Sizes, layout: tuple) -> Prepared:
        """Prepare prompts; the words alone change only the ids."""
        is_image = request.input_ids == self.model.config.backbone.image_token_id
        layout = (*layout, is_image.numpy().tobytes())
        known = self._layouts.get(layout)
        if known is not None:
            return self.model.with_prompts(known, request.input_ids)
        prompt = self._prepared(request, sizes)
        _keep(self._layouts, layout, prompt)
        return prompt

    def _prepared(self, request: Request, sizes: Sizes) -> Prepared:
        batch = {"input_ids": request.input_ids, "attention_mask": request.attention_mask}
        grid = self._images.grids(sizes)
        if grid is not None:
            batch["image_grid"] = grid
        return self.model.prepare(batch)

    def _program(self, request: Request, prompt: Prepared) -> _Program:
        """Return a program of the request's shape whose buffers are free."""
        first = self._built(request, prompt, 0)
        return self._built(request, prompt, 1) if first.is_running else first

    def _built(self, request: Request, prompt: Prepared, copy: int) -> _Program:
        key = (*self._key(request, prompt), copy)
        program = self._programs.get(key)
        if program is None:
            sizes = _sizes(request)
            logger.info("preparing %s", _describe(request, sizes))
            program = _Program(self.model, self._images, sizes, prompt, request)
            if self._uses_graphs:
                program.capture(self._pool)
            _keep(self._programs, key, program, MAX_PROGRAMS)
        self._programs.move_to_end(key)
        return program

    def _key(self, request: Request, prompt: Prepared) -> tuple:
        return (_sizes(request), prompt.key, request.state.shape, request.start.shape)


def _keep(cache: OrderedDict, key: tuple, value: object, limit: int = MAX_PROMPTS) -> None:
    cache[key] = value
    if len(cache) > limit:
        cache.popitem(last=False)


class Running:
    """A request that is being computed."""

    def __init__(self, program: _Program) -> None:
        """Take the program that was started."""
        self._program = program

    def wait(self) -> tuple[np.ndarray, float]:
        """Return normalized actions `(B, H, A)` float32 and the time that the device took [s]; call it once."""
        return self._program.wait()


class _Program:
    """Buffers and operations of one shape."""

    def __init__(
        self,
        model: InferenceModel,
        images: ImageProcessor,
        sizes: Sizes,
        prompt: Prepared,
        request: Request,
    ) -> None:
        device = model.device
        pins = device.type == "cuda"
        self._model = model
        self._source = prompt
        self._prompt = prompt.copy()
        counts = [height * width * 3 for height, width in sizes]
        self._host_pixels = torch.empty(sum(counts), dtype=torch.uint8, pin_memory=pins)
        self._pixels = torch.empty(sum(counts), dtype=torch.uint8, device=device)
        parts = self._pixels.split(counts)
        self._images = [part.view(*size, 3) for part, size in zip(parts, sizes, strict=True)]
        # written through numpy: an assignment to a tensor costs several microseconds
        ends = np.cumsum([0, *counts])
        flat = self._host_pixels.numpy()
        self._image_slots = [
            flat[start:stop].reshape(*size, 3) for start, stop, size in zip(ends, ends[1:], sizes, strict=False)
        ]
        shapes = [values.shape for values in self._values(request)]
        numbers = [int(np.prod(shape)) for shape in shapes]
        self._host_floats = torch.empty(sum(numbers), dtype=torch.float32, pin_memory=pins)
        self._floats = torch.empty(sum(numbers), dtype=torch.float32, device=device)
        ends = np.cumsum([0, *numbers])
        flat = self._host_floats.numpy()
        self._float_slots = [
            flat[start:stop].reshape(shape) for start, stop, shape in zip(ends, ends[1:], shapes, strict=False)
        ]
        self._inputs = [part.view(shape) for part, shape in zip(self._floats.split(numbers), shapes, strict=True)]
        self._host_actions = torch.empty(request.start.shape, dtype=torch.float32, pin_memory=pins)
        # on the CPU the libraries are faster than the same arithmetic in tensor operations
        self._to_pixels = images.on_device(sizes, device) if pins else lambda raw: _pixels_on_cpu(images, raw)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._device = device
        self._times = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) if pins else ()
        self._seconds = 0.0  # of a computation on the CPU
        self.is_running = False  # its buffers are in use
        self._write(request)

    def capture(self, pool: object) -> None:
        """Record the operations; afterwards they are replayed."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._compute()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads of a robot's process may use CUDA meanwhile
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # type: ignore[arg-type]
            self._compute()
        self._graph = graph

    def run_once(self) -> None:
        """Compute from the buffers without a graph, and wait for the result."""
        self._compute()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def start(self, request: Request, prompt: Prepared) -> None:
        """Begin a request of this program's shape."""
        if self.is_running:
            raise RuntimeError("a third request was started before the first one ended")
        if prompt is not self._source:  # another prompt of the same shape
            self._prompt.assign(prompt, self._source)
            self._source = prompt
        self._write(request)
        self._record(0)
        started_s = time.perf_counter()
        if self._graph is None:
            self._compute()
        else:
            self._graph.replay()
        self._seconds = time.perf_counter() - started_s
        self._record(1)
        self.is_running = True

    def wait(self) -> tuple[np.ndarray, float]:
        """Return the answer to the request that was started, and the time that the device took [s]."""
        self.is_running = False
        if self._times:
            first, last = self._times
            last.synchronize()
            self._seconds = first.elapsed_time(last) / 1e3
        return self._host_actions.numpy().copy(), self._seconds

    def _record(self, place: int) -> None:
        if self._times:
            self._times[place].record()

    def gpu_ms(self, repeat: int) -> float:
        """Return the median time [ms] of the captured graph."""
        if self._graph is None:
            raise ValueError("no captured graph to measure; use a CUDA device")
        times = []
        for _ in range(repeat):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            self._graph.replay()
            after.record()
            torch.cuda.synchronize(self._device)
            times.append(before.elapsed_time(after))
        return statistics.median(times)

    def _write(self, request: Request) -> None:
        for slot, image in zip(self._image_slots, request.images, strict=True):
            np.copyto(slot, image)
        for slot, values in zip(self._float_slots, self._values(request), strict=True):
            np.copyto(slot, values)

    def _values(self, request: Request) -> list[np.ndarray]:
        rows = request.start.shape[:2]
        values = [request.state, request.start, np.broadcast_to(request.strength, rows)]
        if self._model.head.takes_prefix:  # always an input: chunks with and without one share their graph
            prefix = np.zeros(rows, np.float32) if request.prefix is None else np.broadcast_to(request.prefix, rows)
            values.append(prefix)
        return values

    def _compute(self) -> None:
        self._pixels.copy_(self._host_pixels, non_blocking=True)
        self._floats.copy_(self._host_floats, non_blocking=True)
        state, start, strength, *prefix = self._inputs
        actions = self._model(self._to_pixels(self._images), self._prompt, state, start, strength[..., None], *prefix)
        self._host_actions.copy_(actions, non_blocking=True)


def _pixels_on_cpu(images: ImageProcessor, raw: Sequence[Tensor]) -> Tensor:
    return images.pixels(images.frames([image.numpy() for image in raw]))[0]


def _sizes(request: Request) -> Sizes:
    return tuple((image.shape[0], image.shape[1]) for image in request.images)


def _describe(request: Request, sizes: Sizes) -> str:
    cameras = ", ".join(f"{height}x{width}" for height, width in sizes)
    samples, length = request.input_ids.shape
    return f"{samples} sample(s), images {cameras}, prompt of {length} tokens"
