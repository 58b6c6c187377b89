# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on one device: AdamW, cosine schedule with warm-up, checkpoints that a run continues from bit by bit.

Everything that decides step n follows from the settings, the dataset and what a checkpoint holds: weights, optimizer
state, random states, n. The recipe is that of the N1 release.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm

from gr00t_training.checkpoint import Checkpoint, save_checkpoint
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.errors import CheckpointError, ConfigError, Gr00tError
from gr00t_training.loader import StepDataset, check_match, make_loader
from gr00t_training.model.gr00t import Gr00tModel, to_device
from gr00t_training.policy import choose_device
from gr00t_training.settings import setting

STATE_FILE = "trainer_state.pt"
SETTINGS_FILE = "trainer_settings.json"
LOG_FOLDER = "logs"
EPSILON = 1e-8  # of AdamW

# A resumed run with another value of these would not be the same run: other data order, other optimizer groups.
_FIXED_SETTINGS = (
    "batch_size",
    "seed",
    "tune_llm",
    "tune_visual",
    "tune_projector",
    "tune_diffusion_model",
    "tune_vlln",
    "tune_top_llm_layers",
)


@dataclass(frozen=True)
class TrainerSettings:
    """How a model is fine-tuned."""

    max_steps: int = setting(10_000, "Optimizer steps of the whole run.", ge=1)
    batch_size: int = setting(16, "Samples per step.", ge=1)
    learning_rate: float = setting(1e-4, "Highest learning rate, reached after the warm-up.", ge=0)
    weight_decay: float = setting(1e-5, "AdamW's weight decay; norms and biases have none.", ge=0)
    warmup_ratio: float = setting(0.05, "Share of the steps in which the learning rate rises.", ge=0, le=1)
    beta1: float = setting(0.95, "AdamW's decay of the gradient's mean.", ge=0, le=1)
    beta2: float = setting(0.999, "AdamW's decay of the gradient's square.", ge=0, le=1)
    max_grad_norm: float = setting(1.0, "Norm to which gradients are clipped.", ge=0)
    save_steps: int = setting(500, "Steps between checkpoints; the last step always gets one.", ge=1)
    keep_checkpoints: int = setting(8, "Number of newest checkpoints that are kept.", ge=1)
    log_every: int = setting(10, "Steps between entries of the log.", ge=1)
    seed: int = setting(42, "Seed of weights, data order, augmentation and noise.", ge=0)
    device: str = setting("auto", "auto, cpu or cuda; auto takes a GPU if there is one.")
    bf16: bool = setting(True, "Compute in bfloat16 on a GPU; weights stay float32.")
    num_workers: int = setting(0, "Processes that decode video beside the trainer; 0: none.", ge=0, le=64)
    tune_llm: bool = setting(False, "Train the language model.")
    tune_visual: bool = setting(True, "Train the vision tower and its connector.")
    tune_projector: bool = setting(True, "Train the embodiment's encoders and decoder.")
    tune_diffusion_model: bool = setting(True, "Train the diffusion transformer.")
    tune_vlln: bool = setting(True, "Train norm and self attention of the backbone's features (N1.5 to N1.7).")
    tune_top_llm_layers: int = setting(0, "Train so many of the last language layers in any case.", ge=0)


