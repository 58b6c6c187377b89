# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the links of a URDF are for given joint positions.

The libraries that do this bring meshes or a rigid-body engine; a path needs the joints' frames only. Letters: `H` rows
of joint positions, which are computed at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gr00t_policy_node.urdf import JointElement, joint_elements
from gr00t_training.embodiment import Rotation
from gr00t_training.errors import ConfigError
from gr00t_training.rotations import to_matrix

TURNING, SLIDING, FIXED = ("revolute", "continuous"), ("prismatic",), ("fixed",)
MIN_ARM_JOINTS = 3  # a key with fewer commanded joints in one chain is a gripper, not an arm
MIN_AXIS = 1e-9


@dataclass(frozen=True)
class TreeJoint:
    """A joint of a URDF; its frame is that of its child when it is at zero."""

    name: str
    kind: str
    parent: str
    child: str
    origin: np.ndarray  # (4, 4) in the parent's frame
    axis: np.ndarray  # (3,) of length 1
    leader: str = ""  # of a mimic joint: its position is `factor` times that of this joint, plus `offset`
    factor: float = 1.0
    offset: float = 0.0

    def motion(self, position: np.ndarray) -> np.ndarray:
        """Return the frame (H, 4, 4) in which the joint puts its child; `position` is (H,) in rad or m."""
        moved = np.broadcast_to(np.eye(4), (len(position), 4, 4)).copy()
        if self.kind in TURNING:
            moved[:, :3, :3] = to_matrix(position[:, None] * self.axis, Rotation.AXIS_ANGLE)
        elif self.kind in SLIDING:
            moved[:, :3, 3] = position[:, None] * self.axis
        return self.origin @ moved


class UrdfTree:
    """Links and joints of a URDF."""

    def __init__(self, xml: str) -> None:
        """Read the joints.

        Raises:
            ConfigError: not a URDF, a joint without links or with unusable numbers, no link without a parent, or
                several.
        """
        joints = [_tree_joint(element) for element in joint_elements(xml)]
        self._above = {joint.child: joint for joint in joints}  # by link
        self._by_name = {joint.name: joint for joint in joints}
        roots = {joint.parent for joint in joints} - set(self._above)
        if len(roots) != 1:
            found = ", ".join(sorted(roots)) or "none"
            raise ConfigError(f"URDF: links without a parent are {found}, expected one; joints must form a tree")
        (self.root,) = roots

    def chain(self, tip: str) -> tuple[TreeJoint, ...]:
        """Return the joints from the root to a link.

        Raises:
            ConfigError: there is no such link, the joints form a loop, or one moves in another way than by an axis.
        """
        if tip not in self._above:
            known = ", ".join(sorted(self._above))
            raise ConfigError(f"link '{tip}' is no link of the URDF with a parent, expected one of {known}")
        found: list[TreeJoint] = []
        link = tip
        while link != self.root:
            joint = self._above[link]
            if joint in found:
                raise ConfigError(f"URDF: joint '{joint.name}' is part of a loop; joints must form a tree")
            if joint.kind not in (*TURNING, *SLIDING, *FIXED):
                raise ConfigError(
                    f"URDF: joint '{joint.name}' is {joint.kind}, which has no single axis; choose a link"
                )
            found.append(joint)
            link = joint.parent
        return tuple(reversed(found))

    def moving(self, tip: str) -> tuple[str, ...]:
        """Return the joints whose positions decide where a link is: of mimic joints their leaders."""
        names = (self._leader(joint)[0] for joint in self.chain(tip) if joint.kind not in FIXED)
        return tuple(dict.fromkeys(names))

    def frames(self, tip: str, positions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the frames (H, 4, 4) of a link in the root's frame.

        Args:
            tip: link.
            positions: by joint, (H,) in rad or m; those of `moving` are needed.
        """
        rows = max((len(positions[name]) for name in self.moving(tip)), default=1)
        frame = np.broadcast_to(np.eye(4), (rows, 4, 4))
        for joint in self.chain(tip):
            if joint.kind in FIXED:
                frame = frame @ joint.origin
                continue
            leader, factor, offset = self._leader(joint)
            frame = frame @ joint.motion(factor * positions[leader] + offset)
        return frame

    def hands(self, keys: Iterable[Iterable[str]]) -> tuple[str, ...]:
        """Return the link at the end of each arm.

        Args:
            keys: the commanded channels, an arm's together; channels that are no joints of the URDF do not count.
        """
        found = []
        for names in keys:
            joints = [self._by_name[name] for name in names if name in self._by_name]
            chains = {joint.name: {above.name for above in self.chain(joint.child)} for joint in joints}
            # the joint with the most of the others above it is the last one of the arm
            last = max(joints, key=lambda joint: len(chains[joint.name] & set(chains)), default=None)
            if last is not None and len(chains[last.name] & set(chains)) >= MIN_ARM_JOINTS:
                found.append(self._end(last.child))
        return tuple(dict.fromkeys(found))

    def _end(self, link: str) -> str:
        """Follow fixed joints as long as there is only one way, such as to a tool frame."""
        while True:
            below = [joint for joint in self._above.values() if joint.parent == link]
            if len(below) != 1 or below[0].kind not in FIXED:
                return link
            link = below[0].child

    def _leader(self, joint: TreeJoint) -> tuple[str, float, float]:
        factor, offset, seen = 1.0, 0.0, {joint.name}
        while joint.leader:
            factor, offset = factor * joint.factor, factor * joint.offset + offset
            leader = self._by_name.get(joint.leader)
            if leader is None or leader.name in seen:
                what = "is not in this URDF" if leader is None else "mimics it"
                raise ConfigError(f"URDF: joint '{joint.name}' mimics '{joint.leader}', which {what}")
            seen.add(leader.name)
            joint = leader
        return joint.name, factor, offset


def _tree_joint(element: JointElement) -> TreeJoint:
    parts = element.parts
    parent, child = (parts.get(tag, {}).get("link", "").strip() for tag in ("parent", "child"))
    if not element.name or not parent or not child:
        raise ConfigError(f"URDF: joint '{element.name}' needs a name, a parent link and a child link")
    mimic = parts.get("mimic", {})
    try:
        origin = np.eye(4)
        roll, pitch, yaw = _numbers(parts, "origin", "rpy", "0 0 0")
        origin[:3, :3] = to_matrix(np.array([yaw, pitch, roll]), Rotation.EULER_YPR)  # fixed axes x, y, z
        origin[:3, 3] = _numbers(parts, "origin", "xyz", "0 0 0")
        axis = _numbers(parts, "axis", "xyz", "1 0 0")
        length = float(np.linalg.norm(axis))
        if length < MIN_AXIS and element.kind not in FIXED:
            raise ValueError("axis has no direction")
        factor, offset = float(mimic.get("multiplier", "1")), float(mimic.get("offset", "0"))
        if not math.isfinite(factor + offset):
            raise ValueError("mimic is not finite")
    except ValueError as error:
        raise ConfigError(f"URDF: joint '{element.name}': {error}; run xacro first") from error
    leader = mimic.get("joint", "").strip()
    return TreeJoint(element.name, element.kind, parent, child, origin, axis / (length or 1.0), leader, factor, offset)


def _numbers(parts: Mapping[str, Mapping[str, str]], tag: str, name: str, absent: str) -> np.ndarray:
    text = parts.get(tag, {}).get(name, absent)
    values = np.array([float(word) for word in text.split()])
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ValueError(f"{tag} {name} is '{text}', expected three numbers")
    return values
