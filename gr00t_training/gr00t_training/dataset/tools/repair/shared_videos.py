# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Places of v3.0's episodes in shared videos: set only where a file has exactly the frames of its episodes' rows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_training.dataset.tools.repair.plan import Plan
from gr00t_training.dataset.tools.validate.findings import places_in
from gr00t_training.dataset.tools.validate.metadata import TIME_TOLERANCE_S
from gr00t_training.dataset.tools.validate.videos import VideoFacts

Entry = dict[str, Any]  # one row of the episodes table


class VideoSpans:
    """Sets the times in the rows of the episodes table."""

    def __init__(self, plan: Plan, fps: float) -> None:
        self._plan = plan
        self._fps = fps

    def place(self, camera: str, entries: list[Entry], names: list[str], scanned: Mapping[Path, VideoFacts]) -> None:
        """Set the times of one camera where they cannot be right and it is certain what they are.

        Args:
            camera: feature.
            entries: rows of the episodes table, in order of episodes.
            names: file of each of them.
            scanned: what is known of the videos.
        """
        members: dict[str, list[Entry]] = {}
        for entry, name in zip(entries, names, strict=True):
            members.setdefault(name, []).append(entry)
        for name, inside in members.items():
            facts = scanned.get(self._plan.root / name)
            if facts is not None and not facts.failure:
                self._place_in_file(camera, inside, name, facts)

    def _place_in_file(self, camera: str, entries: list[Entry], name: str, facts: VideoFacts) -> None:
        start_name, end_name = f"videos/{camera}/from_timestamp", f"videos/{camera}/to_timestamp"
        lengths = [entry["length"] for entry in entries]
        starts_s = [entry[start_name] for entry in entries]
        num_frames = len(facts.times_s)
        problem = span_problem(starts_s, lengths, num_frames, self._fps)
        if problem:
            is_regular = not (np.abs(facts.times_s - np.arange(num_frames) / self._fps) > TIME_TOLERANCE_S).any()
            order = sorted(
                range(len(entries)), key=lambda place: starts_s[place] if starts_s[place] is not None else 0.0
            )
            if num_frames != sum(lengths) or not is_regular or order != list(range(len(entries))):
                self._plan.refuse(
                    name, f"{problem}; the file has {num_frames} frames, its episodes {sum(lengths)} rows"
                )
                return
            first = 0
            for entry, length in zip(entries, lengths, strict=True):
                if entry[start_name] is None or abs(entry[start_name] - first / self._fps) > 1e-6:
                    self._plan.notes.append(
                        f"episode {entry['episode_index']}: from_timestamp {entry[start_name]} becomes "
                        f"{first / self._fps:.6f} s in {name}, which has exactly the frames of its rows"
                    )
                    self._plan.respanned.add((entry["episode_index"], camera))
                    entry[start_name] = first / self._fps
                first += length
            self._plan.fixed.add(places_in(name))
        for entry, length in zip(entries, lengths, strict=True):
            end_s = entry[start_name] + length / self._fps
            # frames of no row may follow: only an end that cuts rows off, or a start that was set, is wrong
            is_short = entry[end_name] is None or entry[end_name] < end_s - TIME_TOLERANCE_S
            if is_short or (problem and abs(entry[end_name] - end_s) > 1e-6):
                entry[end_name] = end_s
                self._plan.fixed.add(places_in(name))


def span_problem(starts_s: list[float | None], lengths: list[int], num_frames: int, fps: float) -> str:
    """Return why episodes cannot be where their start times say; empty if they can."""
    taken: list[tuple[int, int]] = []
    for start_s, length in zip(starts_s, lengths, strict=True):
        if start_s is None or not np.isfinite(start_s):
            return "an episode has no from_timestamp"
        frame = start_s * fps
        if abs(frame - round(frame)) > TIME_TOLERANCE_S * fps:
            return f"from_timestamp {start_s:.6f} s is between two frames"
        first, last = round(frame), round(frame) + length
        if first < 0 or last > num_frames:
            return f"an episode has frames {first} to {last - 1}"
        taken.append((first, last))
    taken.sort()
    for (_, last), (first, _) in itertools.pairwise(taken):
        if first < last:
            return f"frame {first} is of two episodes"
    return ""
