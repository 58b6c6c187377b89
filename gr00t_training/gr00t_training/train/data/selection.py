# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What of a dataset is trained on: episodes by number, task, mark and validity, and rows by recording quality.

What is left out is counted with its reason. The first reason that applies to an episode counts.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gr00t_training.checkpoint import Checkpoint
from gr00t_training.dataset.episode_ranges import parse_episodes
from gr00t_training.dataset.quality import EpisodeQuality
from gr00t_training.dataset.quality import Marks as OperatorMarks
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.schema import INTERVENTION_COLUMN
from gr00t_training.dataset.tools.validate.dataset import validate_dataset
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, DatasetError
from gr00t_training.io.text import printable
from gr00t_training.train.data.language import Texts
from gr00t_training.train.data.samples import Source, Stretch
from gr00t_training.train.data_settings import Interventions, Marks, SourceSettings
from gr00t_training.transforms.pipeline import Pipeline
from gr00t_training.types import KeyKind, KeyRef

logger = logging.getLogger(__name__)

_EPISODE = re.compile(r"episode (\d+)\b")  # in a finding


@dataclass(frozen=True)
class LeftOut:
    """What is not trained on for one reason."""

    reason: str
    episodes: int  # whole ones; 0: rows of others
    rows: int

    def __str__(self) -> str:
        return f"{_count(self.episodes, 'episode') if self.episodes else _count(self.rows, 'row')} {self.reason}"


@dataclass(frozen=True)
class Selection:
    """The chosen part of one dataset."""

    dataset: EpisodeDataset
    embodiment: Embodiment
    settings: SourceSettings
    stretches: Sequence[Stretch]  # rows to train on
    left_out: Sequence[LeftOut] = ()
    texts: Texts | None = None  # None: the embodiment's annotation as it is
    num_corrected: int | None = None  # rows by a person, each counted once; None: nothing depends on it

    @property
    def episodes(self) -> list[int]:
        """Chosen episodes, in order."""
        return sorted({stretch.episode for stretch in self.stretches})

    def source(self, pipeline: Pipeline) -> Source:
        """Return the samples; `pipeline`: transforms of the embodiment."""
        return Source(
            self.dataset,
            pipeline,
            stretches=self.stretches,
            weight=self.settings.weight,
            texts=self.texts,
            chosen_by=self.settings.to_mapping(),
        )


def make_sources(selections: Sequence[Selection], checkpoint: Checkpoint) -> list[Source]:
    """Return the sources of a run, with the transforms of a checkpoint that has their embodiments.

    Raises:
        ConfigError: embodiments that no batch can hold together.
    """
    pipelines: dict[str, Pipeline] = {}
    for selection in selections:
        tag = selection.embodiment.tag
        if tag not in pipelines:
            pipelines[tag] = checkpoint.of(tag).pipeline()
    lengths = {pipeline.embodiment.name: len(pipeline.embodiment.state_history) for pipeline in pipelines.values()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} rows of '{name}'" for name, length in lengths.items())
        raise ConfigError(f"state_history has {found}; a batch needs as many of all embodiments: choose one")
    return [selection.source(pipelines[selection.embodiment.tag]) for selection in selections]


