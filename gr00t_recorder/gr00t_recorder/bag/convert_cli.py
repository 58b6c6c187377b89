# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_convert_bag`: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from gr00t_recorder.bag.batch import check_settings, convert_bags
from gr00t_recorder.bag.boundaries import BoundarySettings
from gr00t_recorder.bag.convert import ConversionSettings
from gr00t_recorder.bag.converting import BatchSettings, Engine
from gr00t_recorder.bag.preview import format_preview, preview_bag
from gr00t_recorder.bag.reader import Order
from gr00t_recorder.bag.report import BagReport
from gr00t_recorder.bag.sources import BagSource, find_bags, with_tasks
from gr00t_recorder.bag.suggest import suggest_files
from gr00t_recorder.bag.table import format_table
from gr00t_recorder.topics.bindings import TopicMap, check_keys, load_topic_map
from gr00t_training.cli.arguments import SHARED, add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.dataset.media.video import VideoSettings
from gr00t_training.dataset.schema import DEFAULT_VERSION, Version
from gr00t_training.embodiment import Embodiment, load_embodiment
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.ray_cluster import LOCAL
from gr00t_training.io.text import one_line, printable
from gr00t_training.settings import add_arguments, from_arguments, load_settings, setting

EXIT_REFUSED = 1
MAX_LINE = 4000  # characters of a line of output
MAX_NAMED = 3  # bags in a note
BAR_WIDTH = 30
EPILOG = """
exit codes: 0 every bag is converted, 1 some bag was refused (the others are converted) or no bag gave an episode,
2 wrong options or files.
Repeat the command to continue after an interruption.
"""


