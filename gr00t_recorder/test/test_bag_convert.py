# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bag_truth import (
    GR1_KEYS,
    frame_number,
    load_truth,
    write_arm7_topics,
    write_gr1_raw_topics,
    write_leader_topics,
)

from gr00t_recorder.bag.convert_cli import main
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.topics.images import decode_compressed, decode_raw
from gr00t_training.dataset.reader import EpisodeDataset

# The bag samples the truth with joint messages at 50 to 200 Hz; between two of them it bends at most at one knot, so
# the interpolated state misses it by less than a quarter of the bend over one message period.
MESSAGE_PERIOD_S = {"gr1_ep0_mcap": 0.01, "gr1_ep1_sqlite3_raw": 0.005, "so101_leader_follower_mcap": 0.02,
                    "arm7_two_cameras_sqlite3": 0.008, "gr1_session_split_mcap": 0.01}  # fmt: skip


def convert(bag, topics, output, *options):
    return main([str(bag), "--topics", str(topics), "--output", str(output), *options])


def states_of(dataset, keys, episode=0, kind="state"):
    return np.concatenate([getattr(dataset, kind)(episode, key) for key in keys], axis=1)


def assert_states(found, truth, ticks_ns, period_s):
    slopes = np.diff(truth.states, axis=0) / (np.diff(truth.knots_ns) / 1e9)[:, None]
    slopes = np.pad(slopes, ((1, 1), (0, 0)))  # at rest before and after
    bend = np.abs(np.diff(slopes, axis=0)).max(axis=0)  # rad/s
    allowed = bend * 1.2 * period_s / 4 + 1e-6  # message times jitter by up to a fifth; float32
    assert (np.abs(found - truth.states_at(ticks_ns)).max(axis=0) <= allowed).all()


def assert_images(found, expected):
    """Equal within the error of JPEG-free h264 at crf 20: colors are stored at half the resolution."""
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < 4.0


def bag_images(bag, topic, decode):
    with Bag(bag) as opened:
        return [decode(opened.deserialize(message)) for message in opened.messages([topic])]


@pytest.fixture
def gr1_topics():
    suite = Path(__file__).resolve().parents[2]
    return suite / "gr00t_bringup" / "gr00t_bringup" / "config" / "gr1_arms_only" / "topics.yaml"


def test_gr1_episode_agrees_with_its_truth(bags_dir, gr1_topics, tmp_path, capsys):
    name = "gr1_ep0_mcap"
    assert convert(bags_dir / name / "bag", gr1_topics, tmp_path / "out") == 0
    table = capsys.readouterr().out
    assert "1 episodes, 200 rows written" in table
    truth, dataset = load_truth(bags_dir / name), EpisodeDataset(tmp_path / "out")
    ticks = truth.ticks_ns("ego_view", 200)
    assert [episode.length for episode in dataset.episodes] == [200]
    assert dataset.task(0, 0) == truth.task
    assert_states(states_of(dataset, GR1_KEYS), truth, ticks, MESSAGE_PERIOD_S[name])
    np.testing.assert_array_equal(states_of(dataset, GR1_KEYS, kind="action"), truth.actions.astype(np.float32))
    recorded = bag_images(bags_dir / name / "bag", "/camera/ego_view/image_raw/compressed", decode_compressed)
    present = np.flatnonzero(~truth.dropped["ego_view"])
    shown = [recorded[int(np.searchsorted(present, number))] for number in truth.frames_at("ego_view", ticks)]
    rows = [0, 1, 57, 118, 119, 120, 199]
    assert_images(dataset.images(0, "ego_view", rows), np.stack([shown[row] for row in rows]))
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    counts = report["bags"][0]["episodes"][0]["report"]["streams"]["ego_view"]
    assert (counts["received"], counts["used"], counts["filled"]) == (199, 199, 1)  # frame 119 was dropped
    assert 0.045 < counts["largest_age_s"] < 0.055  # its neighbor is a tick away
    quality = json.loads(next((tmp_path / "out").rglob("quality/*.json")).read_text())
    assert quality["filled_rows"] == {"video.ego_view": [119]}


