# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Every shipped robot is played by its fake driver and driven by the policy node; wrong wiring is refused by name."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("zmq")

import rclpy
import yaml
from gr00t_msgs.msg import ActionChunk as ActionChunkMsg
from gr00t_msgs.msg import PolicyStatus, StreamStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import SetBool

from gr00t_bringup.fake.faults import Fault
from gr00t_bringup.robots import has_robot_file, robot_file
from gr00t_bringup.ros.fake_robot_node import FakeRobot, FakeRobotSettings
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_policy_node.ros.policy_node import PolicyNode
from gr00t_recorder.ros.processes import DEADLINE_S, NodeProcess, next_domain
from gr00t_test_support.ros.nodes import parameter_arguments
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, load_embodiment, to_mapping
from gr00t_training.errors import ConfigError
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.server import PolicyServer, ServerSettings
from gr00t_training.types import ActionChunk

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RATE_HZ = 10.0  # of every topic: two cores are shared with the node under test
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def patient(robot: str) -> Embodiment:
    """Return the robot with chunks of several seconds, which do not end while a loaded machine is busy."""
    return dataclasses.replace(load_embodiment(robot), action_horizon=200)


class Reaching(PolicyLike):
    """Asks every joint to go from where it is to far above its limits; was trained within them."""

    def __init__(self, robot: str) -> None:
        plan = FakeRobotSettings(robot=robot).plan()
        self.embodiment = patient(robot)
        low = {name: limit.min for name, limit in plan.limits.items()}
        self._high = {name: limit.max for name, limit in plan.limits.items()}
        self._targets = {name: 1.5 * self._high[name] - 0.5 * low[name] + 0.1 for name in low}
        self.statistics = {
            kind: {
                key: _statistics(
                    [low.get(n, 0.0) for n in vector.names], [self._high.get(n, 0.0) for n in vector.names]
                )
                for key, vector in self.embodiment.vectors(kind).items()
            }
            for kind in ("state", "action")
        }

    def infer_batch(self, observations, continuations=None):
        return [self._answer(observation) for observation in observations]

    def _answer(self, observation):
        robot = self.embodiment
        ramp = np.linspace(0.0, 1.0, robot.action_horizon)[:, None]
        actions = {}
        for key in robot.action_keys:
            target = np.array([self._targets[name] for name in robot.action[key].names])
            start = observation.state[key][-1] if key in robot.state else np.zeros(len(target))
            actions[key] = start + ramp * (target - start)
        return ActionChunk(actions, observation.stamp_ns, robot.step_ns)


def _statistics(low: list[float], high: list[float]) -> KeyStatistics:
    least, most = np.array(low), np.array(high)
    return KeyStatistics(min=least, max=most, mean=(least + most) / 2, std=most - least, q01=least, q99=most)


@contextmanager
def served(policy: PolicyLike) -> Iterator[str]:
    """Offer a policy as a server does; gives its address."""
    server = PolicyServer(policy, ServerSettings(port=0), name="reaching")
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        server.stop()
        thread.join()


