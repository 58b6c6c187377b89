# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Writing LeRobot datasets (v2.0, v2.1, v3.0) with GR00T's additions so that a kill loses no finished episode.

An episode grows in a hidden staging folder inside the dataset (`gr00t_training.dataset.staging`). Saving it writes all
metadata files beside it, syncs, and from then on only renames: first the episode's files, then the metadata, where one
rename makes it exist (`store_v2`, `store_v3`). Whatever a crash left beyond it is moved to `.staging/ignored` when the
dataset is next opened for writing. Images are encoded in the thread that adds them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.encoders import check_encoder
from gr00t_training.dataset.files import DatasetFiles
from gr00t_training.dataset.staging import OpenVideo, StagedEpisode
from gr00t_training.dataset.store import Store, StoreContext
from gr00t_training.dataset.store_v2 import SeparateStore
from gr00t_training.dataset.store_v3 import SharedStore
from gr00t_training.dataset.trace import Marks, quality_text
from gr00t_training.dataset.video import VideoSettings
from gr00t_training.embodiment import Embodiment, differences, load_embodiment
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.types import Frame


class DatasetWriter:
    """A dataset open for appending; one writer at a time. Close it, or use it as a context manager."""

    def __init__(
        self,
        path: str | Path,
        embodiment: Embodiment,
        *,
        video: VideoSettings | None = None,
        version: schema.Version | str | None = None,
    ) -> None:
        """Open the dataset at `path`, or start one there.

        Args:
            path: folder of the dataset.
            embodiment: what its rows are of.
            video: how images are encoded.
            version: of the format; None: that of the dataset, v2.1 for a new one.

        Raises:
            DatasetError: another embodiment, codec or version; damaged; in use by another writer; not writable.
            ConfigError: no such version, or this machine cannot encode `video`.
        """
        self.path = Path(path)
        self.embodiment = embodiment
        self.video = video or VideoSettings()
        self._files = DatasetFiles(self.path)
        self._episode: EpisodeWriter | None = None
        wanted = None if version is None else _version(version)
        for size in embodiment.video.values():
            check_encoder(self.video, size.height, size.width, embodiment.fps)
        try:
            (self.path / schema.IGNORED).mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / schema.STAGING / "lock", "w")  # noqa: SIM115 - held until close()
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise DatasetError(f"{self.path}: another writer has it open; close that one first") from error
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be written ({error.strerror}); check path and rights") from error
        try:
            self.version = self._check_identity(wanted)
            self._store = self._make_store()
            self._store.load()
        except BaseException:
            self._lock.close()
            raise

    @property
    def num_episodes(self) -> int:
        """Number of finished episodes."""
        return self._store.totals.num_episodes

    @property
    def num_frames(self) -> int:
        """Number of rows of all finished episodes."""
        return self._store.totals.num_frames

    def start_episode(self, task: str, *, open_video: OpenVideo | None = None) -> EpisodeWriter:
        """Start the next episode.

        Args:
            task: what its frames are about unless a frame says otherwise.
            open_video: where images are coded already; see `StagedEpisode`.

        Raises:
            DatasetError: empty task, an episode is open already, or nothing can be written.
        """
        if not task.strip():
            raise DatasetError(f"{self.path}: the task text is empty; say what the robot does in this episode")
        if self._lock.closed:
            raise DatasetError(f"{self.path}: the writer is closed; open the dataset again")
        if self._episode is not None and self._episode.is_open:
            raise DatasetError(f"{self.path}: episode {self.num_episodes} is open; save or discard it first")
        self._episode = EpisodeWriter(self, task, open_video)
        return self._episode

    def discard_last(self) -> Path:
        """Take the last finished episode out of the dataset again; another may then take its index.

        Returns:
            Folder with its files, inside the dataset and hidden from readers.

        Raises:
            DatasetError: there is none, an episode is open, or the files cannot be changed.
        """
        if self._lock.closed:
            raise DatasetError(f"{self.path}: the writer is closed; open the dataset again")
        if self._episode is not None and self._episode.is_open:
            raise DatasetError(f"{self.path}: episode {self.num_episodes} is open; save or discard it first")
        if not self.num_episodes:
            raise DatasetError(f"{self.path}: there is no finished episode to take out")
        index = self.num_episodes - 1
        folder = self._files.ignored_path(f"episode_{index:06d}")
        try:
            folder.mkdir()
            self._store.take_last(folder)
        except (OSError, DatasetError) as error:
            self.recover()
            raise DatasetError(
                f"{self.path}: episode {index} could not be taken out: {_reason(error, self.path)}"
            ) from error
        return folder

    def mark(self, index: int, marks: Marks) -> Marks:
        """Note what the operator says about a finished episode; what `marks` leaves open stays as it was.

        Returns:
            The marks as they are now.

        Raises:
            DatasetError: no such episode, or its quality file cannot be read or written.
        """
        if not 0 <= index < self.num_episodes:
            raise DatasetError(f"{self.path}: no episode {index}; it has {self.num_episodes}")
        name = schema.quality_path(index)
        quality = schema.read_json(self.path / name) if (self.path / name).exists() else {}
        joined = Marks.of_report(quality).updated(marks)
        try:
            self._files.move(self._files.stage_text(name, quality_text({**quality, **joined.to_mapping()})))
        except OSError as error:
            raise DatasetError(f"{self.path}: {name}: {_reason(error, self.path)}") from error
        return joined

    def close(self) -> None:
        """Discard an open episode, leave the dataset as readers like it best, and let other writers in."""
        if self._episode is not None and self._episode.is_open:
            self._episode.discard()
        if not self._lock.closed:
            self._store.close()
        self._lock.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, staged: StagedEpisode, report: Mapping[str, Any]) -> None:
        """Make a staged episode part of the dataset; for `EpisodeWriter`.

        Raises:
            OSError, DatasetError: it cannot be written; `recover` then finds out what is on disk.
        """
        self._store.publish(staged, report)

    def recover(self) -> None:
        """Return to what is on disk after a failure; closes the writer when that cannot be read or made whole."""
        try:
            self._store.load()
        except (OSError, DatasetError):
            self._lock.close()

    def ignored_path(self, name: str) -> Path:
        """Return an unused path for something that is set aside."""
        return self._files.ignored_path(name)

    def _make_store(self) -> Store:
        context = StoreContext(self._files, self.embodiment, self.video, self.version)
        return SharedStore(context) if self.version is schema.Version.V30 else SeparateStore(context)

    def _check_identity(self, wanted: schema.Version | None) -> schema.Version:
        """Hold what is there against what is asked for; return the version to write."""
        if not self._files.find(schema.INFO_FILE, schema.EPISODES_FILE, schema.EPISODES_TABLE_PATTERN):
            return wanted or schema.DEFAULT_VERSION
        if not (self.path / schema.EMBODIMENT_FILE).exists():
            raise DatasetError(
                f"{self.path}: no {schema.EMBODIMENT_FILE}: not written by this suite; choose a new folder"
            )
        try:
            found = load_embodiment(self.path / schema.EMBODIMENT_FILE)
        except ConfigError as error:
            raise DatasetError(f"{error}; restore the file from a copy") from error
        items = differences(found, self.embodiment)
        if items:
            raise DatasetError(f"{self.path}: is of another embodiment: {'; '.join(items)}; choose a new folder")
        return self._check_form(wanted)

    def _check_form(self, wanted: schema.Version | None) -> schema.Version:
        if not (self.path / schema.INFO_FILE).exists():
            return wanted or schema.DEFAULT_VERSION  # killed while the first episode was saved
        info = schema.read_json(self.path / schema.INFO_FILE)
        version = info.get("codebase_version")
        if version not in schema.READ_VERSIONS or (wanted is not None and version != wanted.value):
            expected = wanted.value if wanted else "one of " + ", ".join(schema.READ_VERSIONS)
            raise DatasetError(
                f"{self.path}: is version {version}, asked to append {expected}; leave the version out or choose a new "
                "folder"
            )
        for key in self.embodiment.video:
            codec = info["features"].get(schema.image_feature(key), {}).get("info", {}).get("video.codec")
            if codec != self.video.codec.value:
                raise DatasetError(
                    f"{self.path}: camera '{key}' is stored as {codec}, asked to append {self.video.codec.value}; "
                    "use the same codec or a new folder"
                )
        return schema.Version(version)


