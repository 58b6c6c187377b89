# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Operations on datasets: merge, split, delete, retask, convert. Each selects episodes and writes them.

Sources are never changed; an operation on one dataset with `output=None` replaces it, all at once, when the new one is
complete.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from gr00t_training.dataset import schema
from gr00t_training.dataset.quality import SUCCESS, VALID, Marks
from gr00t_training.dataset.tools.edit.exchange import new_folder, successor
from gr00t_training.dataset.tools.edit.kept import KeptEpisode, all_of
from gr00t_training.dataset.tools.edit.output import EditReport, write_dataset
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.text import check_instruction


def merge_datasets(inputs: Sequence[str | Path], output: str | Path, *, version: str | None = None) -> EditReport:
    """Write the episodes of all datasets, one after the other, as one.

    Args:
        inputs: datasets of the same rate, features and modality; versions may differ.
        output: new folder.
        version: of the new dataset; None: that of the first.

    Raises:
        DatasetError: they do not fit each other, one is damaged, or `output` exists.
    """
    sources = [SourceDataset(path) for path in inputs]
    return write_kept([item for source in sources for item in all_of(source)], sources[0], output, version)


def delete_episodes(path: str | Path, episodes: Collection[int], output: str | Path | None) -> EditReport:
    """Write a dataset without some of its episodes; those behind move up.

    Raises:
        DatasetError: there is no such episode, none would be left, the dataset is damaged, or `output` exists.
    """
    source = SourceDataset(path)
    deleted = {source.episode(index).index for index in episodes}
    return write_kept([item for item in all_of(source) if item.number not in deleted], source, output)


def split_dataset(path: str | Path, parts: Mapping[str, Collection[int]], output: str | Path) -> dict[str, EditReport]:
    """Write several datasets of the episodes of one, each into the folder `output/name`.

    Args:
        path: the dataset.
        parts: name -> episodes.
        output: new folder for the new datasets.

    Raises:
        DatasetError: a part is empty or names an episode that is not there; damaged; or `output` exists.
    """
    source = SourceDataset(path)
    reports = {}
    with new_folder(Path(output)) as folder:
        for name, episodes in parts.items():
            kept = [KeptEpisode(source, source.episode(index).index) for index in sorted(set(episodes))]
            if not kept:
                raise DatasetError(f"{source.path}: part '{name}' would have no episode; choose another split")
            (folder / name).mkdir()
            reports[name] = write_dataset(folder / name, kept)
    return reports


def split_by_fraction(path: str | Path, fractions: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Deal the episodes of a dataset into parts at random.

    Args:
        path: the dataset.
        fractions: name -> share, which add up to at most 1; sizes are rounded, episodes beyond them are left out.
        seed: of the draw; equal seeds give equal parts.

    Raises:
        DatasetError: the shares are not of this kind.
    """
    if not all(0 < share <= 1 for share in fractions.values()) or sum(fractions.values()) > 1 + 1e-9:
        raise DatasetError(f"fractions {fractions}: expected shares above 0 that add up to at most 1")
    source = SourceDataset(path)
    indices = [episode.index for episode in source.episodes]
    random.Random(seed).shuffle(indices)
    parts, taken, total = {}, 0, 0.0
    for name, share in fractions.items():
        total += share
        end = round(total * len(indices))
        parts[name], taken = sorted(indices[taken:end]), end
    return parts


def split_by_task(path: str | Path) -> dict[str, list[int]]:
    """Return the episodes of each task, named by its text; an episode of several tasks counts for its first.

    Raises:
        DatasetError: an episode has no task.
    """
    source = SourceDataset(path)
    parts: dict[str, list[int]] = {}
    names: dict[str, str] = {}
    for episode in source.episodes:
        tasks = episode.entry.get("tasks") or []
        if not tasks:
            raise DatasetError(f"{source.path}: episode {episode.index} has no task; give it one with retask")
        if tasks[0] not in names:
            names[tasks[0]] = _unused_name(tasks[0], set(names.values()))
        parts.setdefault(names[tasks[0]], []).append(episode.index)
    return parts


def episodes_with_marks(path: str | Path, marks: Mapping[str, bool]) -> list[int]:
    """Return the episodes that an operator marked so; one that was not marked has no mark of any value.

    Args:
        path: the dataset.
        marks: "success" or "valid" -> value; one that fits is enough.
    """
    source = SourceDataset(path)
    return [
        episode.index
        for episode in source.episodes
        if any(_mark(source.marks(episode.index), name) is value for name, value in marks.items())
    ]


def retask_episodes(path: str | Path, episodes: Collection[int], text: str, output: str | Path | None) -> EditReport:
    """Give episodes another instruction, in all their rows.

    Raises:
        DatasetError: the text is empty, there is no such episode, the dataset is damaged, or `output` exists.
    """
    source = SourceDataset(path)
    changed = {source.episode(index).index for index in episodes}
    _check_text(text)
    kept = [dataclasses.replace(item, task=text) if item.number in changed else item for item in all_of(source)]
    return write_kept(kept, source, output)


def rename_task(path: str | Path, old: str, new: str, output: str | Path | None) -> EditReport:
    """Give a task of a dataset another text wherever it is used.

    Raises:
        DatasetError: there is no such task, the text is empty, the dataset is damaged, or `output` exists.
    """
    source = SourceDataset(path)
    _check_text(new)
    if old not in source.tasks.values():
        known = "; ".join(f"'{text}'" for text in list(source.tasks.values())[:10])
        raise DatasetError(f"{source.path}: no task '{old}'; its tasks are {known}")
    kept = [dataclasses.replace(item, renamed={old: new}) for item in all_of(source)]
    return write_kept(kept, source, output)


def convert_dataset(
    path: str | Path, output: str | Path | None, version: str, *, embodiment: Embodiment | None = None
) -> EditReport:
    """Write a dataset in another version of the format; equal rows and frames come back from it.

    Args:
        path: the dataset.
        output: new folder; None: in place.
        version: "v2.0", "v2.1" or "v3.0".
        embodiment: what the columns mean; None: as the dataset says, if it does.

    Raises:
        DatasetError: the dataset is damaged or of another embodiment, rows are missing in between, or `output` exists.
    """
    if version not in schema.READ_VERSIONS:
        raise DatasetError(f"version '{version}', expected {', '.join(schema.READ_VERSIONS)}")
    source = SourceDataset(path)
    return write_kept(all_of(source), source, output, version, embodiment)


def write_kept(
    kept: Sequence[KeptEpisode],
    source: SourceDataset,
    output: str | Path | None,
    version: str | None = None,
    embodiment: Embodiment | None = None,
) -> EditReport:
    """Write kept episodes to a new folder, or in place of `source` where `output` is None; see `write_dataset`."""
    if output is None:
        with successor(source.path) as folder:
            return write_dataset(folder, kept, version=version, embodiment=embodiment, links=True)
    with new_folder(Path(output)) as folder:
        return write_dataset(folder, kept, version=version, embodiment=embodiment)


def _mark(marks: Marks, name: str) -> bool | None:
    return {SUCCESS: marks.is_success, VALID: marks.is_valid}[name]


def _check_text(text: str) -> None:
    try:
        check_instruction(text)
    except ValueError as error:
        raise DatasetError(f"task text: {error}") from error


def _unused_name(text: str, used: Collection[str]) -> str:
    """Return a folder name for a task: its first words."""
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    name = stem = "_".join(words)[:60] or "task"
    number = 2
    while name in used:
        name, number = f"{stem}_{number}", number + 1
    return name