def test_shuffled_joints_and_named_trajectories_agree_with_the_truth(bags_dir, tmp_path):
    name = "gr1_ep1_sqlite3_raw"
    assert convert(bags_dir / name / "bag", write_gr1_raw_topics(tmp_path), tmp_path / "out") == 0
    truth, dataset = load_truth(bags_dir / name), EpisodeDataset(tmp_path / "out")
    ticks = truth.ticks_ns("ego_view", 40)
    assert_states(states_of(dataset, GR1_KEYS), truth, ticks, MESSAGE_PERIOD_S[name])
    np.testing.assert_array_equal(states_of(dataset, GR1_KEYS, kind="action"), truth.actions.astype(np.float32))
    recorded = bag_images(bags_dir / name / "bag", "/camera/ego_view/image_raw", decode_raw)
    assert_images(dataset.images(0, "ego_view", list(range(40))), np.stack(recorded))


def test_frame_numbers_in_the_images_are_those_of_the_ticks(bags_dir, tmp_path):
    name = "arm7_two_cameras_sqlite3"
    assert convert(bags_dir / name / "bag", write_arm7_topics(tmp_path), tmp_path / "out") == 0
    truth, dataset = load_truth(bags_dir / name), EpisodeDataset(tmp_path / "out")
    ticks = truth.ticks_ns("front", 150)
    assert dataset.episodes[0].length == 150
    for camera in ("front", "wrist"):
        found = [frame_number(image) for image in dataset.images(0, camera, list(range(150)))]
        assert found == truth.frames_at(camera, ticks).tolist()
    assert_states(states_of(dataset, ["arm", "gripper"]), truth, ticks, MESSAGE_PERIOD_S[name])
    actions = states_of(dataset, ["arm", "gripper"], kind="action")
    np.testing.assert_array_equal(actions, truth.actions.astype(np.float32))
    wrist = dataset.images(0, "wrist", [30])[0]
    assert (np.abs(wrist[-6:-2, 2:6].astype(int) - [255, 0, 0]).max(axis=(0, 1)) < 40).all()  # the red patch is red


def test_leader_arm_under_other_names_is_the_action(bags_dir, tmp_path):
    name = "so101_leader_follower_mcap"
    truth = load_truth(bags_dir / name)
    topics = write_leader_topics(tmp_path, names=truth.joint_names, camera="wrist", size=(360, 640), fps=30)
    assert convert(bags_dir / name / "bag", topics, tmp_path / "out") == 0
    dataset = EpisodeDataset(tmp_path / "out")
    assert_states(dataset.state(0, "arm"), truth, truth.ticks_ns("wrist", 150), MESSAGE_PERIOD_S[name])
    np.testing.assert_array_equal(dataset.action(0, "arm"), truth.actions.astype(np.float32))


def test_session_gives_the_kept_episodes_of_two_partial_publishers(bags_dir, gr1_topics, tmp_path):
    name = "gr1_session_split_mcap"
    assert convert(bags_dir / name / "bag", gr1_topics, tmp_path / "out") == 0
    dataset = EpisodeDataset(tmp_path / "out")
    assert [episode.length for episode in dataset.episodes] == [70, 70]
    for index, number in ((0, 0), (1, 2)):  # the second was discarded
        truth = load_truth(bags_dir / name, number)
        assert dataset.task(index, 0) == truth.task
        ticks = truth.ticks_ns("ego_view", 70)
        assert_states(states_of(dataset, GR1_KEYS, index), truth, ticks, MESSAGE_PERIOD_S[name])
        actions = states_of(dataset, GR1_KEYS, index, kind="action")
        np.testing.assert_array_equal(actions, truth.actions.astype(np.float32))
    quality = json.loads((tmp_path / "out" / "meta" / "quality" / "episode_000000.json").read_text())
    assert quality["filled_rows"] == {"video.ego_view": [25, 26, 27, 28]}


CODED = ("arm7_two_cameras_sqlite3", "edge_no_metadata_sqlite3", "edge_unindexed_mcap", "edge_trailing_bytes_mcap")


