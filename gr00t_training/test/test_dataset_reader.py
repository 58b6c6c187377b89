# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from gr00t_test_support.builders import make_embodiment, make_frames
from gr00t_training.dataset.quality import Marks
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import DatasetError
from gr00t_training.types import KeyKind, KeyRef

# delta rows of the reference samples
DELTAS = {"video": [-2, 0], "state": [-3, 0], "action": list(range(16))}
TASK = "human.action.task_description"


@pytest.fixture(scope="module")
def reference(fixtures_dir):
    folder = fixtures_dir / "n1_dataset_tiny"
    return EpisodeDataset(folder / "dataset"), json.loads((folder / "expected_n1.json").read_text()), folder


def test_every_sample_is_what_the_n1_loader_reads(reference):
    from safetensors.numpy import load_file

    dataset, described, folder = reference
    expected = load_file(folder / "expected_n1.safetensors")
    for name, values in expected.items():
        episode, base, kind, key = name.split(".")[:4]
        rows = [int(base) + delta for delta in DELTAS[kind]]
        if kind == "video":
            found = dataset.images(int(episode), key, rows)
            assert found.shape == (2, 48, 64, 3)
            np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), values, atol=1.0)
            levels = [16 + (7 * max(row, 0) + 31 * int(episode)) % 220 for row in rows]
            np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), levels, atol=1.5)
        else:
            found = dataset.window(KeyRef(KeyKind(kind), key), int(episode), rows)
            assert found.dtype == np.float64
            assert np.array_equal(found, values), name
    assert len(expected) == 14 * 7  # points x keys: all were compared
    for point, texts in described["language"].items():
        episode, row = map(int, point.split("."))
        assert [dataset.task(episode, row, TASK)] == texts


def test_statistics_are_computed_where_none_are_stored(reference):
    dataset, described, _ = reference
    for kind, keys in described["metadata"]["statistics"].items():
        for key, lists in keys.items():
            found = dataset.statistics(KeyRef(KeyKind(kind), key)).to_mapping()
            for name, values in lists.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-7)
    assert not (dataset.path / "meta/stats.json").exists()


def test_modality_is_read_as_by_the_n1_loader(reference):
    dataset, described, _ = reference
    modalities = described["metadata"]["modalities"]
    for kind in ("state", "action"):
        for key, entry in modalities[kind].items():
            part = dataset.slice_of(KeyRef(KeyKind(kind), key))
            found = {
                "absolute": part.is_absolute,
                "rotation_type": part.rotation,
                "shape": [part.dim],
                "continuous": part.is_continuous,
            }
            assert found == entry
    assert list(dataset.video_size("front"))[::-1] == modalities["video"]["front"]["resolution"]
    assert dataset.fps == modalities["video"]["front"]["fps"]
    assert sum(episode.length for episode in dataset.episodes) == described["all_steps"]


def test_gr1_sample_with_its_oddities(data_dir):
    dataset = EpisodeDataset(data_dir / "lerobot_v20_gr1")
    assert [episode.length for episode in dataset.episodes] == [416, 470, 470, 412, 328]
    assert dataset.embodiment is None
    table = pq.read_table(dataset.data_file(2))
    assert np.array_equal(dataset.state(2, "right_arm"), np.array(table["observation.state"].to_pylist())[:, 22:29])
    assert np.array_equal(dataset.action(2, "waist"), np.array(table["action"].to_pylist())[:, 41:44])
    assert dataset.task(2, 100) == "pick the meat from the counter and place it in the plate"
    assert dataset.task(2, 100, "human.validity") == "valid"
    assert dataset.images(2, "ego_view", [469]).shape == (1, 256, 256, 3)
    assert dataset.video_size("ego_view") == (256, 256)
    stored = json.loads((dataset.path / "meta/stats.json").read_text())["action"]["q99"][35:41]
    assert dataset.statistics(KeyRef.parse("action.right_leg")).q99.tolist() == stored
    with pytest.raises(DatasetError, match=r"video.egoview: not in meta/modality.json \(ego_view\)"):
        dataset.images(0, "egoview", [0])


def test_v21_written_by_lerobot(data_dir):
    dataset = EpisodeDataset(data_dir / "lerobot_v21_reference")
    assert [dataset.task(i, 0) for i in range(3)] == [dataset.episodes[i].tasks[0] for i in range(3)]
    assert dataset.task(1, 0) == "press the button"
    assert dataset.action(1, "arm").shape == (45, 7)
    assert dataset.images(2, "wrist", [0, 49]).shape == (2, 120, 160, 3)
    per_episode = [json.loads(line) for line in (dataset.path / "meta/episodes_stats.jsonl").read_text().splitlines()]
    lows = np.min([line["stats"]["action"]["min"] for line in per_episode], axis=0)
    assert dataset.statistics(KeyRef.parse("action.gripper")).min.tolist() == lows[7:].tolist()


