# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_dataset`: look at, check, repair, change, convert and publish LeRobot datasets (v2.0, v2.1, v3.0)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gr00t_training.cli import validate_dataset
from gr00t_training.dataset import schema
from gr00t_training.dataset.edit import operations
from gr00t_training.dataset.edit.output import EditReport
from gr00t_training.dataset.edit.restate import recompute_statistics
from gr00t_training.dataset.edit.source import SourceDataset
from gr00t_training.dataset.edit.trim import IdleEnds, TrimSettings, find_idle_ends, trim_dataset
from gr00t_training.dataset.repair import repair_dataset
from gr00t_training.dataset.trace import SUCCESS, VALID
from gr00t_training.dataset.view.card import CARD_FILE, make_card, write_card
from gr00t_training.dataset.view.hub import push_dataset
from gr00t_training.dataset.view.page import EMBEDDED_MB, write_page
from gr00t_training.dataset.view.rerun import export_rerun
from gr00t_training.dataset.view.summary import DatasetSummary, duration_text, size_text, summarise
from gr00t_training.embodiment import load_embodiment
from gr00t_training.errors import DatasetError, Gr00tError
from gr00t_training.settings import check_bounds

PAGE_EPISODES = 20  # shown unless others are asked for


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; return 0, 1 when there are faults, 2 after an error on one line, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except Gr00tError as error:
        print(f"gr00t_dataset: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads the output has seen enough; nothing more may be written at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("gr00t_dataset: interrupted", file=sys.stderr)
        return 130


def info(options: argparse.Namespace) -> int:
    """Print what a dataset holds."""
    summary = summarise(options.path)
    print(json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False) if options.json else _facts(summary))
    return 0


def validate(options: argparse.Namespace) -> int:
    """Print what is wrong with a dataset; return 1 when there is a fault."""
    options.dataset_path = options.path
    return validate_dataset.run(options)


def repair(options: argparse.Namespace) -> int:
    """Make a damaged dataset whole; return 1 when a fault remains."""
    report = repair_dataset(options.path, dry_run=options.dry_run, jobs=options.jobs)
    print(report)
    return 1 if report.remaining else 0


def merge(options: argparse.Namespace) -> int:
    """Write one dataset of several."""
    return _done(operations.merge_datasets(options.inputs, options.output, version=options.to), options.output)


def split(options: argparse.Namespace) -> int:
    """Write several datasets of one."""
    if options.by_task:
        parts = operations.split_by_task(options.path)
    elif options.fractions:
        shares = {name: _share(text) for name, text in map(_named, options.fractions)}
        parts = operations.split_by_fraction(options.path, shares, options.seed)
    else:
        indices = _indices(options.path)
        parts = {name: _parse_episodes([text], indices) for name, text in map(_named, options.episodes)}
    for name, report in operations.split_dataset(options.path, parts, options.output).items():
        _done(report, options.output / name)
    return 0


def delete(options: argparse.Namespace) -> int:
    """Write a dataset without some episodes."""
    gone = set(_parse_episodes(options.episodes, _indices(options.path)))
    marks = dict(_parse_mark(text) for text in options.mark)
    gone |= set(operations.episodes_with_marks(options.path, marks))
    if not gone:
        raise DatasetError(f"{options.path}: no episode is marked so, and none was named; nothing to delete")
    print(f"deleting {_plural(len(gone), 'episode')}: {', '.join(map(str, sorted(gone)))}")
    if options.dry_run:
        return 0
    return _done(operations.delete_episodes(options.path, gone, options.output), options.output or options.path)


def trim(options: argparse.Namespace) -> int:
    """Write a dataset without the idle ends of its episodes."""
    settings = TrimSettings(threshold=options.threshold, min_range=options.min_range, margin_s=options.margin)
    try:
        check_bounds(settings)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    chosen = _parse_episodes(options.episodes, _indices(options.path)) if options.episodes else None
    if options.dry_run:
        _print_ends(find_idle_ends(options.path, settings, chosen), SourceDataset(options.path).fps)
        return 0
    report, ends = trim_dataset(options.path, options.output, settings, chosen)
    _print_ends(ends, SourceDataset(options.output or options.path).fps)
    return _done(report, options.output or options.path)


