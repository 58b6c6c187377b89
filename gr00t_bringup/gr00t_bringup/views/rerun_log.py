# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A running robot as a Rerun recording: pictures, joints, predicted chunks, statuses.

Every row has two times: `ros_time`, its stamp on the robot's clock, and `tick`, how many periods of the embodiment it
is after the first stamp. Rows of joints are collected and sent together a few times a second: a call per message would
cost more than the message. All methods may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gr00t_bringup.views.joints import JointRow
from gr00t_bringup.views.notes import Line, PolicyNote, RecorderNote, policy_lines, recorder_lines
from gr00t_training.dataset.view.rerun import rerun_library
from gr00t_training.errors import ConfigError

APPLICATION = "gr00t_view"
ROS_TIME, TICK = "ros_time", "tick"
CONNECT_TIMEOUT_S = 5.0
LIMIT_PERIOD_NS = 1_000_000_000  # between two points of the line of a limit
SHOWN_S = 10.0  # of the curves, before and after the cursor
MAX_SLOTS = 8  # chunks that overlap in time and are shown apart
MAX_ROWS = 20_000  # of one curve that wait to be sent; older ones are dropped
STYLES = {  # color, width
    "state": ([38, 110, 190], 2.0),
    "command": ([224, 124, 20], 1.5),
    "action": ([130, 90, 170], 1.5),
    "low": ([200, 40, 40], 1.0),
    "high": ([200, 40, 40], 1.0),
    "chunk": ([40, 150, 80], 1.0),
}


@dataclass(frozen=True)
class RerunTarget:
    """Where the recording goes; several are possible."""

    save: Path | None = None
    connect: str | None = None  # URL of a viewer
    spawn: bool = False  # start a viewer on this machine


