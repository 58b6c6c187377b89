# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the JSON files of a checkpoint's folder, with all embodiment tags; an embodiment is chosen later."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.checkpoint.files import (
    CONFIG_FILE,
    EMBODIMENT_FILE,
    EMBODIMENTS_FILE,
    METADATA_FILE,
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    PROCESSOR_FOLDER,
    PROJECTORS_FILE,
    STATISTICS_FILE,
    VERSIONS_FILE,
    WEIGHTS_FILE,
    place,
    read_json,
    read_json_if_there,
)
from gr00t_training.checkpoint.foreign import recognized
from gr00t_training.checkpoint.processor import read_modalities, read_options
from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, load_embodiment
from gr00t_training.errors import CheckpointError, ConfigError, DatasetError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.families import ModelFamily, family
from gr00t_training.settings import parse_settings
from gr00t_training.transforms.pipeline import Statistics
from gr00t_training.transforms.processor import ProcessorOptions
from gr00t_training.upstream import (
    check_metadata,
    embodiment_from_metadata,
    embodiment_from_modality,
    fitting_data_configs,
    modality_differences,
    resolve_tag,
)

FORMAT = 1  # of the files that are ours
ASSUMED_FPS = 20  # [Hz] where neither folder nor caller gives a rate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder:
    """Contents of the JSON files of a folder."""

    path: Path
    config: Gr00tConfig
    family: ModelFamily
    projectors: Mapping[str, int]  # embodiment tag -> row of the model's embodiment-specific tables
    metadata: Mapping[str, Any]  # per tag: metadata.json (N1, N1.5) or statistics.json (N1.6, N1.7)
    metadata_file: Path  # that these come from
    processor: Mapping[str, Any]  # processor_config.json; empty: N1, N1.5
    modalities: Mapping[str, Mapping[str, Any]]  # its modality configuration of each tag
    options: ProcessorOptions | None  # its options
    preprocessor: Mapping[str, Any]  # backbone/preprocessor_config.json
    embodiments: Mapping[str, Embodiment]  # tag -> those that were trained here
    versions: Mapping[str, Any]

    @property
    def tags(self) -> list[str]:
        """Embodiment tags that the folder describes."""
        return list(self.modalities if self.options else self.metadata)

    def resolve(self, name: str) -> str:
        """Return the tag of a name (`gr00t_training.upstream.resolve_tag`).

        Raises:
            CheckpointError: unknown name; lists the known ones.
        """
        try:
            return resolve_tag(name, self.tags, self.family.tag_names)
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
                kind: {key: _key_statistics(lists, f"{file}: {tag}.{kind}.{key}") for key, lists in kinds[kind].items()}
                for kind in names
            }
        except DatasetError as error:
            raise CheckpointError(str(error)) from error
        except (KeyError, TypeError, AttributeError) as error:
            place = "" if self.options else "statistics."
            raise CheckpointError(
                f"{file}: '{tag}' has no {place}state or {place}action; the file is damaged"
            ) from error

    def derive(self, tag: str, *, data_config: str | None = None, fps: int | None = None) -> Embodiment:
        """Return the embodiment that the published files describe for a tag.

        Args:
            tag: one of `tags`.
            data_config: N1 and N1.5: name of the data configuration; None: the only one that fits.
            fps: tick rate of the data that was trained on [Hz]; None: that of metadata.json, or an assumption.

        Raises:
            CheckpointError: the files do not describe it, or not completely.
        """
        try:
            if self.options:
                return self._from_modality(tag, fps)
            embodiment = embodiment_from_metadata(tag, self.metadata[tag], data_config or self._data_config(tag))
            return dataclasses.replace(embodiment, fps=fps or embodiment.fps)
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def differences(self, embodiment: Embodiment) -> list[str]:
        """List differences between an embodiment and the published modality configuration of its tag.

        Empty for N1 and N1.5: their metadata.json does not say which keys the model uses and how.

        Returns:
            One item with both values per entry (found: published, expected: the embodiment's).

        Raises:
            CheckpointError: the folder does not describe the tag, or not in a usable way.
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
        """Compare the trained embodiments with the published files of the folder.

        Raises:
            CheckpointError: they differ.
        """
        for embodiment in self.embodiments.values():
            items = self.differences(embodiment)
            if items:
                name = EMBODIMENT_FILE if len(self.embodiments) == 1 else EMBODIMENTS_FILE
                raise CheckpointError(
                    f"{self.path}: {PROCESSOR_FILE} (found) and {name} (expected) contradict each other: "
                    f"{'; '.join(items)}; restore the one that was changed"
                )

    def _from_modality(self, tag: str, fps: int | None) -> Embodiment:
        assert self.options
        if fps is None:
            fps = ASSUMED_FPS
            logger.warning("%s: unknown tick rate, assuming %d Hz; pass fps or an embodiment", self.path, fps)
        self.statistics(tag)  # for its errors
        return embodiment_from_modality(tag, self.modalities[tag], self.options, self.metadata[tag], fps=fps)

    def _data_config(self, tag: str) -> str:
        fitting = fitting_data_configs(self.metadata[tag])
        if len(fitting) != 1:
            raise CheckpointError(
                f"{self.path}: keys and scaling of '{tag}' depend on a data configuration, which is not in the folder "
                f"(fitting: {', '.join(fitting) or 'no published one'}); pass data_config or an embodiment"
            )
        return fitting[0]


def read_folder(path: Path, *, needs_statistics: bool = True) -> Folder:
    """Read the files that describe the model.

    Args:
        path: local folder.
        needs_statistics: refuse a folder without metadata.json or statistics.json.

    Raises:
        CheckpointError: a file is missing or damaged, or the family is not supported; names the file.
    """
    if not (path / CONFIG_FILE).exists() and not (path / WEIGHTS_FILE).exists():
        raise CheckpointError(recognized(path) or f"{path}: has no {CONFIG_FILE}, is not a checkpoint; check the path")
    model_json = read_json(place(path, CONFIG_FILE))
    if "model_type" not in model_json and "type" in model_json:
        raise CheckpointError(
            f"{path / CONFIG_FILE}: is that of a LeRobot policy; replace it, and add the other files, by those of the "
            f"checkpoint that it was fine-tuned from ({model_json.get('base_model_path', 'see its settings')})"
        )
    try:
        kind = family(model_json.get("model_type"))
        config = kind.parse(model_json, read_json_if_there(place(path, kind.vlm_file)))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    has_options = kind.processor is not None
    prefix = _processor_prefix(path) if has_options else ""
    metadata_file = place(path, prefix + (STATISTICS_FILE if has_options else METADATA_FILE))
    processor_file = place(path, prefix + PROCESSOR_FILE)
    processor = read_json(processor_file) if has_options else {}
    versions = read_json_if_there(place(path, VERSIONS_FILE)) or {}
    form = versions.get("format", FORMAT)
    if type(form) is not int or form > FORMAT:
        raise CheckpointError(f"{path}: format {form} is newer than {FORMAT}; update gr00t_training")
    return Folder(
        path=path,
        config=config,
        family=kind,
        projectors=_projectors(place(path, prefix + PROJECTORS_FILE), kind, config.action_head.num_embodiments),
        metadata=_metadata(metadata_file, has_options, is_needed=needs_statistics),
        metadata_file=metadata_file,
        processor=processor,
        modalities=read_modalities(processor, processor_file) if has_options else {},
        options=read_options(processor, kind.processor, processor_file) if kind.processor else None,
        preprocessor=read_json_if_there(place(path, PREPROCESSOR_FILE)) or {},
        embodiments={found.tag: found for found in _stored_embodiments(path)},
        versions=versions,
    )


def _processor_prefix(path: Path) -> str:
    is_inside = not (path / PROCESSOR_FILE).exists() and (path / PROCESSOR_FOLDER / PROCESSOR_FILE).exists()
    return f"{PROCESSOR_FOLDER}/" if is_inside else ""


def _key_statistics(lists: Any, subject: str) -> KeyStatistics:
    if not isinstance(lists, Mapping):
        raise DatasetError(f"{subject}: is {type(lists).__name__}, expected an object; restore the file")
    found = KeyStatistics.from_mapping(lists, subject)
    for low, high in (("min", "max"), ("q01", "q99")):
        if (getattr(found, low) > getattr(found, high)).any():
            raise DatasetError(f"{subject}: '{low}' is above '{high}'; restore the file")
    if (found.std < 0).any():
        raise DatasetError(f"{subject}: 'std' is negative; restore the file")
    return found


def _metadata(file: Path, has_options: bool, *, is_needed: bool) -> dict[str, Any]:
    content = read_json(file) if file.exists() or is_needed else {}
    try:
        for tag, entry in content.items():
            if not has_options:
                check_metadata(tag, entry)
            elif not isinstance(entry, Mapping):
                raise ConfigError(f"{tag} is {entry!r:.80}, expected an object; restore the file")
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return content


def _projectors(file: Path, kind: ModelFamily, num_rows: int) -> dict[str, int]:
    stored = read_json_if_there(file) or {}
    wrong = [f"'{tag}' is {row!r:.80}" for tag, row in stored.items() if type(row) is not int]
    if wrong:
        raise CheckpointError(f"{file}: {', '.join(wrong[:5])}, expected row numbers; the file is damaged")
    released = {tag: row for tag, row in kind.projectors.items() if tag not in stored and row < num_rows}
    return {**stored, **released}


def _stored_embodiments(path: Path) -> list[Embodiment]:
    file, files = place(path, EMBODIMENT_FILE), place(path, EMBODIMENTS_FILE)
    try:
        if file.exists():
            return [load_embodiment(file)]
        entries = (read_json_if_there(files) or {}).get("embodiments", [])
        if not isinstance(entries, list) or (files.exists() and not entries):
            raise ConfigError(f"{files}: 'embodiments' is {entries!r:.80}, expected a list of embodiments")
        return [parse_settings(Embodiment, json.dumps(entry), f"{files}: [{i}]") for i, entry in enumerate(entries)]
    except ConfigError as error:
        raise CheckpointError(f"{error}; the checkpoint is damaged") from error
