# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The layout of LeRobot datasets v2.0, v2.1 and v3.0 with GR00T's additions: file names, columns, features.

The only file that knows a path template. Facts about the formats are those of the output of lerobot 0.3.3 (v2.1) and
0.4.4 (v3.0) and of GR00T's loaders (N1 to N1.7); the choices here open in all of them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gr00t_training.embodiment import ACTION_COLUMN, IMAGE_COLUMN_PREFIX, STATE_COLUMN, Embodiment, column_names
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import TEXT_LIMIT, check_name, inside, open_regular, read_text
from gr00t_training.io.text import printable


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
EPISODES_FOLDER = "meta/episodes"
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
REPAIR_FOLDER = f"{STAGING}/repair"  # new content of files under repair
REPAIR_STEPS = f"{STAGING}/repair.json"  # steps of a repair that is decided and not finished
STAGED_SUFFIX = ".part"

TIMESTAMP_COLUMN = "timestamp"
TASK_COLUMN = "task_index"
NUMBERING_COLUMNS = ("frame_index", "episode_index", "index")
INDEX_COLUMNS = (*NUMBERING_COLUMNS, TASK_COLUMN)
VECTOR_COLUMNS = (STATE_COLUMN, ACTION_COLUMN)
INTERVENTION_COLUMN = "intervention"  # true: a person commanded the row; name and type are lerobot's
SOURCE_COLUMN = "command_source"  # a `Commander`

# What a path template may hold: a field, possibly with the width of a number.
_TEMPLATE_FIELD = re.compile(r"\{([a-z_]+)(?::(?:0(\d{1,2}))?d?)?\}")
MAX_NUMBER_WIDTH = 12  # digits

JSON_LIMIT = 32 * 2**20  # [bytes] of a file that holds one JSON value; parsed it may take 30 times as much
JSON_DEPTH = 64  # lists and objects inside each other; statistics have 4 or 5

# Language keys that name no annotation: GR00T N1.6 and N1.7 read them from the episode's entry, not from a column.
EPISODE_TEXTS = ("task", "sub_task")
ANNOTATION_PREFIX = "annotation."  # left out in `modality.json`


