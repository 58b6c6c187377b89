# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The nodes of the simulated robot as separate processes, seen from another one."""

import json
from contextlib import ExitStack
from importlib import resources

import numpy as np
import pytest

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Pose, PoseArray
from gr00t_msgs.msg import CommandSource, RecorderStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, Header, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from gr00t_bringup.robots import robot_file
from gr00t_bringup.ros.sim_node import SimSettings
from gr00t_bringup.sim.kinematics import JOINTS, home_positions
from gr00t_bringup.sim.robot import HOME_NOISE_RAD
from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_test_support.ros.nodes import Peer
from gr00t_training.settings import load_settings

CONFIG = resources.files("gr00t_bringup") / "config" / "sim_arm"


def _launch(domain, module, *arguments, **variables):
    return NodeProcess(f"gr00t_bringup.ros.{module}", "--ros-args", *arguments, domain=domain, **variables)


@pytest.fixture(scope="module")
def sim():
    """A robot with a clock of its own: however slow the machine is, its stamps tell the same."""
    domain = next_domain()
    with Peer(domain) as peer, _launch(domain, "sim_node", "-p", "seed:=10", "-p", "clock:=sim") as process:
        joints = peer.listen(JointState, "joint_states")
        peer.until(lambda: joints, "the first joint state")
        yield peer
        assert process.stop() == 0


def _stamp_ns(message):
    return Time.from_msg(message.header.stamp).nanoseconds


def _period_ns(messages):
    """Return the period of the stamps; a loaded machine may lose single messages."""
    spans_ns = np.diff([_stamp_ns(message) for message in messages])
    assert not (spans_ns % spans_ns.min()).any()
    return spans_ns.min()


def _fresh(peer, joints):
    """Return the positions of a joint state that arrives after now."""
    count = len(joints)
    peer.until(lambda: len(joints) > count, "a joint state")
    return dict(zip(joints[-1].name, joints[-1].position, strict=True))


def _trajectory(names, positions, seconds):
    point = JointTrajectoryPoint(positions=positions)
    point.time_from_start = Duration(sec=int(seconds), nanosec=round(seconds % 1 * 1e9))
    return JointTrajectory(joint_names=names, points=[point])


def _publisher(peer, message_type, topic):
    publisher = peer.node.create_publisher(message_type, topic, 1)
    peer.until(lambda: publisher.get_subscription_count() == 1, f"a subscriber of {topic}")
    return publisher


def test_joint_states_and_images_have_their_rates(sim):
    joints = sim.listen(JointState, "joint_states")
    cameras = {camera: sim.listen(Image, f"{camera}/image_raw") for camera in ("front", "wrist")}
    sim.until(lambda: len(joints) >= 100 and min(map(len, cameras.values())) >= 10, "a second")
    assert _period_ns(joints) == 10_000_000
    assert list(joints[-1].name) == list(JOINTS)
    assert len(joints[-1].position) == len(joints[-1].velocity) == 6
    for images in cameras.values():
        assert _period_ns(images) == 50_000_000


def test_images_are_rgb_and_stamped_with_the_joint_state_they_show(sim):
    joints = sim.listen(JointState, "joint_states")
    front, wrist = (sim.listen(Image, f"{camera}/image_raw") for camera in ("front", "wrist"))
    sim.until(lambda: len(front) >= 10 and len(wrist) >= 10, "ten images")
    sim.until(lambda: _stamp_ns(joints[-1]) >= _stamp_ns(front[-1]), "the joint state of the last image")
    for camera, images in (("front", front), ("wrist", wrist)):
        image = images[-1]
        assert (image.encoding, image.height, image.width, image.step) == ("rgb8", 240, 320, 960)
        assert len(image.data) == 240 * 960
        assert image.header.frame_id == f"{camera}_optical_frame"
    assert {_stamp_ns(image) for image in front[-5:]} & {_stamp_ns(image) for image in wrist}
    assert {_stamp_ns(image) for image in front[-5:]} <= {_stamp_ns(message) for message in joints}
    # the floor of the bin, left of the center in the front image, is bluish: channels are not swapped
    pixels = np.frombuffer(front[-1].data, np.uint8).reshape(240, 320, 3).astype(int)
    red, _, blue = pixels[140:150, 60:80].mean(axis=(0, 1))
    assert blue > red + 10


