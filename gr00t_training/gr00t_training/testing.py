# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Builders and pytest fixtures that the tests of all packages share; imported by tests only.

The reference files lie where GR00T_FIXTURES and GR00T_TEST_DATA point to, by default in `shared/` beside the checkout.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gr00t_training.embodiment import Embodiment, Normalization, VectorKey, VideoKey
from gr00t_training.types import Frame


@pytest.fixture(scope="session")
def fixtures_dir(pytestconfig: pytest.Config) -> Path:
    """Numbers produced by the reference models and loaders."""
    return _reference_folder("GR00T_FIXTURES", pytestconfig.rootpath, "fixtures")


@pytest.fixture(scope="session")
def data_dir(pytestconfig: pytest.Config) -> Path:
    """Bags and datasets with known truth."""
    return _reference_folder("GR00T_TEST_DATA", pytestconfig.rootpath, "data")


def make_embodiment(*, fps: int = 10, size: tuple[int, int] = (32, 48)) -> Embodiment:
    """Return a three-joint arm with a gripper and one camera of `size` (height, width)."""
    arm = VectorKey(names=("j0", "j1", "j2"), normalization=Normalization.MIN_MAX)
    gripper = VectorKey(names=("grip",), unit="m", normalization=Normalization.MIN_MAX)
    return Embodiment(
        name="test_arm",
        tag="new_embodiment",
        fps=fps,
        state={"arm": arm, "gripper": gripper},
        action={"arm": arm, "gripper": gripper},
        video={"front": VideoKey(height=size[0], width=size[1])},
    )


def make_frames(embodiment: Embodiment, count: int, *, seed: int = 0, task: str = "lift the cube") -> list[Frame]:
    """Return `count` consecutive frames with seeded vectors; image i is plain grey of level 16 + 7 i mod 200."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(count):
        images = {
            key: np.full((video.height, video.width, 3), 16 + 7 * i % 200, np.uint8)
            for key, video in embodiment.video.items()
        }
        state = {key: rng.normal(size=vector.dim) for key, vector in embodiment.state.items()}
        action = {key: rng.normal(size=vector.dim) for key, vector in embodiment.action.items()}
        frames.append(Frame(round(i * 1e9 / embodiment.fps), state, action, images, task))
    return frames


def make_checkpoint(folder: Path, embodiment: Embodiment) -> Path:
    """Write a compact policy with seeded random weights; its statistics are those of values between -1 and 1."""
    import torch

    from gr00t_training.checkpoint import new_checkpoint, save_checkpoint
    from gr00t_training.dataset.stats import KeyStatistics
    from gr00t_training.model.gr00t import Gr00tModel

    def statistics(dim: int) -> KeyStatistics:
        one = np.ones(dim)
        return KeyStatistics(min=-one, max=one, mean=0 * one, std=one, q01=-one, q99=one)

    torch.manual_seed(0)
    keys = {"state": embodiment.state, "action": embodiment.action}
    described = {kind: {key: statistics(vector.dim) for key, vector in keys[kind].items()} for kind in keys}
    checkpoint = new_checkpoint("n1_compact", embodiment, described)
    return save_checkpoint(folder, checkpoint, Gr00tModel(checkpoint.config))


def _reference_folder(variable: str, root: Path, name: str) -> Path:
    # a colcon build tests each package alone: the suite's root is then one level up
    candidates = [Path(os.environ[variable])] if variable in os.environ else []
    candidates += [root.parent / "shared" / name, root.parent.parent / "shared" / name]
    for folder in candidates:
        if folder.is_dir():
            return folder
    message = f"{variable} is not set and {candidates[-2]} does not exist; set it to the reference files"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
