# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Datasets that were changed at random, for every command that reads one; see `fuzz_inputs.py`.

A case takes one of the small datasets (v2.0, v2.1, v3.0, one of another tool), changes one to three of its files (a
value of a JSON file, a line, a column of a table, bytes, the kind of file) and gives it to validate, to what training
reads, and to some of the other commands. A file outside holds a secret text that must not turn up in what is written.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.fuzz_dataset_tables import change_table

SECRET = b"a private text that stays where it is"
MAX_CHANGE_BYTES = 4 * 2**30
NUM_OTHERS = 3  # commands of a case besides validate and load
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "30",
    "text",
    "../../outside/secret",
    "/etc/hostname",
    "a/../../../outside",
    "{0}",
    "{episode_index:03000000000d}",
    "{episode_index.__class__}",
    "{video_key!r}",
    "data/{episode_index}/../../../outside/{episode_index:06d}.parquet",
    "\x1b[31mred\u202e",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [None],
    [0],
    [[[]]],
    {"a": {"b": {}}},
    {"axes": ["h", "w", "c"]},
    ["h", "w", "c"],
    ["channels", "height", "width"],
    [3, 32, 48],
    "image",
    "video",
    "float64",
    "string",
]
EDITS: dict[str, list[str]] = {
    "convert v2.0": ["convert", "{set}", "--to", "v2.0", "-o", "{out}"],
    "convert v2.1": ["convert", "{set}", "--to", "v2.1", "-o", "{out}"],
    "convert v3.0": ["convert", "{set}", "--to", "v3.0", "-o", "{out}"],
    "convert in place": ["convert", "{set}", "--to", "v2.1", "--in-place"],
    "merge": ["merge", "{out}", "{set}", "{set}"],
    "split": ["split", "{set}", "-o", "{out}", "--by-task"],
    "split episodes": ["split", "{set}", "-o", "{out}", "--episodes", "a=0", "b=1-"],
    "delete": ["delete", "{set}", "--episodes", "1", "-o", "{out}"],
    "delete marked": ["delete", "{set}", "--mark", "success=false", "-o", "{out}"],
    "trim": ["trim", "{set}", "-o", "{out}"],
    "trim in place": ["trim", "{set}", "--in-place", "--margin", "0"],
    "retask": ["retask", "{set}", "--episodes", "0-", "--task", "wave", "-o", "{out}"],
    "rename task": ["retask", "{set}", "--replace", "lift the cube", "lift", "--in-place"],
    "stats": ["stats", "{set}"],
    "stats without images": ["stats", "{set}", "--no-images"],
    "info": ["info", "{set}"],
    "info json": ["info", "{set}", "--json"],
    "view": ["view", "{set}", "--html", "{out}.html"],
    "push": ["push", "{set}", "lab/set", "--dry-run"],
    "repair": ["repair", "{set}", "--jobs", "1"],
    "repair dry": ["repair", "{set}", "--dry-run", "--jobs", "1"],
}


def prepare(scratch: Path) -> list[Path]:
    """Write the datasets in a separate process, since the libraries start threads; return their folders."""
    (scratch / "outside" / "secret").write_bytes(SECRET)
    root = scratch / "outside" / "sets"
    writer = multiprocessing.get_context("spawn").Process(target=write_sets, args=(str(root),))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    import gr00t_training.cli.dataset
    import gr00t_training.train.data.fit  # noqa: F401 - paid once, before the forks

    return sorted(root.iterdir())


