# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Detect that two publishers send the same channels of one stream, so that neither is blended with the other.

A joint_state_publisher next to a driver, two drivers, a looped bridge: each message is valid, and interpolation between
them gives a pose where the robot never was. Two kinds of evidence, and each must repeat, so that a restart of a
publisher, a latched message or a jump of a simulator is none:

- numbers of messages, where the middleware gives them (Jazzy with Fast DDS). One publisher counts its messages up, so
  the numbers of the messages that carry a channel rise, unless two publishers send it. It decides for any values.
- positions that alternate between two separate series. It works in bags and with any middleware, but needs positions
  that are apart by more than noise, and several alternations.

Publishers of different channels on one topic do not conflict.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gr00t_recorder.topics.layout import declared_turns
from gr00t_recorder.topics.units import UNITS, full_turn, is_rate
from gr00t_training.embodiment import VectorKey
from gr00t_training.io.text import printable

MEMORY_NS = 5_000_000_000  # evidence further apart does not add up
FADE_NS = 3_000_000_000  # a conflict lasts so long after the last evidence
NUM_FALLS = 2  # of the numbers; a restart of a publisher is one
NUM_ALTERNATIONS = 12  # of values alone; noise of any kind returns to the same two values less often
NUM_HINTED = 8  # where the topic has several publishers, or messages name their channels in two orders
MAX_ORDERS = 8  # of the channels in messages; more means that the order is random
MAX_RUN = 2  # messages in a row of the slower series; a gripper that opens and closes stays longer
NEAR = 0.2  # of the distance between two series: a value so near to one belongs to it
MIN_CONTRAST = 4.0  # of the distance between two series to the mean step within one
SMOOTHING = 0.1  # of the mean step, per message
NO_NUMBER = -1
UNSUPPORTED = 2**63  # a middleware without numbers gives 2**64 - 1
# Separation of two series by what a unit measures, in SI units: above encoder noise, below what would harm.
SEPARATION = {"angle": 0.02, "length": 0.005, "angular velocity": 0.5, "velocity": 0.2, "ratio": 0.05}


