# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Small datasets with identifiable rows and pictures, and damage to them; for `repair_property`.

The state of a row is (episode, frame, ...), the gray level of a picture (camera, episode, frame). Every damage takes a
seeded generator and the folder of the dataset, changes files in it, and returns a line that says what it did.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoReader, VideoSettings, VideoWriter
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment, Normalization, VectorKey, VideoKey
from gr00t_training.types import Frame

FPS = 10
SIDE_PX = 16
LEVELS = (20, 3)  # first gray level, and the step between pictures: far above what encoding shifts
MAX_PICTURES = 70
UNFINISHED = 9  # number that the rows of an unfinished episode say

Damage = Callable[[random.Random, Path], str]


def make_embodiment(num_cameras: int) -> Embodiment:
    """Return a robot of three joints with up to two cameras."""
    keys = {"arm": VectorKey(names=("j0", "j1", "j2"), normalization=Normalization.MIN_MAX)}
    cameras = {name: VideoKey(height=SIDE_PX, width=SIDE_PX) for name in ("front", "wrist")[:num_cameras]}
    return Embodiment(name="property_arm", tag="new_embodiment", fps=FPS, state=keys, action=keys, video=cameras)


def level_of(camera: int, number: int) -> int:
    """Return the gray level of picture `number` of the dataset, counted over episodes, as `camera` sees it."""
    return LEVELS[0] + LEVELS[1] * ((number + 35 * camera) % MAX_PICTURES)


def make_dataset(rng: random.Random, root: Path) -> dict[str, Any]:
    """Write a dataset of a random form; return version, lengths and number of cameras."""
    version = rng.choice(("v2.0", "v2.1", "v2.1", "v3.0", "v3.0"))
    num_cameras = rng.choice((1, 1, 2))
    lengths = [rng.randint(3, 9) for _ in range(rng.randint(2, 4))]
    embodiment = make_embodiment(num_cameras)
    written = root.with_name(root.name + ".writing")
    writer = DatasetWriter(written, embodiment, version=version)
    is_joined, is_killed, number = rng.random() < 0.7, rng.random() < 0.15, 0
    for episode, length in enumerate(lengths):
        recording = writer.start_episode(f"task {episode % 2}")
        for frame in range(length):
            recording.add_frame(_frame(embodiment, episode, frame, number))
            number += 1
        recording.save()
    if is_killed:
        recording = writer.start_episode("unfinished")
        for frame in range(14):
            recording.add_frame(_frame(embodiment, UNFINISHED, frame, number + frame))
    if is_killed or not is_joined:
        shutil.copytree(written, root)  # what a kill at this instant leaves
        writer.close()
    else:
        writer.close()
        shutil.copytree(written, root)
    shutil.rmtree(written)
    if rng.random() < 0.4 and not is_killed:  # as another tool writes it
        for name in (schema.STAGING, schema.QUALITY_PATH.rpartition("/")[0]):
            shutil.rmtree(root / name, ignore_errors=True)
        (root / schema.EMBODIMENT_FILE).unlink()
    return {"version": version, "lengths": lengths, "cameras": num_cameras, "killed": is_killed}


def _frame(embodiment: Embodiment, episode: int, frame: int, number: int) -> Frame:
    state = {"arm": np.array([episode, frame, number / 7])}
    action = {"arm": np.array([number, -frame, episode / 3])}
    images = {
        key: np.full((SIDE_PX, SIDE_PX, 3), level_of(camera, number), np.uint8)
        for camera, key in enumerate(embodiment.video)
    }
    return Frame(round(frame * 1e9 / FPS), state, action, images, f"task {episode % 2}")


# what there is to damage


def data_files(root: Path) -> list[Path]:
    """Return the files with rows."""
    return sorted((root / "data").rglob("*.parquet"))


def video_files(root: Path) -> list[Path]:
    """Return the videos."""
    return sorted((root / "videos").rglob("*.mp4"))


def table_files(root: Path) -> list[Path]:
    """Return the files of v3.0's episodes table."""
    return sorted((root / schema.META / "episodes").rglob("*.parquet"))


def _pick(rng: random.Random, paths: list[Path]) -> Path:
    paths = [path for path in paths if path.is_file() and not path.is_symlink()]
    if not paths:
        raise LookupError("nothing of that kind is left")
    return rng.choice(paths)


def _read(path: Path) -> pa.Table:
    if not path.is_file() or path.is_symlink():
        raise LookupError(f"{path} is no longer a file")
    try:
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        raise LookupError(f"{path} is damaged already") from error


