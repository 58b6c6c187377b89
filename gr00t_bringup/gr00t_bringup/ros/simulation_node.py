# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A simulated robot as a ROS node: joint states, cameras, commands, and services to reset and to judge.

Which robot it is follows from the subclass. Physics and joint states run in one thread, cameras in another, and the
executor takes commands and services; the interpreter lock is free while MuJoCo steps and renders. With the simulated
clock all of it runs in step on one thread, so that a frame never depends on the speed of the machine; in lock-step with
a policy node (`lock_step`), neither does what the policy does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time as RosTime
from rclpy.time_source import CLOCK_TOPIC
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from gr00t_bringup.ros.image_messages import jpeg_image, raw_image
from gr00t_bringup.ros.lock_step import LockStep
from gr00t_bringup.sim.simulation import Simulation
from gr00t_bringup.sim.trajectory import Trajectory, TrajectoryFollower
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameters import declare, guard_changes, read
from gr00t_recorder.ros.spin import run_node
from gr00t_training.errors import ConfigError
from gr00t_training.settings import setting

SHOWN_TICKS = 10  # of a new scene before it is used: its images and joint states are out
MAX_LAG_S = 0.2  # after a longer stall of the machine the lost time is skipped, not caught up with
CAMERA_START_S = 30.0
WARN_PERIOD_S = 5.0


class Clock(str, Enum):
    """What drives the simulation."""

    WALL = "wall"  # real time, stamps of the system clock
    SIM = "sim"  # own clock from 0, published for nodes with use_sim_time


class ImageFormat(str, Enum):
    """What the cameras publish."""

    RAW = "raw"  # sensor_msgs/Image on <camera>/image_raw
    JPEG = "jpeg"  # sensor_msgs/CompressedImage on <camera>/image_raw/compressed


@dataclass(frozen=True)
class SimulationSettings:
    """Parameters of a simulated robot; a subclass names its rate and checks its tasks."""

    TICK_HZ: ClassVar[int] = 100  # joint states, and steps of the simulator

    seed: int = setting(0, "Seed of the first scene; every reset adds one.", ge=0, le=2**31, read_only=True)
    scene_seed: int = setting(
        -1, "Seed of the scenes of the resets from now on; -1: one more at each.", ge=-1, le=2**31
    )
    scene_task: str = setting("", "Task of the scenes of the resets from now on; empty: random at each reset.")
    camera_hz: int = setting(
        20,
        "Images per second of each camera [Hz]; a divisor of the rate of the joint states.",
        ge=1,
        le=50,
        read_only=True,
    )
    # at 320x240 encoding and decoding cost as much CPU as the transport that a JPEG saves
    image_format: ImageFormat = setting(ImageFormat.RAW, "Format of the images: raw or jpeg.", read_only=True)
    jpeg_quality: int = setting(90, "Quality of JPEG images.", ge=1, le=100, read_only=True)
    clock: Clock = setting(Clock.WALL, "wall: real time; sim: publish /clock and keep to it.", read_only=True)
    speed: float = setting(
        1.0, "Pace of the sim clock, times real time; 0: as fast as possible.", ge=0.0, le=100.0, read_only=True
    )
    lock_step: bool = setting(
        False, "Let the sim clock wait for the commands and chunks of the policy node.", read_only=True
    )
    lock_step_node: str = setting("policy", "Name of that node.", read_only=True)
    lock_step_control_s: float = setting(
        0.02, "Its control period, 1 / control_rate_hz [s].", ge=0.001, le=1.0, read_only=True
    )
    lock_step_query_s: float = setting(0.2, "Its inference_period_s [s].", ge=0.0, le=10.0, read_only=True)
    lock_step_timeout_s: float = setting(
        30.0, "Longest wait for it [s]; then the clock goes on without.", ge=0.1, le=3600.0, read_only=True
    )

    def __post_init__(self) -> None:
        if self.TICK_HZ % self.camera_hz:
            raise ValueError(f"camera_hz is {self.camera_hz}, expected a divisor of {self.TICK_HZ}, such as 5 or 10")
        if self.clock is Clock.WALL and self.speed != 1.0:
            raise ValueError(f"speed is {self.speed} but the wall clock has speed 1; set clock to sim")
        if self.clock is Clock.WALL and self.lock_step:
            raise ValueError("lock_step is true but the wall clock waits for nobody; set clock to sim")


