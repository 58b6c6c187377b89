# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import threading

import pytest

pytest.importorskip("rclpy")

from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from gr00t_recorder.ros.ingest import TopicIngest
from gr00t_recorder.ros.latched import subscribe_latched
from gr00t_recorder.ros.processes import next_domain, spinning_node
from gr00t_recorder.topics.bindings import Reliability, StreamConfig, TopicMap, VectorBinding, VideoBinding
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.waiting import DEADLINE_S, eventually

# latched: what is published before both sides know each other arrives too
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SUBSCRIPTIONS = 2  # of a latched stream: for latched and for volatile publishers


def make_assembler(**streams):
    configs = {
        "joints": StreamConfig(topic="joints", type="sensor_msgs/msg/JointState", reliability=Reliability.RELIABLE,
                               depth=100, latched=True),
        "camera": StreamConfig(topic="image", type="sensor_msgs/msg/Image"),
        **streams,
    }  # fmt: skip
    topic_map = TopicMap(
        embodiment="test_arm",
        streams=configs,
        state={"arm": VectorBinding(stream="joints"), "gripper": VectorBinding(stream="joints")},
        video={"front": VideoBinding(stream="camera")},
    )
    return FrameAssembler(topic_map, make_embodiment())


def report(assembler, name="joints"):
    return next(report for report in assembler.health.reports(0) if report.name == name)


def test_every_message_is_counted_even_when_the_consumer_stands_still():
    assembler, gate = make_assembler(), threading.Event()
    with spinning_node("ingest", next_domain()) as node:
        ingest = TopicIngest(
            node, assembler.topic_map.streams, assembler, on_message=lambda *_: gate.wait(DEADLINE_S), queue_size=4
        )
        publisher = node.create_publisher(JointState, "joints", LATCHED)
        eventually(lambda: publisher.get_subscription_count() == SUBSCRIPTIONS, "subscribed")
        for i in range(20):
            message = JointState(name=["j0", "j1", "j2", "grip"], position=[float(i)] * 4)
            message.header.stamp.sec = i + 1
            publisher.publish(message)
            # the queue has room for as many as wait behind the one that the consumer has
            eventually(lambda: report(assembler).received == 1, "the first is with the consumer")
        # one is with the consumer, four wait, the others are dropped
        eventually(lambda: report(assembler).dropped == 15, lambda: f"dropped; {report(assembler)}")
        assert report(assembler).received == 1
        gate.set()
        eventually(lambda: report(assembler).received == 5, "the waiting ones")
        assert ingest.topic_name("joints") == "/joints"
        ingest.close()
        ingest.close()


class HeldTaker:
    """Holds up the thread that takes messages, at the next one from when it is armed."""

    def __init__(self):
        self._is_armed, self._is_held, self._gate = threading.Event(), threading.Event(), threading.Event()

    def take(self, stream, receive_ns, serialized):
        if self._is_armed.is_set():
            self._is_held.set()
            assert self._gate.wait(DEADLINE_S)

    def hold(self, publish):
        """Publish the current message."""
        self._is_armed.set()
        publish()
        assert self._is_held.wait(DEADLINE_S)

    def let_go(self):
        self._gate.set()


@pytest.mark.parametrize("num_publishers", [1, 2])
def test_messages_that_the_middleware_overwrites_are_counted(num_publishers):
    """A history that overflows while the process is held up is silent in Fast DDS; the message numbers show it."""
    camera = StreamConfig(topic="image", type="sensor_msgs/msg/Image", reliability=Reliability.RELIABLE, depth=5)
    assembler, taker = make_assembler(camera=camera), HeldTaker()
    with spinning_node("ingest", next_domain()) as node:
        ingest = TopicIngest(node, assembler.topic_map.streams, assembler, on_raw=taker.take)
        publishers = [node.create_publisher(Image, "image", 200) for _ in range(num_publishers)]
        eventually(lambda: all(publisher.get_subscription_count() for publisher in publishers), "subscribed")

        def publish(publisher, second):
            publisher.publish(numbered_image(second))

        for number, publisher in enumerate(publishers):
            publish(publisher, 1 + number)
        eventually(lambda: report(assembler, "camera").received == num_publishers, "the first")
        taker.hold(lambda: publish(publishers[0], 9))
        for second in range(10, 60):
            publish(publishers[0], second)
        assert publishers[0].wait_for_all_acked(Duration(seconds=DEADLINE_S))
        taker.let_go()
        # the first, the one it was held at, and those that the history has room for
        eventually(
            lambda: report(assembler, "camera").received == num_publishers + 1 + 5,
            lambda: f"{report(assembler, 'camera')}",
        )
        # several publishers count each for itself, so that a gap means nothing: none is invented
        assert report(assembler, "camera").dropped == (45 if num_publishers == 1 else 0)
        ingest.close()


def test_messages_that_wait_are_taken_at_once_and_in_order():
    assembler, taker, order = make_assembler(), HeldTaker(), []
    with spinning_node("ingest", next_domain()) as node:
        ingest = TopicIngest(
            node,
            assembler.topic_map.streams,
            assembler,
            on_message=lambda stream, message, receive_ns: order.append(message.header.stamp.sec),
            on_raw=taker.take,
        )
        publisher = node.create_publisher(JointState, "joints", LATCHED)
        eventually(lambda: publisher.get_subscription_count() == SUBSCRIPTIONS, "subscribed")

        def publish(second):
            message = JointState(name=["j0", "j1", "j2", "grip"], position=[float(second)] * 4)
            message.header.stamp.sec = second
            publisher.publish(message)

        taker.hold(lambda: publish(1))
        for second in range(2, 52):
            publish(second)
        assert publisher.wait_for_all_acked(Duration(seconds=DEADLINE_S))
        taker.let_go()
        eventually(lambda: len(order) == 51, lambda: f"all; {len(order)}")
        assert order == list(range(1, 52))
        assert report(assembler).dropped == 0
        ingest.close()


