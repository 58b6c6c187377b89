# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_processor import load_processor  # noqa: E402

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import new_checkpoint  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.embodiment import Normalization, VideoKey, load_embodiment  # noqa: E402
from gr00t_training.errors import DatasetError  # noqa: E402
from gr00t_training.io import machine  # noqa: E402
from gr00t_training.model.families.n1_7 import N1_7  # noqa: E402
from gr00t_training.train.data import loader  # noqa: E402
from gr00t_training.train.data.fit import check_match, dataset_statistics, mismatches  # noqa: E402
from gr00t_training.train.data.loader import make_loader  # noqa: E402
from gr00t_training.train.data.mixture import Mixture  # noqa: E402
from gr00t_training.train.data.order import BatchOrder  # noqa: E402
from gr00t_training.train.data.samples import Source, StepDataset  # noqa: E402
from gr00t_training.transforms.images import QwenImages  # noqa: E402
from gr00t_training.transforms.observation import observation_from_frames, observation_from_rows  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()
LENGTHS = (6, 5)


def make_ramps(count, *, seed):
    """Return frames: red grows to the right, green grows downwards; frame i is 7 levels above i - 1."""
    frames = make_frames(EMBODIMENT, count, seed=seed)
    for frame in frames:
        for image in frame.images.values():
            image[..., 0] += 2 * np.arange(image.shape[1], dtype=np.uint8)
            image[..., 1] += 3 * np.arange(image.shape[0], dtype=np.uint8)[:, None]
    return frames


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    with DatasetWriter(root, EMBODIMENT) as writer:
        for count in LENGTHS:
            episode = writer.start_episode("lift the cube")
            for frame in make_ramps(count, seed=count):
                episode.add_frame(frame)
            episode.save()
    return EpisodeDataset(root)


@pytest.fixture(scope="module")
def samples(dataset):
    checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
    return StepDataset([Source(dataset, checkpoint.pipeline())], seed=3)


def test_every_epoch_has_every_sample_once_in_another_order():
    positions = [position for batch in BatchOrder(Mixture([7]), 3, 1, 0, 7) for position in batch]
    first, second, third = positions[:7], positions[7:14], positions[14:]
    assert {epoch for epoch, _ in first} == {0}
    assert {epoch for epoch, _ in second} == {1}
    assert sorted(sample for _, sample in first) == list(range(7))
    assert sorted(sample for _, sample in second) == list(range(7))
    assert len({tuple(sample for _, sample in part) for part in (first, second, third)}) == 3


def test_order_depends_on_seed_and_place_only():
    whole = list(BatchOrder(Mixture([7]), 3, 1, 0, 9))
    assert list(BatchOrder(Mixture([7]), 3, 1, 4, 9)) == whole[4:]
    assert list(BatchOrder(Mixture([7]), 3, 2, 0, 9)) != whole
    assert all(len(batch) == 3 for batch in whole)
    assert len(list(BatchOrder(Mixture([2]), 5, 1, 0, 2))) == 2  # a batch may hold several epochs


def test_sample_is_the_row_it_names(samples, dataset):
    assert len(samples) == sum(LENGTHS)
    pipeline = samples.pipeline
    for sample, (episode, row) in {0: (0, 0), 5: (0, 5), 6: (1, 0), 10: (1, 4)}.items():
        found = samples[(0, sample)]
        decoded = pipeline.decode(found["action"], observation_from_rows(dataset, episode, row, EMBODIMENT))
        for key in ("arm", "gripper"):
            rows = np.minimum(np.arange(row, row + 16), LENGTHS[episode] - 1)
            np.testing.assert_allclose(decoded[key], dataset.action(episode, key)[rows], atol=1e-5)


def test_loader_and_policy_encode_the_same_row_equally(samples, dataset):
    """State and prompt are equal bit by bit; without augmentation the image differs by the video's loss only."""
    lives = [
        samples.pipeline.encode(observation_from_frames([frame], EMBODIMENT, "")) for frame in make_ramps(6, seed=6)
    ]
    live, trained = lives[2], samples[(0, 2)]
    assert torch.equal(live["state"], trained["state"])
    assert torch.equal(live["input_ids"], trained["input_ids"])
    assert torch.equal(live["embodiment_id"], trained["embodiment_id"])
    stored = samples.pipeline.encode(observation_from_rows(dataset, 0, 2, EMBODIMENT))["pixel_values"]
    level = 2 / 255  # pixels are scaled to [-1, 1]
    differences = [float((stored.float() - each["pixel_values"].float()).abs().mean()) / level for each in lives]
    assert np.argmin(differences) == 2
    assert differences[2] < 2.0
    assert (stored.float() - live["pixel_values"].float()).abs().max() / level < 12.0