@pytest.mark.parametrize("name", CODED)
def test_coded_bags_keep_every_frame_in_its_place_and_color(bags_dir, tmp_path, name):
    is_arm7 = name.startswith("arm7")
    topics = write_arm7_topics(tmp_path) if is_arm7 else leader_bag_topics(bags_dir, tmp_path, name)
    assert convert(bags_dir / name, topics, tmp_path / "out") == 0
    truth, dataset = load_truth(bags_dir / name), EpisodeDataset(tmp_path / "out")
    rows = list(range(dataset.episodes[0].length))
    for camera, headers_ns in truth.headers_ns.items():
        ticks = truth.ticks_ns("front" if is_arm7 else camera, len(rows))
        images = dataset.images(0, camera, rows)
        shown = np.array([frame_number(image) for image in images])
        dropped = np.flatnonzero(truth.dropped[camera])
        # none is missing but those declared, and none is doubled but the neighbors of those
        assert set(range(len(headers_ns))) - set(shown) == set(dropped)
        doubled = shown[1:][np.diff(shown) == 0]
        assert len(doubled) == len(dropped)
        assert all(np.abs(dropped - number).min() == 1 for number in doubled)
        skew_s = np.abs(headers_ns[shown] - ticks) / 1e9
        is_whole = ~np.isin(truth.frames_at(camera, ticks), [*dropped - 1, *dropped + 1])
        assert skew_s[is_whole].max() <= 0.5 / truth.fps + 1e-9
        for corner, color in zip((5, 20, 36), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
            patches = images[:, -7:-4, corner : corner + 3].astype(int)
            assert np.abs(patches - color).max() < 70, (camera, color)


@pytest.mark.parametrize("name", [*MESSAGE_PERIOD_S, *CODED[1:]])
def test_states_are_those_of_their_ticks_in_time(bags_dir, gr1_topics, tmp_path, name):
    """Measure how early or late all states are: the shift that explains most of their error."""
    truth = load_truth(bags_dir / name)
    if name.startswith("gr1"):
        topics = write_gr1_raw_topics(tmp_path) if "raw" in name else gr1_topics
    elif name.startswith("arm7"):
        topics = write_arm7_topics(tmp_path)
    elif name.startswith("so101"):
        topics = write_leader_topics(tmp_path, names=truth.joint_names, camera="wrist", size=(360, 640), fps=30)
    else:
        topics = leader_bag_topics(bags_dir, tmp_path, name)
    assert convert(bags_dir / name, topics, tmp_path / "out") == 0
    dataset = EpisodeDataset(tmp_path / "out")
    keys = GR1_KEYS if name.startswith("gr1") else list(dataset.embodiment.state)
    found = states_of(dataset, keys)
    ticks = truth.ticks_ns(next(iter(truth.headers_ns)), len(found))
    half_ns = 5_000_000
    speed = (truth.states_at(ticks + half_ns) - truth.states_at(ticks - half_ns)) / (2 * half_ns / 1e9)
    error = found - truth.states_at(ticks)
    shift_s = (error * speed).sum() / (speed**2).sum()
    assert abs(shift_s) < 0.002


ALL_BAGS = {  # bag -> what a topic map for another robot makes of it
    **{f"rosbag2_suite/{name}": "no topic /joint_states" for name in
       ("talker_mcap", "talker_sqlite3", "five_files_mcap", "reindex_mcap", "cdr_mcap", "service_events_mcap")},
    "rosbag2_suite/empty_sqlite3": "no messages; check the topics of its recorder",
    "ros1_suite/example.bag": "no topic /joint_states",
    "ros1_suite/no-messages.bag": "no messages",
    "edge_truncated_mcap": "its recorder was killed or the copy is incomplete; use --allow-partial to keep what can",
}  # fmt: skip


@pytest.mark.parametrize("name", ALL_BAGS)
def test_bags_that_cannot_be_converted_name_cause_and_remedy(bags_dir, tmp_path, capsys, name):
    topics = leader_bag_topics(bags_dir, tmp_path)
    assert convert(bags_dir / name, topics, tmp_path / "out", "--task", "press") == 1
    error = capsys.readouterr().err
    assert ALL_BAGS[name] in error
    assert len(error.splitlines()) == 1


def leader_bag_topics(bags_dir, tmp_path, name="edge_unindexed_mcap"):
    names = load_truth(bags_dir / name).joint_names
    return write_leader_topics(tmp_path, names=names, camera="front", size=(120, 160), fps=20)


def test_bag_without_markers_is_one_episode(bags_dir, tmp_path, capsys):
    topics = leader_bag_topics(bags_dir, tmp_path)
    topics.write_text(topics.read_text().replace("events: {stream: events}\n", ""))
    bag = bags_dir / "edge_unindexed_mcap"
    assert convert(bag, topics, tmp_path / "out") == 1
    assert "no task text for episode 0; give one with --task or --tasks" in capsys.readouterr().err
    assert convert(bag, topics, tmp_path / "out", "--task", "press the button") == 0
    dataset = EpisodeDataset(tmp_path / "out")
    assert [(episode.length, dataset.task(0, 0)) for episode in dataset.episodes] == [(60, "press the button")]
    numbers = [frame_number(image) for image in dataset.images(0, "front", list(range(60)))]
    assert numbers == list(range(60))


def test_cut_bag_keeps_the_rows_before_the_cut_on_request(bags_dir, tmp_path, capsys):
    topics = leader_bag_topics(bags_dir, tmp_path)
    bag = bags_dir / "edge_truncated_mcap"
    assert convert(bag, topics, tmp_path / "out") == 1
    assert "truncated" in capsys.readouterr().err
    assert convert(bag, topics, tmp_path / "out", "--allow-partial") == 0
    assert "ends before the episode's stop marker" in capsys.readouterr().err
    dataset = EpisodeDataset(tmp_path / "out")
    assert dataset.episodes[0].length == 38
    numbers = [frame_number(image) for image in dataset.images(0, "front", list(range(38)))]
    assert numbers == list(range(38))


def test_dry_run_writes_nothing(bags_dir, gr1_topics, tmp_path, capsys):
    assert convert(bags_dir / "gr1_session_split_mcap" / "bag", gr1_topics, tmp_path / "out", "--dry-run") == 0
    assert "2 episodes, 140 rows would be written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "old", "new", "expected"),
    [
        (1, "select: [panda_joint1,", "select: [elbow,", "state.arm: elbow never came on /joint_states, which carries"),
        (1, "camera/front/", "camera/rear/", "no topic /camera/rear/image_raw/compressed (stream 'camera'); the"),
        (1, "compressed, type: sensor_msgs/msg/CompressedImage", "compressed, type: sensor_msgs/msg/Image",
         "is sensor_msgs/msg/CompressedImage, the topic map says sensor_msgs/msg/Image"),
        (2, "/leader/joint_states, type: sensor_msgs/msg/JointState", "/leader/joint_states, type: std_msgs/msg/String",
         "leader"),
        (2, "state: {arm: {stream: joints", "state: {arm: {steam: joints", "topics.yaml:7: state.arm: unknown key"),
        (2, "embodiment: leader.yaml", "embodiment: [", "leader_topics.yaml:"),
        (2, "action: {arm", "task: {arm", "topics.yaml"),
        (1, "fps: 20\n", "fps: 20\n", ""),
    ],
)  # fmt: skip
def test_wrong_topic_maps_give_one_clear_line(bags_dir, tmp_path, capsys, code, old, new, expected):
    topics = leader_bag_topics(bags_dir, tmp_path)
    if not expected:
        embodiment = tmp_path / "leader.yaml"
        embodiment.write_text(embodiment.read_text().replace("height: 120", "height: 240"))
        expected = "image is 160x120, the embodiment expects 160x240"
    topics.write_text(topics.read_text().replace(old, new))
    assert convert(bags_dir / "edge_unindexed_mcap", topics, tmp_path / "out") == code
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.splitlines()) == 1


