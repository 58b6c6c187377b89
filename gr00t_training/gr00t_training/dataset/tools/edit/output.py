# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write a dataset of kept episodes: new numbers, new statistics, the same rows and the same coded video.

Rows of one source and one version stay in the parquet types they have; where sources or versions meet, all get those
that every reader takes. Whether episodes share files (v3.0) is `layouts`' business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gr00t_training.dataset import schema
from gr00t_training.dataset.media.packets import count_packets, part_of
from gr00t_training.dataset.metadata.episodes_table import EpisodePlace, VideoPlace
from gr00t_training.dataset.metadata.features import has_plain_axes, is_video
from gr00t_training.dataset.metadata.files import dataset_files
from gr00t_training.dataset.metadata.info import Counts, file_size_mb, make_info
from gr00t_training.dataset.metadata.lists import read_statistics
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.statistics.relative import relative_action_statistics
from gr00t_training.dataset.tools.edit.features import check_embodiment, common_features, features_of_version
from gr00t_training.dataset.tools.edit.kept import KeptEpisode
from gr00t_training.dataset.tools.edit.layouts import (
    EpisodeFiles,
    Layout,
    SharedFiles,
    copy_file,
    made,
)
from gr00t_training.dataset.tools.edit.listing import ListedLines, ListedTable, Listing
from gr00t_training.dataset.tools.edit.rows import normalised, renumbered, restarted
from gr00t_training.dataset.tools.edit.side_files import copy_side_files
from gr00t_training.dataset.tools.edit.source import AHEAD, SourceDataset
from gr00t_training.dataset.tools.edit.statistics import (
    DatasetStatistics,
    FrameDescriber,
    column_numbers,
    describe_columns,
)
from gr00t_training.embodiment import Embodiment, modality_layout, to_mapping
from gr00t_training.errors import DatasetError
from gr00t_training.io.mirror import Held, exists, fetched_ahead

# Every fourth of the frames that lerobot samples for its image statistics is decoded: 25 frames of an episode give
# the same result as 100, and decoding takes most of the time.
SAMPLE_STRIDE = 4
MAX_WAITING = 64  # episodes whose images are being described while the next ones are written


@dataclass
class EditReport:
    """What a new dataset holds, and what had to be done for it."""

    num_episodes: int = 0
    num_frames: int = 0
    encoded: list[str] = field(default_factory=list)  # videos that had to be re-encoded
    notes: list[str] = field(default_factory=list)  # for the user


def write_dataset(
    folder: Path,
    kept: Sequence[KeptEpisode],
    *,
    version: str | None = None,
    embodiment: Embodiment | None = None,
    links: bool = False,
) -> EditReport:
    """Write the kept episodes, in order, as a dataset into the empty folder `folder`.

    Args:
        folder: where to.
        kept: episodes of datasets of the same rate, features and modality.
        version: "v2.0", "v2.1" or "v3.0"; None: that of the first source.
        embodiment: what the columns mean, for sources without it; None: as the sources say.
        links: whether whole files may be links to the source, which is removed afterwards.

    Raises:
        DatasetError: nothing is kept, the sources do not fit each other or the embodiment, or one is damaged.
        OSError: `folder` cannot be written.
    """
    if not kept:
        raise DatasetError("no episode is left; keep at least one")
    empty = [item.subject for item in kept if not item.length]
    kept = [item for item in kept if item.length]
    if not kept:
        raise DatasetError("no episode with rows is left; keep at least one")
    output = _Output(folder, kept, version or kept[0].source.version, links=links)
    output.note(f"{subject} has no rows and is left out" for subject in empty)
    if embodiment is not None:
        output.describe_as(embodiment)
    return output.write()


@dataclass(frozen=True)
class _Described:
    """An episode that is written, and what is known of it."""

    entry: Mapping[str, Any]
    place: EpisodePlace
    statistics: Mapping[str, Any]  # by feature
    images: Mapping[str, Future[dict[str, Any]]]  # statistics that are being computed

    @property
    def is_done(self) -> bool:
        """Whether all statistics are there."""
        return all(image.done() for image in self.images.values())


