# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The round of corrections on the simulated robot: its person, its rows and its figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("torch")

from gr00t_bringup.robots import compact_checkpoint
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.errors import ConfigError
from gr00t_training.types import Commander

bench = pytest.importorskip("bench.corrections", reason="the benches are not part of an installed package")


def test_intervals_and_p_values_are_the_published_ones() -> None:
    """Wilson's 95 % interval of 8 of 10, as in textbooks; McNemar's exact test by hand."""
    np.testing.assert_allclose(bench.wilson(8, 10), (0.4902, 0.9433), atol=1e-4)
    np.testing.assert_allclose(bench.wilson(0, 20), (0.0, 0.1611), atol=1e-4)

    def trials(text: str) -> list:
        return [bench.Trial(seed, "", letter == "1", 1.0, None) for seed, letter in enumerate(text)]

    assert bench.paired_p(trials("000001"), trials("111110")) == pytest.approx(2 * (1 + 6) / 2**6)
    assert bench.paired_p(trials("0101"), trials("0101")) == 1.0
    assert bench.paired_p(trials("00000000"), trials("11111111")) == pytest.approx(2 / 2**8)


@pytest.mark.slow
def test_the_expert_takes_over_from_a_policy_that_errs_and_brings_the_cube_into_the_bin(tmp_path: Path) -> None:
    """With the front camera 20 cm away the policy sees nothing that it knows; two processes record an attempt each."""
    scene, seeds = bench.Scene(camera_shift_m=(0.0, 0.2, 0.0)), [100_000, 100_001]
    try:
        trials = bench.record(tmp_path / "attempts", compact_checkpoint(), scene, seeds, jobs=2)
    except ConfigError as error:
        pytest.skip(str(error))
    assert [path.name for path in tmp_path.iterdir()] == ["attempts"]
    assert [str(finding) for finding in validate_dataset(tmp_path / "attempts") if finding.is_fault] == []
    dataset = EpisodeDataset(tmp_path / "attempts")
    assert [trial.seed for trial in trials] == seeds
    assert [episode.tasks for episode in dataset.episodes] == [(trial.task,) for trial in trials]
    for episode, trial in enumerate(trials):
        assert trial.success
        assert trial.takeover_s == pytest.approx(bench.LIFTED_BY_S, abs=0.02)
        codes = dataset.column(episode, "command_source")
        assert set(codes) <= {Commander.POLICY, Commander.PERSON, Commander.HOLD}
        first = int(np.flatnonzero(dataset.interventions(episode))[0])
        assert first == pytest.approx(bench.LIFTED_BY_S * dataset.fps, abs=2)  # rows begin with the first command
        assert np.all(codes[first:] == Commander.PERSON)
        assert Commander.POLICY in codes[:first]
        quality = dataset.quality(episode)
        assert quality is not None and quality.marks.is_success
