# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the start and end of the episodes in a bag, before any image is decoded.

Boundaries come from markers, service calls or pauses of a camera, or the bag is one episode. All give the same spans.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np

from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.episodes.events import EpisodeEvent, EventKind, parse_event
from gr00t_recorder.episodes.ticks import END_OF_TIME_NS
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_training.dataset.quality import Marks
from gr00t_training.errors import ConfigError, DatasetError, ObservationError
from gr00t_training.io.text import printable
from gr00t_training.settings import setting

SERVICE_EVENT_TOPIC = "/_service_event"
START_SERVICE_TYPE = "gr00t_msgs/srv/StartEpisode_Event"
STOP_SERVICE_TYPE = "gr00t_msgs/srv/StopEpisode_Event"
OWN_EVENTS = "/recorder/events"  # end of the topic name, for recorder nodes that do not put their name in events
EVENT_TYPE = "std_msgs/msg/String"
MAX_PROBED_EVENTS = 20  # messages of a topic, to detect markers
# error codes of StopEpisode that say that nothing ended: those of gr00t_msgs/msg/ErrorCode (NOT_ACTIVE, NOT_RECORDING)
# and, in bags of earlier versions, the service's own NOT_RECORDING. After every other code the episode was dropped.
NOT_STOPPED = (1, 100, 200)


class EpisodesBy(str, Enum):
    """How episode boundaries are found."""

    AUTO = "auto"  # markers if the bag has any, else the bag
    MARKERS = "markers"
    BAG = "bag"
    GAPS = "gaps"
    SERVICES = "services"


@dataclass(frozen=True)
class BoundarySettings:
    """How the episode boundaries of a bag are found."""

    episodes_by: EpisodesBy = setting(
        EpisodesBy.AUTO,
        "Episode boundaries: markers (of gr00t_recorder, else on the events topic), recorded service calls (services), "
        "gaps in the images, or one episode per bag; auto: markers if there are any, else the bag.",
    )
    gap_s: float = setting(2.0, "Pause that ends an episode, with gaps [s].", ge=0.05, le=86400.0)
    gap_stream: str = setting("", "With gaps: stream to search for pauses; empty: that of the anchor camera.")
    start_service: str = setting("", "Calls of this service start an episode; empty: the one of type StartEpisode.")
    stop_service: str = setting("", "Calls of this service end an episode; empty: the one of type StopEpisode.")
    discard_service: str = setting("", "Calls of this service end and discard an episode; empty: none.")


@dataclass(frozen=True)
class EpisodeSpan:
    """Start and end of an episode in a bag. Times are log times [ns]."""

    start_at_ns: int  # it starts before the first message logged then or later
    start_ns: int  # images stamped before that do not belong to it
    stop_at_ns: int  # its end is known before the first message logged then or later
    end_ns: int  # images stamped after that do not belong to it
    task: str = ""
    marks: Marks = field(default_factory=Marks)
    is_discarded: bool = False
    problem: str = ""  # why it ended without a stop marker
    reason: str = ""  # why the recorder ended it early when it was recorded


@dataclass
class Boundaries:
    """The episodes of a bag."""

    by: EpisodesBy
    spans: list[EpisodeSpan] = field(default_factory=list)  # in order, not overlapping
    complaints: list[str] = field(default_factory=list)  # what was ignored, and why
    is_held: bool = False  # whether the recorder held the last sample of an input that stopped
    notes: list[str] = field(default_factory=list)


def find_boundaries(bag: Bag, topic_map: TopicMap, settings: BoundarySettings) -> Boundaries:
    """Return the episodes of a bag.

    Raises:
        ConfigError: the settings name a stream or service that the topic map or bag does not have.
        DatasetError: the bag is damaged, or has no images.
    """
    by = settings.episodes_by
    topic = marker_topic(bag, topic_map) if by in (EpisodesBy.AUTO, EpisodesBy.MARKERS) else ""
    if by is EpisodesBy.AUTO:
        by = EpisodesBy.MARKERS if topic else EpisodesBy.BAG
    if by is EpisodesBy.MARKERS:
        if not topic and topic_map.events is None:
            raise ConfigError(
                "the topic map has no 'events' and the bag no markers of gr00t_recorder; name their stream, or use "
                "another way"
            )
        found = _by_events(by, *_marker_events(bag, topic))
        if topic_map.events is None or topic != absolute_topic(topic_map.streams[topic_map.events.stream].topic):
            found.notes.append(f"episodes, tasks and marks are those of {printable(topic)}")
        return found
    if by is EpisodesBy.SERVICES:
        return _by_events(by, *_service_events(bag, settings))
    return Boundaries(by, _by_pauses(bag, topic_map, settings if by is EpisodesBy.GAPS else None))


