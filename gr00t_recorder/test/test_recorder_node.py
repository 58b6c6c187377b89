# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import resource
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.action import RecordEpisode
from gr00t_msgs.msg import ErrorCode, RecorderStatus, StreamStatus
from gr00t_msgs.srv import DiscardLastEpisode
from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState

from gr00t_recorder.ros.ingest import message_class
from gr00t_recorder.ros.parameters import declare
from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_recorder.ros.recorder_node import main
from gr00t_recorder.ros.recorder_settings import RecorderSettings
from gr00t_recorder.topics.bindings import Align
from gr00t_test_support.ros.nodes import call
from gr00t_test_support.waiting import DEADLINE_S, eventually
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import ConfigError
from gr00t_training.settings import setting

pytest_plugins = ("recorder_robot",)
FPS = 10  # of the robot
GENEROUS = 2**30


def test_services_record_refuse_and_discard(launch, tmp_path):
    robot, recorder, _ = launch()
    robot.has_camera = False
    assert recorder.start().error_code == ErrorCode.NOT_ACTIVE
    assert recorder.change(Transition.TRANSITION_CONFIGURE)
    assert recorder.change(Transition.TRANSITION_ACTIVATE)
    recorder.wait(lambda status: status.streams and status.streams[0].state == StreamStatus.OK, "joints")
    answer = recorder.start()
    assert answer.error_code == ErrorCode.STREAMS_NOT_READY
    assert "stream 'camera' (image) is waiting: nothing received on image" in answer.error_msg
    robot.has_camera = True
    recorder.wait_until_ready()
    assert recorder.start("").error_code == ErrorCode.NO_TASK
    assert recorder.stop().error_code == ErrorCode.NOT_RECORDING

    assert recorder.start("lift the cube").error_code == ErrorCode.NONE
    assert recorder.start().error_code == ErrorCode.BUSY
    recorder.wait(lambda status: status.frames >= 5, "five rows")
    assert recorder.status.state == RecorderStatus.RECORDING
    assert recorder.status.task == "lift the cube"
    answer = recorder.stop()
    assert (answer.error_code, answer.error_msg, answer.episode_index) == (ErrorCode.NONE, "", 0)
    assert answer.frames >= 5

    assert recorder.start().error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 1, "a row")
    assert recorder.stop(keep=False).error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.state == RecorderStatus.IDLE and status.episodes == 1, "idle again")
    assert recorder.change(Transition.TRANSITION_DEACTIVATE)
    assert recorder.change(Transition.TRANSITION_CLEANUP)

    dataset = EpisodeDataset(tmp_path / "dataset")
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
    assert client.wait_for_server(DEADLINE_S)
    feedback = []

    def send(task, seconds):
        goal = RecordEpisode.Goal(task=task, max_duration=seconds)
        sent = client.send_goal_async(goal, feedback_callback=lambda message: feedback.append(message.feedback))
        eventually(sent.done, "goal accepted")
        return sent.result(), sent.result().get_result_async()

    _, ended = send("push", 1.5)
    eventually(ended.done, "time limit")
    result = ended.result().result
    assert (result.error_code, result.error_msg) == (ErrorCode.NONE, "time limit of 1.5 s")
    assert 1 <= result.frames <= 16  # 1.5 s at 10 Hz from the first image on, which may be late
    eventually(lambda: feedback[-1:] and feedback[-1].frames > 0, "feedback")
    assert [stream.name for stream in feedback[-1].streams] == ["joints", "leader", "camera", "events", "task"]

    goal, ended = send("push", 0.0)
    recorder.wait(lambda status: status.frames >= 1, "a row")
    _, refused = send("push", 1.0)
    eventually(refused.done, "second goal refused")
    assert refused.result().result.error_code == ErrorCode.BUSY
    eventually(goal.cancel_goal_async().done, "cancel accepted")
    eventually(ended.done, "cancelled")
    assert ended.result().result.error_code == ErrorCode.CANCELLED
    client.destroy()
    assert len(EpisodeDataset(tmp_path / "dataset").episodes) == 1