def _edit_column(path: Path, name: str, change: Callable[[list[Any]], None]) -> None:
    table = _read(path)
    if name not in table.column_names or not table.num_rows:
        raise LookupError(f"no column {name}")
    values = table[name].to_pylist()
    change(values)
    place = table.column_names.index(name)
    field = table.schema.field(name)
    pq.write_table(table.set_column(place, field, pa.array(values, field.type)), path)


def _take(path: Path, rows: list[int]) -> None:
    pq.write_table(_read(path).take(pa.array(rows, pa.int64())), path)


# damage to files


def remove_metadata(rng: random.Random, root: Path) -> str:
    path = _pick(rng, [path for path in (root / schema.META).glob("*.json*") if path.name != "info.json"])
    path.unlink()
    return f"removed {path.name}"


def remove_file(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root) + video_files(root))
    path.unlink()
    return f"removed {path.relative_to(root)}"


def truncate_file(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root) + video_files(root) + sorted((root / schema.META).glob("*.json*")))
    size = rng.randint(0, max(path.stat().st_size - 1, 0))
    os.truncate(path, size)
    return f"cut {path.relative_to(root)} to {size} bytes"


def exchange_data(rng: random.Random, root: Path) -> str:
    return _exchange(rng, root, data_files(root))


def exchange_videos(rng: random.Random, root: Path) -> str:
    return _exchange(rng, root, video_files(root))


def _exchange(rng: random.Random, root: Path, paths: list[Path]) -> str:
    if len(paths) < 2:
        raise LookupError("only one file")
    one, two = rng.sample(paths, 2)
    aside = one.with_suffix(".x")
    os.rename(one, aside)
    os.rename(two, one)
    os.rename(aside, two)
    return f"exchanged {one.relative_to(root)} and {two.relative_to(root)}"


def add_stray(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root) + video_files(root))
    name = rng.choice(("episode_000007", "copy", "file-005")) + path.suffix
    shutil.copy(path, path.with_name(name))
    return f"copied {path.relative_to(root)} to {name}"


def add_special(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root) + video_files(root) + sorted((root / schema.META).glob("*.json*")))
    kind = rng.choice(("pipe", "link", "lfs", "stray pipe", "stray link"))
    if kind.startswith("stray"):
        path = path.with_name("episode_000008" + path.suffix)
    else:
        shutil.copy(path, root.with_name(root.name + ".aside"))
        path.unlink()
    if kind.endswith("pipe"):
        os.mkfifo(path)
    elif kind.endswith("link"):
        path.symlink_to(root.with_name(root.name + ".aside"))
    else:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1\n")
    return f"{kind} at {path.relative_to(root)}"


def add_leftovers(rng: random.Random, root: Path) -> str:
    folder = root / schema.REPAIR_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "000000.json.part").write_text("{")
    (root / schema.STAGING / "meta_info.json.part").write_text("{")
    bag = root / ".bags" / "episode_000000" / "episode_000000_0.mcap"
    bag.parent.mkdir(parents=True, exist_ok=True)
    bag.write_bytes(b"\x89MCAP0\r\n" + bytes(rng.randrange(256) for _ in range(99)))
    return "left-over files of killed processes"


# damage to rows


def delete_rows(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root))
    count = _read(path).num_rows
    start = rng.randrange(max(count, 1))
    stop = min(start + rng.randint(1, 3), count) if rng.random() < 0.6 else count
    _take(path, [row for row in range(count) if not start <= row < stop])
    return f"deleted rows {start} to {stop} of {path.relative_to(root)}"


def duplicate_row(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root))
    count = _read(path).num_rows
    row = rng.randrange(max(count, 1))
    _take(path, sorted([*range(count), row]))
    return f"row {row} of {path.relative_to(root)} is there twice"


def reorder_rows(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root))
    rows = list(range(_read(path).num_rows))
    if rng.random() < 0.5:
        shift = rng.randrange(len(rows) or 1)
        rows = rows[shift:] + rows[:shift]
    else:
        rng.shuffle(rows)
    _take(path, rows)
    return f"rows of {path.relative_to(root)} in another order"