def test_damaged_bag_gives_one_clear_line(bags_dir, gr1_topics, tmp_path, capsys):
    shutil.copytree(bags_dir / "gr1_ep0_mcap" / "bag", tmp_path / "bag")
    path = tmp_path / "bag" / "bag.mcap"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.unlink()
    path.write_bytes(content)
    assert convert(tmp_path / "bag", gr1_topics, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "is damaged" in error
    assert len(error.splitlines()) == 1


def test_full_disk_keeps_finished_episodes_and_says_so(bags_dir, gr1_topics, tmp_path):
    assert convert(bags_dir / "gr1_session_split_mcap" / "bag", gr1_topics, tmp_path / "out") == 0
    largest = max(path.stat().st_size for path in (tmp_path / "out").rglob("*.mp4"))

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 20_000, largest + 20_000))

    # 200 rows need more than the 70 rows that fitted
    result = subprocess.run(
        [sys.executable, "-m", "gr00t_recorder.bag.convert_cli", str(bags_dir / "gr1_ep0_mcap" / "bag"),
         "--topics", str(gr1_topics), "--output", str(tmp_path / "out")],
        capture_output=True, text=True, preexec_fn=limit_file_size, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "could not be written" in result.stderr
    dataset = EpisodeDataset(tmp_path / "out")
    assert [episode.length for episode in dataset.episodes] == [70, 70]
    assert len(dataset.images(1, "ego_view", list(range(70)))) == 70