def write_sets(root: str) -> None:
    """Write the datasets that are changed."""
    from gr00t_test_support.builders import make_embodiment, make_frames
    from gr00t_training.dataset.tools.edit.operations import convert_dataset
    from gr00t_training.dataset.writer import DatasetWriter

    embodiment = make_embodiment()
    for version in ("v2.1", "v3.0"):
        with DatasetWriter(Path(root, version), embodiment, version=version) as writer:
            for number, count in enumerate((20, 22, 21)):
                episode = writer.start_episode("lift the cube" if number < 2 else "push it")
                for frame in make_frames(embodiment, count, seed=number):
                    episode.add_frame(frame)
                episode.save({"success": number == 0, "streams": {"state.arm": {"received": count}}})
    convert_dataset(Path(root, "v2.1"), Path(root, "v2.0"), "v2.0")
    shutil.copytree(Path(root, "v2.1"), Path(root, "foreign"))
    for name in ("meta/embodiment.json", "meta/stats.json", ".staging", "meta/quality"):
        path = Path(root, "foreign", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def case(sets: list[Path], rng: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the commands for one changed dataset."""
    names = [name for name in EDITS if not name.startswith("repair")]
    chosen = [*rng.sample(names, NUM_OTHERS), *rng.sample(["repair", "repair dry"], 1)]
    base, seed = rng.choice(sets), rng.random()
    changed, work = folder / "changed", folder / "work"
    shutil.copytree(base, changed / "set")
    _in_child(lambda: _change(changed / "set", random.Random(seed)))
    for name in ("validate", "load", *chosen):
        _copy(changed, work)
        yield f"{base.name} {name}", lambda: _run(name, work / "set", work / "out")  # noqa: B023 - called before the next
        shutil.rmtree(work)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with its links and pipes."""
    target.mkdir()
    for entry in os.scandir(source):
        path = target / entry.name
        if entry.is_symlink():
            path.symlink_to(os.readlink(entry.path))
        elif entry.is_dir():
            _copy(Path(entry.path), path)
        elif entry.is_file():
            shutil.copyfile(entry.path, path)
        else:
            os.mkfifo(path)


def _run(name: str, root: Path, output: Path) -> int:
    from gr00t_training.cli.dataset import main

    if name == "validate":
        code = main(["validate", str(root), "--jobs", "1"])
    elif name == "load":
        code = _load(root)
    else:
        code = main([part.format(set=root, out=output) for part in EDITS[name]])
    for path in root.parent.rglob("*"):
        if path.is_file() and not path.is_symlink() and SECRET in path.read_bytes():
            print(f"{path} holds the secret")
            return 99
    if code and name not in ("validate",) and output.exists() and any(output.iterdir()):
        print(f"{output} is left behind after code {code}")
        return 98
    return code


def _load(root: Path) -> int:
    """Read what training and evaluation read before the model: metadata, statistics and a sample of every episode."""
    from gr00t_test_support.builders import make_embodiment
    from gr00t_training.cli.command import run_command
    from gr00t_training.dataset.reader import EpisodeDataset
    from gr00t_training.embodiment import load_embodiment  # noqa: F401
    from gr00t_training.train.data.fit import check_match, dataset_statistics
    from gr00t_training.transforms.observation import action_targets, observation_from_rows

    def action() -> int:
        dataset = EpisodeDataset(root)
        embodiment = dataset.embodiment or make_embodiment()
        check_match(dataset, embodiment)
        dataset_statistics(dataset, embodiment)
        for episode in dataset.episodes:
            for row in (0, max(0, episode.length - 1)):
                observation_from_rows(dataset, episode.index, row, embodiment)
                action_targets(dataset, episode.index, row, embodiment)
        return 0

    return run_command("load", action)


def _in_child(action: Callable[[], None]) -> None:
    """Call `action` in a separate process: the libraries start threads, and end the process at times."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MAX_CHANGE_BYTES, MAX_CHANGE_BYTES))
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.waitpid(child, 0)


def _change(root: Path, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        kinds = {
            ".json": (_change_json, 4),
            ".jsonl": (_change_lines, 4),
            ".parquet": (change_table, 5),
            ".mp4": (_change_video, 2),
        }
        wanted = rng.choices(list(kinds), [weight for _, weight in kinds.values()])[0]
        matching = [path for path in files if path.suffix == wanted] or files
        if not matching:
            return
        path = rng.choice(matching)
        if rng.random() < 0.12:
            _change_kind(path, rng)
        elif rng.random() < 0.1:
            _change_bytes(path, rng)
        else:
            kinds.get(path.suffix, (_change_bytes, 0))[0](path, rng)


def _change_json(path: Path, rng: random.Random) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        _change_bytes(path, rng)
        return
    path.write_text(json.dumps(_changed(content, rng)), encoding="utf-8", errors="surrogatepass")


def _change_lines(path: Path, rng: random.Random) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines:
        return
    place = rng.randrange(len(lines))
    way = rng.randrange(6)
    if way == 0:
        rng.shuffle(lines)
    elif way == 1:
        del lines[place]
    elif way == 2:
        lines.insert(place, lines[rng.randrange(len(lines))])
    elif way == 3:
        lines[place] = lines[place][: rng.randrange(len(lines[place]) + 1)]
    else:
        try:
            lines[place] = json.dumps(_changed(json.loads(lines[place]), rng))
        except ValueError:
            lines[place] = "[" * 3000
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")


def _changed(content: Any, rng: random.Random) -> Any:
    """Return a JSON value with one part of it changed."""
    places = list(_places(content))
    if not places or rng.random() < 0.03:
        return rng.choice(HOSTILE)
    container, key = rng.choice(places)
    way = rng.randrange(10)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container[rng.choice(["../x", "a/b", "\x1b[0m", "", str(key) + "x", "{0}"])] = container.pop(key)
    elif way == 2:
        container[key] = [container[key]]
    elif way == 3 and isinstance(container[key], (int, float)):
        container[key] = str(container[key])
    elif way == 4 and isinstance(container[key], (int, float)):
        container[key] = rng.choice([container[key] + 1, -container[key], container[key] * 1e6, container[key] + 0.5])
    elif way == 5:
        deep: Any = 0
        for _ in range(rng.choice([70, 500])):
            deep = [deep]
        container[key] = deep
    else:
        container[key] = rng.choice(HOSTILE)
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


def _change_bytes(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    way = rng.randrange(5)
    if way == 0:
        content = content[: rng.randrange(len(content) + 1)]
    elif way == 1:
        content += rng.randbytes(rng.randrange(1, 200))
    elif way == 2:
        content = bytearray()
    else:
        for _ in range(rng.choice((1, 4, 40))):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)


def _change_video(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    secret = path.parents[len(path.parents) - 2]
    way = rng.randrange(6)
    if way == 0:
        content = bytearray(b"ffconcat version 1.0\nfile ../../../../outside/secret\n")
    elif way == 1:
        content = bytearray(f"#EXTM3U\n#EXTINF:1,\n{secret}\n".encode())
    elif way == 2:
        content = bytearray(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif way == 3:
        for kind in (b"stsz", b"stts", b"tkhd", b"stsc", b"mvhd", b"av01", b"avc1"):
            place = content.find(kind)
            if place >= 0 and rng.random() < 0.5:
                at = place + 4 + rng.randrange(24)
                content[at : at + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\x10\0\0"]
                )
    else:
        _change_bytes(path, rng)
        return
    path.write_bytes(content)


def _change_kind(path: Path, rng: random.Random) -> None:
    outside = next(parent for parent in path.parents if parent.name == "case").parent / "outside" / "secret"
    way = rng.randrange(9)
    if way == 0 and path.parent.name != "set":  # the whole folder elsewhere
        moved = outside.parent.parent / "case" / "moved"
        shutil.move(path.parent, moved)
        path.parent.symlink_to(moved)
        return
    path.unlink()
    if way == 1:
        os.mkfifo(path)
    elif way == 2:
        path.symlink_to(outside)
    elif way == 3:
        path.symlink_to("/dev/zero")
    elif way == 4:
        path.mkdir()
    elif way == 5:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", encoding="utf-8")
    elif way == 6:
        planted = path.with_name(path.name + ".part")
        planted.symlink_to(outside)
    elif way == 7:
        root = next(parent for parent in path.parents if parent.name == "set")
        (root / "README.md").symlink_to(outside)
        (root / "README.md.part").symlink_to(outside)
