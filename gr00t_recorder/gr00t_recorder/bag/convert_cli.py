# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_convert_bag`: parse, call, print."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gr00t_recorder.bag.batch import BatchSettings, check_settings, convert_bags, format_table
from gr00t_recorder.bag.boundaries import BoundarySettings
from gr00t_recorder.bag.convert import BagReport, ConversionSettings
from gr00t_recorder.bag.preview import format_preview, preview_bag
from gr00t_recorder.bag.sources import BagSource, find_bags, with_tasks
from gr00t_recorder.bag.suggest import suggest_files
from gr00t_recorder.topics.bindings import TopicMap, check_keys, load_topic_map
from gr00t_training.dataset.schema import DEFAULT_VERSION, Version
from gr00t_training.dataset.video import VideoSettings
from gr00t_training.embodiment import Embodiment, load_embodiment
from gr00t_training.errors import ConfigError, Gr00tError
from gr00t_training.settings import add_arguments, from_arguments, load_settings, setting

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
BAR_WIDTH = 30
EPILOG = """
exit codes: 0 every bag is converted, 1 some bag was refused (the others are converted), 2 wrong options or files.
A run that was interrupted goes on where it was when the same command is given again.
"""


@dataclasses.dataclass(frozen=True)
class CommandSettings:
    """Options that concern all bags together."""

    task: str = setting("", "Task text of episodes whose marker, task topic and file of tasks give none.")
    tasks: Path | None = setting(None, "Task texts by bag: CSV with the columns bag,task, or JSON {bag: task}.")
    embodiment: str = setting("", "Embodiment, by name or file; empty: the one that the topic map names.")
    allow_partial: bool = setting(False, "Keep what can be read of damaged bags, and the rows before a fault.")
    version: Version | None = setting(
        None, f"Version of the LeRobot format; absent: that of the dataset, {DEFAULT_VERSION.value} for a new one."
    )
    jobs: int = setting(1, "Processes; each converts bags of its own.", ge=1, le=256)
    dry_run: bool = setting(False, "Read and check everything, say what would be made of it, write nothing.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert bags and return the exit code: 0, 1 when a bag was refused, 2 for wrong options or files."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        bags = find_bags(options.bags)
        if options.suggest:
            for path in suggest_files(bags[0], options.suggest):
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
                boundaries=from_arguments(BoundarySettings, options), allow_partial=command.allow_partial
            ),
            video=from_arguments(VideoSettings, options),
            version=command.version,
            jobs=command.jobs,
        )
        sources = with_tasks(bags, command.tasks, command.task)
        return _preview(sources, settings) if command.dry_run else _convert(sources, settings)
    except ConfigError as error:
        return _fail(error, EXIT_USAGE)
    except Gr00tError as error:
        return _fail(error, EXIT_REFUSED)
    except KeyboardInterrupt:
        print("gr00t_convert_bag: interrupted; give the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gr00t_convert_bag",
        description="Convert bags (ROS 2 MCAP and SQLite3, ROS 1) to a GR00T dataset, without ROS.",
        epilog=EPILOG,
    )
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="bag, storage file, or folder to search")
    parser.add_argument("--topics", type=Path, help="topic map, a YAML file")
    parser.add_argument("--output", type=Path, help="dataset folder; an existing one is appended to")
    parser.add_argument(
        "--suggest", type=Path, metavar="FOLDER", help="write a first topic map and embodiment for the bag to FOLDER"
    )
    add_arguments(parser, CommandSettings)
    add_arguments(parser.add_argument_group("episodes"), BoundarySettings)  # type: ignore[arg-type]
    add_arguments(parser.add_argument_group("video"), VideoSettings)  # type: ignore[arg-type]
    return parser


def _load(topics: Path, embodiment_name: str) -> tuple[TopicMap, Embodiment]:
    if not embodiment_name:
        return load_topic_map(topics)
    topic_map, embodiment = load_settings(TopicMap, topics), load_embodiment(embodiment_name)
    check_keys(topic_map, embodiment, str(topics))
    return topic_map, embodiment


def _convert(sources: Sequence[BagSource], settings: BatchSettings) -> int:
    bar = ProgressBar()
    reports = convert_bags(sources, settings, bar if sys.stderr.isatty() else lambda share, done, total: None)
    bar.close()
    num_refused = _print_reports(reports)
    if len(sources) > len(reports):
        print(f"{len(sources) - len(reports)} bags were converted before and are left as they are")
    saved = [episode for report in reports for episode in report.episodes if episode.is_saved]
    print(f"{len(saved)} episodes, {sum(episode.num_frames for episode in saved)} rows written to {settings.output}")
    return EXIT_REFUSED if num_refused else 0


def _preview(sources: Sequence[BagSource], settings: BatchSettings) -> int:
    check_settings(settings)
    previews = [preview_bag(source, settings) for source in sources]
    for preview in previews:
        print(format_preview(preview) + "\n")
    num_refused = _print_reports([preview.report for preview in previews])
    saved = [episode for preview in previews for episode in preview.report.episodes if episode.is_saved]
    print(f"{len(saved)} episodes, {sum(episode.num_frames for episode in saved)} rows would be written")
    return EXIT_REFUSED if num_refused else 0


def _print_reports(reports: Sequence[BagReport]) -> int:
    """Print the table to stdout, warnings and errors to stderr; return how many bags were refused."""
    for report in reports:
        for complaint in report.complaints:
            print(f"warning: {report.bag}: {complaint}", file=sys.stderr)
    refused = [report for report in reports if report.error]
    for report in refused:
        print(f"gr00t_convert_bag: {report.error}", file=sys.stderr)
    if len(refused) < len(reports):
        print(format_table(reports))
    return len(refused)


def _fail(error: Gr00tError, code: int) -> int:
    print(f"gr00t_convert_bag: {error}", file=sys.stderr)
    return code


class ProgressBar:
    """Draws a line on a terminal."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._shown = ""

    def __call__(self, share: float, num_done: int, num_bags: int) -> None:
        """Show the share of the bytes that is read, and how many bags are done."""
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
