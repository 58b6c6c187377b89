# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import json
import resource
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.action import RecordEpisode
from gr00t_msgs.msg import RecorderStatus, StreamStatus
from gr00t_msgs.srv import StartEpisode, StopEpisode
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.ros.parameters import declare
from gr00t_recorder.ros.testing import NodeProcess, call, eventually, next_domain, parameter_arguments, spinning_node
from gr00t_recorder.topics.bindings import Align
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.errors import ConfigError
from gr00t_training.settings import setting

SIZE = (64, 96)
FPS = 10
MODULE = "gr00t_recorder.ros.recorder_node"
GENEROUS = 2**30


class Robot:
    """Publishes joints whose position is the time in seconds since the start, noisy images, and a command."""

    def __init__(self, node):
        self.has_camera = True
        self._node = node
        self._rng = np.random.default_rng(0)
        self._joints = node.create_publisher(JointState, "/joint_states", 10)
        self._command = node.create_publisher(JointState, "/leader", 10)
        self._camera = node.create_publisher(Image, "/image", 10)
        self._events = node.create_publisher(String, "/events", 10)
        self.start_ns = node.get_clock().now().nanoseconds
        node.create_timer(0.02, self._move)
        node.create_timer(1 / FPS, self._look)

    def mark(self, **members):
        self._events.publish(String(data=json.dumps(members)))

    def _move(self):
        now = self._node.get_clock().now()
        seconds = (now.nanoseconds - self.start_ns) / 1e9
        for publisher, offset in ((self._joints, 0.0), (self._command, 100.0)):
            message = JointState(name=["b", "a"], position=[2 * seconds + offset, seconds + offset])
            message.header.stamp = now.to_msg()
            publisher.publish(message)

    def _look(self):
        if self.has_camera:
            pixels = self._rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            message = Image(height=SIZE[0], width=SIZE[1], encoding="rgb8", step=SIZE[1] * 3, data=pixels.tobytes())
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._camera.publish(message)


