# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_recorder.episodes.ticks import END_OF_TIME_NS, EpisodeTicks
from gr00t_recorder.topics.bindings import (
    Align,
    DepthBinding,
    Stamp,
    StreamConfig,
    TopicMap,
    VectorBinding,
    VideoBinding,
)
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.streams import StreamState
from gr00t_test_support.builders import make_embodiment
from gr00t_training.embodiment import DepthKey, Rotation, VectorKey
from gr00t_training.errors import ConfigError, ObservationError

MS = 1_000_000
JOINTS = ("j0", "j1", "j2", "grip")
EMBODIMENT = make_embodiment(fps=10, size=(4, 6))


def topic_map(**changes):
    streams = {
        "joints": StreamConfig(topic="joint_states", type="sensor_msgs/msg/JointState"),
        "camera": StreamConfig(topic="image", type="sensor_msgs/msg/Image"),
        "command": StreamConfig(topic="command", type="std_msgs/msg/Float64MultiArray", stamp=Stamp.RECEIVE),
    }
    action = {
        "arm": VectorBinding(stream="command", align=Align.NEAREST),
        "gripper": VectorBinding(stream="command", start=3, align=Align.NEAREST),
    }
    values = {
        "embodiment": "test_arm",
        "streams": streams,
        "state": {"arm": VectorBinding(stream="joints"), "gripper": VectorBinding(stream="joints")},
        "video": {"front": VideoBinding(stream="camera")},
        "action": action,
    }
    return TopicMap(**{**values, **changes})


def header(stamp_ns, frame_id=""):
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=frame_id)


def joints(stamp_ns, values, names=JOINTS):
    return SimpleNamespace(header=header(stamp_ns), name=list(names), position=list(values))


def image(stamp_ns, level, size=(4, 6)):
    data = bytes([level]) * (size[0] * size[1] * 3)
    return SimpleNamespace(
        header=header(stamp_ns),
        height=size[0],
        width=size[1],
        encoding="rgb8",
        is_bigendian=0,
        step=size[1] * 3,
        data=data,
    )


def command(*values):
    return SimpleNamespace(data=list(values))


def report(assembler, name, now_ns=0):
    return next(report for report in assembler.health.reports(now_ns) if report.name == name)


def fill(assembler, *, until_ms=1000, image_every_ms=100, delay_ms=0):
    """Feed joints (value = time in ms), images (level = number) and commands (value = time) from 1000 ms on."""
    for t in range(0, until_ms + 1, 50):
        stamp = (1000 + t) * MS
        assembler.store.add("joints", joints(stamp, [t, t, t, -t]), stamp + MS)
        if t % image_every_ms == 0:
            assembler.store.add("camera", image(stamp, t // image_every_ms), stamp + delay_ms * MS)
            assembler.store.add("command", command(t, t, t, -t), stamp + 10 * MS)


def test_frame_joins_state_action_and_image_of_the_tick():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler)
    frame = assembler.picker.frame(1320 * MS, with_action=True)
    np.testing.assert_allclose(frame.state["arm"], [320, 320, 320])  # interpolated between 300 and 350
    np.testing.assert_allclose(frame.state["gripper"], [-320])
    np.testing.assert_allclose(frame.action["arm"], [300, 300, 300])  # stamped 1310, nearest
    np.testing.assert_array_equal(frame.images["front"], np.full((4, 6, 3), 3, np.uint8))
    assert frame.ages_ns["video.front"] == 20 * MS
    assert frame.ages_ns["action.arm"] == 10 * MS
    assert not frame.filled
    assert frame.tick_ns == 1320 * MS


def test_observation_has_no_action():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler)
    assert not assembler.picker.frame(1320 * MS, with_action=False).action


def test_partial_publishers_are_joined():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    for t in range(0, 300, 20):
        assembler.store.add("joints", joints(t * MS + 10**9, [t, t], ("j0", "j2")), t * MS)
        assembler.store.add("joints", joints((t + 7) * MS + 10**9, [10 * (t + 7), t], ("j1", "grip")), (t + 7) * MS)
    assembler.store.add("camera", image(10**9, 1), 0)
    frame = assembler.picker.frame(10**9 + 110 * MS, with_action=False)
    np.testing.assert_allclose(frame.state["arm"], [110, 1100, 110])