def test_a_trajectory_takes_its_time(sim):
    sim.call(Trigger, "sim/reset")
    joints = sim.listen(JointState, "joint_states")
    commands = _publisher(sim, JointTrajectory, "arm_controller/joint_trajectory")
    start = _fresh(sim, joints)
    commands.publish(_trajectory(["shoulder_pan"], [0.8], 1.0))
    joints.clear()
    sim.until(lambda: joints and joints[-1].position[0] > 0.78, "arrival")
    stamps = np.array([_stamp_ns(message) for message in joints]) / 1e9
    pan = np.array([message.position[0] for message in joints])
    moving_s, arrived_s = stamps[pan > start["shoulder_pan"] + 0.02][0], stamps[pan > 0.78][0]
    assert 0.8 < arrived_s - moving_s < 1.5
    halfway = np.interp(moving_s + 0.5, stamps, pan)
    assert 0.25 < halfway < 0.55
    assert joints[-1].position[1] == pytest.approx(start["shoulder_lift"], abs=0.02)


def test_a_point_at_time_zero_is_gone_to_at_once(sim):
    sim.call(Trigger, "sim/reset")
    joints = sim.listen(JointState, "joint_states")
    commands = _publisher(sim, JointTrajectory, "arm_controller/joint_trajectory")
    joints.clear()
    commands.publish(_trajectory(["wrist_roll", "gripper"], [0.4, 0.6], 0.0))
    sim.until(lambda: joints and joints[-1].position[4] > 0.38 and joints[-1].position[5] > 0.57, "arrival")
    moving = [message for message in joints if message.position[4] > 0.02]  # from when the command has come
    arrived = [message for message in moving if message.position[4] > 0.38 and message.position[5] > 0.57]
    assert _stamp_ns(arrived[0]) - _stamp_ns(moving[0]) < 1e9


def test_positions_as_an_array_are_obeyed_and_faulty_commands_ignored(sim):
    sim.call(Trigger, "sim/reset")
    joints = sim.listen(JointState, "joint_states")
    array_commands = _publisher(sim, Float64MultiArray, "forward_position_controller/commands")
    trajectories = _publisher(sim, JointTrajectory, "arm_controller/joint_trajectory")
    target = home_positions()
    target[0] = -0.5
    array_commands.publish(Float64MultiArray(data=target.tolist()))
    sim.until(lambda: joints and abs(joints[-1].position[0] + 0.5) < 0.01, "arrival")
    array_commands.publish(Float64MultiArray(data=[1.0, 2.0]))
    array_commands.publish(Float64MultiArray(data=[float("nan")] * 6))
    trajectories.publish(_trajectory(["no_such_joint"], [1.0], 0.0))
    trajectories.publish(_trajectory(["shoulder_pan"], [1.0, 2.0], 0.0))
    trajectories.publish(_trajectory(["shoulder_pan"], [float("inf")], 0.0))
    trajectories.publish(JointTrajectory())
    count = len(joints)
    sim.until(lambda: len(joints) > count + 50, "half a second")
    np.testing.assert_allclose(joints[-1].position, target, atol=0.03)


