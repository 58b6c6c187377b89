# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_finetune`: train a GR00T model on a LeRobot v2.x dataset, on one device."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gr00t_training.checkpoint import Checkpoint, load_checkpoint, load_model, new_checkpoint
from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.embodiment import Embodiment, VideoKey, load_embodiment
from gr00t_training.errors import ConfigError, Gr00tError
from gr00t_training.loader import check_match, dataset_statistics
from gr00t_training.model.config import VARIANTS
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.settings import add_arguments, from_arguments
from gr00t_training.trainer import Trainer, TrainerSettings, saved_checkpoints, saved_settings

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; return 0, or 2 after an error on one line."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        path = finetune(options)
    except Gr00tError as error:
        print(f"gr00t_finetune: error: {error}", file=sys.stderr)
        return 2
    except torch.cuda.OutOfMemoryError as error:
        print(f"gr00t_finetune: error: {str(error).splitlines()[0]} Lower --batch-size.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gr00t_finetune: interrupted; --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    print(f"saved {path}")
    return 0


def finetune(options: argparse.Namespace) -> Path:
    """Run the training that the command line asks for; return the last checkpoint.

    Raises:
        Gr00tError: options, dataset and model do not fit each other, or training failed.
    """
    saved = saved_checkpoints(options.output_dir)
    if saved and not options.resume:
        raise ConfigError(f"{options.output_dir}: has {saved[-1].name} already; pass --resume or another --output-dir")
    settings = from_arguments(TrainerSettings, _with_defaults(options, saved[-1] if saved else None))
    dataset = LeRobotDataset(options.dataset_path)
    embodiment = _embodiment(options, dataset)
    check_match(dataset, embodiment)
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{options.output_dir}: cannot be made ({error.strerror}); choose another folder") from error
    resumed = saved[-1] if saved else None
    checkpoint, model = _resume(resumed, embodiment) if resumed else _start(options, settings, dataset, embodiment)
    trainer = Trainer(settings, dataset, checkpoint, model, options.output_dir)
    if resumed:
        trainer.resume(resumed)
        logger.info("resuming %s at step %d", resumed, trainer.step)
    elif options.resume:
        logger.info("%s holds no checkpoint yet, starting anew", options.output_dir)
    _print_sizes(trainer, dataset, embodiment)
    return trainer.train()


def _with_defaults(options: argparse.Namespace, resumed: Path | None) -> argparse.Namespace:
    """Fill in trainer settings that the command line leaves open: those of the run that goes on, if there is one."""
    defaults = saved_settings(resumed) if resumed else {}
    if options.variant and not resumed:
        defaults["tune_llm"] = True  # fresh weights: a frozen part would stay noise
    return argparse.Namespace(**{**defaults, **vars(options)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gr00t_finetune", description=__doc__)
    parser.add_argument("--dataset-path", type=Path, required=True, help="Folder of the dataset.")
    parser.add_argument("--output-dir", type=Path, required=True, help="Gets checkpoints and TensorBoard logs.")
    parser.add_argument(
        "--embodiment", help="Name of a shipped embodiment or its file (default: the one stored in the dataset)."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--base-model-path", type=Path, help="Folder of the checkpoint to start from.")
    source.add_argument(
        "--variant",
        choices=list(VARIANTS),
        help="Start from fresh weights of this size; the language model trains too.",
    )
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, for a model that has none.")
    parser.add_argument("--resume", action="store_true", help="Continue from the last checkpoint of --output-dir.")
    add_arguments(parser, TrainerSettings)
    return parser


def _embodiment(options: argparse.Namespace, dataset: LeRobotDataset) -> Embodiment:
    if options.embodiment:
        return load_embodiment(options.embodiment)
    if dataset.embodiment is None:
        raise ConfigError(f"{dataset.path}: holds no embodiment (another tool wrote it); pass --embodiment")
    return dataset.embodiment


def _start(
    options: argparse.Namespace, settings: TrainerSettings, dataset: LeRobotDataset, embodiment: Embodiment
) -> tuple[Checkpoint, Gr00tModel]:
    statistics = dataset_statistics(dataset, embodiment)
    if options.base_model_path:
        checkpoint = load_checkpoint(
            options.base_model_path, embodiment=embodiment, statistics=statistics, tokenizer=options.tokenizer
        )
        return checkpoint, load_model(checkpoint)
    if not options.variant:
        raise ConfigError("nothing to train: pass --base-model-path (a checkpoint) or --variant (fresh weights)")
    checkpoint = new_checkpoint(options.variant, embodiment, statistics, tokenizer=options.tokenizer)
    torch.manual_seed(settings.seed)
    return checkpoint, Gr00tModel(checkpoint.config)


def _resume(path: Path, embodiment: Embodiment) -> tuple[Checkpoint, Gr00tModel]:
    checkpoint = load_checkpoint(path, embodiment=embodiment)
    return checkpoint, load_model(checkpoint)


def _print_sizes(trainer: Trainer, dataset: LeRobotDataset, embodiment: Embodiment) -> None:
    parameters = list(trainer.model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    print(
        f"dataset     {len(dataset.episodes)} episodes, {dataset.num_frames} rows at {dataset.fps:g} Hz\n"
        f"embodiment  {embodiment.name} ({embodiment.fingerprint()}), projector tag {embodiment.tag}\n"
        f"state       {_widths(embodiment, 'state')}\n"
        f"action      {_widths(embodiment, 'action')}, horizon {embodiment.action_horizon}\n"
        f"video       {', '.join(f'{key} {size.width}x{size.height}' for key, size in _cameras(embodiment))}\n"
        f"model       {sum(p.numel() for p in parameters) / 1e6:.1f} M parameters, {trained / 1e6:.1f} M train, "
        f"on {trainer.device}\n"
        f"steps       {trainer.step} to {trainer.settings.max_steps} of {trainer.settings.batch_size} samples",
        flush=True,
    )


def _widths(embodiment: Embodiment, kind: str) -> str:
    declared = getattr(embodiment, kind)
    return ", ".join(f"{key} {declared[key].dim}" for key in getattr(embodiment, f"{kind}_keys"))


def _cameras(embodiment: Embodiment) -> list[tuple[str, VideoKey]]:
    return [(key, embodiment.video[key]) for key in embodiment.video_keys]


if __name__ == "__main__":
    raise SystemExit(main())
