# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Plan the repair of v2.0 and v2.1: rows that number themselves are the truth, the metadata is made to follow.

If rows, list entry and videos of an episode contradict each other, it is refused and its files stay unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.tables import conforming, open_table, read_table
from gr00t_training.dataset.tools.repair.assignment import Assignment, assign
from gr00t_training.dataset.tools.repair.numbering import UndecidedError, check_rate, read_numbers, timestamps
from gr00t_training.dataset.tools.repair.plan import Map, Plan
from gr00t_training.dataset.tools.repair.separate_dataset import FoundEpisode, SeparateDataset
from gr00t_training.dataset.tools.repair.separate_metadata import find_tasks, plan_metadata
from gr00t_training.dataset.tools.repair.tables import (
    has_whole_lines,
    task_numbers,
    whole_lines,
    with_column,
)
from gr00t_training.dataset.tools.validate.findings import (
    ENCODE_AGAIN,
    times_in,
)
from gr00t_training.dataset.tools.validate.metadata import CONTAINED_KINDS, TIME_TOLERANCE_S
from gr00t_training.dataset.tools.validate.videos import VideoFacts, scan_video
from gr00t_training.embodiment import STATE_COLUMN
from gr00t_training.errors import DatasetError

_EPISODE_FILE = re.compile(r"episode_(\d+)\.parquet$")

_UNLISTED = f"{schema.EPISODES_FILE} is missing or damaged, and this file belongs to no complete episode"


