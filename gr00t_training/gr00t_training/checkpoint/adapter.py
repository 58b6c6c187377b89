# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Adapters (LoRA, arXiv 2106.09685; DoRA, 2402.09353) as checkpoints: small folders that refer to a base checkpoint.

    adapter_config.json          as PEFT writes it
    adapter_model.safetensors    matrices of the adapters, in PEFT's form, under published names
    trained.safetensors          weights that were trained whole, under published names
    base_checkpoint.json         path and digest of the base; rows of the tables in trained.safetensors

The other files are those of any checkpoint. Adapters are merged into the base's weights as they are read, by
`weight + scaling * B @ A`, so that nothing else knows of them and PEFT is needed for training only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gr00t_training.checkpoint.files import (
    ADAPTER_FILE,
    ADAPTER_WEIGHTS_FILE,
    BASE_FILE,
    TRAINED_FILE,
    place,
    read_json,
    write_json,
)
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.weight_files import StoredTensor, read_header, weight_files, write_file
from gr00t_training.errors import CheckpointError
from gr00t_training.io.files import open_regular
from gr00t_training.io.text import printable

BASE_VARIABLE = "GR00T_BASE_CHECKPOINT"  # of the environment: where the base is now
_PREFIX = "base_model.model."  # of PEFT's names
_KINDS = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude"}
_HUB_CACHE = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(/.+)?$")
_BLOCK_BYTES = 1 << 22
# Settings of PEFT that change how an adapter acts, with the only values that are merged here.
_PLAIN = {
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_parameters": None,
}


@dataclass(frozen=True)
class LowRank:
    """The adapter of one linear layer, `(out, in)`, of rank r."""

    a: Any  # (r, in), a StoredTensor or Tensor
    b: Any  # (out, r)
    magnitude: Any = None  # (out,) norms of the rows (DoRA); None: LoRA


@dataclass(frozen=True)
class BaseReference:
    """The checkpoint that an adapter belongs to."""

    path: str  # where it was: folder or hub id
    digest: str  # SHA-256 of its weights

    @classmethod
    def of(cls, folder: Path) -> BaseReference:
        """Describe a local checkpoint; reads all of its weights.

        Raises:
            CheckpointError: its files are missing or cannot be read.
        """
        cached = _HUB_CACHE.search(folder.absolute().as_posix())
        if cached:
            owner, name, revision, inside = cached.groups()
            return cls(f"{owner}/{name}{inside or ''}@{revision}", weights_digest(folder))
        return cls(str(folder.resolve()), weights_digest(folder))


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder: headers of its files."""

    path: Path
    base: BaseReference
    scaling: float  # of the product of the matrices
    layers: Mapping[str, LowRank]  # published name of a weight -> its adapter
    trained: Mapping[str, StoredTensor]  # published name -> weight, or some rows of it
    rows: Mapping[str, list[int]]  # published names of tables in `trained` -> which of their rows these are

    @property
    def files(self) -> list[Path]:
        """Files with weights."""
        return [self.path / name for name in (ADAPTER_WEIGHTS_FILE, TRAINED_FILE)]

    @property
    def layer_tensors(self) -> dict[str, StoredTensor]:
        """Matrices of the layers in PEFT's form, without its prefix."""
        return {
            f"{name.removesuffix('.weight')}.{kind}": part
            for name, layer in self.layers.items()
            for kind, field in _KINDS.items()
            if (part := getattr(layer, field)) is not None
        }

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """All tensors of the files, under published names."""
        return {**self.trained, **self.layer_tensors}


def is_adapter(path: Path) -> bool:
    """Whether a checkpoint's folder is an adapter of ours."""
    return (path / BASE_FILE).exists()


def read_adapter(path: Path) -> Adapter:
    """Read the description of an adapter, and the headers of its files.

    Raises:
        CheckpointError: a file is missing or damaged, or the adapter is of an unsupported kind.
    """
    config, base = read_json(place(path, ADAPTER_FILE)), read_json(place(path, BASE_FILE))
    rows = base.get("rows")
    rows = {} if rows is None else rows
    texts_are_right = all(isinstance(base.get(name), str) for name in ("path", "digest"))
    if not texts_are_right or not isinstance(rows, dict) or not all(map(_are_rows, rows.values())):
        raise CheckpointError(f"{path / BASE_FILE}: has no path, digest or rows; copy the checkpoint again")
    trained = read_header(place(path, TRAINED_FILE))
    wrong = [name for name, chosen in rows.items() if name not in trained or trained[name].shape[:1] != (len(chosen),)]
    if wrong:
        raise CheckpointError(f"{path / TRAINED_FILE}: {wrong[0]} has not the rows of {BASE_FILE}; copy both again")
    layers = _layers(path, bool(config.get("use_dora")))
    reference = BaseReference(printable(base["path"]), printable(base["digest"]))
    return Adapter(path, reference, _scaling(path, config), layers, trained, rows)


