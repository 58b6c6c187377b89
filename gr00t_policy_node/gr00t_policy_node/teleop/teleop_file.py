# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`teleop.yaml`: which device a person uses, and what its joints, axes, buttons and keys mean for the robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gr00t_training.embodiment import Rotation
from gr00t_training.rotations import WIDTHS
from gr00t_training.settings import setting


class EngageBy(str, Enum):
    """What the engage button of a joystick does."""

    TOGGLE = "toggle"  # each press changes who commands
    HOLD = "hold"  # the person commands while it is down


@dataclass(frozen=True)
class LeaderJoint:
    """How one channel of the robot follows a joint of the leader: scale * position + offset."""

    joint: str = setting("", "Joint of the leader; empty: it has the channel's name.")
    topic: str = setting("", "Topic of this joint, as of the second arm of two; empty: that of the leader.")
    scale: float = setting(1.0, "Unit of the channel per unit of the leader's joint; negative turns around.")
    offset: float = setting(0.0, "Added after scaling [unit of the channel].")
    deadband: float = setting(0.0, "Smaller changes are ignored [unit of the channel].", ge=0.0)


@dataclass(frozen=True)
class Leader:
    """A leader arm, or anything else that publishes the positions of joints."""

    joints: Mapping[str, LeaderJoint] = setting(description="By channel of the robot.")
    topic: str = setting("leader/joint_states", "Topic of its sensor_msgs/msg/JointState.")
    max_age_s: float = setting(0.1, "Joints in several messages: the oldest must be younger [s].", ge=0.001, le=10.0)

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that a joint comes from."""
        return tuple(dict.fromkeys(joint.topic or self.topic for joint in self.joints.values()))


@dataclass(frozen=True)
class Axis:
    """A stick."""

    axis: int = setting(description="Index among the axes of sensor_msgs/msg/Joy.", ge=0, le=255)
    rate: float = setting(description="At full deflection [unit of the channel per second]; negative turns around.")
    deadband: float = setting(0.1, "Smaller deflections count as zero.", ge=0.0, le=0.99)
    is_velocity: bool = setting(False, "The channel is a velocity itself, such as that of a base.")


@dataclass(frozen=True)
class ButtonPair:
    """Two buttons that move a channel back and forth."""

    rate: float = setting(description="While 'plus' is down [unit of the channel per second].")
    plus: int = setting(description="Index among the buttons.", ge=0, le=255)
    minus: int = setting(-1, "Index of the button for the other direction; -1: none.", ge=-1, le=255)


@dataclass(frozen=True)
class Gamepad:
    """A gamepad: channels move while a stick or a button is pressed."""

    topic: str = setting("joy", "Topic of its sensor_msgs/msg/Joy; set autorepeat_rate of joy_node above 20 Hz.")
    axes: Mapping[str, Axis] = setting(default_factory=dict, description="By channel of the robot.")
    buttons: Mapping[str, ButtonPair] = setting(default_factory=dict, description="By channel of the robot.")


@dataclass(frozen=True)
class Key:
    """A key that moves a channel."""

    channel: str = setting(description="Channel of the robot.")
    rate: float = setting(description="[unit of the channel per second]")


@dataclass(frozen=True)
class Keyboard:
    """The keyboard of the terminal: space engages and disengages, keys move channels."""

    keys: Mapping[str, Key] = setting(description="By character.")
    hold_s: float = setting(0.15, "A press moves for so long; the terminal repeats a held key [s].", ge=0.02, le=2.0)


@dataclass(frozen=True)
class PoseTool:
    """A VR controller, a phone or another tool that publishes poses, for robots that take Cartesian commands."""

    position: tuple[str, ...] = setting(description="Channels of the robot for x, y and z.")
    topic: str = setting("pose", "Topic of its geometry_msgs/msg/PoseStamped, at 20 Hz or more.")
    frame_id: str = setting("", "Frame that its poses must have; empty: any.")
    robot_topic: str = setting(
        "",
        "PoseStamped of the robot: the tool moves it from where both were when the person engaged; empty: the tool's "
        "poses are where the robot must be.",
    )
    scale: float = setting(1.0, "With robot_topic, way of the robot per way of the tool.", ge=0.0, le=100.0)
    rotation: tuple[str, ...] = setting((), "Channels of the robot for the rotation; empty: it stays as it is.")
    rotation_form: Rotation = setting(Rotation.QUATERNION, "Form of the rotation in these channels.")


@dataclass(frozen=True)
class TeleopFile:
    """Content of `teleop.yaml`: one device, and a button that engages it."""

    name: str = setting(description="Name of the device, as others see it.")
    leader: Leader | None = setting(None, "A leader arm.")
    gamepad: Gamepad | None = setting(None, "A gamepad.")
    keyboard: Keyboard | None = setting(None, "The keyboard.")
    pose: PoseTool | None = setting(None, "A tool that publishes poses.")
    engage_topic: str = setting("", "Joystick or pedal with the engage button; empty: the gamepad's topic, or none.")
    engage_button: int = setting(-1, "Its index among the buttons; -1: only ~/engage, or space.", ge=-1, le=255)
    engage_by: EngageBy = setting(EngageBy.TOGGLE, "toggle: at each press; hold: while it is down.")

    def __post_init__(self) -> None:
        given = [name for name in ("leader", "gamepad", "keyboard", "pose") if getattr(self, name) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none of them"
            raise ValueError(
                f"found {found}, expected one of leader, gamepad, keyboard and pose; use a file per device"
            )
        if not self.name.strip():
            raise ValueError("name is empty; say which device it is")
        if self.leader is not None and not self.leader.joints:
            raise ValueError("leader: 'joints' is empty; name the channels that follow")
        if self.gamepad is not None and not (self.gamepad.axes or self.gamepad.buttons):
            raise ValueError("gamepad: neither axes nor buttons are named; nothing would move")
        both = set(self.gamepad.axes) & set(self.gamepad.buttons) if self.gamepad is not None else set()
        if both:
            raise ValueError(f"gamepad: '{min(both)}' has an axis and buttons; keep one of them")
        if self.keyboard is not None:
            wrong = [key for key in self.keyboard.keys if len(key) != 1 or key == " " or not key.isprintable()]
            if wrong or not self.keyboard.keys:
                raise ValueError(f"keyboard: found keys {wrong}, expected single characters other than space")
        if self.pose is not None:
            _check_channels(self.pose)
        if self.engage_topic and self.engage_button < 0:
            raise ValueError("engage_topic is set, engage_button is not; name the button")
        if self.engage_button >= 0 and not self.joystick_topic:
            raise ValueError("engage_button is set, but there is no joystick; set engage_topic")

    @property
    def joystick_topic(self) -> str:
        """Topic of the engage button; empty: none."""
        return self.engage_topic or (self.gamepad.topic if self.gamepad is not None else "")


def _check_channels(tool: PoseTool) -> None:
    if len(tool.position) != 3:
        raise ValueError(f"pose: 'position' names {len(tool.position)} channels, expected 3, for x, y and z")
    width = WIDTHS[tool.rotation_form]
    if len(tool.rotation) not in (0, width):
        form = tool.rotation_form.value
        raise ValueError(f"pose: 'rotation' names {len(tool.rotation)} channels, expected none, or {width} for {form}")
