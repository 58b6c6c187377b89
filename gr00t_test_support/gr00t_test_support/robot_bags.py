# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags of a made-up robot with two arms and three cameras, in each of the ways in which such robots are commanded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rosbags.typesys import get_types_from_msg

from gr00t_test_support.bag_builder import IMAGE, JOINT_STATE, MS, START_NS, STEP_NS, ToyBag, numbered_image

ARM = ["shoulder", "elbow", "wrist", "gripper"]
STEPS = 20
FLOATS, TRAJECTORY = "std_msgs/msg/Float64MultiArray", "trajectory_msgs/msg/JointTrajectory"


def position(side: str, joint: str, seconds: float, *, command: bool = False) -> float:
    """Return what a joint of the made-up robot is, or is commanded to be [rad]."""
    return (-5 if side == "right" else 1) + ARM.index(joint) + seconds * (0.5 if command else 0.25)


class Robot(ToyBag):
    """A bag of two arms, each with a joint publisher and a separate way to command it, and three cameras."""

    def state(self, topic: str, side: str, offset_ns: int, names: Sequence[str], *, command: bool = False) -> ToyBag:
        """Add joint states of one arm."""
        seconds = offset_ns / 1e9
        values = np.array([position(side, name.split("_")[-1], seconds, command=command) for name in names])
        message = self.make(JOINT_STATE, header=self.header(START_NS + offset_ns), name=list(names), position=values,
                            velocity=np.zeros(0), effort=np.zeros(0))  # fmt: skip
        return self.add(START_NS + offset_ns + MS, topic, JOINT_STATE, message)

    def array(self, topic: str, side: str, offset_ns: int, sides: Sequence[str] | None = None) -> ToyBag:
        """Add commands of one arm, or of several, without names."""
        seconds = offset_ns / 1e9
        values = [position(each, name, seconds, command=True) for each in sides or [side] for name in ARM]
        layout = self.make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
        return self.add(
            START_NS + offset_ns + MS, topic, FLOATS, self.make(FLOATS, layout=layout, data=np.array(values))
        )

    def trajectory(self, topic: str, side: str, offset_ns: int, names: Sequence[str]) -> ToyBag:
        """Add a trajectory of one point for one arm."""
        values = np.array([position(side, name.split("_")[-1], offset_ns / 1e9, command=True) for name in names])
        duration = self.make("builtin_interfaces/msg/Duration", sec=0, nanosec=10**8)
        empty = {"velocities": np.zeros(0), "accelerations": np.zeros(0), "effort": np.zeros(0)}
        point = self.make(
            "trajectory_msgs/msg/JointTrajectoryPoint", positions=values, time_from_start=duration, **empty
        )
        message = self.make(
            TRAJECTORY, header=self.header(START_NS + offset_ns), joint_names=list(names), points=[point]
        )
        return self.add(START_NS + offset_ns + MS, topic, TRAJECTORY, message)

    def custom(self, topic: str, side: str, offset_ns: int) -> ToyBag:
        """Add commands of one arm in a type of the lab's own."""
        kind = "lab_msgs/msg/ArmGoal"
        if kind not in self.store.types:
            self.store.register(
                get_types_from_msg("std_msgs/Header header\nstring[] joints\nfloat64[] goal_positions\n", kind)
            )
        values = np.array([position(side, name, offset_ns / 1e9, command=True) for name in ARM])
        message = self.make(kind, header=self.header(START_NS + offset_ns), joints=list(ARM), goal_positions=values)
        return self.add(START_NS + offset_ns + MS, topic, kind, message)

    def look(self, topic: str, step: int, offset_ns: int = 0, *, stamp_ns: int | None = None) -> ToyBag:
        """Add an image that shows the number of a step."""
        image = numbered_image(step)
        stamp_ns = START_NS + step * STEP_NS + offset_ns if stamp_ns is None else stamp_ns
        message = self.make(IMAGE, header=self.header(stamp_ns), height=image.shape[0], width=image.shape[1],
                            encoding="rgb8", is_bigendian=0, step=image.shape[1] * 3,
                            data=image.reshape(-1))  # fmt: skip
        return self.add(START_NS + step * STEP_NS + 10 * MS, topic, IMAGE, message)


def bimanual(
    commands: Callable[[Robot, int], None], *, wrist_stamp: Callable[[int], int] | None = None, steps: int = STEPS
) -> Robot:
    """Return a bag of the robot at work.

    Args:
        commands: adds the commands of a time [ns].
        wrist_stamp: stamp of the right wrist camera at a step [ns]; None: as of the other cameras.
        steps: images of each camera, at 10 Hz.
    """
    bag = Robot()
    bag.text("/task", 0, "fold the towel")
    for step in range(steps):
        for part in range(5):
            offset = step * STEP_NS + part * 20 * MS
            for side in ("left", "right"):
                bag.state(f"/{side}/follower/joint_states", side, offset, ARM)
        commands(bag, step * STEP_NS)
        for camera in ("/head/image_raw", "/left/wrist_camera/image_raw", "/right/wrist_camera/image_raw"):
            stamp = wrist_stamp(step) if wrist_stamp and "right" in camera else None
            bag.look(camera, step, stamp_ns=stamp)
    return bag


def leaders(bag: Robot, offset: int) -> None:
    """Add joint states of leader arms that a person moves."""
    for side in ("left", "right"):
        bag.state(f"/{side}/leader/joint_states", side, offset, ARM, command=True)


def arrays(bag: Robot, offset: int) -> None:
    """Add an array for each arm."""
    for side in ("left", "right"):
        bag.array(f"/{side}/position_controller/commands", side, offset)


def one_array(bag: Robot, offset: int) -> None:
    """Add one array for both arms."""
    bag.array("/position_controller/commands", "", offset, ["left", "right"])


def trajectories(bag: Robot, offset: int) -> None:
    """Add a trajectory for each arm, joints in another order."""
    for side in ("left", "right"):
        bag.trajectory(f"/{side}/arm_controller/joint_trajectory", side, offset, ARM[::-1])


def goals(bag: Robot, offset: int) -> None:
    """Add commands of a custom type for each arm."""
    for side in ("left", "right"):
        bag.custom(f"/{side}/arm/goal", side, offset)