class _Output:
    """A dataset being written."""

    def __init__(self, folder: Path, kept: Sequence[KeptEpisode], version: str, *, links: bool) -> None:
        self._folder, self._kept, self._links = folder, kept, links
        self._version = schema.Version(version)
        self._sources = list(dict.fromkeys(item.source for item in kept))
        first = self._sources[0]
        self._is_v3 = self._version is schema.Version.V30
        first_rows = first.read_rows(kept[0].episode)
        self._as_stored = len(self._sources) == 1 and version == first.version and _is_declared(first, first_rows)
        self._fps = first.fps
        self._features = common_features(self._sources)
        if not self._as_stored:
            self._features = features_of_version(self._features, self._version.value, self._fps, first_rows)
        self._cameras = [name for name, feature in self._features.items() if is_video(feature)]
        self._has_image_statistics = self._version is not schema.Version.V20 or _has_image_statistics(first)
        self._report = EditReport()
        self._statistics = DatasetStatistics(folder)
        self._waiting: deque[_Described] = deque()  # episodes that are written and not listed, in order
        self._data_mb = file_size_mb(first.info, "data_files_size_in_mb", schema.DATA_FILES_MB)
        self._decoders = FrameDescriber(len(self._cameras), quantiles=self._is_v3, stride=SAMPLE_STRIDE)
        self._made_files: dict[str, str] = {}  # in addition to those that every dataset has
        self._layout = self._make_layout(first)

    def describe_as(self, embodiment: Embodiment) -> None:
        """Have the dataset say that its columns are those of `embodiment`; DatasetError when they are not."""
        check_embodiment(self._features, self._fps, embodiment)
        for path in (schema.EMBODIMENT_FILE, schema.MODALITY_FILE):
            for source in self._sources:
                source.other_files.pop(path, None)
        self._made_files = {
            schema.EMBODIMENT_FILE: schema.json_text(to_mapping(embodiment)),
            schema.MODALITY_FILE: schema.json_text(modality_layout(embodiment)),
        }

    def note(self, texts: Iterable[str]) -> None:
        """Add notes to the report."""
        self._report.notes += texts

    def write(self) -> EditReport:
        tasks = self._number_tasks()
        listing = self._make_listing()
        try:
            kept = fetched_ahead(self._kept, lambda item: item.source.files_to_fetch(item.number), AHEAD)
            for index, item in enumerate(kept):
                self._add(item, index, tasks, listing)
            while self._waiting:
                self._list_first(listing)
            listing.close()
            self._report.num_episodes = len(self._kept)
            self._report.encoded = self._layout.encoded
            self._layout.close()
            self._write_metadata(tasks)
        finally:
            self._decoders.close()
            self._layout.close()
            self._statistics.close()
        self._copy_other_files()
        if not self._is_v3 and not (self._folder / schema.MODALITY_FILE).exists():
            self._report.notes.append(f"{schema.MODALITY_FILE} is missing, which GR00T needs: name the embodiment")
        self._write_relative_statistics()
        return self._report

    def _add(self, item: KeptEpisode, index: int, tasks: Mapping[str, int], listing: Listing) -> None:
        """Write an episode, and list those before it whose images are described by now."""
        table = self._rows(item, index, tasks)
        entry = item.new_entry(index)
        place = EpisodePlace(
            index=index,
            length=item.length,
            tasks=tuple(entry["tasks"]),
            data_file=self._layout.add_rows(index, table),
            from_index=self._report.num_frames,
            videos=self._add_videos(item, index),
        )
        columns = column_numbers(table, item.subject)
        described, images = self._describe(item, columns)
        self._statistics.add_rows(columns, item.subject)
        uncut = copy_side_files(
            self._folder, item.source, item.episode, entry, (item.start, item.end), links=self._links
        )
        self._report.notes += [f"{name} still has all rows" for name in uncut]
        self._report.num_frames += item.length
        self._waiting.append(_Described(entry, place, described, images))
        while self._waiting and (len(self._waiting) > MAX_WAITING or self._waiting[0].is_done):
            self._list_first(listing)

    def _list_first(self, listing: Listing) -> None:
        """List the first waiting episode, its features in the order of `info.json`; waits for its images.

        Raises:
            DatasetError: an image does not decode, or the entry cannot be written.
        """
        first = self._waiting.popleft()
        entries = {**first.statistics, **{name: image.result() for name, image in first.images.items()}}
        entries = {name: entries[name] for name in self._features if name in entries}
        self._statistics.add_images(entries, self._cameras)
        listing.add(first.entry, entries, first.place)

    def _make_listing(self) -> Listing:
        if not self._is_v3:
            return ListedLines(self._folder, has_statistics=self._version is schema.Version.V21)
        return ListedTable(self._folder, self._fps, max_mb=self._data_mb)

    def _make_layout(self, first: SourceDataset) -> Layout:
        if not self._is_v3:
            return EpisodeFiles(self._folder, self._fps, links=self._links)
        video_mb = file_size_mb(first.info, "video_files_size_in_mb", schema.VIDEO_FILES_MB)
        return SharedFiles(self._folder, self._fps, data_mb=self._data_mb, video_mb=video_mb)

    def _number_tasks(self) -> dict[str, int]:
        """Number the texts that are used, in the order of the sources' lists."""
        used: dict[SourceDataset, dict[str, int]] = {source: {} for source in self._sources}
        for item in fetched_ahead(
            self._kept, lambda item: item.source.files_to_fetch(item.number, videos=False), AHEAD
        ):
            order = {text: number for number, text in sorted(item.source.tasks.items(), reverse=True)}
            texts = used[item.source]
            columns = item.source.read_rows(item.episode, item.source.task_columns)
            columns = columns.slice(item.start, item.length)
            for name in columns.column_names:
                for number in item.task_numbers(columns, name):
                    texts.setdefault(item.text(name, number), number)
            for text in item.listed_tasks():
                texts.setdefault(text, order.get(text, len(order)))
        ordered = [text for texts in used.values() for text in sorted(texts, key=lambda text: texts[text])]
        return {text: number for number, text in enumerate(dict.fromkeys(ordered))}

    def _rows(self, item: KeptEpisode, index: int, tasks: Mapping[str, int]) -> pa.Table:
        table = item.source.read_rows(item.episode).slice(item.start, item.length)
        if not self._as_stored:
            table = normalised(table, self._features, item.subject)
        if item.is_cut or not self._as_stored:
            table = restarted(table, self._fps, item.subject)

        def numbering(column: str) -> Callable[[int], int]:
            return lambda number: tasks[item.text(column, number)]

        def naming(column: str) -> Callable[[str], str]:
            return lambda text: item.new_text(column, text)

        try:
            return renumbered(
                table,
                episode_index=index,
                first_index=self._report.num_frames,
                task_numbers={column: numbering(column) for column in item.source.task_columns},
                task_texts={column: naming(column) for column in item.source.task_columns},
            )
        except pa.ArrowException as error:
            raise DatasetError(
                f"{item.subject}: its rows cannot be numbered ({error}); validate the dataset"
            ) from error

    def _add_videos(self, item: KeptEpisode, index: int) -> dict[str, VideoPlace]:
        places: dict[str, VideoPlace] = {}
        for name in self._cameras:
            span = item.episode.videos[name]
            if not item.source.is_v3:
                found = count_packets(span.path)
                if found != span.count:
                    raise DatasetError(
                        f"{item.subject}: {span.path.name} of {name} has {found} frames, the episode {span.count} "
                        "rows; restore the video from a copy, or leave the episode out"
                    )
            places[name] = self._layout.add_video(index, name, part_of(span, item.start, item.end))
        return places

    def _describe(
        self, item: KeptEpisode, columns: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any], dict[str, Future[dict[str, Any]]]]:
        """Return lerobot's statistics of an episode by feature, and those of images that threads are working on."""
        entries: dict[str, Any] = describe_columns(columns, quantiles=self._is_v3)
        images: dict[str, Future[dict[str, Any]]] = {}
        pictures = [name for name, feature in self._features.items() if feature["dtype"] in ("video", "image")]
        stored = item.source.statistics_of(item.episode) if pictures and not item.is_cut else {}
        for name in pictures:
            if name in stored:
                entries[name] = stored[name]
            elif self._features[name]["dtype"] == "video" and self._has_image_statistics:
                images[name] = self._decoders.submit(part_of(item.episode.videos[name], item.start, item.end))
        return entries, images

    def _write_metadata(self, tasks: Mapping[str, int]) -> None:
        files = dataset_files(
            self._info(self._report.num_episodes, len(tasks)),
            {number: text for text, number in tasks.items()},
            self._statistics.to_mapping(is_v3=self._is_v3),
        )
        for name, content in (self._made_files | files).items():
            path = made(self._folder / name)
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            else:
                pq.write_table(content, path, compression="snappy")

    def _info(self, num_episodes: int, num_tasks: int) -> dict[str, Any]:
        source = self._sources[0].info
        info = make_info(
            self._version,
            self._features,
            Counts(num_episodes, self._report.num_frames, num_tasks, len(self._cameras)),
            fps=int(self._fps) if self._fps == int(self._fps) else self._fps,
            robot_type=source.get("robot_type"),
            data_files_mb=file_size_mb(source, "data_files_size_in_mb", schema.DATA_FILES_MB),
            video_files_mb=file_size_mb(source, "video_files_size_in_mb", schema.VIDEO_FILES_MB),
        )
        if not self._cameras:
            info["video_path"] = None
        if self._as_stored:  # other fields, as other tools wrote them
            info |= {name: value for name, value in source.items() if name not in info}
        return info

    def _copy_other_files(self) -> None:
        """Copy files of the dataset as a whole; of several sources, those that do not contradict each other."""
        found: dict[str, list[Path]] = {}
        for source in self._sources:
            for name, path in source.other_files.items():
                found.setdefault(name, []).append(path)
        for name, paths in found.items():
            if len({_content(path) for path in paths}) > 1:
                self._report.notes.append(f"{name} differs between the datasets and is left out")
                continue
            copy_file(paths[0], made(self._folder / name), links=self._links)

    def _write_relative_statistics(self) -> None:
        """Copy or recompute the statistics of relative actions: trainers use them without checking."""
        if not any(exists(source.path / schema.RELATIVE_STATS_FILE) for source in self._sources):
            return
        embodiment = self._folder / schema.EMBODIMENT_FILE
        if len(self._sources) == 1 and not any(item.is_cut for item in self._kept):
            source = self._sources[0]
            if [item.number for item in self._kept] == source.episodes.indices.tolist():
                path = source.path / schema.RELATIVE_STATS_FILE
                copy_file(path, self._folder / schema.RELATIVE_STATS_FILE, links=self._links)
                return
        reason = "trainers compute it from the new rows"
        if embodiment.exists():
            dataset = EpisodeDataset(self._folder)
            try:
                if dataset.embodiment is not None:
                    relative_action_statistics(dataset, dataset.embodiment)
                    return
            except DatasetError as error:  # no episode is as long as a chunk any more
                reason = str(error)
        self._report.notes.append(f"{schema.RELATIVE_STATS_FILE} is left out: {reason}")


def _is_declared(source: SourceDataset, rows: pa.Table) -> bool:
    """Whether the features are as readers of that version want them; else all are declared again."""
    columns = {name for name, feature in source.features.items() if not is_video(feature)}
    has_all = not source.is_v3 or columns == set(rows.column_names) >= set(schema.NUMBERING_COLUMNS)
    return has_all and all(has_plain_axes(source.features[name]) for name in source.cameras)


def _content(path: Path) -> bytes:
    with Held(path):
        return path.read_bytes()


def _has_image_statistics(source: SourceDataset) -> bool:
    stored = read_statistics(source.path) or {}
    return any(name in stored for name in source.cameras)
