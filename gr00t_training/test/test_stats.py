# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from gr00t_training.dataset.statistics.compute import (
    STATISTIC_NAMES,
    ImageStatistics,
    KeyStatistics,
    compute_statistics,
    describe_rows,
    join_described,
    sampled_images,
    stack_rows,
)
from gr00t_training.errors import DatasetError


def test_statistics_by_hand():
    rows = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [5.0, 5.0]])
    found = compute_statistics(rows)
    assert found.min.tolist() == [0, 5]
    assert found.max.tolist() == [5, 5]
    assert found.mean.tolist() == [2, 5]
    np.testing.assert_allclose(found.std, [np.sqrt(14 / 4), 0])  # deviations -2, -1, 0, 3; divided by N
    np.testing.assert_allclose(found.q01, [0.03, 5])  # 1 % of the way along three gaps: 0.03 of the first gap of 1
    np.testing.assert_allclose(found.q99, [2 + 0.97 * 3, 5])
    assert found.min.dtype == np.float64


def test_joint_that_never_moves_has_no_deviation():
    found = compute_statistics(np.full((1000, 1), 0.1))
    assert found.std.tolist() == [0.0]
    assert found.q01 == found.q99 == found.min == np.float32(0.1)


def test_part_and_mapping_round_trip():
    statistics = compute_statistics(np.random.default_rng(0).normal(size=(20, 5)))
    part = statistics.part(2, 4)
    assert part.dim == 2
    assert part.q99.tolist() == statistics.q99[2:4].tolist()
    again = KeyStatistics.from_mapping(json.loads(json.dumps(part.to_mapping())), "arm")
    assert again.to_mapping() == part.to_mapping()


def test_statistics_per_step_keep_their_two_axes():
    lists = {name: (np.arange(6).reshape(3, 2) + i).tolist() for i, name in enumerate(STATISTIC_NAMES)}
    statistics = KeyStatistics.from_mapping(json.loads(json.dumps(lists)), "arm")
    assert statistics.dim == 2
    assert statistics.to_mapping() == lists
    assert statistics.part(1, 2).min.tolist() == [[1], [3], [5]]
    assert statistics.first_steps(2).max.tolist() == [[1, 2], [3, 4]]
    plain = compute_statistics(np.eye(2))
    assert plain.first_steps(1) is plain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"std": None}, "'std' is missing"),
        ({"mean": [1.0]}, r"'mean' has shape \(1,\), min has \(2,\)"),
        ({"q99": [1.0, float("nan")]}, "'q99' holds NaN"),
        ({"min": [[1.0, 2.0], [3.0]]}, "'min' is not a list of numbers"),
        ({"min": {"a": 1.0}}, "'min' is not a list of numbers"),
        ({"min": [[[1.0]], [[2.0]]]}, r"'min' has shape \(2, 1, 1\), expected one number per channel"),
        ({"min": []}, r"'min' has shape \(0,\), expected one number per channel"),
    ],
)
def test_damaged_statistics_are_refused(change, words):
    lists = compute_statistics(np.eye(2)).to_mapping()
    lists.update(change)
    damaged = {name: values for name, values in lists.items() if values is not None}
    with pytest.raises(DatasetError, match=f"stats.json arm: {words}"):
        KeyStatistics.from_mapping(damaged, "stats.json arm")


def test_episode_statistics_keep_integers():
    found = describe_rows(np.arange(4))
    assert found == {"min": [0], "max": [3], "mean": [1.5], "std": [np.sqrt(1.25)], "count": [4]}
    assert isinstance(found["max"][0], int)


def test_image_statistics_by_hand():
    images = ImageStatistics()
    images.add(np.full((2, 2, 3), [0, 51, 255], np.uint8))
    images.add(np.full((2, 2, 3), [102, 51, 255], np.uint8))
    found = images.describe()
    np.testing.assert_allclose(np.ravel(found["mean"]), [0.2, 0.2, 1.0])
    np.testing.assert_allclose(np.ravel(found["std"]), [0.2, 0, 0], atol=1e-8)
    np.testing.assert_allclose(np.ravel(found["min"]), [0, 0.2, 1])
    np.testing.assert_allclose(np.ravel(found["max"]), [0.4, 0.2, 1])
    assert found["count"] == [2]
    assert np.shape(found["mean"]) == (3, 1, 1)


def test_large_images_are_thinned_before_statistics():
    image = np.zeros((200, 320, 3), np.uint8)
    image[::2, ::2] = 255  # 320 / 150 -> every second pixel both ways: only white ones are seen
    images = ImageStatistics()
    images.add(image)
    assert np.ravel(images.describe()["min"]).tolist() == [1, 1, 1]


def test_images_are_sampled_evenly_with_both_ends():
    assert sampled_images(60).tolist() == list(range(60))
    assert len(sampled_images(400)) == 100  # 400^0.75 = 89.4 is fewer than 100
    assert len(sampled_images(10_000)) == 1000
    assert sampled_images(10_000)[[0, -1]].tolist() == [0, 9999]


def test_episode_statistics_equal_those_of_lerobot(data_dir):
    import pyarrow.parquet as pq

    folder = data_dir / "lerobot_v21_reference"
    lines = (folder / "meta/episodes_stats.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        table = pq.read_table(folder / f"data/chunk-000/episode_{line['episode_index']:06d}.parquet")
        for column in ("observation.state", "action", "frame_index", "index"):
            values = np.array(table.column(column).to_pylist())
            for name, expected in line["stats"][column].items():
                # lerobot sums in float32
                np.testing.assert_allclose(describe_rows(values)[name], expected, rtol=1e-5, atol=1e-7)


def test_statistics_equal_those_of_the_n1_loader(fixtures_dir):
    import pyarrow.parquet as pq

    folder = fixtures_dir / "n1_dataset_tiny"
    expected = json.loads((folder / "expected_n1.json").read_text())["stats"]
    tables = [pq.read_table(path) for path in sorted(folder.glob("dataset/data/*/*.parquet"))]
    for column in ("observation.state", "action", "timestamp"):
        found = compute_statistics(stack_rows(np.array(table.column(column).to_pylist()) for table in tables))
        for name, values in expected[column].items():
            np.testing.assert_allclose(found.to_mapping()[name], values, rtol=1e-5, atol=1e-7)


def test_statistics_of_different_forms_are_refused_by_name():
    whole = {"min": [0.0], "max": [1.0], "mean": [0.5], "std": [0.1], "count": [3]}
    for part in ({**whole, "min": [[0.0, 1.0]]}, {**whole, "count": []}, {**whole, "mean": ["a"]}, {"count": [3]}):
        with pytest.raises(DatasetError, match="different forms"):
            join_described([whole, part])