def test_tick_waits_for_every_partial_publisher():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    first, second = ("j0", "j1", "grip"), ("j2",)
    for stamp_ms, names in ((1000, first), (1200, first), (1000, second)):
        assembler.store.add("joints", joints(stamp_ms * MS, [0] * len(names), names), stamp_ms * MS)
    assembler.store.add("camera", image(1200 * MS, 1), 1200 * MS)
    assert not assembler.picker.is_settled(1100 * MS, with_action=False)
    assembler.store.add("joints", joints(1100 * MS, [0], second), 1200 * MS)
    assert assembler.picker.is_settled(1100 * MS, with_action=False)


def test_missing_joint_is_named_with_those_that_came():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    assembler.store.add("joints", joints(10**9, [1, 2], ("j0", "shoulder")), 10**9)
    assembler.store.add("camera", image(10**9, 1), 10**9)
    with pytest.raises(ObservationError, match=r"state.arm: j1, j2 never came on joint_states.*j0, shoulder"):
        assembler.picker.frame(10**9, with_action=False)
    assert report(assembler, "joints", 10**9).state is StreamState.INVALID
    assert assembler.picker.latest_tick() is None


def test_stale_input_is_refused_and_never_filled_with_zeros():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler, until_ms=100)
    frame = assembler.picker.frame(1400 * MS, with_action=False)  # 0.3 s: beyond 0.75 ticks, within max_age_s
    assert frame.filled == {"state.arm", "state.gripper", "video.front"}
    np.testing.assert_allclose(frame.state["arm"], [100, 100, 100])
    with pytest.raises(ObservationError, match=r"state.arm: the closest sample .* is 0.51 s from the tick .* 0.5 s"):
        assembler.picker.frame(1610 * MS, with_action=False)


def test_value_is_not_interpolated_across_a_message_with_nan():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    for t, value in ((0, 0.0), (20, np.nan), (40, 40.0), (60, 60.0)):
        assembler.store.add("joints", joints((1000 + t) * MS, [value, 0, 0, t]), (1000 + t) * MS)
    assembler.store.add("camera", image(1000 * MS, 1), 1000 * MS)
    frame = assembler.picker.frame(1030 * MS, with_action=False)
    assert frame.state["arm"][0] == 0  # holds what came before the hole
    assert frame.ages_ns["state.arm"] == 30 * MS
    assert frame.state["gripper"][0] == 30  # its own channel had no hole
    assert assembler.picker.frame(1050 * MS, with_action=False).state["arm"][0] == 50
    assert report(assembler, "joints", 1060 * MS).invalid == 1


def test_value_is_not_interpolated_across_a_jump_of_the_clock():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    for stamp_ms in (1000, 1100, 2200, 2300):  # max_age_s is 0.5: a gap of 1.1 s is more than twice that
        assembler.store.add("joints", joints(stamp_ms * MS, [stamp_ms] * 4), stamp_ms * MS)
        assembler.store.add("camera", image(stamp_ms * MS, 1), stamp_ms * MS)
    frame = assembler.picker.frame(1200 * MS, with_action=False)
    assert frame.state["arm"][0] == 1100
    assert "state.arm" in frame.filled
    with pytest.raises(ObservationError, match=r"state.arm: the closest sample .* is 1.00 s from the tick"):
        assembler.picker.frame(2100 * MS, with_action=False)


@pytest.mark.parametrize(
    ("align", "delay_ms", "age_ms", "is_filled"),
    [  # ticks of 100 ms: 75 are allowed to nearest and linear, 125 to hold and causal
        (Align.NEAREST, 0, 74, False),
        (Align.NEAREST, 0, 76, True),
        (Align.LINEAR, 0, 74, False),
        (Align.LINEAR, 0, 76, True),
        (Align.HOLD, 0, 124, False),
        (Align.HOLD, 0, 126, True),
        (Align.CAUSAL, 0, 124, False),
        (Align.CAUSAL, 0, 126, True),
        (Align.CAUSAL, 100, 224, False),  # arrived 124 ms ago
        (Align.CAUSAL, 100, 226, True),
    ],
)
def test_old_samples_are_marked_as_filled_by_the_measure_of_their_alignment(align, delay_ms, age_ms, is_filled):
    state = {"arm": VectorBinding(stream="joints", align=align), "gripper": VectorBinding(stream="joints")}
    assembler = FrameAssembler(topic_map(state=state), EMBODIMENT)
    assembler.store.add("joints", joints(1000 * MS, [1, 2, 3, 4]), (1000 + delay_ms) * MS)
    assembler.store.add("camera", image((1000 + age_ms) * MS, 1), (1000 + age_ms) * MS)
    frame = assembler.picker.frame((1000 + age_ms) * MS, with_action=False)
    assert frame.ages_ns["state.arm"] == age_ms * MS
    assert ("state.arm" in frame.filled) == is_filled


