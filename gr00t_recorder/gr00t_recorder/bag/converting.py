# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert one bag of a run into its staging folder, whatever runs the conversion."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gr00t_recorder.bag.convert import BagConversion, ConversionSettings, Progress
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.report import BagReport
from gr00t_recorder.bag.sources import BagSource
from gr00t_recorder.bag.staged import OutputError, ReadyEpisode, StagingArea
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_training.dataset import schema
from gr00t_training.dataset.media.video import VideoSettings
from gr00t_training.dataset.schema import Version
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import Gr00tError
from gr00t_training.io.text import printable

logger = logging.getLogger(__name__)

STAGING_PREFIX = "bag_"
DOWNLOAD_SUFFIX = "_download"
POLL_S = 0.2  # to see how far others have got


class Engine(str, Enum):
    """What runs the conversions of several bags."""

    PROCESSES = "processes"
    RAY = "ray"


@dataclass(frozen=True)
class BatchSettings:
    """Settings common to all bags of a run."""

    topic_map: TopicMap
    embodiment: Embodiment
    output: Path
    conversion: ConversionSettings
    video: VideoSettings
    version: Version | None  # None: as the existing dataset, the default for a new one
    jobs: int  # processes, or tasks at a time
    engine: Engine = Engine.PROCESSES
    ray_address: str = "local"


@dataclass
class ConvertedBag:
    """Result of a worker; the files are in its staging folder."""

    report: BagReport
    ready: list[ReadyEpisode]
    start_ns: int | None
    is_output_broken: bool = False
    digest: str = ""  # of the bag's content; empty: it was refused, or a part of it cannot be read


def convert_bag(source: BagSource, settings: BatchSettings, folder: Path, progress: Progress) -> ConvertedBag:
    """Convert a bag into its staging folder; the report of a refused bag has the reason."""
    conversion = dataclasses.replace(settings.conversion, tasks=source.tasks)
    start_ns, path = None, source.path
    try:
        has_source = settings.topic_map.command_source is not None
        area = StagingArea(folder, settings.embodiment, settings.video, has_source=has_source)
        # in the staging folder: what a killed process leaves is removed with it
        with source.fetched(folder.with_name(folder.name + DOWNLOAD_SUFFIX)) as path:
            with Bag(path, allow_partial=conversion.allow_partial, order=conversion.order) as bag:
                start_ns = bag.start_ns()
                job = BagConversion(bag, settings.topic_map, settings.embodiment, area, conversion)
                report = job.run(progress)
            report.bag = source.name
            return ConvertedBag(
                report, area.ready, start_ns, digest=dataclasses.replace(source, path=path, remote=None).digest()
            )
    except Gr00tError as error:
        report = BagReport(source.name, error=str(error).replace(str(path), source.name))
        return ConvertedBag(report, [], start_ns, is_output_broken=isinstance(error, OutputError))
    except Exception as error:  # no error of one bag stops the others
        return ConvertedBag(BagReport(source.name, error=unforeseen(source.name, error)), [], start_ns)


def unforeseen(path: Path | str, error: Exception) -> str:
    """Return a message for an unexpected error; the traceback is logged at debug level."""
    if isinstance(error, OSError):
        return f"{path}: cannot be read ({error.strerror or error}); check disk and rights"
    if isinstance(error, MemoryError):
        return f"{path}: out of memory; use fewer --jobs"
    logger.debug("%s", path, exc_info=error)
    return f"{path}: {type(error).__name__}: {printable(str(error))}; a bug in this program, please report it"


def staging_folder(settings: BatchSettings, number: int) -> Path:
    """Return the folder of the bag of that number."""
    return settings.output / schema.STAGING / f"{STAGING_PREFIX}{number:06d}"


def clear_staging(settings: BatchSettings) -> None:
    """Remove what bags of an earlier run left."""
    for folder in (settings.output / schema.STAGING).glob(STAGING_PREFIX + "*"):
        shutil.rmtree(folder, ignore_errors=True)