class Rig:
    """A fake robot and a policy node in this process."""

    def __init__(
        self, robot: str, folder: Path, server: str, *, topic_map: str = "topics.yaml", **parameters: Any
    ) -> None:
        topics = folder / f"{robot}.yaml"
        content = yaml.safe_load(robot_file(robot, topic_map).read_text())
        for stream in content["streams"].values():
            stream["max_age_s"] = 5.0  # which a loaded machine keeps
        (folder / "embodiment.json").write_text(json.dumps(to_mapping(patient(robot))))
        changes = {"embodiment": "embodiment.json", "max_skew_s": 5.0}
        topics.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        values = {
            "server": server,
            "server_timeout_s": 30.0,
            "topics_file": topics,
            "limits_file": robot_file(robot, "limits.yaml"),
            "instruction": "reach",
            "inference_period_s": 0.1,
            "max_input_gap_s": 0.0,
            "max_silence_s": 0.0,
            **parameters,
        }
        self.domain = next_domain()
        given = {name: value for name, value in values.items() if value != ""}
        rclpy.init(args=parameter_arguments(**given), domain_id=self.domain)
        self._executor = SingleThreadedExecutor()
        self._node = rclpy.create_node("fake_robot")
        self.policy_node = PolicyNode()
        self.robot = FakeRobot(self._node, FakeRobotSettings(robot=robot).plan(), RATE_HZ)
        for node in (self._node, self.policy_node):
            self._executor.add_node(node)
        self.chunks: list[ActionChunkMsg] = []
        self.statuses: list[PolicyStatus] = []
        self._node.create_subscription(ActionChunkMsg, "policy/action_chunk", self.chunks.append, 5)
        self._node.create_subscription(PolicyStatus, "policy/status", self.statuses.append, LATCHED)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.policy_node.close()
        for _ in range(5):  # goals on their way
            self._executor.spin_once(timeout_sec=0.01)
        self.robot.close()
        self._executor.shutdown()
        for node in (self.policy_node, self._node):
            node.destroy_node()
        rclpy.shutdown()

    @property
    def reasons(self) -> str:
        """Everything that the newest status says about inputs."""
        if not self.statuses:
            return ""
        status = self.statuses[-1]
        return "; ".join([status.reason, *(stream.reason for stream in status.streams)])

    @property
    def state(self) -> int:
        return self.statuses[-1].state if self.statuses else 99

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end_s, f"{what}; status: {self.reasons}; refused: {self.robot.refusals}"
            self._executor.spin_once(timeout_sec=0.02)

    def until_streams(self, *states: int) -> None:
        """Wait until every input is in one of these states."""
        self.until(
            lambda: self.statuses and {stream.state for stream in self.statuses[-1].streams} <= set(states),
            f"streams in {states}",
        )

    def start(self) -> None:
        """Configure, and activate once the inputs are there."""
        assert self.policy_node.trigger_configure() == SUCCESS
        self.until_streams(StreamStatus.OK)
        assert self.policy_node.trigger_activate() == SUCCESS


@pytest.mark.parametrize("robot", shipped_robots())
def test_chunk_and_commands_of_every_robot_come_back_within_limits(robot: str, tmp_path: Path) -> None:
    embodiment = load_embodiment(robot)
    with served(Reaching(robot)) as server:
        with Rig(robot, tmp_path, server, dry_run=True) as rig:
            rig.start()
            rig.until(lambda: rig.chunks, "chunk")
            chunk, controls = rig.chunks[-1], rig.robot.plan.controls
            assert list(chunk.keys) == list(embodiment.action_keys)
            assert list(chunk.names) == [n for key in embodiment.action_keys for n in embodiment.action[key].names]
            assert np.isfinite(chunk.data).all()
            assert not rig.robot.num_commands
            assert [rig._node.count_publishers(each.config.topic) for each in controls] == [0] * len(controls)
        with Rig(robot, tmp_path, server) as rig:
            rig.start()
            start, limits = dict(rig.robot.plan.start), rig.robot.plan.limits
            moving = [n for n, limit in limits.items() if limit.max - start[n] > 0.01]
            assert moving

            def has_moved() -> bool:
                values = rig.robot.plant.values(rig.robot._now_s())
                return all(values[n] > start[n] + 0.005 for n in moving)

            rig.until(has_moved, "motion of every joint")
            assert set(rig.robot.num_commands) == {control.config.topic for control in rig.robot.plan.controls}
            # the driver takes nothing that is outside the limits, or for other joints
            assert rig.robot.refusals == []


@pytest.mark.parametrize("robot", [name for name in shipped_robots() if has_robot_file(name, "teleop.yaml")])
def test_follower_goes_with_its_leader_within_limits(robot: str, tmp_path: Path) -> None:
    device = yaml.safe_load(robot_file(robot, "teleop.yaml").read_text())
    device["leader"]["max_age_s"] = 5.0  # a loaded machine delivers late
    (tmp_path / "teleop.yaml").write_text(yaml.safe_dump(device))
    words = parameter_arguments(teleop_file=tmp_path / "teleop.yaml")
    with Rig(
        robot, tmp_path, "", topic_map="topics_policy.yaml", instruction="", teleop="always", teleop_timeout_s=5.0
    ) as rig:
        rig.start()
        plant, limits = rig.robot.plant, rig.robot.plan.limits
        ranges = {name: limit.max - limit.min for name, limit in limits.items()}

        def follows() -> bool:
            """Whether every joint is where the leader is, which is not where both began."""
            now_s = rig.robot._now_s()
            values = plant.values(now_s)
            leader = {name: plant.leader(name, now_s) for name in ranges}
            has_left = [abs(leader[name] - rig.robot.plan.start[name]) > 0.05 * ranges[name] for name in ranges]
            return sum(has_left) > len(ranges) / 2 and all(
                abs(values[name] - leader[name]) < 0.03 * ranges[name] for name in ranges
            )

        with NodeProcess("gr00t_policy_node.ros.teleop_node", *words, domain=rig.domain) as teleop:
            engage = rig._node.create_client(SetBool, "teleop/engage")
            rig.until(engage.service_is_ready, "teleop_node")
            assert not rig.robot.num_commands
            done = engage.call_async(SetBool.Request(data=True))
            rig.until(done.done, "the answer of teleop_node")
            rig.until(follows, f"the leader's pose; {teleop.output}")
            assert rig.statuses[-1].device == device["name"]
        assert set(rig.robot.num_commands) == {control.config.topic for control in rig.robot.plan.controls}
        assert rig.robot.refusals == []


