# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Robot, policy server and policy node as separate processes, and what they publish; for `faults.py`.

Run as a program, this file is the robot or the server; they read what to break from standard input.
"""

from __future__ import annotations

import array
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from gr00t_msgs.msg import PolicyStatus, TeleopTarget
from gr00t_msgs.srv import SetInstruction
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from gr00t_recorder.ros.processes import NodeProcess, next_domain, spinning_node
from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_test_support.ros.nodes import call, parameter_arguments
from gr00t_test_support.waiting import eventually
from gr00t_training.embodiment import Embodiment, to_mapping
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.server import PolicyServer, ServerSettings
from gr00t_training.types import ActionChunk, Continuation, Observation

CONTROL_HZ, CAMERA_HZ, JOINTS_HZ, CLOCK_HZ = 100.0, 30.0, 100.0, 200.0
MAX_AGE_S = 0.2  # of an input
TIMEOUT_S = 0.5  # of a query
SILENCE_S = 4.0  # without a chunk until the stop
INPUT_GAP_S = 30.0  # without usable inputs until the stop
MAX_VELOCITY, MAX_ACCELERATION = 1.0, 8.0  # [rad/s, rad/s^2]
STEADY_S = 0.3  # of motion before a fault, and of each end that is inspected
KEPT = 2000  # messages that the robot remembers
ENDING_S = 10.0  # of a process that was asked to end
JOINTS = ("j0", "j1", "j2")
SIZE = (32, 48)
INSTRUCTION = "swing"
OPERATOR, LINK_TIMEOUT_S = "leader", 0.1


# The robot, in a separate process.


class RobotPart:
    """Publishes the inputs, follows the commands, and obeys the lines of its standard input."""

    def __init__(self, domain: int, publishes_clock: bool) -> None:
        """Start to publish; with `publishes_clock` on a separate time."""
        rclpy.init(domain_id=domain)
        self._node = rclpy.create_node("robot")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._pose = dict.fromkeys((*JOINTS, "grip"), 0.0)
        self._names, self._size, self._is_broken = list(self._pose), SIZE, False
        self._sends = {"front": True, "joints": True}
        # stamps of what was published, and when it was sent
        self._published: dict[str, list[tuple[int, int]]] = {"front": [], "joints": []}
        self._offset_ns = -time.time_ns() + 1_000_000_000_000 if publishes_clock else 0
        publisher = self._node.create_publisher
        self._clock, self._images = publisher(Clock, "/clock", 10), publisher(Image, "front/image_raw", 5)
        self._joints = publisher(JointState, "joint_states", 10)
        self._node.create_subscription(JointTrajectory, "arm/joint_trajectory", self._follow, 10)
        if publishes_clock:
            self._node.create_timer(1 / CLOCK_HZ, self._publish_clock)
        self._node.create_timer(1 / JOINTS_HZ, self._publish_joints)
        self._node.create_timer(1 / CAMERA_HZ, self._publish_image)

    def run(self) -> None:
        """Publish until standard input ends."""
        orders: list[list[Any]] = []
        is_over = threading.Event()

        def read() -> None:
            for line in sys.stdin:
                orders.append(json.loads(line))
            is_over.set()

        threading.Thread(target=read, daemon=True).start()
        say("ready")
        while not is_over.is_set():
            self._executor.spin_once(timeout_sec=0.005)
            while orders:
                order, *values = orders.pop(0)
                say(getattr(self, order)(*values))

    def send(self, stream: str, is_sent: bool) -> int:
        """Begin or cease to publish; return the time."""
        self._sends[stream] = is_sent
        return time.time_ns()

    def name(self, names: Sequence[str]) -> int:
        """Give the joints these names; return the time."""
        self._names = list(names)
        return time.time_ns()

    def resize(self, height: int, width: int) -> int:
        """Publish images of another size; return the time."""
        self._size = height, width
        return time.time_ns()

    def break_joint(self, is_broken: bool) -> int:
        """Publish NaN for a joint, or its position again; return the time."""
        self._is_broken = is_broken
        return time.time_ns()

    def jump(self, seconds: float) -> int:
        """Set the clock and publish it; return when."""
        self._offset_ns += round(seconds * 1e9)
        sent_ns = time.time_ns()
        self._publish_clock()
        return sent_ns

    def last_stamp(self, stream: str, until_ns: int) -> int:
        """Return the stamp of the last message of a stream up to a time."""
        return max(stamp_ns for stamp_ns, _ in self._published[stream] if stamp_ns <= until_ns)

    def first_sent(self, stream: str, since_ns: int) -> int:
        """Return when the first message of a stream after a time was sent."""
        return min(sent_ns for stamp_ns, sent_ns in self._published[stream] if stamp_ns > since_ns)

    def _follow(self, message: Any) -> None:
        self._pose.update(zip(message.joint_names, message.points[0].positions, strict=True))

    def _publish(self, stream: str, publisher: Publisher, message: Any) -> None:
        stamp_ns = time.time_ns() + self._offset_ns
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        publisher.publish(message)
        self._published[stream] = [*self._published[stream][-KEPT:], (stamp_ns, time.time_ns())]

    def _publish_clock(self) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(time.time_ns() + self._offset_ns, 10**9)
        self._clock.publish(message)

    def _publish_joints(self) -> None:
        if self._sends["joints"]:
            measured = {**self._pose, "j1": math.nan} if self._is_broken else self._pose
            message = JointState(name=self._names, position=list(measured.values()))
            self._publish("joints", self._joints, message)

    def _publish_image(self) -> None:
        if self._sends["front"]:
            height, width = self._size
            message = Image(height=height, width=width, encoding="rgb8", step=width * 3)
            message.data = array.array("B", bytes(height * width * 3))
            self._publish("front", self._images, message)


# The policy server, in a separate process.


class SwingPolicy(PolicyLike):
    """Lets every joint swing, and spoils what a line of standard input says."""

    def __init__(self, embodiment: Embodiment | None = None) -> None:
        self.embodiment = embodiment or make_embodiment(size=SIZE)
        self.spoils = ""
        self._is_told = False

    def spoil(self, how: str) -> None:
        """Answer with NaN, halt the process, or nothing of that, from the next request on."""
        self.spoils, self._is_told = how, False

    def infer_batch(
        self, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None = None
    ) -> list[ActionChunk]:
        """Answer with a part of a swing: at most 0.4 rad/s."""
        if self.spoils == "pause":
            self.spoils = ""
            say(time.time_ns())
            os.kill(os.getpid(), signal.SIGSTOP)
        chunks = []
        for observation in observations:
            times_s = observation.stamp_ns / 1e9 + np.arange(self.embodiment.action_horizon) / self.embodiment.fps
            arm = 0.4 * np.sin(times_s[:, None] + np.arange(3))
            if self.spoils == "nan":
                arm[5, 1] = np.nan
            chunks.append(
                ActionChunk({"arm": arm, "gripper": 0 * arm[:, :1]}, observation.stamp_ns, self.embodiment.step_ns)
            )
        if self.spoils == "nan" and not self._is_told:
            self._is_told = True
            say(time.time_ns())
        return chunks


def serve(port: int) -> None:
    """Serve the swing until standard input ends; at any port when it is 0."""
    policy = SwingPolicy()
    with PolicyServer(policy, ServerSettings(port=port)) as server:

        def read() -> None:
            for line in sys.stdin:
                policy.spoil(json.loads(line))
            server.stop()

        threading.Thread(target=read, daemon=True).start()
        say(server.port)
        server.serve()


def operate(domain: int) -> None:
    """Be a person who lets the robot swing, until this process is killed."""
    rclpy.init(domain_id=domain)
    node = rclpy.create_node("operator")
    publisher = node.create_publisher(TeleopTarget, "policy/teleop", 10)

    def publish() -> None:
        now_ns = time.time_ns()
        arm = 0.4 * np.sin(now_ns / 1e9 + np.arange(3))
        message = TeleopTarget(source=OPERATOR, is_engaged=True, names=list(JOINTS), positions=arm.tolist())
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
        publisher.publish(message)

    node.create_timer(1.0 / CONTROL_HZ, publish)
    say("ready")
    rclpy.spin(node)


def say(value: Any) -> None:
    """Send a line to the process that started this one."""
    print(json.dumps(value), flush=True)


class Part:
    """A part of this program in its own process; it reads lines and answers with lines."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self.answer()

    def answer(self) -> Any:
        """Return what the part says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"a part of this program has ended with code {self.process.wait()}")
        return json.loads(line)

    def send(self, value: Any) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def ask(self, *order: Any) -> Any:
        """Send a line and return the answer."""
        self.send(order)
        return self.answer()

    def pause(self) -> int:
        """Halt the process; return the time."""
        self.process.send_signal(signal.SIGSTOP)
        return time.time_ns()

    def go_on(self) -> int:
        """Let a halted process run; return the time."""
        self.process.send_signal(signal.SIGCONT)
        return time.time_ns()

    def close(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.go_on()
        self.process.stdin.close()
        try:
            self.process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


# The measuring side.


@dataclass(frozen=True)
class Sent:
    """A message, and when the middleware sent it."""

    message: Any
    sent_ns: int
    number: int | None  # of the publisher; None: the middleware does not report it


class Rig:
    """Robot, server and policy node as processes, and what they publish."""

    def __init__(
        self,
        folder: Path,
        *,
        has_clock: bool = False,
        is_released: bool = False,
        max_age_s: float = MAX_AGE_S,
        silence_s: float = SILENCE_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Start everything; `close` ends it.

        Args:
            folder: takes the configuration.
            has_clock: whether the node lives by the robot's `/clock`.
            is_released: whether the model is a small checkpoint behind `gr00t_serve`.
            max_age_s: of every input.
            silence_s: without a chunk until the node stops.
            timeout_s: of a query.
        """
        self.folder, self.max_age_s = folder, max_age_s
        self._has_clock, self._is_released = has_clock, is_released
        self._silence_s, self._timeout_s = silence_s, timeout_s
        self.domain = next_domain()
        self.broken_s = 0.0  # when the last fault was made
        self.statuses: list[Sent] = []
        self.commands: list[Sent] = []
        self.targets: list[Sent] = []  # of a person
        write_files(folder, max_age_s)
        with ExitStack() as opened:
            self.robot = Part("robot", str(self.domain), str(int(has_clock)))
            opened.callback(self.robot.close)
            self.port = 0
            self.server = self.start_server()
            opened.callback(lambda: self.server.close())
            self.witness = opened.enter_context(spinning_node("witness", self.domain))
            latched = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            for kept, kind, topic, qos in (
                (self.statuses, PolicyStatus, "policy/status", latched),
                (self.commands, JointTrajectory, "arm/joint_trajectory", QoSProfile(depth=200)),
                (self.targets, TeleopTarget, "policy/teleop", QoSProfile(depth=200)),
            ):
                self.witness.create_subscription(kind, topic, keep(kept), qos)  # type: ignore[arg-type]
            self.stop_client = self.witness.create_client(Trigger, "policy/stop")
            self.teleop_publisher = self.witness.create_publisher(TeleopTarget, "policy/teleop", 10)
            self.stop_publisher = self.witness.create_publisher(Bool, "policy/stop", 1)
            self.operator: Part | None = None
            opened.callback(self.close_operator)
            self.node = self.start_node()
            opened.callback(lambda: self.node.stop())
            self._opened = opened.pop_all()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def start_node(self) -> Any:
        """Start the policy node and wait until it is idle."""
        start = len(self.statuses)
        arguments = parameter_arguments(
            autostart=True,
            use_sim_time=self._has_clock,
            server=f"127.0.0.1:{self.port}",
            server_timeout_s=self._timeout_s,
            topics_file=self.folder / "topics.yaml",
            limits_file=self.folder / "limits.yaml",
            control_rate_hz=CONTROL_HZ,
            inference_period_s=0.1,
            max_input_gap_s=INPUT_GAP_S,
            max_silence_s=self._silence_s,
            teleop_timeout_s=LINK_TIMEOUT_S,
        )
        node = NodeProcess("gr00t_policy_node.ros.policy_node", *arguments, domain=self.domain, OMP_NUM_THREADS="1")
        try:
            self.until(lambda: self.statuses[start:] and self.streams_are_ok(), "the node is idle with all its inputs")
        except AssertionError as error:
            node.stop()
            raise AssertionError(f"{error}\n{node.output}") from error
        return node

    def close_operator(self) -> None:
        """Kill the device of a person, if there is one."""
        operator, self.operator = self.operator, None
        if operator is not None:
            operator.process.kill()
            operator.process.wait()
            operator.close()

    def start_server(self) -> Any:
        """Start the policy server, at the port that it had before; return when it is ready."""
        if not self._is_released:
            server = Part("server", str(self.port))
            self.port = server.first
            return server
        return ReleasedServer(self)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition and return its value."""
        return eventually(condition, lambda: f"{what}; last status: {self.described()}")

    def described(self) -> str:
        """Return the last status for people."""
        last = self.statuses[-1].message if self.statuses else None
        return "none" if last is None else f"{last.state} '{last.reason}'"

    def streams_are_ok(self) -> bool:
        """Whether the node could infer at its last status."""
        streams = self.statuses[-1].message.streams
        return bool(streams) and all(stream.state == 0 for stream in streams)

    def first_status(self, start: int, is_wanted: Callable[[Any], bool]) -> Sent | None:
        """Return the first status, from number `start` on, of which a condition holds."""
        return next((sent for sent in self.statuses[start:] if is_wanted(sent.message)), None)

    def call(self, kind: Any, name: str, **fields: Any) -> Any:
        """Call a service of the node."""
        return call(self.witness, kind, f"policy/{name}", kind.Request(**fields))

    def instruct(self) -> Any:
        """Give the task; return the node's answer."""
        return self.call(SetInstruction, "set_instruction", instruction=INSTRUCTION)

    def run(self) -> None:
        """Have the robot move, and wait until it has done so for a while."""
        if self.statuses[-1].message.state != PolicyStatus.RUNNING:
            answer = self.instruct()
            assert not answer.error_code, answer.error_msg
            self.until(lambda: self.statuses[-1].message.state == PolicyStatus.RUNNING, "the robot runs")
        count = len(self.commands) + round(STEADY_S * CONTROL_HZ)
        self.until(lambda: len(self.commands) >= count, "commands")


