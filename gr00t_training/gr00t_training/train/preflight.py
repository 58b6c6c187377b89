# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Look at a run before it starts: one line per subject, each go, look or no-go.

A no-go is certain to waste the run: broken rows, a dead camera, actions that never change, no room for a checkpoint.
What may be intended, such as a joint of 90 rad, is a look. Nothing is trained and no weights are read; of a large
dataset, episodes that are spread over it are checked.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gr00t_training.checkpoint import Checkpoint
from gr00t_training.checkpoint.trial import shape_model
from gr00t_training.dataset.episode_ranges import ranges_text
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.dataset.tools.validate.dataset import validate_sample
from gr00t_training.dataset.tools.validate.findings import Finding
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, DatasetError, Gr00tError
from gr00t_training.io.text import one_line, printable, size_text
from gr00t_training.policy.device import choose_device
from gr00t_training.train.adapters import choose_trained
from gr00t_training.train.data.holdout import hold_out
from gr00t_training.train.data.samples import Source
from gr00t_training.train.memory import GIB, MemoryEstimate, SampleSize, estimate_memory
from gr00t_training.train.preflight_picture import DrawnSample, draw_samples
from gr00t_training.train.run_folder import OTHER_BYTES, checkpoint_bytes
from gr00t_training.train.settings import TrainerSettings
from gr00t_training.types import KeyKind, Verdict

PICTURE_FILE = "preflight.png"
SHORT_FRAMES, LONG_FRAMES = 3_000, 60_000  # of all cameras that are decoded: a second or two, and half a minute
NUM_SAMPLES = 3  # that are drawn
LARGEST_RAD = 4 * math.pi  # of a joint: two turns; 90 degrees are more
LARGEST_M = 20.0  # of an arm or its base in a hall; 100 mm are more
DEGREES_PER_RAD, MM_PER_M = 180 / math.pi, 1000.0
_SAME_UNIT = 1.35  # ratios of ranges that are within this factor of a conversion are one
USUAL_LEVEL = 1.5  # of a scaled value
MEMORY_TOLERANCE = 1.2  # of the estimate
LESS_MEMORY = "try --accumulate, --checkpoint-activations, --lora-rank 32, --optimizer adamw8bit or --quantize-base nf4"
FRAMES_PER_TEXT = 60  # an episode's instruction costs as much as decoding these
MANY_FRAMES = 10_000  # from which processes that share them repay their start
_SHOWN = 3  # items of one kind


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Preflight:
    """The whole table."""

    checks: tuple[Check, ...]

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        return "\n".join(f"{check.verdict.value:6} {check.name:{width}}  {check.text}" for check in self.checks)

    def short(self) -> str:
        """Return one line, and one more for each check that is not a go."""
        found = [check for check in self.checks if check.verdict is not Verdict.GO]
        first = f"pre-flight: {len(self.checks) - len(found)} of {len(self.checks)} checks are a go"
        return "\n".join([first, *(f"  {check.verdict.value} {check.name}: {check.text}" for check in found)])

    def refuse_no_go(self) -> None:
        """Refuse to train.

        Raises:
            ConfigError: something is a no-go; names each.
        """
        found = [f"{check.name}: {check.text}" for check in self.checks if check.verdict is Verdict.NO_GO]
        if found:
            raise ConfigError(
                f"pre-flight found {len(found)} no-go: {'; '.join(found)}; correct it, or pass --no-preflight to train "
                "anyway"
            )


