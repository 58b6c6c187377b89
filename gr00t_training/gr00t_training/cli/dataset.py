# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_dataset`: inspect, validate, repair, edit, convert and publish LeRobot datasets (v2.0, v2.1, v3.0)."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gr00t_training.cli.arguments import SHARED, add, add_upload_options, num_cores
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.cli.validate import add_validate_options, validate
from gr00t_training.dataset import schema
from gr00t_training.dataset.episode_ranges import parse_episodes
from gr00t_training.dataset.quality import SUCCESS, VALID
from gr00t_training.dataset.tools.edit import operations
from gr00t_training.dataset.tools.edit.output import EditReport
from gr00t_training.dataset.tools.edit.restate import recompute_statistics
from gr00t_training.dataset.tools.edit.source import SourceDataset
from gr00t_training.dataset.tools.edit.trim import IdleEnds, TrimSettings, find_idle_ends, trim_dataset
from gr00t_training.dataset.tools.repair.dataset import repair_dataset
from gr00t_training.dataset.tools.transfer import copy_dataset
from gr00t_training.dataset.view.card import CARD_FILE, make_card, write_card
from gr00t_training.dataset.view.hub import push_dataset
from gr00t_training.dataset.view.page import EMBEDDED_MB, write_page
from gr00t_training.dataset.view.rerun import export_rerun
from gr00t_training.dataset.view.summary import DatasetSummary, summarize
from gr00t_training.embodiment import load_embodiment
from gr00t_training.errors import DatasetError
from gr00t_training.io.object_storage import WRITE_FIRST, refuse_remote, remote_url
from gr00t_training.io.text import duration_text, printable, size_text
from gr00t_training.settings import check_bounds
from gr00t_training.types import KeyRef

PAGE_EPISODES = 20  # shown without --episodes
MAX_LINE = 2000  # [characters] of a printed line that contains names from the dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return 0, 1 if there are faults, or the code of `run_command`."""
    return run_command("gr00t_dataset", lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    return options.run(options)


def info(options: argparse.Namespace) -> int:
    """Print the contents of a dataset."""
    summary = summarize(options.path)
    print(json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False) if options.json else _facts(summary))
    return 0


def repair(options: argparse.Namespace) -> int:
    """Repair a damaged dataset; return 1 if a fault remains."""
    report = repair_dataset(options.path, dry_run=options.dry_run, jobs=options.jobs)
    print("\n".join(printable(line, MAX_LINE) for line in str(report).split("\n")))
    return 1 if report.remaining else 0


def merge(options: argparse.Namespace) -> int:
    """Merge several datasets into one."""
    output, inputs = options.output, options.inputs
    if output is None:  # the order of words before --output was an option
        output, *inputs = inputs
    if not inputs:
        raise DatasetError("no dataset to merge; name the datasets, and the folder to write with --output")
    refuse_remote(output, WRITE_FIRST)  # before the inputs are read
    return _done(operations.merge_datasets(inputs, output, version=options.dataset_version), output)


def split(options: argparse.Namespace) -> int:
    """Split a dataset into several."""
    if options.by_task:
        parts = operations.split_by_task(options.path)
    elif options.fractions:
        shares = {name: _share(text) for name, text in map(_named, options.fractions)}
        parts = operations.split_by_fraction(options.path, shares, options.seed)
    else:
        indices = _indices(options.path)
        parts = {name: parse_episodes([text], indices) for name, text in map(_named, options.episodes)}
    for name, report in operations.split_dataset(options.path, parts, options.output).items():
        _done(report, options.output / name)
    return 0


def delete(options: argparse.Namespace) -> int:
    """Delete episodes of a dataset."""
    deleted = set(parse_episodes(options.episodes, _indices(options.path)))
    marks = dict(_parse_mark(text) for text in options.mark)
    deleted |= set(operations.episodes_with_marks(options.path, marks))
    if not deleted:
        raise DatasetError(f"{options.path}: no episode is marked so, and none is given; nothing to delete")
    print(f"deleting {_plural(len(deleted), 'episode')}: {', '.join(map(str, sorted(deleted)))}")
    if options.dry_run:
        return 0
    return _done(operations.delete_episodes(options.path, deleted, options.output), options.output or options.path)


