#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Time one training step of each model family at full size: the plain loop, then what makes it faster, one by one.

Weights are random, since time does not depend on them; a batch is on the host as the loader makes it. Rows:

    plain      float32 weights, autocast, foreach AdamW, clipping, loss and norm read every step, plan made in the step
    lean       frozen parts in bfloat16, fused AdamW, plan made ahead, nothing read
    rows       the same, layers of the robot's embodiment only
    graph      the same as one CUDA graph
    compiled   the same with compiled blocks
    features   the same from stored features of the backbone; where the head trains only
    lora       as compiled, with adapters of rank 64 on language model, vision tower and diffusion transformer
    lora8      the same with the optimizer's moments in 8 bits
    lora4      as lora, with the frozen layers of the backbone in 4 bits (NF4)
    recompute  as lora, with activations of the backbone computed twice
    least      the last two together

Columns: median [ms] of a step, samples/s, ratio to plain, peak memory [GiB], loss of the last step.

    python3 -m bench.train --models n1_2b --parts head vision --batch 32 8
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.families import variants
from gr00t_training.model.gr00t import Gr00tModel, to_device
from gr00t_training.model.plan import HOST_KEYS, ContextPlan, make_plan, map_tensors
from gr00t_training.train.adapters import choose_trained
from gr00t_training.train.optimizer import make_optimizer
from gr00t_training.train.planned_batch import PlannedBatch
from gr00t_training.train.settings import Optimizer, Quantization, TrainerSettings
from gr00t_training.train.step import GraphedStep, TrainStep, change_blocks, uncompiled
from gr00t_training.train.weights import TrainedWeights

ROWS = ("plain", "lean", "rows", "graph", "compiled", "features", "lora", "lora8", "lora4", "recompute", "least")
ADAPTED = ROWS[6:]
TEXT_TOKENS = 34  # of a prompt, in addition to those of the image: GR1's demonstrations
SETTINGS = TrainerSettings()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["n1_2b"], choices=list(variants()))
    parser.add_argument("--parts", nargs="+", default=["head", "vision"], choices=["head", "vision"])
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 8])
    parser.add_argument("--rows", nargs="+", default=list(ROWS[:6]), choices=ROWS)
    parser.add_argument("--repeat", type=int, default=11)
    parser.add_argument("--no-cudnn-attention", action="store_true", help="use FlashAttention of PyTorch instead")
    parser.add_argument("--rtc-max-delay", type=int, default=0, help="train with up to so many given rows")
    parser.add_argument("--profile", action="store_true", help="print the kernels of the last row that take longest")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    torch.backends.cuda.enable_cudnn_sdp(not arguments.no_cudnn_attention)
    table = []
    print(
        f"{'model':10}{'trained':>10}{'batch':>6} {'row':9}{'ms':>9}{'samples/s':>11}{'ratio':>7}{'GiB':>7}{'loss':>9}"
    )
    for name in arguments.models:
        for part in arguments.parts:
            for count in arguments.batch:
                plain_ms = None
                for row in arguments.rows:
                    if row == "features" and part != "head":
                        continue
                    found = _measure(name, part, count, row, arguments)
                    plain_ms = plain_ms or found["ms"]
                    found |= {
                        "model": name,
                        "trained": part,
                        "batch": count,
                        "row": row,
                        "ratio": plain_ms / found["ms"],
                    }
                    table.append(found)
                    print(
                        f"{name:10}{part:>10}{count:>6} {row:9}{found['ms']:>9.1f}{1e3 * count / found['ms']:>11.0f}"
                        f"{found['ratio']:>7.2f}{found['gib']:>7.1f}{found['loss']:>9.4f}",
                        flush=True,
                    )
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _measure(name: str, part: str, count: int, row: str, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    config = variants()[name].config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with device:
        model = Gr00tModel(config)
    head = config.action_head
    model.set_conditioning(
        rtc_max_delay=arguments.rtc_max_delay, state_dropout=head.state_dropout, has_mask_token=head.has_mask_token
    )
    settings = _settings(row)
    if settings.lora_rank:
        choose_trained(model, settings)
    else:
        model.set_trainable(tune_visual=part == "vision")
    model.train()
    batch = make_batch(config, count)
    step = _plain(model, batch) if row == "plain" else _fast(model, batch, row, settings)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the whole weights in float32
    for _ in range(6):
        step()
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, loss = [], float("nan")
    for _ in range(arguments.repeat):
        start_s = time.perf_counter()
        loss = step()
        _wait(device)
        times.append(time.perf_counter() - start_s)
    peak = torch.cuda.max_memory_reserved() / 2**30 if device.type == "cuda" else 0.0
    found = {"ms": 1e3 * statistics.median(times), "gib": peak, "loss": float(loss)}
    if arguments.profile:
        _profile(step)
    del model, step
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _settings(row: str) -> TrainerSettings:
    if row not in ADAPTED:
        return SETTINGS
    return dataclasses.replace(
        SETTINGS,
        lora_rank=64,
        lora_alpha=128.0,
        optimizer=Optimizer.ADAMW8BIT if row == "lora8" else Optimizer.ADAMW,
        quantize_base=Quantization.NF4 if row in ("lora4", "least") else Quantization.NONE,
        checkpoint_activations=row in ("recompute", "least"),
    )


def _plain(model: Gr00tModel, batch: dict[str, torch.Tensor]) -> Callable[[], float]:
    """Return the loop that everybody writes first."""
    device = next(model.parameters()).device
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS.learning_rate, betas=(SETTINGS.beta1, SETTINGS.beta2))

    def step() -> float:
        moved = to_device(batch, device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model.loss(moved)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        norm.item()
        return loss.item()

    return step


def _fast(
    model: Gr00tModel, batch: dict[str, torch.Tensor], row: str, settings: TrainerSettings
) -> Callable[[], torch.Tensor]:
    device, is_cuda = next(model.parameters()).device, torch.cuda.is_available()
    rows = range(model.config.action_head.num_embodiments) if row == "lean" else [int(batch["embodiment_id"][0])]
    quantizes = settings.quantize_base is Quantization.NF4
    if quantizes:
        model.cpu()  # layers are quantized on the way to the device
    TrainedWeights(model, list(rows), torch.bfloat16, is_whole=not settings.lora_rank, quantizes=quantizes)
    model.to(device)
    optimizer = make_optimizer(model, settings)
    compiles = row not in ("lean", "rows", "graph")
    change_blocks(model, compiles=compiles, recomputes=settings.checkpoint_activations)
    kind = GraphedStep if row not in ("lean", "rows") and is_cuda else TrainStep
    step = kind(model, optimizer, max_grad_norm=SETTINGS.max_grad_norm, autocast=torch.bfloat16)
    dtype = model.backbone.language.embed_tokens.weight.dtype
    plan = make_plan(model.config, batch, torch.device("cpu"), dtype)
    planned = PlannedBatch({name: x for name, x in batch.items() if name not in HOST_KEYS}, plan)
    planned = _with_features(model, planned) if row == "features" else planned
    planned = planned.pin_memory() if device.type == "cuda" else planned
    return lambda: step([planned])[0]


def _with_features(model: Gr00tModel, batch: PlannedBatch) -> PlannedBatch:
    """Return a batch on the host with the features of its images in their place."""
    device, plan = next(model.parameters()).device, batch.plan
    pixels, moved = batch.tensors["pixel_values"].to(device), map_tensors(plan, lambda x: x.to(device))
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16), uncompiled():
        features = model.hidden_features(pixels, moved).bfloat16().cpu()
    rest = {name: x for name, x in batch.tensors.items() if name != "pixel_values"}
    return PlannedBatch(rest | {"features": features}, ContextPlan(plan.text_mask, plan.image_mask, plan.token_mask))


