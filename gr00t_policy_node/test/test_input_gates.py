# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Inputs that cannot be used hold the robot at the next control tick, with the reason; never are they filled in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from gr00t_policy_node.control.controller import Controller
from gr00t_policy_node.control.state import ControlState, HoldCause
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_recorder.topics.bindings import StreamConfig, TopicMap, VectorBinding, VideoBinding
from gr00t_recorder.topics.codecs import COMPRESSED_IMAGE_TYPE, IMAGE_TYPE
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.streams import StreamState
from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ObservationError
from gr00t_training.transforms.observation import observation_from_frames
from gr00t_training.types import ActionChunk, Observation

MS = 1_000_000
PERIOD_MS = 20
JOINTS: tuple[str, ...] = ("j0", "j1", "j2", "grip")
SIZE = (32, 48)  # height, width
ROBOT = make_embodiment(fps=10, size=SIZE)
LIMITS = {name: JointLimit(min=-2.0, max=2.0, max_velocity=1.0) for name in JOINTS}


def topic_map(image_type: str = IMAGE_TYPE, **changes: Any) -> TopicMap:
    values: dict[str, Any] = {
        "embodiment": "test_arm",
        "streams": {
            "joints": StreamConfig(topic="joint_states", type="sensor_msgs/msg/JointState", max_age_s=0.5),
            "front": StreamConfig(topic="front/image_raw", type=image_type, max_age_s=0.5),
        },
        "state": {"arm": VectorBinding(stream="joints"), "gripper": VectorBinding(stream="joints")},
        "video": {"front": VideoBinding(stream="front")},
        "max_skew_s": 0.25,
    }
    return TopicMap(**{**values, **changes})


def header(stamp_ns: int) -> SimpleNamespace:
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="")


def joints(stamp_ns: int, values: Any = (0.1, 0.2, 0.3, 0.05), names: Any = JOINTS) -> SimpleNamespace:
    return SimpleNamespace(header=header(stamp_ns), name=list(names), position=list(values))


def image(stamp_ns: int, size: tuple[int, int] = SIZE, **changes: Any) -> SimpleNamespace:
    height, width = size
    values = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
    values["data"] = bytes(height * width * 3)
    return SimpleNamespace(header=header(stamp_ns), **{**values, **changes})


def compressed(stamp_ns: int, size: tuple[int, int] = SIZE, form: str = "jpeg") -> SimpleNamespace:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    data = cv2.imencode(f".{form}", pixels)[1].tobytes()
    return SimpleNamespace(header=header(stamp_ns), format=form, data=data)