class RerunLog:
    """Writes to Rerun."""

    def __init__(self, target: RerunTarget, rows: Sequence[JointRow], cameras: Sequence[str], step_ns: int) -> None:
        """Open the recording.

        Args:
            target: where it goes.
            rows: channels that are shown, with limits.
            cameras: keys.
            step_ns: period of the embodiment, the length of a tick.

        Raises:
            ConfigError: Rerun is not installed, the file exists or cannot be written, or no viewer answers.
        """
        self._rerun = rerun_library(ConfigError, "or use the operator page: gr00t console")
        self._step_ns = step_ns
        self._entities = {row.name: self._path("joints", row.key, row.name) for row in rows}
        self._limits = {row.name: _limits(row) for row in rows}
        self._limits_ns: dict[str, int] = {}
        self._origin_ns: int | None = None
        self._slots: list[int] = []  # end of the newest chunk of each
        self._curves: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._notes: dict[str, Any] = {}
        self._named: set[str] = set()  # entities with the names of their curves
        self._lock = threading.Lock()
        self._recording = _open(self._rerun, target, _blueprint(self._rerun, rows, cameras, self._entities))
        for name, entity in self._entities.items():
            for part in ("state", "command", "action", *self._limits[name]):
                self._style(f"{entity}/{part}", part)

    def picture(self, camera: str, stamp_ns: int, jpeg: bytes) -> None:
        """Show a picture."""
        columns = self._rerun.EncodedImage.columns(blob=[jpeg], media_type=["image/jpeg"])
        self._send(self._path("cameras", camera), [stamp_ns], columns)

    def joints(self, part: str, stamp_ns: int, values: Mapping[str, float]) -> None:
        """Add values by channel to the curves `state`, `command` or `action`."""
        with self._lock:
            for name, value in values.items():
                entity = self._entities.get(name)
                if entity is None:
                    continue
                self._add(f"{entity}/{part}", stamp_ns, value)
                if stamp_ns - self._limits_ns.get(name, -LIMIT_PERIOD_NS) >= LIMIT_PERIOD_NS:
                    self._limits_ns[name] = stamp_ns
                    for limit, at in self._limits[name].items():
                        self._add(f"{entity}/{limit}", stamp_ns, at)

    def chunk(self, start_ns: int, step_ns: int, names: Sequence[str], rows: np.ndarray) -> None:
        """Show a predicted chunk at the times when its rows are due; `rows` is (H, N) in units of the channels."""
        stamps = [start_ns + i * step_ns for i in range(len(rows) + 1)]
        slot, is_new = self._slot(stamps[0], stamps[-1])
        for column, name in enumerate(names):
            entity = f"{self._entities[name]}/chunk_{slot}" if name in self._entities else ""
            if entity and is_new:
                self._style(entity, "chunk")
            if entity:
                # the row that is not a number ends the line: the next chunk of this slot is another one
                values = np.append(rows[:, column].astype(np.float64), np.nan)
                self._send(entity, stamps, self._rerun.Scalars.columns(scalars=values))

    def policy(self, note: PolicyNote) -> None:
        """Show the status of a policy node, and a line for what has changed."""
        before = self._remember("policy", note)
        for stage, values in note.latencies_s.items():
            self._quantiles(self._path("policy", "latency", stage), stage, note.stamp_ns, values)
        for kind, causes in note.counts.items():
            self._number(self._path("policy", "counts", kind), note.stamp_ns, sum(causes.values()))
        self._note("policy", note, list(policy_lines(before, note)))

    def recorder(self, note: RecorderNote) -> None:
        """Show the status of a recorder, and a line for what has changed."""
        before = self._remember("recorder", note)
        self._note("recorder", note, list(recorder_lines(before, note)))

    def text(self, entity: str, stamp_ns: int, line: Line) -> None:
        """Add a line to a log."""
        columns = self._rerun.TextLog.columns(text=[line.text], level=[line.level.value])
        self._send(entity, [stamp_ns], columns)

    def flush(self) -> None:
        """Send the rows of the curves that have come since the last call."""
        with self._lock:
            curves, self._curves = self._curves, defaultdict(list)
        for entity, found in curves.items():
            values = np.array([value for _, value in found], np.float64)
            self._send(entity, [stamp_ns for stamp_ns, _ in found], self._rerun.Scalars.columns(scalars=values))

    def close(self) -> None:
        """Send what is left and end the recording."""
        self.flush()
        self._recording.flush()
        self._recording.disconnect()

    def _note(self, node: str, note: PolicyNote | RecorderNote, lines: Sequence[Line]) -> None:
        for line in lines:
            self.text(f"{node}/log", note.stamp_ns, line)
        for name, total in note.totals.items():
            self._number(self._path(node, "totals", name), note.stamp_ns, total)
        for stream, age_s in note.ages_s.items():
            self._number(self._path(node, "ages", stream), note.stamp_ns, age_s)

    def _remember(self, node: str, note: Any) -> Any:
        with self._lock:
            before, self._notes[node] = self._notes.get(node), note
        return before

    def _slot(self, start_ns: int, end_ns: int) -> tuple[int, bool]:
        """Return a curve that no chunk of this time is on, and whether it is new."""
        with self._lock:
            free = [i for i, end in enumerate(self._slots) if end < start_ns]
            is_new = not free and len(self._slots) < MAX_SLOTS
            if is_new:
                self._slots.append(end_ns)
                return len(self._slots) - 1, True
            slot = free[0] if free else self._slots.index(min(self._slots))
            self._slots[slot] = end_ns
            return slot, False

    def _add(self, entity: str, stamp_ns: int, value: float) -> None:
        curve = self._curves[entity]
        curve.append((stamp_ns, value))
        if len(curve) > MAX_ROWS:
            del curve[: MAX_ROWS // 2]

    def _number(self, entity: str, stamp_ns: int, value: float) -> None:
        self._send(entity, [stamp_ns], self._rerun.Scalars.columns(scalars=[float(value)]))

    def _quantiles(self, entity: str, name: str, stamp_ns: int, values: tuple[float, float]) -> None:
        if entity not in self._named:
            self._named.add(entity)
            names = [f"{name} p50", f"{name} p95"]
            self._recording.log(entity, self._rerun.SeriesLines(names=names), static=True)
        columns = self._rerun.Scalars.columns(scalars=np.array(values, np.float64))
        self._send(entity, [stamp_ns], columns.partition([len(values)]))

    def _style(self, entity: str, part: str) -> None:
        color, width = STYLES[part]
        self._recording.log(entity, self._rerun.SeriesLines(colors=[color], widths=[width], names=[part]), static=True)

    def _send(self, entity: str, stamps_ns: Sequence[int], columns: Any) -> None:
        with self._lock:
            if self._origin_ns is None:
                self._origin_ns = min(stamps_ns)
            origin_ns = self._origin_ns
        stamps = np.array(stamps_ns, np.int64)
        times = [
            self._rerun.TimeColumn(ROS_TIME, timestamp=stamps.astype("datetime64[ns]")),
            self._rerun.TimeColumn(TICK, sequence=(stamps - origin_ns) // self._step_ns),
        ]
        self._recording.send_columns(entity, times, columns)

    def _path(self, *parts: str) -> str:
        return self._rerun.new_entity_path(list(parts))


def _limits(row: JointRow) -> dict[str, float]:
    return {part: value for part, value in (("low", row.low), ("high", row.high)) if value is not None}


def _open(rerun: ModuleType, target: RerunTarget, blueprint: Any) -> Any:
    recording = rerun.RecordingStream(APPLICATION)
    sinks = []
    if target.save is not None:
        sinks.append(_file_sink(rerun, target.save))
    if target.spawn:
        try:
            recording.spawn(connect=False)
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"the Rerun viewer does not start ({error}); use --save FILE or --connect URL") from error
    if target.spawn or target.connect is not None:
        sinks.append(rerun.GrpcSink(target.connect))
    try:
        recording.set_sinks(*sinks)
        recording.send_blueprint(blueprint)
        recording.flush(timeout_sec=CONNECT_TIMEOUT_S)
    except (OSError, RuntimeError, ValueError) as error:
        where = target.connect or ("the viewer of this machine" if target.spawn else target.save)
        raise ConfigError(f"{where}: Rerun cannot send there ({error}); is the viewer open?") from error
    return recording


def _file_sink(rerun: ModuleType, path: Path) -> Any:
    if path.exists():
        raise ConfigError(f"{path}: exists; choose another name or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); check path and rights") from error
    return rerun.FileSink(path)


def _blueprint(rerun: ModuleType, rows: Sequence[JointRow], cameras: Sequence[str], entities: Mapping[str, str]) -> Any:
    """Return the arrangement: cameras on the left, a plot per joint in a tab per key, statuses below."""
    import rerun.blueprint as views  # pyright: ignore[reportMissingImports]

    newest = views.VisibleTimeRange(
        ROS_TIME,
        start=views.TimeRangeBoundary.cursor_relative(seconds=-SHOWN_S),
        end=views.TimeRangeBoundary.cursor_relative(seconds=SHOWN_S),
    )

    def plot(row: JointRow, has_legend: bool) -> Any:
        legend = views.PlotLegend(visible=has_legend)
        name = f"{row.name} [{row.unit}]"
        return views.TimeSeriesView(origin=entities[row.name], name=name, plot_legend=legend, time_ranges=newest)

    tabs = []
    for key in dict.fromkeys(row.key for row in rows):
        own = [row for row in rows if row.key == key]
        tabs.append(views.Grid(*(plot(row, row is own[0]) for row in own), name=key))
    pictures = [
        views.Spatial2DView(origin=rerun.new_entity_path(["cameras", camera]), name=camera) for camera in cameras
    ]
    ages = ["/policy/ages/**", "/recorder/ages/**"]
    below = [
        views.TextLogView(origin="/", contents=["/policy/log", "/recorder/log"], name="log"),
        views.TimeSeriesView(origin="/policy/latency", name="latency [s]", time_ranges=newest),
        views.TimeSeriesView(origin="/", contents=ages, name="age of inputs [s]", time_ranges=newest),
        views.TimeSeriesView(origin="/policy/counts", name="holds, stops, clamps, gates"),
    ]
    upper = [*([views.Vertical(*pictures)] if pictures else []), views.Tabs(*tabs)]
    return views.Blueprint(
        views.Vertical(
            views.Horizontal(*upper, column_shares=[1, 3] if pictures else None),
            views.Horizontal(*below, column_shares=[2, 1, 1, 1]),
            row_shares=[3, 1],
        ),
        views.TimePanel(timeline=ROS_TIME, state="collapsed"),
        collapse_panels=True,
    )
