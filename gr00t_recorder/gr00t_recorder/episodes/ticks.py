# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn a stretch of time into an episode's rows; live recording and bag conversion both use it.

Tick k is `t0 + round(k * 1e9 / fps)`, where t0 is the stamp of the first image of the anchor camera at or after the
start. A tick is taken once it is settled, or once it has waited `max_lag_s` for a slow stream.
"""

from __future__ import annotations

from collections.abc import Iterator

from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.picking import PickedFrame
from gr00t_training.errors import ObservationError

DEFAULT_MAX_LAG_S = 1.0
END_OF_TIME_NS = 2**63 - 1


class EpisodeTicks:
    """The ticks of one episode, in order, each as soon as its samples are certain."""

    def __init__(self, assembler: FrameAssembler, start_ns: int, *, max_lag_s: float = DEFAULT_MAX_LAG_S) -> None:
        """Begin an episode at `start_ns` on the clock of receive times."""
        self.num_ticks = 0  # taken
        self.num_skipped = 0  # at the start, before every required input had come
        self.last_refusal = ""  # why the newest of them was skipped
        self.is_finished = False
        self._assembler = assembler
        self._anchor = assembler.topic_map.anchor_key
        self._start_ns = start_ns
        self._end_ns: int | None = None
        self._max_lag_ns = round(max_lag_s * 1e9)
        self._first_tick_ns: int | None = None
        self._previous: PickedFrame | None = None
        self._clock_resets = assembler.store.num_clock_resets()

    @property
    def is_stopped(self) -> bool:
        """Whether the episode's end is known."""
        return self._end_ns is not None

    def stop(self, end_ns: int) -> None:
        """Let the episode end at `end_ns`; ticks up to there still come out of `ready`."""
        self._end_ns = end_ns

    def ready(self, now_ns: int) -> Iterator[PickedFrame]:
        """Yield the frames that are certain at `now_ns` (`END_OF_TIME_NS`: nothing will come any more).

        Raises:
            ObservationError: a required input failed in mid-episode, or a clock was set back; the episode is finished.
        """
        while not self.is_finished and self._is_due(now_ns):
            tick_ns = self._next_tick_ns()
            try:
                picked = self._assembler.picker.pick(tick_ns, with_action=True)
            except ObservationError as error:
                if self.num_ticks:
                    self.is_finished = True
                    raise
                self.num_skipped = max(self.num_skipped + 1, self._first_possible(tick_ns, now_ns))
                self.last_refusal = str(error)
                continue
            if self._previous is not None:
                picked = self._assembler.picker.follow(picked, self._previous)
            self._previous = picked
            self.num_ticks += 1
            yield picked

    def _is_due(self, now_ns: int) -> bool:
        """Whether the next tick belongs to the episode and can be taken; finishes the episode where it ends."""
        if self._assembler.store.num_clock_resets() != self._clock_resets:
            self.is_finished = True
            raise ObservationError(f"a clock was set back during the episode: {self._assembler.store.clock_reset()}")
        if self._first_tick_ns is None:
            self._first_tick_ns = self._assembler.store.first_image(self._anchor, self._start_ns)
        if self._first_tick_ns is None:
            self.is_finished = self._end_ns is not None and now_ns >= self._end_ns + self._max_lag_ns
            return False
        tick_ns = self._next_tick_ns()
        if self._end_ns is not None and tick_ns > self._end_ns:
            self.is_finished = True
        elif not self._assembler.picker.is_settled(tick_ns) and now_ns < self._deadline_ns(tick_ns):
            return False
        elif not self._has_image(tick_ns, now_ns):
            self.is_finished = True
        return not self.is_finished

    def _next_tick_ns(self) -> int:
        assert self._first_tick_ns is not None
        k = self.num_ticks + self.num_skipped
        return self._first_tick_ns + round(k * 1e9 / self._assembler.embodiment.fps)

    def _first_possible(self, tick_ns: int, now_ns: int) -> int:
        """Return the number of the first tick after a refused one that the anchor camera can have an image for."""
        assert self._first_tick_ns is not None
        topic_map, fps = self._assembler.topic_map, self._assembler.embodiment.fps
        max_age_ns = round(1e9 * topic_map.streams[topic_map.video[self._anchor].stream].max_age_s)
        last_ns = self._assembler.store.last_image(self._anchor, tick_ns)
        if last_ns is not None and last_ns >= tick_ns - max_age_ns:
            return 0
        next_ns = self._assembler.store.first_image(self._anchor, tick_ns)
        # without an image: the first one that still waits for it
        first_ns = tick_ns + now_ns - self._deadline_ns(tick_ns) if next_ns is None else next_ns - max_age_ns
        return (first_ns - self._first_tick_ns) * fps // 10**9 if fps else 0

    def _deadline_ns(self, tick_ns: int) -> int:
        """Receive time up to which a tick waits; robust against a camera clock that runs apart from the node's."""
        due_ns = self._assembler.store.expected_arrival(self._anchor, tick_ns)
        return (tick_ns if due_ns is None else due_ns) + self._max_lag_ns

    def _has_image(self, tick_ns: int, now_ns: int) -> bool:
        """Whether the anchor camera reached the tick before the episode's end: rows do not outlast the images."""
        end_ns = self._end_ns
        if end_ns is None:
            if now_ns < END_OF_TIME_NS:
                return True
            end_ns = END_OF_TIME_NS
        half_tick_ns = round(0.5e9 / self._assembler.embodiment.fps)
        last_ns = self._assembler.store.last_image(self._anchor, end_ns + half_tick_ns)
        return last_ns is not None and last_ns >= tick_ns - half_tick_ns
