# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Episodes as one page for the browser: videos, curves and sample ages that move together; no server, no network.

Videos are embedded in the page up to a size limit, cut by packets where a file holds many episodes; the others are
linked by relative paths. The templates are `page.html`, `page.css` and `page.js`.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset.media.packets import count_packets, cut_file
from gr00t_training.dataset.media.video import VideoReader
from gr00t_training.dataset.metadata.episode_list import Span
from gr00t_training.dataset.quality import EpisodeQuality
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.view.episode import EpisodeView, read_episode
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import replacing

EMBEDDED_MB = 64.0  # browsers open pages of some hundred MB, but slowly


@dataclass(frozen=True)
class PageReport:
    """Number of episodes, and of embedded and linked videos."""

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
    dataset = EpisodeDataset(path)
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
    for name in ("title", "facts", "style", "script", "dataset"):  # contents last: their text is not replaced
        text = text.replace("{" + name + "}", parts[name])
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as file:
            file.write(text.encode())
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
        codec, times_s = reader.codec, reader.presentation_s
        reader.close()
        if len(times_s) < span.first + span.count:
            raise DatasetError(
                f"{span.path}: has {len(times_s)} frames, the episode needs {span.first + span.count}; run validate"
            )
        first_s = float(times_s[span.first])
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
        "quality": _describe_quality(view.quality) if view.quality else [],
        "streams": [{"name": name, **_plain(counts)} for name, counts in view.streams.items()],
    }


def _describe_quality(quality: EpisodeQuality) -> list[dict[str, Any]]:
    described = []
    for stream, ages_ns in quality.ages_ns.items():
        is_known = quality.valid[stream] | quality.filled[stream] & (ages_ns != 0)
        ages_ms = [round(age / 1e6, 3) if known else None for age, known in zip(ages_ns, is_known, strict=True)]
        filled = np.flatnonzero(quality.filled[stream]).tolist()
        described.append({"name": stream, "ages_ms": ages_ms, "filled": filled})
    return described


def _plain(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts and texts, without numbers that JSON cannot represent."""
    return {
        name: value
        for name, value in counts.items()
        if isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value))
    }


def _base64_floats(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def _part(name: str) -> str:
    return (resources.files("gr00t_training") / "dataset" / "view" / name).read_text(encoding="utf-8")