def trim(options: argparse.Namespace) -> int:
    """Cut off the idle ends of episodes."""
    settings = TrimSettings(threshold=options.threshold, min_range=options.min_range, margin_s=options.margin)
    try:
        check_bounds(settings)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    chosen = parse_episodes(options.episodes, _indices(options.path)) if options.episodes else None
    if options.dry_run:
        _print_ends(find_idle_ends(options.path, settings, chosen), SourceDataset(options.path).fps)
        return 0
    report, ends = trim_dataset(options.path, options.output, settings, chosen)
    _print_ends(ends, SourceDataset(options.output or options.path).fps)
    return _done(report, options.output or options.path)


def retask(options: argparse.Namespace) -> int:
    """Change task texts of a dataset."""
    if options.replace:
        old, new = options.replace
        report = operations.rename_task(options.path, old, new, options.output)
    elif not options.episodes:
        raise DatasetError(
            f"{options.path}: --episodes is missing; name the episodes that get the text, such as 0- for all"
        )
    else:
        episodes = parse_episodes(options.episodes, _indices(options.path))
        report = operations.retask_episodes(options.path, episodes, options.task, options.output)
    return _done(report, options.output or options.path)


def convert(options: argparse.Namespace) -> int:
    """Convert a dataset to another version of the format."""
    embodiment = load_embodiment(options.embodiment) if options.embodiment else None
    report = operations.convert_dataset(options.path, options.output, options.dataset_version, embodiment=embodiment)
    return _done(report, options.output or options.path)


def stats(options: argparse.Namespace) -> int:
    """Compute the statistics of a dataset again."""
    embodiment = load_embodiment(options.embodiment) if options.embodiment else None
    for name in recompute_statistics(options.path, embodiment, images=not options.no_images):
        print(f"wrote {remote_url(options.path) or options.path}/{name}")
    return 0


def view(options: argparse.Namespace) -> int:
    """Write a page or a Rerun recording of episodes."""
    indices = _indices(options.path)
    episodes = parse_episodes(options.episodes, indices) if options.episodes else indices[:PAGE_EPISODES]
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
    linked = f", {report.num_linked} linked (raise --embed-mb to embed them)" if report.num_linked else ""
    print(f"saved {output}: {_plural(report.num_episodes, 'episode')}, {report.num_embedded} videos embedded{linked}")
    return 0


def copy(options: argparse.Namespace) -> int:
    """Copy a dataset to or from object storage."""
    report = copy_dataset(options.path, options.target)
    source, target = (remote_url(path) or path for path in (options.path, options.target))
    done = f", {report.num_skipped} of them were there" if report.num_skipped else ""
    print(f"copied {source} to {target}: {_plural(report.num_files, 'file')}, {size_text(report.num_bytes)}{done}")
    return 0


def push(options: argparse.Namespace) -> int:
    """Upload a dataset to the Hugging Face Hub."""
    summary = summarize(options.path)
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


