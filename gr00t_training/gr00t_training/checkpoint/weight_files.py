# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read and write safetensors files: headers, and tensors that are streamed directly to their device.

A file has eight bytes with the length of its header, the header (JSON: name -> type, shape, offsets), then the bytes of
the tensors. Reading copies each tensor once, from the file to its memory on the device, through a small buffer only if
type or device differ. So host memory never has a model twice, nor a model and its file. For the same reason tensors are
written one by one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gr00t_training.checkpoint.files import INDEX_FILE, WEIGHTS_FILE, place, read_json
from gr00t_training.checkpoint.foreign import recognized
from gr00t_training.errors import CheckpointError
from gr00t_training.io.files import open_regular
from gr00t_training.io.json_text import parse_json
from gr00t_training.io.text import printable

MAX_SHARD_BYTES = 5_000_000_000  # of the release's own files
LEROBOT_PREFIX = "_groot_model."  # prefix of every name in policies that lerobot saved
_BUFFER_BYTES = 1 << 24  # large enough that the time of calls does not matter
_MAX_HEADER_BYTES = 32 * 2**20  # that of the largest release has 0.2 MB
_MAX_DIMENSIONS = 8
_MAX_SHARDS = 1000
_SHOWN_SHARDS = 5  # of a long list in an error

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
    """Location of a tensor in a file."""

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
    prefix: str = ""  # of every name in the files

    @property
    def files(self) -> list[Path]:
        """The weight files, in order of name."""
        return sorted({tensor.file for tensor in self.tensors.values()})


def find_weights(folder: Path, *, prefix: str = LEROBOT_PREFIX) -> StoredWeights:
    """Read the headers of a folder's weight files: `model.safetensors`, or the shards of its index.

    Args:
        folder: of the checkpoint.
        prefix: removed from the names if all of them have it.

    Raises:
        CheckpointError: a file is missing, damaged, truncated, or has an unsupported type.
    """
    files, weight_map = weight_files(folder)
    missing = [file.name for file in files if not file.exists()]
    if missing:
        listed = ", ".join(missing[:_SHOWN_SHARDS]) + (" and more" if len(missing) > _SHOWN_SHARDS else "")
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(files)} weight files are missing ({listed}); copy them to the others"
        )
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                places = f"{tensors[name].file.name} and {file.name}"
                raise CheckpointError(f"{folder}: {printable(name)} is in {places}; copy the files again")
            tensors[name] = tensor
    if tensors and all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    else:
        prefix = ""
    return StoredWeights(tensors, weight_map, prefix)


def weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """Return the weight files of a folder, and the index's map of names to files (None: without index).

    Raises:
        CheckpointError: there are none, the index is damaged, or they have another format; says which.
    """
    if (folder / WEIGHTS_FILE).exists():
        return [place(folder, WEIGHTS_FILE)], None
    if not (folder / INDEX_FILE).exists():
        what = recognized(folder)
        raise CheckpointError(what or f"{folder / WEIGHTS_FILE}: missing; the checkpoint is incomplete, copy it again")
    weight_map = read_json(place(folder, INDEX_FILE)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX_FILE}: has no weight_map of names to files; copy it again")
    names = sorted(set(weight_map.values()))
    if len(names) > _MAX_SHARDS:
        raise CheckpointError(f"{folder / INDEX_FILE}: names {len(names)} files (limit {_MAX_SHARDS}); copy it again")
    files = [place(folder, name) for name in names]
    return files, weight_map


def index_contradictions(weights: StoredWeights) -> list[str]:
    """List tensors whose file differs from the one in the index, or that are in no file."""
    stored = {weights.prefix + name: tensor.file.name for name, tensor in weights.tensors.items()}
    items = []
    for name, file in (weights.weight_map or {}).items():
        if name not in stored:
            items.append(f"{printable(name)} is not in {file}; copy that file again")
        elif stored[name] != Path(file).name:
            items.append(f"{printable(name)} is in {stored[name]}, not in {file}; copy the files again")
    return items