def retask(options: argparse.Namespace) -> int:
    """Write a dataset with other task texts."""
    if options.replace:
        old, new = options.replace
        report = operations.rename_task(options.path, old, new, options.output)
    elif not options.episodes:
        raise DatasetError(f"{options.path}: say with --episodes which ones get the text, as in 0- for all")
    else:
        episodes = _parse_episodes(options.episodes, _indices(options.path))
        report = operations.retask_episodes(options.path, episodes, options.task, options.output)
    return _done(report, options.output or options.path)


def convert(options: argparse.Namespace) -> int:
    """Write a dataset in another version of the format."""
    embodiment = load_embodiment(options.embodiment) if options.embodiment else None
    report = operations.convert_dataset(options.path, options.output, options.to, embodiment=embodiment)
    return _done(report, options.output or options.path)


def stats(options: argparse.Namespace) -> int:
    """Compute the statistics of a dataset anew."""
    embodiment = load_embodiment(options.embodiment) if options.embodiment else None
    for name in recompute_statistics(options.path, embodiment, images=not options.no_images):
        print(f"wrote {options.path / name}")
    return 0


def view(options: argparse.Namespace) -> int:
    """Write a page or a Rerun recording of episodes."""
    indices = _indices(options.path)
    episodes = _parse_episodes(options.episodes, indices) if options.episodes else indices[:PAGE_EPISODES]
    if not episodes:
        raise DatasetError(f"{options.path}: has no episode to show")
    if len(episodes) < len(indices) and not options.episodes:
        print(f"showing {len(episodes)} of {len(indices)} episodes; choose others with --episodes")
    if options.rerun or options.live:
        export_rerun(options.path, episodes, options.rerun)
        if options.rerun:
            print(f"saved {options.rerun}; open it with: rerun {options.rerun}")
        return 0
    output = options.html or Path(f"{options.path.resolve().name}.html")
    report = write_page(options.path, episodes, output, embedded_mb=options.embed_mb)
    linked = f", {report.num_linked} linked (raise --embed-mb to have them in the page)" if report.num_linked else ""
    print(f"saved {output}: {_plural(report.num_episodes, 'episode')}, {report.num_embedded} videos inside{linked}")
    return 0


def push(options: argparse.Namespace) -> int:
    """Upload a dataset to the Hugging Face Hub."""
    summary = summarise(options.path)
    if write_card(options.path, make_card(summary, options.repository.split("/")[-1], options.license)):
        print(f"wrote {options.path / CARD_FILE}")
    else:
        print(f"kept {options.path / CARD_FILE}, which was not written by this command")
    if options.dry_run:
        print(f"would upload {size_text(summary.size_bytes)} to {options.repository}")
        return 0
    address = push_dataset(
        options.path, options.repository, summary.version, private=options.private, branch=options.branch
    )
    print(f"uploaded to {address}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gr00t_dataset", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Callable[[argparse.Namespace], int], text: str, *, has_path: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, help=text, description=text)
        if has_path:
            command.add_argument("path", type=Path, help="Folder of the dataset.")
        command.set_defaults(run=run)
        return command

    command = add(info, "Show version, embodiment, episodes, tasks, cameras, marks and size.")
    command.add_argument("--json", action="store_true", help="Print JSON.")
    validate_dataset.add_options(add(validate, "Check every row and every frame; 1: faults."))
    command = add(repair, "Make a damaged dataset whole, recover what a killed recorder left; 1: faults remain.")
    command.add_argument("--dry-run", action="store_true", help="Say what would be done.")
    cores = len(os.sched_getaffinity(0))
    command.add_argument("--jobs", type=int, default=cores, help="Processes that read videos (default: %(default)s).")
    _add_edits(add)
    command = add(stats, "Compute stats.json, the statistics by episode and relative_stats.json anew, in place.")
    command.add_argument("--embodiment", metavar="NAME", help="Embodiment or its file, for relative actions.")
    command.add_argument("--no-images", action="store_true", help="Decode nothing; image statistics stay.")
    command = add(view, "Make a page with videos and curves, or a recording for Rerun.")
    _add_episodes(command, f"Episodes to show (default: the first {PAGE_EPISODES}).")
    targets = command.add_mutually_exclusive_group()
    targets.add_argument("--html", type=Path, metavar="FILE", help="Page to write (default: NAME.html here).")
    targets.add_argument("--rerun", type=Path, metavar="FILE", help="Rerun recording (.rrd) to write.")
    targets.add_argument("--live", action="store_true", help="Open the Rerun viewer.")
    command.add_argument(
        "--embed-mb",
        type=float,
        default=EMBEDDED_MB,
        help="Video that goes into the page [MB]; the rest is linked (default: %(default)s).",
    )
    command = add(push, "Upload to the Hugging Face Hub, with a card made of info.")
    command.add_argument("repository", help="name or organisation/name.")
    command.add_argument("--private", action="store_true", help="Make a new repository private.")
    command.add_argument("--branch", help="Branch to upload to (default: the main one).")
    command.add_argument("--license", help="Identifier for the card, like apache-2.0.")
    command.add_argument("--dry-run", action="store_true", help="Only write the card.")
    return parser