def mix_rows(rng: random.Random, root: Path) -> str:
    paths = data_files(root)
    if len(paths) < 2:
        raise LookupError("only one file")
    one, two = rng.sample(paths, 2)
    tables = [_read(one), _read(two)]
    if tables[0].schema != tables[1].schema:
        raise LookupError("other columns")
    row = rng.randrange(max(min(table.num_rows for table in tables), 1))
    for path, own, other in ((one, *tables), (two, tables[1], tables[0])):
        parts = [own.slice(0, row), other.slice(row, 1), own.slice(row + 1)]
        pq.write_table(pa.concat_tables(parts), path)
    return f"row {row} of {one.relative_to(root)} and {two.relative_to(root)} exchanged"


def damage_numbers(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root))
    name = rng.choice(("episode_index", "frame_index", "index", "timestamp", "task_index"))
    kind = rng.choice(("one", "one", "constant", "shifted", "order"))

    def change(values: list[Any]) -> None:
        row = rng.randrange(len(values))
        if kind == "one":
            values[row] = values[row] + rng.choice((-1, 1, 2, 0.03 if name == "timestamp" else 5))
            values[row] = values[row] if name == "timestamp" else max(values[row], 0)
        elif kind == "constant":
            values[:] = [values[row]] * len(values)
        elif kind == "shifted":
            values[:] = [value + rng.choice((1,)) for value in values]
        else:
            values[:] = list(range(len(values))) if name != "timestamp" else [k / FPS for k in range(len(values))]

    _edit_column(path, name, change)
    return f"{name} of {path.relative_to(root)}: {kind}"


def drop_column(rng: random.Random, root: Path) -> str:
    path = _pick(rng, data_files(root))
    name = rng.choice(("episode_index", "frame_index", "index", "timestamp"))
    table = _read(path)
    if name not in table.column_names:
        raise LookupError("no such column")
    pq.write_table(table.drop_columns([name]), path)
    return f"no {name} in {path.relative_to(root)}"


# damage to lists


def damage_info(rng: random.Random, root: Path) -> str:
    path = root / schema.INFO_FILE
    info = _json(path)
    name = rng.choice(("total_frames", "total_episodes", "total_tasks", "splits"))
    info[name] = {"train": "0:99"} if name == "splits" else rng.randint(0, 50)
    path.write_text(json.dumps(info))
    return f"info.json: {name} is {info[name]}"


def wrong_fps(rng: random.Random, root: Path) -> str:
    path = root / schema.INFO_FILE
    info = _json(path)
    info["fps"] = rng.choice((5, 9, 11, 20, 30))
    path.write_text(json.dumps(info))
    return f"info.json: fps is {info['fps']}"


def damage_list(rng: random.Random, root: Path) -> str:
    if table_files(root):
        return _damage_table(rng, root)
    path = root / schema.EPISODES_FILE
    try:
        lines = schema.read_json_lines(path)
    except Exception as error:
        raise LookupError("damaged already") from error
    if len(lines) < 2:
        raise LookupError("too few")
    kind = rng.choice(("order", "length", "exchanged lengths", "removed", "duplicate", "cut"))
    one, two = rng.sample(range(len(lines)), 2)
    if kind == "order":
        rng.shuffle(lines)
    elif kind == "length":
        lines[one]["length"] += rng.choice((-1, 1, 7))
    elif kind == "exchanged lengths":
        lines[one]["length"], lines[two]["length"] = lines[two]["length"], lines[one]["length"]
    elif kind == "removed":
        lines.pop(one)
    elif kind == "duplicate":
        lines.append(dict(lines[one]))
    path.write_text(schema.json_lines_text(lines))
    if kind == "cut":
        os.truncate(path, rng.randrange(path.stat().st_size))
    return f"episodes.jsonl: {kind} of lines {one}, {two}"


def _damage_table(rng: random.Random, root: Path) -> str:
    path = _pick(rng, table_files(root))
    table = _read(path)
    kind = rng.choice(("order", "length", "exchanged lengths", "removed", "rows", "times", "times", "times"))
    if kind == "order":
        rows = list(range(table.num_rows))
        rng.shuffle(rows)
        _take(path, rows)
    elif kind == "removed":
        _take(path, [row for row in range(table.num_rows) if row != rng.randrange(table.num_rows)])
    elif kind in ("length", "exchanged lengths"):
        _edit_column(path, "length", lambda values: _damage_lengths(rng, kind, values))
    elif kind == "rows":
        name = rng.choice(("dataset_from_index", "dataset_to_index"))
        _edit_column(path, name, lambda values: _add(rng, values, rng.choice((-1, 1, 3))))
    else:
        names = [name for name in table.column_names if name.endswith("_timestamp")]
        kind = rng.choice(names)
        step = rng.choice((0.05, 0.1, -0.1, 1.0, None))
        _edit_column(path, kind, lambda values: _add(rng, values, step))
    return f"{path.relative_to(root)}: {kind}"