class SeparateFiles:
    """Plan the repair of a dataset of version 2.0 or 2.1."""

    def __init__(self, plan: Plan, info: dict[str, Any], run: Map = map) -> None:
        """Prepare.

        Args:
            plan: that grows; it has the embodiment and what is known of videos.
            info: `info.json`, which is completed.
            run: a `map` that may use several processes.
        """
        self._run = run
        self._plan = plan
        self._root = plan.root
        self._info = info
        self._embodiment = plan.embodiment
        self._dataset = SeparateDataset(plan, info)
        self._cameras = self._dataset.cameras
        self._fps = float(info["fps"])
        self._list_is_whole = has_whole_lines(self._root / schema.EPISODES_FILE)

    def make_plan(self) -> None:
        """Plan what can be repaired; what cannot is refused."""
        entries = self._read_entries()
        if self._plan.refusals:
            return
        files, number_of = self._read_rows()
        indices = set(entries) | {number for number in number_of.values() if number is not None}
        self._scan_videos(indices)
        if not self._check_rate(files.values(), indices):
            return
        listed = set(entries) | {index for index in indices if self._has_videos(index)}
        home = {index: self._dataset.data_file(index) for index in indices}
        assigned = assign(files, number_of, listed, home, self._fps)
        episodes = self._make_episodes(indices, entries, assigned)
        for episode in episodes:
            self._check_length(episode, assigned)
        self._refuse_blocked(episodes, assigned)
        kept = self._keep(episodes)
        self._set_aside_unknown(kept, assigned)
        if any(finding.text == _UNLISTED for finding in self._plan.refusals):
            # a new list without these files would say that they belong to no episode
            self._plan.withdraw()
            self._plan.relisted.clear()
            return
        targets = self._close_gaps(kept)
        tasks = find_tasks(self._dataset, kept)
        first_index, tables = 0, {}
        for episode in kept:
            number = targets[episode.index]
            if episode.is_whole(self._cameras):
                self._plan_videos(episode, number)
            if episode.table is not None and not episode.is_refused:
                tables[episode.index] = self._plan_rows(episode, number, first_index, tasks, assigned)
            first_index += episode.length
        plan_metadata(self._dataset, kept, targets, tables, tasks)

    # reading

    def _read_entries(self) -> dict[int, dict[str, Any]]:
        entries: dict[int, dict[str, Any]] = {}
        for entry in whole_lines(self._root / schema.EPISODES_FILE):
            index = entry["episode_index"]
            # the length is that of the rows in any case
            if index in entries and {**entries[index], "length": 0} != {**entry, "length": 0}:
                text = f"episode {index} has two lines: {json.dumps(entries[index])} and {json.dumps(entry)}"
                self._plan.refuse(schema.EPISODES_FILE, text)
            entries.setdefault(index, entry)
        return entries

    def _read_rows(self) -> tuple[dict[str, pa.Table], dict[str, int | None]]:
        """Return the tables of all data files that can be read, and the number in the name of each data file."""
        files: dict[str, pa.Table] = {}
        number_of: dict[str, int | None] = {}
        for path in sorted(self._root.glob("data/**/*.parquet")):
            name = path.relative_to(self._root).as_posix()
            found = _EPISODE_FILE.search(path.name)
            number = int(found[1]) if found else None
            number_of[name] = number if number is not None and name == self._dataset.data_file(number) else None
            try:
                files[name] = conforming(read_table(path), self._info["features"], self._fps, name)
            except DatasetError:
                continue
        return files, number_of

    def _scan_videos(self, indices: set[int]) -> None:
        paths = [
            self._root / self._dataset.video_file(index, camera)
            for index in sorted(indices)
            for camera in self._cameras
        ]
        paths = [path for path in paths if path not in self._plan.scanned and path.is_file()]
        self._plan.scanned |= dict(zip(paths, self._run(partial(scan_video, decode=True), paths), strict=True))

    def _videos_of(self, index: int) -> dict[str, VideoFacts]:
        found = {
            camera: self._plan.scanned.get(self._root / self._dataset.video_file(index, camera))
            for camera in self._cameras
        }
        return {camera: facts for camera, facts in found.items() if facts and not facts.failure and len(facts.times_s)}

    def _has_videos(self, index: int) -> bool:
        return set(self._videos_of(index)) == set(self._cameras)

    def _check_rate(self, tables: Iterable[pa.Table], indices: set[int]) -> bool:
        rates: dict[str, float] = {}
        for index in sorted(indices, reverse=True):
            rates |= {camera: rate for camera, facts in self._videos_of(index).items() if (rate := facts.rate_hz)}
        return check_rate(self._plan, [read_numbers(table) for table in tables], self._fps, rates)

    # judging

    def _make_episodes(
        self, indices: set[int], entries: Mapping[int, dict[str, Any]], assigned: Assignment
    ) -> list[FoundEpisode]:
        stats = {
            entry["episode_index"]: entry.get("stats") for entry in whole_lines(self._root / schema.EPISODES_STATS_FILE)
        }
        episodes = []
        for index in sorted(indices):
            table = assigned.tables.get(index)
            is_refused = index in assigned.refused
            videos = self._videos_of(index)
            episodes.append(FoundEpisode(index, entries.get(index), stats.get(index), table, videos, is_refused))
            if is_refused and index in entries:
                self._plan.refuse(*assigned.refused[index])
        return episodes

    def _check_length(self, episode: FoundEpisode, assigned: Assignment) -> None:
        """Refuse an episode with too few frames, or if list entry and videos agree that rows are missing."""
        if episode.table is None or episode.is_refused:
            return
        count = episode.table.num_rows
        frames = {camera: len(facts.times_s) for camera, facts in episode.videos.items()}
        short = [f"{camera} has {number} frames" for camera, number in frames.items() if number < count]
        text = ""
        if short:
            text = f"{count} rows, but {', '.join(short)}; which rows have no picture is not known"
        elif episode.entry is not None and episode.entry.get("length") != count:
            agreeing = [count == number for number in frames.values()] + self._counts_agree(episode)
            length = episode.entry.get("length")
            if isinstance(length, int) and agreeing and not any(agreeing):
                text = f"{count} rows, but {schema.EPISODES_FILE} says {length}, and "
                text += ", ".join(f"{camera} has {number} frames" for camera, number in frames.items())
                text = text.removesuffix("and ") + ("" if frames else "so do its statistics")
        if text:
            episode.is_refused = True
            if episode.entry is not None:
                self._plan.refuse(f"episode {episode.index}", text)
            del assigned.sources[episode.index]

    def _refuse_blocked(self, episodes: list[FoundEpisode], assigned: Assignment) -> None:
        """Refuse to move rows to a name that the rows of a refused episode have."""
        by_index = {episode.index: episode for episode in episodes}
        refused = [index for index in sorted(assigned.regrouped) if by_index[index].is_refused]
        for index in sorted(assigned.regrouped) if refused else ():
            if not by_index[index].is_refused:
                text = f"its rows are spread over files together with those of episode {refused[0]}, which is refused"
                self._plan.refuse(f"episode {index}", text)
                by_index[index].is_refused = True
                del assigned.sources[index]
        while True:
            sources = assigned.sources
            moving = {
                index: self._dataset.data_file(index)
                for index in sources
                if sources[index] != self._dataset.data_file(index)
            }
            free = set(sources.values())
            blocked = [index for index, name in moving.items() if name not in free and (self._root / name).exists()]
            if not blocked:
                return
            for index in blocked:
                text = f"its rows are in {sources.pop(index)}, and {moving[index]} holds rows that are refused"
                by_index[index].is_refused = True
                self._plan.refuse(f"episode {index}", text)

    def _counts_agree(self, episode: FoundEpisode) -> list[bool]:
        """Return whether the statistics of the episode count as many rows as there are."""
        assert episode.table is not None
        described = (episode.stats or {}).get(STATE_COLUMN)
        count = described.get("count") if isinstance(described, dict) else None
        return [count[0] == episode.table.num_rows] if isinstance(count, list) and len(count) == 1 else []

    def _keep(self, episodes: list[FoundEpisode]) -> list[FoundEpisode]:
        """Return the episodes of the dataset: the listed ones, and those with all of their files."""
        kept = []
        for episode in episodes:
            if episode.entry is not None:
                kept.append(episode)
            elif episode.is_whole(self._cameras):
                self._plan.notes.append(f"episode {episode.index}: its files are whole, it is listed again")
                self._plan.fixed.add(self._dataset.data_file(episode.index))
                self._plan.fixed |= {self._dataset.video_file(episode.index, camera) for camera in self._cameras}
                self._adopt_side_files(episode.index)
                self._plan.relisted.append(episode.index)
                kept.append(episode)
        return kept

    def _adopt_side_files(self, index: int) -> None:
        """Move depth and report of an episode to their places if a recorder was killed before it did that."""
        folder = self._root / schema.STAGING / f"episode_{index:06d}"
        names = {"quality.json": schema.quality_path(index)}
        for key in self._embodiment.depth if self._embodiment else ():
            names[f"depth.{key}.mkv"] = schema.depth_path(index, key)
        for name, target in names.items():
            path = folder / (name + schema.STAGED_SUFFIX)
            if path.is_file() and not (self._root / target).exists():
                self._plan.move(path.relative_to(self._root).as_posix(), target)

    def _set_aside_unknown(self, kept: list[FoundEpisode], assigned: Assignment) -> None:
        indices = {episode.index for episode in kept}
        known = {self._dataset.data_file(index) for index in indices}
        known |= {self._dataset.video_file(index, camera) for index in indices for camera in self._cameras}
        known |= {name for index, name in assigned.sources.items() if index in indices}
        for path in sorted(path for kind in CONTAINED_KINDS for path in self._root.rglob(kind)):
            name = path.relative_to(self._root).as_posix()
            if name in known or name.startswith((schema.STAGING + "/", ".bags/")) or not path.is_file():
                continue
            if not self._list_is_whole and name.startswith(("data/", "videos/")) and _holds_something(path):
                self._plan.refuse(name, _UNLISTED)
            else:
                self._plan.set_aside(name, assigned.strays.get(name, "belongs to no episode"))

    def _close_gaps(self, kept: list[FoundEpisode]) -> dict[int, int]:
        """Return the number that each episode gets: 0, 1, 2 where all are whole, else the one it has."""
        numbers = {episode.index: episode.index for episode in kept}
        if self._plan.refusals or any(not episode.is_whole(self._cameras) for episode in kept):
            return numbers
        for place, episode in enumerate(kept):
            old = episode.index
            if old == place:
                continue
            self._plan.notes.append(f"episode {old}: becomes episode {place}, since numbers are missing")
            self._plan.renumbered[old] = numbers[old] = place
            names = {
                self._dataset.video_file(old, camera): self._dataset.video_file(place, camera)
                for camera in self._cameras
            }
            names |= {schema.quality_path(old): schema.quality_path(place)}
            for key in self._embodiment.depth if self._embodiment else ():
                names[schema.depth_path(old, key)] = schema.depth_path(place, key)
            for name, target in names.items():
                if target_source := self._plan.moves.pop(name, None):  # adopted just now
                    self._plan.moves[target] = target_source
                elif (self._root / name).exists():
                    self._plan.move(name, target)
                if target in self._plan.moves and self._is_left_over(target):
                    self._plan.set_aside(target, "belongs to no episode")
        return numbers

    def _is_left_over(self, name: str) -> bool:
        """Whether a file, such as a report or depth, belongs to a removed episode."""
        is_leaving = name in self._plan.moves.values() or name in self._plan.aside
        return (self._root / name).exists() and not is_leaving

    # planning

    def _plan_videos(self, episode: FoundEpisode, number: int) -> None:
        """Put frames at their times where a video has exactly the frames of the rows."""
        for camera, facts in episode.videos.items():
            grid = np.arange(len(facts.times_s)) / self._fps
            if len(facts.times_s) != episode.length or not (np.abs(facts.times_s - grid) > TIME_TOLERANCE_S).any():
                continue
            name = self._dataset.video_file(number, camera)
            if facts.has_b_frames:
                self._plan.refuse(name, "its frames are not at their times, and it has B frames", ENCODE_AGAIN)
            elif (np.diff(facts.times_s) <= 0).any():
                self._plan.refuse(name, "two of its frames have the same time", ENCODE_AGAIN)
            else:
                self._plan.retime(name, episode.length)

    def _plan_rows(
        self, episode: FoundEpisode, number: int, first_index: int, tasks: Mapping[int, str], assigned: Assignment
    ) -> pa.Table:
        table, index = episode.table, episode.index
        assert table is not None
        name, source, length = self._dataset.data_file(number), assigned.sources[index], episode.length
        spread = {assigned.sources[other] for other in assigned.regrouped}  # files with mixed rows
        reasons = ["rows put in order"] if index in assigned.reordered else []
        reasons += ["rows put together by their numbers"] if index in assigned.regrouped else []
        columns = {
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": np.arange(first_index, first_index + length),
        }
        times = self._plan_times(episode, source)
        if times is not None:
            columns[schema.TIMESTAMP_COLUMN] = times
        named = [task for task, text in tasks.items() if text in self._dataset.known_tasks(episode)]
        unknown = [task for task in task_numbers(table) if task not in tasks]
        if len(named) == 1 and (unknown or schema.TASK_COLUMN not in table.column_names):
            columns[schema.TASK_COLUMN] = np.full(length, named[0])
        for column, values in columns.items():
            fixed = with_column(table, column, values)
            if fixed is not None:
                table = fixed
                reasons.append(f"{column} corrected")
                self._note_columns(column, {source} | (spread if index in assigned.regrouped else set()))
        if index in assigned.reordered:  # times and frames in order of the file were wrong too
            self._plan.fixed.add(times_in(source))
        if index in assigned.relabeled:
            self._plan.relabeled.add(source)
        if source != name:
            self._plan.move(source, name, f", its rows say episode {index}" if number == index else "")
        if reasons:
            self._plan.write_table(name, table, ", ".join(reasons))
            self._plan.fixed.add(source)
        return table

    def _note_columns(self, column: str, sources: set[str]) -> None:
        if column == schema.TIMESTAMP_COLUMN:
            self._plan.retimed_rows |= sources
            self._plan.fixed |= {times_in(source) for source in sources}
        elif column == schema.TASK_COLUMN:
            self._plan.retasked |= sources

    def _plan_times(self, episode: FoundEpisode, source: str) -> np.ndarray | None:
        assert episode.table is not None
        numbers = read_numbers(episode.table)
        if schema.TIMESTAMP_COLUMN not in numbers.columns:
            return np.arange(episode.length) / self._fps
        counts = [len(facts.times_s) for facts in episode.videos.values()]
        is_exact = counts == [episode.length] * len(self._cameras)
        try:
            return timestamps(numbers.time_s, self._fps, source, is_exact=is_exact)
        except UndecidedError as error:
            self._plan.refuse(f"episode {episode.index}", str(error))
            return None


def _holds_something(path: Path) -> bool:
    """Whether a file can be read as rows or video."""
    if path.suffix == ".mp4":
        return not scan_video(path, decode=False).failure
    try:
        return open_table(path).metadata.num_rows > 0
    except DatasetError:
        return False