def _add_edits(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the sub-commands that write a new dataset."""
    command = add(merge, "Write one dataset of several of the same robot.", has_path=False)
    command.add_argument("output", type=Path, help="Folder to make; must not exist.")
    command.add_argument("inputs", type=Path, nargs="+", help="Folders of the datasets, in order.")
    command.add_argument("--to", choices=schema.READ_VERSIONS, help="Version (default: that of the first).")
    command = add(split, "Write several datasets of one.")
    command.add_argument("-o", "--output", type=Path, required=True, help="Folder to make for the new datasets.")
    ways = command.add_mutually_exclusive_group(required=True)
    ways.add_argument("--episodes", nargs="+", metavar="NAME=LIST", help="As in train=0-39 val=40-49.")
    ways.add_argument("--fractions", nargs="+", metavar="NAME=SHARE", help="At random, as in train=0.9 val=0.1.")
    ways.add_argument("--by-task", action="store_true", help="One dataset a task.")
    command.add_argument("--seed", type=int, default=0, help="Of --fractions (default: %(default)s).")
    command = add(delete, "Write a dataset without some episodes; those behind move up.")
    _add_episodes(command, "Episodes to delete.")
    command.add_argument(
        "--mark", nargs="+", default=[], metavar="MARK=VALUE", help="Those marked so: success=false, valid=false."
    )
    command.add_argument("--dry-run", action="store_true", help="Say which episodes would go.")
    _add_output(command)
    command = add(trim, "Cut rows off the ends of episodes in which nothing moves.")
    defaults = {field.name: field for field in dataclasses.fields(TrimSettings)}
    for name, option in (("threshold", "--threshold"), ("min_range", "--min-range"), ("margin_s", "--margin")):
        text = f"{defaults[name].metadata['description']} (default: %(default)s)"
        command.add_argument(option, type=float, default=defaults[name].default, help=text)
    _add_episodes(command, "Episodes to trim (default: all).")
    command.add_argument("--dry-run", action="store_true", help="Print what would go.")
    _add_output(command)
    command = add(retask, "Change task texts: of episodes, or of a task wherever it is used.")
    _add_episodes(command, "Episodes that get the text of --task.")
    ways = command.add_mutually_exclusive_group(required=True)
    ways.add_argument("--task", metavar="TEXT", help="New text of the episodes.")
    ways.add_argument("--replace", nargs=2, metavar=("OLD", "NEW"), help="New text of a task.")
    _add_output(command)
    command = add(convert, "Write another version of the format; equal rows and frames come back.")
    command.add_argument("--to", choices=schema.READ_VERSIONS, required=True, help="Version.")
    command.add_argument(
        "--embodiment", metavar="NAME", help="Embodiment or its file, for datasets that do not say what channels are."
    )
    _add_output(command)


def _add_output(command: argparse.ArgumentParser) -> None:
    target = command.add_mutually_exclusive_group()
    target.add_argument("-o", "--output", type=Path, help="Folder to make; must not exist.")
    target.add_argument("--in-place", action="store_true", help="Replace the dataset, when the new one is complete.")
    run = command.get_default("run")

    def checked(options: argparse.Namespace) -> int:
        if options.output is None and not options.in_place and not getattr(options, "dry_run", False):
            raise DatasetError(f"{options.path}: say where to with --output, or --in-place to replace the dataset")
        return run(options)

    command.set_defaults(run=checked)


def _add_episodes(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--episodes", nargs="+", default=[], metavar="LIST", help=f"{text} As in 0 3,5 7-9 12-.")


def _indices(path: Path) -> list[int]:
    return [episode.index for episode in SourceDataset(path).episodes]


def _parse_episodes(texts: Iterable[str], indices: Sequence[int]) -> list[int]:
    """Read numbers and ranges (both ends included, `12-`: to the last) of the episodes `indices`."""
    found: set[int] = set()
    for text in (part for one in texts for part in one.split(",") if part):
        matched = re.fullmatch(r"(\d+)(-(\d*))?", text)
        if not matched:
            raise DatasetError(f"episodes '{text}': expected numbers and ranges like 0 3,5 7-9 12-")
        first = int(matched[1])
        last = first if matched[2] is None else int(matched[3]) if matched[3] else max(indices, default=-1)
        asked = set(range(first, last + 1))
        if not asked or not asked <= set(indices):
            few = f"{min(indices)} to {max(indices)}" if indices else "none"
            raise DatasetError(f"episodes '{text}': not all of them are in the dataset, which has {few}")
        found |= asked
    return sorted(found)


def _parse_mark(text: str) -> tuple[str, bool]:
    name, _, value = text.partition("=")
    if name not in (SUCCESS, VALID) or value.lower() not in ("true", "false"):
        raise DatasetError(f"mark '{text}': expected {SUCCESS}=false, {VALID}=false, or true")
    return name, value.lower() == "true"


def _named(text: str) -> tuple[str, str]:
    """Read `name=value`; the name becomes a folder."""
    name, _, value = text.partition("=")
    if not re.fullmatch(r"\w[\w.-]*", name) or not value:
        raise DatasetError(f"part '{text}': expected a name and what belongs to it, like train=0-39 or train=0.9")
    return name, value


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DatasetError(f"share '{text}': expected a number between 0 and 1") from error


def _print_ends(ends: Iterable[IdleEnds], fps: float) -> None:
    num_cut = num_rows = 0
    for end in ends:
        num_cut, num_rows = num_cut + end.num_cut, num_rows + end.length
        if end.is_still:
            print(f"episode {end.episode}: nothing moves in {end.length} rows, kept as it is; delete it if it is empty")
        elif end.num_cut:
            encoded = f"; encodes anew {', '.join(end.encoded)}" if end.encoded else ""
            print(
                f"episode {end.episode}: {end.start / fps:.2f} s off the start, "
                f"{(end.length - end.stop) / fps:.2f} s off the end of {end.length / fps:.2f} s{encoded}"
            )
    print(f"idle: {num_cut} of {num_rows} rows, {num_cut / fps:.1f} s")


def _done(report: EditReport, path: Path) -> int:
    for name in report.encoded:
        print(f"encoded anew: {name}")
    for note in report.notes:
        print(f"note: {note}")
    print(f"saved {path}: {_plural(report.num_episodes, 'episode')}, {_plural(report.num_frames, 'frame')}")
    return 0


def _facts(summary: DatasetSummary) -> str:
    lengths = f"{summary.shortest / summary.fps:.1f} to {summary.longest / summary.fps:.1f} s each"
    rows = [
        ("dataset", summary.path),
        ("version", f"LeRobot {summary.version}"),
        ("robot", summary.robot_type or "not told"),
    ]
    if summary.embodiment:
        rows.append(("embodiment", f"{summary.embodiment}, tag {summary.tag}, fingerprint {summary.fingerprint}"))
    rows += [
        ("episodes", f"{summary.num_episodes}, {lengths}"),
        ("frames", f"{summary.num_frames} at {summary.fps:g} Hz, {duration_text(summary.num_frames / summary.fps)}"),
    ]
    rows += [("task", f"{text!r}: {_plural(count, 'episode')}") for text, count in summary.tasks.items()]
    rows += [
        ("camera", f"{camera.feature}: {camera.width}x{camera.height} {camera.codec}, {size_text(camera.size_bytes)}")
        for camera in summary.cameras
    ]
    rows += [("depth", key) for key in summary.depth]
    rows += [
        (vector.key.partition(".")[0], f"{vector.key.partition('.')[2]}: {', '.join(vector.names) or vector.column}")
        for vector in summary.vectors
    ]
    for name, counts in (("success", summary.success), ("valid", summary.valid)):
        if counts["yes"] or counts["no"]:
            rows.append((name, ", ".join(f"{count} {value}" for value, count in counts.items())))
    if summary.num_unfinished:
        rows.append(("unfinished", f"{_plural(summary.num_unfinished, 'episode')}; recover with gr00t_dataset repair"))
    rows.append(("size", size_text(summary.size_bytes)))
    return "\n".join(f"{name:12}{text}" for name, text in rows)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


if __name__ == "__main__":
    raise SystemExit(main())