def test_full_disk_ends_the_episode_and_the_node_lives_on(launch, tmp_path):
    _, recorder, node = launch(NodeProcess, autostart=True)
    recorder.wait_until_ready()
    assert recorder.start("first").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    assert recorder.stop().error_code == ErrorCode.NONE
    assert recorder.start("second").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 1, "rows")
    pid = recorder.process.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, GENEROUS))  # the system's own "file too large"
    recorder.wait(lambda status: status.state == RecorderStatus.FAILED, "failed")
    assert "could not be written" in recorder.status.reason
    assert "Finished episodes are unharmed" in recorder.status.reason
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (GENEROUS, GENEROUS))
    assert recorder.start("third").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    assert recorder.stop().error_code == ErrorCode.NONE
    dataset = EpisodeDataset(tmp_path / "dataset")
    assert [dataset.task(index, 0) for index in range(len(dataset.episodes))] == ["first", "third"]

    assert recorder.change(Transition.TRANSITION_DEACTIVATE)
    assert recorder.change(Transition.TRANSITION_CLEANUP)
    value = Parameter("min_free_disk_gb", value=9999.0).to_parameter_msg()
    call(node, SetParameters, "/recorder/set_parameters", SetParameters.Request(parameters=[value]))
    assert recorder.change(Transition.TRANSITION_CONFIGURE)
    assert recorder.change(Transition.TRANSITION_ACTIVATE)
    recorder.wait_until_ready()
    answer = recorder.start("fourth")
    assert answer.error_code == ErrorCode.DISK_FULL
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
    dataset = EpisodeDataset(tmp_path / "dataset")
    assert [dataset.task(index, 0) for index in (0, 1)] == ["from the marker", "from the parameter"]
    assert dataset.episodes[1].length >= 3


@pytest.mark.parametrize("is_killed_by_signal", [True, False])
def test_episode_that_ends_with_the_node_says_so(launch, tmp_path, is_killed_by_signal):
    _, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    recorder.start()
    recorder.wait(lambda status: status.frames >= 3, "rows")
    if is_killed_by_signal:
        recorder.process.process.terminate()
        assert recorder.process.wait() == 0, recorder.process.output
    else:
        assert recorder.change(Transition.TRANSITION_DEACTIVATE)
    quality = json.loads((tmp_path / "dataset/meta/quality/episode_000000.json").read_text())
    expected = "the recorder's process was ended" if is_killed_by_signal else "the recorder was deactivated"
    assert quality["report"]["ended_early"] == expected


@pytest.mark.parametrize("ended_by", ["joints", "leader"])
def test_dead_stream_is_named_at_the_start(launch, ended_by):
    robot, recorder, _ = launch(autostart=True)
    setattr(robot, f"has_{ended_by}", False)
    recorder.wait(lambda status: status.streams and status.streams[2].state == StreamStatus.OK, "camera")
    answer = recorder.start()
    topic = "joint_states" if ended_by == "joints" else "leader"
    if "waiting" in answer.error_msg:  # the first message may have come before it died
        assert f"stream '{ended_by}' ({topic}) is waiting: nothing received on {topic}" in answer.error_msg
    assert answer.error_code == ErrorCode.STREAMS_NOT_READY

    setattr(robot, f"has_{ended_by}", True)
    recorder.wait_until_ready()
    setattr(robot, f"has_{ended_by}", False)  # and dies again
    number = ("joints", "leader").index(ended_by)
    recorder.wait(lambda status: status.streams[number].state == StreamStatus.STALE, "stale")
    answer = recorder.start()
    assert answer.error_code == ErrorCode.STREAMS_NOT_READY
    assert f"stream '{ended_by}' ({topic}) is stale" in answer.error_msg


def test_lost_camera_ends_the_episode_with_its_name(launch, tmp_path):
    robot, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    assert recorder.start().error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    robot.has_camera = False
    recorder.wait(lambda status: status.episodes == 1, "ended and saved")
    assert "video.front: the closest sample on image" in recorder.status.reason
    quality = json.loads(next((tmp_path / "dataset").rglob("quality/*.json")).read_text())
    assert "video.front" in json.dumps(quality)


def test_parameter_that_could_not_act_is_refused(launch):
    _, recorder, node = launch(task="first")

    def change(name, value):
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = call(node, SetParameters, "/recorder/set_parameters", request).results
        return result

    assert change("task", "second").successful
    wrong = change("bag", "everything")
    assert not wrong.successful
    assert "parameter 'bag': 'everything' is not one of off, configured, all" in wrong.reason
    assert recorder.change(Transition.TRANSITION_CONFIGURE)
    for _ in range(2):  # inactive, then active
        refused = change("task", "third")
        assert not refused.successful
        assert "parameter 'task' takes effect at the next configure" in refused.reason
        recorder.change(Transition.TRANSITION_ACTIVATE)
    assert change("task", "second").successful  # as it is
    recorder.wait(lambda status: status.task == "second", "the task that was set in time")
    assert recorder.change(Transition.TRANSITION_DEACTIVATE)
    assert recorder.change(Transition.TRANSITION_CLEANUP)
    assert change("task", "third").successful


def test_ready_recorder_says_what_is_recorded_where_and_how_to_start(launch, tmp_path):
    robot, recorder, _ = launch(autostart=True)
    robot.has_leader = robot.has_camera = False
    said, waits = "active, but no episode can start yet: ", "stream 'leader' (leader) is waiting"
    eventually(
        lambda: any(said in line and waits in line for line in recorder.process.output.splitlines()),
        lambda: recorder.process.output,
    )
    robot.has_leader = robot.has_camera = True
    eventually(lambda: "]: ready: " in recorder.process.output, lambda: recorder.process.output)
    line = next(line for line in recorder.process.output.splitlines() if "]: ready: " in line)
    for expected in (
        f"dataset {tmp_path / 'dataset'} (0 episodes)",
        "joints (/joint_states), leader (/leader), camera (/image)",
        "service /recorder/start_episode",
        "gr00t_record --node /recorder",
        "a marker on /events",
    ):
        assert expected in line


