# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of an episode in addition to its rows and videos: they get its new number, and lose the rows that it loses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.packets import cut_file
from gr00t_training.dataset.metadata.episode_list import Episode, Span
from gr00t_training.dataset.quality import parse_quality, quality_text
from gr00t_training.dataset.tools.edit.layouts import copy_file
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.errors import DatasetError


def copy_side_files(
    folder: Path,
    source: SourceDataset,
    episode: Episode,
    entry: Mapping[str, Any],
    kept: tuple[int, int],
    *,
    links: bool,
) -> list[str]:
    """Copy the side files of an episode to the dataset in `folder`.

    Args:
        folder: of the new dataset.
        source: dataset of the episode.
        episode: number in `source` of the episode that has the files.
        entry: its line of `episodes.jsonl` as it becomes.
        kept: first row that is kept and end of the kept rows.
        links: whether files may be links to the source, which is removed afterwards.

    Returns:
        Names of files whose rows could not be cut, since their format is not known here.
    """
    uncut = []
    for name, path in source.side_files(episode.index).items():
        new_name = _new_name(name, episode.index, entry["episode_index"])
        target = folder / new_name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == schema.quality_path(episode.index):
            text = _quality_text(path, source.quality(episode.index), episode.length, entry, kept, source.fps)
            target.write_text(text, encoding="utf-8")
            continue
        if kept == (0, episode.length):
            copy_file(path, target, links=links)
        elif name.endswith(".mkv"):  # depth: every frame is a key frame
            cut_file(Span(path, kept[0], kept[1] - kept[0]), target, source.fps, container="matroska")
        else:
            uncut.append(new_name)
            copy_file(path, target, links=links)
    return uncut


def _new_name(name: str, old: int, new: int) -> str:
    """Return the name of a file of episode `old` as one of episode `new`; folders by chunk change too."""
    chunk = f"chunk-{old // schema.CHUNKS_SIZE:03d}/"
    renamed = name.replace(chunk, f"chunk-{new // schema.CHUNKS_SIZE:03d}/")
    return renamed.replace(f"episode_{old:06d}", f"episode_{new:06d}")


def _quality_text(
    path: Path, quality: Mapping[str, Any], length: int, entry: Mapping[str, Any], kept: tuple[int, int], fps: float
) -> str:
    parse_quality(quality, length, str(path))
    try:
        return quality_text(_quality(quality, entry, kept, fps))
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DatasetError(f"{path}: not of the expected form ({error!r}); restore it from a copy") from error


def _quality(quality: Mapping[str, Any], entry: Mapping[str, Any], kept: tuple[int, int], fps: float) -> dict[str, Any]:
    """Return the quality file of the rows that are kept; what the recorder counted stays."""
    start, stop = kept
    new: dict[str, Any] = {**quality, **{name: entry[name] for name in ("episode_index", "tasks", "length")}}
    if "start_ns" in new:
        new["start_ns"] = new["start_ns"] + round(start / fps * 1e9)
    if "filled_rows" in new:
        new["filled_rows"] = {
            key: [row - start for row in rows if start <= row < stop] for key, rows in new["filled_rows"].items()
        }
    if "row_ages_ns" in new:
        new["row_ages_ns"] = {key: ages[start:stop] for key, ages in new["row_ages_ns"].items()}
        known = {key: [age for age in ages if age is not None] for key, ages in new["row_ages_ns"].items()}
        new["ages_ns"] = {
            key: {"mean": round(sum(ages) / len(ages)), "max": max(ages)} for key, ages in known.items() if ages
        }
    return new