def data_path(episode_index: int, template: str = DATA_PATH, chunks_size: int = CHUNKS_SIZE) -> str:
    """Return the path of an episode's rows, relative to the dataset; raises as `format_path` does."""
    return format_path(template, episode_chunk=episode_index // chunks_size, episode_index=episode_index)


def video_path(episode_index: int, feature: str, template: str = VIDEO_PATH, chunks_size: int = CHUNKS_SIZE) -> str:
    """Return the path of an episode's video of the camera `feature`, relative to the dataset; see `format_path`."""
    chunk = episode_index // chunks_size
    return format_path(template, episode_chunk=chunk, episode_index=episode_index, video_key=feature)


def depth_path(episode_index: int, key: str, chunks_size: int = CHUNKS_SIZE) -> str:
    """Return the path of an episode's depth of one camera, relative to the dataset; the same in every version."""
    chunk = episode_index // chunks_size
    return format_path(DEPTH_PATH, episode_chunk=chunk, episode_index=episode_index, depth_key=key)


def shared_path(template: str, number: int, feature: str = "", chunks_size: int = CHUNKS_SIZE) -> str:
    """Return the path of the `number`-th file of v3.0 from one of its templates, relative to the dataset."""
    fields = {"video_key": feature} if feature else {}
    return format_path(template, chunk_index=number // chunks_size, file_index=number % chunks_size, **fields)


def format_path(template: str, **fields: int | str) -> str:
    """Fill a path template of `info.json`: known fields only, numbers with a plain width, nothing else of `format`.

    Raises:
        DatasetError: an unknown field, another format, or a path that leaves the dataset.
    """

    def filled(match: re.Match[str]) -> str:
        name, width = match[1], int(match[2] or 0)
        if name not in fields or width > MAX_NUMBER_WIDTH or (width and isinstance(fields[name], str)):
            raise DatasetError(_template_message(template, match[0], fields))
        return f"{fields[name]:0{width}d}" if width else str(fields[name])

    if not isinstance(template, str):
        raise DatasetError(f"{INFO_FILE}: a path template is {printable(repr(template))}, expected a text")
    rest = _TEMPLATE_FIELD.sub("", template)
    if "{" in rest or "}" in rest:
        raise DatasetError(_template_message(template, printable(rest), fields))
    return check_name(_TEMPLATE_FIELD.sub(filled, template), DatasetError, INFO_FILE).as_posix()


def _template_message(template: str, part: str, fields: Mapping[str, Any]) -> str:
    known = ", ".join(f"{{{name}}}" for name in fields)
    return (
        f"{INFO_FILE}: path template '{printable(template)}': '{printable(part)}' is not understood; expected "
        f"{known}, numbers like {{{next(iter(fields))}:06d}}"
    )


def quality_path(episode_index: int) -> str:
    """Return the path of an episode's recording report, relative to the dataset."""
    return QUALITY_PATH.format(episode_index=episode_index)


def image_feature(key: str) -> str:
    """Return the feature name of a camera of the embodiment."""
    return IMAGE_COLUMN_PREFIX + key


def make_features(embodiment: Embodiment, codec: str, *, has_source: bool = False) -> dict[str, Any]:
    """Return the `features` of `info.json`.

    Args:
        embodiment: gives vectors and cameras.
        codec: name of the videos' codec (h264, av1).
        has_source: whether rows say who commanded.
    """
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
    if has_source:
        features[INTERVENTION_COLUMN] = {"dtype": "bool", "shape": [1], "names": None}
        features[SOURCE_COLUMN] = {"dtype": "int64", "shape": [1], "names": None}
    features[TIMESTAMP_COLUMN] = {"dtype": "float32", "shape": [1], "names": None}
    for column in INDEX_COLUMNS:
        features[column] = {"dtype": "int64", "shape": [1], "names": None}
    return features


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


def meta_file(root: Path, name: str) -> Path:
    """Return the path of a file of the dataset in `root` without following links; it need not exist.

    Raises:
        DatasetError: it, or a folder on the way, is a symbolic link.
    """
    return inside(root, name, DatasetError)


def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file of a dataset.

    Raises:
        DatasetError: missing, no regular file, larger than `limit` bytes, not JSON, or nested beyond `JSON_DEPTH`.
    """
    return parse_json(_read_text(path, limit), str(path))


def read_object(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Read a JSON file that holds an object; raises as `read_json` does."""
    content = read_json(path, limit)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds a {type(content).__name__}, expected an object; restore it from a copy")
    return content


def read_json_lines(path: Path, limit: int = TEXT_LIMIT) -> list[Any]:
    """Read a file with one JSON object a line.

    Raises:
        DatasetError: as `read_json`; names the file and the line.
    """
    return [line.value for line in iterate_json_lines(path, limit)]


class JsonLine(NamedTuple):
    """One line of a file with JSON lines."""

    value: Any
    offset: int  # [bytes] from the start of the file
    size: int  # [bytes]


def iterate_json_lines(path: Path, limit: int = TEXT_LIMIT) -> Iterator[JsonLine]:
    """Yield the lines of a file with one JSON object a line, one in memory at a time; raises as `read_json_lines`."""
    _check_exists(path)
    offset = 0
    with open_regular(path, DatasetError, limit) as file:
        for number in itertools.count(1):
            line = file.readline(JSON_LIMIT + 1)
            if len(line) > JSON_LIMIT:
                raise DatasetError(f"{path}:{number}: more than {JSON_LIMIT} bytes; is it the right file?")
            if not line:
                return
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DatasetError(
                    f"{path}: byte {offset + error.start} is not UTF-8; restore it from a copy"
                ) from error
            if not text.isspace():
                yield JsonLine(parse_json(text, f"{path}:{number}"), offset, len(line))
            offset += len(line)


def _read_text(path: Path, limit: int) -> str:
    _check_exists(path)
    return read_text(path, DatasetError, limit)


def _check_exists(path: Path) -> None:
    if not path.exists():
        _refuse_other_kinds(path)
        raise DatasetError(f"{path}: cannot be read (No such file or directory); is this a LeRobot dataset?")


def _refuse_other_kinds(path: Path) -> None:
    """Say what was passed in the place of a dataset, where `path` is its `meta/info.json`."""
    if path.name != "info.json":
        return
    root = path.parent.parent
    kinds = {
        "a checkpoint": ("config.json", "model*.safetensors", "adapter_config.json"),
        "a run of gr00t_finetune": ("checkpoint-*",),
        "a bag (gr00t_convert_bag makes a dataset of it)": ("*.mcap", "*.db3", "*.bag"),
    }
    if root.is_file():
        raise DatasetError(f"{root}: is a file, expected the folder of a dataset")
    for kind, patterns in kinds.items():
        if root.is_dir() and any(any(root.glob(pattern)) for pattern in patterns):
            raise DatasetError(f"{root}: is {kind}, expected a dataset (meta/info.json); check the path")


def parse_json(text: str, subject: str) -> Any:
    """Parse a JSON value; `subject` names it in errors.

    Raises:
        DatasetError: not JSON, nested beyond `JSON_DEPTH`, or with half a surrogate pair.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise DatasetError(
            f"{subject}: nested too deeply (limit {JSON_DEPTH} levels); restore it from a copy"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{subject}: not valid JSON ({error}); restore it from a copy") from error
    if text.count("[") + text.count("{") > JSON_DEPTH and _depth(value) > JSON_DEPTH:
        raise DatasetError(f"{subject}: nested too deeply (limit {JSON_DEPTH} levels); restore it from a copy")
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DatasetError(f"{subject}: half a surrogate pair in a text; restore it from a copy") from error
    return value


def _depth(value: Any) -> int:
    """Return how many lists and objects are inside each other, counted up to one beyond `JSON_DEPTH`."""
    level, depth = [value], 0
    while level and depth <= JSON_DEPTH:
        depth += 1
        inner = []
        for each in level:
            children = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
            inner += [child for child in children if isinstance(child, (dict, list))]
        level = inner
    return depth


def json_text(value: Any) -> str:
    """Format a JSON file: non-ASCII characters kept; DatasetError for NaN and infinity."""
    return _dumped(value, indent=4) + "\n"


def json_lines_text(values: list[Any]) -> str:
    """Format a file with one JSON object a line; raises as `json_text` does."""
    return "".join(_dumped(value) + "\n" for value in values)


def _dumped(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError as error:
        raise DatasetError("a number of the metadata is NaN or infinite; correct it in the dataset's files") from error