class EpisodeWriter:
    """One episode being written; made by `DatasetWriter.start_episode`."""

    def __init__(self, dataset: DatasetWriter, task: str, open_video: OpenVideo | None = None) -> None:
        self.index = dataset.num_episodes
        self.is_open = True
        self._dataset = dataset
        self._folder = dataset.path / schema.STAGING / f"episode_{self.index:06d}"
        self._staged: StagedEpisode | None = None
        try:
            self._staged = StagedEpisode(
                self._folder, self.index, task, dataset.embodiment, dataset.video, open_video, dataset.version
            )
        except OSError as error:
            raise self._fail(error) from error

    @property
    def num_frames(self) -> int:
        """Number of frames added so far."""
        return self._staged.num_frames if self._staged else 0

    def add_frame(self, frame: Frame) -> None:
        """Append one row.

        Raises:
            DatasetError: a key is missing, of the wrong shape or not finite, or the tick is off the grid: the frame is
                refused and the episode stays as it was. Or the disk is full: then the episode is closed, and the
                message says where its files are.
        """
        staged = self._require_open()
        try:
            staged.add(frame)
        except OSError as error:
            raise self._fail(error) from error

    def save(self, report: Mapping[str, Any] | None = None) -> int:
        """Finish the episode and make it part of the dataset.

        Args:
            report: plain JSON values about the recording (counts per stream); stored in `meta/quality`.

        Returns:
            Index of the episode.

        Raises:
            DatasetError: no frames; or the files cannot be written or are not complete: then the episode is closed,
                nothing finished is harmed, and the message says where its files are.
        """
        staged = self._require_open()
        if not staged.num_frames:
            raise DatasetError(f"{self._dataset.path}: episode {self.index} has no frames; add some or discard it")
        try:
            self._dataset.publish(staged, report or {})
        except (OSError, DatasetError) as error:
            failure = self._fail(error)
            self._dataset.recover()
            if self._dataset.num_episodes <= self.index:
                raise failure from error
        self.is_open = False
        shutil.rmtree(self._folder, ignore_errors=True)
        return self.index

    def discard(self) -> None:
        """Drop the episode and its files."""
        staged = self._require_open()
        staged.abandon()
        staged.forget()
        self.is_open = False
        shutil.rmtree(self._folder, ignore_errors=True)

    def _require_open(self) -> StagedEpisode:
        if not self.is_open or self._staged is None:
            raise DatasetError(f"{self._dataset.path}: episode {self.index} is not open any more; start another")
        return self._staged

    def _fail(self, error: Exception) -> DatasetError:
        """Set the episode's files aside and say what happened."""
        self.is_open = False
        if self._staged is not None:
            self._staged.abandon()
        with contextlib.suppress(OSError):
            os.rename(self._folder, self._dataset.ignored_path(self._folder.name))
        return DatasetError(
            f"{self._dataset.path}: episode {self.index} could not be written after {self.num_frames} rows: "
            f"{_reason(error, self._dataset.path)}. Finished episodes are unharmed; what was staged is in "
            f"{self._dataset.path / schema.IGNORED}"
        )


def _version(version: schema.Version | str) -> schema.Version:
    try:
        return schema.Version(version)
    except ValueError as error:
        raise ConfigError(f"version '{version}': expected one of {', '.join(schema.READ_VERSIONS)}") from error


def _reason(error: Exception, path: Path) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(path).free // 2**20
        return f"{error.strerror}; {free} MiB are free: make room, then record it again"
    return f"{error.strerror or error}; check the disk"
