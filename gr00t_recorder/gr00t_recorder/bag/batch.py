# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert several bags, in several processes, into one dataset, and be able to go on after an interruption.

Each bag is converted into a staging folder of its own; the episodes are published in the order of the bags, by this
process alone, so the dataset does not depend on the number of processes. A bag that is refused leaves nothing. What
was converted is in `conversion.json`; episodes that were published just before a kill are recognised by their own
report.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from gr00t_recorder.bag.convert import BagConversion, BagReport, ConversionSettings, Progress
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.sources import BagSource
from gr00t_recorder.bag.staged import OutputError, ReadyEpisode, StagingArea
from gr00t_recorder.episodes import EpisodeResult
from gr00t_recorder.topics.bindings import TopicMap
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_training.dataset import schema
from gr00t_training.dataset.schema import Version
from gr00t_training.dataset.video import VideoSettings
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import Embodiment, to_mapping
from gr00t_training.errors import ConfigError, DatasetError, Gr00tError

REPORT_FILE = "conversion.json"
STAGING_PREFIX = "bag_"
WAITING_PER_PROCESS = 2  # bags converted ahead of the one whose turn it is to be published
POLL_S = 0.2
_shares: Any = None  # of each bag that is read, shared by the processes; set in the workers only

BatchProgress = Callable[[float, int, int], None]  # share of all bytes that is read, bags done, bags in all


@dataclass(frozen=True)
class BatchSettings:
    """What all bags of a run have in common."""

    topic_map: TopicMap
    embodiment: Embodiment
    output: Path
    conversion: ConversionSettings
    video: VideoSettings
    version: Version | None  # None: that of the dataset, the default for a new one
    jobs: int  # processes


@dataclass
class _Converted:
    """What a worker hands back; the files are in its staging folder."""

    report: BagReport
    ready: list[ReadyEpisode]
    start_ns: int | None
    is_output_broken: bool = False


def check_settings(settings: BatchSettings) -> None:
    """Refuse what no bag could be converted with.

    Raises:
        ConfigError: the topic map binds no action, or types that cannot give its keys.
    """
    if not settings.topic_map.action:
        raise ConfigError("the topic map binds no action, so nothing can be learned; add 'action'")
    FrameAssembler(settings.topic_map, settings.embodiment)


def convert_bags(
    sources: Sequence[BagSource], settings: BatchSettings, progress: BatchProgress = lambda share, done, total: None
) -> list[BagReport]:
    """Append the episodes of the bags that are not converted yet, in order, to the dataset.

    Returns:
        A report per bag that was tried, with `error` where it was refused; nothing of such a bag is in the dataset.

    Raises:
        ConfigError: see `check_settings`.
        DatasetError: the dataset cannot be opened or written. What was finished before is kept.
    """
    check_settings(settings)
    with DatasetWriter(settings.output, settings.embodiment, video=settings.video, version=settings.version) as dataset:
        log = _ConversionLog(settings)
        todo = [source for source in sources if not log.holds(source)]
        for folder in (settings.output / schema.STAGING).glob(STAGING_PREFIX + "*"):
            shutil.rmtree(folder)
        reports = []
        sizes = [source.num_bytes for source in todo]

        def show(shares: Sequence[float]) -> None:
            share = sum(size * share for size, share in zip(sizes, shares, strict=True)) / max(sum(sizes), 1)
            progress(share, sum(share >= 1.0 for share in shares), len(shares))

        for source, converted in _converted(todo, settings, show):
            _publish(converted, source, dataset, log.num_published(source, converted.start_ns, dataset.num_episodes))
            log.add(source, converted)
            reports.append(converted.report)
            shutil.rmtree(_staging_folder(settings, todo.index(source)), ignore_errors=True)
            if converted.is_output_broken:
                raise DatasetError(converted.report.error)
        return reports


def _publish(converted: _Converted, source: BagSource, dataset: DatasetWriter, num_published: int) -> None:
    """Append the episodes of a bag; the first `num_published` are in the dataset since before an interruption."""
    saved = [number for number, result in enumerate(converted.report.episodes) if result.is_saved]
    indices = list(range(dataset.num_episodes - num_published, dataset.num_episodes))
    for number, ready in enumerate(converted.ready):
        if number < num_published:
            continue
        identity = _identity(source, converted.start_ns)
        ready.report["bag"] = {**identity, "episode": number, "episodes": len(converted.ready)}
        indices.append(ready.publish(dataset))
    for number, index in zip(saved, indices, strict=True):
        converted.report.episodes[number] = dataclasses.replace(converted.report.episodes[number], index=index)


