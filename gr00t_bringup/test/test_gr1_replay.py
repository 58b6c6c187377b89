# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A recorded GR1 session, replayed as ROS 2 topics by one process, answered by the policy node in another."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.msg import ActionChunk, PolicyStatus
from rclpy.qos import DurabilityPolicy, QoSProfile

from gr00t_bringup.robots import fastdds_profile, robot_file
from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_test_support.builders import make_checkpoint
from gr00t_test_support.reference_files import ReferenceFiles
from gr00t_test_support.ros.nodes import Peer, parameter_arguments
from gr00t_test_support.waiting import DEADLINE_S
from gr00t_training.embodiment import load_embodiment

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_chunks_of_the_right_shape_for_every_arm_key(bags_dir: ReferenceFiles, tmp_path: Path) -> None:
    embodiment = load_embodiment("gr1_arms_only")
    domain = next_domain()
    parameters = parameter_arguments(
        checkpoint_path=make_checkpoint(tmp_path / "checkpoint", embodiment),
        topics_file=robot_file("gr1_arms_only", "topics.yaml"),
        limits_file=robot_file("gr1_arms_only", "limits.yaml"),
        instruction="pick the pear from the counter and place it in the plate",
        device="cpu",
        autostart=True,
        use_sim_time=True,
        max_input_gap_s=0.0,  # the player waits for listeners, and there is no clock before it plays
    )
    variables = {"OMP_NUM_THREADS": "1", "FASTRTPS_DEFAULT_PROFILES_FILE": str(fastdds_profile())}
    with (
        Peer(domain) as peer,
        NodeProcess("gr00t_policy_node.ros.policy_node", *parameters, domain=domain, **variables) as node,
    ):
        chunks = peer.listen(ActionChunk, "policy/action_chunk")
        statuses = peer.listen(PolicyStatus, "policy/status", LATCHED)
        peer.until(lambda: statuses, "configured policy node")
        bag = bags_dir / "gr1_ep0_mcap/bag"
        # what the node listens to, or the player would wait for listeners to the rest
        topics = ("--only-topics", "/joint_states", "/camera/ego_view/image_raw/compressed")
        words = (bag, "--clock", "--rate", "0.5", "--wait", str(DEADLINE_S), *topics)
        with NodeProcess("gr00t_recorder.ros.play_bag", *words, domain=domain, **variables) as player:
            peer.until(lambda: len(chunks) >= 5 or player.process.poll() is not None, "chunks")
            assert len(chunks) >= 5, node.output
    for chunk in chunks:
        assert list(chunk.keys) == ["left_arm", "right_arm", "left_hand", "right_hand"]
        assert list(chunk.dims) == [7, 7, 6, 6]
        assert list(chunk.names) == [name for key in chunk.keys for name in embodiment.action[key].names]
        rows = np.array(chunk.data).reshape(chunk.horizon, 26)
        assert rows.shape == (16, 26)
        assert np.isfinite(rows).all()
        assert (chunk.step.sec, chunk.step.nanosec) == (0, 50_000_000)
        # answers an image of the recording, in the recording's time
        assert 1_760_000_000 <= chunk.header.stamp.sec < 1_760_000_011
