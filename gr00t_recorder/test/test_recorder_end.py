# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""An episode that is being recorded is kept, however the recorder is ended; with real processes."""

import os
import signal

import pytest

pytest.importorskip("rclpy")

from recorder_robot import MODULE, Recorder, Robot, topics

from gr00t_recorder.ros.processes import next_domain, spinning_node
from gr00t_test_support.ros.nodes import LaunchedNode, parameter_arguments
from gr00t_test_support.waiting import eventually
from gr00t_training.dataset.reader import EpisodeDataset

__all__ = ["topics"]


@pytest.mark.parametrize(
    ("to_parent", "to_node"),
    [(signal.SIGKILL, None), (signal.SIGTERM, signal.SIGTERM), (None, signal.SIGHUP)],
    ids=["parent killed", "tree terminated", "terminal closed"],
)
def test_running_episode_is_saved(topics, tmp_path, to_parent, to_node):
    domain = next_domain()
    values = {"topics_file": topics, "dataset_path": tmp_path / "dataset", "min_free_disk_gb": 0.0, "autostart": True}
    with (
        spinning_node("robot", domain) as node,
        LaunchedNode(MODULE, *parameter_arguments(**values), domain=domain) as launched,
    ):
        _robot, recorder = Robot(node), Recorder(node, launched)
        recorder.wait_until_ready()
        assert recorder.start("lift").error_code == 0
        recorder.wait(lambda status: status.frames >= 10, "10 rows")
        if to_parent is not None:
            launched.process.send_signal(to_parent)
        if to_node is not None:
            os.kill(launched.node_pid, to_node)
        eventually(lambda: launched.has_node_ended, lambda: launched.output)
        dataset = EpisodeDataset(tmp_path / "dataset")
        assert [episode.length >= 10 for episode in dataset.episodes] == [True]
        assert not list((tmp_path / "dataset" / ".staging").glob("episode*"))