def write_adapter(
    folder: Path,
    config: Mapping[str, Any],
    base: BaseReference,
    layers: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    rows: Mapping[str, list[int]],
) -> None:
    """Write the files that `read_adapter` reads.

    Args:
        folder: of the checkpoint.
        config: of PEFT, as plain JSON values; modules and base are added.
        base: that the adapter was trained on.
        layers: matrices in PEFT's form, without its prefix; published names.
        trained: weights that were trained whole; published names.
        rows: of `trained`, see `Adapter`.

    Raises:
        OSError: it cannot be written.
    """
    modules = sorted({name.partition(".lora_")[0] for name in layers})
    write_json(folder / ADAPTER_FILE, {**config, "target_modules": modules, "base_model_name_or_path": base.path})
    write_json(folder / BASE_FILE, {"path": base.path, "digest": base.digest, "rows": dict(rows)})
    for file, tensors in ((ADAPTER_WEIGHTS_FILE, {_PREFIX + n: x for n, x in layers.items()}), (TRAINED_FILE, trained)):
        layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        write_file(folder / file, layout, tensors.__getitem__)


def find_base(adapter: Adapter, base: str | Path | None = None) -> Path:
    """Return the folder of an adapter's base, whose weights are compared with the digest.

    Args:
        adapter: that needs it.
        base: where it is: folder or hub id; None: GR00T_BASE_CHECKPOINT, else where it was when it was trained on.

    Raises:
        CheckpointError: it is not there, or has other weights.
    """
    named = base or os.environ.get(BASE_VARIABLE)
    try:
        folder = find_folder(named or adapter.base.path)
    except CheckpointError as error:
        if named:
            raise
        raise CheckpointError(
            f"{adapter.path}: its base checkpoint is not at {adapter.base.path} ({error}); set {BASE_VARIABLE} to its "
            "folder or hub id"
        ) from error
    found = weights_digest(folder)
    if found != adapter.base.digest:
        raise CheckpointError(
            f"{folder}: is not the base of {adapter.path}: its weights have the digest {found[:12]}, expected "
            f"{adapter.base.digest[:12]}; set {BASE_VARIABLE} to the checkpoint that the adapter was trained on "
            f"({adapter.base.path})"
        )
    return folder


def merged(weight: Tensor, layer: LowRank, scaling: float) -> Tensor:
    """Return the weight `(out, in)` of a linear layer with its adapter; all float32 on one device.

    Raises:
        ValueError: the shapes do not fit.
    """
    shapes = tuple(weight.shape), tuple(layer.a.shape), tuple(layer.b.shape)
    if len(shapes[0]) != 2 or shapes[1][1:] != shapes[0][1:] or shapes[2] != (shapes[0][0], shapes[1][0]):
        raise ValueError(f"matrices of {shapes[1]} and {shapes[2]} do not fit a weight of {shapes[0]}")
    changed = torch.addmm(weight, layer.b, layer.a, alpha=scaling)
    if layer.magnitude is None:
        return changed
    if tuple(layer.magnitude.shape) != shapes[0][:1]:
        raise ValueError(f"magnitudes of {tuple(layer.magnitude.shape)} do not fit a weight of {shapes[0]}")
    return changed * (layer.magnitude / torch.linalg.norm(changed, dim=1))[:, None]


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of a folder's weights; of an adapter, those of its files and its base's digest.

    Raises:
        CheckpointError: files are missing or cannot be read.
    """
    if is_adapter(folder):
        adapter = read_adapter(folder)
        files, digests = adapter.files, [adapter.base.digest]
    else:
        files, digests = weight_files(folder)[0], []
    with ThreadPoolExecutor(max_workers=min(len(files), 8)) as pool:  # hashing releases the interpreter
        digests += pool.map(_file_digest, files)
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest() if len(digests) > 1 else digests[0]


def _file_digest(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular(file, CheckpointError) as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); copy it again") from error
    return digest.hexdigest()


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, list) and all(type(row) is int and row >= 0 for row in rows)


def _scaling(path: Path, config: Mapping[str, Any]) -> float:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    unusual = [name for name, plain in _PLAIN.items() if (config.get(name) or None) != (plain or None)]
    if config.get("peft_type") != "LORA" or unusual:
        found = ", ".join(unusual) or f"type {config.get('peft_type')}"
        raise CheckpointError(
            f"{path / ADAPTER_FILE}: adapters with {found} are not supported; expected LoRA or DoRA with the settings "
            "that gr00t_finetune writes"
        )
    if type(rank) is not int or rank < 1 or not isinstance(alpha, (int, float)):
        raise CheckpointError(f"{path / ADAPTER_FILE}: has no rank 'r' and 'lora_alpha'; copy the checkpoint again")
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _layers(path: Path, is_dora: bool) -> dict[str, LowRank]:
    file = place(path, ADAPTER_WEIGHTS_FILE)
    parts: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in read_header(file).items():
        layer, dot, kind = name.removeprefix(_PREFIX).partition(".lora_")
        if f"lora_{kind}" not in _KINDS or not dot:
            raise CheckpointError(f"{file}: {printable(name)} is no part of an adapter; copy the checkpoint again")
        parts.setdefault(f"{layer}.weight", {})[_KINDS[f"lora_{kind}"]] = tensor
    needed = {"a", "b", "magnitude"} if is_dora else {"a", "b"}
    wrong = [name for name, found in parts.items() if found.keys() != needed]
    if wrong or not parts:
        what = printable(wrong[0]) if wrong else "it"
        raise CheckpointError(f"{file}: {what} has missing matrices; copy the checkpoint again")
    return {name: LowRank(**found) for name, found in parts.items()}
