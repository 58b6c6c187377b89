# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The layout of LeRobot datasets v2.0, v2.1 and v3.0 with GR00T's additions: file names, columns, features.

The only file that knows a path template. Facts about the formats are those of the output of lerobot 0.3.3 (v2.1) and
0.4.4 (v3.0) and of GR00T's loaders (N1 to N1.7); the choices here open in all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gr00t_training.embodiment import ACTION_COLUMN, IMAGE_COLUMN_PREFIX, STATE_COLUMN, Embodiment, column_names
from gr00t_training.errors import DatasetError


class Version(str, Enum):
    """Versions of the format that are read and written."""

    V20 = "v2.0"
    V21 = "v2.1"
    V30 = "v3.0"


DEFAULT_VERSION = Version.V21  # the only one that both GR00T and a lerobot open
READ_VERSIONS = tuple(version.value for version in Version)
CHUNKS_SIZE = 1000  # episodes (v2.x) or files (v3.0) in one folder
# files of v3.0 are not appended to beyond these sizes [MB of 2^20 bytes], lerobot's own
DATA_FILES_MB = 100
VIDEO_FILES_MB = 200

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
DEPTH_PATH = "depth/chunk-{episode_chunk:03d}/{depth_key}/episode_{episode_index:06d}.mkv"  # a side channel
DEPTH_PATTERN = "depth/*/*/episode_*.mkv"
SHARED_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
SHARED_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_TABLE_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_TABLE_PATTERN = "meta/episodes/*/*.parquet"
DATA_PATTERN = "data/*/*.parquet"

META = "meta"
INFO_FILE = f"{META}/info.json"
EPISODES_FILE = f"{META}/episodes.jsonl"
TASKS_FILE = f"{META}/tasks.jsonl"
TASKS_TABLE = f"{META}/tasks.parquet"
EPISODES_STATS_FILE = f"{META}/episodes_stats.jsonl"
STATS_FILE = f"{META}/stats.json"
RELATIVE_STATS_FILE = f"{META}/relative_stats.json"  # written by the trainers of N1.6 and N1.7
MODALITY_FILE = f"{META}/modality.json"
EMBODIMENT_FILE = f"{META}/embodiment.json"
QUALITY_PATH = f"{META}/quality/episode_{{episode_index:06d}}.json"
QUALITY_PATTERN = f"{META}/quality/episode_*.json"

# Hidden, and nothing inside ends in .parquet or .mp4: lerobot counts such files when it appends.
STAGING = ".staging"
IGNORED = f"{STAGING}/ignored"
STAGED_SUFFIX = ".part"

TIMESTAMP_COLUMN = "timestamp"
TASK_COLUMN = "task_index"
INDEX_COLUMNS = ("frame_index", "episode_index", "index", TASK_COLUMN)
VECTOR_COLUMNS = (STATE_COLUMN, ACTION_COLUMN)

# Language keys that name no annotation: GR00T N1.6 and N1.7 read them from the episode's entry, not from a column.
EPISODE_TEXTS = ("task", "sub_task")
ANNOTATION_PREFIX = "annotation."  # left out in `modality.json`


