# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a model on a dataset: prepare a run, or continue one, and train it.

`finetune` does both at once. A caller that shows the run before it starts, or checks it, calls `prepare_finetuning`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gr00t_training.checkpoint import Checkpoint, load_checkpoint, load_model, new_checkpoint
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.reading import load_to_fine_tune
from gr00t_training.errors import ConfigError
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.policy.device import explained_memory
from gr00t_training.train.best import Best, best_checkpoint
from gr00t_training.train.choices import check_choices, refuse_changes, setting_changes
from gr00t_training.train.data.choice import choose_data, trained_embodiments
from gr00t_training.train.data.selection import Selection, make_sources
from gr00t_training.train.distributed import Processes, join
from gr00t_training.train.output import make_folder
from gr00t_training.train.preflight import LONG_FRAMES, Preflight, check_run
from gr00t_training.train.run_folder import RunLock, saved_checkpoints, saved_settings
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings
from gr00t_training.train.trackers import check_trackers
from gr00t_training.train.trainer import Trainer

logger = logging.getLogger(__name__)

_LESS_MEMORY = "lower --batch-size, train fewer parts or a smaller --variant"


@dataclass(frozen=True)
class FinetuneResult:
    """How a run ended."""

    checkpoint: Path  # newest one
    step: int  # optimizer steps that are done
    loss: float  # of the last step; NaN if none was made
    is_complete: bool  # False: it was stopped before the last step
    best: Best | None = None  # checkpoint of the lowest validation loss; None: none was validated


@dataclass(frozen=True)
class FinetuneRun:
    """A run that is ready to train."""

    data: tuple[Selection, ...]  # datasets, and what of each is trained on
    checkpoint: Checkpoint  # what is trained: embodiments, statistics, configuration
    trainer: Trainer
    lock: contextlib.AbstractContextManager[object]  # on the folder of the run
    start: int  # optimizer steps that were done before

    @property
    def has_progress(self) -> bool:
        """Whether there are steps that a checkpoint can save."""
        return self.trainer.step > self.start

    def train(self, should_stop: Callable[[], bool] = lambda: False) -> FinetuneResult:
        """Train to the last step.

        Args:
            should_stop: called after every step; if it is true, the run ends with a checkpoint of that step.

        Raises:
            Gr00tError: loss, gradient or weights are not finite, out of memory, or a checkpoint cannot be written.
        """
        with self.lock, explained_memory(_LESS_MEMORY):
            path = self.trainer.train(should_stop=should_stop)
        step = self.trainer.step
        is_complete = step >= self.trainer.settings.max_steps
        return FinetuneResult(path, step, self.trainer.loss, is_complete, best_checkpoint(self.trainer.output_dir))


def finetune(settings: FinetuneSettings, should_stop: Callable[[], bool] = lambda: False) -> FinetuneResult:
    """Fine-tune a model on a dataset, or continue a run.

    Args:
        settings: model, dataset, output folder and how to train.
        should_stop: called after every step; if it is true, the run ends with a checkpoint of that step.

    Raises:
        Gr00tError: settings, dataset and model do not fit each other, or training failed; says what to change.
    """
    return prepare_finetuning(settings).train(should_stop)


def prepare_finetuning(settings: FinetuneSettings) -> FinetuneRun:
    """Check the settings, open the datasets and load the model; nothing is trained yet.

    Under `torchrun` or `accelerate launch` all processes call it, and train together.

    Raises:
        Gr00tError: settings, dataset and model do not fit each other; says what to change.
    """
    processes = join()
    output = Path(settings.output)
    resumed = processes.from_main(lambda: newest_checkpoint(output))
    if resumed and not settings.resume:
        raise ConfigError(f"{output}: has {resumed.name} already; pass --resume or another --output")
    how = settings.trainer or starting_trainer(settings)
    check_trackers(how.report_to)
    processes.choose_device(how.device)  # a wrong name fails at once
    if resumed:
        before = saved_settings(resumed)
        refuse_changes(resumed, setting_changes(before, how))
        _log_changes(before, how)
    data, checkpoint = _opened(settings, resumed, processes)
    sources = make_sources(data, checkpoint)
    check_choices(how, checkpoint, sources, processes.size)
    make_folder(output)
    lock = RunLock(output) if processes.is_main else contextlib.nullcontext()
    if settings.preflight and not resumed and processes.is_main:
        report = check_run(checkpoint, sources, how, output)
        logger.info("%s", report.short())
        report.refuse_no_go()
    with explained_memory(_LESS_MEMORY):
        model = _model(checkpoint, how.seed, merges_adapter=not (resumed and how.lora_rank))
        trainer = Trainer(how, data, checkpoint, model, output, processes)
        if resumed:
            trainer.resume(resumed)
            logger.info("resuming %s at step %d", resumed, trainer.step)
        elif settings.resume:
            logger.info("%s has no checkpoint yet, starting a new run", output)
    return FinetuneRun(tuple(data), checkpoint, trainer, lock, trainer.step)