def test_tolerance_of_the_binding_replaces_the_default():
    state = {"arm": VectorBinding(stream="joints", tolerance_s=0.01), "gripper": VectorBinding(stream="joints")}
    assembler = FrameAssembler(topic_map(state=state), EMBODIMENT)
    assembler.store.add("joints", joints(1000 * MS, [1, 2, 3, 4]), 1000 * MS)
    assembler.store.add("camera", image(1011 * MS, 1), 1011 * MS)
    assert assembler.picker.frame(1011 * MS, with_action=False).filled == {"state.arm"}


def test_optional_input_may_be_missing_and_is_left_out():
    action = {
        "arm": VectorBinding(stream="command", required=False),
        "gripper": VectorBinding(stream="command", start=3, required=False),
    }
    assembler = FrameAssembler(topic_map(action=action), EMBODIMENT)
    assembler.store.add("joints", joints(10**9, [1, 2, 3, 4]), 10**9)
    assembler.store.add("camera", image(10**9, 1), 10**9)
    assert not assembler.picker.frame(10**9, with_action=True).action


def test_latest_tick_is_the_newest_stamp_all_cameras_have_reached():
    video = {"front": VideoBinding(stream="camera"), "wrist": VideoBinding(stream="camera2")}
    streams = {
        **topic_map().streams, "camera2": StreamConfig(topic="image2", type="sensor_msgs/msg/Image")
    }  # fmt: skip
    embodiment = make_embodiment(size=(4, 6))
    object.__setattr__(embodiment, "video", {**embodiment.video, "wrist": embodiment.video["front"]})
    assembler = FrameAssembler(topic_map(video=video, streams=streams), embodiment)
    fill(assembler)
    assert assembler.picker.latest_tick() is None
    assembler.store.add("camera2", image(1930 * MS, 5), 1990 * MS)
    assert assembler.picker.latest_tick() == 1930 * MS
    assembler.store.add("camera2", image(2100 * MS, 6), 2150 * MS)
    assert assembler.picker.latest_tick() == 2000 * MS


def test_tick_is_settled_once_every_stream_has_passed_it():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler, until_ms=200)
    assert assembler.picker.is_settled(1200 * MS)
    assert not assembler.picker.is_settled(1205 * MS)
    assembler.store.add("joints", joints(1210 * MS, [0, 0, 0, 0]), 1211 * MS)
    assembler.store.add("camera", image(1210 * MS, 1), 1230 * MS)
    assert assembler.picker.is_settled(1205 * MS)
    assert not assembler.picker.is_settled(1211 * MS)


def test_counts_tell_invalid_duplicate_late_and_used_apart():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler, until_ms=200)  # 5 joint messages
    assembler.store.add("joints", joints(1200 * MS, [9, 9, 9, 9]), 1210 * MS)  # repeats a stamp
    assembler.store.add("joints", joints(1205 * MS, [0, float("nan"), 0, 0]), 1215 * MS)
    assembler.picker.frame(1200 * MS, with_action=True)
    assembler.store.add("joints", joints(1110 * MS, [0, 0, 0, 0]), 1220 * MS)  # its tick has been made
    assembler.store.count_dropped("joints", 3)
    found = report(assembler, "joints", 1220 * MS)
    assert (found.received, found.used, found.late, found.dropped, found.invalid) == (8, 1, 1, 4, 1)
    assert found.state is StreamState.OK


def test_invalid_stream_says_why():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    assembler.store.add("camera", image(10**9, 1, size=(8, 6)), 10**9)
    found = report(assembler, "camera", 10**9)
    assert found.state is StreamState.INVALID
    assert found.reason.startswith("video.front: image is 6x8, the embodiment expects 6x4")
    assert any("6x8" in reason for reason in assembler.health.unready(10**9))


