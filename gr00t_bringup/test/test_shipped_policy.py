# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The episodes that the policy of the simulated arm is trained on, and the recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("tokenizers")

from tokenizers import Tokenizer

from gr00t_bringup.robots import compact_checkpoint
from gr00t_bringup.sim.scene import CUBES
from gr00t_bringup.sim.task import PHRASES, task_text
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.embodiment import load_embodiment
from gr00t_training.errors import ConfigError
from gr00t_training.train.recipes import read_recipe
from gr00t_training.types import KeyKind, KeyRef

bench = pytest.importorskip("bench.shipped_policy", reason="the benches are not part of an installed package")

DROPPED = 4  # index of an episode that begins above a cube that was dropped


@pytest.mark.slow
def test_an_episode_after_a_dropped_cube_is_recorded_as_by_the_recorder_node(tmp_path: Path) -> None:
    try:
        counts = bench.record_part(tmp_path / "episodes", DROPPED, 1, DROPPED + 1)
    except ConfigError as error:  # no OpenGL
        pytest.skip(str(error))
    assert counts == {"dropped": 1}
    assert [str(finding) for finding in validate_dataset(tmp_path / "episodes") if finding.is_fault] == []
    dataset = EpisodeDataset(tmp_path / "episodes")
    assert dataset.embodiment == load_embodiment("sim_arm")
    assert dataset.task(0, 0) in {phrase.format(color="green") for phrase in PHRASES}
    quality = dataset.quality(0)
    assert quality is not None and quality.marks.is_success
    assert quality.marks.note == "start: dropped"
    # the arm begins with open jaws, away from home, and follows the leader
    state = dataset.vectors(KeyRef(KeyKind.STATE, "single_arm"), 0)
    action = dataset.vectors(KeyRef(KeyKind.ACTION, "single_arm"), 0)
    assert dataset.vectors(KeyRef(KeyKind.STATE, "gripper"), 0)[0, 0] == pytest.approx(bench.OPEN_RAD, abs=0.05)
    assert abs(state[0, 0]) > 0.2
    assert 0.0 < np.abs(state[2:] - action[:-2]).mean() < 0.02


def test_phrases_have_equal_numbers_of_tokens() -> None:
    tokenizer = Tokenizer.from_file(str(compact_checkpoint() / "tokenizer.json"))
    texts = [task_text(color, number) for color in CUBES for number in range(len(PHRASES))]
    assert {len(tokenizer.encode(text).ids) for text in texts} == {8}


def test_recipe_is_one_of_fine_tuning() -> None:
    recipe = read_recipe(bench.RECIPE)
    assert recipe["rtc_max_delay"] == 0
    assert recipe["tune_llm"] is True