def select(dataset: EpisodeDataset, embodiment: Embodiment, settings: SourceSettings) -> Selection:
    """Choose episodes and rows as the settings say.

    Raises:
        ConfigError: an annotation or a task is not in the dataset, or nothing is left.
        DatasetError: no such episodes, or metadata or a quality file is damaged.
    """
    rows = {episode.index: episode.length for episode in dataset.episodes}
    left_out: list[LeftOut] = []
    for reason, is_wanted in _rules(dataset, settings):
        removed = [episode for episode in rows if not is_wanted(episode)]
        if removed:
            left_out.append(LeftOut(reason, len(removed), sum(rows.pop(episode) for episode in removed)))
    wanted, filled = _wanted(dataset, embodiment, rows, leaves_out_filled=settings.leave_out_filled)
    for stream, count in filled.items():
        left_out.append(LeftOut(f"with {stream} missing or too old", 0, count))
    num_corrected = None
    if settings.interventions is not Interventions.ALL or settings.intervention_weight > 1:
        persons = {episode: _persons(dataset, episode) for episode in rows}
        left_out += _leave_out_by_person(wanted, persons, settings.interventions)
        num_corrected = sum(int((wanted[episode] & persons[episode]).sum()) for episode in rows)
        stretches = _weighted(wanted, persons, settings.intervention_weight)
    else:
        stretches = [stretch for episode, is_wanted in wanted.items() for stretch in _runs(episode, is_wanted)]
    if left_out and not any(stretch.count for stretch in stretches):
        why = "; ".join(map(str, left_out))
        raise ConfigError(f"{dataset.path}: no rows are left to train on ({why}); choose other episodes or rows")
    texts = _texts(dataset, embodiment, settings, rows)
    return Selection(dataset, embodiment, settings, stretches, left_out, texts, num_corrected)


def _rules(dataset: EpisodeDataset, settings: SourceSettings) -> list[tuple[str, Callable[[int], bool]]]:
    """Return why episodes are left out, and what tells which of them are wanted."""
    rules: list[tuple[str, Callable[[int], bool]]] = []
    if settings.episodes:
        try:
            chosen = set(parse_episodes(settings.episodes, [episode.index for episode in dataset.episodes]))
        except DatasetError as error:
            raise DatasetError(f"{dataset.path}: {error}") from error
        rules.append(("not chosen", chosen.__contains__))
    if settings.tasks:
        with_task = _with_task(dataset, settings.tasks)
        rules.append(("of other tasks", with_task.__contains__))
    if settings.marks is not Marks.ALL:
        rules.append(("marked as not valid", lambda episode: _marks(dataset, episode).is_valid is not False))
    if settings.marks is Marks.SUCCESS:
        rules.append(("not marked as a success", lambda episode: _marks(dataset, episode).is_success is True))
    if settings.leave_out_faults:
        faulty = _faulty(dataset)
        rules.append(("with faults", lambda episode: episode not in faulty))
    return rules


