# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes as a recording for the Rerun viewer. Its library is imported only when needed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gr00t_training.dataset.media.packets import count_packets, cut_file
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.view.episode import EpisodeView, read_episode
from gr00t_training.errors import DatasetError, Gr00tError

TIMELINE, ROWS = "time", "row"


def export_rerun(path: str | Path, episodes: Sequence[int], output: Path | None) -> None:
    """Log episodes to Rerun, below `episode_000000/` each: videos as they are coded, curves, ages and filled rows.

    Args:
        path: the dataset.
        episodes: which.
        output: `.rrd` file to write; None: a viewer is opened.

    Raises:
        DatasetError: Rerun is not installed, the dataset cannot be read, or the file not written.
    """
    rerun = rerun_library(DatasetError, "or make a page with --html")
    dataset = EpisodeDataset(path)
    views = [read_episode(dataset, index) for index in episodes]
    recording = rerun.RecordingStream("gr00t_dataset")
    if output is None:
        recording.spawn()
    else:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            recording.save(output)
        except (OSError, RuntimeError) as error:
            raise DatasetError(f"{output}: cannot be written ({error}); check path and rights") from error
    for view in views:
        _log(rerun, recording, view)
    recording.flush()
    recording.disconnect()


def rerun_library(error: type[Gr00tError], otherwise: str) -> ModuleType:
    """Return the library; `error` when it is not installed, which says what to do `otherwise`."""
    try:
        import rerun  # pyright: ignore[reportMissingImports]
    except ImportError as missing:
        raise error(f"the Rerun viewer's library is not installed: pip install rerun-sdk, {otherwise}") from missing
    return rerun


def _log(rerun: ModuleType, recording: Any, view: EpisodeView) -> None:
    root = f"episode_{view.index:06d}"
    index = _rows_of(rerun, view.fps, view.length)
    for curves in view.curves:
        entity = f"{root}/{curves.key.replace('.', '/', 1)}"
        recording.log(entity, rerun.SeriesLines(names=curves.names), static=True)
        columns = rerun.Scalars.columns(scalars=curves.values.astype(np.float64).reshape(-1))
        recording.send_columns(entity, index, columns.partition([curves.values.shape[1]] * view.length))
    for key, span in view.videos.items():
        _log_video(rerun, recording, f"{root}/video/{key}", span, view)
    if view.quality is not None:
        for stream, ages_ns in view.quality.ages_ns.items():
            entity = f"{root}/quality/{stream}"
            columns = rerun.Scalars.columns(
                scalars=np.stack([ages_ns / 1e6, view.quality.filled[stream]], 1).reshape(-1)
            )
            recording.log(entity, rerun.SeriesLines(names=["age [ms]", "filled"]), static=True)
            recording.send_columns(entity, index, columns.partition([2] * view.length))
    marks = view.marks
    lines = [f"row {row}: {text}" for row, text in view.tasks]
    lines += [f"success: {marks.is_success}", f"valid: {marks.is_valid}", *([marks.note] if marks.note else [])]
    recording.log(f"{root}/task", rerun.TextDocument("\n".join(lines)), static=True)


def _log_video(rerun: ModuleType, recording: Any, entity: str, span: Span, view: EpisodeView) -> None:
    if span.first == 0 and span.count == count_packets(span.path):
        contents = span.path.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            cut_file(span, Path(folder) / "part.mp4", view.fps)
            contents = (Path(folder) / "part.mp4").read_bytes()
    video = rerun.AssetVideo(contents=contents, media_type="video/mp4")
    recording.log(entity, video, static=True)
    # frame k belongs to row k, regardless of its time in the file; a damaged video may have fewer
    stamps = np.asarray(video.read_frame_timestamps_nanos())[: view.length]
    references = rerun.VideoFrameReference.columns_nanos(stamps)
    recording.send_columns(entity, _rows_of(rerun, view.fps, len(stamps)), references)


def _rows_of(rerun: ModuleType, fps: float, count: int) -> list[Any]:
    """Return the times of the first `count` rows."""
    rows = np.arange(count)
    return [rerun.TimeColumn(TIMELINE, duration=rows / fps), rerun.TimeColumn(ROWS, sequence=rows)]