def test_states_of_a_stream_over_time():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    assert report(assembler, "joints", 10**9).state is StreamState.WAITING
    for t in range(0, 1000, 10):
        assembler.store.add("joints", joints(10**9 + t * MS, [0, 0, 0, 0]), 10**9 + t * MS)
    found = report(assembler, "joints", 2 * 10**9)
    assert (found.state, found.age_s) == (StreamState.OK, 0.01)
    assert found.rate_hz == pytest.approx(100.0)
    found = report(assembler, "joints", 5 * 10**9)
    assert (found.state, found.rate_hz) == (StreamState.STALE, 0.0)
    assert report(assembler, "joints", 10**9).reason.startswith("newest stamp is 0.99 s ahead")


def test_zero_stamp_falls_back_to_the_receive_time_and_is_counted():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    assembler.store.add("joints", joints(0, [1, 2, 3, 4]), 5 * 10**9)
    assembler.store.add("camera", image(5 * 10**9, 1), 5 * 10**9)
    assert assembler.picker.frame(5 * 10**9, with_action=False).ages_ns["state.arm"] == 0
    assert report(assembler, "joints").zero_stamps == 1


def test_clock_set_back_clears_the_stream_and_small_disorder_does_not():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    assembler.store.add("joints", joints(10 * 10**9, [1, 1, 1, 1]), 10 * 10**9)
    assembler.store.add("joints", joints(10 * 10**9 - 900 * MS, [0, 0, 0, 0]), 10 * 10**9 + 1)
    assert report(assembler, "joints").clock_resets == 0
    assembler.store.add("joints", joints(2 * 10**9, [7, 7, 7, 7]), 2 * 10**9)
    assembler.store.add("camera", image(2 * 10**9, 1), 2 * 10**9)
    assert report(assembler, "joints").clock_resets == 1
    np.testing.assert_allclose(assembler.picker.frame(2 * 10**9 + MS, with_action=False).state["arm"], [7, 7, 7])


def test_damaged_image_is_replaced_by_its_neighbor_and_counted():
    streams = {
        **topic_map().streams, "camera": StreamConfig(topic="image", type="sensor_msgs/msg/CompressedImage")
    }  # fmt: skip
    cv2 = pytest.importorskip("cv2")
    assembler = FrameAssembler(topic_map(streams=streams), EMBODIMENT)
    fill_without_camera = [(t, joints((1000 + t) * MS, [t, t, t, t])) for t in range(0, 300, 50)]
    for t, message in fill_without_camera:
        assembler.store.add("joints", message, (1000 + t) * MS)
    png = cv2.imencode(".png", np.full((4, 6, 3), 40, np.uint8))[1].tobytes()
    for t, content in ((0, png), (100, png[:40])):
        message = SimpleNamespace(header=header((1000 + t) * MS), format="png", data=content)
        assembler.store.add("camera", message, (1000 + t) * MS)
    frame = assembler.picker.frame(1100 * MS, with_action=False)
    assert frame.images["front"][0, 0, 0] == 40
    assert frame.filled == {"video.front"}
    assert report(assembler, "camera").invalid == 1


def test_frames_of_a_transform_that_never_come_are_named():
    streams = {**topic_map().streams, "tf": StreamConfig(topic="/tf", type="tf2_msgs/msg/TFMessage")}
    state = {"arm": VectorBinding(stream="tf", frames=("base", "tool")), "gripper": VectorBinding(stream="joints")}
    assembler = FrameAssembler(topic_map(streams=streams, state=state), EMBODIMENT)

    def transform(parent, child, stamp_ns, x):
        position, turn = SimpleNamespace(x=x, y=0.0, z=0.0), SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
        link = SimpleNamespace(translation=position, rotation=turn)
        return SimpleNamespace(header=header(stamp_ns, parent), child_frame_id=child, transform=link)

    other = SimpleNamespace(transforms=[transform("map", "base", 9 * 10**9, 0.0)])
    assembler.store.add("tf", other, 10**9)
    found = report(assembler, "tf", 10**9)
    assert found.state is StreamState.INVALID
    assert found.reason == "state.arm: no transform base -> tool on /tf, which carries map -> base"
    for t in (0, 100):
        tool = SimpleNamespace(transforms=[transform("base", "tool", 10**9 + t * MS, float(t))])
        assembler.store.add("tf", tool, 10**9 + t * MS)
        assembler.store.add("tf", other, 10**9 + t * MS)  # on a separate clock: no reset
        assembler.store.add("joints", joints(10**9 + t * MS, [0, 0, 0, t]), 10**9 + t * MS)
        assembler.store.add("camera", image(10**9 + t * MS, 1), 10**9 + t * MS)
    np.testing.assert_allclose(assembler.picker.frame(10**9 + 50 * MS, with_action=False).state["arm"], [50, 0, 0])
    assert report(assembler, "tf", 10**9 + 100 * MS).clock_resets == 0