class ReleasedServer:
    """The command `gr00t_serve` with a small checkpoint of random weights."""

    def __init__(self, rig: Rig) -> None:
        if not (rig.folder / "checkpoint").exists():
            make_checkpoint(rig.folder / "checkpoint", make_embodiment(size=SIZE))
        arguments = [rig.folder / "checkpoint", "--port", str(rig.port), "--device", "cpu"]
        self._command = NodeProcess("gr00t_training.cli.serve", *arguments, domain=rig.domain, OMP_NUM_THREADS="1")
        self.process = self._command.process
        eventually(lambda: "ready at" in self._command.output, lambda: f"gr00t_serve: {self._command.output}")
        rig.port = int(self._command.output.partition("ready at tcp://127.0.0.1:")[2].partition(":")[0])

    def close(self) -> None:
        """End the server."""
        self._command.stop()


def keep(kept: list[Sent]) -> Callable[[Any, Any], None]:
    """Return a callback that keeps what it gets."""

    def take(message: Any, info: dict[str, Any]) -> None:
        kept.append(Sent(message, info["source_timestamp"], info.get("publication_sequence_number")))

    return take


def write_files(folder: Path, max_age_s: float) -> None:
    """Write embodiment, topic map and limits."""
    topics = {
        "embodiment": "embodiment.json",
        "max_skew_s": 2 * max_age_s,  # an input that ceases is to be too old before it is too far behind
        "streams": {
            "joints": {"topic": "joint_states", "type": "sensor_msgs/msg/JointState", "max_age_s": max_age_s},
            "front": {"topic": "front/image_raw", "type": "sensor_msgs/msg/Image", "max_age_s": max_age_s},
        },
        "state": {"arm": {"stream": "joints"}, "gripper": {"stream": "joints"}},
        "video": {"front": {"stream": "front"}},
        "commands": [
            {"topic": "arm/joint_trajectory", "type": "trajectory_msgs/msg/JointTrajectory", "keys": ["arm"]},
        ],
    }
    limit = {"min": -2.0, "max": 2.0, "max_velocity": MAX_VELOCITY, "max_acceleration": MAX_ACCELERATION}
    (folder / "embodiment.json").write_text(json.dumps(to_mapping(make_embodiment(size=SIZE))))
    (folder / "topics.yaml").write_text(json.dumps(topics))
    (folder / "limits.yaml").write_text(json.dumps({"joints": dict.fromkeys((*JOINTS, "grip"), limit)}))


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(int(sys.argv[2]))
    elif sys.argv[1] == "operator":
        operate(int(sys.argv[2]))
    else:
        RobotPart(int(sys.argv[2]), bool(int(sys.argv[3]))).run()
