# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_convert_bag`: parse, call, print."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gr00t_recorder.bag.convert import ConversionSettings, convert_bags, format_table
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_training.errors import Gr00tError
from gr00t_training.settings import add_arguments, from_arguments

EXIT_ERROR = 2
BAR_WIDTH = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert bags and return the exit code: 0, or 2 after an error of input or disk."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(
        prog="gr00t_convert_bag", description="Convert ROS 2 bags (MCAP, SQLite3) to a GR00T dataset, without ROS."
    )
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="bag folder, or a storage file")
    parser.add_argument("--topics", required=True, type=Path, help="topic map, a YAML file")
    parser.add_argument("--output", required=True, type=Path, help="dataset folder; an existing one is appended to")
    add_arguments(parser, ConversionSettings)
    options = parser.parse_args(arguments)
    progress = _ProgressBar() if sys.stderr.isatty() else lambda done, total: None
    try:
        settings = from_arguments(ConversionSettings, options)
        topic_map, embodiment = load_topic_map(options.topics)
        reports = convert_bags(options.bags, topic_map, embodiment, options.output, settings, progress=progress)
    except Gr00tError as error:
        print(f"gr00t_convert_bag: {error}", file=sys.stderr)
        return EXIT_ERROR
    for report in reports:
        for complaint in report.complaints:
            print(f"warning: {report.bag}: {complaint}", file=sys.stderr)
    print(format_table(reports))
    saved = [episode for report in reports for episode in report.episodes if episode.is_saved]
    where = "would be written" if settings.dry_run else f"written to {options.output}"
    print(f"{len(saved)} episodes, {sum(episode.num_frames for episode in saved)} rows {where}")
    return 0


class _ProgressBar:
    """Draws a line on a terminal, once per percent."""

    def __init__(self) -> None:
        self._percent = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * (done + 1) // total if total else 0
        if percent != self._percent:
            self._percent = percent
            filled = BAR_WIDTH * percent // 100
            end = "\n" if percent >= 100 else ""
            print(
                f"\r[{'#' * filled}{' ' * (BAR_WIDTH - filled)}] {percent:3d} %", end=end, file=sys.stderr, flush=True
            )


if __name__ == "__main__":
    sys.exit(main())