def test_stream_whose_messages_name_nothing_known_says_what_they_carry():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    assembler.store.add("joints", joints(10**9, [1, 2], ("shoulder", "elbow")), 10**9)
    found = report(assembler, "joints", 10**9)
    assert found.state is StreamState.INVALID
    assert "j0, j1, j2 never came on joint_states, which carries shoulder, elbow" in found.reason


@pytest.mark.parametrize("message_type", ["geometry_msgs/msg/Twist", "geometry_msgs/msg/Pose", "std_msgs/msg/Bool"])
def test_every_type_without_header_needs_the_receive_time(message_type):
    streams = {**topic_map().streams, "command": StreamConfig(topic="command", type=message_type)}
    with pytest.raises(ConfigError, match=f"{message_type} on command has no header; set 'stamp: receive'"):
        FrameAssembler(topic_map(streams=streams), EMBODIMENT)


WITH_DEPTH = dataclasses.replace(EMBODIMENT, depth={"front": DepthKey(height=4, width=6)})


def depth_map(**binding):
    streams = {**topic_map().streams, "depth": StreamConfig(topic="depth", type="sensor_msgs/msg/Image")}
    return topic_map(streams=streams, depth={"front": DepthBinding(stream="depth", **binding)})


def depth_image(stamp_ns, millimeters):
    counts = np.full((4, 6), millimeters, np.uint16)
    message = image(stamp_ns, 0)
    vars(message).update(encoding="16UC1", step=12, data=counts.tobytes())
    return message


def test_depth_is_recorded_beside_the_images_and_no_observation_waits_for_it():
    assembler = FrameAssembler(depth_map(), WITH_DEPTH)
    fill(assembler)
    assert assembler.picker.is_settled(1300 * MS, with_action=False)
    assert not assembler.picker.is_settled(1300 * MS)
    assert not assembler.picker.frame(1300 * MS, with_action=False).depth
    with pytest.raises(ObservationError, match=r"depth\.front: no image on depth"):
        assembler.picker.frame(1300 * MS, with_action=True)
    assert any("'depth'" in reason for reason in assembler.health.unready(1300 * MS))
    for t in (0, 100, 200, 300, 400):
        assembler.store.add("depth", depth_image((1000 + t) * MS, 1000 + t), (1000 + t) * MS)
    frame = assembler.picker.frame(1320 * MS, with_action=True)
    np.testing.assert_array_equal(frame.depth["front"], np.full((4, 6), 1300, np.uint16))
    assert frame.ages_ns["depth.front"] == 20 * MS
    assert report(assembler, "depth", 1400 * MS).used == 1


def test_quaternions_of_actions_follow_the_row_before_and_states_keep_their_sign():
    turn = VectorKey(names=("w", "x", "y", "z"), rotation=Rotation.QUATERNION)
    embodiment = dataclasses.replace(EMBODIMENT, state={"turn": turn}, action={"turn": turn})
    streams = {**topic_map().streams, "turn": StreamConfig(topic="turn", type="geometry_msgs/msg/QuaternionStamped")}
    binding = {"turn": VectorBinding(stream="turn", align=Align.HOLD)}
    assembler = FrameAssembler(topic_map(streams=streams, state=binding, action=binding), embodiment)
    angles = np.deg2rad([0, 120, 240, 360])
    for number, angle in enumerate(angles):
        stamp = (1000 + 100 * number) * MS
        turned = SimpleNamespace(x=0.0, y=0.0, z=np.sin(angle / 2), w=np.cos(angle / 2))
        assembler.store.add("turn", SimpleNamespace(header=header(stamp), quaternion=turned), stamp)
        assembler.store.add("camera", image(stamp, 1), stamp)
    rows = [assembler.picker.decode(picked) for picked in EpisodeTicks(assembler, 0).ready(END_OF_TIME_NS)]
    np.testing.assert_allclose([row.action["turn"][0] for row in rows], np.cos(angles / 2), atol=1e-12)
    np.testing.assert_allclose([row.state["turn"][0] for row in rows], [1, 0.5, 0.5, 1], atol=1e-12)


