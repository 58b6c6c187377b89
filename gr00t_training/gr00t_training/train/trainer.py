# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: AdamW, cosine schedule with warm-up, checkpoints from which a run continues bit-identical.

Step n depends only on the settings, the dataset and the contents of a checkpoint: weights, optimizer state, random
states, n. The recipe is that of the N1 release.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from gr00t_training.checkpoint import Checkpoint, save_checkpoint
from gr00t_training.checkpoint.card import make_card, write_card
from gr00t_training.checkpoint.files import TRAINING_DATA_FILE, TRAINING_RUN_FILE, write_json
from gr00t_training.checkpoint.training_data import TrainingData, read_training_data
from gr00t_training.checkpoint.training_run import read_training_run, starting_run, thinned
from gr00t_training.checkpoint.weight_files import count_not_finite
from gr00t_training.dataset.reader import EpisodeDataset
from gr00t_training.errors import CheckpointError, ConfigError, Gr00tError
from gr00t_training.io.cache_folder import open_feature_cache
from gr00t_training.io.files import copy_regular
from gr00t_training.io.processes import starting_workers
from gr00t_training.io.text import one_line
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.train.adapters import Base, choose_trained, find_base
from gr00t_training.train.best import name_best, write_validation
from gr00t_training.train.choices import check_parts, refuse_changes, setting_changes
from gr00t_training.train.conditioning import condition
from gr00t_training.train.data.feature_cache import FeatureCache, FeatureDataset, FeaturePlanner
from gr00t_training.train.data.fit import check_match
from gr00t_training.train.data.holdout import hold_out
from gr00t_training.train.data.loader import choose_workers, make_loader, prepare_workers
from gr00t_training.train.data.record import data_changes, record_data
from gr00t_training.train.data.samples import ImageChanges, StepDataset
from gr00t_training.train.data.selection import Selection, make_sources, select
from gr00t_training.train.data_settings import SourceSettings
from gr00t_training.train.device_images import DeviceImages
from gr00t_training.train.distributed import Processes
from gr00t_training.train.optimizer import load_optimizer, make_optimizer, schedule
from gr00t_training.train.planned_batch import BatchPlanner, PlannedBatch
from gr00t_training.train.run_folder import (
    RunState,
    check_room,
    checkpoint_bytes,
    remove_old,
    remove_unfinished,
    saved_settings,
    write_settings,
)
from gr00t_training.train.run_log import RunLog
from gr00t_training.train.run_names import LOG_FOLDER
from gr00t_training.train.settings import Quantization, Shuffle, TrainerSettings
from gr00t_training.train.sharding import like, local, read_optimizer, save_optimizer
from gr00t_training.train.step import GraphedStep, TrainStep, change_blocks
from gr00t_training.train.transfer import on_device
from gr00t_training.train.validation import Validation, ValidationResult
from gr00t_training.train.weights import TrainedWeights

logger = logging.getLogger(__name__)