class Recorder:
    """The node under test, seen from outside."""

    def __init__(self, node, process):
        self.process = process
        self._node = node
        self._statuses = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(RecorderStatus, "/recorder/status", self._statuses.append, latched)

    @property
    def status(self):
        return self._statuses[-1] if self._statuses else RecorderStatus(state=255)

    def wait(self, condition, what):
        return eventually(
            lambda: condition(self.status), lambda: f"{what}; status {self.status}, log {self.process.output}"
        )

    def wait_until_ready(self):
        self.wait(
            lambda status: status.streams and all(s.state == StreamStatus.OK for s in status.streams[:3]), "ready"
        )

    def start(self, task="lift"):
        return call(self._node, StartEpisode, "/recorder/start_episode", StartEpisode.Request(task=task))

    def stop(self, keep=True):
        return call(self._node, StopEpisode, "/recorder/stop_episode", StopEpisode.Request(keep=keep))

    def change(self, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return call(self._node, ChangeState, "/recorder/change_state", request).success


@pytest.fixture
def topics(tmp_path):
    keys = "arm: {names: [a, b]}"
    (tmp_path / "tiny.yaml").write_text(
        f"name: tiny\ntag: new_embodiment\nfps: {FPS}\nstate: {{{keys}}}\naction: {{{keys}}}\n"
        f"video: {{front: {{height: {SIZE[0]}, width: {SIZE[1]}}}}}\n"
    )
    (tmp_path / "topics.yaml").write_text(
        "embodiment: tiny.yaml\nstreams:\n"
        "  joints: {topic: joint_states, type: sensor_msgs/msg/JointState}\n"
        "  leader: {topic: leader, type: sensor_msgs/msg/JointState}\n"
        "  camera: {topic: image, type: sensor_msgs/msg/Image}\n"
        "  events: {topic: events, type: std_msgs/msg/String, stamp: receive, reliability: reliable}\n"
        "state: {arm: {stream: joints}}\naction: {arm: {stream: leader}}\nvideo: {front: {stream: camera}}\n"
        "events: {stream: events}\n"
    )
    return tmp_path / "topics.yaml"


@pytest.fixture
def launch(topics, tmp_path):
    """Start a robot and a recorder; both end with the test."""
    opened = []

    def start(**parameters):
        values = {"topics_file": topics, "dataset_path": tmp_path / "dataset", "min_free_disk_gb": 0.0, **parameters}
        domain = next_domain()
        process = NodeProcess(MODULE, *parameter_arguments(**values), domain=domain)
        for manager in (spinning_node("robot", domain), process):
            opened.append((manager, manager.__enter__()))
        node, process = opened[0][1], opened[1][1]
        return Robot(node), Recorder(node, process), node

    yield start
    for manager, _ in reversed(opened):
        manager.__exit__(None, None, None)


def test_services_record_refuse_and_discard(launch, tmp_path):
    robot, recorder, _ = launch()
    robot.has_camera = False
    assert recorder.start().error_code == StartEpisode.Response.NOT_ACTIVE
    assert recorder.change(Transition.TRANSITION_CONFIGURE)
    assert recorder.change(Transition.TRANSITION_ACTIVATE)
    recorder.wait(lambda status: status.streams and status.streams[0].state == StreamStatus.OK, "joints")
    answer = recorder.start()
    assert answer.error_code == StartEpisode.Response.STREAMS_NOT_READY
    assert "stream 'camera' (image) is waiting: nothing received on image" in answer.error_msg
    robot.has_camera = True
    recorder.wait_until_ready()
    assert recorder.start("").error_code == StartEpisode.Response.NO_TASK
    assert recorder.stop().error_code == StopEpisode.Response.NOT_RECORDING

    assert recorder.start("lift the cube").error_code == StartEpisode.Response.NONE
    assert recorder.start().error_code == StartEpisode.Response.BUSY
    recorder.wait(lambda status: status.frames >= 5, "five rows")
    assert recorder.status.state == RecorderStatus.RECORDING
    assert recorder.status.task == "lift the cube"
    answer = recorder.stop()
    assert (answer.error_code, answer.error_msg, answer.episode_index) == (StopEpisode.Response.NONE, "", 0)
    assert answer.frames >= 5

    assert recorder.start().error_code == StartEpisode.Response.NONE
    recorder.wait(lambda status: status.frames >= 1, "a row")
    assert recorder.stop(keep=False).error_code == StopEpisode.Response.NONE
    recorder.wait(lambda status: status.state == RecorderStatus.IDLE and status.episodes == 1, "idle again")
    assert recorder.change(Transition.TRANSITION_DEACTIVATE)
    assert recorder.change(Transition.TRANSITION_CLEANUP)

    dataset = LeRobotDataset(tmp_path / "dataset")
    assert [episode.length for episode in dataset.episodes] == [answer.frames]
    assert dataset.task(0, 0) == "lift the cube"
    state, action = dataset.state(0, "arm"), dataset.action(0, "arm")
    # positions are the time itself: a row later is a tick later
    np.testing.assert_allclose(np.diff(state[:, 0]), 1 / FPS, atol=2e-3)
    np.testing.assert_allclose(state[:, 1], 2 * state[:, 0], atol=1e-4)
    np.testing.assert_allclose(action[:, 0], state[:, 0] + 100, atol=1e-3)


def test_action_ends_at_its_time_limit_and_cancel_discards(launch, tmp_path):
    _, recorder, node = launch(autostart=True)
    recorder.wait_until_ready()
    client = ActionClient(node, RecordEpisode, "/recorder/record_episode")
    assert client.wait_for_server(10)
    feedback = []

    def send(task, seconds):
        goal = RecordEpisode.Goal(task=task, max_duration=seconds)
        sent = client.send_goal_async(goal, feedback_callback=lambda message: feedback.append(message.feedback))
        eventually(sent.done, "goal accepted")
        return sent.result(), sent.result().get_result_async()

    _, ended = send("push", 1.5)
    recorder.wait(lambda status: status.state == RecorderStatus.RECORDING, "recording")
    _, refused = send("push", 1.0)
    eventually(refused.done, "second goal refused")
    assert refused.result().result.error_code == RecordEpisode.Result.NOT_STARTED
    eventually(ended.done, "time limit")
    result = ended.result().result
    assert (result.error_code, result.error_msg) == (RecordEpisode.Result.NONE, "")
    assert result.frames in (14, 15, 16)  # 1.5 s at 10 Hz from the first image on
    assert feedback[-1].frames > 0
    assert [stream.name for stream in feedback[-1].streams] == ["joints", "leader", "camera", "events"]

    goal, ended = send("push", 0.0)
    recorder.wait(lambda status: status.frames >= 1, "a row")
    eventually(goal.cancel_goal_async().done, "cancel accepted")
    eventually(ended.done, "cancelled")
    assert ended.result().result.error_code == RecordEpisode.Result.CANCELLED
    client.destroy()
    assert len(LeRobotDataset(tmp_path / "dataset").episodes) == 1


def test_full_disk_ends_the_episode_and_the_node_lives_on(launch, tmp_path):
    _, recorder, node = launch(autostart=True)
    recorder.wait_until_ready()
    assert recorder.start("first").error_code == StartEpisode.Response.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    assert recorder.stop().error_code == StopEpisode.Response.NONE
    assert recorder.start("second").error_code == StartEpisode.Response.NONE
    recorder.wait(lambda status: status.frames >= 1, "rows")
    pid = recorder.process.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, GENEROUS))  # the system's own "file too large"
    recorder.wait(lambda status: status.state == RecorderStatus.FAILED, "failed")
    assert "could not be written" in recorder.status.reason
    assert "Finished episodes are unharmed" in recorder.status.reason
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (GENEROUS, GENEROUS))
    assert recorder.start("third").error_code == StartEpisode.Response.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    assert recorder.stop().error_code == StopEpisode.Response.NONE
    dataset = LeRobotDataset(tmp_path / "dataset")
    assert [dataset.task(index, 0) for index in range(len(dataset.episodes))] == ["first", "third"]

    value = Parameter("min_free_disk_gb", value=9999.0).to_parameter_msg()
    call(node, SetParameters, "/recorder/set_parameters", SetParameters.Request(parameters=[value]))
    assert recorder.change(Transition.TRANSITION_DEACTIVATE)
    assert recorder.change(Transition.TRANSITION_CLEANUP)
    assert recorder.change(Transition.TRANSITION_CONFIGURE)
    assert recorder.change(Transition.TRANSITION_ACTIVATE)
    recorder.wait_until_ready()
    answer = recorder.start("fourth")
    assert answer.error_code == StartEpisode.Response.DISK_FULL
    assert "9999 wanted" in answer.error_msg