def test_type_without_header_is_refused_where_its_stamp_is_wanted():
    streams = {
        **topic_map().streams, "command": StreamConfig(topic="command", type="std_msgs/msg/Float64MultiArray")
    }  # fmt: skip
    with pytest.raises(ConfigError, match="set 'stamp: receive'"):
        FrameAssembler(topic_map(streams=streams), EMBODIMENT)


def test_ticks_start_at_the_first_image_and_keep_the_exact_rate():
    embodiment = make_embodiment(fps=30, size=(4, 6))
    assembler = FrameAssembler(topic_map(), embodiment)
    fill(assembler, until_ms=500)
    ticks = EpisodeTicks(assembler, 1050 * MS)
    found = [picked.tick_ns - 1100 * MS for picked in ticks.ready(1500 * MS)]
    assert found[:4] == [0, 33333333, 66666667, 100000000]
    assert found[-1] == 400000000
    assert len(found) == 13


def test_episode_ends_with_its_images():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler, until_ms=500)
    ticks = EpisodeTicks(assembler, 0)
    assert len(list(ticks.ready(1510 * MS))) == 6
    ticks.stop(2000 * MS)
    assert not list(ticks.ready(2000 * MS))
    assert not ticks.is_finished  # an image may still come
    assert not list(ticks.ready(2600 * MS))
    assert ticks.is_finished


