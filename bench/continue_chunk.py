#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Time how an earlier chunk is continued (real-time chunking), per model family at full size. Rows:

    new      an independent chunk, the baseline: one captured graph on a GPU
    ramp     the same graph; rows of the earlier chunk follow the velocity the less the sooner they are due
    given    a model that was trained for delays (--rtc-max-delay of gr00t_finetune) is given the frozen rows; its graph
             chooses the time of each row
    guided   gradient guidance through the plain layers

Columns: median [ms] from images in host memory to actions in host memory, ratio to new, greatest difference of an
action to the plain layers with the same weights. Weights are random, since time does not depend on them.

    python3 -m bench.continue_chunk --models n1_2b n1_7_3b
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.infer import RELEASES, STEPS, make_request, median_ms, plain_actions, random_model
from gr00t_training.model.families import family, variants
from gr00t_training.model.fast.inference import InferenceModel
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.sampler import Inpainting
from gr00t_training.policy.engine import Engine, Request
from gr00t_training.transforms.images import ImageProcessor

FROZEN, OVERLAP, TRAINED = 4, 12, 8


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=RELEASES, choices=list(variants()))
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="480x640", help="height x width of the camera's image [px]")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    rows = []
    print(f"{'model':12}{'way':8}{'ms':>9}{'ratio':>8}{'difference':>12}")
    for name in arguments.models:
        rows += _measure(name, arguments)
        gc.collect()
        if arguments.device.startswith("cuda"):
            torch.cuda.empty_cache()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _measure(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    device = torch.device(arguments.device)
    height, width = map(int, arguments.size.split("x"))
    model = random_model(variants()[name].config, device, getattr(torch, arguments.dtype))
    kind = family(model.config.model_type)
    images = kind.images(model.config, kind.released_options, {})
    request = make_request(model, images, 1, 1, height, width)
    rows: list[dict[str, Any]] = []
    for way, (run, plain) in _ways(model, images, request).items():
        found = run()
        elapsed_ms = median_ms(run, arguments.repeat, device)
        ratio = elapsed_ms / rows[0]["ms"] if rows else 1.0
        difference = float(np.abs(found - plain()).max())
        rows.append({"model": name, "way": way, "ms": elapsed_ms, "ratio": ratio, "difference": difference})
        print(f"{name:12}{way:8}{elapsed_ms:>9.2f}{ratio:>8.2f}{difference:>12.5f}", flush=True)
    return rows


Answer = Callable[[], np.ndarray]


def _ways(model: Gr00tModel, images: ImageProcessor, request: Request) -> dict[str, tuple[Answer, Answer]]:
    """Return per way the measured function and one of the plain layers with the same result."""
    head = model.config.action_head
    horizon = head.action_horizon
    earlier = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, request.start[:, :OVERLAP].shape)).float()
    untrained = Engine(InferenceModel(model, 0, STEPS), images)
    model.set_conditioning(rtc_max_delay=TRAINED, state_dropout=head.state_dropout, has_mask_token=head.has_mask_token)
    trained = Engine(InferenceModel(model, 0, STEPS), images)
    ways: dict[str, tuple[Engine | None, Inpainting | None]] = {
        "new": (untrained, None),
        "ramp": (untrained, Inpainting(earlier, FROZEN)),
        "given": (trained, Inpainting(earlier, FROZEN, is_prefix=True)),
        "guided": (None, Inpainting(earlier, FROZEN, guidance=5.0)),
    }
    found = {}
    for way, (engine, inpainting) in ways.items():
        plain = _plain(model, images, request, inpainting)
        started = request if inpainting is None else _continued(request, inpainting, horizon)
        found[way] = (plain if engine is None else _fast(engine, started), plain)
    return found


def _continued(request: Request, inpainting: Inpainting, horizon: int) -> Request:
    start = request.start.copy()
    start[:, : inpainting.started_rows] = inpainting.actions[:, : inpainting.started_rows].numpy()
    strength, prefix = inpainting.strength(horizon)[:, 0].numpy(), inpainting.prefix(horizon).float().numpy()
    return dataclasses.replace(request, start=start, strength=strength, prefix=prefix)


def _fast(engine: Engine, request: Request) -> Answer:
    return lambda: engine.run(request)


def _plain(model: Gr00tModel, images: ImageProcessor, request: Request, inpainting: Inpainting | None) -> Answer:
    return lambda: plain_actions(model, images, request, inpainting)


if __name__ == "__main__":
    main()