@dataclasses.dataclass(frozen=True)
class CommandSettings:
    """Options for all bags."""

    task: str = setting(
        "", "Task text of episodes. Used where marker, task topic and --tasks give none.", metavar="TEXT"
    )
    tasks: Path | None = setting(None, "Task texts by bag: CSV with the columns bag,task, or JSON {bag: task}.")
    embodiment: str = setting("", f"{SHARED['--embodiment'].help} Empty: the one that the topic map names.")
    allow_partial: bool = setting(False, f"{SHARED['--allow-partial'].help} Rows before a fault are kept.")
    dataset_version: Version | None = setting(
        None,
        f"{SHARED['--dataset-version'].help} Absent: that of the dataset, {DEFAULT_VERSION.value} for a new one.",
    )
    order: Order = setting(
        Order.AUTO,
        "Order of messages: by log time (log), or as stored in the file (file), where the recorder clock was set "
        "back; auto: by log time, refused where the two contradict each other.",
    )
    engine: Engine = setting(
        Engine.PROCESSES, "What converts several bags at a time: processes of this machine, or Ray tasks (ray)."
    )
    ray_address: str = setting(LOCAL, f"{SHARED['--ray-address'].help} For --engine ray.", metavar="ADDRESS")
    jobs: int = setting(1, f"{SHARED['--jobs'].help} Each converts other bags.", ge=1, le=256)
    progress: Path | None = setting(
        None, "File with a table of all bags (state, episodes, rows, cause), replaced while they are converted."
    )
    dry_run: bool = setting(False, f"{SHARED['--dry-run'].help} Shows what would become of each topic.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert bags and return the exit code: 0, 1 for refused bags or no episode, 2 for wrong options or files."""
    again = "interrupted; repeat the command to continue"
    return run_command("gr00t_convert_bag", lambda: _run(arguments), interrupted=again)


def _run(arguments: Sequence[str] | None) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        return _act(options)
    except DatasetError as error:
        _print(f"gr00t_convert_bag: {one_line(error)}", sys.stderr)
        return EXIT_REFUSED


def _act(options: argparse.Namespace) -> int:
    bags = find_bags(options.bags)
    if options.suggest:
        first = with_tasks(bags[:1], None, "")[0]
        with tempfile.TemporaryDirectory() as folder, first.fetched(Path(folder) / "bag") as bag:
            for path in suggest_files(bag, options.suggest):
                print(f"wrote {path}")
        return 0
    if options.topics is None:
        raise ConfigError("--topics is missing; --suggest FOLDER writes a first topic map for a bag")
    command = from_arguments(CommandSettings, options)
    if options.output is None and not command.dry_run:
        raise ConfigError("--output is missing; name the folder of the dataset")
    topic_map, embodiment = _load(options.topics, command.embodiment)
    settings = BatchSettings(
        topic_map=topic_map,
        embodiment=embodiment,
        output=options.output or Path(),
        conversion=ConversionSettings(
            boundaries=from_arguments(BoundarySettings, options),
            allow_partial=command.allow_partial,
            order=command.order,
        ),
        video=from_arguments(VideoSettings, options),
        version=command.dataset_version,
        jobs=command.jobs,
        engine=command.engine,
        ray_address=command.ray_address,
    )
    sources = with_tasks(bags, command.tasks, command.task)
    return _preview(sources, settings) if command.dry_run else _convert(sources, settings, command.progress)


def _parser() -> CommandParser:
    parser = CommandParser(
        "gr00t_convert_bag",
        description="Convert bags (ROS 2 MCAP and SQLite3, ROS 1) to a GR00T dataset, without ROS.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "bags",
        nargs="+",
        type=Path,
        metavar="BAG",
        help="Bag, storage file, or folder to search; here or s3://bucket/prefix.",
    )
    add(parser, "--topics")
    add(parser, "--output", "Episodes are appended to an existing dataset.")
    text = "Write a first topic map, embodiment and limits file for the bag to this folder, as gr00t_suggest does."
    parser.add_argument("--suggest", type=Path, metavar="FOLDER", help=text)
    add_arguments(parser, CommandSettings)
    parser.add_old_spelling("--version", "--dataset-version")
    parser.add_old_spelling("--episodes", "--episodes-by")
    add_arguments(parser.add_argument_group("episodes"), BoundarySettings)  # type: ignore[arg-type]
    add_arguments(parser.add_argument_group("video"), VideoSettings)  # type: ignore[arg-type]
    return parser


def _load(topics: Path, embodiment_name: str) -> tuple[TopicMap, Embodiment]:
    if not embodiment_name:
        return load_topic_map(topics)
    topic_map, embodiment = load_settings(TopicMap, topics), load_embodiment(embodiment_name)
    check_keys(topic_map, embodiment, str(topics))
    return topic_map, embodiment


def _convert(sources: Sequence[BagSource], settings: BatchSettings, table_file: Path | None) -> int:
    with contextlib.closing(ProgressBar()) as bar:
        show = bar if sys.stderr.isatty() else lambda share, done, total: None
        reports = convert_bags(sources, settings, show, table_file)
    num_refused = _print_reports(reports)
    if len(sources) > len(reports):
        print(f"{len(sources) - len(reports)} bags were already converted and are skipped")
    saved = [episode for report in reports for episode in report.episodes if episode.is_saved]
    print(f"{len(saved)} episodes, {sum(episode.num_frames for episode in saved)} rows written to {settings.output}")
    return EXIT_REFUSED if num_refused or (len(sources) == len(reports) and _print_if_none(reports)) else 0


def _preview(sources: Sequence[BagSource], settings: BatchSettings) -> int:
    check_settings(settings)
    previews = [preview_bag(source, settings) for source in sources]
    for preview in previews:
        _print(format_preview(preview) + "\n")
    num_refused = _print_reports([preview.report for preview in previews])
    saved = [episode for preview in previews for episode in preview.report.episodes if episode.is_saved]
    print(f"{len(saved)} episodes, {sum(episode.num_frames for episode in saved)} rows would be written")
    return EXIT_REFUSED if num_refused or _print_if_none([preview.report for preview in previews]) else 0


def _print_reports(reports: Sequence[BagReport]) -> int:
    """Print the table to stdout, warnings and errors to stderr; return how many bags were refused."""
    for report in reports:
        for note in report.notes:
            _print(f"note: {report.bag}: {note}", sys.stderr)
        for complaint in report.complaints:
            _print(f"warning: {report.bag}: {one_line(complaint)}", sys.stderr)
    refused = [report for report in reports if report.error]
    for report in refused:
        _print(f"gr00t_convert_bag: {one_line(report.error)}", sys.stderr)
    if len(refused) < len(reports):
        _print(format_table(reports))
    unchecked = [report.bag for report in reports if not report.error and not report.is_checked]
    if unchecked:
        shown = ", ".join(unchecked[:MAX_NAMED]) + (
            f" and {len(unchecked) - MAX_NAMED} more" * (len(unchecked) > MAX_NAMED)
        )
        _print(f"note: no checksum covers the messages of {shown}: changed bytes on disk would not be detected")
    return len(refused)


def _print_if_none(reports: Sequence[BagReport]) -> bool:
    """Print an error to stderr if no bag gave an episode; return whether that is so."""
    episodes = [episode for report in reports for episode in report.episodes]
    if any(episode.is_saved for episode in episodes):
        return False
    subject = reports[0].bag if len(reports) == 1 else f"{len(reports)} bags"
    num_discarded = sum(episode.is_discarded for episode in episodes)
    _print(
        f"gr00t_convert_bag: {subject}: no episode to convert ({num_discarded} discarded, "
        f"{len(episodes) - num_discarded} without a complete row), expected 1 or more; look at the table above, and "
        f"choose another --episodes-by if the bag's markers are not those of its episodes",
        sys.stderr,
    )
    return True


def _print(text: str, file: TextIO | None = None) -> None:
    """Print lines that contain names from bags."""
    for line in text.split("\n"):
        print(printable(line, MAX_LINE), file=file)


class ProgressBar:
    """Progress line on a terminal."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._shown = ""

    def __call__(self, share: float, num_done: int, num_bags: int) -> None:
        """Show the share of bytes read and the number of finished bags."""
        elapsed_s = time.monotonic() - self._start_s
        left = f"{elapsed_s * (1 - share) / share:.0f} s left" if share > 0.01 else ""
        bar = "#" * int(BAR_WIDTH * share)
        text = f"[{bar:<{BAR_WIDTH}}] {100 * share:3.0f} %  {num_done} of {num_bags} bags  {left:<12}"
        if text != self._shown:
            self._shown = text
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        if self._shown:
            print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
