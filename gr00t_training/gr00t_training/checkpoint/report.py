# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Describe the content of a checkpoint's folder from its JSON files and the headers of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.checkpoint.adapter import is_adapter, read_adapter
from gr00t_training.checkpoint.fit import statistics_of
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.tokenizer import tokenizer_file
from gr00t_training.checkpoint.weight_files import StoredWeights, find_weights, type_name
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.upstream import fitting_data_configs

NOT_USED = "not used"  # weights that actions do not need
_OTHER = "unknown"  # weights that are not part of the model


@dataclass(frozen=True)
class PartReport:
    """Weights of one part of the model."""

    name: str
    num_tensors: int
    num_parameters: int
    num_bytes: int
    dtypes: list[str]


@dataclass(frozen=True)
class KeyReport:
    """One camera, or one group of channels of state or action."""

    kind: str  # video, state or action
    key: str
    dim: int | None = None  # channels; None: a camera, or unknown
    scaling: str = ""  # kind of normalization
    form: str = ""  # reference of relative keys, size of images
    lowest: float | None = None  # in the statistics, of all channels
    highest: float | None = None
    num_constant: int = 0  # channels that never move in the statistics


@dataclass(frozen=True)
class EmbodimentReport:
    """One embodiment tag."""

    tag: str
    projector: int | None  # row of the model's tables
    name: str | None  # of the embodiment that was trained here
    fps: int | None  # [Hz]; None: unknown
    action_horizon: int | None  # ticks
    video_history: list[int]
    state_history: list[int]
    language: str
    data_configs: list[str]  # N1, N1.5: published data configurations that fit the keys
    keys: list[KeyReport]
    problem: str = ""  # why it cannot be described fully


@dataclass(frozen=True)
class CheckpointReport:
    """A whole folder."""

    path: str
    family: str
    model_type: str
    sizes: dict[str, Any]
    files: list[str]
    parts: list[PartReport]
    tokenizer: str | None
    tokenizer_source: str  # where to take it from
    options: dict[str, Any]  # of the transforms of N1.6 and N1.7
    versions: dict[str, Any]
    embodiments: list[EmbodimentReport]
    base: str = ""  # of an adapter


