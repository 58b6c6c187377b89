#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure operations on datasets of many short episodes: seconds, peak memory and how both grow with the size.

Makes datasets v2.1 of 20 rows an episode (a parquet file each), with seven joints and no camera, and does with each
what users do: `info`, `validate`, `stats`, `convert` to v3.0, `merge` with itself, and the same on the result. For
the recorder each episode also has a video, which are links to a few files: the writer opens the dataset, saves one
episode and closes it; it opens it once before, since the first opening after another tool reads all rows. Every
operation runs in a process of its own; its peak memory is the kernel's `VmHWM`, with about 100 MB of libraries.

Columns:

    wall_s    from start to end of the process, imports included
    cpu_s     processor time without the imports
    peak_mib  largest resident memory
    growth    cpu_s and peak memory against the size before, divided by the growth of the size: 1 is in proportion

`--before FOLDER` measures the code of another checkout on the same files, one line below the other.

    python3 -m bench.large_dataset --episodes 1000 8000 --before ../before
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gr00t_test_support.many_episodes import FPS, JOINTS, ROWS, TASKS, make_dataset

HEIGHT, WIDTH = 48, 64
LINKS_PER_FILE = 30_000  # ext4 allows 65,000
PACKAGES = (
    "gr00t_training",
    "gr00t_test_support",
    "gr00t_recorder",
    "gr00t_policy_node",
    "gr00t_bringup",
    "gr00t_console",
)

# Run in a process each: `path` and `other` are folders.
OPERATIONS = {
    "info": "from gr00t_training.cli.dataset import main; run = lambda: main(['info', path])",
    "validate": "from gr00t_training.cli.dataset import main; run = lambda: main(['validate', path, '--jobs', '2'])",
    "stats": "from gr00t_training.cli.dataset import main; run = lambda: main(['stats', path])",
    "convert v3.0": "from gr00t_training.cli.dataset import main; "
    "run = lambda: main(['convert', path, '--dataset-version', 'v3.0', '--output', other])",
    "convert v2.1": "from gr00t_training.cli.dataset import main; "
    "run = lambda: main(['convert', path, '--dataset-version', 'v2.1', '--output', other])",
    "merge": "from gr00t_training.cli.dataset import main; "
    "run = lambda: main(['merge', path, path, '--output', other])",
    "record": "from bench.large_dataset import record; run = lambda: record(path)",
}
CHILD = """
import os, sys
path, other = sys.argv[1:3]
{operation}
start = sum(os.times()[:4])
code = run()
seconds = sum(os.times()[:4]) - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print()
print("MEASURED", seconds, peak / 1024, code or 0)
"""