def _converted(
    sources: Sequence[BagSource], settings: BatchSettings, progress: Callable[[Sequence[float]], None]
) -> Iterator[tuple[BagSource, _Converted]]:
    """Yield what became of each bag, in order."""
    shares = [0.0] * len(sources)
    if settings.jobs <= 1 or len(sources) <= 1:
        for number, source in enumerate(sources):

            def count(done: int, total: int, number: int = number) -> None:
                share = done / total if total else 0.0
                if share - shares[number] >= 0.01:
                    shares[number] = share
                    progress(shares)

            converted = _convert(source, settings, _staging_folder(settings, number), count)
            shares[number] = 1.0
            progress(shares)
            yield source, converted
        return
    yield from _converted_in_parallel(sources, settings, progress)


def _converted_in_parallel(
    sources: Sequence[BagSource], settings: BatchSettings, progress: Callable[[Sequence[float]], None]
) -> Iterator[tuple[BagSource, _Converted]]:
    workers = _Workers(sources, settings)
    try:
        for turn, source in enumerate(sources):
            for number in range(turn, min(turn + settings.jobs * WAITING_PER_PROCESS, len(sources))):
                workers.submit(number)
            converted = workers.result(turn, lambda: progress(workers.shares[:]))
            workers.shares[turn] = 1.0
            progress(workers.shares[:])
            yield source, converted
    finally:
        workers.close()