class Trainer:
    """One training run."""

    def __init__(
        self,
        settings: TrainerSettings,
        dataset: LeRobotDataset,
        checkpoint: Checkpoint,
        model: Gr00tModel,
        output_dir: Path,
    ) -> None:
        """Prepare a run.

        Args:
            settings: of the run.
            dataset: to train on.
            checkpoint: embodiment, statistics and configuration; saved with the weights.
            model: float32 weights to start from.
            output_dir: gets `checkpoint-N` folders and TensorBoard logs.

        Raises:
            DatasetError: the dataset does not fit the embodiment.
            ConfigError: no such device, or nothing is left to train.
        """
        check_match(dataset, checkpoint.embodiment)
        self.settings = settings
        self.output_dir = output_dir
        self.device = choose_device(settings.device)
        self.step = 0
        self._checkpoint = checkpoint
        self._samples = StepDataset(dataset, checkpoint.pipeline(), settings.seed)
        self.model = model.to(self.device)
        self.model.set_trainable(
            tune_llm=settings.tune_llm,
            tune_visual=settings.tune_visual,
            tune_projector=settings.tune_projector,
            tune_diffusion_model=settings.tune_diffusion_model,
            tune_vlln=settings.tune_vlln,
            tune_top_llm_layers=settings.tune_top_llm_layers,
        )
        self.optimizer = make_optimizer(self.model, settings)
        torch.manual_seed(settings.seed)

    def train(self, stop_at: int | None = None) -> Path:
        """Train up to the last step, or to `stop_at` in the middle of the same run.

        Returns:
            The newest checkpoint.

        Raises:
            Gr00tError: loss or gradient is not finite any more; nothing of that step is saved.
            CheckpointError: a checkpoint cannot be written.
        """
        stop = min(stop_at or self.settings.max_steps, self.settings.max_steps)
        path = self.output_dir / f"checkpoint-{self.step}"
        self.model.train()
        with _RunLog(self.output_dir / LOG_FOLDER, self.step, stop, self.settings) as log:
            for batch in self._batches(stop):
                loss, grad_norm = self._update(batch)
                self.step += 1
                log.add(self.step, loss, grad_norm, self.optimizer.param_groups[0]["lr"])
                if self.step % self.settings.save_steps == 0 or self.step == stop:
                    path = self._save()
        return path

    def resume(self, path: Path) -> None:
        """Continue the run that saved the checkpoint `path`; the model must hold its weights.

        Raises:
            CheckpointError: it holds no state of a trainer, or a damaged one.
            ConfigError: settings or dataset are not those of that run; names each item.
        """
        try:
            state = torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises anything on a damaged file
            raise CheckpointError(f"{path}: no state to resume from ({error}); start anew from it") from error
        found, expected = saved_settings(path), dataclasses.asdict(self.settings)
        items = [
            f"{name}: found {found.get(name)}, expected {expected[name]}"
            for name in _FIXED_SETTINGS
            if found.get(name) != expected[name]
        ]
        if state["num_samples"] != len(self._samples):
            items.append(f"rows of the dataset: found {state['num_samples']}, expected {len(self._samples)}")
        if items:
            raise ConfigError(f"{path}: is of another run: {'; '.join(items)}; resume with its settings, or start anew")
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _batches(self, stop: int) -> Iterator[dict[str, Tensor]]:
        loader = make_loader(
            self._samples,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            start=self.step,
            stop=stop,
            num_workers=self.settings.num_workers,
        )
        for batch in loader:
            yield to_device(batch, self.device)

    def _update(self, batch: dict[str, Tensor]) -> tuple[float, float]:
        """Make one optimizer step; return loss and gradient norm before clipping."""
        settings = self.settings
        factor = schedule(self.step, settings.max_steps, settings.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        with self._autocast():
            loss = self.model.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._trained_parameters(), settings.max_grad_norm)
        for name, value in (("loss", loss.item()), ("gradient norm", norm.item())):
            if not math.isfinite(value):
                raise Gr00tError(
                    f"step {self.step + 1}: {name} is {value}; lower learning_rate or check the dataset with "
                    "gr00t_validate_dataset, then resume from the last checkpoint"
                )
        self.optimizer.step()
        return loss.item(), norm.item()

    def _trained_parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.device.type == "cuda" and self.settings.bf16:
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _save(self) -> Path:
        path = self.output_dir / f"checkpoint-{self.step}"
        save_checkpoint(path, self._checkpoint, self.model, add_files=self._add_state)
        for old in saved_checkpoints(self.output_dir)[: -self.settings.keep_checkpoints]:
            # a folder that is called checkpoint-N is whole, also while it goes
            doomed = old.with_name(f".{old.name}.removed")
            os.replace(old, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        return path

    def _add_state(self, folder: Path) -> None:
        state = {
            "step": self.step,
            "num_samples": len(self._samples),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        torch.save(state, folder / STATE_FILE)
        text = json.dumps(dataclasses.asdict(self.settings), indent=2) + "\n"
        (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")


def saved_settings(path: Path) -> dict[str, Any]:
    """Return the trainer settings that a checkpoint was made with.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    try:
        found = json.loads((path / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no settings to resume with ({error}); start anew from it") from error
    known = {field.name for field in dataclasses.fields(TrainerSettings)}
    return {name: value for name, value in found.items() if name in known}


def make_optimizer(model: Gr00tModel, settings: TrainerSettings) -> torch.optim.AdamW:
    """Return AdamW over the parameters that train: decayed ones, then those that weight decay spares.

    Raises:
        ConfigError: nothing trains.
    """
    spared = model.undecayed_names()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ConfigError("no part of the model is trained; switch on one of the tune options")
    groups = [
        {"params": [p for name, p in trained.items() if name not in spared], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in trained.items() if name in spared], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=EPSILON)


def schedule(step: int, max_steps: int, warmup_ratio: float) -> float:
    """Return the share of the learning rate at `step`: a line up from zero, then half a cosine down to zero."""
    warmup = math.ceil(max_steps * warmup_ratio)
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, max_steps - warmup)))


def saved_checkpoints(output_dir: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


class _RunLog:
    """Progress bar and TensorBoard log of a run."""

    def __init__(self, folder: Path, start: int, stop: int, settings: TrainerSettings) -> None:
        self._settings = settings
        self._board = SummaryWriter(str(folder), purge_step=start + 1)
        self._bar = tqdm(total=stop, initial=start, unit="step", dynamic_ncols=True)
        self._losses: list[float] = []
        self._since_s = time.perf_counter()

    def add(self, step: int, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Take in one step; every `log_every` steps write an entry."""
        self._losses.append(loss)
        self._bar.update()
        if step % self._settings.log_every and step != self._bar.total:
            return
        now_s = time.perf_counter()
        rate_hz = len(self._losses) * self._settings.batch_size / (now_s - self._since_s)
        mean_loss = sum(self._losses) / len(self._losses)
        entries: dict[str, Any] = {
            "loss": mean_loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "samples_per_s": rate_hz,
        }
        for name, value in entries.items():
            self._board.add_scalar(f"train/{name}", value, step)
        self._bar.set_postfix_str(f"loss {mean_loss:.4f}, {rate_hz:.1f} samples/s")
        self._losses.clear()
        self._since_s = now_s

    def __enter__(self) -> _RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._board.close()