def check_run(
    checkpoint: Checkpoint,
    sources: Sequence[Source],
    settings: TrainerSettings,
    output: Path,
    *,
    max_frames: int = SHORT_FRAMES,
    jobs: int = 1,
) -> Preflight:
    """Check what a run is to train on and with.

    Args:
        checkpoint: that it starts from; its weights are not read.
        sources: datasets with their transforms.
        settings: of the trainer.
        output: folder of the run, which gets the picture of some samples.
        max_frames: of each dataset that are decoded about.
        jobs: processes that check files.
    """
    checks: list[Check] = []
    for source in sources:
        prefix = f"{source.path.name} " if len(sources) > 1 else ""
        embodiment = source.pipeline.embodiment
        for name, check in (
            ("dataset", lambda s=source: _check_dataset(s.dataset, s.pipeline.embodiment, max_frames, jobs)),
            ("embodiment", lambda e=embodiment: _check_embodiment(e, checkpoint)),
            ("statistics", lambda s=source: check_ranges(s.dataset, s.pipeline.embodiment)),
            ("language", lambda s=source: _check_language(s, max_frames // FRAMES_PER_TEXT)),
        ):
            checks += _guarded(prefix + name, check)
    if _validates(settings):
        checks += _guarded("validation", lambda: _check_validation(sources, settings))
    checks += _guarded("samples", lambda: _check_samples(sources, settings.seed, output / PICTURE_FILE))
    checks += _guarded("memory", lambda: _check_memory(checkpoint, sources, settings))
    checks += _guarded("disk", lambda: _check_disk(checkpoint, settings, output))
    return Preflight(tuple(checks))


def check_ranges(dataset: EpisodeDataset, embodiment: Embodiment) -> list[tuple[Verdict, str]]:
    """Compare the ranges of all channels that the model uses with their units."""
    large: list[str] = []
    constant: list[str] = []
    num_moving = {KeyKind.STATE: 0, KeyKind.ACTION: 0}
    extents: dict[KeyKind, dict[str, tuple[float, str]]] = {KeyKind.STATE: {}, KeyKind.ACTION: {}}
    for ref, vector in embodiment.used_vectors():
        found = dataset.statistics(ref)
        for name, low, high in zip(vector.names, found.min.tolist(), found.max.tolist(), strict=True):
            channel, extent = f"{ref} '{name}'", max(abs(low), abs(high))
            if low == high:
                constant.append(channel)
                continue
            num_moving[ref.kind] += 1
            if vector.is_absolute and not vector.rotation:
                extents[ref.kind][f"{ref.key} '{name}'"] = (extent, vector.unit)
            if vector.unit == "rad" and extent > LARGEST_RAD:
                large.append(f"{channel} reaches {extent:.4g} rad (degrees?)")
            elif vector.unit == "m" and extent > LARGEST_M:
                large.append(f"{channel} reaches {extent:.4g} m (millimeters?)")
    results = [(Verdict.LOOK, _listed(large))] if large else []
    other = _other_units(extents[KeyKind.STATE], extents[KeyKind.ACTION])
    if other:
        results.append((Verdict.LOOK, _listed(other)))
    if not num_moving[KeyKind.ACTION]:
        results.append((Verdict.NO_GO, "no channel of the action ever changes; check what was recorded"))
    elif constant:
        results.append((Verdict.LOOK, f"constant: {_listed(constant)}"))
    if not results:
        results.append(
            (Verdict.GO, f"{num_moving[KeyKind.STATE]} state and {num_moving[KeyKind.ACTION]} action channels move")
        )
    return results


def _other_units(state: dict[str, tuple[float, str]], action: dict[str, tuple[float, str]]) -> list[str]:
    """Name channels whose state and action differ by the factor of another unit."""
    found = []
    for name in state.keys() & action.keys():
        (of_state, _), (of_action, unit) = state[name], action[name]
        ratio = max(of_state, of_action) / max(min(of_state, of_action), 1e-12)
        for factor, what in ((DEGREES_PER_RAD, "degrees and radians"), (MM_PER_M, "millimeters and meters")):
            is_unit = unit in (("rad",) if factor == DEGREES_PER_RAD else ("m",))
            if is_unit and factor / _SAME_UNIT < ratio < factor * _SAME_UNIT:
                found.append(f"{name}: state up to {of_state:.4g}, action up to {of_action:.4g} ({what}?)")
    return sorted(found)


def _guarded(name: str, check: Callable[[], Iterable[tuple[Verdict, str]]]) -> list[Check]:
    """Run a check; an error of what it reads is a no-go."""
    try:
        return [Check(name, verdict, printable(text, 1000)) for verdict, text in check()]
    except Gr00tError as error:
        return [Check(name, Verdict.NO_GO, printable(one_line(error), 1000))]


def _check_dataset(
    dataset: EpisodeDataset, embodiment: Embodiment, max_frames: int, jobs: int
) -> list[tuple[Verdict, str]]:
    num_frames = min(dataset.num_frames * len(dataset.metadata.cameras), max_frames)
    checked = validate_sample(dataset.path, max_frames=max_frames, jobs=jobs if num_frames > MANY_FRAMES else 1)
    features = {dataset.video_feature(key) for key in embodiment.video_keys}
    faults = [finding for finding in checked.findings if finding.is_fault]
    harmful = [_brief(finding) for finding in faults if _is_harmful(finding, features)]
    harmful = harmful or _unreadable(dataset, embodiment, checked.episodes)
    num_warnings = len(checked.findings) - len(faults)
    part = "all" if len(checked.episodes) == checked.num_episodes else str(len(checked.episodes))
    how = "checked and decoded" if checked.is_decoded else "checked, videos not decoded"
    text = (
        f"{checked.num_episodes} episodes, {dataset.num_frames} rows at {dataset.fps:g} Hz; {part} {how}; "
        f"{len(faults)} faults, {num_warnings} warnings"
    )
    if harmful:
        return [(Verdict.NO_GO, f"{text}: {_listed(harmful)}")]
    if checked.findings:
        first = faults or list(checked.findings)
        return [
            (Verdict.LOOK if faults else Verdict.GO, f"{text}: {_listed([_brief(first[0])], len(checked.findings))}")
        ]
    return [(Verdict.GO, text)]


def _unreadable(dataset: EpisodeDataset, embodiment: Embodiment, episodes: Sequence[int]) -> list[str]:
    """Return why the first episode whose rows cannot be read cannot."""
    try:
        for episode in episodes:
            for ref, _ in embodiment.used_vectors():
                dataset.vectors(ref, episode)
    except DatasetError as error:
        return [one_line(error)]
    return []


def _is_harmful(finding: Finding, features: set[str]) -> bool:
    """Whether a fault spoils the training: it is in a file, column or camera that is read, not in the bookkeeping."""
    subject = finding.subject
    if (
        " is list<" in finding.text
    ):  # numbers in lists of one, as some writers make them: reading takes them, or says why
        return False
    unused = "observation.images." in subject and not any(name in subject for name in features)
    return (subject.startswith(("data/", "videos/")) or ", " in subject) and not unused


def _brief(finding: Finding) -> str:
    return f"{finding.subject}: {finding.text}"


def _check_embodiment(embodiment: Embodiment, checkpoint: Checkpoint) -> list[tuple[Verdict, str]]:
    widths = [
        f"{kind.value} {sum(embodiment.vectors(kind)[key].dim for key in embodiment.used(kind))} of {room}"
        for kind, room in (
            (KeyKind.STATE, checkpoint.config.action_head.state_dim),
            (KeyKind.ACTION, checkpoint.config.action_head.action_dim),
        )
    ]
    cameras = [
        f"{key} {'any size' if size.is_any_size else f'{size.width}x{size.height}'}"
        for key in embodiment.video_keys
        for size in (embodiment.video[key],)
    ]
    row = checkpoint.projectors.get(embodiment.tag)
    text = (
        f"{embodiment.name}: {', '.join(widths)} channels, horizon {embodiment.action_horizon}, "
        f"{', '.join(cameras)}; tag {embodiment.tag} (row {row})"
    )
    return [(Verdict.GO, text)]


def _check_language(source: Source, max_episodes: int) -> list[tuple[Verdict, str]]:
    dataset, pipeline = source.dataset, source.pipeline
    texts: dict[str, int] = {}
    episodes = dataset.episodes[:: max(1, math.ceil(len(dataset.episodes) / max_episodes))]
    for episode in episodes:
        if episode.length:
            text = dataset.task(episode.index, 0, pipeline.embodiment.language)
            texts[text] = texts.get(text, 0) + 1
    key = pipeline.embodiment.language or "the task"
    longest = max(texts, key=len, default="")
    shown = f"{key}: {len(texts)} texts in {len(episodes)} episodes, the longest '{printable(longest, 80)}'"
    results = []
    empty = sum(count for text, count in texts.items() if not text.strip())
    if empty:
        results.append((Verdict.LOOK, f"{key}: {empty} of {len(episodes)} episodes have no instruction"))
    lost = [text for text in texts if text.strip() and not _survives(source, text)]
    if lost:
        results.append((Verdict.LOOK, f"the tokenizer loses characters of {_listed([repr(text) for text in lost])}"))
    return results or [(Verdict.GO, shown)]


def _survives(source: Source, text: str) -> bool:
    """Whether the tokenizer gives the letters of an instruction back."""
    tokenizer = source.pipeline.tokenizer
    found = tokenizer.decode(tokenizer.encode(text, ()))
    return "".join(text.lower().split()) in "".join(found.lower().split())


def _check_samples(sources: Sequence[Source], seed: int, picture: Path) -> list[tuple[Verdict, str]]:
    sizes = [len(source) for source in sources]
    if not sum(sizes):
        shortest = min(source.shortest_episode for source in sources)
        return [(Verdict.NO_GO, f"no rows to train on (minimum {shortest} rows per episode); record longer episodes")]
    chosen = _turns(sources, NUM_SAMPLES)
    rng = np.random.default_rng(seed)
    drawn = [DrawnSample.of(source, int(rng.integers(len(source))), int(rng.integers(2**32))) for source in chosen]
    draw_samples(drawn, picture)
    targets = np.concatenate([sample.action[sample.action_mask] for sample in drawn])
    prompts = sorted({len(sample.ids) for sample in drawn})
    first = drawn[0]
    sides = sorted({f"{frame.shape[1]}x{frame.shape[0]}" for frame in first.frames})
    text = (
        f"{sum(sizes)} rows; of {len(drawn)} drawn to {picture}: {len(first.frames)} images of {', '.join(sides)}, "
        f"{' to '.join(map(str, (prompts[0], prompts[-1])) if len(prompts) > 1 else map(str, prompts))} tokens"
    )
    wild = float(np.mean(np.abs(targets) > USUAL_LEVEL)) if targets.size else 0.0
    if not np.isfinite(targets).all():
        return [(Verdict.NO_GO, f"{text}; targets are not finite; run gr00t_dataset stats")]
    if wild > 0.02:
        return [
            (Verdict.LOOK, f"{text}; {wild:.0%} of the scaled targets exceed {USUAL_LEVEL}: do the statistics fit?")
        ]
    return [(Verdict.GO, text)]


def _turns(sources: Sequence[Source], count: int) -> list[Source]:
    """Return `count` sources that have samples, each in turn."""
    return list(itertools.islice(itertools.cycle([source for source in sources if len(source)]), count))


def _validates(settings: TrainerSettings) -> bool:
    return bool(settings.validation_share or settings.validation_episodes)


def _check_validation(sources: Sequence[Source], settings: TrainerSettings) -> list[tuple[Verdict, str]]:
    trained, held_out = hold_out(
        sources, share=settings.validation_share, episodes=settings.validation_episodes, seed=settings.seed
    )
    chosen = [source.episodes() for source in held_out]
    rows = [sum(map(len, part)) for part in (held_out, trained)]
    text = (
        f"{sum(map(len, chosen))} episodes held out ({'; '.join(map(ranges_text, chosen))}): {rows[0]} rows, "
        f"{min(rows[0], settings.validation_samples)} are measured; {rows[1]} rows are trained on"
    )
    only = sorted(_tasks(held_out) - _tasks(trained))
    if only:
        return [(Verdict.LOOK, f"{text}; tasks that are not trained on: {_listed([repr(task) for task in only])}")]
    return [(Verdict.GO, text)]


def _tasks(sources: Sequence[Source]) -> set[str]:
    return {task for source in sources for index in source.episodes() for task in source.dataset.episode(index).tasks}


def _check_memory(
    checkpoint: Checkpoint, sources: Sequence[Source], settings: TrainerSettings
) -> list[tuple[Verdict, str]]:
    """Compare the estimate with the card; nothing on a CPU."""
    if not torch.cuda.is_available() or choose_device(settings.device).type != "cuda":
        return []
    rng = np.random.default_rng(settings.seed)
    sizes = [SampleSize.of(source.encode(0, rng), checkpoint.config) for source in sources if len(source)]
    if not sizes:
        return []  # the check of the samples says it
    estimate = estimate_memory(
        checkpoint.config,
        settings,
        max(sizes, key=lambda size: size.num_tokens),
        num_projectors=len({source.pipeline.projector for source in sources}),
        num_processes=torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
    )
    free, total = torch.cuda.mem_get_info()
    return [judge_memory(estimate, free / GIB, total / GIB)]


def judge_memory(estimate: MemoryEstimate, free_gib: float, total_gib: float) -> tuple[Verdict, str]:
    """Judge an estimate by the free memory of a card and all of it [GiB]."""
    needed, text = estimate.total_gib, f"{estimate}; {free_gib:.1f} of {total_gib:.1f} GiB are free"
    if needed > MEMORY_TOLERANCE * total_gib:
        return Verdict.NO_GO, f"{text}; {LESS_MEMORY}"
    if needed * MEMORY_TOLERANCE > free_gib:
        return Verdict.LOOK, f"{text}, which may not be enough; {LESS_MEMORY}"
    return Verdict.GO, text


def _check_disk(checkpoint: Checkpoint, settings: TrainerSettings, output: Path) -> list[tuple[Verdict, str]]:
    model = shape_model(checkpoint.config)
    adapters = choose_trained(model, settings)
    if adapters:
        model.action_head.keep_rows([0])  # the checkpoint has no others
    parameters = list(model.parameters())
    trained = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    weights = trained if adapters else sum(parameter.nbytes for parameter in parameters)
    needed = checkpoint_bytes(weights, trained, settings) + OTHER_BYTES
    free = shutil.disk_usage(output).free
    most = settings.keep_checkpoints + _validates(settings)  # the best one is kept, too
    kept = min(most, math.ceil(settings.max_steps / settings.save_steps))
    text = f"{size_text(needed)} per checkpoint, {kept} kept, {size_text(free)} free in {output}"
    if free < needed:
        return [(Verdict.NO_GO, f"{text}; make room or choose another --output")]
    if free < (kept + 1) * needed:  # the newest one is written before the oldest one goes
        return [(Verdict.LOOK, f"{text}: room for {free // needed}; lower --keep-checkpoints or make room")]
    return [(Verdict.GO, text)]


def _listed(items: Sequence[str], total: int | None = None) -> str:
    more = (len(items) if total is None else total) - min(len(items), _SHOWN)
    return "; ".join(items[:_SHOWN]) + (f"; {more} more" if more > 0 else "")
