# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import pytest

pytest.importorskip("rclpy")

import pyarrow.parquet as pq
from bag_truth import write_gr1_raw_topics

from gr00t_recorder.bag.convert_cli import main as convert
from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.ros.nodes import ForkedNode, parameter_arguments
from gr00t_test_support.waiting import DEADLINE_S, eventually


def test_played_and_converted_bag_give_the_same_dataset(bags_dir, tmp_path):
    """Bag -> topics of another process -> recorder, against bag -> converter: equal rows and equal video files.

    All streams here have header stamps. Streams stamped at their arrival may differ by the delay of the transport.
    """
    # half as fast and with a lag just below the time that the player goes on, as a loaded machine delivers late
    bag = bags_dir / "gr1_ep1_sqlite3_raw" / "bag"
    topics = write_gr1_raw_topics(tmp_path)
    live, converted = tmp_path / "live", tmp_path / "converted"
    assert convert([str(bag), "--topics", str(topics), "--output", str(converted)]) == 0
    parameters = {"topics_file": topics, "dataset_path": live, "min_free_disk_gb": 0.0, "autostart": True,
                  "use_sim_time": True, "max_lag_s": 1.8}  # fmt: skip
    domain = next_domain()
    arguments, words = parameter_arguments(**parameters), ("--clock", "--rate", "0.5", "--wait", str(DEADLINE_S))
    with (
        ForkedNode("gr00t_recorder.ros.recorder_node", *arguments, domain=domain) as recorder,
        ForkedNode("gr00t_recorder.ros.play_bag", bag, *words, domain=domain) as player,
    ):
        assert player.wait() == 0, player.output
        eventually(lambda: "saved episode 0: 40 rows" in recorder.output, lambda: f"saved; log {recorder.output}")
        recorder.interrupt()
        assert recorder.wait() == 0
    files = ["data/chunk-000/episode_000000.parquet"]
    found, expected = (pq.read_table(folder / files[0]) for folder in (live, converted))
    assert found.num_rows == 40
    assert found.equals(expected)
    video = "videos/chunk-000/observation.images.ego_view/episode_000000.mp4"
    assert (live / video).read_bytes() == (converted / video).read_bytes()


def test_player_skips_types_that_are_not_installed_and_names_them(bags_dir):
    bag = bags_dir / "arm7_two_cameras_sqlite3" / "bag"
    with ForkedNode("gr00t_recorder.ros.play_bag", bag, "--rate", "50", domain=next_domain()) as player:
        assert player.wait() == 0
        assert "/arm/command is not played: message type bench_msgs/msg/ArmCommand" in player.output


def test_player_ends_with_one_line_where_there_is_no_bag(tmp_path):
    with ForkedNode("gr00t_recorder.ros.play_bag", tmp_path / "x", domain=next_domain()) as player:
        assert player.wait() == 2
        assert player.output.startswith("gr00t_play_bag: ")
        assert len(player.output.splitlines()) == 1
