# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""LeRobot's ACT in the Meta-World example: what it is trained on, asked and answers; the network itself is not made."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.embodiment import VideoKey, load_embodiment  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError, DatasetError  # noqa: E402
from gr00t_training.types import Frame  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "metaworld"
if not FOLDER.is_dir():
    pytest.skip("the examples are in the repository only", allow_module_level=True)

CAMERAS, SIZE = ("corner2", "wrist"), 32
REACH, PUSH = "reach the red goal", "push the puck to the green goal"


@pytest.fixture
def act(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("act")


def write_dataset(root: Path, episodes: dict[str, np.ndarray]) -> None:
    """Write an episode of each task with these actions `(N, 4)`; state and images are as different as the actions."""
    cameras = {camera: VideoKey(height=SIZE, width=SIZE) for camera in CAMERAS}
    embodiment = replace(load_embodiment(FOLDER / "embodiment.yaml"), video=cameras)
    with DatasetWriter(root, embodiment) as writer:
        for task, actions in episodes.items():
            episode = writer.start_episode(task)
            for row, action in enumerate(actions):
                values = {"hand": action[:3], "gripper": action[3:]}
                state = {key: value / 2 for key, value in values.items()}
                images = {name: np.full((SIZE, SIZE, 3), 40 * k + 4 * row, np.uint8) for k, name in enumerate(CAMERAS)}
                episode.add_frame(Frame(row * 200_000_000, state, values, images, task))
            episode.save()


def ramp(num_rows: int, sign: float = 1.0) -> np.ndarray:
    return sign * (np.arange(num_rows)[:, None] * [0.1, -0.2, 0.05, 0.0] + [0.0, 0.5, 0.2, 1.0])


def test_rows_are_those_of_the_dataset_and_chunks_end_with_the_episode(tmp_path: Path, act: Any) -> None:
    write_dataset(tmp_path / "set", {PUSH: ramp(5), REACH: ramp(3, -1.0)})
    rows = act.read_rows(tmp_path / "set")
    np.testing.assert_allclose(rows.action, np.concatenate([ramp(5), ramp(3, -1.0)]), atol=1e-6)
    np.testing.assert_allclose(rows.state, rows.action / 2, atol=1e-6)
    assert rows.task.tolist() == [1] * 5 + [0] * 3
    assert rows.last.tolist() == [4] * 5 + [7] * 3
    dataset = EpisodeDataset(tmp_path / "set")
    for camera in CAMERAS:
        shown = [dataset.images(index, camera, range(length)) for index, length in ((0, 5), (1, 3))]
        np.testing.assert_array_equal(rows.images[camera], np.concatenate(shown))
    actions, is_pad = rows.chunks(torch.tensor([3, 5]), 3)
    np.testing.assert_array_equal(actions, rows.action[torch.tensor([[3, 4, 4], [5, 6, 7]])])
    assert is_pad.tolist() == [[False, False, True], [False, False, False]]


def test_instruction_that_is_no_task_is_named(tmp_path: Path, act: Any) -> None:
    write_dataset(tmp_path / "set", {"dance": ramp(2)})
    with pytest.raises(DatasetError, match="instruction 'dance' is no task of Meta-World, expected one of: reach"):
        act.read_rows(tmp_path / "set")


def test_folder_without_a_policy_is_named(tmp_path: Path, act: Any) -> None:
    with pytest.raises(CheckpointError, match=r"has no act\.json; expected a folder that 'act\.py train' wrote"):
        act.Act.load(tmp_path)


def test_missing_lerobot_is_named(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lerobot", None)
    scale = {"mean": [0.0] * 4, "std": [1.0] * 4}
    with pytest.raises(ConfigError, match=r"LeRobot cannot be imported .* install requirements_act\.txt"):
        act.Act({"settings": {}, "image_size": [SIZE, SIZE], "state": scale, "action": scale})


def test_robot_is_asked_and_commanded_in_its_units(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(torch.nn.Module):
        def predict_action_chunk(self, inputs: dict[str, Any]) -> Any:
            asked.update(inputs)
            return torch.tensor([[[0.0, 1.0, -1.0, 2.0], [1.0, 1.0, 1.0, -1.0]]])

    asked: dict[str, Any] = {}
    monkeypatch.setattr(act, "_network", lambda settings, image_size: Network())
    state = {"mean": [1.0, 2.0, 3.0, 0.0], "std": [2.0, 2.0, 2.0, 0.5]}
    action = {"mean": [0.1, 0.2, 0.3, 0.5], "std": [0.1, 0.1, 0.1, 0.5]}
    policy = act.Act({"settings": {}, "image_size": [4, 6], "state": state, "action": action})
    red, black = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)
    red[1, 2, 0] = 255
    images = {"corner2": red, "wrist": black}
    robot = SimpleNamespace(task=PUSH, images=lambda: images, joint_positions=lambda: np.array([3.0, 2.0, 1.0, 0.5]))
    np.testing.assert_allclose(policy.rows(robot), [[0.1, 0.3, 0.2, 1.5], [0.2, 0.3, 0.4, 0.0]], atol=1e-6)
    assert asked["observation.state"].tolist() == [[1.0, 0.0, -1.0, 1.0]]
    assert asked["observation.environment_state"].tolist() == [[0, 1, 0, 0, 0]]
    shown = asked["observation.images.corner2"]
    assert shown.shape == asked["observation.images.wrist"].shape == (1, 3, 4, 6)
    assert shown[0, 0, 1, 2] == pytest.approx((1 - 0.485) / 0.229)
    assert (shown != asked["observation.images.wrist"]).sum() == 1
    assert shown[0, 2, 0, 0] == pytest.approx(-0.406 / 0.225)