class Trainer:
    """One training run."""

    def __init__(
        self,
        settings: TrainerSettings,
        data: EpisodeDataset | Sequence[Selection],
        checkpoint: Checkpoint,
        model: Gr00tModel,
        output_dir: Path,
        processes: Processes | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            settings: of the run.
            data: dataset to train on, or the chosen parts of several, each of an embodiment of the checkpoint.
            checkpoint: embodiments, statistics and configuration; saved with the weights.
            model: float32 weights to start from.
            output_dir: folder for `checkpoint-N` folders and TensorBoard logs.
            processes: that train together; None: this one alone.

        Raises:
            DatasetError: a dataset does not fit its embodiment.
            ConfigError: no such device, no part of the model trains, or an option does not fit the model.
        """
        if isinstance(data, EpisodeDataset):
            data = [select(data, checkpoint.embodiment, SourceSettings(dataset=str(data.path)))]
        for selection in data:
            check_match(selection.dataset, selection.embodiment)
        self._processes = processes or Processes()
        check_parts(settings, self._processes.size)
        self.settings = settings
        self.output_dir = output_dir
        self.device = self._processes.choose_device(settings.device)
        self.step = 0
        self.loss = math.nan  # of the last step
        self._data: TrainingData | None = None  # described at the first save
        self._run = starting_run(checkpoint.path)
        checkpoint = self._checkpoint = condition(settings, checkpoint, model)
        trained, self.held_out = hold_out(
            make_sources(data, checkpoint),
            share=settings.validation_share,
            episodes=settings.validation_episodes,
            seed=settings.seed,
        )
        changes = ImageChanges(settings.augment_images, settings.image_views)
        self._samples = StepDataset(trained, settings.seed, changes)
        if settings.frame_cache:
            self._samples.cache_frames(settings.frame_cache, settings.frame_cache_gib)
        workers = settings.num_workers
        self._num_workers = choose_workers(len(self._samples), self.device) if workers is None else workers
        if self._num_workers:
            prepare_workers()
        self._validation = self._make_validation()
        self.model = model
        if settings.lora_rank and checkpoint.path is None:
            raise ConfigError("lora_rank: adapters need a saved checkpoint, these weights are fresh; pass --base-model")
        self._adapters = choose_trained(self.model, settings)
        self._base: Base | None = None  # of the adapters, described at the first save
        self._autocast = torch.bfloat16 if self.device.type == "cuda" and settings.bf16 else None
        rows = sorted({source.pipeline.projector for source in self._samples.sources})
        self._weights = TrainedWeights(
            self.model,
            rows,
            self._autocast,
            # of whole weights, only the main process saves
            is_whole=self._adapters is None and (self._processes.is_main or settings.parallel == "fsdp"),
            quantizes=settings.quantize_base is Quantization.NF4,
        )
        self._change_blocks()
        self._exchange = self._processes.exchange(
            self.model, self.device, settings.seed, settings.parallel, self._autocast
        )
        self.model.to(self.device)
        self.optimizer = make_optimizer(self.model, settings)
        self._step = self._make_step()
        self._features = self._feature_cache() if settings.feature_cache else None
        torch.manual_seed(settings.seed)

    def train(self, stop_at: int | None = None, should_stop: Callable[[], bool] = lambda: False) -> Path:
        """Train up to the last step, or to `stop_at` in the middle of the same run.

        Args:
            stop_at: step to stop at; None: the last.
            should_stop: called after every step; if it is true, the run ends with a checkpoint of that step.

        Returns:
            The newest checkpoint.

        Raises:
            Gr00tError: loss or gradient is not finite; nothing of that step is saved.
            CheckpointError: a checkpoint cannot be written.
        """
        stop = min(stop_at or self.settings.max_steps, self.settings.max_steps)
        path = self.output_dir / f"checkpoint-{self.step}"
        self._check_same()
        self.model.train()
        if self._features:
            self._features.build(
                self.model,
                batch_size=self.settings.part_size,
                num_workers=self._num_workers,
                autocast=self._autocast,
            )
            self._processes.wait()
        is_main = self._processes.is_main
        if is_main:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.output_dir)
        with RunLog(self.output_dir / LOG_FOLDER, self.step, stop, self.settings, self.device, is_main=is_main) as log:
            for parts in log.timed(self._batches(stop)):
                factor = schedule(self.step, self.settings.max_steps, self.settings.warmup_ratio)
                self._step.set_learning_rate(self.settings.learning_rate * factor)
                if self._exchange:
                    self._exchange.start(self.step)
                found = self._step(parts)
                self.step += 1
                is_stopped = self._processes.any(should_stop())
                is_last = self.step == stop or is_stopped
                is_saved = is_last or self.step % self.settings.save_steps == 0
                # who stops a run waits for it to end
                is_due = not is_stopped and (is_saved or self.step % self.settings.validate_every == 0)
                is_logged = is_last or self.step % self.settings.log_every == 0
                # reading a value waits for the device
                if is_saved or is_due or is_logged or self.device.type == "cpu":
                    self._step.check(self.step)
                log.add(self.step, found, self.settings.learning_rate * factor, is_logged)
                validated = self._validate(log, should_stop) if is_due else None
                if is_saved:
                    path = self._save(validated, log.losses)
                if is_last:
                    self.loss = float(found[0])
                    break
        return path

    def _check_same(self) -> None:
        """Refuse processes that would train something else together."""
        if self._exchange is None:
            return
        facts = {"settings": repr(self.settings), "rows of the dataset": len(self._samples), "step": self.step}
        if not self._is_split:  # each process has other parts of split weights
            found = [x.detach().reshape(-1).view(torch.uint8) for x in self._weights.trained().values()]
            facts["weights"] = sum(int(x.sum(dtype=torch.int64)) for x in found)
        self._processes.check_same(facts)

    @property
    def samples(self) -> StepDataset:
        """What is trained on."""
        return self._samples

    def _make_validation(self) -> Validation | None:
        settings, checkpoint = self.settings, self._checkpoint
        if not self.held_out:
            return None
        return Validation(
            self.held_out,
            num_samples=settings.validation_samples,
            batch_size=settings.part_size,
            seed=settings.seed,
            denoising_steps=checkpoint.denoising_steps,
        )

    def _validate(self, log: RunLog, should_stop: Callable[[], bool]) -> ValidationResult | None:
        if self._validation is None:
            return None
        if not self._processes.is_main and not self._is_split:
            self._processes.wait()
            return None
        averages = list(zip(self._weights.trained().values(), self._step.averages, strict=False))
        with log.pause():
            result = self._validation.run(
                self.model,
                self.step,
                autocast=self._autocast,
                averages=averages,
                together=self._exchange.together if self._exchange else contextlib.nullcontext,
                # processes that validate together end together
                should_stop=(lambda: False) if self._is_split else should_stop,
            )
        if result:
            log.entry(self.step, result.figures())
            log.note(str(result))
        self._processes.wait()
        return result

    def checkpoint_bytes(self) -> int:
        """Return the size of the tensors of a checkpoint [bytes]."""
        trained = sum(x.nbytes for x in self._weights.trained().values())
        return checkpoint_bytes(self._weights.num_bytes, trained, self.settings)

    def resume(self, path: Path) -> None:
        """Continue the run that saved the checkpoint `path`; the model must hold its weights, without its adapters.

        Raises:
            CheckpointError: its trainer state is missing or damaged.
            ConfigError: settings or dataset are not those of that run; names each item.
        """
        state = RunState.read(path)
        items = setting_changes(saved_settings(path), self.settings)
        if state.num_samples != len(self._samples):
            items.append(f"rows of the dataset: found {state.num_samples}, expected {len(self._samples)}")
        items += data_changes(read_training_data(path), self._samples)
        refuse_changes(path, items)
        if self._adapters:
            self._adapters.read(path, self._checkpoint.family.names)
            self._step.restart_averages()
            self._base = find_base(self._checkpoint, path)
        try:
            if state.optimizer is None:
                read_optimizer(path, self.model, self.optimizer)
            else:
                load_optimizer(self.optimizer, state.optimizer)
            for name, weight in (state.trained or {}).items():
                parameter = self.model.get_parameter(name)
                parameter.data.copy_(like(weight, parameter))
            torch.set_rng_state(state.rng)
            if self.device.type == "cuda" and state.cuda_rng is not None:
                self._generator().set_state(state.cuda_rng)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: the state to resume from is damaged ({one_line(error)[:200]}); start a new run from it"
            ) from error
        self.step = state.step
        self._run = read_training_run(path) or self._run

    def _make_step(self) -> TrainStep:
        settings = self.settings
        is_graphed = settings.fits_graph and self.device.type == "cuda"
        return (GraphedStep if is_graphed else TrainStep)(
            self.model,
            self.optimizer,
            max_grad_norm=settings.max_grad_norm,
            autocast=self._autocast,
            ema_decay=settings.ema_decay,
            exchange=self._exchange,
            images=self._device_images(),
        )

    def _device_images(self) -> DeviceImages | None:
        """Let samples come with the bytes of their images, and return what makes pixels of them."""
        settings, samples = self.settings, self._samples
        if not settings.augment_on_gpu or settings.feature_cache:
            return None
        processor, are_augmented = samples.pipeline.inputs.images, settings.augment_images
        return DeviceImages(processor, samples.scale_on_device(), self.device, are_augmented=are_augmented)

    def _feature_cache(self) -> FeatureCache:
        settings = self.settings
        cache = open_feature_cache(settings.feature_cache, settings.feature_cache_gib)
        dtype = self._autocast or self.model.dtype
        return FeatureCache(cache, self._samples, self.model, dtype=dtype)

    def _change_blocks(self) -> None:
        settings = self.settings
        change_blocks(
            self.model,
            compiles=settings.compile_blocks and self.device.type == "cuda",
            recomputes=settings.checkpoint_activations,
            is_graphed=settings.fits_graph,
        )

    def _batches(self, stop: int) -> Iterator[list[PlannedBatch]]:
        """Yield the parts of each step's samples."""
        settings = self.settings
        samples, pipeline, config = self._samples, self._samples.pipeline, self.model.config
        planner: Any = BatchPlanner(pipeline, config, self.model.backbone.language.embed_tokens.weight.dtype)
        if self._features:
            samples, planner = (
                FeatureDataset(self._features),
                FeaturePlanner(pipeline, config),
            )
        loader = make_loader(
            samples,
            batch_size=settings.part_size,
            seed=settings.seed,
            start=self.step * settings.accumulate,
            stop=stop * settings.accumulate,
            num_workers=self._num_workers,
            # features are read at random
            shuffle=Shuffle.FULL if self._features and settings.shuffle is Shuffle.AUTO else settings.shuffle,
            collate=planner,
            pin_memory=self.device.type == "cuda",
            rank=self._processes.rank,
            size=self._processes.size,
        )
        with starting_workers():
            batches = iter(loader)
        steps = iter(lambda: list(itertools.islice(batches, settings.accumulate)), [])
        yield from on_device(steps, self.device)

    def _save(self, validated: ValidationResult | None, losses: Sequence[tuple[int, float]]) -> Path:
        """Save a checkpoint; the main process writes it, except what is split over all."""
        path = self.output_dir / f"checkpoint-{self.step}"
        self._check_weights()
        processes, trained = self._processes, self._weights.trained()
        averages = dict(zip(trained, self._step.averages, strict=False))
        weights = None if self._adapters else self._weights.whole(averages, processes.whole)
        trained = processes.whole(trained) if averages else None

        def add_files(folder: Path) -> None:
            self._add_state(folder, trained)
            if validated:
                write_validation(folder, validated)
            self._describe(folder, path, losses)

        if processes.is_main:
            check_room(self.output_dir, self.checkpoint_bytes())
            write = functools.partial(self._write_adapters, averages=averages) if self._adapters else None
            save_checkpoint(
                path, self._checkpoint, self.model, weights=weights, write_weights=write, add_files=add_files
            )
            best = name_best(self.output_dir)
            remove_old(self.output_dir, self.settings.keep_checkpoints, best.checkpoint if best else None)
        elif self._is_split:
            save_optimizer(processes.from_main(Path), self.model, self.optimizer)
        processes.wait()  # for the checkpoint
        return path

    def _describe(self, folder: Path, path: Path, losses: Sequence[tuple[int, float]]) -> None:
        """Write how the checkpoint was trained, and its model card; `path` is where the folder will be."""
        base = self._checkpoint.path
        for file in sorted(base.glob("LICENSE*")) if base else ():
            copy_regular(file, folder / file.name, CheckpointError)
        losses = thinned([*self._run.losses, *losses])
        write_json(
            folder / TRAINING_RUN_FILE, dataclasses.replace(self._run, step=self.step, losses=losses).to_mapping()
        )
        try:
            write_card(folder, make_card(folder, str(path)))
        except Gr00tError as error:  # no reason to lose the checkpoint
            logger.warning("%s: no model card: %s", path, error)

    def _write_adapters(self, folder: Path, averages: dict[str, torch.Tensor]) -> None:
        assert self._adapters
        self._base = self._base or find_base(self._checkpoint, None)
        self._adapters.write(folder, self._base, self._checkpoint.family.names, self._weights, averages)

    def _check_weights(self) -> None:
        """Refuse to save weights that are not finite: older checkpoints would be removed for them."""
        wrong = [name for name, weight in self._weights.trained().items() if count_not_finite(local(weight.detach()))]
        wrong = [name for names in self._processes.gather(wrong[:1]) for name in names]
        if wrong:
            raise Gr00tError(
                f"step {self.step}: {wrong[0]} is not finite and is not saved; lower learning_rate, then "
                "resume from the last checkpoint"
            )

    @property
    def _is_split(self) -> bool:
        return self._exchange is not None and self._exchange.is_split

    def _generator(self) -> torch.Generator:
        """Return the GPU's generator whose state continues the run."""
        shared = self._exchange.generator if self._exchange else None
        return shared or torch.cuda.default_generators[self.device.index or 0]

    def _add_state(self, folder: Path, trained: dict[str, torch.Tensor] | None) -> None:
        if self._is_split:
            save_optimizer(self._processes.from_main(lambda: folder), self.model, self.optimizer)
        RunState(
            step=self.step,
            num_samples=len(self._samples),
            optimizer=None if self._is_split else self.optimizer.state_dict(),
            rng=torch.get_rng_state(),
            cuda_rng=self._generator().get_state() if self.device.type == "cuda" else None,
            trained=trained,
        ).write(folder)
        write_settings(folder, self.settings)
        if self._data is None:
            path = self._checkpoint.path
            before = read_training_data(path) if path else None
            self._data = record_data(self._samples, before)
        write_json(folder / TRAINING_DATA_FILE, self._data.to_mapping())
