# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes as one page for the browser: videos, curves and traces that move together, without a server or a network.

Videos are put into the page up to a size, cut by packets where a file holds many episodes; beyond it the page links to
the dataset's files, relative to itself. The page's own parts are `page.html`, `page.css` and `page.js`.
"""

from __future__ import annotations

import base64
import html
import json
import os
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset.edit.packets import count_packets, cut_file
from gr00t_training.dataset.places import Span
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.dataset.trace import Trace
from gr00t_training.dataset.video import VideoReader
from gr00t_training.dataset.view.episode import EpisodeView, read_episode
from gr00t_training.errors import DatasetError

EMBEDDED_MB = 64.0  # browsers open pages of some hundred MB, but slowly


@dataclass(frozen=True)
class PageReport:
    """What became of the videos."""

    num_episodes: int
    num_embedded: int
    num_linked: int


def write_page(
    path: str | Path, episodes: Sequence[int], output: Path, *, embedded_mb: float = EMBEDDED_MB
) -> PageReport:
    """Write the page.

    Args:
        path: the dataset.
        episodes: which are shown.
        output: the file; videos that are not in it are linked relative to its folder.
        embedded_mb: how much video goes into the page [MB of 10^6 bytes].

    Raises:
        DatasetError: an episode cannot be read, or the page cannot be written.
    """
    dataset = LeRobotDataset(path)
    videos = _Videos(output, embedded_mb)
    described = [_describe(read_episode(dataset, index), videos) for index in episodes]
    content = json.dumps({"fps": dataset.fps, "episodes": described}, ensure_ascii=False, allow_nan=False)
    parts = {
        "title": html.escape(dataset.path.resolve().name),
        "facts": html.escape(
            f"LeRobot {dataset.version.value}, {len(dataset.episodes)} episodes, {dataset.num_frames} frames at "
            f"{dataset.fps:g} Hz"
        ),
        "style": _part("page.css"),
        "script": _part("page.js"),
        "dataset": content.replace("</", "<\\/"),  # a task text must not end the script element
    }
    text = _part("page.html")
    for name in ("title", "facts", "style", "script", "dataset"):  # contents last: their text is not looked at
        text = text.replace("{" + name + "}", parts[name])
    staged = output.with_name(output.name + ".part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(text, encoding="utf-8")
        staged.replace(output)
    except OSError as error:
        raise DatasetError(f"{output}: cannot be written ({error.strerror}); check path and rights") from error
    return PageReport(len(described), videos.num_embedded, videos.num_linked)


class _Videos:
    """Decides for each video whether it goes into the page."""

    def __init__(self, page: Path, embedded_mb: float) -> None:
        self.num_embedded = 0
        self.num_linked = 0
        self._folder = page.parent
        self._left = embedded_mb * 1e6

    def describe(self, key: str, span: Span, fps: float) -> dict[str, Any]:
        """Return source, codec, and the time of the episode's first frame in the source [s]."""
        reader = VideoReader(span.path)
        codec, first_s = reader.codec, float(reader.presentation_s[span.first])
        reader.close()
        entry: dict[str, Any] = {"key": key, "codec": codec}
        content = self._content(span, fps)
        if content is None:
            self.num_linked += 1
            relative = os.path.relpath(span.path.resolve(), self._folder.resolve())
            address = urllib.parse.quote(Path(relative).as_posix())
            return {**entry, "source": address, "isEmbedded": False, "start": first_s}
        self.num_embedded += 1
        address = "data:video/mp4;base64," + base64.b64encode(content).decode()
        is_whole = span.first == 0  # a part that was cut out starts at 0
        return {**entry, "source": address, "isEmbedded": True, "start": first_s if is_whole else 0.0}

    def _content(self, span: Span, fps: float) -> bytes | None:
        if span.first == 0 and span.count == count_packets(span.path):
            if span.path.stat().st_size > self._left:
                return None
            content = span.path.read_bytes()
        else:
            with tempfile.TemporaryDirectory() as folder:
                part = Path(folder) / "part.mp4"
                cut_file(span, part, fps)
                content = part.read_bytes()
            if len(content) > self._left:
                return None
        self._left -= len(content)
        return content


def _describe(view: EpisodeView, videos: _Videos) -> dict[str, Any]:
    marks = view.marks
    return {
        "index": view.index,
        "length": view.length,
        "tasks": view.tasks,
        "success": marks.is_success,
        "valid": marks.is_valid,
        "note": marks.note,
        "curves": [
            {"key": curves.key, "names": curves.names, "values": _base64_floats(curves.values)}
            for curves in view.curves
        ],
        "videos": [videos.describe(key, span, view.fps) for key, span in view.videos.items()],
        "trace": _describe_trace(view.trace) if view.trace else [],
        "streams": [{"name": name, **_plain(counts)} for name, counts in view.streams.items()],
    }


def _describe_trace(trace: Trace) -> list[dict[str, Any]]:
    described = []
    for stream, ages_ns in trace.ages_ns.items():
        is_known = trace.valid[stream] | trace.filled[stream] & (ages_ns != 0)
        ages_ms = [round(age / 1e6, 3) if known else None for age, known in zip(ages_ns, is_known, strict=True)]
        filled = np.flatnonzero(trace.filled[stream]).tolist()
        described.append({"name": stream, "ages_ms": ages_ms, "filled": filled})
    return described


def _plain(counts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in counts.items() if isinstance(value, (int, float, str))}


def _base64_floats(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def _part(name: str) -> str:
    return (resources.files("gr00t_training") / "dataset" / "view" / name).read_text(encoding="utf-8")