def _damage_lengths(rng: random.Random, kind: str, values: list[Any]) -> None:
    if kind == "length":
        _add(rng, values, rng.choice((-1, 1, 4)))
    elif len(values) > 1:
        one, two = rng.sample(range(len(values)), 2)
        values[one], values[two] = values[two], values[one]


def _add(rng: random.Random, values: list[Any], step: float | None) -> None:
    if step is None:
        values[:] = [0.0] * len(values)
    else:
        row = rng.randrange(len(values))
        values[row] = max(values[row] + step, 0)


def damage_statistics(rng: random.Random, root: Path) -> str:
    path = _pick(rng, [root / schema.STATS_FILE, root / schema.EPISODES_STATS_FILE])
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.name == "stats.json":
        stats = _json(path)
        stats[schema.STATE_COLUMN]["mean"][0] = 99.0
        path.write_text(json.dumps(stats))
    elif lines:
        lines.pop(rng.randrange(len(lines)))
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return f"damaged {path.name}"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LookupError("damaged already") from error


# damage to videos


def lead_in_frames(rng: random.Random, root: Path) -> str:
    """Put pictures of no row before or behind those of a video; v3.0's table follows, as a writer would have it."""
    path = _pick(rng, video_files(root))
    levels = read_levels(path)
    if not levels:
        raise LookupError("damaged already")
    count, is_before = rng.randint(1, 3), rng.random() < 0.5
    extra = [255] * count
    write_levels(path, [*extra, *levels] if is_before else [*levels, *extra])
    if is_before and table_files(root):
        _shift_places(root, path, count / FPS)
    return f"{count} pictures {'before' if is_before else 'behind'} those of {path.relative_to(root)}"


def _shift_places(root: Path, path: Path, step_s: float) -> None:
    camera, number = path.parent.parent.name, int(path.stem.split("-")[1])
    for file in table_files(root):
        inside = [value == number for value in _read(file)[f"videos/{camera}/file_index"].to_pylist()]
        for end in ("from", "to"):
            change = partial(_shift, inside=inside, step_s=step_s)
            _edit_column(file, f"videos/{camera}/{end}_timestamp", change)


def _shift(values: list[Any], inside: list[bool], step_s: float) -> None:
    values[:] = [value + step_s if is_in else value for value, is_in in zip(values, inside, strict=True)]


def other_rate(rng: random.Random, root: Path) -> str:
    path = _pick(rng, video_files(root))
    levels = read_levels(path)
    if not levels:
        raise LookupError("damaged already")
    write_levels(path, levels, fps=2 * FPS)
    return f"{path.relative_to(root)} at {2 * FPS} frames per second"


def lose_frames(rng: random.Random, root: Path) -> str:
    path = _pick(rng, video_files(root))
    levels = read_levels(path)
    if len(levels) < 2:
        raise LookupError("too short")
    keep = rng.randrange(1, len(levels))
    write_levels(path, levels[:keep])
    return f"{path.relative_to(root)} has {keep} of {len(levels)} pictures"


def read_levels(path: Path) -> list[int]:
    """Return the gray level of every picture; empty if the file cannot be read."""
    try:
        reader = VideoReader(path)
        try:
            return [round(float(reader.read([number])[0].mean())) for number in range(reader.num_frames)]
        finally:
            reader.close()
    except Exception:
        return []


def write_levels(path: Path, levels: list[int], fps: int = FPS) -> None:
    """Write a video of plain pictures."""
    video = VideoWriter(path, SIDE_PX, SIDE_PX, fps, VideoSettings())
    for level in levels:
        video.add(np.full((SIDE_PX, SIDE_PX, 3), level, np.uint8))
    video.close()


DAMAGES: tuple[Damage, ...] = (
    remove_metadata,
    remove_file,
    truncate_file,
    exchange_data,
    exchange_videos,
    add_stray,
    add_special,
    add_leftovers,
    delete_rows,
    duplicate_row,
    reorder_rows,
    mix_rows,
    damage_numbers,
    damage_numbers,
    drop_column,
    damage_info,
    wrong_fps,
    damage_list,
    damage_list,
    damage_statistics,
    lead_in_frames,
    other_rate,
    lose_frames,
)