def check_finetuning(settings: FinetuneSettings, *, jobs: int = 1) -> Preflight:
    """Check thoroughly what a run would train on and with; reads no weights, and writes a picture into the output.

    Args:
        settings: of the run.
        jobs: processes that check files.

    Raises:
        Gr00tError: the run cannot even be prepared; says what to change.
    """
    output = Path(settings.output)
    resumed = newest_checkpoint(output) if settings.resume else None
    how = settings.trainer or starting_trainer(settings)
    check_trackers(how.report_to)
    processes = Processes()
    processes.choose_device(how.device)
    data, checkpoint = _opened(settings, resumed, processes)
    sources = make_sources(data, checkpoint)
    check_choices(how, checkpoint, sources)
    make_folder(output)
    return check_run(checkpoint, sources, how, output, max_frames=LONG_FRAMES, jobs=jobs)


def starting_trainer(settings: FinetuneSettings) -> TrainerSettings:
    """Return the trainer settings of a run where none are given.

    They are those of the run that is resumed, or the defaults; fresh weights train the language model too, because a
    frozen part would stay noise.

    Raises:
        CheckpointError: the settings of the run that is resumed are missing or damaged.
    """
    resumed = newest_checkpoint(Path(settings.output)) if settings.resume else None
    return saved_settings(resumed) if resumed else TrainerSettings(tune_llm=settings.variant is not None)


def newest_checkpoint(output_dir: Path) -> Path | None:
    """Return the last checkpoint of a run; None if there is none."""
    return next(reversed(saved_checkpoints(output_dir)), None)


def _opened(
    settings: FinetuneSettings, resumed: Path | None, processes: Processes
) -> tuple[list[Selection], Checkpoint]:
    """Open the datasets and describe the model that trains on them."""
    data = choose_data(settings, resumed)
    if not resumed:
        return data, _new(settings, data, processes)
    for selection in data[1:]:
        load_checkpoint(resumed, embodiment=selection.embodiment)  # for its errors
    return data, load_checkpoint(resumed, embodiment=data[0].embodiment)


def _log_changes(before: TrainerSettings, after: TrainerSettings) -> None:
    found, chosen = dataclasses.asdict(before), dataclasses.asdict(after)
    for name in found:
        if found[name] != chosen[name]:
            logger.info("%s %s -> %s", name, found[name], chosen[name])


def _new(settings: FinetuneSettings, data: Sequence[Selection], processes: Processes) -> Checkpoint:
    """Describe the model that a new run starts from."""
    base = settings.base_model
    if not base and not settings.variant:
        raise ConfigError("no model to train: pass --base-model (a checkpoint) or --variant (fresh weights)")
    if base:
        find_folder(base)  # a wrong path fails before the statistics are computed
    trained = processes.from_main(lambda: trained_embodiments(data, base, settings.statistics))
    if base:
        return load_to_fine_tune(base, trained, tokenizer=settings.tokenizer)
    return new_checkpoint(settings.variant or "", *trained[0], tokenizer=settings.tokenizer, others=trained[1:])


def _model(checkpoint: Checkpoint, seed: int, *, merges_adapter: bool) -> Gr00tModel:
    """Load the weights; `seed` is that of weights that are new."""
    torch.manual_seed(seed)
    if not checkpoint.path:
        return Gr00tModel(checkpoint.config)
    return load_model(checkpoint, merges_adapter=merges_adapter)