class PublisherWatch:
    """Watches the messages of one key, or of one camera. The caller holds the lock."""

    def __init__(self, names: Sequence[str], key: VectorKey | None = None) -> None:
        """Prepare for the channels of a key; no names and no key for a camera."""
        self._names = tuple(names)
        self._everything = np.arange(max(len(names), 1))
        self._separations = np.full(len(self._everything), np.inf) if key is None else separations(key)
        self._turn = None if key is None else _turn(key)
        self._looks_at_values = bool(np.isfinite(self._separations).any())
        self._largest_step = np.where(np.isfinite(self._separations), self._separations, 0.0)
        self.publishers: tuple[str, ...] = ()  # names of the nodes, from the ROS graph; empty: not known
        self.clear()

    def clear(self) -> None:
        """Forget everything: the clock was set back."""
        count = len(self._everything)
        self._numbers = np.full(count, NO_NUMBER, dtype=np.int64)  # of each channel's newest message
        self._fallen_ns: list[int] = []  # receive times of the newest falls of the numbers
        self._newest = np.full(count, np.nan)  # value of the series of the newest message
        self._other = np.full(count, np.nan)  # of the other series
        self._step = np.zeros(count)  # mean distance between two messages of a series
        self._run = np.zeros(count, dtype=np.int64)  # messages of the newest series in a row
        self._run_before = np.zeros(count, dtype=np.int64)
        self._alternations = np.zeros(count, dtype=np.int64)
        self._alternated_ns = np.zeros(count, dtype=np.int64)
        self._orders: dict[tuple[int, ...], int] = {}  # order of the channels in messages -> when it was seen
        self._proof_ns: int | None = None  # receive time of the newest evidence
        self._is_by_number = False
        self._channels: tuple[int, ...] = ()

    def note(
        self,
        receive_ns: int,
        *,
        number: int | None = None,
        indices: Sequence[int] | None = None,
        values: np.ndarray | None = None,
        order: tuple[int, ...] = (),
    ) -> None:
        """Add a message.

        Args:
            receive_ns: arrival.
            number: that its publisher gave it; None: not known.
            indices: its channels; None: all.
            values: (len(indices),) of them; None: a camera's.
            order: places of the channels in the message, where it names them.
        """
        chosen = self._everything if indices is None else np.asarray(indices)
        if number is not None and 0 <= number < UNSUPPORTED:
            self._note_number(chosen, number, receive_ns)
        if values is not None and self._looks_at_values:
            if order:
                self._orders[order] = receive_ns
            self._note_values(chosen, values, receive_ns)

    def is_conflict(self, now_ns: int) -> bool:
        """Whether two publishers send the same channels at `now_ns` of the clock of the receive times."""
        return self._proof_ns is not None and now_ns - self._proof_ns < FADE_NS

    def reason(self, topic: str) -> str:
        """Return what the newest conflict is about."""
        channels = f" ({', '.join(self._names[index] for index in self._channels)})" if self._names else ""
        count = len(self.publishers)
        senders = ", ".join(printable(name) for name in self.publishers)
        if self._is_by_number:
            who = f"{max(count, 2)} publishers send the same channels{channels} on {topic}"
        else:
            first, second = sorted((self._newest[self._channels[0]], self._other[self._channels[0]]))
            who = f"values{channels} on {topic} alternate between two series, such as {first:.3g} and {second:.3g}"
        if count == 1 and not self._is_by_number:
            return f"{who}; its only publisher {senders} sends both, correct that node"
        return f"{who}{f': {senders}' if count > 1 else ''}; stop all publishers of these channels but one"

    def _note_number(self, chosen: np.ndarray, number: int, receive_ns: int) -> None:
        has_fallen = self._numbers[chosen] >= number
        self._numbers[chosen] = number
        if not has_fallen.any():  # nearly always
            return
        self._fallen_ns = [each for each in self._fallen_ns if receive_ns - each < MEMORY_NS][-NUM_FALLS:]
        self._fallen_ns.append(receive_ns)
        if len(self._fallen_ns) >= NUM_FALLS:
            self._prove(receive_ns, chosen[has_fallen], is_by_number=True)

    def _note_values(self, chosen: np.ndarray, values: np.ndarray, receive_ns: int) -> None:
        distances = np.abs(values - self._newest[chosen])
        jumped = distances > self._separations[chosen]
        if not jumped.any():  # nearly always
            self._newest[chosen] = values
            self._run[chosen] += 1
            # the first one has no distance: fmin takes the other
            self._step[chosen] += SMOOTHING * (np.fmin(distances, self._largest_step[chosen]) - self._step[chosen])
            return
        calm = chosen[~jumped]
        self._newest[calm] = values[~jumped]
        self._run[calm] += 1
        proven = [
            channel
            for channel, value in zip(chosen[jumped].tolist(), values[jumped].tolist(), strict=True)
            if self._jump(channel, value, receive_ns)
        ]
        if proven:
            self._prove(receive_ns, np.array(proven), is_by_number=False)

    def _jump(self, channel: int, value: float, receive_ns: int) -> bool:
        """Follow a value that is not of the newest series; return whether the channel alternates."""
        newest, other = float(self._newest[channel]), float(self._other[channel])
        distance = self._distance(value, newest)
        is_step = distance <= NEAR * self._distance(other, newest)  # false while there is no other
        if is_step or distance <= self._separations[channel]:  # fast motion, or an angle that went past its full turn
            self._newest[channel] = value
            self._run[channel] += 1
            return False
        ended, before = int(self._run[channel]), int(self._run_before[channel])
        is_return = self._distance(value, other) <= NEAR * distance  # false while there is no other
        is_apart = distance >= MIN_CONTRAST * self._step[channel]
        is_recent = receive_ns - int(self._alternated_ns[channel]) < MEMORY_NS or not self._alternations[channel]
        if is_return and is_apart and is_recent and min(ended, before) <= MAX_RUN:
            self._alternations[channel] += 1
            self._alternated_ns[channel] = receive_ns
        else:
            self._alternations[channel] = 0
        self._newest[channel], self._other[channel] = value, newest
        self._run[channel], self._run_before[channel] = 1, ended
        return int(self._alternations[channel]) >= self._needed_alternations(receive_ns)

    def _distance(self, first: float, second: float) -> float:
        distance = abs(first - second)
        return distance if self._turn is None else abs((distance + self._turn / 2) % self._turn - self._turn / 2)

    def _needed_alternations(self, receive_ns: int) -> int:
        if len(self._orders) > MAX_ORDERS:
            self._orders.clear()
        orders = [order for order, seen_ns in self._orders.items() if receive_ns - seen_ns < MEMORY_NS]
        has_several = len(self.publishers) > 1 and bool((self._numbers == NO_NUMBER).all())  # else the numbers show it
        return NUM_HINTED if len(orders) == 2 or has_several else NUM_ALTERNATIONS

    def _prove(self, receive_ns: int, channels: np.ndarray, *, is_by_number: bool) -> None:
        # numbers say more than values do
        if is_by_number or not self._is_by_number or not self.is_conflict(receive_ns):
            self._is_by_number = is_by_number
            self._channels = tuple(int(channel) for channel in channels)
        self._proof_ns = receive_ns


def separations(key: VectorKey) -> np.ndarray:
    """Return the distances (N,) beyond which two series of a key's channels are apart, in its unit.

    Infinity for rotations, since their form may jump, and for quantities that change at any rate.
    """
    kind, size = UNITS.get(key.unit, ("", 1.0))
    least = SEPARATION.get(kind, np.inf) / size
    if not kind and not is_rate(key.unit):
        least = SEPARATION["ratio"]  # a unit of the user's: of some size, as far as we know
    found = np.full(key.dim, least)
    for turn in declared_turns(key):
        found[list(turn.channels)] = np.inf
    return found


def _turn(key: VectorKey) -> float | None:
    """Return a full turn in the key's unit; None if it is not an angle."""
    return full_turn(key.unit) if UNITS.get(key.unit, ("",))[0] == "angle" else None
