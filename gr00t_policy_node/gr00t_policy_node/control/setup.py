# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a controller is made from: keys, limits, execution and stop rules, checked against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from gr00t_policy_node.chunking.motion import unit_rotation
from gr00t_policy_node.chunking.player import LARGEST, ChunkPlayer, Execution
from gr00t_policy_node.control.person import Request, TakeoverRules
from gr00t_policy_node.control.state import StopRules
from gr00t_policy_node.safety.guard import MotionGuard
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_recorder.topics.layout import declared_turns
from gr00t_recorder.topics.units import is_rate
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.errors import ConfigError


class ControlSetup:
    """Constants of one robot's control; nothing in it changes."""

    def __init__(
        self,
        embodiment: Embodiment,
        limits: Mapping[str, JointLimit],
        period_s: float,
        execution: Execution | None = None,
        stops: StopRules | None = None,
        takeover: TakeoverRules | None = None,
        poses: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Prepare for the action keys that the model of `embodiment` produces; arguments and errors of `Controller`."""
        self.keys: dict[str, VectorKey] = {key: embodiment.action[key] for key in embodiment.action_keys}
        names = [name for vector in self.keys.values() for name in vector.names]
        rates = [name for vector in self.keys.values() if is_rate(vector.unit) for name in vector.names]
        _check_keys(embodiment, self.keys, names, rates)
        self.period_s = period_s
        self._place = {name: place for place, name in enumerate(names)}
        self._rotations = [
            ([vector.names[channel] for channel in turn.channels], turn.form)
            for vector in self.keys.values()
            for turn in declared_turns(vector)
        ]
        self.guard = MotionGuard(names, limits, period_s, rates)
        self.is_measured = np.array([name not in rates for name in names], dtype=bool)
        self.measured_names = tuple(name for name in names if name not in rates)
        try:
            self.player = ChunkPlayer(self.keys, execution, self.guard.endless)
        except ValueError as error:
            raise ConfigError(f"limits: a joint is endless, but {error}; correct the limits or the unit") from error
        self.rules = stops or StopRules()
        self.takeover = takeover or TakeoverRules()
        safe_pose = _reachable_pose("safe_pose", self.rules.safe_pose, self.measured_names, names, limits)
        self.safe_pose = {names.index(name): position for name, position in safe_pose.items()}
        self.poses = {
            pose: _reachable_pose(f"poses: '{pose}'", positions, self.measured_names, names, limits)
            for pose, positions in (poses or {}).items()
        }
        for subject, pose in (
            ("safe_pose", safe_pose),
            *(("poses: '" + name + "'", each) for name, each in self.poses.items()),
        ):
            part = self.part_of_rotation(pose)
            if part:
                raise ConfigError(f"{subject}: {', '.join(part)} are one rotation; name all of them or none")
        own = [limits[name] for name in names]
        self.low, self.high = np.array([limit.min for limit in own]), np.array([limit.max for limit in own])  # (N,)
        self.speed = np.array([limit.max_velocity for limit in own])  # (N,) per second
        accelerations = [limit.max_acceleration for limit in own]
        self.acceleration = np.array([np.inf if each is None else each for each in accelerations])  # (N,)
        self.ends = np.cumsum([vector.dim for vector in self.keys.values()]).tolist()  # of the keys' channels
        places = zip(self.ends, self.keys.values(), strict=True)
        self._places = [slice(end - vector.dim, end) for end, vector in places]

    def nearest(self, target: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return the same target (N,) as near to the last command (N,) as angles and rotations allow."""
        motions = zip(self.player.motions.values(), self._places, strict=True)
        return np.concatenate([motion.nearest(target[place], last[place]) for motion, place in motions])

    def far(self, target: np.ndarray, last: np.ndarray) -> list[int]:
        """Return the places of positions that the robot does not reach in `align_s` at full speed."""
        is_far = np.abs(target - last) / self.speed > self.takeover.align_s
        return (is_far & self.is_measured).nonzero()[0].tolist()

    def clipped(self, target: np.ndarray) -> np.ndarray:
        """Return the target (N,) within the limits of positions."""
        return np.clip(target, self.low, self.high)

    def part_of_rotation(self, names: Collection[str]) -> list[str]:
        """Return the channels of a rotation of which only a part is among `names`, empty if there is none."""
        for rotation, _ in self._rotations:
            if 0 < sum(name in names for name in rotation) < len(rotation):
                return rotation
        return []

    def requested(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Return targets (N,), NaN where there is none, and rates (N,), zero where there is none.

        Raises:
            ValueError: a channel is unknown, named twice or only a part of a rotation; a number is not finite or too
                large; a rotation has no length.
        """
        named = [*request.names, *request.rate_names]
        if len(request.names) != len(request.positions) or len(request.rate_names) != len(request.rates):
            found = f"{len(request.positions)} positions and {len(request.rates)} rates"
            expected = f"{len(request.names)} and {len(request.rate_names)}"
            raise ValueError(f"{found}, expected {expected}: one per name")
        unknown = [name for name in named if name not in self._place]
        if unknown:
            raise ValueError(f"channel '{unknown[0]}' is not commanded; expected some of {', '.join(self.guard.names)}")
        if len(set(named)) != len(named):
            raise ValueError(f"a channel is named twice in {', '.join(named)}; expected each once")
        target, rates = np.full(len(self._place), np.nan), np.zeros(len(self._place))
        target[[self._place[name] for name in request.names]] = request.positions
        rates[[self._place[name] for name in request.rate_names]] = request.rates
        if not np.isfinite([*request.positions, *request.rates]).all():
            raise ValueError("a position or rate is not finite; expected numbers")
        largest = max(map(abs, [*request.positions, *request.rates]), default=0.0)
        if largest > LARGEST:
            raise ValueError(f"a position or rate is {largest:g}, which no joint can reach")
        own_rates = [name for name in request.rate_names if name not in self.measured_names]
        if own_rates:
            raise ValueError(f"'{own_rates[0]}' is a rate itself; send it among the positions")
        for names, form in self._rotations:
            given = [name for name in names if name in request.names]
            if len(given) not in (0, len(names)) or any(name in request.rate_names for name in names):
                raise ValueError(f"{', '.join(names)} are one rotation; expected positions of all of them")
            if given:
                places = [self._place[name] for name in names]
                target[places] = unit_rotation(target[places], form)
        return target, rates


def _check_keys(embodiment: Embodiment, keys: Mapping[str, VectorKey], names: list[str], rates: list[str]) -> None:
    for key, vector in keys.items():
        if not vector.is_absolute and vector.relative_to is None and not is_rate(vector.unit):
            raise ConfigError(
                f"embodiment '{embodiment.name}': action '{key}' is a difference (is_absolute: false) without "
                "'relative_to': it cannot be commanded; name the state in 'relative_to', or record absolute actions"
            )
    measured = {name for vector in embodiment.state.values() for name in vector.names}
    unmeasured = [name for name in names if name not in measured and name not in rates]
    if unmeasured:
        raise ConfigError(
            f"embodiment '{embodiment.name}': action channel '{unmeasured[0]}' has no state channel of that name, "
            "so its first command cannot start at the measured pose; use the same names for action and state channels"
        )


def _reachable_pose(
    subject: str,
    pose: Mapping[str, float],
    measured: Sequence[str],
    names: Sequence[str],
    limits: Mapping[str, JointLimit],
) -> dict[str, float]:
    """Return channel -> position; ConfigError when it cannot be reached."""
    for name, position in pose.items():
        if name not in measured:
            what = "a rate, which ends at zero" if name in names else "not commanded"
            raise ConfigError(f"{subject}: '{name}' is {what}; expected some of {', '.join(measured)}")
        limit = limits[name]
        if not limit.min <= position <= limit.max:
            raise ConfigError(
                f"{subject}: '{name}' is {position} (limits {limit.min} to {limit.max}); choose one inside"
            )
    return dict(pose)