def test_other_versions_are_refused(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v1.6"}')
    with pytest.raises(DatasetError, match=r"version 'v1.6', expected one of v2.0, v2.1, v3.0"):
        EpisodeDataset(tmp_path)


def test_columns_are_keys_where_there_is_no_modality_file(tmp_path, data_dir):
    """lerobot writes none; GR00T's loaders then refuse the dataset, the tools of this suite do not."""
    shutil.copytree(data_dir / "lerobot_v21_reference", tmp_path / "set")
    with_keys = EpisodeDataset(tmp_path / "set")
    (tmp_path / "set/meta").chmod(0o755)
    (tmp_path / "set/meta/modality.json").unlink()
    dataset = EpisodeDataset(tmp_path / "set")
    assert (with_keys.has_modality, dataset.has_modality) == (True, False)
    assert (list(dataset.modality.state), list(dataset.modality.action)) == (["state"], ["action"])
    assert np.array_equal(dataset.action(1, "action")[:, :7], with_keys.action(1, "arm"))
    assert np.array_equal(dataset.images(1, "wrist", [3]), with_keys.images(1, "wrist", [3]))
    assert dataset.task(1, 0) == dataset.task(1, 0, "human.task_description") == "press the button"


def test_texts_of_episodes_are_instructions_too(tmp_path, data_dir):
    """N1.6 and N1.7 have embodiments with the instruction in the key "task" or "sub_task", not in an annotation."""
    shutil.copytree(data_dir / "lerobot_v21_reference", tmp_path / "set")
    dataset = EpisodeDataset(tmp_path / "set")
    assert "task" not in dataset.modality.annotation
    for key in ("task", "annotation.task", "sub_task"):
        assert dataset.has_language(key)
        assert [dataset.task(episode, 7, key) for episode in range(3)] == [
            "stack the red cube on the blue cube",
            "press the button",
            "stack the red cube on the blue cube",
        ]
    assert not dataset.has_language("human.other")

    path = tmp_path / "set/meta/episodes.jsonl"
    path.chmod(0o644)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["sub_tasks"] = [
        {"start": 0, "end": 20, "text": "reach for it"},
        {"start": 20, "end": 40, "text": "push it down"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset = EpisodeDataset(tmp_path / "set")
    texts = [dataset.task(1, row, "sub_task") for row in (-3, 0, 19, 20, 39, 40, 99)]
    assert texts == ["reach for it"] * 3 + ["push it down"] * 2 + ["press the button"] * 2
    assert dataset.task(1, 20, "task") == "press the button"


def test_origin_of_every_row_can_be_read_back(tmp_path):
    embodiment = make_embodiment()
    frames = make_frames(embodiment, 4)
    ages = [
        {"state.arm": 1, "video.front": -5},
        {"state.arm": 2},
        {"state.arm": 90, "video.front": 0},
        {"state.arm": 3},
    ]
    with DatasetWriter(tmp_path, embodiment) as writer:
        episode = writer.start_episode("lift")
        for frame, age in zip(frames, ages, strict=True):
            filled = frozenset({"state.arm"}) if age["state.arm"] > 50 else frozenset()
            episode.add_frame(replace(frame, ages_ns=age, filled=filled))
        episode.save({"success": False, "valid": True, "note": "dropped it", "streams": {"front": {"received": 7}}})
        writer.mark(0, Marks(is_success=True))
        with pytest.raises(DatasetError, match="no episode 1; it has 1"):
            writer.mark(1, Marks(is_valid=False))
    quality = EpisodeDataset(tmp_path).quality(0)
    assert quality.ages_ns["state.arm"].tolist() == [1, 2, 90, 3]
    assert quality.ages_ns["video.front"].tolist() == [-5, 0, 0, 0]
    assert quality.valid["video.front"].tolist() == [True, False, True, False]
    assert quality.filled["state.arm"].tolist() == [False, False, True, False]
    assert quality.valid["state.arm"].tolist() == [True, True, False, True]
    assert quality.marks == Marks(is_success=True, is_valid=True, note="dropped it")
    assert quality.report["streams"] == {"front": {"received": 7}}
    assert quality.start_ns == frames[0].tick_ns
    path = tmp_path / "meta/quality/episode_000000.json"
    path.write_text(path.read_text().replace("[1, 2, 90, 3]", "[1, 2, 90]"))
    with pytest.raises(DatasetError, match=r"episode_000000.json: 3 rows of state.arm, the episode has 4"):
        EpisodeDataset(tmp_path).quality(0)


def test_other_peoples_datasets_have_no_quality(data_dir):
    assert EpisodeDataset(data_dir / "lerobot_v21_reference").quality(0) is None


def test_written_dataset_reads_back_equal(tmp_path):
    embodiment = make_embodiment()
    episodes = [make_frames(embodiment, count, seed=count, task=task) for count, task in ((7, "lift"), (12, "放下"))]
    with DatasetWriter(tmp_path, embodiment) as writer:
        for frames in episodes:
            episode = writer.start_episode(frames[0].task)
            for frame in frames:
                episode.add_frame(frame)
            episode.save()
    dataset = EpisodeDataset(tmp_path)
    assert dataset.embodiment == embodiment
    assert (dataset.fps, dataset.num_frames) == (10, 19)
    for number, frames in enumerate(episodes):
        for key in ("arm", "gripper"):
            for kind in ("state", "action"):
                expected = np.stack([getattr(frame, kind)[key] for frame in frames]).astype(np.float32)
                assert np.array_equal(dataset.vectors(KeyRef(KeyKind(kind), key), number), expected)
        levels = [frame.images["front"][0, 0, 0] for frame in frames]
        found = dataset.images(number, "front", range(len(frames)))
        np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), levels, atol=1.5)
        assert {dataset.task(number, row) for row in range(len(frames))} == {frames[0].task}
    expected = np.stack([frame.state["arm"] for frames in episodes for frame in frames]).mean(axis=0)
    np.testing.assert_allclose(dataset.statistics(KeyRef.parse("state.arm")).mean, expected, rtol=1e-6)


def test_statistics_stored_are_preferred_and_incomplete_ones_computed(tmp_path):
    embodiment = make_embodiment()
    with DatasetWriter(tmp_path, embodiment) as writer:
        episode = writer.start_episode("lift")
        for frame in make_frames(embodiment, 5):
            episode.add_frame(frame)
        episode.save()
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    computed = list(stats["action"]["q01"])
    stats["action"]["q01"] = [7.0, 8.0, 9.0, 10.0]
    (tmp_path / "meta/stats.json").write_text(json.dumps(stats))
    assert EpisodeDataset(tmp_path).statistics(KeyRef.parse("action.gripper")).q01.tolist() == [10.0]
    del stats["action"]["q01"]
    (tmp_path / "meta/stats.json").write_text(json.dumps(stats))
    assert EpisodeDataset(tmp_path).statistics(KeyRef.parse("action.gripper")).q01.tolist() == computed[3:]


def test_damage_is_named(tmp_path, fixtures_dir):
    root = tmp_path / "dataset"
    shutil.copytree(fixtures_dir / "n1_dataset_tiny/dataset", root)
    for path in root.rglob("*"):
        path.chmod(0o755)
    dataset = EpisodeDataset(root)
    with pytest.raises(DatasetError, match=r"state.leg: not in meta/modality.json \(arm, quat, hand\)"):
        dataset.state(0, "leg")
    with pytest.raises(DatasetError, match="no episode 3; it has 3"):
        dataset.state(3, "arm")
    with pytest.raises(DatasetError, match=r"annotation.x: not in meta/modality.json"):
        dataset.task(0, 0, "x")
    dataset.data_file(1).unlink()
    with pytest.raises(DatasetError, match=r"episode_000001.parquet: cannot be read"):
        dataset.state(1, "arm")
    dataset.video_span(1, "front").path.unlink()
    with pytest.raises(DatasetError, match=r"episode_000001.mp4: not a readable video"):
        dataset.images(1, "front", [0])
    episodes = root / "meta/episodes.jsonl"
    episodes.write_text(episodes.read_text().replace('"length": 23', '"length": 24'))
    with pytest.raises(DatasetError, match=r"episode_000000.parquet: 23 rows, meta/episodes.jsonl says 24"):
        EpisodeDataset(root).state(0, "arm")
    episodes.write_text('{"episode_index": 0\n')
    with pytest.raises(DatasetError, match=r"episodes.jsonl:1: not valid JSON"):
        EpisodeDataset(root)
    (root / "meta/info.json").write_text('{"codebase_version": "v2.0"}')
    with pytest.raises(DatasetError, match=r"info.json: fps is missing, expected a number"):
        EpisodeDataset(root)
    with pytest.raises(DatasetError, match=r"cannot be read.*is this a LeRobot"):
        EpisodeDataset(tmp_path)
