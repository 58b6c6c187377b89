# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The metadata files of a whole dataset, as editing and repair write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.episodes_table import EpisodePlace, make_tables, tasks_table
from gr00t_training.dataset.metadata.lists import episode_statistics_text, tasks_text


def metadata_files(
    info: Mapping[str, Any],
    tasks: Mapping[int, str],
    entries: Sequence[Mapping[str, Any]],
    statistics: Mapping[str, Any] | None,
    episode_statistics: Mapping[int, Mapping[str, Any]],
    places: Sequence[EpisodePlace] = (),
) -> dict[str, str | pa.Table]:
    """Return the content of each file by name, of the version that `info` states.

    Args:
        info: `info.json`.
        tasks: text of each task number; without gaps in v3.0.
        entries: what is listed of each episode, in order.
        statistics: `stats.json`; None: it stays unchanged.
        episode_statistics: by episode, feature and name.
        places: where the episodes are, in order; only of v3.0.

    Raises:
        DatasetError: a number is NaN or infinite, or the entries do not fit v3.0's table.
    """
    version = schema.Version(info["codebase_version"])
    files: dict[str, str | pa.Table] = {}
    if version is schema.Version.V30:
        table_name = schema.shared_path(schema.EPISODES_TABLE_PATH, 0)
        files[table_name] = make_tables(places, entries, episode_statistics, info["fps"])
    else:
        files[schema.EPISODES_FILE] = schema.json_lines_text(list(entries))
    if version is schema.Version.V21:
        files[schema.EPISODES_STATS_FILE] = episode_statistics_text(episode_statistics)
    return files | dataset_files(info, tasks, statistics)


def dataset_files(
    info: Mapping[str, Any], tasks: Mapping[int, str], statistics: Mapping[str, Any] | None
) -> dict[str, str | pa.Table]:
    """Return the content of the files that do not list episodes; see `metadata_files`."""
    files: dict[str, str | pa.Table] = {}
    if info["codebase_version"] == schema.Version.V30.value:
        files[schema.TASKS_TABLE] = tasks_table([tasks[number] for number in sorted(tasks)])
    else:
        files[schema.TASKS_FILE] = tasks_text(tasks)
    if statistics is not None:
        files[schema.STATS_FILE] = schema.json_text(statistics)
    return files | {schema.INFO_FILE: schema.json_text(info)}
