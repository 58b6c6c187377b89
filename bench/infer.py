#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Time one inference of each model family at full size: the fast path and the plain layers, stage by stage.

Weights are random, since time does not depend on them. "eager" is what a plain implementation does: image transforms
on the CPU, then the model layer by layer. The fast path is what `gr00t_training.policy.Policy` does: raw images to the
GPU and one captured graph from them to the actions. Both start from uint8 images and a state in host memory and end
with actions in host memory. Medians of repeated runs, in milliseconds:

    eager, wall  from images to actions: plain layers, fast path
    diff, bound  greatest difference of an action: fast path to plain layers, and between two plain runs with different
                 attention kernels (actions are normalized; random weights give up to about 4)
    gpu          of it, the graph itself
    host         wall - gpu
    preprocess, backbone, context, sampler      parts of the graph, each captured and timed by itself;
                 context: self attention over the features, keys and values; sampler: all denoising steps
    busy         share of the wall time in which a kernel runs on the GPU
    loaded, peak, device_gib   memory: the weights, the most that tensors took, all that the GPU has given away
    bytes, flop  floors: weights read once per use at the memory's measured rate, products at the chip's measured rate

    python3 -m bench.infer --models n1_2b n1_7_3b --cameras 1 2 --batch 1 8 --json infer.json

--peer names a function that is called with the model's name, its configuration, the request and the device, and returns
a function without arguments that does one inference from the request's images and state to actions in host memory.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.families import family, variants
from gr00t_training.model.fast.inference import InferenceModel
from gr00t_training.model.gr00t import Gr00tModel, to_device
from gr00t_training.model.sampler import Inpainting
from gr00t_training.policy.engine import Engine, Request
from gr00t_training.transforms.images import ImageProcessor