def describe_checkpoint(path: Path) -> CheckpointReport:
    """Describe a local folder; reads no weights.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    folder = read_folder(path, needs_statistics=False)
    adapter = read_adapter(path) if is_adapter(path) else None
    weights = StoredWeights(adapter.tensors, None) if adapter else find_weights(path)
    tokenizer = tokenizer_file(path)
    tags = list(dict.fromkeys([*folder.tags, *folder.embodiments]))
    return CheckpointReport(
        path=str(path),
        family=folder.family.name,
        model_type=folder.family.model_type,
        sizes=_sizes(folder.config),
        files=[file.name for file in weights.files],
        parts=_parts(folder, weights),
        tokenizer=str(tokenizer.relative_to(path)) if tokenizer else None,
        tokenizer_source=folder.family.prompt.base,
        options=dict(vars(folder.options)) if folder.options else {},
        versions=dict(folder.versions),
        embodiments=[_embodiment(folder, tag) for tag in tags],
        base=adapter.base.path if adapter else "",
    )


def _sizes(config: Gr00tConfig) -> dict[str, Any]:
    backbone, head = config.backbone, config.action_head
    return {
        "vision_layers": backbone.vision.num_layers,
        "vision_width": backbone.vision.hidden_size,
        "language_layers": backbone.num_kept_layers,
        "language_width": backbone.language.hidden_size,
        "vocabulary": backbone.language.vocab_size,
        "refiner_layers": head.refiner.num_layers if head.refiner else 0,
        "diffusion_layers": head.dit.num_layers,
        "diffusion_width": head.dit.width,
        "state_dim": head.state_dim,
        "action_dim": head.action_dim,
        "action_horizon": head.action_horizon,
        "num_embodiments": head.num_embodiments,
        "denoising_steps": head.num_steps,
        **({"rtc_max_delay": head.rtc_max_delay} if head.rtc_max_delay else {}),
    }


def _parts(folder: Folder, weights: StoredWeights) -> list[PartReport]:
    table, groups = folder.family.names, {}
    for name, tensor in weights.tensors.items():
        ours = table.to_ours(name)
        part = ".".join(ours.split(".")[:2]) if ours else NOT_USED if name.startswith(table.ignored) else _OTHER
        groups.setdefault(part, []).append(tensor)
    order = sorted(groups, key=lambda part: (part in (NOT_USED, _OTHER), not part.startswith("backbone"), part))
    return [
        PartReport(
            name=part,
            num_tensors=len(groups[part]),
            num_parameters=sum(tensor.num_values for tensor in groups[part]),
            num_bytes=sum(tensor.num_bytes for tensor in groups[part]),
            dtypes=sorted({type_name(tensor.dtype) for tensor in groups[part]}),
        )
        for part in order
    ]


def _embodiment(folder: Folder, tag: str) -> EmbodimentReport:
    statistics: Mapping[str, Mapping[str, KeyStatistics]] = {}
    embodiment, problem = None, ""
    try:
        statistics = folder.statistics(tag)
        embodiment = folder.embodiments.get(tag)
        if embodiment is None and folder.options:
            embodiment = folder.derive(tag, fps=1)
    except CheckpointError as error:
        problem = str(error)
    entry = folder.metadata.get(tag) or {}
    is_trained_here = embodiment is not None and tag in folder.embodiments
    return EmbodimentReport(
        tag=tag,
        projector=folder.projectors.get(tag),
        name=embodiment.name if embodiment and is_trained_here else None,
        fps=embodiment.fps if embodiment and is_trained_here else _recorded_fps(entry),
        action_horizon=embodiment.action_horizon if embodiment else None,
        video_history=list(embodiment.video_history) if embodiment else [],
        state_history=list(embodiment.state_history) if embodiment else [],
        language=embodiment.language if embodiment else "",
        data_configs=[] if folder.options or problem else fitting_data_configs(entry),
        keys=_keys(embodiment, statistics) if embodiment else _recorded_keys(entry, statistics),
        problem=problem,
    )


def _keys(embodiment: Embodiment, statistics: Mapping[str, Mapping[str, KeyStatistics]]) -> list[KeyReport]:
    """Describe the keys that the model uses, in its order."""
    cameras = [
        KeyReport("video", key, form="any size" if size.is_any_size else f"{size.width}x{size.height}")
        for key in embodiment.video_keys
        for size in (embodiment.video[key],)
    ]
    vectors = []
    for ref, vector in embodiment.used_vectors():
        scaling = vector.normalization.value if vector.normalization else ""
        found = statistics.get(statistics_of(ref, vector), {}).get(ref.key)
        vectors.append(KeyReport(ref.kind.value, ref.key, vector.dim, scaling, _form(vector), **_range(found)))
    return cameras + vectors


def _recorded_keys(entry: Mapping[str, Any], statistics: Mapping[str, Mapping[str, KeyStatistics]]) -> list[KeyReport]:
    """Describe the keys of metadata.json (N1, N1.5): those of the dataset, of which the model uses some."""
    cameras = [
        KeyReport("video", key, form="x".join(str(side) for side in facts.get("resolution", ())))
        for key, facts in ((entry.get("modalities") or {}).get("video") or {}).items()
    ]
    return cameras + [
        KeyReport(kind, key, found.dim, **_range(found))
        for kind in ("state", "action")
        for key, found in statistics.get(kind, {}).items()
    ]


def _form(vector: VectorKey) -> str:
    words = [f"relative to {vector.relative_to}"] if vector.relative_to else []
    if vector.pose:
        words.append(vector.pose.value)
    if vector.rotation:
        words.append(vector.rotation.value)
    return ", ".join(words)


def _range(found: KeyStatistics | None) -> dict[str, Any]:
    if found is None:
        return {}
    is_constant = np.atleast_2d(found.min == found.max).all(axis=0)
    return {
        "lowest": float(found.min.min()),
        "highest": float(found.max.max()),
        "num_constant": int(is_constant.sum()),
    }


def _recorded_fps(entry: Mapping[str, Any]) -> int | None:
    cameras = (entry.get("modalities") or {}).get("video") or {}
    rates = {round(facts["fps"]) for facts in cameras.values() if "fps" in facts}
    return rates.pop() if len(rates) == 1 else None
