# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A tiny model learns two short episodes by heart, and the policy repeats them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gr00t_test_support.builders import make_embodiment  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.judge.open_loop import compare_episode  # noqa: E402
from gr00t_training.judge.queries import Recording, answer_queries  # noqa: E402
from gr00t_training.model.config import Gr00tConfig  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.settings import TrainerSettings  # noqa: E402
from gr00t_training.train.trainer import Trainer  # noqa: E402
from gr00t_training.types import Frame  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = dataclasses.replace(make_embodiment(size=(32, 32)), action_horizon=8)
LENGTH = 8
NUM_STEPS = 800


def write_dataset(root):
    """Two movements, told apart by task, image and state."""
    with DatasetWriter(root, EMBODIMENT) as writer:
        for number, task in enumerate(("lift", "push")):
            episode = writer.start_episode(task)
            for row in range(LENGTH):
                t = row / LENGTH
                arm = np.array([np.sin(3 * t + number), np.cos(2 * t) - number, t * (1 - 2 * number)])
                gripper = np.array([0.02 * np.sin(4 * t)])
                image = np.full((32, 32, 3), 40 + 100 * number, np.uint8)
                image[:, : 2 + 2 * row] = 220
                action = {"arm": arm + 0.1 * np.cos(5 * t), "gripper": gripper}
                stamp_ns = round(row * 1e9 / EMBODIMENT.fps)
                episode.add_frame(Frame(stamp_ns, {"arm": arm, "gripper": gripper}, action, {"front": image}, task))
            episode.save()
    return EpisodeDataset(root)


def make_config(config: Gr00tConfig) -> Gr00tConfig:
    """Make the compact model narrower: a step takes some hundredths of a second."""
    backbone, head = config.backbone, config.action_head
    return dataclasses.replace(
        config,
        backbone=dataclasses.replace(
            backbone,
            vision=dataclasses.replace(
                backbone.vision, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, image_size=28
            ),
            language=dataclasses.replace(backbone.language, hidden_size=48, intermediate_size=96, num_layers=1),
            select_layer=1,
            projector_dim=48,
        ),
        action_head=dataclasses.replace(
            head,
            dit=dataclasses.replace(head.dit, num_heads=4, head_dim=16, num_layers=2, output_dim=64),
            hidden_size=64,
        ),
    )


def relative_errors(policy, dataset):
    """Return the mean absolute error of each key of each episode, as a share of the key's range."""
    found = []
    for episode in range(2):
        recording = Recording(dataset, EMBODIMENT, (episode,), 4)
        compared = compare_episode(recording, answer_queries(policy, recording).chunks, episode)
        for key, truth in compared.truth.items():
            extent = np.ptp(np.concatenate([dataset.action(other, key) for other in range(2)]), axis=0).mean()
            found.append(float(np.abs(compared.predicted[key] - truth).mean() / extent))
    return found


@pytest.mark.slow
def test_a_policy_repeats_what_a_tiny_model_learned_by_heart(tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
    checkpoint = dataclasses.replace(checkpoint, config=make_config(checkpoint.config))
    torch.manual_seed(0)
    settings = TrainerSettings(
        max_steps=NUM_STEPS,
        batch_size=8,
        learning_rate=3e-3,
        save_steps=NUM_STEPS,
        log_every=NUM_STEPS // 4,
        device="cpu",
        tune_llm=True,
        report_to=("none",),
        seed=1,
    )
    trainer = Trainer(settings, dataset, checkpoint, Gr00tModel(checkpoint.config), tmp_path / "run")
    losses = []
    update = trainer._step.update

    def recorded(loss):
        losses.append(float(loss))
        return update(loss)

    trainer._step.update = recorded
    path = trainer.train()
    assert np.mean(losses[:20]) > 0.8  # of noise and actions that are normed
    assert np.mean(losses[-100:]) < 0.15
    tuned = load_checkpoint(path)
    errors = relative_errors(Policy(tuned, load_model(tuned), seed=0), dataset)
    assert max(errors) < 0.1, errors
    # the control: an untrained policy is far off
    torch.manual_seed(0)
    assert min(relative_errors(Policy(tuned, Gr00tModel(tuned.config).eval(), seed=0), dataset)) > 0.2
