# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders in the layout of the releases are fine-tuned here, and what comes out is such a folder again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_checkpoint_n1_5 import make_checkpoint as describe_n1_5  # noqa: E402

from gr00t_test_support.builders import make_checkpoint, make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, save_checkpoint  # noqa: E402
from gr00t_training.cli.checkpoint import main as checkpoint_command  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.embodiment import Normalization, VectorKey, VideoKey, to_mapping  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402
from gr00t_training.train.finetune import finetune  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings  # noqa: E402
from gr00t_training.transforms.observation import observation_from_frames  # noqa: E402

torch.set_num_threads(1)
FAMILIES = ("n1", "n1_5", "n1_6", "n1_7")
HORIZON = {"n1": 16, "n1_5": 16, "n1_6": 8, "n1_7": 8}  # N1 and N1.5 need the model's own
OURS = ("embodiment.json", "versions.json", "training_data.json", "trainer_state.pt", "trainer_settings.json")


def make_robot(name):
    return dataclasses.replace(make_embodiment(size=(64, 64)), action_horizon=HORIZON[name])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    robot = make_robot("n1")
    with DatasetWriter(root, robot) as writer:
        for seed in range(2):
            episode = writer.start_episode("lift the cube")
            for frame in make_frames(robot, 10, seed=seed):
                episode.add_frame(frame)
            episode.save()
    return root


def make_base(name, fixtures_dir, folder):
    """Make a folder as another program leaves it: without the files that only we write."""
    if name == "n1":
        make_checkpoint(folder, make_embodiment())
    elif name == "n1_5":
        torch.manual_seed(0)
        described = describe_n1_5(make_embodiment())
        save_checkpoint(folder, described, Gr00tModel(described.config))
    else:
        shutil.copytree(fixtures_dir / f"{name}_tiny", folder)
    strip(folder)
    return folder


def strip(folder):
    """Remove what the releases do not write; sizes and tokenizer of these small models stay."""
    for file in OURS:
        (folder / file).unlink(missing_ok=True)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def train(dataset, base, output, robot, **changes):
    held_out = {"validation_episodes": ("1",), "validation_samples": 3}
    how = TrainerSettings(
        max_steps=1, batch_size=2, device="cpu", warmup_ratio=0.0, report_to=("none",), **held_out, **changes
    )
    settings = FinetuneSettings(output=output, dataset=dataset, base_model=base, trainer=how)
    if robot.action_horizon != make_robot("n1").action_horizon:
        settings = dataclasses.replace(settings, embodiment=save_embodiment(output, robot))
    result = finetune(settings)
    assert result.best is not None and result.best.checkpoint == result.checkpoint
    errors = json.loads((result.checkpoint / "validation.json").read_text())["errors"]
    assert set(errors) == {"arm", "gripper"} and all(0 < error["mae"] < 10 for error in errors.values())
    return result.checkpoint


def save_embodiment(output, robot):
    path = output.with_suffix(".json")
    path.write_text(json.dumps(to_mapping(robot)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_goes_in_and_a_folder_comes_out(name, fixtures_dir, dataset, tmp_path, capsys):
    base, robot = make_base(name, fixtures_dir, tmp_path / "base"), make_robot(name)
    before = digests(base)
    tuned = train(dataset, base, tmp_path / "first", robot, learning_rate=1e-3)
    assert digests(base) == before
    assert checkpoint_command(["verify", str(tuned)]) == 0, capsys.readouterr().out

    frames = make_frames(robot, 1, seed=7)
    observation = observation_from_frames(frames, robot, "lift the cube")
    expected = Policy.from_checkpoint(tuned, device="cpu", seed=0).infer(observation).actions

    strip(tuned)  # as a folder that was fine-tuned elsewhere
    assert checkpoint_command(["verify", str(tuned)]) == 0, capsys.readouterr().out
    found = Policy.from_checkpoint(tuned, robot, device="cpu", seed=0).infer(observation).actions
    for key, actions in expected.items():
        np.testing.assert_array_equal(found[key], actions, err_msg=key)

    again = train(dataset, tuned, tmp_path / "second", robot, learning_rate=0.0)  # the weights stay as they came
    assert checkpoint_command(["verify", str(again)]) == 0, capsys.readouterr().out
    weights = [load_model(load_checkpoint(path, embodiment=robot)).state_dict() for path in (tuned, again)]
    for weight, kept in zip(weights[0].items(), weights[1].items(), strict=True):
        assert weight[0] == kept[0] and torch.equal(weight[1], kept[1]), weight[0]
    # the control: the first run did change them
    first = load_model(load_checkpoint(base, embodiment=robot, statistics=load_checkpoint(again).statistics))
    assert any(not torch.equal(weights[0][key], weight) for key, weight in first.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_two_robots_train_in_one_run_and_the_folder_has_both(name, fixtures_dir, dataset, tmp_path, capsys):
    """The second has another rate, two cameras of other sizes, and other numbers of channels."""
    base, first = make_base(name, fixtures_dir, tmp_path / "base"), make_robot(name)
    arm = VectorKey(names=("a", "b"), normalization=Normalization.MIN_MAX)
    second = dataclasses.replace(
        first,
        name="second_robot",
        tag="second",
        fps=20,
        state={"body": arm, "tool": first.state["gripper"]},
        action={"body": arm},
        video={"head": VideoKey(height=64, width=64), "wrist": VideoKey(height=48, width=64)},
    )
    with DatasetWriter(tmp_path / "other", second) as writer:
        episode = writer.start_episode("open the door")
        for frame in make_frames(second, 10, seed=3):
            episode.add_frame(frame)
        episode.save()
    save_embodiment(tmp_path / "first", first)
    (tmp_path / "mix.yaml").write_text(
        f"datasets:\n  - {{dataset: {dataset}, embodiment: first.json, weight: 1}}\n  - {{dataset: other, weight: 1}}\n"
    )
    how = TrainerSettings(max_steps=1, batch_size=4, device="cpu", report_to=("none",))
    result = finetune(
        FinetuneSettings(output=tmp_path / "run", data=tmp_path / "mix.yaml", base_model=base, trainer=how)
    )
    assert np.isfinite(result.loss)
    assert checkpoint_command(["verify", str(result.checkpoint)]) == 0, capsys.readouterr().out
    for robot in (first, second):
        observation = observation_from_frames(make_frames(robot, 1, seed=7), robot, "go on")
        policy = Policy.from_checkpoint(result.checkpoint, robot.tag, device="cpu", seed=0)
        expected = policy.infer(observation).actions
        assert {key: rows.shape for key, rows in expected.items()} == {
            key: (robot.action_horizon, vector.dim) for key, vector in robot.action.items()
        }
    strip(result.checkpoint)
    (result.checkpoint / "embodiments.json").unlink()
    for robot in (first, second):  # what the release's files say is the same
        assert Policy.from_checkpoint(result.checkpoint, robot, device="cpu").embodiment == robot
