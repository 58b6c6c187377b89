# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Write LeRobot datasets (v2.0, v2.1, v3.0) with GR00T's additions; a kill loses no finished episode.

An episode grows in a hidden staging folder inside the dataset (`writing.staging`). Saving it writes all metadata files
there, syncs, and from then on only renames: first the episode's files, then the metadata, where one rename makes the
episode exist (`store_v2`, `store_v3`). Leftovers of a crash are moved to `.staging/ignored` when the dataset is next
opened for writing. Images are encoded in the thread that adds them.
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
from gr00t_training.dataset.media.encoders import check_encoder
from gr00t_training.dataset.media.video import VideoSettings
from gr00t_training.dataset.metadata.embodiments import read_embodiment
from gr00t_training.dataset.metadata.features import camera_block
from gr00t_training.dataset.metadata.info import read_info
from gr00t_training.dataset.quality import Marks, quality_text
from gr00t_training.dataset.writing.files import DatasetFiles
from gr00t_training.dataset.writing.finished import FinishedEpisode
from gr00t_training.dataset.writing.staging import OpenVideo, StagedEpisode
from gr00t_training.dataset.writing.store import Store, StoreContext
from gr00t_training.dataset.writing.store_v2 import SeparateStore
from gr00t_training.dataset.writing.store_v3 import SharedStore
from gr00t_training.embodiment import Embodiment, differences
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.object_storage import refuse_remote
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
        has_source: bool = False,
    ) -> None:
        """Open the dataset at `path`, or start one there.

        Args:
            path: folder of the dataset.
            embodiment: of the robot that is recorded.
            video: how images are encoded.
            version: of the format; None: as the existing dataset, v2.1 for a new one.
            has_source: whether rows say who commanded (columns `intervention` and `command_source`).

        Raises:
            DatasetError: another embodiment, codec, version or `has_source`; damaged; in use by another writer; not
                writable.
            ConfigError: no such version, or this machine cannot encode `video`.
        """
        refuse_remote(path, "record into a local one, and gr00t_dataset copy it there")
        self.path = Path(path)
        self.embodiment = embodiment
        self.video = video or VideoSettings()
        self.has_source = has_source
        self._files = DatasetFiles(self.path)
        self._episode: EpisodeWriter | None = None
        wanted = None if version is None else _version(version)
        for size in embodiment.video.values():
            check_encoder(self.video, size.height, size.width, embodiment.fps)
        try:
            self._files.path(schema.IGNORED).mkdir(parents=True, exist_ok=True)
            lock = self._files.path(f"{schema.STAGING}/lock")
            self._lock = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise DatasetError(f"{self.path}: open in another writer; close that one first") from error
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be written ({error.strerror}); check path and rights") from error
        try:
            if (self.path / schema.REPAIR_STEPS).exists():
                raise DatasetError(f"{self.path}: a repair was interrupted; run gr00t_dataset repair first")
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

    def episode_folder(self, index: int) -> Path:
        """Return the staging folder of an episode."""
        return self.path / schema.STAGING / f"episode_{index:06d}"

    def start_episode(self, task: str, *, open_video: OpenVideo | None = None) -> EpisodeWriter:
        """Start the next episode.

        Args:
            task: of all frames without a task.
            open_video: for images that are encoded already; see `StagedEpisode`.

        Raises:
            DatasetError: empty task, an episode is open already, or nothing can be written.
        """
        if not task.strip():
            raise DatasetError(f"{self.path}: the task text is empty; say what the robot does in this episode")
        self.check_present()
        if self._episode is not None and self._episode.is_open:
            raise DatasetError(f"{self.path}: episode {self.num_episodes} is open; save or discard it first")
        self._episode = EpisodeWriter(self, task, open_video)
        return self._episode

    def discard_last(self) -> Path:
        """Remove the last finished episode from the dataset; the next one gets its index.

        Returns:
            Folder with its files, inside the dataset and hidden from readers.

        Raises:
            DatasetError: there is none, an episode is open, or the files cannot be changed.
        """
        self.check_present()
        if self._episode is not None and self._episode.is_open:
            raise DatasetError(f"{self.path}: episode {self.num_episodes} is open; save or discard it first")
        if not self.num_episodes:
            raise DatasetError(f"{self.path}: there is no finished episode to discard")
        index = self.num_episodes - 1
        folder = self._files.ignored_path(f"episode_{index:06d}")
        try:
            folder.mkdir()
            self._store.take_last(folder)
        except (OSError, DatasetError) as error:
            self.recover()
            raise DatasetError(
                f"{self.path}: episode {index} could not be discarded: {_reason(error, self.path)}"
            ) from error
        return folder

    def mark(self, index: int, marks: Marks) -> Marks:
        """Update the operator's marks of a finished episode; marks that are None or empty stay unchanged.

        Returns:
            The updated marks.

        Raises:
            DatasetError: no such episode, or its quality file cannot be read or written.
        """
        if not 0 <= index < self.num_episodes:
            raise DatasetError(f"{self.path}: no episode {index}; it has {self.num_episodes}")
        self.check_present()
        name = schema.quality_path(index)
        path = self._files.path(name)
        quality = schema.read_object(path) if path.exists() else {}
        joined = Marks.of_report(quality).updated(marks)
        try:
            self._files.move(self._files.stage_text(name, quality_text({**quality, **joined.to_mapping()})))
        except OSError as error:
            raise DatasetError(f"{self.path}: {name}: {_reason(error, self.path)}") from error
        self._store.remember()
        return joined

    def check_present(self) -> None:
        """Raise DatasetError when the folder that was opened is no longer at `path`: moved, deleted or unmounted."""
        if self._lock.closed:
            raise DatasetError(f"{self.path}: the writer is closed; open the dataset again")
        try:
            found = os.stat(self.path / schema.STAGING / "lock")
            is_same = os.path.samestat(found, os.fstat(self._lock.fileno()))
        except OSError:
            is_same = False
        if not is_same:
            raise DatasetError(
                f"{self.path}: the dataset folder was moved, deleted or unmounted; bring it back, or open another one"
            )

    def close(self) -> None:
        """Discard an open episode, let the store tidy up, and release the dataset for other writers."""
        if self._episode is not None and self._episode.is_open:
            self._episode.discard()
        if not self._lock.closed:
            with contextlib.suppress(DatasetError):  # a dataset that was moved cannot be tidied up
                self.check_present()
                self._store.close()
        self._lock.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, episode: FinishedEpisode, report: Mapping[str, Any]) -> None:
        """Make a finished episode part of the dataset, with the next index.

        Raises:
            OSError, DatasetError: it cannot be written; call `recover` to read what is on disk.
        """
        self._store.publish(episode, report)

    def recover(self) -> None:
        """Reload what is on disk after a failure; close the writer if that fails."""
        try:
            self._store.load()
        except (OSError, DatasetError):
            self._lock.close()

    def ignored_path(self, name: str) -> Path:
        """Return an unused path in the hidden folder."""
        return self._files.ignored_path(name)

    def _make_store(self) -> Store:
        context = StoreContext(self._files, self.embodiment, self.video, self.version, self.has_source)
        return SharedStore(context) if self.version is schema.Version.V30 else SeparateStore(context)

    def _check_identity(self, wanted: schema.Version | None) -> schema.Version:
        """Compare the existing dataset with the request; return the version to write."""
        if not self._files.find(schema.INFO_FILE, schema.EPISODES_FILE, schema.EPISODES_TABLE_PATTERN):
            return wanted or schema.DEFAULT_VERSION
        try:
            found = read_embodiment(self.path)
        except ConfigError as error:
            raise DatasetError(f"{error}; restore the file from a copy") from error
        if found is None:
            raise DatasetError(
                f"{self.path}: not written by this suite (no {schema.EMBODIMENT_FILE}); choose a new folder"
            )
        items = differences(found, self.embodiment)
        if items:
            raise DatasetError(f"{self.path}: different embodiment: {'; '.join(items)}; choose a new folder")
        return self._check_format(wanted)

    def _check_format(self, wanted: schema.Version | None) -> schema.Version:
        if not (self.path / schema.INFO_FILE).exists():
            return wanted or schema.DEFAULT_VERSION  # killed while the first episode was saved
        info = read_info(self.path)
        version = info["codebase_version"]
        if wanted is not None and version != wanted.value:
            raise DatasetError(
                f"{self.path}: is version {version}, cannot append {wanted.value}; leave the version out or choose a "
                "new folder"
            )
        if (schema.SOURCE_COLUMN in info["features"]) != self.has_source:
            found, given = ("no", "some") if self.has_source else ("a", "none")
            raise DatasetError(
                f"{self.path}: has {found} column '{schema.SOURCE_COLUMN}' (who commanded), the topic map binds "
                f"{given}; choose a new folder or another topic map"
            )
        for key in self.embodiment.video:
            codec = camera_block(info["features"].get(schema.image_feature(key), {})).get("video.codec")
            if codec != self.video.codec.value:
                raise DatasetError(
                    f"{self.path}: camera '{key}' is stored as {codec}, cannot append {self.video.codec.value}; "
                    "use the same codec or a new folder"
                )
        return schema.Version(version)