def absolute_topic(topic: str) -> str:
    """Return a topic name as bags have it; relative names of a topic map are in the root namespace."""
    return topic if topic.startswith("/") else "/" + topic


def marker_topic(bag: Bag, topic_map: TopicMap) -> str:
    """Return the topic of the episode markers, empty if the bag has none.

    Markers published by a recorder node take precedence over requests on the events topic: they say what happened.
    """
    asked = "" if topic_map.events is None else absolute_topic(topic_map.streams[topic_map.events.stream].topic)
    own = [name for name in sorted(bag.topics) if name != asked and is_own_events(bag, name)]
    if len(own) > 1:
        raise DatasetError(
            f"{bag.path}: markers of several recorders, on {', '.join(map(printable, own))}; name the right one as "
            "'events' of the topic map and rename the others, or use --episodes bag or gaps"
        )
    if own:
        return own[0]
    return asked if asked in bag.topics and bag.times([asked])[asked].size else ""


def is_own_events(bag: Bag, name: str) -> bool:
    """Whether a topic holds the markers that a recorder node published."""
    if bag.topics[name].type != EVENT_TYPE:
        return False
    try:
        messages = itertools.islice(bag.messages([name]), MAX_PROBED_EVENTS)
        events = [parse_event(bag.deserialize(message).data) for message in messages]
    except (ObservationError, DatasetError):
        return False
    return bool(events) and (name.endswith(OWN_EVENTS) or any(event.recorder for event in events))


def _marker_events(bag: Bag, topic: str) -> tuple[list[tuple[int, EpisodeEvent]], list[str]]:
    events: list[tuple[int, EpisodeEvent]] = []
    complaints = []
    for message in bag.messages([topic]):
        try:
            events.append((message.log_ns, parse_event(bag.deserialize(message).data)))
        except (ObservationError, DatasetError) as error:
            if isinstance(error, DatasetError) and not bag.allow_partial:
                raise
            complaints.append(f"at {message.log_ns}: {error}; ignored")
    return events, complaints


def _service_events(bag: Bag, settings: BoundarySettings) -> tuple[list[tuple[int, EpisodeEvent]], list[str]]:
    """Convert recorded calls to markers; refused calls are reported and ignored."""
    events: list[tuple[int, EpisodeEvent]] = []
    complaints: list[str] = []
    for service, kind in _services(bag, settings):
        for log_ns, request, response in _calls(bag, service + SERVICE_EVENT_TOPIC):
            code = getattr(response, "error_code", 0)
            has_ended = kind is not EventKind.START and code and code not in NOT_STOPPED
            if getattr(response, "success", True) is False or (code and not has_ended):
                complaints.append(f"at {log_ns}: the call of {service} was refused; ignored")
                continue
            is_dropped = has_ended or (kind is EventKind.STOP and getattr(request, "keep", True) is False)
            task, marks = str(getattr(request, "task", "")), _marks(getattr(request, "marks", None))
            events.append((log_ns, EpisodeEvent(EventKind.DISCARD if is_dropped else kind, task, marks)))
    return sorted(events, key=lambda event: event[0]), complaints


def _marks(message: Any) -> Marks:
    """Convert a gr00t_msgs/msg/EpisodeMarks."""
    said = {1: True, 2: False}  # its constants YES and NO
    if message is None:
        return Marks()
    return Marks(said.get(message.success), said.get(message.valid), str(message.note))


def _services(bag: Bag, settings: BoundarySettings) -> Iterator[tuple[str, EventKind]]:
    recorded = {
        name.removesuffix(SERVICE_EVENT_TOPIC): topic.type
        for name, topic in bag.topics.items()
        if name.endswith(SERVICE_EVENT_TOPIC)
    }
    wanted = [
        (settings.start_service, START_SERVICE_TYPE, EventKind.START),
        (settings.stop_service, STOP_SERVICE_TYPE, EventKind.STOP),
        (settings.discard_service, "", EventKind.DISCARD),
    ]
    for name, kind, event in wanted:
        found = [service for service, found in recorded.items() if service == absolute_topic(name) or found == kind]
        if name and absolute_topic(name) in found:
            yield absolute_topic(name), event
        elif not name and len(found) == 1:
            yield found[0], event
        elif name or kind:
            option = f"--{event.value}-service"
            what = f"service {absolute_topic(name)}" if name else f"{'several' if found else 'no'} services {kind}"
            raise ConfigError(
                f"{bag.path}: {what}: the bag has the events of {', '.join(sorted(recorded)) or 'no service'}; name "
                f"one with {option}, and record with service introspection on"
            )


