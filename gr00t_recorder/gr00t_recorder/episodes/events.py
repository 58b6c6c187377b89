# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Markers of episodes on a topic, as JSON text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

from gr00t_training.dataset.quality import Marks
from gr00t_training.errors import DatasetError, ObservationError
from gr00t_training.io.text import printable

NO_MARKS = Marks()


class EventKind(str, Enum):
    """What a marker on the events topic requests."""

    START = "start"
    STOP = "stop"
    DISCARD = "discard"
    TAKE_BACK = "take_back"  # the last one that was kept
    MARK = "mark"  # the running one, else the last one that was kept


@dataclass(frozen=True)
class EpisodeEvent:
    """One marker."""

    kind: EventKind
    task: str = ""
    marks: Marks = NO_MARKS
    reason: str = ""  # why an episode ended before a request
    back: int | None = None  # of a mark: how many kept episodes before the last one; None: the running or last one
    recorder: str = ""  # node that reports what it has done; empty: a request
    is_held: bool = False  # of a start: whether an input that stops coming keeps its last sample instead of ending it


def parse_event(text: str) -> EpisodeEvent:
    """Read a marker, JSON `{"event": "start"|"stop"|"discard"|"take_back"|"mark", "task": text}`.

    `take_back` removes the last episode that was kept from the dataset. `success`, `valid` (true or false) and
    `note` mark the episode; other members than those of `EpisodeEvent` are ignored.

    Raises:
        ObservationError: not such a marker.
    """
    try:
        members = json.loads(text)
        marks = Marks.of_report(members)
        back = members.get("back")
        return EpisodeEvent(
            EventKind(members["event"]),
            str(members.get("task") or ""),
            marks,
            reason=str(members.get("reason") or ""),
            back=None if back is None else int(back),
            recorder=str(members.get("recorder") or ""),
            is_held=members.get("is_held") is True,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, DatasetError) as error:
        raise ObservationError(
            f"episode marker '{printable(text)}': "
            'expected JSON {"event": "start", "stop", "discard", "take_back" or "mark", "task": text}'
        ) from error


def event_text(event: EpisodeEvent) -> str:
    """Return the marker that `parse_event` reads."""
    members = {"event": event.kind.value, "task": event.task, **event.marks.to_mapping(), "reason": event.reason}
    members |= {"recorder": event.recorder, "back": event.back, "is_held": event.is_held or None}
    return json.dumps({name: value for name, value in members.items() if value not in (None, "")}, ensure_ascii=False)