class EpisodeWriter:
    """One episode being written; made by `DatasetWriter.start_episode`."""

    def __init__(self, dataset: DatasetWriter, task: str, open_video: OpenVideo | None = None) -> None:
        self.index = dataset.num_episodes
        self.is_open = True
        self._dataset = dataset
        self._folder = dataset.episode_folder(self.index)
        self._staged: StagedEpisode | None = None
        try:
            if self._folder.exists():  # left where it could not be moved, such as after the disk was unmounted
                os.rename(self._folder, dataset.ignored_path(self._folder.name))
            self._staged = StagedEpisode(
                self._folder,
                self.index,
                task,
                dataset.embodiment,
                dataset.video,
                open_video,
                dataset.version,
                has_source=dataset.has_source,
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
                refused and the episode unchanged. Or the disk is full: then the episode is closed, and the
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
                finished episodes are unharmed, and the message says where its files are.
        """
        staged = self._require_open()
        if not staged.num_frames:
            raise DatasetError(f"{self._dataset.path}: episode {self.index} has no frames; add some or discard it")
        try:
            self._dataset.check_present()
            finished = staged.finish()
        except (OSError, DatasetError) as error:
            raise self._fail(error) from error  # nothing has been published, so there is nothing to recover
        try:
            self._dataset.publish(finished, report or {})
        except (OSError, DatasetError) as error:
            failure = self._fail(error)
            self._dataset.recover()
            if self._dataset.num_episodes <= self.index:
                raise failure from error
        self.is_open = False
        shutil.rmtree(self._folder, ignore_errors=True)
        return self.index

    def discard(self) -> None:
        """Delete the episode and its files."""
        staged = self._require_open()
        staged.abandon()
        staged.forget()
        self.is_open = False
        shutil.rmtree(self._folder, ignore_errors=True)

    def _require_open(self) -> StagedEpisode:
        if not self.is_open or self._staged is None:
            raise DatasetError(f"{self._dataset.path}: episode {self.index} is closed; start another")
        return self._staged

    def _fail(self, error: Exception) -> DatasetError:
        """Move the episode's files to the hidden folder and return the error to raise."""
        self.is_open = False
        if self._staged is not None:
            self._staged.abandon()
        place = self._dataset.path / schema.IGNORED
        try:
            self._dataset.check_present()  # not in a folder that replaced it
            os.rename(self._folder, self._dataset.ignored_path(self._folder.name))
        except (OSError, DatasetError):
            place = self._folder  # it is moved when the next episode starts
        return DatasetError(
            f"{self._dataset.path}: episode {self.index} could not be written after {self.num_frames} rows: "
            f"{_reason(error, self._dataset.path)}. Finished episodes are unharmed; what was staged is in "
            f"{place}"
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
