# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of rows in a file equal those of the same rows in memory."""

import numpy as np
import pytest

from gr00t_training.dataset.statistics.compute import compute_statistics, describe_rows
from gr00t_training.dataset.statistics.stored_rows import StoredRows, exact_quantiles

EXACT = ("min", "max", "count", "q01", "q10", "q50", "q90", "q99")


def columns():
    rng = np.random.default_rng(0)
    mixed = rng.normal(0, 1, (700, 4)).astype(np.float32)
    mixed[:, 1] = 0.25  # a joint that never moves
    mixed[::2, 2] = -0.0
    mixed[1::2, 2] = 0.0
    mixed[:, 3] *= 1e-38
    return {
        "float32": mixed,
        "float64": rng.normal(0, 1e9, (501, 2)),
        "int64": rng.integers(-(10**12), 10**12, (333, 3)),
        "index": np.arange(1000),
        "one row": np.array([[1.5, -2.5]], np.float32),
        "two rows": np.array([1.0, 2.0], np.float32),
    }


def stored(rows, folder, *, memory_bytes):
    found = StoredRows(folder, memory_bytes)
    for part in np.array_split(rows, min(7, len(rows))):
        found.add(part)
    return found


@pytest.mark.parametrize("name", columns())
def test_rows_in_a_file_have_the_statistics_of_rows_in_memory(name, tmp_path):
    rows = columns()[name]
    found = stored(rows, tmp_path, memory_bytes=0)
    described, expected = found.describe(quantiles=True), describe_rows(rows, quantiles=True)
    assert list(described) == list(expected)
    for key in EXACT:
        assert described[key] == expected[key], key
    for key in ("mean", "std"):
        np.testing.assert_allclose(described[key], expected[key], rtol=1e-12, atol=1e-12 * np.abs(rows).max())
    if np.issubdtype(rows.dtype, np.floating):
        key_statistics, wanted = found.statistics(), compute_statistics(rows.reshape(len(rows), -1))
        for key in ("min", "max", "q01", "q99"):
            np.testing.assert_array_equal(getattr(key_statistics, key), getattr(wanted, key))
        np.testing.assert_allclose(key_statistics.std, wanted.std, rtol=1e-12, atol=1e-300)
    found.close()


def test_rows_in_memory_have_bit_identical_statistics(tmp_path):
    rows = columns()["float32"]
    found = stored(rows, tmp_path, memory_bytes=2**20)
    assert found.describe(quantiles=True) == describe_rows(rows, quantiles=True)
    assert found.statistics().to_mapping() == compute_statistics(rows).to_mapping()


def test_whole_numbers_before_the_first_fraction(tmp_path):
    found = StoredRows(tmp_path, 0)
    found.add(np.array([1, 2, 3]))
    found.add(np.array([0.5, 1.5]))
    assert found.describe(quantiles=True) == describe_rows(np.array([1, 2, 3, 0.5, 1.5]), quantiles=True)


def test_quantiles_of_every_share():
    rows = np.random.default_rng(1).integers(-5, 5, (97, 3)).astype(np.float32)
    shares = [0.0, 0.013, 0.25, 0.5, 0.77, 1.0]
    found = exact_quantiles(lambda: iter(np.array_split(rows, 5)), len(rows), shares)
    np.testing.assert_array_equal(found, np.quantile(rows.astype(np.float64), shares, axis=0))