class _Workers:
    """Processes that convert bags. One that dies is replaced; the bag that it dies of twice is given up."""

    def __init__(self, sources: Sequence[BagSource], settings: BatchSettings) -> None:
        self._context = multiprocessing.get_context("spawn")  # threads of decoders and encoders do not survive a fork
        self.shares = self._context.Array("d", len(sources), lock=False)  # of each bag that is read
        self._sources, self._settings = sources, settings
        self._running: dict[int, concurrent.futures.Future[_Converted]] = {}
        self._pool = self._start()

    def submit(self, number: int) -> None:
        """Have a bag converted, unless it is under way."""
        if number in self._running:
            return
        arguments = (self._sources[number], self._settings, _staging_folder(self._settings, number), number)
        try:
            self._running[number] = self._pool.submit(_convert_in_worker, *arguments)
        except BrokenProcessPool:
            self._pool = self._start()
            self._running[number] = self._pool.submit(_convert_in_worker, *arguments)

    def result(self, number: int, wait: Callable[[], None]) -> _Converted:
        """Return what became of a bag; `wait` is called now and then until it is there."""
        for _ in range(2):  # the other bags under way are lost with a process that dies: the second time there are none
            self.submit(number)
            future = self._running[number]
            while not concurrent.futures.wait([future], timeout=POLL_S).done:
                wait()
            try:
                return self._running.pop(number).result()
            except BrokenProcessPool:
                self._running.clear()
        path = self._sources[number].path
        reason = "the process that converts it dies (out of memory?); look into this bag, or use fewer --jobs"
        return _Converted(BagReport(str(path), error=f"{path}: {reason}"), [], None)

    def close(self) -> None:
        """Stop the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> concurrent.futures.ProcessPoolExecutor:
        return concurrent.futures.ProcessPoolExecutor(
            self._settings.jobs, mp_context=self._context, initializer=_start_worker, initargs=(self.shares,)
        )


def _start_worker(shares: Any) -> None:
    global _shares
    _shares = shares
    cv2.setNumThreads(1)  # there are as many processes as are wanted already


def _convert_in_worker(source: BagSource, settings: BatchSettings, folder: Path, number: int) -> _Converted:
    def count(done: int, total: int) -> None:
        _shares[number] = done / total if total else 0.0

    return _convert(source, settings, folder, count)


def _convert(source: BagSource, settings: BatchSettings, folder: Path, progress: Progress) -> _Converted:
    """Convert a bag into its staging folder; a bag that is refused gives a report with the reason."""
    conversion = dataclasses.replace(settings.conversion, tasks=source.tasks)
    start_ns = None
    try:
        area = StagingArea(folder, settings.embodiment, settings.video)
        with Bag(source.path, allow_partial=conversion.allow_partial) as bag:
            start_ns = bag.start_ns()
            job = BagConversion(bag, settings.topic_map, settings.embodiment, area, conversion)
            return _Converted(job.run(progress), area.ready, start_ns)
    except Gr00tError as error:
        report = BagReport(str(source.path), error=str(error))
        return _Converted(report, [], start_ns, is_output_broken=isinstance(error, OutputError))


def _staging_folder(settings: BatchSettings, number: int) -> Path:
    return settings.output / schema.STAGING / f"{STAGING_PREFIX}{number:06d}"


def _identity(source: BagSource, start_ns: int | None) -> dict[str, Any]:
    return {"bag": str(source.path.resolve()), "bytes": source.num_bytes, "start_ns": start_ns}


class _ConversionLog:
    """`conversion.json` beside the dataset: what came out of every bag, newest last."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._path = settings.output / REPORT_FILE
        self._entries: list[dict[str, Any]] = []
        try:
            if self._path.exists():
                self._entries = json.loads(self._path.read_text(encoding="utf-8"))["bags"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{self._path}: cannot be read ({error}); move it away, then bags that are in the dataset already "
                "count as new"
            ) from error

    def holds(self, source: BagSource) -> bool:
        """Whether the bag was converted by an earlier run."""
        return any(not entry.get("error") and source.is_same(entry) for entry in self._entries)

    def num_published(self, source: BagSource, start_ns: int | None, num_episodes: int) -> int:
        """Return how many of the bag's episodes end the dataset, published by a run that did not come to its log."""
        identity = _identity(source, start_ns)
        path = self._settings.output / schema.quality_path(num_episodes - 1)
        if not num_episodes or not path.exists():
            return 0
        found = schema.read_json(path).get("report", {}).get("bag") or {}
        is_same = all(found.get(name) == value for name, value in identity.items())
        return found["episode"] + 1 if is_same else 0

    def add(self, source: BagSource, converted: _Converted) -> None:
        """Note what became of a bag; DatasetError when the file cannot be written."""
        identity = _identity(source, converted.start_ns)
        entry = {**dataclasses.asdict(converted.report), **identity}
        self._entries = [old for old in self._entries if old["bag"] != identity["bag"] or not old.get("error")]
        self._entries.append(entry)
        document = {
            "topic_map": dataclasses.asdict(self._settings.topic_map),
            "embodiment": to_mapping(self._settings.embodiment),
            "bags": self._entries,
        }
        staged = self._path.with_name(REPORT_FILE + ".part")
        try:
            with open(staged, "w", encoding="utf-8") as file:
                file.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, self._path)
        except (OSError, ValueError, TypeError) as error:
            raise DatasetError(
                f"{self._path}: cannot be written ({error}); the episodes themselves are saved"
            ) from error


TABLE_HEADER = (
    "bag",
    "episode",
    "rows",
    "stream",
    "received",
    "used",
    "filled",
    "late",
    "dropped",
    "invalid",
    "largest age",
)


def format_table(reports: Sequence[BagReport]) -> str:
    """Return a table with one line per episode and stream, for people."""
    paths = [Path(report.bag) for report in reports]
    # folders are often called alike, such as run_1/bag and run_2/bag
    depth = 1 if len({path.name for path in paths}) == len(paths) else 2
    labels = ["/".join(path.parts[-depth:]) for path in paths]
    lines = (line for report, label in zip(reports, labels, strict=True) for line in _table_lines(report, label))
    return aligned([TABLE_HEADER, *lines])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as text in columns; the last column is not padded."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _table_lines(report: BagReport, bag: str) -> Iterator[tuple[str, ...]]:
    if report.error:
        yield (bag, "-", "0", "refused", *[""] * 7)
    for episode in report.episodes:
        yield from _episode_lines(bag, episode)


def _episode_lines(bag: str, episode: EpisodeResult) -> Iterator[tuple[str, ...]]:
    if episode.report is None:
        yield (bag, "-", str(episode.num_frames), "discarded" if episode.is_discarded else "empty", *[""] * 7)
        return
    for name, counts in episode.report["streams"].items():
        numbers = [str(counts[key]) for key in ("received", "used", "filled", "late", "dropped", "invalid")]
        yield (bag, str(episode.index), str(episode.num_frames), name, *numbers, f"{counts['largest_age_s']:.3f} s")
