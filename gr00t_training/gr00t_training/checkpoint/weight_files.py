# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Safetensors files: their headers, and their tensors streamed straight to where they are needed.

A file is eight bytes with the length of its header, the header (JSON: name -> type, shape, place), then the tensors'
bytes. Reading copies each tensor once, from the file into its memory on its device; a small buffer stands between only
where type or device differ. So a model never lies in the host's memory twice, nor does the file lie there beside it.
Writing goes one tensor at a time for the same reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gr00t_training.checkpoint.files import INDEX_FILE, WEIGHTS_FILE, read_json
from gr00t_training.errors import CheckpointError

MAX_SHARD_BYTES = 5_000_000_000  # of the release's own files
LEROBOT_PREFIX = "_groot_model."  # before every name in policies that lerobot saved
_BUFFER_BYTES = 1 << 24  # large enough that reading and converting are not held up by calls
_MAX_HEADER_BYTES = 100_000_000  # as in the format's own library

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file

    @property
    def num_values(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return self.num_values * self.dtype.itemsize


@dataclass(frozen=True)
class StoredWeights:
    """Headers of all weight files of a folder."""

    tensors: Mapping[str, StoredTensor]  # by name, without `prefix`
    weight_map: Mapping[str, str] | None  # of the index: name as stored -> file; None: one file without index
    prefix: str = ""  # that stands before every name in the files

    @property
    def files(self) -> list[Path]:
        """The weight files, in order of name."""
        return sorted({tensor.file for tensor in self.tensors.values()})


def find_weights(folder: Path, *, prefix: str = LEROBOT_PREFIX) -> StoredWeights:
    """Read the headers of a folder's weight files: `model.safetensors`, or the shards of its index.

    Args:
        folder: of the checkpoint.
        prefix: taken off the names where all of them have it.

    Raises:
        CheckpointError: a file is missing, damaged, cut short, or holds a type that is not supported.
    """
    files, weight_map = weight_files(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors.update(read_header(file))
    if tensors and all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    else:
        prefix = ""
    return StoredWeights(tensors, weight_map, prefix)


def weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the files that hold a folder's weights, and the index's map of names to files; None: without index.

    Raises:
        CheckpointError: the index is damaged.
    """
    if (folder / WEIGHTS_FILE).exists() or not (folder / INDEX_FILE).exists():
        return [folder / WEIGHTS_FILE], None
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_plain_name(file) for file in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX_FILE}: has no weight_map of names to files; copy it again")
    return [folder / name for name in sorted(set(weight_map.values()))], weight_map


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file.

    Raises:
        CheckpointError: as `find_weights`.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: missing; the checkpoint is incomplete, copy it again")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"{size} bytes do not hold a header of {length}")
            header = json.loads(stream.read(length))
        found = {name: _entry(name, entry) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: damaged or cut short ({error}); copy it again") from error
    tensors = {}
    end = 0
    for name, (dtype, shape, start, stop) in found.items():
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{file}: {name} has type {dtype}, supported are {', '.join(DTYPES)}; use a checkpoint that is not "
                "quantised"
            )
        tensors[name] = StoredTensor(file, DTYPES[dtype], shape, 8 + length + start)
        if stop - start != tensors[name].num_bytes or start < 0:
            raise CheckpointError(f"{file}: {name} has {stop - start} bytes, its shape {shape} does not; copy it again")
        end = max(end, stop)
    if size != 8 + length + end:
        raise CheckpointError(
            f"{file}: damaged or cut short ({size} bytes, its header says {8 + length + end}); copy it again"
        )
    return tensors


class TensorReader:
    """Reads tensors to one device, floating ones in one type."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Prepare to read.

        Args:
            device: where tensors are to be.
            dtype: of floating tensors; None: that of the file.
        """
        self._device = device
        self._dtype = dtype
        self._buffer: Tensor | None = None

    def read(self, stored: StoredTensor) -> Tensor:
        """Return a tensor in memory of its own.

        Raises:
            CheckpointError: the file cannot be read any more.
        """
        dtype = self._dtype if self._dtype is not None and stored.dtype.is_floating_point else stored.dtype
        target = torch.empty(stored.shape, dtype=dtype, device=self._device)
        flat = target.view(-1)
        if self._device.type == "cpu" and dtype == stored.dtype:
            _fill(stored, flat, 0)
            return target
        for start, part in self.parts(stored):
            # first to the device, then to the type: the narrow form travels where the file is bfloat16
            flat[start : start + len(part)].copy_(part.to(self._device))
        return target

    def parts(self, stored: StoredTensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (index of the first value, values `(n,)` on the CPU); the values hold until the next part.

        Raises:
            CheckpointError: as `read`.
        """
        if self._buffer is None:
            is_pinned = self._device.type == "cuda"  # else the driver would copy once more
            self._buffer = torch.empty(_BUFFER_BYTES, dtype=torch.uint8, pin_memory=is_pinned)
        room = self._buffer.view(stored.dtype)
        for start in range(0, stored.num_values, len(room)):
            part = room[: min(len(room), stored.num_values - start)]
            _fill(stored, part, start)
            yield start, part


def write_weights(
    folder: Path,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensor: Callable[[str], Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors to one file, or to shards with an index, one tensor at a time.

    Args:
        folder: gets the files.
        layout: name -> type and shape, in the order in which shards are filled.
        tensor: returns the tensor of a name, of that type and shape; called once for each.
        max_shard_bytes: files are at most this large, unless a single tensor is larger.

    Raises:
        OSError: the disk refuses.
    """
    shards: list[list[str]] = [[]]
    size = total = 0
    for name, (dtype, shape) in layout.items():
        num_bytes = math.prod(shape) * dtype.itemsize
        if shards[-1] and size + num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
        total += num_bytes
    if len(shards) == 1:
        _write_file(folder / WEIGHTS_FILE, layout, tensor)
        return
    weight_map = {}
    for i, names in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file, {name: layout[name] for name in names}, tensor)
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _is_plain_name(file: Any) -> bool:
    return isinstance(file, str) and Path(file).name == file


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a type for people."""
    return str(dtype).removeprefix("torch.")


def _entry(name: str, entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, start, stop)):
        raise ValueError(f"{name} has shape {shape} at {start} to {stop}")
    return entry["dtype"], shape, start, stop


def _fill(stored: StoredTensor, values: Tensor, start: int) -> None:
    """Read `values` `(n,)`, on the CPU and of the stored type, from value `start` on."""
    view = values.view(torch.uint8).numpy().data
    try:
        with stored.file.open("rb", buffering=0) as stream:
            stream.seek(stored.offset + start * stored.dtype.itemsize)
            while view:
                count = stream.readinto(view)  # at most 2 GB at once
                if not count:
                    raise OSError("it ends too early")
                view = view[count:]
    except OSError as error:
        raise CheckpointError(f"{stored.file}: damaged or cut short ({error}); copy it again") from error


def _write_file(
    file: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], tensor: Callable[[str], Tensor]
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    # wide types first, so that every tensor starts at a multiple of its width
    names = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))
    end = 0
    for name in names:
        dtype, shape = layout[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            values = tensor(name)
            if (values.dtype, tuple(values.shape)) != layout[name]:
                raise ValueError(f"{name}: {values.dtype} {tuple(values.shape)} is not {layout[name]}")
            stream.write(values.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