def data_path(episode_index: int, template: str = DATA_PATH, chunks_size: int = CHUNKS_SIZE) -> str:
    """Return the path of an episode's rows, relative to the dataset."""
    return template.format(episode_chunk=episode_index // chunks_size, episode_index=episode_index)


def video_path(episode_index: int, feature: str, template: str = VIDEO_PATH, chunks_size: int = CHUNKS_SIZE) -> str:
    """Return the path of an episode's video of the camera `feature`, relative to the dataset."""
    chunk = episode_index // chunks_size
    return template.format(episode_chunk=chunk, episode_index=episode_index, video_key=feature)


def depth_path(episode_index: int, key: str, chunks_size: int = CHUNKS_SIZE) -> str:
    """Return the path of an episode's depth of one camera, relative to the dataset; the same in every version."""
    chunk = episode_index // chunks_size
    return DEPTH_PATH.format(episode_chunk=chunk, episode_index=episode_index, depth_key=key)


def shared_path(template: str, number: int, feature: str = "", chunks_size: int = CHUNKS_SIZE) -> str:
    """Return the path of the `number`-th file of v3.0 from one of its templates, relative to the dataset."""
    return template.format(chunk_index=number // chunks_size, file_index=number % chunks_size, video_key=feature)


def quality_path(episode_index: int) -> str:
    """Return the path of an episode's recording report, relative to the dataset."""
    return QUALITY_PATH.format(episode_index=episode_index)


def image_feature(key: str) -> str:
    """Return the feature name of a camera of the embodiment."""
    return IMAGE_COLUMN_PREFIX + key


def make_features(embodiment: Embodiment, codec: str) -> dict[str, Any]:
    """Return the `features` of `info.json`; `codec` is the name of the videos' codec (h264, av1)."""
    features: dict[str, Any] = {}
    for column, keys in ((STATE_COLUMN, embodiment.state), (ACTION_COLUMN, embodiment.action)):
        names = column_names(keys)
        features[column] = {"dtype": "float32", "shape": [len(names)], "names": names}
    for key, video in embodiment.video.items():
        features[image_feature(key)] = {
            "dtype": "video",
            "shape": [video.height, video.width, 3],
            "names": ["height", "width", "channels"],  # the only form that opens in every GR00T release
            "info": {
                "video.height": video.height,
                "video.width": video.width,
                "video.codec": codec,
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": embodiment.fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
    features[TIMESTAMP_COLUMN] = {"dtype": "float32", "shape": [1], "names": None}
    for column in INDEX_COLUMNS:
        features[column] = {"dtype": "int64", "shape": [1], "names": None}
    return features


def make_info(
    embodiment: Embodiment,
    codec: str,
    num_episodes: int,
    num_frames: int,
    num_tasks: int,
    version: Version = DEFAULT_VERSION,
) -> dict[str, Any]:
    """Return `info.json`."""
    head: dict[str, Any] = {
        "codebase_version": version.value,
        "robot_type": embodiment.robot_type or embodiment.name,
        "total_episodes": num_episodes,
        "total_frames": num_frames,
        "total_tasks": num_tasks,
    }
    if version is Version.V30:
        head["chunks_size"] = CHUNKS_SIZE
        head["data_files_size_in_mb"] = DATA_FILES_MB
        head["video_files_size_in_mb"] = VIDEO_FILES_MB
        paths = (SHARED_DATA_PATH, SHARED_VIDEO_PATH)
    else:
        head["total_videos"] = num_episodes * len(embodiment.video)
        head["total_chunks"] = -(-num_episodes // CHUNKS_SIZE)
        head["chunks_size"] = CHUNKS_SIZE
        paths = (DATA_PATH, VIDEO_PATH)
    return {
        **head,
        "fps": embodiment.fps,
        "splits": {"train": f"0:{num_episodes}"},
        "data_path": paths[0],
        "video_path": paths[1],
        "features": make_features(embodiment, codec),
    }


def make_timestamps(num_rows: int, fps: int) -> np.ndarray:
    """Return `(num_rows,)` float32 seconds: k / fps, divided in double before rounding."""
    return (np.arange(num_rows) / fps).astype(np.float32)


def make_table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Return the rows of an episode with the parquet types and the metadata that every reader takes.

    Args:
        columns: `(N, D)` float32 for `observation.state` and `action`, `(N,)` for the others.
    """
    arrays, fields, described = [], [], {}
    for name, values in columns.items():
        if values.ndim == 2:
            kind = pa.list_(pa.field("element", pa.float32()), values.shape[1])
            flat = pa.array(np.ascontiguousarray(values).reshape(-1), pa.float32())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
            value = {"dtype": "float32", "_type": "Value"}
            # datasets 3.6 knows no "List"; 4.x still reads "Sequence"
            described[name] = {"feature": value, "length": values.shape[1], "_type": "Sequence"}
        else:
            arrays.append(pa.array(values))
            described[name] = {"dtype": str(values.dtype), "_type": "Value"}
        fields.append(pa.field(name, arrays[-1].type))
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def column_rows(column: pa.ChunkedArray) -> np.ndarray:
    """Return a parquet column as `(N,)`, or `(N, D)` where it holds lists of equal length.

    Raises:
        DatasetError: nulls, or lists of different lengths.
    """
    array = column.combine_chunks()
    if array.null_count:
        raise DatasetError(f"a column of {array.type} has {array.null_count} empty rows; write the dataset again")
    if isinstance(array, pa.FixedSizeListArray):
        widths = {array.type.list_size}
    elif isinstance(array, pa.ListArray):
        widths = set(array.value_lengths().to_pylist())
    else:
        return array.to_numpy(zero_copy_only=False)
    if len(widths) > 1:
        raise DatasetError(
            f"a column of {array.type} has {min(widths)} to {max(widths)} values a row; expected one width"
        )
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)


def read_json(path: Path) -> Any:
    """Read a JSON file of a dataset.

    Raises:
        DatasetError: missing, unreadable or not JSON; names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); is this a LeRobot dataset?") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON ({error}); restore it from a copy") from error


def read_json_lines(path: Path) -> list[Any]:
    """Read a file with one JSON object a line.

    Raises:
        DatasetError: missing, unreadable or not JSON; names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); is this a LeRobot dataset?") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: not valid JSON ({error}); restore it from a copy") from error
    return entries


def json_text(value: Any) -> str:
    """Format a JSON file: non-ASCII characters kept, NaN refused."""
    return json.dumps(value, ensure_ascii=False, indent=4, allow_nan=False) + "\n"


def json_lines_text(values: list[Any]) -> str:
    """Format a file with one JSON object a line."""
    return "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)