def test_sample_has_the_image_of_its_row_augmented(samples, dataset):
    """The mean over many draws resembles the image without augmentation, not a mirrored or recolored one."""
    plain = samples.pipeline.encode(observation_from_rows(dataset, 0, 2, EMBODIMENT))["pixel_values"].float()
    drawn = torch.stack([samples[(epoch, 2)]["pixel_values"].float() for epoch in range(16)])
    assert drawn.shape[1:] == plain.shape
    wrong = {"mirrored": plain.flip(-1), "upside down": plain.flip(-2), "BGR": plain.flip(-3)}
    distances = {name: float((drawn.mean(0) - image).abs().mean()) for name, image in {"right": plain, **wrong}.items()}
    assert all(1.5 * distances["right"] < distances[name] for name in wrong), distances


def test_augmentation_depends_on_epoch_and_sample(samples):
    pixels = samples[(0, 2)]["pixel_values"]
    assert torch.equal(samples[(0, 2)]["pixel_values"], pixels)
    assert not torch.equal(samples[(1, 2)]["pixel_values"], pixels)


def test_batches_are_the_same_with_workers(samples):
    def batches(num_workers):
        loader = make_loader(samples, batch_size=2, seed=5, start=1, stop=4, num_workers=num_workers)
        return list(loader)

    alone, helped = batches(0), batches(1)
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert alone[0]["action"].shape == (2, 16, 32)