def _parser() -> CommandParser:
    parser = CommandParser("gr00t_dataset", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def subcommand(run: Callable[[argparse.Namespace], int], text: str, *, has_path: bool = True) -> CommandParser:
        command = commands.add_parser(run.__name__, help=text, description=text)
        if has_path:
            where = "Folder of the dataset" + ("." if run in (repair, view, push) else ", or s3://bucket/prefix.")
            command.add_argument("path", type=Path, metavar="DATASET", help=where)
        command.set_defaults(run=run)
        return command

    add(subcommand(info, "Show version, embodiment, episodes, tasks, cameras, marks and size."), "--json")
    add_validate_options(subcommand(validate, "Check every row and every frame. Exit code 1: faults."))
    text = "Repair a damaged dataset and recover what a killed recorder left. Exit code 1: faults remain."
    command = subcommand(repair, text)
    add(command, "--dry-run")
    add(command, "--jobs", default=num_cores())
    _add_edits(subcommand)
    command = subcommand(stats, "Compute stats.json, the episode statistics and relative_stats.json again, in place.")
    add(command, "--embodiment", "For relative actions.")
    command.add_argument("--no-images", action="store_true", help="Decode no images; their statistics stay.")
    _add_view(subcommand(view, "Make a page with videos and curves, or a recording for Rerun."))
    command = subcommand(copy, "Copy a dataset to object storage, or from there to a new folder.")
    command.add_argument("target", type=Path, metavar="TARGET", help="Folder to write, or s3://bucket/prefix.")
    command = subcommand(push, "Upload to the Hugging Face Hub, with a dataset card.")
    add_upload_options(command)
    command.add_argument("--license", metavar="ID", help="Identifier for the card, such as apache-2.0.")
    return parser


def _add_edits(subcommand: Callable[..., CommandParser]) -> None:
    """Add the subcommands that write a new dataset."""
    command = subcommand(merge, "Merge several datasets of the same robot into one.", has_path=False)
    command.add_argument(
        "inputs", type=Path, nargs="+", metavar="DATASET", help="Datasets in order, folders or s3://bucket/prefix."
    )
    add(command, "--output", "Must not exist. Without this option the first DATASET is the folder to write.")
    add(command, "--dataset-version", "(default: that of the first)", old=["--to"], choices=schema.READ_VERSIONS)
    command = subcommand(split, "Split a dataset into several.")
    add(command, "--output", "Contains the new datasets.", required=True)
    ways = command.add_mutually_exclusive_group(required=True)
    # not the shared option: each list has a name
    ways.add_argument(
        "--episodes", nargs="+", metavar="NAME=LIST", help=f"{SHARED['--episodes'].help} As in train=0-39 val=40-49."
    )
    ways.add_argument("--fractions", nargs="+", metavar="NAME=SHARE", help="At random, as in train=0.9 val=0.1.")
    ways.add_argument("--by-task", action="store_true", help="One dataset per task.")
    add(command, "--seed", "For --fractions.", default=0)
    command = subcommand(delete, "Delete episodes; later ones are renumbered.")
    add(command, "--episodes", "They are deleted.", default=[])
    command.add_argument(
        "--mark", nargs="+", default=[], metavar="MARK=VALUE", help="Episodes with a mark: success=false, valid=false."
    )
    add(command, "--dry-run")
    _add_output(command)
    command = subcommand(trim, "Cut off the ends of episodes in which nothing moves.")
    defaults = {field.name: field for field in dataclasses.fields(TrimSettings)}
    for name, option in (("threshold", "--threshold"), ("min_range", "--min-range"), ("margin_s", "--margin")):
        text, default = defaults[name].metadata["description"], defaults[name].default
        command.add_argument(option, type=float, default=default, metavar="X", help=text)
    add(command, "--episodes", "They are trimmed (default: all).", default=[])
    add(command, "--dry-run")
    _add_output(command)
    command = subcommand(retask, "Change task texts: of episodes, or of a task wherever it is used.")
    add(command, "--episodes", "They get the text of --task.", default=[])
    ways = command.add_mutually_exclusive_group(required=True)
    ways.add_argument("--task", metavar="TEXT", help="Task text of episodes.")
    ways.add_argument("--replace", nargs=2, metavar=("OLD", "NEW"), help="New text of a task.")
    _add_output(command)
    command = subcommand(convert, "Convert to another version of the format; rows and frames stay equal.")
    add(command, "--dataset-version", old=["--to"], choices=schema.READ_VERSIONS, required=True)
    add(command, "--embodiment", "For datasets that do not describe their channels.")
    _add_output(command)


def _add_view(command: CommandParser) -> None:
    add(command, "--episodes", f"They are shown (default: the first {PAGE_EPISODES}).", default=[])
    targets = command.add_mutually_exclusive_group()
    targets.add_argument("--html", type=Path, metavar="FILE", help="Page to write (default: NAME.html here).")
    targets.add_argument("--rerun", type=Path, metavar="FILE", help="Rerun recording (.rrd) to write.")
    targets.add_argument("--live", action="store_true", help="Open the Rerun viewer.")
    text = "Video to embed in the page [MB]; the rest is linked."
    command.add_argument("--embed-mb", type=float, default=EMBEDDED_MB, metavar="X", help=text)


def _add_output(command: CommandParser) -> None:
    target = command.add_mutually_exclusive_group()
    add(command, "--output", "Must not exist.", group=target)
    target.add_argument("--in-place", action="store_true", help="Replace the dataset when the new one is complete.")
    run = command.get_default("run")

    def checked(options: argparse.Namespace) -> int:
        if options.output is None and not options.in_place and not getattr(options, "dry_run", False):
            raise DatasetError(f"{options.path}: say where to with --output, or --in-place to replace the dataset")
        return run(options)

    command.set_defaults(run=checked)


def _indices(path: Path) -> list[int]:
    return [episode.index for episode in SourceDataset(path).episodes]


def _parse_mark(text: str) -> tuple[str, bool]:
    name, _, value = text.partition("=")
    if name not in (SUCCESS, VALID) or value.lower() not in ("true", "false"):
        raise DatasetError(f"mark '{text}': expected {SUCCESS}=false, {VALID}=false, or true")
    return name, value.lower() == "true"


def _named(text: str) -> tuple[str, str]:
    """Read `name=value`; the name becomes a folder."""
    name, _, value = text.partition("=")
    if not re.fullmatch(r"\w[\w.-]*", name) or not value:
        raise DatasetError(f"part '{text}': expected NAME=VALUE, such as train=0-39 or train=0.9")
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
            print(f"episode {end.episode}: nothing moves in {end.length} rows; unchanged, delete it if it is empty")
        elif end.num_cut:
            encoded = printable(f"; re-encodes {', '.join(end.encoded)}", MAX_LINE) if end.encoded else ""
            print(
                f"episode {end.episode}: {end.start / fps:.2f} s off the start, "
                f"{(end.length - end.stop) / fps:.2f} s off the end of {end.length / fps:.2f} s{encoded}"
            )
    print(f"idle: {num_cut} of {num_rows} rows, {num_cut / fps:.1f} s")


def _done(report: EditReport, path: Path) -> int:
    for name in report.encoded:
        print(printable(f"re-encoded: {name}", MAX_LINE))
    for note in report.notes:
        print(printable(f"note: {note}", MAX_LINE))
    print(f"saved {path}: {_plural(report.num_episodes, 'episode')}, {_plural(report.num_frames, 'frame')}")
    return 0


def _facts(summary: DatasetSummary) -> str:
    lengths = f"{summary.shortest / summary.fps:.1f} to {summary.longest / summary.fps:.1f} s each"
    rows = [
        ("dataset", summary.path),
        ("version", f"LeRobot {summary.version}"),
        ("robot", summary.robot_type or "unknown"),
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
        (ref.kind.value, f"{ref.key}: {', '.join(vector.names) or vector.column}")
        for vector in summary.vectors
        for ref in (KeyRef.parse(vector.key),)
    ]
    for name, counts in (("success", summary.success), ("valid", summary.valid)):
        if counts["yes"] or counts["no"]:
            rows.append((name, ", ".join(f"{count} {value}" for value, count in counts.items())))
    if summary.num_unfinished:
        rows.append(("unfinished", f"{_plural(summary.num_unfinished, 'episode')}; recover with gr00t_dataset repair"))
    rows.append(("size", size_text(summary.size_bytes)))
    return "\n".join(printable(f"{name:12}{text}", MAX_LINE) for name, text in rows)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


if __name__ == "__main__":
    raise SystemExit(main())
