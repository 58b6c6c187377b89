# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the files of a checkpoint's folder say, all embodiment tags, before one embodiment is chosen."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.checkpoint.files import (
    CONFIG_FILE,
    EMBODIMENT_FILE,
    METADATA_FILE,
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    PROCESSOR_FOLDER,
    PROJECTORS_FILE,
    STATISTICS_FILE,
    VERSIONS_FILE,
    read_json,
    read_json_if_there,
)
from gr00t_training.checkpoint.processor import has_processor, read_modalities, read_options
from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Embodiment, load_embodiment
from gr00t_training.errors import CheckpointError, ConfigError, DatasetError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.gr00t import Family, family
from gr00t_training.published import (
    embodiment_from_metadata,
    embodiment_from_modality,
    fitting_data_configs,
    modality_differences,
    resolve_tag,
)
from gr00t_training.transforms.pipeline import Statistics
from gr00t_training.transforms.processor import ProcessorOptions

FORMAT = 1  # of the files that are ours
ASSUMED_FPS = 20  # of folders that do not tell, where nobody else does [Hz]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder:
    """Contents of a folder's JSON files."""

    path: Path
    config: Gr00tConfig
    family: Family
    projectors: Mapping[str, int]  # embodiment tag -> row of the model's embodiment-specific tables
    metadata: Mapping[str, Any]  # per tag: metadata.json (N1, N1.5) or statistics.json (N1.6, N1.7)
    metadata_file: Path  # that these come from
    processor: Mapping[str, Any]  # processor_config.json; empty: N1, N1.5
    modalities: Mapping[str, Mapping[str, Any]]  # its modality configuration of each tag
    options: ProcessorOptions | None  # its options
    preprocessor: Mapping[str, Any]  # backbone/preprocessor_config.json
    embodiment: Embodiment | None  # embodiment.json: the one that was trained here
    versions: Mapping[str, Any]

    @property
    def tags(self) -> list[str]:
        """Embodiment tags that the folder describes."""
        return list(self.modalities if self.options else self.metadata)

    def resolve(self, name: str) -> str:
        """Return the tag that a name stands for (`gr00t_training.published.resolve_tag`).

        Raises:
            CheckpointError: the folder describes no such embodiment; lists those that it does.
        """
        try:
            return resolve_tag(name, self.tags)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def statistics(self, tag: str, name: str = "") -> Statistics:
        """Return the statistics of a tag.

        Args:
            tag: of the embodiment.
            name: of the embodiment, for errors.

        Raises:
            CheckpointError: there are none, or they are damaged.
        """
        entry = self.metadata.get(tag)
        file, of_whom = self.metadata_file, f" of '{name}'" if name else ""
        if entry is None:
            raise CheckpointError(
                f"{file}: no statistics for embodiment tag '{tag}'{of_whom}, found "
                f"{', '.join(self.metadata) or 'none'}; fine-tune the checkpoint for this embodiment first"
            )
        try:
            kinds = entry if self.options else entry["statistics"]
            names = ("state", "action", *(("relative_action",) if kinds.get("relative_action") else ()))
            return {
                kind: {
                    key: KeyStatistics.from_mapping(lists, f"{file}: {tag}.{kind}.{key}")
                    for key, lists in kinds[kind].items()
                }
                for kind in names
            }
        except DatasetError as error:
            raise CheckpointError(str(error)) from error
        except (KeyError, TypeError, AttributeError) as error:
            place = "" if self.options else "statistics."
            raise CheckpointError(
                f"{file}: '{tag}' lacks {place}state or {place}action; the file is damaged"
            ) from error

    def derive(self, tag: str, *, data_config: str | None = None, fps: int | None = None) -> Embodiment:
        """Return the embodiment that the published files describe for a tag.

        Args:
            tag: one of `tags`.
            data_config: N1 and N1.5: name of the data configuration; None: the only one that fits.
            fps: tick rate of the data that was trained on [Hz]; None: that of metadata.json, or an assumption.

        Raises:
            CheckpointError: the files do not describe it, or not enough.
        """
        try:
            if self.options:
                return self._from_modality(tag, fps)
            embodiment = embodiment_from_metadata(tag, self.metadata[tag], data_config or self._data_config(tag))
            return dataclasses.replace(embodiment, fps=fps or embodiment.fps)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def differences(self, embodiment: Embodiment) -> list[str]:
        """List where an embodiment contradicts the published modality configuration of its tag.

        Empty for N1 and N1.5, whose metadata.json does not tell what the model makes of its keys.

        Returns:
            One item with both values per entry (found: published, expected: the embodiment's).

        Raises:
            CheckpointError: the folder does not describe the tag, or not so that it can be used.
        """
        if not self.options:
            return []
        tag = embodiment.tag
        if tag not in self.modalities:
            raise CheckpointError(
                f"{self.path}: does not describe embodiment tag '{tag}' of '{embodiment.name}', found "
                f"{', '.join(self.modalities) or 'none'}; fine-tune the checkpoint for this embodiment first"
            )
        self.statistics(tag, embodiment.name)  # for its errors
        try:
            return modality_differences(self.modalities[tag], self.options, self.metadata[tag], embodiment)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def check_stored(self) -> None:
        """Hold the embodiment that was trained here against the published files beside it.

        Raises:
            CheckpointError: they contradict each other.
        """
        items = self.differences(self.embodiment) if self.embodiment else []
        if items:
            raise CheckpointError(
                f"{self.path}: {PROCESSOR_FILE} (found) and {EMBODIMENT_FILE} (expected) contradict each other: "
                f"{'; '.join(items)}; restore the one that was changed"
            )

    def _from_modality(self, tag: str, fps: int | None) -> Embodiment:
        assert self.options
        if fps is None:
            fps = ASSUMED_FPS
            logger.warning("%s: does not tell its tick rate, taking %d Hz; pass fps or an embodiment", self.path, fps)
        self.statistics(tag)  # for its errors
        return embodiment_from_modality(tag, self.modalities[tag], self.options, self.metadata[tag], fps=fps)

    def _data_config(self, tag: str) -> str:
        fitting = fitting_data_configs(self.metadata[tag])
        if len(fitting) != 1:
            raise CheckpointError(
                f"{self.path}: keys and scaling of '{tag}' are those of a data configuration, which the folder does "
                f"not name; {', '.join(fitting) or 'no published one'} would fit; pass data_config or an embodiment"
            )
        return fitting[0]