def test_reset_starts_the_next_seed_and_tells_the_task_to_those_who_come_late(sim):
    first = json.loads(sim.call(Trigger, "sim/reset").message)
    second = json.loads(sim.call(Trigger, "sim/reset").message)
    assert second["seed"] == first["seed"] + 1
    tasks = sim.listen(String, "task", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    sim.until(lambda: tasks, "the task")
    assert tasks[-1].data == second["task"]
    joints = sim.listen(JointState, "joint_states")
    sim.until(lambda: joints and _stamp_ns(joints[-1]) >= second["stamp_ns"], "a joint state of the new scene")
    np.testing.assert_allclose(joints[-1].position, home_positions(), atol=HOME_NOISE_RAD + 0.005)
    verdict = sim.call(Trigger, "sim/success")
    assert not verdict.success
    assert verdict.message == f"not done: {second['task']}"


def test_the_expert_demonstrates_marks_the_episodes_and_ends():
    domain = next_domain()
    fast = ("-p", "clock:=sim", "-p", "speed:=4.0", "-p", "camera_hz:=5", "-p", "image_format:=jpeg")
    given = ("-p", "use_sim_time:=true", "-p", "episodes:=2", "-p", "wait_for_recorder:=true", "-p", "pause_s:=0.5")
    with Peer(domain) as peer, _launch(domain, "sim_node", *fast) as robot:
        events = peer.listen(String, "episode/events")
        leader = peer.listen(JointState, "leader/joint_states", 1000)
        images = peer.listen(CompressedImage, "wrist/image_raw/compressed")
        clock = peer.listen(Clock, "/clock")
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        recorder = peer.node.create_publisher(RecorderStatus, "recorder/status", latched)
        recorder.publish(RecorderStatus(state=RecorderStatus.SAVING))
        with _launch(domain, "expert_node", *given) as expert:
            peer.until(recorder.get_subscription_count, "the expert looks for the recorder")
            assert not events
            recorder.publish(RecorderStatus(state=RecorderStatus.IDLE))
            peer.until(lambda: expert.process.poll() is not None, "the end of the expert")
            assert expert.process.returncode == 0
        peer.until(lambda: len(events) >= 4, "four events")
        assert peer.call(Trigger, "sim/success").success
        assert robot.stop() == 0
    marks = [json.loads(event.data) for event in events]
    assert [mark["event"] for mark in marks] == ["start", "stop", "start", "stop"]
    assert all(mark["task"].startswith("put the ") for mark in marks)
    assert list(leader[-1].name) == list(JOINTS)
    spans_s = np.diff([_stamp_ns(message) / 1e9 for message in leader])
    assert np.median(spans_s) == pytest.approx(0.02, abs=0.002)
    ticks = np.array([Time.from_msg(message.clock).nanoseconds for message in clock])
    assert np.all(ticks % 10_000_000 == 0)
    assert np.all(np.diff(ticks) > 0)
    assert bytes(images[-1].data[:2]) == b"\xff\xd8"  # a JPEG


@pytest.mark.slow
def test_the_expert_demonstrates_as_a_person_through_the_limits_of_the_policy_node():
    domain = next_domain()
    policy = [f"{name}_file:={robot_file('sim_arm', f'{name}.yaml')}" for name in ("topics", "limits")]
    policy += ["autostart:=true", "teleop:=always", "teleop_timeout_s:=1.0"]
    own = [word for value in policy for word in ("-p", value)]
    given = ["-p", "teleop:=true", "-p", "recorder_wait_s:=0.0", "-p", "pause_s:=0.0", "-p", "episodes:=2"]
    with (
        Peer(domain) as peer,
        _launch(domain, "sim_node", "-p", "seed:=3"),
        NodeProcess("gr00t_policy_node.ros.policy_node", "--ros-args", *own, domain=domain) as node,
        _launch(domain, "expert_node", *given) as expert,
    ):
        commands = peer.listen(JointTrajectory, "arm_controller/joint_trajectory", 100)
        sources = peer.listen(CommandSource, "policy/command_source", 100)
        peer.until(lambda: expert.process.poll() is not None, f"the end of the expert; {node.output}", 900.0)
        assert expert.process.returncode == 0, expert.output + node.output
    assert {message.source for message in sources} <= {CommandSource.NONE, CommandSource.PERSON, CommandSource.HOLD}
    assert sum(message.source == CommandSource.PERSON for message in sources) > 500
    assert {message.device for message in sources} == {"", "expert"}
    assert len(commands) > 500


def test_the_expert_discards_what_fails_and_gives_up_with_an_exit_code():
    domain = next_domain()
    peer = Peer(domain)
    events = peer.listen(String, "episode/events")
    peer.listen(JointTrajectory, "arm_controller/joint_trajectory")
    joints = peer.node.create_publisher(JointState, "joint_states", 1)
    cubes = peer.node.create_publisher(PoseArray, "cubes", 1)
    away = Pose()
    away.position.x = 0.5  # out of reach
    away.orientation.w = 1.0

    def publish():
        header = Header(stamp=peer.node.get_clock().now().to_msg())
        joints.publish(JointState(header=header, name=JOINTS, position=home_positions().tolist()))
        cubes.publish(PoseArray(header=header, poses=[away] * 3))

    def reset(request, response):
        stamp_ns = peer.node.get_clock().now().nanoseconds
        response.message = json.dumps({"seed": 1, "task": "put the red cube in the bin", "stamp_ns": stamp_ns})
        return response

    peer.node.create_timer(0.02, publish)
    peer.node.create_service(Trigger, "sim/reset", reset)
    peer.node.create_service(Trigger, "sim/success", lambda request, response: response)
    with (
        peer,
        _launch(
            domain, "expert_node", "-p", "max_failures:=1", "-p", "pause_s:=0.0", "-p", "recorder_wait_s:=0.0"
        ) as expert,
    ):
        peer.until(lambda: expert.process.poll() is not None, "the end of the expert")
        peer.until(lambda: len(events) >= 4, "four events")
    assert [json.loads(event.data)["event"] for event in events] == ["start", "discard", "start", "discard"]
    assert expert.process.returncode == 1


def test_first_demonstration_waits_for_a_recorder_that_was_started_together_with_the_expert():
    domain = next_domain()
    fast = ("-p", "clock:=sim", "-p", "speed:=4.0", "-p", "camera_hz:=5", "-p", "image_format:=jpeg")
    given = ("-p", "use_sim_time:=true", "-p", "pause_s:=0.0", "-p", "recorder_wait_s:=60.0")
    with Peer(domain) as peer, _launch(domain, "sim_node", *fast), _launch(domain, "expert_node", *given) as expert:
        shown = "waiting for a recorder that listens to /episode/events"
        peer.until(lambda: shown in expert.output, "the expert waits")
        events = peer.listen(String, "episode/events")  # the recorder comes later
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        recorder = peer.node.create_publisher(RecorderStatus, "recorder/status", latched)
        recorder.publish(RecorderStatus(state=RecorderStatus.IDLE))
        peer.until(lambda: expert.process.poll() is not None, "the end of the expert")
        peer.until(lambda: len(events) >= 2, "both events")
    assert [json.loads(event.data)["event"] for event in events] == ["start", "stop"]


WRONG = {
    "camera_hz:=30": "camera_hz is 30, expected a divisor of 100",
    "scene_task:=pink": "task 'pink' names 0 cubes, expected one of red, green, blue",
    "speed:=2.0": "set clock to sim",
    "use_sim_time:=true": "nothing would publish /clock",
    "lock_step:=true": "the wall clock waits for nobody; set clock to sim",
    "MUJOCO_GL=glfw": "expected egl or osmesa",
}


@pytest.fixture(scope="module")
def wrong():
    """The nodes of `WRONG`, started together: a start takes seconds."""

    def start(given):
        name, _, value = given.partition("=")
        is_parameter = name.endswith(":")
        variables = {} if is_parameter else {name: value}
        return _launch(next_domain(), "sim_node", *(("-p", given) if is_parameter else ()), **variables)

    with ExitStack() as opened:
        yield {given: opened.enter_context(start(given)) for given in WRONG}


@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_setting_ends_the_node_with_one_line(wrong, given):
    process = wrong[given]
    assert process.wait() == 2
    assert WRONG[given] in process.output
    assert "Traceback" not in process.output


def test_shipped_topic_map_names_what_the_nodes_publish():
    topic_map, embodiment = load_topic_map(str(CONFIG / "topics.yaml"))
    assert embodiment.name == "sim_arm"
    topics = {name: stream.topic for name, stream in topic_map.streams.items()}
    assert topics["joints"] == "joint_states"
    assert topics["leader"] == "leader/joint_states"
    assert {binding.stream for binding in topic_map.action.values()} == {"leader"}
    assert {binding.stream for binding in topic_map.state.values()} == {"joints"}
    assert [command.topic for command in topic_map.commands] == ["arm_controller/joint_trajectory"]


def test_shipped_parameters_are_parameters_of_the_node(tmp_path):
    import yaml

    parameters = yaml.safe_load((CONFIG / "sim.yaml").read_text())["/**"]["ros__parameters"]
    path = tmp_path / "parameters.yaml"
    path.write_text(yaml.safe_dump(parameters))
    assert load_settings(SimSettings, path).seed == parameters["seed"]