WIRING = [
    (
        "fr3_bimanual",
        Fault.SWAPPED_TOPICS,
        "left_fr3_joint1, left_fr3_joint2, .* never came on left/franka/joint_states, ",
    ),
    ("ur5e_robotiq", Fault.MISSING_JOINT, "robotiq_85_left_knuckle_joint never came on joint_states, which carries "),
    ("fr3", Fault.DEGREES, "'fr3_joint4' is -135 rad, .* these may be degrees"),
    ("unitree_g1", Fault.NO_NAMES, "position has 29 values and 'name' no names"),
    ("tiago", Fault.ENCODING, "video.head: .*h264"),
    ("sim_arm", Fault.ENCODING, "video.front: .*nv21"),
]


@pytest.mark.parametrize(
    ("robot", "fault", "words"), WIRING, ids=[f"{robot} {fault.value}" for robot, fault, _ in WIRING]
)
def test_wrong_wiring_is_refused_by_name_before_activation(
    robot: str, fault: Fault, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(Reaching(robot)) as server, Rig(robot, tmp_path, server) as rig:
        rig.robot.set_fault(fault)
        assert rig.policy_node.trigger_configure() == SUCCESS
        rig.until_streams(StreamStatus.OK, StreamStatus.INVALID)  # all have arrived
        if fault is not Fault.DEGREES:  # which is found at activation
            rig.until(lambda: re.search(words, rig.reasons), words)
        assert rig.policy_node.trigger_activate() == FAILURE
        assert re.search(f"not activated: .*{words}", capfd.readouterr().err)
        assert not rig.robot.num_commands
        rig.robot.set_fault(Fault.NONE)
        rig.until_streams(StreamStatus.OK)
        rig.until(lambda: rig.policy_node.trigger_activate() == SUCCESS, "activation")
        rig.until(lambda: rig.robot.num_commands, "commands")


def test_a_clock_that_is_behind_holds_the_robot(tmp_path: Path) -> None:
    with served(Reaching("xarm7")) as server, Rig("xarm7", tmp_path, server) as rig:
        rig.robot.set_fault(Fault.STALE_CLOCK)
        assert rig.policy_node.trigger_configure() == SUCCESS
        assert rig.policy_node.trigger_activate() == SUCCESS
        words = r"stream 'joints' \(joint_states\) is stale: .*newest sample is 1[0-9.]+ s old \(limit 5 s\)"
        rig.until(lambda: rig.state == PolicyStatus.HOLDING and re.search(words, rig.reasons), words)
        assert not rig.chunks
        assert not rig.robot.num_commands


def test_joints_in_another_order_go_by_name(tmp_path: Path) -> None:
    with served(Reaching("wx250s")) as server, Rig("wx250s", tmp_path, server) as rig:
        rig.robot.set_fault(Fault.JOINT_ORDER)
        rig.start()
        rig.until(lambda: rig.chunks, "chunk")
        # the first row is where the policy saw the joints
        start = rig.robot.plan.start
        np.testing.assert_allclose(rig.chunks[0].data[:7], [start[name] for name in rig.chunks[0].names], atol=1e-6)


def test_a_policy_for_another_order_of_joints_is_refused_at_configure(tmp_path: Path) -> None:
    policy = Reaching("fr3")
    arm = policy.embodiment.state["arm"]
    turned = dataclasses.replace(arm, names=(arm.names[1], arm.names[0], *arm.names[2:]))
    policy.embodiment = dataclasses.replace(policy.embodiment, state={**policy.embodiment.state, "arm": turned})
    words = r"state.arm.names: found \[fr3_joint2, .*the same in another order"
    try:
        with served(policy) as server, pytest.raises(ConfigError, match=words):
            Rig("fr3", tmp_path, server, autostart=True)
    finally:
        rclpy.shutdown()