def test_markers_record_and_an_interrupt_saves_what_is_there(launch, tmp_path):
    robot, recorder, _ = launch(autostart=True, task="from the parameter")
    recorder.wait_until_ready()
    robot.mark(event="start", task="from the marker")
    recorder.wait(lambda status: status.frames >= 3, "rows")
    robot.mark(event="stop")
    robot.mark(event="start")  # while the first episode is being saved
    recorder.wait(
        lambda status: status.episodes == 1 and status.state == RecorderStatus.RECORDING and status.frames >= 3, "rows"
    )
    recorder.process.interrupt(times=2)
    assert recorder.process.wait() == 0, recorder.process.output
    assert "Traceback" not in recorder.process.output
    dataset = LeRobotDataset(tmp_path / "dataset")
    assert [dataset.task(index, 0) for index in (0, 1)] == ["from the marker", "from the parameter"]
    assert dataset.episodes[1].length >= 3


def test_lost_camera_ends_the_episode_with_its_name(launch, tmp_path):
    robot, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    assert recorder.start().error_code == StartEpisode.Response.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    robot.has_camera = False
    recorder.wait(lambda status: status.episodes == 1, "ended and saved")
    assert "video.front: the closest sample on image" in recorder.status.reason
    quality = json.loads(next((tmp_path / "dataset").rglob("quality/*.json")).read_text())
    assert "video.front" in json.dumps(quality)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"topics_file": "/nowhere/topics.yaml"}, "/nowhere/topics.yaml: cannot be read"),
        ({"max_lag_s": 99.0}, "parameter 'max_lag_s'"),
        ({"video_codec": "hevc"}, "parameter 'video_codec': 'hevc' is not one of h264, av1"),
    ],
)
def test_wrong_parameters_end_the_node_with_one_reason(launch, parameters, expected):
    _, recorder, _ = launch(autostart=True, **parameters)
    assert recorder.process.wait() == 2
    assert expected in recorder.process.output
    assert "Traceback" not in recorder.process.output


@dataclass(frozen=True)
class Settings:
    """Settings of every kind a parameter can have."""

    rate_hz: float = setting(2.0, "Rate [Hz].", ge=0.5, le=10.0, read_only=True)
    count: int = setting(3, "Number.", ge=1)
    joints: tuple[str, ...] = setting((), "Names.")
    align: Align = setting(Align.HOLD, "Alignment.")
    path: str = setting(description="A file.")


def test_parameters_come_from_the_settings_class():
    overrides = [
        Parameter("joints", value=["a", "b"]),
        Parameter("align", value="nearest"),
        Parameter("path", value="x"),
    ]
    with spinning_node("holder", next_domain()) as holder:
        node = Node("parameters", context=holder.context, parameter_overrides=overrides)
        found = declare(node, Settings)
        assert found == Settings(joints=("a", "b"), align=Align.NEAREST, path="x")
        assert declare(node, Settings) == found
        descriptor = node.describe_parameter("rate_hz")
        assert (descriptor.description, descriptor.read_only) == ("Rate [Hz].", True)
        assert (descriptor.floating_point_range[0].from_value, descriptor.floating_point_range[0].to_value) == (
            0.5,
            10.0,
        )
        assert node.describe_parameter("count").integer_range[0].from_value == 1
        node.destroy_node()
        for wrong, expected in (
            ([Parameter("path", value="x"), Parameter("rate_hz", value=20.0)], "parameter 'rate_hz'"),
            ([Parameter("path", value="x"), Parameter("rate_hz", value=2)], "decimal point"),
            ([Parameter("path", value="x"), Parameter("align", value="best")], "'best' is not one of hold, nearest"),
            ([], "parameter 'path': not given"),
        ):
            node = Node("parameters", context=holder.context, parameter_overrides=wrong)
            with pytest.raises(ConfigError, match=expected):
                declare(node, Settings)
            node.destroy_node()


def test_missing_message_package_is_named():
    with pytest.raises(ConfigError, match="package 'bench_msgs' is not installed"):
        message_class("bench_msgs/msg/ArmCommand")
    with pytest.raises(ConfigError, match="'sensor_msgs' has no message 'JointStates'"):
        message_class("sensor_msgs/msg/JointStates")
