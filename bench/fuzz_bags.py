# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hostile bags for `fuzz_inputs.py`: MCAP, SQLite and ROS 1, changed byte by byte and field by field.

Each is given to `gr00t_convert_bag` as a conversion, a dry run or a suggestion. Where a change hits bytes that a
checksum covers, a conversion that succeeds without a warning must give the rows and pictures of the unchanged bag; else
it ends with the exit code `SILENT_CHANGE`, which no command may have.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from bench import fuzz_bag_changes as changes
from bench import fuzz_bag_seeds as seeding
from bench.fuzz_process import attempt
from gr00t_recorder.bag.convert_cli import main
from gr00t_test_support.bag_builder import EMBODIMENT, TOPICS

SILENT_CHANGE = 3
QUICK = ("--preset", "ultrafast")


@dataclass(frozen=True)
class Context:
    """What all cases need."""

    topics: Path
    seeds: dict[str, seeding.Seed]  # undamaged bags by name
    rows: dict[str, list[object]]  # what each of them converts to


def prepare(scratch: Path) -> Context:
    """Make the undamaged bags and convert them."""
    folder = scratch / "seeds"
    folder.mkdir()
    (folder / "toy.yaml").write_text(EMBODIMENT)
    topics = folder / "topics.yaml"
    topics.write_text(TOPICS)
    seeds = seeding.make_seeds(folder)
    rows = {}
    for name, seed in seeds.items():
        bag = seed.write(folder / name)
        arguments = [str(bag), "--topics", str(topics), "--output", str(folder / f"{name}_out"), *QUICK]
        outcome = attempt(partial(main, arguments), folder / "log.txt")  # threads of encoders do not survive a fork
        if outcome.code != 0:
            raise RuntimeError(f"the undamaged bag {name} does not convert: {outcome.output}")
        rows[name] = _rows(folder / f"{name}_out")
    return Context(topics, seeds, rows)


def case(context: Context, rng: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Make one hostile bag in `folder` and yield the commands that are given it."""
    name = rng.choice(list(context.seeds))
    seed = context.seeds[name]
    bag, what, is_covered = changes.changed(seed, rng, folder / "bag")
    arguments = [str(bag), "--topics", str(context.topics)]
    partly = ["--allow-partial"] * (rng.random() < 0.4)
    expected = context.rows[name] if is_covered else None
    convert = partial(
        _convert, [*arguments, "--output", str(folder / "out"), *QUICK, *partly], folder / "out", expected
    )
    kind = rng.random()
    if kind < 0.6:
        yield f"{name}, {what}: convert", convert
    elif kind < 0.8:
        order = rng.choice(("auto", "log", "file"))
        yield f"{name}, {what}: dry run", partial(main, [*arguments, "--dry-run", "--order", order, *partly])
    else:
        yield f"{name}, {what}: suggest", partial(main, [str(bag), "--suggest", str(folder / "suggested")])


def _convert(arguments: list[str], output: Path, expected: list[object] | None) -> int:
    """Convert, and compare the rows with the expected ones where no warning was printed."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main(arguments)
    print(errors.getvalue(), end="", file=sys.stderr)
    if code != 0 or expected is None or errors.getvalue():
        return code
    if _rows(output) != expected:
        print("converted without a warning, but to other rows", file=sys.stderr)
        return SILENT_CHANGE
    return code


def _rows(output: Path) -> list[object]:
    """Return rows and video bytes of a dataset, episode by episode."""
    tables = [pq.read_table(path).to_pylist() for path in sorted((output / "data").rglob("*.parquet"))]
    return [tables, [path.read_bytes() for path in sorted((output / "videos").rglob("*.mp4"))]]