def _with_task(dataset: EpisodeDataset, patterns: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for pattern in patterns:
        matching = {
            episode.index
            for episode in dataset.episodes
            if any(fnmatch.fnmatchcase(task, pattern) for task in episode.tasks)
        }
        if not matching:
            known = sorted({task for episode in dataset.episodes for task in episode.tasks})
            shown = printable("; ".join(known), 300)
            raise ConfigError(f"{dataset.path}: no episode has a task '{printable(pattern)}' (tasks: {shown})")
        found |= matching
    return found


def _marks(dataset: EpisodeDataset, episode: int) -> OperatorMarks:
    quality = dataset.quality(episode)
    return quality.marks if quality else OperatorMarks()


def _faulty(dataset: EpisodeDataset) -> set[int]:
    """Return the episodes with faults; those that concern no single episode are logged."""
    files: dict[str, set[int]] = {}
    for episode in dataset.episodes:
        for path in (episode.rows.path, *(span.path for span in episode.videos.values())):
            files.setdefault(dataset.metadata.name_of(path), set()).add(episode.index)
    found: set[int] = set()
    for finding in validate_dataset(dataset.path, quick=True):
        if not finding.is_fault:
            continue
        named = _EPISODE.search(f"{finding.subject} {finding.text}")
        concerned = {int(named[1])} if named else files.get(finding.subject, set())
        if not concerned:
            logger.warning("%s: %s (concerns no single episode: nothing is left out for it)", dataset.path, finding)
        found |= concerned
    return found


def _wanted(
    dataset: EpisodeDataset, embodiment: Embodiment, lengths: Mapping[int, int], *, leaves_out_filled: bool
) -> tuple[dict[int, np.ndarray], dict[str, int]]:
    """Return which rows of each episode have all inputs, and how many do not, by the first stream to blame."""
    found: dict[int, np.ndarray] = {}
    blamed: dict[str, int] = {}
    for episode, length in lengths.items():
        quality = dataset.quality(episode) if leaves_out_filled else None
        is_wanted = np.ones(length, bool)
        for stream, is_valid in _inputs(quality, embodiment, length) if quality else ():
            count = int((is_wanted & ~is_valid).sum())
            if count:
                blamed[stream] = blamed.get(stream, 0) + count
            is_wanted &= is_valid
        found[episode] = is_wanted
    return found, blamed


def _persons(dataset: EpisodeDataset, episode: int) -> np.ndarray:
    """Return in which rows a person had taken over, `(N,)` bool."""
    found = dataset.interventions(episode)
    if found is None:
        raise ConfigError(
            f"{dataset.path}: has no column '{INTERVENTION_COLUMN}', so nobody knows which rows a person commanded; "
            "record attempts with 'command_source' in the topic map, or leave out 'interventions' and "
            "'intervention_weight'"
        )
    return found


def _leave_out_by_person(
    wanted: dict[int, np.ndarray], persons: Mapping[int, np.ndarray], which: Interventions
) -> list[LeftOut]:
    """Clear the rows in `wanted` that are not to be trained on by who commanded them; return how many."""
    if which is Interventions.ALL:
        return []
    count = 0
    for episode, is_person in persons.items():
        is_chosen = is_person if which is Interventions.ONLY else ~is_person
        count += int((wanted[episode] & ~is_chosen).sum())
        wanted[episode] = wanted[episode] & is_chosen
    reason = "not commanded by a person" if which is Interventions.ONLY else "commanded by a person"
    return [LeftOut(reason, 0, count)] if count else []


def _weighted(wanted: Mapping[int, np.ndarray], persons: Mapping[int, np.ndarray], weight: int) -> list[Stretch]:
    """Return the stretches of wanted rows, those by a person `weight` times."""
    found = []
    for episode, is_wanted in wanted.items():
        found += _runs(episode, is_wanted & ~persons[episode])
        found += _runs(episode, is_wanted & persons[episode]) * weight
    return found


def _inputs(quality: EpisodeQuality, embodiment: Embodiment, length: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the streams that the model sees, and at which rows all samples that it sees are valid."""
    rows = np.arange(length)
    for kind, keys, ticks in (
        (KeyKind.VIDEO, embodiment.video_keys, embodiment.video_history),
        (KeyKind.STATE, embodiment.state_keys, embodiment.state_history),
    ):
        for key in keys:
            stream = str(KeyRef(kind, key))
            if stream in quality.valid:
                seen = [quality.valid[stream][np.maximum(rows + tick, 0)] for tick in ticks]
                yield stream, np.logical_and.reduce(seen)


def _runs(episode: int, is_wanted: np.ndarray) -> list[Stretch]:
    """Return the stretches of wanted rows; an episode without rows is one, too."""
    if is_wanted.all():
        return [Stretch(episode, 0, len(is_wanted))]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_wanted.astype(np.int8), [0]])))
    return [Stretch(episode, int(first), int(end - first)) for first, end in edges.reshape(-1, 2)]


def _texts(
    dataset: EpisodeDataset, embodiment: Embodiment, settings: SourceSettings, episodes: Mapping[int, int]
) -> Texts | None:
    variants = settings.instructions
    if not settings.language and not variants:
        return None
    keys = settings.language or (embodiment.language,)
    for key in keys:
        if not dataset.has_language(key):
            known = ", ".join(dataset.modality.annotation) or "none"
            raise ConfigError(f"{dataset.path}: has no annotation '{key}' ({known}); choose another language")
    assert not isinstance(variants, str)  # files were read with the data file
    known = {task for episode in episodes for task in dataset.episode(episode).tasks} | set(dataset.tasks.values())
    if variants and not known & variants.keys():
        shown = printable("; ".join(sorted(known)), 300)
        raise ConfigError(f"{dataset.path}: instructions are for none of its tasks (tasks: {shown})")
    return Texts(keys, variants)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