class SimulationNode(Node):
    """Publishes a simulated robot and obeys commands."""

    settings_type: type[SimulationSettings] = SimulationSettings

    def __init__(self) -> None:
        """Build the scene, open the cameras and start to simulate.

        Raises:
            ConfigError: a parameter is wrong, or no OpenGL library can render off screen.
        """
        super().__init__("sim")
        self._settings = declare(self, self.settings_type)
        guard_changes(self, self.settings_type, lambda: True, live=("scene_seed", "scene_task"))
        if self._settings.clock is Clock.WALL and self.get_parameter("use_sim_time").value:
            raise ConfigError(
                "use_sim_time is true but clock is 'wall': nothing would publish /clock; set clock to sim"
            )
        self._seed = self._settings.seed
        self._robot = self.make_robot()
        self._robot.reset(self._seed, self._settings.scene_task)
        self._lock_step: LockStep | None = None
        self._follower = _hold(self._robot)
        self._lock = threading.Lock()  # over robot, follower, ticks and stamp: what belongs to one tick
        self._ticks = 0
        self._reset_tick: int | None = None  # of a scene that waits for the task of a policy in lock-step
        self._is_still = False  # until the first command in that scene
        self._stamp_ns = self._time_ns()
        self._stopping = threading.Event()
        self._image_due = threading.Event()
        self._threads: list[threading.Thread] = []
        self.has_failed = False
        self._make_interfaces()
        self._publish_task()
        self._start()

    def make_robot(self) -> Simulation:
        """Return what is simulated."""
        raise NotImplementedError

    def publish_truth(self, stamp: Time, *, is_image_due: bool) -> None:
        """Publish what only a simulator knows, for a scripted expert; called in every tick, before its images."""

    def close(self) -> None:
        """Stop simulating; idempotent."""
        self._stopping.set()
        self._image_due.set()
        if self._lock_step is not None:
            self._lock_step.close()
        for thread in self._threads:
            thread.join()

    def _make_interfaces(self) -> None:
        settings = self._settings
        is_jpeg = settings.image_format is ImageFormat.JPEG
        kind, suffix = (CompressedImage, "image_raw/compressed") if is_jpeg else (Image, "image_raw")
        self._images = {camera: self.create_publisher(kind, f"{camera}/{suffix}", 5) for camera in self._robot.cameras}
        self._joints = self.create_publisher(JointState, "joint_states", 50)
        # what the controller asks of the servos, as controllers of a real arm report it
        self._reference = self.create_publisher(JointState, "arm_controller/reference", 1000)
        self._verdict = self.create_publisher(String, "~/verdict", 100)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._task = self.create_publisher(String, "task", latched)
        if settings.clock is Clock.SIM:
            self._clock_publisher = self.create_publisher(ClockMessage, CLOCK_TOPIC, 1)
        if settings.lock_step:
            self._lock_step = LockStep(
                self,
                policy=settings.lock_step_node,
                control_period_s=settings.lock_step_control_s,
                query_period_s=settings.lock_step_query_s,
                timeout_s=settings.lock_step_timeout_s,
                repeat_clock=self._publish_clock,
            )
        self.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", self._on_trajectory, 1)
        self.create_subscription(Float64MultiArray, "forward_position_controller/commands", self._on_positions, 1)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/success", self._on_success)

    # commands and services: the executor's thread

    def _on_trajectory(self, message: JointTrajectory) -> None:
        now_ns = self._time_ns()
        try:
            trajectory = _trajectory(message, now_ns)
            with self._lock:
                self._follower.follow(trajectory, now_ns / 1e9)
                self._is_still = False
        except ValueError as error:
            self.get_logger().warning(f"{error}; ignored", throttle_duration_sec=WARN_PERIOD_S)
        if self._lock_step is not None:  # also one that is ignored
            self._lock_step.note_command()

    def _on_positions(self, message: Float64MultiArray) -> None:
        try:
            with self._lock:
                self._follower.jump(message.data)
                self._is_still = False
        except ValueError as error:
            self.get_logger().warning(f"{error}; ignored", throttle_duration_sec=WARN_PERIOD_S)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Start the next episode; the message is JSON with its seed, task and the time from which it holds."""
        settings = read(self, self.settings_type)
        self._seed = self._seed + 1 if settings.scene_seed < 0 else settings.scene_seed
        with self._lock:
            self._robot.reset(self._seed, settings.scene_task)
            self._follower = _hold(self._robot)
            if self._lock_step is not None:
                self._reset_tick, self._is_still = self._ticks, True
            # the tick that begins after this shows the new scene for the first time
            stamp_ns = max(self._time_ns(), self._stamp_ns + 1)
        self._publish_task()
        response.success = True
        response.message = json.dumps({"seed": self._seed, "task": self._robot.task, "stamp_ns": stamp_ns})
        return response

    def _on_success(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._robot.success()
        response.message = f"{'done' if response.success else 'not done'}: {self._robot.task}"
        return response

    def _publish_task(self) -> None:
        self._task.publish(String(data=self._robot.task))

    # simulation threads

    def _start(self) -> None:
        is_stepped = self._settings.clock is Clock.SIM
        cameras_open: Future[None] = Future()
        loop = self._run_stepped if is_stepped else self._run_cameras
        self._start_thread("cameras", lambda: self._with_cameras(cameras_open, loop))
        cameras_open.result(CAMERA_START_S)
        if not is_stepped:
            self._start_thread("physics", self._run_physics)

    def _start_thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guard, args=(target,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guard(self, target: Callable[[], None]) -> None:
        """End the process on an error in a thread, which Python would otherwise only print."""
        try:
            target()
        except Exception as error:
            self.has_failed = True
            self.get_logger().fatal(f"{threading.current_thread().name} thread: {error!r}; shutting down")
            self.context.try_shutdown()

    def _with_cameras(self, opened: Future[None], loop: Callable[[], None]) -> None:
        try:
            self._robot.images()
        except Exception as error:
            opened.set_exception(error)  # raised in the constructor
            return
        opened.set_result(None)
        try:
            loop()
        finally:
            self._robot.close()

    def _run_physics(self) -> None:
        pace = _Pace(self._settings.TICK_HZ)
        while not self._stopping.is_set():
            if self._tick():
                self._image_due.set()
            pace.wait(self._stopping)

    def _run_cameras(self) -> None:
        while self._image_due.wait() and not self._stopping.is_set():
            self._image_due.clear()
            self._publish_images()

    def _run_stepped(self) -> None:
        tick_hz, partner = self._settings.TICK_HZ, self._lock_step
        pace, alone = _Pace(tick_hz * self._settings.speed), _Pace(tick_hz)
        while not self._stopping.is_set():
            is_image_due = self._tick()
            if partner is not None:
                partner.wait_for_command(self._stamp_ns)
            if is_image_due:
                self._publish_images()
            if partner is not None:
                partner.wait_for_chunk(self._stamp_ns, has_images=is_image_due)
                self._wait_for_task(partner, is_image_due)
            (pace if partner is None or partner.is_engaged else alone).wait(self._stopping)

    def _wait_for_task(self, partner: LockStep, is_image_due: bool) -> None:
        """Stand still with a new scene until the policy has a task, so that equal trials begin in equal phase."""
        reset_tick = self._reset_tick
        is_shown = reset_tick is not None and self._ticks >= reset_tick + SHOWN_TICKS
        if is_shown and is_image_due and partner.has_tick(self._stamp_ns):
            self._reset_tick = None
            self._publish_verdict(is_success=False)
            partner.wait_for_task()

    def _tick(self) -> bool:
        """Simulate and publish one tick; returns whether images of it are due."""
        tick_hz, joints = self._settings.TICK_HZ, list(self._robot.joints)
        with self._lock:
            targets = self._follower.sample(self._time_ns() / 1e9)
            self._robot.command(targets)
            if not self._is_still:
                self._robot.step(1 / tick_hz)
            self._ticks += 1
            self._stamp_ns = self._time_ns()
            stamp = _stamp(self._stamp_ns)
            positions, velocities = self._robot.joint_positions(), self._robot.joint_velocities()
            is_image_due = self._ticks % (tick_hz // self._settings.camera_hz) == 0
            is_success = is_image_due and self._robot.success()
        self._publish_clock()
        state = JointState(name=joints, position=positions.tolist(), velocity=velocities.tolist())
        state.header.stamp = stamp
        self._joints.publish(state)
        reference = JointState(name=joints, position=[targets[name] for name in joints])
        reference.header.stamp = stamp
        self._reference.publish(reference)
        self.publish_truth(stamp, is_image_due=is_image_due)
        if is_image_due:
            self._publish_verdict(is_success=is_success)
        return is_image_due

    def _publish_verdict(self, *, is_success: bool) -> None:
        """Tell whether the task is done, and whether the scene may be used: in lock-step it waits for a task first."""
        verdict = {"stamp_ns": self._stamp_ns, "success": is_success, "is_ready": self._reset_tick is None}
        self._verdict.publish(String(data=json.dumps(verdict)))

    def _publish_clock(self) -> None:
        if self._settings.clock is Clock.SIM:
            self._clock_publisher.publish(ClockMessage(clock=_stamp(self._stamp_ns)))

    def _publish_images(self) -> None:
        with self._lock:
            frozen, stamp = self._robot.freeze(), _stamp(self._stamp_ns)
        for camera, pixels in self._robot.images(frozen).items():
            is_jpeg = self._settings.image_format is ImageFormat.JPEG
            message = jpeg_image(pixels, self._settings.jpeg_quality) if is_jpeg else raw_image(pixels)
            message.header.stamp, message.header.frame_id = stamp, f"{camera}_optical_frame"
            self._images[camera].publish(message)

    def _time_ns(self) -> int:
        if self._settings.clock is Clock.SIM:
            return self._ticks * (1_000_000_000 // self._settings.TICK_HZ)
        return self.get_clock().now().nanoseconds


class _Pace:
    """Keeps ticks at a rate on the steady clock; 0: without waiting."""

    def __init__(self, rate_hz: float) -> None:
        self._period_s = 1 / rate_hz if rate_hz else 0.0
        self._due_s = time.monotonic()

    def wait(self, stopping: threading.Event) -> None:
        """Wait until the next tick is due, or `stopping` is set."""
        self._due_s += self._period_s
        ahead_s = self._due_s - time.monotonic()
        if ahead_s < -MAX_LAG_S:
            self._due_s -= ahead_s
        stopping.wait(max(ahead_s, 0.0))


def _hold(robot: Simulation) -> TrajectoryFollower:
    return TrajectoryFollower(dict(zip(robot.joints, robot.joint_positions().tolist(), strict=True)))


def _trajectory(message: JointTrajectory, now_ns: int) -> Trajectory:
    """Convert a message; a zero header stamp means that it starts now. ValueError names what is wrong."""
    stamp_ns = RosTime.from_msg(message.header.stamp).nanoseconds
    widths = {len(point.positions) for point in message.points}
    if widths - {len(message.joint_names)}:
        raise ValueError(
            f"trajectory: points have {sorted(widths)} positions, expected {len(message.joint_names)}, one per joint"
        )
    offsets_s = [point.time_from_start.sec + point.time_from_start.nanosec / 1e9 for point in message.points]
    return Trajectory(
        tuple(message.joint_names),
        np.array(offsets_s) + (stamp_ns or now_ns) / 1e9,
        np.array([point.positions for point in message.points], np.float64).reshape(
            len(message.points), len(message.joint_names)
        ),
    )


def _stamp(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def run_simulation(node_type: type[SimulationNode], command: NodeCommand, args: list[str] | None) -> int:
    """Run a simulated robot until it is stopped; exit code 1: a thread of it failed."""
    nodes: list[SimulationNode] = []

    def make() -> SimulationNode:
        nodes.append(node_type())
        return nodes[0]

    exit_code = run_node(make, args, command)
    return 1 if nodes and nodes[0].has_failed else exit_code