def find_sound_weights(folder: Path, *, prefix: str = LEROBOT_PREFIX) -> StoredWeights:
    """Read the headers as `find_weights`.

    Raises:
        CheckpointError: as `find_weights`; also if index and files contradict each other.
    """
    weights = find_weights(folder, prefix=prefix)
    items = index_contradictions(weights)
    if items:
        raise CheckpointError(f"{folder / INDEX_FILE}: {items[0]}")
    return weights


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of one file.

    Raises:
        CheckpointError: as `find_weights`; also if tensors overlap or bytes belong to no tensor.
    """
    if not file.exists():
        raise CheckpointError(f"{file}: missing; the checkpoint is incomplete, copy it again")
    with open_regular(file, CheckpointError) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise CheckpointError(
                f"{file}: damaged or truncated ({size} bytes do not hold a header of {length}); copy it again"
            )
        if length > _MAX_HEADER_BYTES:
            raise CheckpointError(f"{file}: has a header of {length} bytes (limit {_MAX_HEADER_BYTES}); copy it again")
        text = stream.read(length)
    try:
        source = f"{file}: damaged or truncated: header"
        header = parse_json(text.decode("utf-8"), source, CheckpointError, "copy it again")
        found = {name: _entry(name, entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file}: damaged or truncated ({printable(str(error))}); copy it again") from error
    tensors = {}
    for name, (dtype, shape, start, stop) in found.items():
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{file}: {printable(name)} has type {printable(dtype)}, supported: {', '.join(DTYPES)}; use a "
                "checkpoint that is not quantized"
            )
        tensor = tensors[name] = StoredTensor(file, DTYPES[dtype], shape, 8 + length + start)
        if stop - start != tensor.num_bytes:
            raise CheckpointError(
                f"{file}: {printable(name)} has {stop - start} bytes, its shape {shape} needs {tensor.num_bytes}; copy "
                "it again"
            )
    _check_places(file, tensors, 8 + length, size)
    return tensors


def _check_places(file: Path, tensors: Mapping[str, StoredTensor], start: int, size: int) -> None:
    """Refuse overlapping tensors, bytes of no tensor, and a wrong file size."""
    end, before = start, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if tensor.offset < end:
            raise CheckpointError(f"{file}: {printable(name)} overlaps {printable(before)}; copy it again")
        if tensor.offset > end:
            raise CheckpointError(
                f"{file}: {tensor.offset - end} bytes before {printable(name)} belong to no tensor; copy it again"
            )
        end, before = tensor.offset + tensor.num_bytes, name
    if size != end:
        raise CheckpointError(f"{file}: damaged or truncated ({size} bytes, its header says {end}); copy it again")


class TensorReader:
    """Read tensors to one device, floating ones as one type."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Prepare to read.

        Args:
            device: of the tensors.
            dtype: of floating tensors; None: that of the file.
        """
        self._device = device
        self._dtype = dtype
        self._buffer: Tensor | None = None

    def of_type(self, dtype: torch.dtype) -> TensorReader:
        """Return a reader to the same device, of another type."""
        return TensorReader(self._device, dtype)

    def type_of(self, stored: StoredTensor) -> torch.dtype:
        """Return the type that `read` gives a tensor."""
        return self._dtype if self._dtype is not None and stored.dtype.is_floating_point else stored.dtype

    def read(self, stored: StoredTensor) -> Tensor:
        """Return a tensor with its own memory.

        Raises:
            CheckpointError: the file cannot be read.
        """
        dtype = self.type_of(stored)
        target = torch.empty(stored.shape, dtype=dtype, device=self._device)
        flat = target.view(-1)
        if self._device.type == "cpu" and dtype == stored.dtype:
            _fill(stored, flat, 0)
            return target
        for start, part in self.parts(stored):
            # first to the device, then to the type: a bfloat16 file is transferred as bfloat16
            flat[start : start + len(part)].copy_(part.to(self._device))
        return target

    def count_not_finite(self, stored: StoredTensor) -> int:
        """Return how many values of a tensor are NaN or infinite.

        Raises:
            CheckpointError: as `read`.
        """
        # as in the model: a float64 above the range of float32 becomes infinite
        is_wide = stored.dtype is torch.float64
        return sum(count_not_finite(part.float() if is_wide else part) for _, part in self.parts(stored))

    def parts(self, stored: StoredTensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (index of the first value, values `(n,)` on the CPU); the values are valid until the next part.

        Raises:
            CheckpointError: as `read`.
        """
        if self._buffer is None:
            is_pinned = self._device.type == "cuda"  # otherwise the driver makes another copy
            self._buffer = torch.empty(_BUFFER_BYTES, dtype=torch.uint8, pin_memory=is_pinned)
        room = self._buffer.view(stored.dtype)
        for start in range(0, stored.num_values, len(room)):
            part = room[: min(len(room), stored.num_values - start)]
            _fill(stored, part, start)
            yield start, part


def count_not_finite(values: Tensor) -> int:
    """Return how many values are NaN or infinite."""
    # the sum is finite only if all values are, and takes no memory; it may overflow, which is then counted exactly
    if not values.is_floating_point() or bool(torch.isfinite(values.sum(dtype=torch.float32))):
        return 0
    return values.numel() - int(torch.isfinite(values).sum())


def write_weights(
    folder: Path,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensor: Callable[[str], Tensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors to one file, or to shards with an index, one tensor at a time.

    Args:
        folder: of the new files.
        layout: name -> type and shape, in the order in which shards are filled.
        tensor: returns the tensor of a name, of that type and shape; called once for each.
        max_shard_bytes: files are at most this large, unless a single tensor is larger.

    Raises:
        OSError: it cannot be written.
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
        write_file(folder / WEIGHTS_FILE, layout, tensor)
        return
    weight_map = {}
    for i, names in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_file(folder / file, {name: layout[name] for name in names}, tensor)
        weight_map.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def type_name(dtype: torch.dtype) -> str:
    """Return the short name of a type."""
    return str(dtype).removeprefix("torch.")


def _entry(name: str, entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if len(shape) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, stop)):
        raise ValueError(f"{name} has shape {shape} at {start} to {stop}")
    return str(entry["dtype"]), shape, start, stop


def _fill(stored: StoredTensor, values: Tensor, start: int) -> None:
    """Read `values` `(n,)`, on the CPU and of the stored type, from value `start` on."""
    view = values.view(torch.uint8).numpy().data
    try:
        with stored.file.open("rb", buffering=0) as stream:
            stream.seek(stored.offset + start * stored.dtype.itemsize)
            while view:
                count = stream.readinto(view)  # at most 2 GB at once
                if not count:
                    raise OSError("unexpected end")
                view = view[count:]
    except OSError as error:
        raise CheckpointError(f"{stored.file}: damaged or truncated ({error}); copy it again") from error


def write_file(
    file: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], tensor: Callable[[str], Tensor]
) -> None:
    """Write tensors to one file, one at a time; arguments as in `write_weights`.

    Raises:
        OSError: it cannot be written.
    """
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