def test_executor_that_is_held_up_delays_no_message():
    assembler, is_held, gate, times = make_assembler(), threading.Event(), threading.Event(), []
    with spinning_node("ingest", next_domain()) as node:
        ingest = TopicIngest(node, assembler.topic_map.streams, assembler, on_timed=times.append)
        publisher = node.create_publisher(JointState, "joints", LATCHED)
        eventually(lambda: publisher.get_subscription_count() == SUBSCRIPTIONS, "subscribed")

        def hold():
            is_held.set()
            gate.wait(DEADLINE_S)

        timer = node.create_timer(0.001, hold)
        assert is_held.wait(DEADLINE_S)
        message = JointState(name=["j0", "j1", "j2", "grip"], position=[0.0] * 4)
        message.header.stamp.sec = 1
        publisher.publish(message)
        eventually(lambda: report(assembler).received == 1, "message")
        eventually(lambda: len(times) == 1, "time")
        assert 0.0 < times[0] < DEADLINE_S
        node.destroy_timer(timer)
        gate.set()
        ingest.close()


def numbered_image(second):
    message = Image(height=32, width=48, encoding="rgb8", step=144, data=bytes(32 * 144))
    message.header.stamp.sec = second
    return message


def test_bytes_that_are_no_message_are_counted_as_invalid():
    assembler = make_assembler()
    with spinning_node("ingest", next_domain()) as node:
        ingest = TopicIngest(node, assembler.topic_map.streams, assembler)
        publisher = node.create_publisher(JointState, "joints", LATCHED)
        eventually(lambda: publisher.get_subscription_count() == SUBSCRIPTIONS, "subscribed")
        publisher.publish(b"\x00\x01\x00\x00\xff\xff")
        eventually(lambda: report(assembler).invalid == 1, "invalid")
        assert "cannot be deserialized" in report(assembler).reason
        ingest.close()


def test_incompatible_publisher_is_reported_once_by_name(capfd):
    assembler = make_assembler()
    with spinning_node("ingest", next_domain()) as node:
        ingest = TopicIngest(node, assembler.topic_map.streams, assembler)
        best_effort = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        seen = []
        for count in (1, 2, 3):
            events = PublisherEventCallbacks(incompatible_qos=seen.append)
            node.create_publisher(JointState, "joints", best_effort, event_callbacks=events)
            eventually(lambda count=count: len(seen) >= count, "the publisher's side of the mismatch")
        found = []

        def has_error():
            found.append(capfd.readouterr().err)
            return "offers an incompatible" in "".join(found)

        eventually(has_error, "error")
        ingest.close()
    text = "".join(found) + capfd.readouterr().err
    assert text.count("stream 'joints': a publisher on joints offers an incompatible reliability") == 1


def test_latched_stream_hears_latched_and_volatile_publishers_once():
    config = StreamConfig(topic="task", type="std_msgs/msg/String", latched=True)
    assembler, heard = make_assembler(task=config), []
    with spinning_node("ingest", next_domain()) as node:
        latched = node.create_publisher(String, "task", QoSProfile(depth=1, durability=LATCHED.durability))
        latched.publish(String(data="from before"))
        ingest = TopicIngest(
            node, assembler.topic_map.streams, assembler, on_message=lambda name, message, _: heard.append(message.data)
        )
        eventually(lambda: assembler.store.text("task") == "from before", "text")
        eventually(lambda: latched.get_subscription_count() == SUBSCRIPTIONS, "both subscriptions")
        latched.publish(String(data="latched"))
        eventually(lambda: assembler.store.text("task") == "latched", "text")
        volatile = node.create_publisher(String, "task", QoSProfile(depth=1))
        eventually(lambda: volatile.get_subscription_count() == 1, "subscribed")
        volatile.publish(String(data="volatile"))
        eventually(lambda: assembler.store.text("task") == "volatile", "text")
        latched.publish(String(data="end"))
        eventually(lambda: assembler.store.text("task") == "end", "text")
        ingest.close()
    assert heard == ["from before", "latched", "volatile", "end"]
    assert report(assembler, "task").dropped == 0


@pytest.mark.parametrize("durability", [DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL])
def test_latched_subscription_of_a_node_hears_every_publisher_once(durability):
    with spinning_node("listener", next_domain()) as node:
        heard = []
        subscriptions = subscribe_latched(node, String, "instruction", lambda message: heard.append(message.data))
        publisher = node.create_publisher(String, "instruction", QoSProfile(depth=1, durability=durability))
        expected = len(subscriptions) - (durability is DurabilityPolicy.VOLATILE)  # the latched one does not match
        eventually(lambda: publisher.get_subscription_count() == expected, "subscribed")
        for text in ("a", "b", "a"):
            publisher.publish(String(data=text))
            count = len(heard) + 1
            eventually(lambda count=count: len(heard) >= count, "heard")
        assert heard == ["a", "b", "a"]
        for subscription in subscriptions:
            node.destroy_subscription(subscription)