class Robot:
    """Inputs and controller on a clock of milliseconds: joints and ticks at 50 Hz, a camera at 20 Hz."""

    def __init__(self, topics: TopicMap | None = None, embodiment: Embodiment = ROBOT) -> None:
        self.topics = topics or topic_map()
        self.assembler = FrameAssembler(self.topics, embodiment, with_history=True, validate_on_arrival=True)
        self.controller = Controller(embodiment, LIMITS, PERIOD_MS / 1000)
        self.controller.start("lift the cube")
        self.now_ms = 1000
        self.sends: dict[str, Callable[[int], Any] | None] = {
            "joints": joints,
            "front": compressed if self.topics.streams["front"].type == COMPRESSED_IMAGE_TYPE else image,
        }

    @property
    def now_ns(self) -> int:
        return self.now_ms * MS

    def receive(self, stream: str, message: Any) -> None:
        self.assembler.store.add(stream, message, self.now_ns)

    def fault(self) -> str:
        return self.assembler.health.fault(self.now_ns)

    def run(self, duration_ms: int) -> None:
        """Let time pass; inputs come as they are sent, and a policy answers every good observation at once."""
        for _ in range(duration_ms // PERIOD_MS):
            self.now_ms += PERIOD_MS
            for stream, period_ms in (("joints", PERIOD_MS), ("front", 60)):
                send = self.sends[stream]
                if send and self.now_ms % period_ms == 0:
                    self.receive(stream, send(self.now_ns))
            self.observe()
            self.tick()

    def observe(self) -> Observation | None:
        """Do what the node does for a policy query; None if there is none."""
        tick_ns = self.assembler.picker.latest_tick()
        if self.fault() or tick_ns is None:
            return None
        try:
            frames = self.assembler.picker.observed_frames(tick_ns)
        except ObservationError:  # the image is older than what came back: the next one will do
            return None
        if self.fault():
            return None
        rows = {"arm": np.full((16, 3), 0.5), "gripper": np.full((16, 1), 0.05)}
        self.controller.offer(ActionChunk(rows, tick_ns, ROBOT.step_ns), "lift the cube", self.now_ns)
        return observation_from_frames(frames, ROBOT, "lift the cube")

    def tick(self) -> np.ndarray | None:
        pose = self.assembler.picker.measured_state(self.now_ns)
        return self.controller.tick(self.now_ns, self.fault(), lambda: np.concatenate([pose["arm"], pose["gripper"]]))

    def commands(self, count: int) -> list[np.ndarray | None]:
        """Return what is commanded at the next ticks, without new inputs."""
        found = []
        for _ in range(count):
            self.now_ms += PERIOD_MS
            found.append(self.tick())
        return found

    @property
    def state(self) -> ControlState:
        return self.controller.report().state


@pytest.fixture
def robot() -> Robot:
    return running(Robot())


def running(robot: Robot) -> Robot:
    robot.run(1000)
    assert robot.state is ControlState.RUNNING
    return robot


def assert_holds(robot: Robot, reason: str) -> None:
    """Hold the next control tick against what a fault must lead to."""
    robot.now_ms += PERIOD_MS
    assert robot.observe() is None
    robot.tick()
    report = robot.controller.report()
    assert report.state is ControlState.HOLDING
    assert reason in report.reason
    assert report.holds[HoldCause.INPUT] == 1


def assert_recovers(robot: Robot) -> None:
    robot.sends["joints"] = robot.sends["joints"] or joints
    robot.run(600)
    assert robot.state is ControlState.RUNNING
    assert robot.controller.report().holds[HoldCause.INPUT] == 1


def test_nothing_is_asked_before_every_input_is_there() -> None:
    robot = Robot()
    assert robot.fault() == "stream 'joints' (joint_states) is waiting: nothing received on joint_states"
    robot.receive("joints", joints(robot.now_ns, (1, 2), ("j0", "grip")))
    assert robot.fault().startswith("stream 'joints' (joint_states) is invalid: state.arm: j1, j2 never came")
    robot.receive("joints", joints(robot.now_ns + MS))
    assert robot.fault() == "stream 'front' (front/image_raw) is waiting: nothing received on front/image_raw"
    robot.receive("front", image(robot.now_ns))
    assert robot.fault() == ""
    assert robot.tick() is None  # no chunk yet: nothing is commanded


@pytest.mark.parametrize(
    ("stream", "spoil", "reason"),
    [
        ("front", lambda t: image(t, (64, 48)), "video.front: image is 48x64, the embodiment expects 48x32"),
        ("front", lambda t: image(t, encoding="nv21"), "'nv21'"),
        ("front", lambda t: image(t, encoding="16UC1", step=96), "video.front: "),
        ("front", lambda t: image(t, step=96), "has step 96, expected at least 144"),
        ("front", lambda t: image(t, data=bytes(10)), "image data has 10 bytes, expected 4608"),
        ("joints", lambda t: joints(t, (0.1, math.nan, 0.3, 0.05)), "state.arm: position of 'j1' is not finite"),
        ("joints", lambda t: joints(t, (0.1, math.inf, 0.3, 0.05)), "state.arm: position of 'j1' is not finite"),
        ("joints", lambda t: joints(t, (0.1, 0.2, 0.3, math.nan)), "state.gripper: position of 'grip' is not finite"),
        ("joints", lambda t: joints(t, (0.1, 0.2)), "state.arm: position has 2 values for 4 names"),
        ("joints", lambda t: joints(t, ()), "state.arm: position has 0 values for 4 names"),
        ("joints", lambda t: joints(t, (1, 1, 1, 0.05, 1), (*JOINTS, "j1")), "duplicate name 'j1'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_message_in_flight_holds_at_the_next_tick(robot: Robot, stream: str, spoil, reason: str) -> None:
    good = robot.sends[stream]
    measured = robot.assembler.picker.measured_state(robot.now_ns)
    robot.receive(stream, spoil(robot.now_ns + MS))
    assert "is invalid" in robot.fault()
    found = robot.assembler.picker.measured_state(robot.now_ns)
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in measured.items()}
    assert_holds(robot, reason)
    # it stays so while nothing better comes, and the old sample is not too old yet
    robot.sends[stream] = None
    robot.run(100)
    assert robot.state is ControlState.HOLDING
    assert reason in robot.controller.report().reason
    robot.sends[stream] = good
    assert_recovers(robot)


def test_bytes_that_are_no_message_hold_at_the_next_tick(robot: Robot) -> None:
    robot.assembler.store.count_invalid("joints", "cannot be deserialized: 3 bytes", robot.now_ns)
    assert_holds(robot, "state.arm: cannot be deserialized")
    assert_recovers(robot)


def test_streams_are_reported_as_the_gate_sees_them(robot: Robot) -> None:
    robot.now_ms += 10
    robot.receive("joints", joints(robot.now_ns, (0.1, math.nan, 0.3, 0.05)))
    plain = {report.name: report.state for report in robot.assembler.health.reports(robot.now_ns)}
    assert plain == {"joints": StreamState.OK, "front": StreamState.OK}  # what a recording may still use
    found = {
        report.name: (report.state, report.reason) for report in robot.assembler.health.observed_reports(robot.now_ns)
    }
    assert found["front"] == (StreamState.OK, "")
    assert found["joints"] == (StreamState.INVALID, "state.arm: position of 'j1' is not finite")


@pytest.mark.parametrize("stream", ["joints", "front"])
def test_a_stream_that_stops_holds_once_it_is_too_old(stream: str) -> None:
    robot = running(Robot(topic_map(max_skew_s=0.0)))
    robot.sends[stream] = None
    last_ms = max(t for t in range(robot.now_ms - 60, robot.now_ms + 1) if t % (20 if stream == "joints" else 60) == 0)
    robot.run(500 - (robot.now_ms - last_ms))
    assert robot.state is ControlState.RUNNING
    assert_holds(robot, "newest sample is 0.52 s old (limit 0.5 s")
    assert robot.controller.report().reason.startswith(f"stream '{stream}' ")
    robot.sends["front"] = image
    assert_recovers(robot)


def test_names_that_nobody_knows_hold_once_the_last_known_are_too_old(robot: Robot) -> None:
    robot.sends["joints"] = lambda t: joints(t, (1, 2, 3, 4), "abcd")
    robot.run(600)
    assert robot.state is ControlState.HOLDING
    assert "newest sample is" in robot.controller.report().reason
    assert "messages arrive, but carry a, b, c, d" in robot.controller.report().reason
    robot.sends["joints"] = joints
    robot.run(300)
    assert robot.state is ControlState.RUNNING


def test_a_joint_that_is_no_longer_sent_is_named() -> None:
    robot = running(Robot(topic_map(max_skew_s=0.0)))
    robot.sends["joints"] = lambda t: joints(t, (0.1, 0.3, 0.05), ("j0", "j2", "grip"))
    robot.run(500)
    assert robot.state is ControlState.RUNNING
    assert_holds(robot, "state.arm (j1): newest sample is 0.52 s old (limit 0.5 s")
    robot.sends["joints"] = joints
    assert_recovers(robot)


def test_a_joint_that_lags_behind_the_others_is_named_sooner(robot: Robot) -> None:
    robot.sends["joints"] = lambda t: joints(t, (0.1, 0.3, 0.05), ("j0", "j2", "grip"))
    robot.run(240)
    assert robot.state is ControlState.RUNNING
    robot.run(20)
    assert robot.state is ControlState.HOLDING
    assert "state.arm (j1) is 0.26 s behind state.arm (limit 0.25 s" in robot.controller.report().reason


def parts(robot: Robot) -> None:
    """Send the joints as two publishers do that share a topic."""
    robot.receive("joints", joints(robot.now_ns, (0.1, 0.3), ("j0", "j2")))
    robot.receive("joints", joints(robot.now_ns + MS, (0.2, 0.05), ("j1", "grip")))
    robot.receive("front", image(robot.now_ns))


def test_one_of_two_publishers_that_dies_is_noticed_although_the_topic_goes_on() -> None:
    robot = Robot(topic_map(max_skew_s=0.0))
    for _ in range(5):
        robot.now_ms += 20
        parts(robot)
    assert robot.fault() == ""
    for _ in range(26):
        assert robot.fault() == ""
        robot.now_ms += 20
        robot.receive("joints", joints(robot.now_ns, (0.1, 0.3), ("j0", "j2")))
        robot.receive("front", image(robot.now_ns))
    assert robot.fault() == (
        "stream 'joints' (joint_states) is stale: state.arm (j1): newest sample is 0.52 s old (limit 0.5 s)"
    )
    (joint_report, _) = robot.assembler.health.observed_reports(robot.now_ns)
    assert joint_report.state is StreamState.STALE
    parts(robot)
    assert robot.fault() == ""


def test_the_fault_of_one_publisher_is_not_cleared_by_another() -> None:
    robot = Robot()
    parts(robot)
    robot.now_ms += 20
    robot.receive("joints", joints(robot.now_ns, (math.nan, 0.05), ("j1", "grip")))
    assert "position of 'j1' is not finite" in robot.fault()
    robot.receive("joints", joints(robot.now_ns + MS, (0.1, 0.3), ("j0", "j2")))
    assert "position of 'j1' is not finite" in robot.fault()
    robot.receive("joints", joints(robot.now_ns + 2 * MS, (0.2, 0.05), ("j1", "grip")))
    assert robot.fault() == ""
    # which channels a message was about that cannot even be read is not known: all have to come again
    robot.receive("joints", joints(robot.now_ns + 3 * MS, (0.2,), ("j1", "grip")))
    robot.receive("joints", joints(robot.now_ns + 4 * MS, (0.2, 0.05), ("j1", "grip")))
    assert "position has 1 values for 2 names" in robot.fault()
    robot.receive("joints", joints(robot.now_ns + 5 * MS, (0.1, 0.3), ("j0", "j2")))
    assert robot.fault() == ""


def test_a_late_message_of_an_old_stamp_clears_no_fault(robot: Robot) -> None:
    stamp_ns = robot.now_ns
    robot.now_ms += 10
    robot.receive("joints", joints(robot.now_ns, (0.1, math.nan, 0.3, 0.05)))
    robot.receive("joints", joints(stamp_ns))  # the same stamp as before: dropped
    assert "not finite" in robot.fault()


def test_skew_names_both_streams_the_distance_and_the_setting(robot: Robot) -> None:
    robot.sends["front"] = lambda t: image(t - 310 * MS)  # a camera with a late clock; not too old
    robot.run(300)
    reason = robot.controller.report().reason
    assert robot.state is ControlState.HOLDING
    assert "s behind state.arm (limit 0.25 s between two inputs" in reason
    assert reason.startswith("video.front is 0.")
    assert "clocks and delays of front/image_raw and joint_states, or 'max_skew_s'" in reason
    robot.sends["front"] = image
    assert_recovers(robot)


@pytest.mark.parametrize(("allowed_s", "is_refused"), [(0.0, False), (0.25, True), (0.31, False)])
def test_skew_is_allowed_up_to_the_setting_and_zero_is_any(allowed_s: float, is_refused: bool) -> None:
    robot = Robot(topic_map(max_skew_s=allowed_s))
    robot.receive("front", image(robot.now_ns - 310 * MS))
    robot.receive("joints", joints(robot.now_ns))
    assert bool(robot.fault()) is is_refused
    if is_refused:
        assert robot.fault().startswith("video.front is 0.31 s behind state.arm (limit 0.25 s")


@pytest.mark.parametrize("stream", ["joints", "front"])
def test_a_stamp_ahead_of_the_clock_is_refused_by_name(robot: Robot, stream: str) -> None:
    send: Callable[..., Any] = joints if stream == "joints" else image
    robot.sends[stream] = lambda t: send(t + 80 * MS)  # clocks of two computers may differ by that
    robot.run(300)
    assert robot.state is ControlState.RUNNING
    robot.sends[stream] = lambda t: send(t + 240 * MS)
    robot.run(60)
    key = "state.arm" if stream == "joints" else "video.front"
    assert robot.state is ControlState.HOLDING
    assert f"{key}: newest stamp is 0.2" in robot.controller.report().reason
    assert "ahead of this node's clock (limit 0.2 s)" in robot.controller.report().reason
    robot.sends[stream] = send
    assert_recovers(robot)


@pytest.mark.parametrize("stream", ["joints", "front"])
@pytest.mark.parametrize("jump_s", [-30, -5, 5, 30])
def test_a_clock_that_jumps_and_comes_back_holds_at_once_and_recovers(robot: Robot, stream: str, jump_s: int) -> None:
    send: Callable[..., Any] = joints if stream == "joints" else image
    robot.now_ms = 60_000
    robot.run(600)
    assert robot.state is ControlState.RUNNING
    robot.sends[stream] = lambda t: send(t + jump_s * 10**9)
    robot.run(60)  # one image
    reason = robot.controller.report().reason
    assert robot.state is ControlState.HOLDING
    assert reason.startswith(f"stream '{stream}' ")
    assert ("ahead of this node's clock" if jump_s > 0 else "s old (limit 0.5 s") in reason
    robot.run(300)
    assert robot.state is ControlState.HOLDING
    robot.sends[stream] = send
    robot.run(600)
    assert robot.state is ControlState.RUNNING


def test_a_key_that_may_be_missing_is_not_used_when_it_is_stale() -> None:
    state = {"arm": VectorBinding(stream="joints"), "gripper": VectorBinding(stream="grip", required=False)}
    grip = StreamConfig(topic="grip", type="sensor_msgs/msg/JointState", max_age_s=0.1)
    robot = Robot(topic_map(streams={**topic_map().streams, "grip": grip}, state=state))
    robot.receive("joints", joints(robot.now_ns))
    robot.receive("front", image(robot.now_ns))
    assert robot.fault() == "stream 'grip' (grip) is waiting: nothing received on grip"  # the model uses it
    robot.receive("grip", joints(robot.now_ns))
    assert robot.fault() == ""
    robot.now_ms += 120
    assert robot.fault().startswith("stream 'grip' (grip) is stale: state.gripper: newest sample is 0.12 s old")


# Compressed images, which only decoding can judge.


def test_a_compressed_image_of_another_size_holds_before_it_is_decoded() -> None:
    robot = running(Robot(topic_map(COMPRESSED_IMAGE_TYPE)))
    robot.receive("front", compressed(robot.now_ns + MS, (64, 48)))
    assert_holds(robot, "video.front: image is 48x64, the embodiment expects 48x32")
    robot.sends["front"] = lambda t: compressed(t, (64, 48))
    robot.run(120)
    assert robot.state is ControlState.HOLDING
    robot.sends["front"] = lambda t: compressed(t, form="png")  # another format is none of the policy's business
    assert_recovers(robot)


def test_a_compressed_image_of_another_size_is_taken_where_it_is_resized() -> None:
    video = {"front": VideoBinding(stream="front", resize=True)}
    robot = running(Robot(topic_map(COMPRESSED_IMAGE_TYPE, video=video)))
    robot.sends["front"] = lambda t: compressed(t, (64, 96))
    robot.run(300)
    assert robot.state is ControlState.RUNNING
    assert not robot.controller.report().holds.get(HoldCause.INPUT)


def damaged(stamp_ns: int) -> SimpleNamespace:
    """Return a PNG with valid ends and damaged pixels."""
    message = compressed(stamp_ns, form="png")
    message.data = message.data[:60] + bytes(len(message.data) - 80) + message.data[-20:]
    return message


def test_a_damaged_image_is_never_replaced_by_an_older_one() -> None:
    robot = running(Robot(topic_map(COMPRESSED_IMAGE_TYPE)))
    chunks = robot.controller.report().chunks
    robot.receive("front", damaged(robot.now_ns + MS))
    assert robot.fault() == ""  # its header is right
    assert robot.observe() is None
    assert robot.controller.report().chunks == chunks
    assert_holds(robot, "video.front: image data of")
    robot.sends["front"] = damaged
    robot.run(300)
    assert robot.state is ControlState.HOLDING
    assert robot.controller.report().holds[HoldCause.INPUT] == 1  # it did not come and go with each of them
    robot.sends["front"] = compressed
    assert_recovers(robot)


def test_a_recording_goes_on_as_before() -> None:
    topics = topic_map(COMPRESSED_IMAGE_TYPE)
    recorder = FrameAssembler(topics, ROBOT)
    for t, send in ((1000, compressed), (1100, damaged), (1200, lambda s: compressed(s, (64, 48)))):
        recorder.store.add("joints", joints(t * MS), t * MS)
        recorder.store.add("front", send(t * MS), t * MS)
    assert recorder.store.last_image("front", 2000 * MS) == 1200 * MS  # judged when a frame needs it
    frame = recorder.picker.frame(1200 * MS, with_action=False)
    assert frame.ages_ns["video.front"] == 200 * MS
    assert next(r.invalid for r in recorder.health.reports(1200 * MS) if r.name == "front") == 2


# Joints go by name.


def shuffled(stamp_ns: int) -> SimpleNamespace:
    named = dict(zip(JOINTS, (0.1, 0.2, 0.3, 0.05), strict=True))
    named.update(wheel=9.0, j10=7.0)
    names = ["wheel", "grip", "j2", "j10", "j0", "j1"]
    return joints(stamp_ns, [named[name] for name in names], names)


def test_shuffled_and_additional_names_give_the_same_observation_and_command(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from gr00t_training.policy.policy import Policy

    policy = Policy.from_checkpoint(make_checkpoint(tmp_path / "checkpoint", ROBOT), ROBOT, device="cpu", seed=3)
    commands, seen = [], []
    for send in (joints, shuffled):
        robot = Robot()
        robot.sends["joints"] = send
        robot.run(600)
        observation = robot.observe()
        assert observation is not None
        seen.append(observation)
        policy.reset()
        robot.controller.start("push")
        assert robot.controller.offer(policy.infer(dataclasses.replace(observation, instruction="push")), "push")
        commands.append(robot.commands(20))
    for key in ("arm", "gripper"):
        np.testing.assert_array_equal(seen[0].state[key], seen[1].state[key])
    np.testing.assert_array_equal(seen[0].state["arm"], [np.array([0.1, 0.2, 0.3], np.float32).astype(np.float64)])
    assert commands[0][0] is not None
    np.testing.assert_array_equal(np.array(commands[0]), np.array(commands[1]))


def test_frames_of_a_lost_joint_are_refused_for_themselves_too() -> None:
    robot = running(Robot())
    robot.sends["joints"] = lambda t: joints(t, (0.1, 0.3, 0.05), ("j0", "j2", "grip"))
    robot.run(600)
    with pytest.raises(ObservationError, match=r"state\.arm: the closest sample"):
        robot.assembler.picker.frame(robot.now_ns, with_action=False)
