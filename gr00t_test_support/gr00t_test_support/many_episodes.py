# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A dataset of many short episodes without cameras; all values are seeded."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.columns import column_rows
from gr00t_training.dataset.metadata.info import Counts, make_info
from gr00t_training.dataset.metadata.lists import episode_statistics_text
from gr00t_training.dataset.statistics.compute import compute_statistics, describe_rows

ROWS = 20
FPS = 20
JOINTS = tuple(f"joint_{number}" for number in range(7))
TASKS = ("pick the cube", "open the drawer", "wipe the table")
_VECTORS = ("observation.state", "action")


def make_dataset(root: Path, num_episodes: int) -> None:
    """Write a dataset v2.1 without cameras; several processes write a large one."""
    (root / schema.META).mkdir(parents=True)
    for chunk in range(-(-num_episodes // schema.CHUNKS_SIZE)):
        (root / schema.data_path(chunk * schema.CHUNKS_SIZE)).parent.mkdir(parents=True, exist_ok=True)
    num_parts = -(-num_episodes // schema.CHUNKS_SIZE)
    parts = [root] * num_parts, np.array_split(np.arange(num_episodes), num_parts)
    with open(root / schema.EPISODES_STATS_FILE, "w") as file:
        if num_parts == 1:
            file.writelines(map(_write_episodes, *parts))
        else:
            with ProcessPoolExecutor(os.cpu_count()) as pool:
                file.writelines(pool.map(_write_episodes, *parts))
    entries = [
        {"episode_index": index, "tasks": [TASKS[index % len(TASKS)]], "length": ROWS} for index in range(num_episodes)
    ]
    (root / schema.EPISODES_FILE).write_text(schema.json_lines_text(entries))
    tasks = [{"task_index": number, "task": text} for number, text in enumerate(TASKS)]
    (root / schema.TASKS_FILE).write_text(schema.json_lines_text(tasks))
    vector = {"dtype": "float32", "shape": [len(JOINTS)], "names": list(JOINTS)}
    scalars = {"timestamp": "float32"} | dict.fromkeys(schema.INDEX_COLUMNS, "int64")
    features = {"observation.state": vector, "action": vector} | {
        name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()
    }
    counts = Counts(num_episodes, num_episodes * ROWS, len(TASKS), 0)
    info = make_info(schema.Version.V21, features, counts, fps=FPS, robot_type="arm") | {"video_path": None}
    (root / schema.INFO_FILE).write_text(schema.json_text(info))
    parts = {"start": 0, "end": len(JOINTS)}
    modality = {
        "state": {"arm": parts},
        "action": {"arm": {**parts, "original_key": "action"}},
        "video": {},
        "annotation": {"human.task_description": {"original_key": "task_index"}},
    }
    (root / schema.MODALITY_FILE).write_text(schema.json_text(modality))
    rows = {name: compute_statistics(_vectors(0, seed)).to_mapping() for seed, name in enumerate(_VECTORS)}
    (root / schema.STATS_FILE).write_text(schema.json_text(rows))


def _vectors(index: int, seed: int) -> np.ndarray:
    steps = np.random.default_rng([index, seed]).normal(0, 0.02, (ROWS, len(JOINTS)))
    return np.cumsum(steps, axis=0).astype(np.float32)


def _write_episodes(root: Path, indices: np.ndarray) -> str:
    """Write the rows of some episodes; return their lines of statistics."""

    described = {}
    for index in indices.tolist():
        columns = {name: _vectors(index, seed) for seed, name in enumerate(_VECTORS)} | {
            "timestamp": schema.make_timestamps(ROWS, FPS),
            "frame_index": np.arange(ROWS),
            "episode_index": np.full(ROWS, index),
            "index": np.arange(index * ROWS, (index + 1) * ROWS),
            "task_index": np.full(ROWS, index % len(TASKS)),
        }
        table = schema.make_table(columns)
        pq.write_table(table, root / schema.data_path(index), compression="snappy")
        described[index] = {name: describe_rows(column_rows(table[name])) for name in table.column_names}
    return episode_statistics_text(described)