def make_batch(config: Gr00tConfig, count: int) -> dict[str, torch.Tensor]:
    """Return a made-up batch of one camera on the host, with the shapes of GR1's demonstrations at 256x256."""
    generator = torch.Generator().manual_seed(1)
    backbone, head = config.backbone, config.action_head
    batch: dict[str, torch.Tensor] = {}
    if backbone.is_packed:
        side = 256 // backbone.vision.patch_size // backbone.downsample * backbone.downsample
        num_tokens = backbone.image_tokens(side, side)
        batch["image_grid"] = torch.full((count, 2), side)
        batch["pixel_values"] = torch.randn(count * side * side, backbone.vision.patch_dim, generator=generator)
    else:
        num_tokens = backbone.num_image_tokens
        size = config.image_size
        batch["pixel_values"] = torch.rand(count, 3, size, size, generator=generator) * 2 - 1
    text = torch.randint(0, 500, (TEXT_TOKENS,), generator=generator)
    ids = torch.cat([text[:10], torch.full((num_tokens,), backbone.image_token_id), text[10:]])
    batch["input_ids"] = ids.repeat(count, 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    rows = head.state_history or 1
    batch["state"] = torch.rand(count, rows, head.state_dim, generator=generator) * 2 - 1
    batch["action"] = torch.rand(count, head.action_horizon, head.action_dim, generator=generator) * 2 - 1
    batch["action_mask"] = torch.zeros(count, head.action_horizon, head.action_dim, dtype=torch.bool)
    batch["action_mask"][..., :26] = True
    batch["embodiment_id"] = torch.full((count,), head.num_embodiments - 1)
    return batch


def _profile(step: Callable[[], Any]) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as record:
        step()
        torch.cuda.synchronize()
    print(record.key_averages().table(sort_by="self_device_time_total", row_limit=30, max_name_column_width=70))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
