# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The lists of v2.x in one form: episodes, tasks and statistics by episode (`meta/*.jsonl`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.numbers import MAX_INDEX, MAX_ROWS, shown, whole
from gr00t_training.errors import DatasetError
from gr00t_training.io.text import MAX_INSTRUCTION, printable


def read_episodes(root: Path, tasks: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """Yield `episodes.jsonl` in the order of its lines: numbers and texts of tasks in one form, the rest unchanged.

    Args:
        root: folder of the dataset.
        tasks: texts of the task numbers that some writers list instead of texts.

    Raises:
        DatasetError: missing, damaged, or an episode is listed more than once.
    """
    path = schema.meta_file(root, schema.EPISODES_FILE)
    seen: set[int] = set()
    for raw, place in _objects(path):
        entry = normalised_entry(raw, place, tasks)
        if entry["episode_index"] in seen:
            raise DatasetError(f"{path}: duplicate episode {entry['episode_index']}; keep one of its lines")
        seen.add(entry["episode_index"])
        yield entry


def normalised_entry(entry: Mapping[str, Any], subject: str, tasks: Mapping[int, str]) -> dict[str, Any]:
    """Return what is listed of an episode in one form; raises as `read_episodes` does."""
    if _is_normal(entry):
        return dict(entry)
    found = {
        **entry,
        "episode_index": whole(entry.get("episode_index"), f"{subject}: episode_index"),
        "length": whole(entry.get("length"), f"{subject}: length", high=MAX_ROWS),
    }
    if entry.get("tasks") is not None:
        found["tasks"] = _texts(entry["tasks"], subject, tasks)
    elif "tasks" in entry:
        found["tasks"] = []
    if entry.get("sub_tasks") is not None:
        found["sub_tasks"] = [_sub_task(part, subject) for part in _list(entry["sub_tasks"], f"{subject}: sub_tasks")]
    return found


def _is_normal(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is as this suite writes it: nearly all are, and checking them one by one takes seconds."""
    index, length, tasks = entry.get("episode_index"), entry.get("length"), entry.get("tasks")
    return (
        len(entry) == 3
        and type(index) is int
        and 0 <= index <= MAX_INDEX
        and type(length) is int
        and 0 <= length <= MAX_ROWS
        and type(tasks) is list
        and all(type(text) is str and len(text) <= MAX_INSTRUCTION for text in tasks)
    )


def read_task_pairs(root: Path) -> list[tuple[int, str]]:
    """Read `tasks.jsonl`: numbers with their texts in the order of its lines.

    Raises:
        DatasetError: missing or damaged.
    """
    pairs: list[tuple[int, str]] = []
    for entry, place in _objects(schema.meta_file(root, schema.TASKS_FILE)):
        if "task" in entry:
            pairs.append((whole(entry.get("task_index"), f"{place}: task_index"), task_text(entry["task"], place)))
        else:  # number -> text
            pairs += [(whole(key, f"{place}: task number"), task_text(text, place)) for key, text in entry.items()]
    return pairs


def as_mapping(pairs: Iterable[tuple[int, str]], subject: str) -> dict[int, str]:
    """Return tasks by number; DatasetError where a number has two different texts."""
    found: dict[int, str] = {}
    for number, text in pairs:
        if found.setdefault(number, text) != text:
            raise DatasetError(f"{subject}: task {number} has two texts; number the tasks again")
    return found


def task_text(value: Any, subject: str) -> str:
    """Return the text of a task; DatasetError when it is none, or longer than an instruction may be."""
    if not isinstance(value, str):
        raise DatasetError(f"{subject}: task is {shown(value)}, expected a text")
    if len(value) > MAX_INSTRUCTION:
        raise DatasetError(f"{subject}: the task has {len(value)} characters (limit {MAX_INSTRUCTION}); shorten it")
    return value


def tasks_text(tasks: Mapping[int, str]) -> str:
    """Return `tasks.jsonl`."""
    return schema.json_lines_text([{"task_index": number, "task": tasks[number]} for number in sorted(tasks)])


def episode_statistics_text(statistics: Mapping[int, Mapping[str, Any]]) -> str:
    """Return `episodes_stats.jsonl` of statistics by episode, feature and name."""
    return schema.json_lines_text([{"episode_index": index, "stats": entry} for index, entry in statistics.items()])


def read_statistics(root: Path, name: str = schema.STATS_FILE) -> dict[str, dict[str, Any]] | None:
    """Read a file with statistics by feature or key; None if there is no such file.

    Raises:
        DatasetError: damaged.
    """
    path = schema.meta_file(root, name)
    return normalised_statistics(schema.read_json(path), str(path)) if path.exists() else None


def normalised_statistics(content: Any, subject: str) -> dict[str, dict[str, Any]]:
    """Return statistics by feature and name; raises as `read_statistics` does."""
    if not isinstance(content, Mapping):
        raise DatasetError(f"{subject}: statistics are {shown(content)}, expected an object with an entry per feature")
    for name, entry in content.items():
        if not isinstance(entry, Mapping):
            raise DatasetError(f"{subject}: statistics of '{printable(name)}' are {shown(entry)}, expected an object")
    return {name: dict(entry) for name, entry in content.items()}


def _objects(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the objects of a file with JSON lines and the place of each; a line may hold a list of them."""
    for number, line in enumerate(schema.iterate_json_lines(path), start=1):
        for entry in line.value if isinstance(line.value, list) else [line.value]:
            if not isinstance(entry, Mapping):
                raise DatasetError(
                    f"{path}: entry {number} is {shown(entry)}, expected an object; restore it from a copy"
                )
            yield entry, f"{path}: entry {number}"


def _texts(value: Any, subject: str, tasks: Mapping[int, str]) -> list[str]:
    items = [value] if isinstance(value, (str, int)) else list(value.values()) if isinstance(value, Mapping) else value
    texts = []
    for item in _list(items, f"{subject}: tasks"):
        if isinstance(item, int) and not isinstance(item, bool) and item in tasks:
            texts.append(tasks[item])
        else:
            texts.append(task_text(item, subject))
    return texts


def _sub_task(part: Any, subject: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise DatasetError(f"{subject}: a sub-task is {shown(part)}, expected start, end and text")
    return {
        **part,
        "start": whole(part.get("start"), f"{subject}: start of a sub-task"),
        "end": whole(part.get("end"), f"{subject}: end of a sub-task"),
        "text": task_text(part.get("text"), subject),
    }


def _list(value: Any, subject: str) -> list[Any]:
    if not isinstance(value, list):
        raise DatasetError(f"{subject} is {shown(value)}, expected a list")
    return value