def _calls(bag: Bag, topic: str) -> list[tuple[int, Any, Any]]:
    """Return log time, request and response of each call; None for a part that was not recorded."""
    calls: dict[tuple[bytes, int], list[Any]] = {}
    for message in bag.messages([topic]):
        event = bag.deserialize(message)
        call = calls.setdefault(
            (bytes(event.info.client_gid), event.info.sequence_number), [message.log_ns, None, None]
        )
        call[1] = event.request[0] if len(event.request) else call[1]
        call[2] = event.response[0] if len(event.response) else call[2]
    return [(log_ns, request, response) for log_ns, request, response in calls.values()]


def _by_events(by: EpisodesBy, events: list[tuple[int, EpisodeEvent]], complaints: list[str]) -> Boundaries:
    found = Boundaries(by, complaints=complaints)
    start: tuple[int, EpisodeEvent] | None = None
    for log_ns, event in events:
        kept = _kept_places(found.spans)
        if event.kind is EventKind.MARK and start is not None and event.back is None:
            start = start[0], replace(start[1], marks=start[1].marks.updated(event.marks))
        elif event.kind is EventKind.MARK and 0 <= (event.back or 0) < len(kept):
            place = kept[-1 - (event.back or 0)]
            found.spans[place] = replace(found.spans[place], marks=found.spans[place].marks.updated(event.marks))
        elif event.kind is EventKind.TAKE_BACK and start is None and kept:
            found.spans[kept[-1]] = replace(found.spans[kept[-1]], is_discarded=True)
        elif event.kind in (EventKind.TAKE_BACK, EventKind.MARK) or (event.kind is EventKind.START) is (
            start is not None
        ):
            found.complaints.append(f"at {log_ns}: '{event.kind.value}' out of place; ignored")
        elif start is None:
            start = (log_ns, event)
            found.is_held = found.is_held or event.is_held
        else:
            found.spans.append(_span(start, log_ns, event))
            start = None
    if start is not None:
        found.spans.append(_span(start, END_OF_TIME_NS, None))
    return found


def _kept_places(spans: list[EpisodeSpan]) -> list[int]:
    return [place for place, span in enumerate(spans) if not span.is_discarded]


def _span(start: tuple[int, EpisodeEvent], stop_ns: int, stop: EpisodeEvent | None) -> EpisodeSpan:
    start_ns, event = start
    return EpisodeSpan(
        start_at_ns=start_ns,
        start_ns=start_ns,
        stop_at_ns=stop_ns,
        end_ns=stop_ns,
        task=event.task,
        marks=event.marks.updated(stop.marks) if stop else event.marks,
        is_discarded=stop is not None and stop.kind is EventKind.DISCARD,
        problem="" if stop else "the bag ends before the episode's stop marker",
        reason=stop.reason if stop else "",
    )


def _by_pauses(bag: Bag, topic_map: TopicMap, gaps: BoundarySettings | None) -> list[EpisodeSpan]:
    """Split at pauses of a stream; without `gaps` the bag is one episode."""
    stream = topic_map.video[topic_map.anchor_key].stream
    if gaps and gaps.gap_stream:
        stream = gaps.gap_stream
        if stream not in topic_map.streams:
            raise ConfigError(
                f"gap_stream '{stream}' is not a stream of the topic map ({', '.join(topic_map.streams)})"
            )
    topic = absolute_topic(topic_map.streams[stream].topic)
    times = bag.times([topic])[topic]
    if not times.size:
        raise DatasetError(
            f"{bag.path}: no message on {topic} (stream '{stream}'), so no episode starts; check the recording"
        )
    pauses = np.flatnonzero(np.diff(times) > gaps.gap_s * 1e9) if gaps else []
    spans: list[EpisodeSpan] = []
    start_at_ns = start_ns = 0
    for last in pauses:
        middle_ns = int(times[last] + (times[last + 1] - times[last]) // 2)
        spans.append(EpisodeSpan(start_at_ns, start_ns, int(times[last]), middle_ns))
        start_at_ns, start_ns = int(times[last + 1]), middle_ns
    return [*spans, EpisodeSpan(start_at_ns, start_ns, int(times[-1]), END_OF_TIME_NS)]
