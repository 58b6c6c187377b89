# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Columns of tables as arrays: every list type of Arrow, whatever its offsets, depth or width."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from gr00t_training.errors import DatasetError

# Numbers of types; older releases of the library do not have all of them.
_LISTS = {pa.list_(pa.null(), 1).id} | {
    getattr(pa, name)(pa.null()).id
    for name in ("list_", "large_list", "list_view", "large_list_view")
    if hasattr(pa, name)
}
_TEXTS = {getattr(pa, name)().id for name in ("string", "large_string", "string_view") if hasattr(pa, name)}


def column_rows(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column as `(N,)`, or `(N, D)` where its rows are lists; lists in lists are flattened.

    Texts come as an object array of `str`.

    Raises:
        DatasetError: empty values, lists of different lengths, or neither numbers nor texts.
    """
    try:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        leaves, width = _leaves(array)
        if not is_number(leaves.type) and not is_text(leaves.type) and not pa.types.is_boolean(leaves.type):
            raise DatasetError(f"holds {leaves.type}, expected numbers or texts")
        if pa.types.is_decimal(leaves.type):
            leaves = leaves.cast(pa.float64())
        values = leaves.to_numpy(zero_copy_only=False)
    except (pa.ArrowException, ValueError) as error:
        raise DatasetError(f"a column of {column.type} cannot be read ({error})") from error
    return values if width is None else values.reshape(len(array), width)


def holds_numbers(kind: pa.DataType) -> bool:
    """Whether the rows of a column of that type are numbers or lists of numbers."""
    return is_number(_leaf_type(kind))


def holds_flags(kind: pa.DataType) -> bool:
    """Whether the rows of a column of that type are true or false, or lists of that."""
    return pa.types.is_boolean(_leaf_type(kind))


def _leaf_type(kind: pa.DataType) -> pa.DataType:
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif is_list(kind):
            kind = kind.value_type
        else:
            return kind


def _leaves(array: pa.Array) -> tuple[pa.Array, int | None]:
    """Return the values of all rows one after the other and how many a row has; None: they are not lists."""
    width = None
    rows = len(array)
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
            continue
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
            continue
        if array.null_count:
            raise DatasetError(f"a column of {array.type} has {array.null_count} empty rows; write the dataset again")
        if not is_list(array.type):
            break
        if pa.types.is_fixed_size_list(array.type):
            width = (width if width is not None else 1) * array.type.list_size
            # a width of 0 is a division by zero inside the library
            array = array.flatten() if array.type.list_size else array.values.slice(0, 0)
            continue
        lengths = array.value_lengths().unique().to_pylist()
        if len(lengths) > 1:
            raise DatasetError(
                f"a column of {array.type} has {min(lengths)} to {max(lengths)} values a row; expected one width"
            )
        width = (width if width is not None else 1) * (lengths[0] if lengths else 0)
        array = array.flatten()
    if width is not None and len(array) != rows * width:
        raise DatasetError(f"a column has {len(array)} values in {rows} rows of {width}; write the dataset again")
    return array, width


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list of some kind."""
    return kind.id in _LISTS


def is_number(kind: pa.DataType) -> bool:
    """Whether a type is a number, without booleans."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is a text."""
    return kind.id in _TEXTS


def leaf_is_text(kind: pa.DataType) -> bool:
    """Whether a type is a text or a list of texts."""
    return is_text(_leaf_type(kind))