@pytest.mark.parametrize("is_replaced", [False, True])
def test_dataset_folder_that_vanishes_is_named_and_nothing_is_lost(launch, tmp_path, is_replaced):
    _, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    recorder.record("first")
    assert recorder.start("second").error_code == ErrorCode.NONE
    recorder.wait(lambda status: status.frames >= 3, "rows")
    dataset, elsewhere = tmp_path / "dataset", tmp_path / "elsewhere"
    dataset.rename(elsewhere)
    if is_replaced:
        dataset.mkdir()
    recorder.wait(lambda status: status.state == RecorderStatus.FAILED, "failed")
    assert "the dataset folder was moved, deleted or unmounted" in recorder.status.reason
    answer = recorder.start("third")
    assert answer.error_code == ErrorCode.WRITE_FAILED
    assert "the dataset folder was moved, deleted or unmounted" in answer.error_msg
    assert recorder.call(DiscardLastEpisode, "discard_last_episode").error_code != ErrorCode.NONE
    assert [str(path) for path in dataset.rglob("*")] == []  # also when nothing took its place

    if is_replaced:
        dataset.rmdir()
    elsewhere.rename(dataset)
    recorder.wait(lambda status: status.streams and "third" not in status.task, "a status since then")
    recorder.record("third")
    recorder.process.interrupt()
    assert recorder.process.wait() == 0
    assert "Traceback" not in recorder.process.output
    found = EpisodeDataset(dataset)
    assert [found.task(episode.index, 0) for episode in found.episodes] == ["first", "third"]


def test_second_publisher_of_the_same_joints_is_named_in_status_and_quality(launch, tmp_path):
    _, recorder, node = launch(autostart=True)
    recorder.wait_until_ready()
    second = Node("joint_state_publisher", context=node.context)
    zeros = second.create_publisher(JointState, "/joint_states", 10)

    def publish():
        message = JointState(name=["b", "a"], position=[-5.0, -5.0])
        message.header.stamp = second.get_clock().now().to_msg()
        zeros.publish(message)

    timer = node.create_timer(0.05, publish)
    node.executor.add_node(second)

    def is_reported(status):
        return all(text in status.warning for text in ("'joints'", "(a, b)", "/robot", "/joint_state_publisher"))

    recorder.wait(is_reported, "both publishers by name, before an episode")
    assert recorder.record(rows=5).error_code == ErrorCode.NONE
    assert is_reported(recorder.status)
    node.destroy_timer(timer)
    report = json.loads((tmp_path / "dataset/meta/quality/episode_000000.json").read_text())["report"]
    assert report["streams"]["joints"]["conflicts"] > 0
    assert "/joint_state_publisher, /robot" in report["streams"]["joints"]["conflict"]
    assert any("/joint_state_publisher" in warning["reason"] for warning in report["warnings"])
    assert report["streams"]["leader"]["conflicts"] == 0
    recorder.wait(lambda status: not status.warning, "one publisher again")
    second.destroy_node()


def test_clock_that_does_not_advance_is_named_and_no_episode_starts(launch):
    _, recorder, _ = launch(autostart=True, use_sim_time=True)
    recorder.wait(lambda status: "the clock does not advance" in status.warning, "warning")
    answer = recorder.start()
    assert answer.error_code == ErrorCode.CLOCK_STOPPED
    assert "nothing publishes /clock" in answer.error_msg


def test_transition_that_is_not_possible_is_refused_and_the_recorder_lives(launch):
    _, recorder, _ = launch(autostart=True)
    recorder.wait_until_ready()
    for transition in (Transition.TRANSITION_CONFIGURE, 200, Transition.TRANSITION_ACTIVATE):
        assert not recorder.change(transition)
    assert recorder.record().error_code == ErrorCode.NONE


def test_help_of_the_recorder_names_its_parameters(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: recorder_node")
    assert all(f"  {field.name} (" in shown for field in dataclasses.fields(RecorderSettings))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"task": "x" * 1001}, "parameter 'task' has 1001 characters (limit 1000)"),
        ({"topic_file": "x"}, "unknown parameter 'topic_file' (did you mean 'topics_file'?)"),
        ({"topics_file": "/nowhere/topics.yaml"}, "/nowhere/topics.yaml: cannot be read"),
        ({"max_lag_s": 99.0}, "parameter 'max_lag_s'"),
        ({"video_codec": "vp9"}, "parameter 'video_codec': 'vp9' is not one of h264"),
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
            ([Parameter("path", value="s3://robots/fold")], "parameter 'path': s3://robots/fold: is in object storage"),
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