def read_folder(path: Path, *, needs_statistics: bool = True) -> Folder:
    """Read what describes the model.

    Args:
        path: local folder.
        needs_statistics: whether a folder without metadata.json or statistics.json is refused.

    Raises:
        CheckpointError: a file is missing or damaged, or the family is not supported; names the file.
    """
    model_json = read_json(path / CONFIG_FILE)
    if "model_type" not in model_json and "type" in model_json:
        raise CheckpointError(
            f"{path / CONFIG_FILE}: is that of a LeRobot policy; replace it, and add the other files, by those of the "
            f"checkpoint that it was fine-tuned from ({model_json.get('base_model_path', 'see its settings')})"
        )
    try:
        kind = family(model_json.get("model_type"))
        config = kind.parse(model_json, read_json_if_there(path / kind.vlm_file))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    has_options = has_processor(config.model_type)
    beside = _processor_folder(path) if has_options else path
    metadata_file = beside / STATISTICS_FILE if has_options else path / METADATA_FILE
    processor = read_json(beside / PROCESSOR_FILE) if has_options else {}
    versions = read_json_if_there(path / VERSIONS_FILE) or {}
    form = versions.get("format", FORMAT)
    if type(form) is not int or form > FORMAT:
        raise CheckpointError(f"{path}: format {form} is newer than {FORMAT}; update gr00t_training")
    return Folder(
        path=path,
        config=config,
        family=kind,
        projectors=_projectors(beside / PROJECTORS_FILE, kind),
        metadata=read_json(metadata_file) if metadata_file.exists() or needs_statistics else {},
        metadata_file=metadata_file,
        processor=processor,
        modalities=read_modalities(processor, beside / PROCESSOR_FILE) if has_options else {},
        options=read_options(processor, config.model_type, beside / PROCESSOR_FILE) if has_options else None,
        preprocessor=read_json_if_there(path / PREPROCESSOR_FILE) or {},
        embodiment=_stored_embodiment(path / EMBODIMENT_FILE),
        versions=versions,
    )


def _processor_folder(path: Path) -> Path:
    inside = path / PROCESSOR_FOLDER
    return inside if not (path / PROCESSOR_FILE).exists() and (inside / PROCESSOR_FILE).exists() else path


def _projectors(file: Path, kind: Family) -> dict[str, int]:
    stored = read_json_if_there(file) or {}
    wrong = [f"'{tag}' is {row!r}" for tag, row in stored.items() if type(row) is not int]
    if wrong:
        raise CheckpointError(f"{file}: {', '.join(wrong)}, expected row numbers; the file is damaged")
    return {**stored, **{tag: row for tag, row in kind.projectors.items() if tag not in stored}}


def _stored_embodiment(file: Path) -> Embodiment | None:
    try:
        return load_embodiment(file) if file.exists() else None
    except ConfigError as error:
        raise CheckpointError(f"{error}; the checkpoint is damaged") from error
