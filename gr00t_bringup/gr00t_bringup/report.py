# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Report of a policy run on the simulated robot: video, joints with predicted chunks, table of latencies."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from gr00t_training.dataset.media.video import VideoSettings, VideoWriter

CAPTION_HEIGHT = 28


@dataclass(frozen=True)
class ChunkRecord:
    """One published chunk."""

    start_s: float  # stamp of the observation, seconds since the start of the run
    step_s: float
    rows: np.ndarray  # (H, D)
    inference_latency_s: float
    observation_latency_s: float


@dataclass(frozen=True)
class RoundRecord:
    """One task."""

    start_s: float
    end_s: float
    instruction: str
    outcome: str  # how the RunPolicy action ended
    done_s: float | None  # when the task was done, as the simulation judges it, seconds since its start; None: not done

    @property
    def ending(self) -> str:
        """How it ended, as text."""
        return f"{self.outcome}, task not done" if self.done_s is None else f"task done in {self.done_s:.1f} s"


@dataclass
class RunRecord:
    """Recorded data of a run."""

    joint_names: list[str] = field(default_factory=list)
    joint_times_s: list[float] = field(default_factory=list)
    joint_positions: list[np.ndarray] = field(default_factory=list)  # (D,) each
    chunk_names: list[str] = field(default_factory=list)
    chunks: list[ChunkRecord] = field(default_factory=list)
    rounds: list[RoundRecord] = field(default_factory=list)
    commands: int = 0


class RunVideo:
    """Both cameras side by side, with the instruction and the time below."""

    def __init__(self, path: Path, height: int, width: int, fps: int) -> None:
        """Open `path` for two images of `height` x `width`."""
        self._writer = VideoWriter(path, height + CAPTION_HEIGHT, 2 * width, fps, VideoSettings(gop=fps))
        self._shape = (height, width)

    def add(self, front: np.ndarray, wrist: np.ndarray, caption: str) -> None:
        """Append a pair of (H, W, 3) uint8 RGB images."""
        height, width = self._shape
        frame = np.full((height + CAPTION_HEIGHT, 2 * width, 3), 24, np.uint8)
        frame[:height, :width], frame[:height, width:] = front, wrist
        place = (8, height + CAPTION_HEIGHT - 9)
        cv2.putText(frame, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA)
        self._writer.add(frame)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def latency_table(record: RunRecord) -> str:
    """Return latencies as text: p50, p95 and the largest, milliseconds."""
    columns = {
        "observation to chunk": [chunk.observation_latency_s for chunk in record.chunks],
        "inference": [chunk.inference_latency_s for chunk in record.chunks],
        "between chunks": np.diff([chunk.start_s for chunk in record.chunks]).tolist(),
    }
    lines = [f"{'[ms]':<22}{'p50':>8}{'p95':>8}{'max':>8}{'count':>8}"]
    for name, values in columns.items():
        if values:
            p50, p95, largest = 1e3 * np.quantile(values, [0.5, 0.95, 1.0])
            lines.append(f"{name:<22}{p50:>8.1f}{p95:>8.1f}{largest:>8.1f}{len(values):>8}")
    return "\n".join(lines)


def write_report(record: RunRecord, folder: Path) -> str:
    """Write joints.png, latency.txt and summary.json; return the text of the summary."""
    plot_joints(record, folder / "joints.png")
    table = latency_table(record)
    (folder / "latency.txt").write_text(table + "\n", encoding="utf-8")
    summary = {
        "rounds": [vars(entry) for entry in record.rounds],
        "chunks": len(record.chunks),
        "commands": record.commands,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    lines = [f"{entry.instruction:<34} {entry.ending}" for entry in record.rounds]
    return "\n".join([*lines, "", table])


def plot_joints(record: RunRecord, path: Path) -> None:
    """Draw each joint's measured position with every predicted chunk over it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    times_s, positions = np.array(record.joint_times_s), np.array(record.joint_positions)
    figure, axes = pyplot.subplots(len(record.chunk_names), 1, sharex=True, figsize=(13, 2.1 * len(record.chunk_names)))
    for place, (axis, name) in enumerate(zip(np.atleast_1d(axes), record.chunk_names, strict=True)):
        for number, chunk in enumerate(record.chunks):
            ticks_s = chunk.start_s + chunk.step_s * np.arange(len(chunk.rows))
            label = "predicted chunks" if number == 0 else None
            axis.plot(ticks_s, chunk.rows[:, place], color="tab:orange", alpha=0.45, linewidth=0.9, label=label)
        measured = positions[:, record.joint_names.index(name)]
        axis.plot(times_s, measured, color="tab:blue", linewidth=1.4, label="measured")
        for entry in record.rounds:
            axis.axvline(entry.start_s, color="0.4", linewidth=0.8, linestyle=":")
        axis.set_ylabel(f"{name}\n[rad]", fontsize=9)
        axis.grid(alpha=0.25)
    first = np.atleast_1d(axes)[0]
    for entry in record.rounds:
        first.annotate(entry.instruction, (entry.start_s, 1.04), xycoords=("data", "axes fraction"), fontsize=9)
    first.legend(loc="upper right", fontsize=8, ncols=2)
    np.atleast_1d(axes)[-1].set_xlabel("time [s]")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
