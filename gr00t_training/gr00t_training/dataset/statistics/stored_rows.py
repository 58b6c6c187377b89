# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of a column over a dataset that is larger than memory.

Rows beyond some megabytes are kept in a temporary file without a name. Quantiles are exact all the same: a value is
found digit by digit (11 bits of its order-preserving bit pattern) from counts of all rows, with one pass over the file
per digit and a few megabytes of counts.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from gr00t_training.dataset.statistics.compute import (
    QUANTILES,
    KeyStatistics,
    compute_statistics,
    describe_rows,
    stack_rows,
)

MEMORY_BYTES = 32 * 2**20  # of a column in memory; 57,000 episodes of 20 rows of seven joints
BLOCK_BYTES = 4 * 2**20  # that are read at a time
_MAX_PARTS = 1000  # arrays in memory before they become one
_DIGIT_BITS = 11
_DIGITS = 2**_DIGIT_BITS

Blocks = Callable[[], Iterator[np.ndarray]]  # (n, D) each, the same ones at every call


class StoredRows:
    """The rows of one column, in order."""

    def __init__(self, folder: Path | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
        """Start without rows.

        Args:
            folder: of the temporary file; None: the system's, which may be in memory.
            memory_bytes: of rows that are kept in memory.
        """
        self._folder, self._memory_bytes = folder, memory_bytes
        self._parts: list[np.ndarray] = []
        self._num_bytes = 0  # of the parts
        self._file: IO[bytes] | None = None
        self._dtype: np.dtype | None = None
        self.width = 0
        self.count = 0

    @property
    def is_float(self) -> bool:
        """Whether the first rows are floating point numbers."""
        return self._dtype is not None and np.issubdtype(self._dtype, np.floating)

    def add(self, rows: np.ndarray) -> None:
        """Add rows, `(n,)` or `(n, D)`; D must be that of the rows before.

        Raises:
            OSError: the temporary file cannot be written.
        """
        values = np.ascontiguousarray(rows.reshape(len(rows), -1))
        self.width = values.shape[1]
        self.count += len(values)
        self._dtype = values.dtype if self._dtype is None else np.result_type(self._dtype, values.dtype)
        self._parts.append(values)
        self._num_bytes += values.nbytes
        if len(self._parts) > _MAX_PARTS:
            self._parts = [np.concatenate(self._parts)]
        if self._num_bytes > self._memory_bytes:
            self._move_to_file()

    def describe(self, *, quantiles: bool) -> dict[str, list]:
        """Return what `compute.describe_rows` does of all rows."""
        if self._file is None:
            return describe_rows(np.concatenate(self._parts), quantiles=quantiles)
        self._move_to_file()
        low, high, mean, std = _moments(self._blocks, self.count)
        entry = {"min": low.tolist(), "max": high.tolist(), "mean": mean.tolist(), "std": std.tolist()}
        entry["count"] = [self.count]
        if quantiles:
            found = exact_quantiles(self._blocks, self.count, list(QUANTILES.values())).tolist()
            entry |= dict(zip(QUANTILES, found, strict=True))
        return entry

    def statistics(self) -> KeyStatistics:
        """Return what `compute.compute_statistics` does of all rows, rounded to float32."""
        if self._file is None:
            return compute_statistics(stack_rows(self._parts))
        self._move_to_file()

        def rounded() -> Iterator[np.ndarray]:
            return (block.astype(np.float32, copy=False) for block in self._blocks())

        low, high, mean, std = _moments(rounded, self.count)
        q01, q99 = exact_quantiles(rounded, self.count, [0.01, 0.99])
        return KeyStatistics(low.astype(np.float64), high.astype(np.float64), mean, std, q01, q99)

    def read(self, first: int, count: int) -> np.ndarray:
        """Return `count` rows from row `first` on, `(count, D)`."""
        if self._file is None:
            if len(self._parts) > 1:
                self._parts = [np.concatenate(self._parts)]
            return self._parts[0][first : first + count]
        if self._parts:
            self._move_to_file()
        row_bytes = self.width * self._file_dtype.itemsize
        self._file.seek(first * row_bytes)
        return np.frombuffer(self._file.read(count * row_bytes), self._file_dtype).reshape(-1, self.width)

    def close(self) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            self._file.close()

    def _move_to_file(self) -> None:
        assert self._dtype is not None
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # lives as long as the object
            self._file_dtype = self._dtype
        elif self._file_dtype != self._dtype:  # such as whole numbers before the first fraction
            old, self._file = self._file, tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            for block in _read_blocks(old, self._file_dtype, self.width):
                self._file.write(block.astype(self._dtype).tobytes())
            old.close()
            self._file_dtype = self._dtype
        self._file.seek(0, 2)  # after the blocks that were read
        for part in self._parts:
            self._file.write(part.astype(self._file_dtype, copy=False).tobytes())
        self._parts, self._num_bytes = [], 0

    def _blocks(self) -> Iterator[np.ndarray]:
        assert self._file is not None
        return _read_blocks(self._file, self._file_dtype, self.width)


def _read_blocks(file: IO[bytes], dtype: np.dtype, width: int) -> Iterator[np.ndarray]:
    """Yield the rows of a file; read, not mapped: mapped pages would count as memory of the process."""
    row_bytes = width * dtype.itemsize
    block_bytes = max(BLOCK_BYTES // row_bytes, 1) * row_bytes
    file.seek(0)
    while content := file.read(block_bytes):
        yield np.frombuffer(content, dtype).reshape(-1, width)


def _moments(blocks: Blocks, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return minimum, maximum, mean and deviation (ddof 0), `(D,)` each; the first two in the type of the rows."""
    extremes = [(block.min(axis=0), block.max(axis=0)) for block in blocks()]
    mean = sum(block.astype(np.float64).sum(axis=0) for block in blocks()) / count
    squares = sum(((block - mean) ** 2).sum(axis=0) for block in blocks())
    low, high = np.min([low for low, _ in extremes], axis=0), np.max([high for _, high in extremes], axis=0)
    return low, high, np.asarray(mean), np.sqrt(squares / count)


def exact_quantiles(blocks: Blocks, count: int, shares: Sequence[float]) -> np.ndarray:
    """Return quantiles with linear interpolation, `(len(shares), D)` float64, as `numpy.quantile` gives them.

    Args:
        blocks: rows `(n, D)` of whole or floating point numbers, without NaN.
        count: number of rows, > 0.
        shares: quantiles, 0 to 1.
    """
    positions = [share * (count - 1) for share in shares]
    ranks = np.array([math.floor(position) for position in positions])
    low, num_up_to = _values_at(blocks, ranks)
    above = _next_values(blocks, low)
    found = []
    for position, rank, value, following, reached in zip(positions, ranks, low, above, num_up_to, strict=True):
        start = _number(value, blocks)
        end = _number(np.where((reached > rank + 1) | (reached == count), value, following), blocks)
        share = position - rank
        # start from the nearer value, as numpy does: equal values stay equal
        found.append(start + (end - start) * share if share < 0.5 else end - (end - start) * (1 - share))
    return np.stack(found)


def _values_at(blocks: Blocks, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys at places of the sorted rows, `(R, D)`, and how many rows are not above each."""
    first = next(blocks())
    width = first.shape[1]
    prefixes, below = np.zeros((len(ranks), width), np.uint64), np.zeros((len(ranks), width), np.int64)
    last = below
    for shift, bits in _digits(first.dtype):
        counts = np.zeros((len(ranks), width, _DIGITS), np.int64)
        for block in blocks():
            keys = _keys(block)
            cells = (keys >> np.uint64(shift) & np.uint64(2**bits - 1)).astype(np.int64)
            cells += np.arange(width) * _DIGITS
            tops = keys >> np.uint64(shift + bits) if shift + bits < 64 else np.zeros_like(keys)
            for number, prefix in enumerate(prefixes):
                counts[number] += np.bincount(cells[tops == prefix], minlength=width * _DIGITS).reshape(width, _DIGITS)
        reached = counts.cumsum(axis=2)
        digits = (reached <= (ranks[:, None] - below)[..., None]).sum(axis=2)
        earlier = np.take_along_axis(reached, np.maximum(digits - 1, 0)[..., None], 2)[..., 0]
        below = below + np.where(digits, earlier, 0)
        prefixes = prefixes << np.uint64(bits) | digits.astype(np.uint64)
        last = np.take_along_axis(counts, digits[..., None], 2)[..., 0]
    return prefixes, below + last


def _next_values(blocks: Blocks, keys: np.ndarray) -> np.ndarray:
    """Return the smallest key above each of `keys`, `(R, D)`; any number where there is none."""
    largest = np.uint64(2**64 - 1)
    found = np.full(keys.shape, largest)
    for block in blocks():
        own = _keys(block)
        for number, key in enumerate(keys):
            np.minimum(found[number], np.where(own > key, own, largest).min(axis=0), out=found[number])
    return found


def _digits(dtype: np.dtype) -> Iterator[tuple[int, int]]:
    """Yield where the digits of a key are, highest first: bits below them, and bits of them."""
    shift = _key_bits(dtype)
    while shift:
        bits = min(_DIGIT_BITS, shift)
        shift -= bits
        yield shift, bits


def _key_bits(dtype: np.dtype) -> int:
    return 32 if dtype == np.float32 else 64


def _keys(values: np.ndarray) -> np.ndarray:
    """Return unsigned numbers in the order of the values."""
    if values.dtype == np.float32:
        bits = values.view(np.uint32).astype(np.uint64)
        return np.where(bits >> np.uint64(31), ~bits & np.uint64(2**32 - 1), bits | np.uint64(2**31))
    if values.dtype.kind in "iub":
        return values.astype(np.int64).view(np.uint64) ^ np.uint64(2**63)
    bits = values.astype(np.float64).view(np.uint64)
    return np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(2**63))


def _number(keys: np.ndarray, blocks: Blocks) -> np.ndarray:
    """Return the values of keys, float64."""
    dtype = next(blocks()).dtype
    if dtype == np.float32:
        is_negative = keys >> np.uint64(31) == 0
        bits = np.where(is_negative, ~keys & np.uint64(2**32 - 1), keys & np.uint64(2**31 - 1))
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)
    if dtype.kind in "iub":
        return (keys ^ np.uint64(2**63)).view(np.int64).astype(np.float64)
    bits = np.where(keys >> np.uint64(63) == 0, ~keys, keys & np.uint64(2**63 - 1))
    return bits.view(np.float64)