RELEASES = ["n1_2b", "n1_5_3b", "n1_6_3b", "n1_7_3b"]
TEXT_TOKENS = 24  # of a prompt, in addition to those of the images
STEPS = 4


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["n1_2b", "n1_5_3b", "n1_6_3b", "n1_7_3b"], choices=list(variants())
    )
    parser.add_argument("--cameras", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", default="480x640", help="height x width of the cameras' images [px]")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--no-eager", action="store_true", help="leave the baseline out")
    parser.add_argument("--peer", help="module:function of another implementation to time in the same run; see below")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    height, width = map(int, arguments.size.split("x"))
    rates = _measured_rates(device)
    rows = []
    for name in arguments.models:
        model = random_model(variants()[name].config, device, getattr(torch, arguments.dtype))
        loaded_gib = _memory_gib(device)
        kind = family(model.config.model_type)
        images = kind.images(model.config, kind.released_options, {})
        cases = [(cameras, batch) for batch in arguments.batch for cameras in arguments.cameras]
        eager: dict[tuple[int, int], float] = {}
        answers: dict[tuple[int, int], list[np.ndarray]] = {}
        for case in [] if arguments.no_eager else cases:
            request = make_request(model, images, *case, height, width)
            eager[case] = _time_eager(model, images, request, arguments.repeat)
            answers[case] = [_answer(model, images, request, kernel) for kernel in ("eager", "sdpa")]
        inference = InferenceModel(model, 0, STEPS)
        engine = Engine(inference, images)
        for case in cases:
            request = make_request(model, images, *case, height, width)
            row = {"model": name, "cameras": case[0], "batch": case[1], "eager": eager.get(case)}
            row |= _time_fast(engine, images, request, arguments.repeat, rates)
            if case in answers:
                other, plain = answers[case]
                row["diff"], row["bound"] = _distance(engine.run(request), plain), _distance(other, plain)
            if arguments.peer:
                module, function = arguments.peer.split(":")
                make = getattr(importlib.import_module(module), function)
                row["peer"] = median_ms(make(name, inference.config, request, device), arguments.repeat, device)
            row |= {"loaded_gib": loaded_gib, "peak_gib": _memory_gib(device), "device_gib": _device_gib(device)}
            rows.append(row)
            _print_row(row, is_first=len(rows) == 1)
        del model, inference, engine
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    print(_where(device, rates, arguments))
    if arguments.json:
        figures = {"where": _where(device, rates, arguments), "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _time_eager(model: Gr00tModel, images: ImageProcessor, request: Request, repeat: int) -> float:
    """Return the median [ms] of the CPU's image transforms and the plain layers."""
    device = next(model.parameters()).device
    return median_ms(lambda: _answer(model, images, request), max(repeat // 3, 5), device)


def _answer(model: Gr00tModel, images: ImageProcessor, request: Request, kernel: str = "sdpa") -> np.ndarray:
    """Return the actions of the plain layers with an attention kernel."""
    for layer in model.modules():
        if hasattr(layer, "kernel"):
            layer.kernel = kernel  # type: ignore[assignment] - torch expects tensors and modules
    return plain_actions(model, images, request)


def plain_actions(
    model: Gr00tModel, images: ImageProcessor, request: Request, inpainting: Inpainting | None = None
) -> np.ndarray:
    """Return the actions of image transforms on the CPU and the plain layers."""
    device = next(model.parameters()).device
    pixels, grid = images.pixels(images.frames(request.images))
    batch = {
        "pixel_values": pixels,
        "input_ids": request.input_ids,
        "attention_mask": request.attention_mask,
        "state": torch.from_numpy(request.state),
        "embodiment_id": torch.zeros(len(request.state), dtype=torch.long),
    }
    if grid is not None:
        batch["image_grid"] = grid
    noise = torch.from_numpy(request.start).to(device)
    return model.sample_actions(to_device(batch, device), noise, STEPS, inpainting).cpu().numpy()


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max())


def _time_fast(
    engine: Engine, images: ImageProcessor, request: Request, repeat: int, rates: dict[str, float]
) -> dict[str, Any]:
    model, device = engine.model, engine.model.device
    is_cuda = device.type == "cuda"
    wall = median_ms(lambda: engine.run(request), repeat, device)
    row: dict[str, Any] = {"wall": wall}
    with torch.inference_mode():
        prompt = engine.prepare(request)
        to_pixels = images.on_device(tuple(image.shape[:2] for image in request.images), device)
        raw = [torch.from_numpy(image).to(device) for image in request.images]
        state, start = (torch.from_numpy(part).to(device, model.dtype) for part in (request.state, request.start))
        strength = torch.ones((start.shape[1], 1), device=device, dtype=model.dtype)
        pixels = to_pixels(raw)
        features = model.features(pixels, prompt)
        contexts = model.head.context(features, prompt.samples, prompt.places)
        stages: dict[str, Callable[[], object]] = {
            "preprocess": (lambda: to_pixels(raw))
            if is_cuda
            else (lambda: images.pixels(images.frames(request.images))),
            "backbone": lambda: model.features(pixels, prompt),
            "context": lambda: model.head.context(features, prompt.samples, prompt.places),
            "sampler": lambda: model.head.sample(contexts, state, start, strength),
        }
        for name, stage in stages.items():
            row[name] = _graph_ms(stage, repeat, device)
    row["flop"] = _count_flops(model.config, pixels, prompt.grid, request) / rates["flop_per_s"] * 1e3
    row["bytes"] = model.bytes_read() / rates["bytes_per_s"] * 1e3
    if is_cuda:
        row["gpu"] = engine.gpu_ms(request, repeat)
        row["host"] = wall - row["gpu"]
        row["busy"] = _kernel_ms(lambda: engine.run(request)) / wall
    return row


def _count_flops(config: Gr00tConfig, pixels: torch.Tensor, grid: Sequence[tuple[int, int]], request: Request) -> int:
    """Count the operations of all products, on a model without memory."""
    with torch.device("meta"):
        model = Gr00tModel(config).eval()
        batch = {
            "pixel_values": torch.empty(pixels.shape),
            "state": torch.empty(request.state.shape),
            "embodiment_id": torch.zeros(len(request.state), dtype=torch.long),
        }
        noise = torch.empty(request.start.shape)
    batch |= {"input_ids": request.input_ids, "attention_mask": request.attention_mask}
    if grid:
        batch["image_grid"] = torch.tensor(grid)
    with FlopCounterMode(display=False) as counter:
        model.sample_actions(batch, noise, STEPS)
    return counter.get_total_flops()


def make_request(
    model: Gr00tModel, images: ImageProcessor, cameras: int, batch: int, height: int, width: int
) -> Request:
    """Return a request with random images, prompt, state and noise."""
    rng, backbone, head = np.random.default_rng(0), model.config.backbone, model.config.action_head
    count = images.num_tokens(height, width)
    ids = [rng.integers(0, 500, TEXT_TOKENS // 2)]
    for _ in range(cameras):
        ids += [np.full(count, backbone.image_token_id), rng.integers(0, 500, 1)]
    ids.append(rng.integers(0, 500, TEXT_TOKENS // 2))
    row = np.concatenate(ids)
    input_ids = torch.from_numpy(np.tile(row, (batch, 1)))
    return Request(
        images=[rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(cameras * batch)],
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        state=rng.uniform(-1, 1, (batch, head.state_history or 1, head.state_dim)).astype(np.float32),
        start=rng.standard_normal((batch, head.action_horizon, head.action_dim)).astype(np.float32),
        strength=np.ones(head.action_horizon, np.float32),
    )


def random_model(config: Gr00tConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Gr00tModel:
    """Return a model with random weights in evaluation mode."""
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Gr00tModel(config)
    finally:
        torch.set_default_dtype(default)
    return model.eval().requires_grad_(False)


def median_ms(run: Callable[[], object], repeat: int, device: torch.device) -> float:
    """Return the median wall time [ms] of `repeat` calls, after a few that choose kernels."""
    times = []
    for i in range(repeat + 3):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if i >= 3:  # the first runs choose kernels and capture graphs
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def _graph_ms(run: Callable[[], object], repeat: int, device: torch.device) -> float:
    """Return the median [ms] of a captured graph; on the CPU of the plain call."""
    if device.type != "cuda":
        return median_ms(run, repeat, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(repeat + 3):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after))
    return statistics.median(times[3:])


def _kernel_ms(run: Callable[[], object]) -> float:
    """Return the time [ms] in which kernels run during one call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as record:
        run()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in record.key_averages()) / 1e3


def _measured_rates(device: torch.device) -> dict[str, float]:
    """Measure what the machine's memory and matrix units give, the ceilings for the floors."""
    is_cuda = device.type == "cuda"
    block = torch.empty((2**30 if is_cuda else 2**26), dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    copy_ms = median_ms(lambda: target.copy_(block), 10, device)
    size = 8192 if is_cuda else 512
    factor = torch.randn((size, size), device=device, dtype=torch.bfloat16 if is_cuda else torch.float32)
    product_ms = median_ms(lambda: factor @ factor, 10, device)
    return {"bytes_per_s": 2 * block.nbytes / copy_ms * 1e3, "flop_per_s": 2 * size**3 / product_ms * 1e3}


def _memory_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


def _device_gib(device: torch.device) -> float | None:
    """Return what is taken of the GPU's memory, by everything: allocator, libraries, graphs."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


_COLUMNS = ["model", "cameras", "batch", "eager", "peer", "wall", "diff", "bound", "gpu", "host"]
_COLUMNS += [
    "preprocess",
    "backbone",
    "context",
    "sampler",
    "busy",
    "bytes",
    "flop",
    "loaded_gib",
    "peak_gib",
    "device_gib",
]


def _print_row(row: dict[str, Any], *, is_first: bool) -> None:
    if is_first:
        print(" ".join(f"{name:>10}" for name in _COLUMNS))
    cells = []
    for name in _COLUMNS:
        value = row.get(name)
        text = "-" if value is None else f"{value:.0%}" if name == "busy" else value
        width = 4 if name in ("diff", "bound") else 2
        cells.append(f"{text:>10.{width}f}" if isinstance(text, float) else f"{text:>10}")
    print(" ".join(cells), flush=True)


def _where(device: torch.device, rates: dict[str, float], arguments: argparse.Namespace) -> str:
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return (
        f"{name}, PyTorch {torch.__version__}, {arguments.dtype}, images {arguments.size}, {STEPS} denoising steps, "
        f"medians of {arguments.repeat}; measured {rates['bytes_per_s'] / 1e12:.2f} TB/s, "
        f"{rates['flop_per_s'] / 1e12:.0f} TFLOP/s"
    )


if __name__ == "__main__":
    main()
