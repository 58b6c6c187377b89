# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert several bags, in several processes, into one dataset, and continue after an interruption.

Each bag is converted into a separate staging folder (`workers`). Only this process publishes episodes, in the order
of the bags, so the dataset does not depend on the number of processes. A refused bag leaves nothing. Converted bags are
listed in `conversion.json`; episodes published just before a kill are recognized by their own report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from gr00t_recorder.bag.conversion_log import ConversionLog, bag_identity
from gr00t_recorder.bag.converting import BatchSettings, ConvertedBag, clear_staging, staging_folder
from gr00t_recorder.bag.progress_table import ProgressTable
from gr00t_recorder.bag.report import BagReport
from gr00t_recorder.bag.sources import BagSource
from gr00t_recorder.bag.workers import convert_in_order
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.errors import ConfigError, DatasetError

BatchProgress = Callable[[float, int, int], None]  # share of all bytes read, bags done, number of bags


def check_settings(settings: BatchSettings) -> None:
    """Refuse settings that cannot convert any bag.

    Raises:
        ConfigError: the topic map binds no action, or types that cannot give its keys.
    """
    if not settings.topic_map.action:
        raise ConfigError("the topic map binds no action, so nothing can be learned; add 'action'")
    FrameAssembler(settings.topic_map, settings.embodiment)


def convert_bags(
    sources: Sequence[BagSource],
    settings: BatchSettings,
    progress: BatchProgress = lambda share, done, total: None,
    table_file: Path | None = None,
) -> list[BagReport]:
    """Append the episodes of the bags that are not converted yet, in order, to the dataset.

    Args:
        sources: the bags.
        settings: common to all.
        progress: called while bags are read.
        table_file: where to keep a table of the state of every bag; None: nowhere.

    Returns:
        A report per bag; `error` says why a bag was refused, nothing of it is in the dataset then.

    Raises:
        ConfigError: see `check_settings`.
        DatasetError: the dataset cannot be opened or written; finished episodes are kept.
    """
    check_settings(settings)
    with DatasetWriter(
        settings.output,
        settings.embodiment,
        video=settings.video,
        version=settings.version,
        has_source=settings.topic_map.command_source is not None,
    ) as dataset:
        log = ConversionLog(settings)
        todo = [source for source in sources if not log.holds(source)]
        clear_staging(settings)
        reports: list[BagReport] = []
        sizes = [source.num_bytes for source in todo]
        table = ProgressTable(table_file, sources, todo) if table_file else None

        def show(shares: Sequence[float]) -> None:
            share = sum(size * share for size, share in zip(sizes, shares, strict=True)) / max(sum(sizes), 1)
            if table:
                table.show(todo, shares)
            progress(share, sum(share >= 1.0 for share in shares), len(shares))

        try:
            with contextlib.closing(convert_in_order(todo, settings, show)) as finished:
                for source, converted in finished:
                    num_published = log.num_published(source, converted.start_ns, dataset.num_episodes)
                    _publish(converted, source, dataset, num_published)
                    log.add(source, converted)
                    reports.append(converted.report)
                    if table:
                        table.finish(source, converted.report)
                    shutil.rmtree(staging_folder(settings, todo.index(source)), ignore_errors=True)
                    if converted.is_output_broken:
                        raise DatasetError(converted.report.error)
        finally:
            clear_staging(settings)  # also after an interruption
        return reports


def _publish(converted: ConvertedBag, source: BagSource, dataset: DatasetWriter, num_published: int) -> None:
    """Append the episodes of a bag; the first `num_published` are already in the dataset."""
    saved = [number for number, result in enumerate(converted.report.episodes) if result.is_saved]
    indices = list(range(dataset.num_episodes - num_published, dataset.num_episodes))
    for number, ready in enumerate(converted.ready):
        if number < num_published:
            continue
        identity = bag_identity(source, converted.start_ns)
        ready.report["bag"] = {**identity, "episode": number, "episodes": len(converted.ready)}
        indices.append(ready.publish(dataset))
    for number, index in zip(saved, indices, strict=True):
        converted.report.episodes[number] = dataclasses.replace(converted.report.episodes[number], index=index)