def test_loader_leaves_the_global_random_state_alone(samples):
    before = torch.get_rng_state()
    next(iter(make_loader(samples, batch_size=2, seed=5, start=0, stop=1, num_workers=0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_matching_dataset_has_no_mismatch(dataset, data_dir):
    assert mismatches(dataset, EMBODIMENT) == []
    assert mismatches(EpisodeDataset(data_dir / "lerobot_v20_gr1"), load_embodiment("gr1_arms_only")) == []


def test_normalization_is_free_but_layout_is_not(dataset):
    arm = dataclasses.replace(EMBODIMENT.state["arm"], normalization=Normalization.Q99)
    assert mismatches(dataset, dataclasses.replace(EMBODIMENT, state={**EMBODIMENT.state, "arm": arm})) == []
    other = dataclasses.replace(EMBODIMENT, fps=20, video={"front": VideoKey(height=64, width=48)})
    assert mismatches(dataset, other) == [
        "fps: found 10, expected 20",
        "video.front.height: found 32, expected 64",
    ]


def test_history_and_relative_actions_are_free(dataset):
    arm = dataclasses.replace(EMBODIMENT.action["arm"], relative_to="arm")
    changed = dataclasses.replace(
        EMBODIMENT, action={**EMBODIMENT.action, "arm": arm}, video_history=(-5, 0), state_history=(-1, 0)
    )
    assert mismatches(dataset, changed) == []


def test_cameras_of_any_size_match_a_foreign_dataset(data_dir):
    dataset, embodiment = EpisodeDataset(data_dir / "lerobot_v20_gr1"), load_embodiment("gr1_arms_only")
    video = {key: VideoKey(height=0, width=0) for key in embodiment.video}
    assert mismatches(dataset, dataclasses.replace(embodiment, video=video)) == []


@pytest.fixture(scope="module")
def droid(tmp_path_factory, fixtures_dir):
    """A dataset that the reference loader has read, and the N1.7 embodiment that it was read for."""
    root = tmp_path_factory.mktemp("droid") / "set_a"
    shutil.copytree(fixtures_dir / "n1_7_dataset" / "set_a", root)
    reference = load_processor(fixtures_dir / "n1_7_tiny")
    pipeline = reference.pipeline(0, QwenImages(reference.options), N1_7.prompt)
    pipeline.embodiment = dataclasses.replace(pipeline.embodiment, fps=10, action_horizon=8)
    return EpisodeDataset(root), pipeline


def test_n1_7_learns_from_the_rows_that_the_release_learns_from(droid, fixtures_dir):
    samples = Source(*droid)
    shards = json.loads((fixtures_dir / "n1_7_dataset" / "expected" / "loader.json").read_text())["set_a"]["shards"]
    expected = sorted((episode, row) for shard in shards for episode, rows in shard for row in rows)
    assert [samples.step(sample) for sample in range(len(samples))] == expected
    assert samples.shortest_episode == 8


def test_statistics_have_relative_actions(droid, fixtures_dir):
    dataset, pipeline = droid
    expected = json.loads((fixtures_dir / "n1_7_dataset" / "expected" / "set_a_relative_stats.json").read_text())
    statistics = dataset_statistics(dataset, pipeline.embodiment)
    assert list(statistics) == ["state", "action", "relative_action"]
    assert statistics["relative_action"].keys() == {"eef_9d", "joint_position"}
    for key, values in statistics["relative_action"].items():
        for name, lists in values.to_mapping().items():
            np.testing.assert_allclose(lists, expected[key][name], rtol=1e-5, atol=1e-6, err_msg=f"{key}.{name}")
    assert "relative_action" not in dataset_statistics(dataset, make_embodiment())


def test_foreign_dataset_that_does_not_fit_is_refused_naming_each_item(data_dir):
    dataset = EpisodeDataset(data_dir / "lerobot_v21_reference")
    arm = dataclasses.replace(EMBODIMENT.state["arm"], names=tuple(f"panda_joint{i}" for i in range(2, 9)))
    state = {**EMBODIMENT.state, "arm": arm}
    with pytest.raises(DatasetError) as caught:
        check_match(dataset, dataclasses.replace(EMBODIMENT, state=state, language="human.coarse"))
    message = str(caught.value)
    assert "fps: found 30, expected 10" in message
    assert "state.arm.names: found [panda_joint1," in message
    assert "state.gripper.names: found [panda_finger_joint1], expected [grip]" in message
    assert "action.arm: found 7 channels, expected 3" in message
    assert "video.front: found height and width (120, 160), expected (32, 48)" in message
    assert "language: found human.task_description, expected human.coarse" in message


def test_empty_dataset_is_refused(samples, dataset):
    empty = StepDataset([Source(dataset, samples.pipeline, stretches=[])], seed=0)
    with pytest.raises(DatasetError, match=r"no rows to train on \(minimum 1 rows"):
        make_loader(empty, batch_size=1, seed=0, start=0, stop=1, num_workers=0)


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 0), (3, 2), (8, 6), (16, 12), (18, 16), (200, 48)])
def test_workers_follow_the_cores(monkeypatch, cores, expected):
    monkeypatch.setattr(loader, "num_cores", lambda: cores)
    monkeypatch.setattr(loader, "shared_memory_bytes", lambda: 2**33)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader.choose_workers(10_000, torch.device("cuda")) == expected
    assert loader.choose_workers(100, torch.device("cuda")) == 0
    assert loader.choose_workers(10_000, torch.device("cpu")) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader.choose_workers(10_000, torch.device("cuda")) <= max(0, cores // 4 - 1)


def test_a_container_with_little_shared_memory_gets_no_workers(monkeypatch, caplog):
    monkeypatch.setattr(loader, "num_cores", lambda: 16)
    monkeypatch.setattr(loader, "shared_memory_bytes", lambda: 2**26)
    assert loader.choose_workers(10_000, torch.device("cuda")) == 0
    assert "/dev/shm has 64 MiB" in caplog.text
    assert machine.shared_memory_bytes() > 0


def test_limits_of_a_container_count(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CONTAINER", tmp_path)
    free_bytes, cores = machine.available_bytes(), machine.num_cores()
    assert free_bytes > 2**20
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    (tmp_path / "memory.current").write_text("4096\n")
    assert machine.num_cores() == 1
    assert machine.available_bytes() == 2**20 - 4096
    for name in ("cpu.max", "memory.max"):
        (tmp_path / name).write_text("max 100000\n" if name == "cpu.max" else "max\n")
    assert machine.num_cores() == cores
    assert machine.available_bytes() > 2**20
