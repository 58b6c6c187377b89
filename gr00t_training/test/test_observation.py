# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import numpy as np
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import ModelKeys, VectorKey, load_embodiment
from gr00t_training.errors import ObservationError
from gr00t_training.transforms.observation import action_targets, observation_from_frames, observation_from_rows


@pytest.fixture
def embodiment():
    base = make_embodiment()
    relative = dataclasses.replace(base.action["gripper"], is_absolute=False)
    return dataclasses.replace(base, action={**base.action, "gripper": relative}, action_horizon=4)


def write(path, embodiment, frames):
    with DatasetWriter(path, embodiment) as writer:
        episode = writer.start_episode("lift")
        for frame in frames:
            episode.add_frame(frame)
        episode.save()
    return EpisodeDataset(path)


def test_rows_and_frames_give_the_same_observation(tmp_path, embodiment):
    frames = make_frames(embodiment, 6)
    dataset = write(tmp_path, embodiment, frames)
    for row, frame in enumerate(frames):
        recorded = observation_from_rows(dataset, 0, row, embodiment)
        live = observation_from_frames([frame], embodiment, "")
        assert list(recorded.state) == list(live.state) == ["arm", "gripper"]
        for key in live.state:
            assert live.state[key].dtype == recorded.state[key].dtype == np.float64
            assert np.array_equal(live.state[key], recorded.state[key])
        np.testing.assert_allclose(recorded.images["front"], live.images["front"], atol=2)  # lossy video
        assert recorded.images["front"].shape == live.images["front"].shape == (1, 32, 48, 3)
        assert recorded.instruction == live.instruction == "lift the cube"
        assert recorded.stamp_ns == live.stamp_ns == row * 10**8


def test_instruction_given_rules(embodiment):
    assert observation_from_frames(make_frames(embodiment, 1), embodiment, "drop it").instruction == "drop it"


def test_action_targets_are_padded_at_the_end(tmp_path, embodiment):
    frames = make_frames(embodiment, 6)
    dataset = write(tmp_path, embodiment, frames)
    arm = np.stack([frame.action["arm"] for frame in frames]).astype(np.float32)
    grip = np.stack([frame.action["gripper"] for frame in frames]).astype(np.float32)
    whole = action_targets(dataset, 0, 1, embodiment)
    assert np.array_equal(whole["arm"], arm[1:5])
    last = action_targets(dataset, 0, 4, embodiment)
    assert np.array_equal(last["arm"], arm[[4, 5, 5, 5]])  # absolute: the robot stays
    assert np.array_equal(last["gripper"], [grip[4], grip[5], [0], [0]])  # relative: no motion


@pytest.fixture
def remembering(embodiment):
    """Images of three ticks ago and now, states of the last tick and now; the gripper's is relative."""
    state = {**embodiment.state, "gripper": dataclasses.replace(embodiment.state["gripper"], is_absolute=False)}
    return dataclasses.replace(embodiment, state=state, video_history=(-3, 0), state_history=(-1, 0))


def test_history_of_rows_and_frames_is_the_same(tmp_path, remembering):
    frames = make_frames(remembering, 6)
    dataset = write(tmp_path, remembering, frames)
    assert remembering.observed_ticks == (-3, -1, 0)
    recorded = observation_from_rows(dataset, 0, 5, remembering)
    live = observation_from_frames([frames[2], frames[4], frames[5]], remembering, "")
    for key, values in live.state.items():
        rows = [frames[4].state[key], frames[5].state[key]]
        assert np.array_equal(values, np.float32(rows))
        assert np.array_equal(recorded.state[key], values)
    assert live.images["front"][:, 0, 0, 0].tolist() == [16 + 7 * 2, 16 + 7 * 5]  # levels of make_frames
    np.testing.assert_allclose(recorded.images["front"], live.images["front"], atol=2)
    assert recorded.stamp_ns == live.stamp_ns == 500_000_000


def test_history_before_the_episode_is_its_first_row(tmp_path, remembering):
    frames = make_frames(remembering, 6)
    dataset = write(tmp_path, remembering, frames)
    first = observation_from_rows(dataset, 0, 0, remembering)
    assert np.array_equal(first.state["arm"], np.float32([frames[0].state["arm"]] * 2))
    assert np.array_equal(first.state["gripper"], np.float32([[0], frames[0].state["gripper"]]))  # relative
    images = observation_from_rows(dataset, 0, 2, remembering).images["front"]
    np.testing.assert_allclose(images[:, 0, 0, 0], [16, 16 + 7 * 2], atol=2)


def test_frames_that_lack_a_tick_are_refused(remembering):
    with pytest.raises(ObservationError, match=r"2 frames to observe.*ticks \[-3, -1, 0\]"):
        observation_from_frames(make_frames(remembering, 2), remembering, "")


@pytest.mark.parametrize("name", ["set_a", "set_b"])
def test_action_targets_equal_the_reference_loader(fixtures_dir, embodiment, name):
    """The release pads like this where it is asked to; by default it leaves such rows out."""
    folder = fixtures_dir / "n1_7_dataset"
    dataset = EpisodeDataset(folder / name)
    expected = json.loads((folder / "expected" / "loader.json").read_text())[name]
    keys = {
        key: VectorKey(names=tuple(f"{key}_{i}" for i in range(part.dim)))
        for key, part in dataset.modality.action.items()
    }
    embodiment = dataclasses.replace(embodiment, action=keys, action_horizon=8)
    second_last = dataset.episode(1).length - 2
    for row, step in ((3, "step_ep1_i3"), (second_last, "step_ep1_second_last_padded")):
        found = action_targets(dataset, 1, row, embodiment)
        assert {key: values.tolist() for key, values in found.items()} == expected[step]["action"]
        assert dataset.task(1, row, "language.language_instruction") == expected[step]["text"]


def test_only_what_the_model_uses_is_read(data_dir):
    embodiment = load_embodiment("gr1_arms_only")
    dataset = EpisodeDataset(data_dir / "lerobot_v20_gr1")
    observation = observation_from_rows(dataset, 3, 5, embodiment)
    assert list(observation.state) == ["left_arm", "right_arm", "left_hand", "right_hand"]
    assert observation.instruction == "pick the salt from the counter and place it in the plate"
    assert action_targets(dataset, 3, 5, embodiment)["right_hand"].shape == (16, 6)


def test_missing_inputs_are_named(embodiment):
    frame = make_frames(embodiment, 1)[0]
    with pytest.raises(ObservationError, match=r"video.front: missing, found nothing; check the topic map"):
        observation_from_frames([dataclasses.replace(frame, images={})], embodiment, "")
    without_arm = dataclasses.replace(frame, state={"gripper": frame.state["gripper"]})
    with pytest.raises(ObservationError, match=r"state.arm: missing, found gripper"):
        observation_from_frames([without_arm], embodiment, "")
    with pytest.raises(ObservationError, match=r"no frames to observe, .* expects one for each of the ticks \[0\]"):
        observation_from_frames([], embodiment, "")
    unused = dataclasses.replace(embodiment, model=ModelKeys(state=("gripper",)))
    assert list(observation_from_frames([without_arm], unused, "").state) == ["gripper"]
