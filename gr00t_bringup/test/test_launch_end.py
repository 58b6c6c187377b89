# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""No node outlives the launch that started it; with the commands and the environment of the launch files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")

from gr00t_msgs.msg import PolicyStatus, RecorderStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState

from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.ros.nodes import Peer
from gr00t_test_support.waiting import eventually

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# what `ros2 launch` is to its nodes: the process that makes the commands starts them, and waits
LAUNCHER = """
import os, subprocess, sys, threading
from launch_stand_ins import launch
modules = {"policy_node": "gr00t_policy_node", "recorder_node": "gr00t_recorder"}
for words in (line.split() for line in sys.argv[1].splitlines()):
    for node in launch(*words):
        name, *arguments = node.command()
        module = f"{modules.get(name, 'gr00t_bringup')}.ros.{name}"
        code = f"import sys; from {module} import main; sys.exit(main())"
        command = [sys.executable, "-c", code, *arguments]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # which break with launch
        process = subprocess.Popen(command, env={**os.environ, **node.additional_env}, **pipes)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        print(process.pid, flush=True)
print("started", flush=True)
sys.stdin.read()
"""


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_nodes_end_with_their_launch(number: int, tmp_path: Path) -> None:
    files = (
        "sim.launch.py expert_episodes:=100\npolicy.launch.py robot:=sim_arm\n"
        f"record.launch.py robot:=sim_arm dataset_path:={tmp_path / 'data'}"
    )
    domain = next_domain()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", LAUNCHER, files]
    with (
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as launcher,
        Peer(domain) as peer,
    ):
        lines = iter(launcher.stdout.readline, "started\n")
        pids = [int(line) for line in lines]
        try:
            heard = [
                peer.listen(JointState, "joint_states"),
                peer.listen(JointState, "leader/joint_states"),
                peer.listen(PolicyStatus, "policy/status", LATCHED),
                peer.listen(RecorderStatus, "recorder/status", LATCHED),
            ]
            peer.until(lambda: all(heard), "all four nodes")
            assert not any(has_ended(pid) for pid in pids)
            launcher.send_signal(number)
            for pid in pids:
                eventually(lambda pid=pid: has_ended(pid), f"end of node {pids.index(pid)}")
        finally:
            launcher.kill()
            for pid in pids:
                if not has_ended(pid):
                    os.kill(pid, signal.SIGKILL)