def test_stop_time_ends_the_episode_although_images_go_on():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler, until_ms=900)
    ticks = EpisodeTicks(assembler, 0)
    ticks.stop(1430 * MS)
    assert [picked.tick_ns // MS for picked in ticks.ready(1900 * MS)] == [1000, 1100, 1200, 1300, 1400]
    assert ticks.is_finished


def test_slow_stream_is_waited_for_and_then_filled():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler, until_ms=300)
    for t in (400, 500):  # the command stream has stopped
        assembler.store.add("joints", joints((1000 + t) * MS, [t, t, t, t]), (1000 + t) * MS)
        assembler.store.add("camera", image((1000 + t) * MS, t // 100), (1000 + t) * MS)
    ticks = EpisodeTicks(assembler, 0, max_lag_s=0.5)
    assert len(list(ticks.ready(1500 * MS))) == 4
    assert not list(ticks.ready(1899 * MS))
    (picked,) = ticks.ready(1900 * MS)
    assert set(map(str, picked.filled)) == {"action.arm", "action.gripper"}


def test_ticks_before_the_first_action_are_skipped_and_counted():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    for t in range(0, 1001, 100):
        assembler.store.add("joints", joints((1000 + t) * MS, [t, t, t, t]), (1000 + t) * MS)
        assembler.store.add("camera", image((1000 + t) * MS, t // 100), (1000 + t) * MS)
        if t >= 800:
            assembler.store.add("command", command(t, t, t, t), (1000 + t) * MS)
    ticks = EpisodeTicks(assembler, 0)
    found = [picked.tick_ns // MS for picked in ticks.ready(END_OF_TIME_NS)]
    assert found == [1800, 1900, 2000]  # none has the first command before it was given
    assert ticks.num_skipped == 8
    assert ticks.last_refusal.startswith("action.arm: ")


def test_input_lost_in_mid_episode_ends_it_with_its_name():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler, until_ms=300)
    ticks = EpisodeTicks(assembler, 0)
    assert len(list(ticks.ready(1300 * MS))) == 4
    for t in range(400, 3000, 100):
        assembler.store.add("camera", image((1000 + t) * MS, 1), (1000 + t) * MS)
        assembler.store.add("command", command(t, t, t, t), (1000 + t) * MS)
    with pytest.raises(ObservationError, match=r"state.arm: the closest sample"):
        list(ticks.ready(4000 * MS))
    assert ticks.is_finished


def test_clock_set_back_ends_the_episode():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    fill(assembler, until_ms=2000)
    ticks = EpisodeTicks(assembler, 1000 * MS)
    assert list(ticks.ready(3000 * MS))
    assembler.store.add("joints", joints(100 * MS, [0, 0, 0, 0]), 100 * MS)
    with pytest.raises(ObservationError, match="clock was set back"):
        list(ticks.ready(100 * MS))


def test_wait_for_a_slow_stream_does_not_depend_on_the_camera_clock():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    offset = 3600 * 10**9  # all stamps run an hour behind the receive times
    for t in range(0, 301, 50):
        stamp = (1000 + t) * MS
        assembler.store.add("joints", joints(stamp, [t, t, t, t]), stamp + offset)
        assembler.store.add("camera", image(stamp, 1), stamp + offset)
    ticks = EpisodeTicks(assembler, 0)
    assert not list(ticks.ready(1300 * MS + offset))  # actions may still come
    assert not ticks.num_skipped


LOOKING_BACK = dataclasses.replace(EMBODIMENT, video_history=(-4, 0))  # 0.4 s


def test_observation_is_made_of_its_history():
    assembler = FrameAssembler(topic_map(), LOOKING_BACK, with_history=True)
    fill(assembler)
    older, newest = assembler.picker.observed_frames(1820 * MS)
    assert (older.tick_ns, newest.tick_ns) == (1420 * MS, 1820 * MS)
    assert older.images["front"][0, 0, 0] == 4
    assert newest.images["front"][0, 0, 0] == 8
    np.testing.assert_allclose(older.state["arm"], [420, 420, 420])


def test_history_does_not_reach_behind_the_beginning_of_a_task():
    assembler = FrameAssembler(topic_map(), LOOKING_BACK, with_history=True)
    fill(assembler)
    for begin_ms, ticks_ms in ((1820, [1820, 1820]), (1600, [1600, 1820]), (1000, [1420, 1820]), (1900, [1820, 1820])):
        frames = assembler.picker.observed_frames(1820 * MS, begin_ms * MS)
        assert [frame.tick_ns for frame in frames] == [tick * MS for tick in ticks_ms]


def test_samples_are_kept_as_long_as_a_history_needs():
    for with_history, oldest_ms in ((False, 7000), (True, 6600)):
        assembler = FrameAssembler(topic_map(), LOOKING_BACK, horizon_s=3.0, with_history=with_history)
        fill(assembler, until_ms=9000)
        assert assembler.store.first_image("front", 0) == oldest_ms * MS


def test_images_of_a_history_are_decoded_once():
    cv2 = pytest.importorskip("cv2")
    streams = {
        **topic_map().streams, "camera": StreamConfig(topic="image", type="sensor_msgs/msg/CompressedImage")
    }  # fmt: skip
    assembler = FrameAssembler(topic_map(streams=streams), LOOKING_BACK, with_history=True)
    png = cv2.imencode(".png", np.full((4, 6, 3), 40, np.uint8))[1].tobytes()
    for t in range(0, 1001, 100):
        stamp = (1000 + t) * MS
        assembler.store.add("joints", joints(stamp, [t, t, t, t]), stamp)
        assembler.store.add("camera", SimpleNamespace(header=header(stamp), format="png", data=png), stamp)
    first = assembler.picker.observed_frames(1500 * MS)[1].images["front"]
    for t in (1600, 1700, 1800):
        assembler.picker.observed_frames(t * MS)
    assert assembler.picker.observed_frames(1900 * MS)[0].images["front"] is first


def test_camera_that_counts_from_power_on_is_named_before_an_episode_starts():
    assembler = FrameAssembler(topic_map(), EMBODIMENT)
    now_ns = 1_700_000_000 * 10**9
    for t in range(0, 1001, 100):
        assembler.store.add("joints", joints(now_ns + t * MS, [t, t, t, t]), now_ns + t * MS)
        assembler.store.add("camera", image((5000 + t) * MS, t // 100), now_ns + t * MS)
    reason = next(text for text in assembler.health.unready(now_ns + 1000 * MS) if "stream 'camera' (" in text)
    assert "stamps on image are 1.7e9 s before the time of their arrival" in reason
    assert "set 'stamp: receive' for stream 'camera'" in reason
