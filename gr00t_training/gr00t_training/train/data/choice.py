# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The data of a run from its settings: datasets with their embodiments, and the statistics of each embodiment."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from gr00t_training.checkpoint import load_checkpoint
from gr00t_training.checkpoint.description import TrainedEmbodiment
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.training_data import TrainingData, read_training_data
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.embodiment import Embodiment, differences, load_embodiment
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.io.hub_download import dataset_id
from gr00t_training.io.mirror import fetch_all
from gr00t_training.io.object_storage import remote_url
from gr00t_training.io.text import printable
from gr00t_training.train.data.fit import check_match
from gr00t_training.train.data.hub_dataset import find_dataset
from gr00t_training.train.data.selection import Selection, select
from gr00t_training.train.data.statistics import moved_channels, selected_statistics
from gr00t_training.train.data_settings import SourceSettings, StatisticsFrom, read_data_file
from gr00t_training.train.settings import FinetuneSettings
from gr00t_training.transforms.pipeline import Statistics

logger = logging.getLogger(__name__)

MOVED_FACTOR = 2.0  # of a channel's range, from which a warning names it
_MOST_SHOWN = 600  # [characters] of such a warning


def choose_data(settings: FinetuneSettings, resumed: Path | None) -> list[Selection]:
    """Open the datasets of a run and choose what of each is trained on.

    Args:
        settings: of the run.
        resumed: checkpoint that is continued; its datasets and embodiments are taken where the settings name none.

    Raises:
        Gr00tError: a dataset cannot be read, does not fit its embodiment, or nothing of it is left.
    """
    before = read_training_data(resumed) if resumed else None
    found: list[Selection] = []
    for source, stored in _sources(settings, resumed, before):
        dataset = EpisodeDataset(find_dataset(source.dataset))
        embodiment = _embodiment(settings, source, stored, dataset)
        check_match(dataset, embodiment)
        # their statistics and digest are of all rows
        fetch_all(dataset.path, (episode.rows.path for episode in dataset.episodes))
        found.append(select(dataset, embodiment, source))
    _check_tags(found)
    return found


def trained_embodiments(
    data: Sequence[Selection], base: str | Path | None, taken_from: StatisticsFrom
) -> list[TrainedEmbodiment]:
    """Return the embodiments of a run with their statistics; a warning names channels with another range than before.

    Args:
        data: of the run.
        base: checkpoint that it starts from.
        taken_from: whose statistics.

    Raises:
        CheckpointError: the base checkpoint has no statistics of an embodiment.
        DatasetError: statistics cannot be computed.
    """
    folder = read_folder(find_folder(base), needs_statistics=taken_from is StatisticsFrom.BASE) if base else None
    found = []
    for tag in dict.fromkeys(selection.embodiment.tag for selection in data):
        same = [selection for selection in data if selection.embodiment.tag == tag]
        embodiment = same[0].embodiment
        statistics = selected_statistics(same)
        if folder and taken_from is StatisticsFrom.BASE:
            kept = folder.statistics(tag, embodiment.name)
            _warn(folder, embodiment, statistics, kept, "the base's are kept")
            statistics = kept
        elif folder and tag in folder.metadata:
            with contextlib.suppress(CheckpointError):  # damaged ones are replaced
                _warn(folder, embodiment, statistics, folder.statistics(tag), "--statistics base keeps the base's")
        found.append(TrainedEmbodiment(embodiment, statistics))
    return found


def _sources(
    settings: FinetuneSettings, resumed: Path | None, before: TrainingData | None
) -> list[tuple[SourceSettings, Embodiment | None]]:
    """Return the settings of each dataset, and the embodiment of the run that is resumed."""
    if settings.data:
        return [(source, None) for source in read_data_file(settings.data).datasets]
    known = _trained_sources(resumed, before) if resumed else []
    if not settings.datasets:
        if known:
            return known
        why = f"{resumed.name} does not name its dataset" if resumed else "there is no run to resume"
        raise ConfigError(f"--dataset is missing, and {why}; pass the folder of the dataset")
    if len(known) != len(settings.datasets):
        return [(SourceSettings(dataset=path), None) for path in settings.datasets]
    moved = []
    for (source, embodiment), path in zip(known, settings.datasets, strict=True):
        place = remote_url(path) or str(Path(path).resolve())
        if place != source.dataset:
            logger.info("dataset %s -> %s", source.dataset, place)
        moved.append((dataclasses.replace(source, dataset=path), embodiment))
    return moved


def _trained_sources(resumed: Path, before: TrainingData | None) -> list[tuple[SourceSettings, Embodiment | None]]:
    if before is None:
        return []
    if not before.sources:  # an older checkpoint
        return [(SourceSettings(dataset=before.path), load_checkpoint(resumed).embodiment)]
    checkpoint = load_checkpoint(resumed, embodiment=before.sources[0].tag)
    embodiments = {trained.embodiment.tag: trained.embodiment for trained in checkpoint.trained}
    found: list[tuple[SourceSettings, Embodiment | None]] = []
    for source in before.sources:
        given = str(source.settings.get("dataset", ""))  # maybe a hub id, whose files are no longer in the cache
        is_there = remote_url(source.path) is not None or Path(source.path).exists()
        path = source.path if is_there or dataset_id(given) is None else given
        content: Mapping[str, object] = {**source.settings, "dataset": path}
        try:
            found.append((SourceSettings.from_mapping(content, str(resumed)), embodiments.get(source.tag)))
        except ConfigError as error:
            raise CheckpointError(f"{error}; pass --data") from error
    return found


def _embodiment(
    settings: FinetuneSettings, source: SourceSettings, stored: Embodiment | None, dataset: EpisodeDataset
) -> Embodiment:
    if settings.embodiment and (stored or not source.embodiment):
        found = load_embodiment(settings.embodiment)
    elif stored:
        return stored
    elif source.embodiment:
        found = load_embodiment(source.embodiment)
    elif dataset.embodiment is None:
        raise ConfigError(
            f"{dataset.path}: has no embodiment (another tool wrote it); 'gr00t init {dataset.path} --output my_robot' "
            "writes one: pass --embodiment my_robot/embodiment.yaml, or the same in --data"
        )
    else:
        found = dataset.embodiment
    return dataclasses.replace(found, tag=source.tag) if source.tag else found


def _check_tags(data: Sequence[Selection]) -> None:
    """Refuse two embodiments of one tag: they would share statistics and layers."""
    first: dict[str, Selection] = {}
    for selection in data:
        other = first.setdefault(selection.embodiment.tag, selection)
        items = differences(other.embodiment, selection.embodiment)
        if items:
            raise ConfigError(
                f"{other.dataset.path} (found) and {selection.dataset.path} (expected) have different embodiments of "
                f"tag '{selection.embodiment.tag}': {'; '.join(items)}; give one of them another tag in --data"
            )


def _warn(folder: Folder, embodiment: Embodiment, found: Statistics, base: Statistics, remedy: str) -> None:
    items = moved_channels(embodiment, found, base, MOVED_FACTOR)
    if items:
        logger.warning(
            "%s: ranges of %d channels of '%s' differ more than %g times from those of the data (base -> data): %s; a "
            "short run cannot follow that, %s",
            folder.path,
            len(items),
            embodiment.tag,
            MOVED_FACTOR,
            printable(", ".join(items), _MOST_SHOWN),
            remedy,
        )
