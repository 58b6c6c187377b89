# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which episodes are held out of a run."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("torch")

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.checkpoint import new_checkpoint
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.train.data.fit import dataset_statistics
from gr00t_training.train.data.holdout import hold_out
from gr00t_training.train.data.samples import Source
from gr00t_training.train.settings import TrainerSettings

EMBODIMENT = make_embodiment()
TASKS = ["lift"] * 6 + ["push"] * 3 + ["turn"]


def make_source(root, tasks):
    with DatasetWriter(root, EMBODIMENT) as writer:
        for number, task in enumerate(tasks):
            episode = writer.start_episode(task)
            for frame in make_frames(EMBODIMENT, 3, seed=number, task=task):
                episode.add_frame(frame)
            episode.save()
    dataset = EpisodeDataset(root)
    return Source(dataset, new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT)).pipeline())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("dataset"), TASKS)


def test_nothing_is_held_out_by_default(source):
    assert hold_out([source], share=0.0, episodes=(), seed=1) == ([source], [])


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.01, {"lift": 1}), (0.3, {"lift": 2, "push": 1}), (0.5, {"lift": 3, "push": 2}), (0.9, {"lift": 5, "push": 2})],
)
def test_a_share_is_taken_of_each_task(source, share, expected):
    (trained,), (held_out,) = hold_out([source], share=share, episodes=(), seed=1)
    assert Counter(TASKS[episode] for episode in held_out.episodes()) == expected
    assert sorted(trained.episodes() + held_out.episodes()) == list(range(10))
    assert (len(trained), len(held_out)) == (30 - 3 * sum(expected.values()), 3 * sum(expected.values()))
    assert {trained.step(i) for i in range(len(trained))}.isdisjoint(held_out.step(i) for i in range(len(held_out)))
    assert {TASKS[episode] for episode in trained.episodes()} == set(TASKS)


def test_the_choice_depends_on_the_seed_only(source):
    chosen = [hold_out([source], share=0.3, episodes=(), seed=seed)[1][0].episodes() for seed in (1, 1, 2, 3, 4)]
    assert chosen[0] == chosen[1]
    assert any(other != chosen[0] for other in chosen[2:])


def test_every_source_gives_its_share(source):
    trained, held_out = hold_out([source, source], share=0.3, episodes=(), seed=1)
    assert [len(part) for part in held_out] == [9, 9]
    assert [len(part) for part in trained] == [21, 21]
    with pytest.raises(ConfigError, match="validation_episodes name episodes of one dataset, the run has 2"):
        hold_out([source, source], share=0.0, episodes=("1",), seed=1)


def test_episodes_can_be_named(source):
    (trained,), (held_out,) = hold_out([source], share=0.0, episodes=("1,3-4", "9-"), seed=1)
    assert held_out.episodes() == [1, 3, 4, 9]
    assert trained.episodes() == [0, 2, 5, 6, 7, 8]
    with pytest.raises(DatasetError, match="episodes '12': not all of them are in the dataset"):
        hold_out([source], share=0.0, episodes=("12",), seed=1)


def test_where_every_episode_has_its_own_task_some_tasks_are_only_validated(tmp_path):
    source = make_source(tmp_path, ["a", "b", "c", "d"])
    (trained,), (held_out,) = hold_out([source], share=0.5, episodes=(), seed=1)
    assert (len(trained.episodes()), len(held_out.episodes())) == (2, 2)


def test_something_must_be_left_to_train_on(source, tmp_path):
    with pytest.raises(ConfigError, match="10 episodes to train on, 10 of them held out for validation, none is left"):
        hold_out([source], share=0.0, episodes=("0-",), seed=1)
    with pytest.raises(ValueError, match="validation_share and validation_episodes are both given"):
        TrainerSettings(validation_share=0.1, validation_episodes=("0",))
    with pytest.raises(ConfigError, match="1 episodes to train on, 1 of them held out"):
        hold_out([make_source(tmp_path, ["a"])], share=0.1, episodes=(), seed=1)