def main() -> None:
    """Measure, print a line per operation and size, and write all to the JSON file if one is named."""
    parser = argparse.ArgumentParser(description="Measure operations on datasets of many episodes.")
    parser.add_argument("--episodes", type=int, nargs="+", default=[1000, 8000], help="sizes of the datasets")
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS), choices=OPERATIONS)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout to measure too")
    parser.add_argument("--folder", type=Path, help="where the datasets are made (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    options = parser.parse_args()
    codes = {"now": Path(__file__).resolve().parents[1]} | ({"before": options.before} if options.before else {})
    results: list[dict[str, Any]] = []
    print(f"{'operation':24}{'code':>8}{'episodes':>10}{'wall_s':>9}{'cpu_s':>9}{'peak_mib':>10}   growth")
    for size in options.episodes:
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_large_") as folder:
            for result in _measure_size(Path(folder), size, options.operations, codes):
                results.append(result)
                _print_row(result, results)
    if options.json:
        options.json.write_text(json.dumps({"cores": os.cpu_count(), "results": results}, indent=1) + "\n")


def _measure_size(folder: Path, size: int, wanted: Sequence[str], codes: dict[str, Path]) -> Iterator[dict[str, Any]]:
    start = time.perf_counter()
    make_dataset(folder / "v21", size)
    print(f"(made {size} episodes in {time.perf_counter() - start:.0f} s)", flush=True)
    for name in ("info", "validate", "stats", "merge", "convert v3.0"):
        for code in codes if name in wanted else ():
            yield _measure(f"{name}, v2.1", name, codes, code, size, folder / "v21", folder / "other")
    if not set(wanted).isdisjoint(OPERATIONS):
        _call(codes["now"], OPERATIONS["convert v3.0"], folder / "v21", folder / "v30")
    for name in ("info", "validate", "stats", "merge", "convert v2.1"):
        for code in codes if name in wanted else ():
            yield _measure(f"{name}, v3.0", name, codes, code, size, folder / "v30", folder / "other")
    if "record" in wanted:
        shutil.rmtree(folder / "v30", ignore_errors=True)
        add_videos(folder / "v21", size)
        for code in codes:
            yield _measure("record, v2.1", "record", codes, code, size, folder / "v21", folder / "other")
        _call(codes["now"], OPERATIONS["convert v3.0"], folder / "v21", folder / "v30")
        for code in codes:
            yield _measure("record, v3.0", "record", codes, code, size, folder / "v30", folder / "other")


def _measure(
    what: str, name: str, codes: dict[str, Path], code: str, size: int, path: Path, other: Path
) -> dict[str, Any]:
    start = time.perf_counter()
    cpu_s, peak_mib = _call(codes[code], OPERATIONS[name], path, other)
    wall_s = time.perf_counter() - start
    shutil.rmtree(other, ignore_errors=True)
    return {
        "operation": what,
        "code": code,
        "episodes": size,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_mib": peak_mib,
    }


def _call(code: Path, operation: str, path: Path, other: Path) -> tuple[float, float]:
    """Run an operation in a new process with the code of a checkout; return its seconds and peak memory [MiB]."""
    folders = [str(code / name) for name in PACKAGES] + [str(Path(__file__).resolve().parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    script = CHILD.format(operation=operation)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(other)], env=environment, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED")]
    if done.returncode or not lines or lines[-1].split()[3] != "0":
        raise SystemExit(f"{operation}\nexit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    if "record(" in operation:
        print("  ", next(line for line in done.stdout.splitlines() if line.startswith("first opening")))
    return float(lines[-1].split()[1]), float(lines[-1].split()[2])


def _print_row(row: dict[str, Any], results: list[dict[str, Any]]) -> None:
    same = [other for other in results[:-1] if (other["operation"], other["code"]) == (row["operation"], row["code"])]
    growth = ""
    if same:
        share = row["episodes"] / same[-1]["episodes"]
        growth = " ".join(f"{row[name] / same[-1][name] / share:.2f}" for name in ("cpu_s", "peak_mib"))
    print(
        f"{row['operation']:24}{row['code']:>8}{row['episodes']:>10}{row['wall_s']:>9.2f}{row['cpu_s']:>9.2f}"
        f"{row['peak_mib']:>10.0f}   {growth}",
        flush=True,
    )


def add_videos(root: Path, num_episodes: int) -> None:
    """Give every episode of a dataset a video, and the dataset the embodiment that the recorder compares."""
    from gr00t_training.dataset import schema
    from gr00t_training.dataset.metadata.info import make_recorded_info
    from gr00t_training.embodiment import modality_layout, to_mapping

    embodiment = make_embodiment()
    codec = make_video().codec.value
    info = make_recorded_info(embodiment, codec, schema.Version.V21, num_episodes, num_episodes * ROWS, len(TASKS))
    (root / schema.INFO_FILE).write_text(schema.json_text(info))
    (root / schema.EMBODIMENT_FILE).write_text(schema.json_text(to_mapping(embodiment)))
    (root / schema.MODALITY_FILE).write_text(schema.json_text(modality_layout(embodiment)))
    feature = schema.image_feature("front")
    original = root / schema.video_path(0, feature)
    for index in range(num_episodes):
        path = root / schema.video_path(index, feature)
        if index % schema.CHUNKS_SIZE == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if index % LINKS_PER_FILE == 0:
            _write_video(path)
            original = path
        else:
            os.link(original, path)
    lines = []
    image = {name: [[[0.5]]] * 3 for name in ("min", "max", "mean", "std")} | {"count": [ROWS]}
    for line in (root / schema.EPISODES_STATS_FILE).read_text().splitlines():
        entry = json.loads(line)
        entry["stats"][feature] = image
        lines.append(entry)
    (root / schema.EPISODES_STATS_FILE).write_text(schema.json_lines_text(lines))


def make_embodiment() -> Any:
    """Return the embodiment of the datasets with videos."""
    from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey

    arm = {"arm": VectorKey(names=JOINTS)}
    return Embodiment(
        name="arm",
        tag="new_embodiment",
        fps=FPS,
        state=arm,
        action=arm,
        video={"front": VideoKey(height=HEIGHT, width=WIDTH)},
    )


def make_video() -> Any:
    """Return how the videos are coded."""
    from gr00t_training.dataset.media.video import VideoCodec, VideoSettings

    return VideoSettings(codec=VideoCodec.H264)


def _write_video(path: Path) -> None:
    from gr00t_training.dataset.media.video import VideoWriter

    writer = VideoWriter(path, HEIGHT, WIDTH, FPS, make_video())
    for number in range(ROWS):
        writer.add(np.full((HEIGHT, WIDTH, 3), number * 10, np.uint8))
    writer.close()


def record(path: str) -> None:
    """Open a dataset as the recorder does, save one episode, and close it."""
    from gr00t_training.dataset.writer import DatasetWriter
    from gr00t_training.types import Frame

    embodiment = make_embodiment()
    first = time.perf_counter()
    DatasetWriter(path, embodiment, video=make_video()).close()
    start = time.perf_counter()
    writer = DatasetWriter(path, embodiment, video=make_video())
    opened = time.perf_counter()
    episode = writer.start_episode(TASKS[0])
    for number in range(ROWS):
        vector = np.full(len(JOINTS), number * 0.01)
        image = np.full((HEIGHT, WIDTH, 3), number * 10, np.uint8)
        episode.add_frame(Frame(round(number / FPS * 1e9), {"arm": vector}, {"arm": vector}, {"front": image}))
    episode.save()
    saved = time.perf_counter()
    writer.close()
    closed = time.perf_counter()
    first_s, open_s, save_s, close_s = start - first, opened - start, saved - opened, closed - saved
    print(f"first opening {first_s:.2f} s, open {open_s:.2f} s, save {save_s:.2f} s, close {close_s:.2f} s")


if __name__ == "__main__":
    main()
