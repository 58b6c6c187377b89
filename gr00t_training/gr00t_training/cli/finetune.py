# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_finetune`: train a GR00T model on LeRobot datasets, on one device or several (see torchrun)."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from gr00t_training.cli.arguments import num_cores
from gr00t_training.cli.command import StopRequest, run_command, shown_name
from gr00t_training.cli.parser import CommandParser
from gr00t_training.dataset.episode_ranges import ranges_text
from gr00t_training.embodiment import Embodiment
from gr00t_training.model.families import variants
from gr00t_training.settings import add_arguments, from_arguments
from gr00t_training.train.data.selection import Selection
from gr00t_training.train.distributed import PARALLEL, end_launched, is_launched, run_launched
from gr00t_training.train.finetune import FinetuneRun, check_finetuning, prepare_finetuning, starting_trainer
from gr00t_training.train.recipes import read_recipe, recipe_text, recipes
from gr00t_training.train.settings import SECTIONS, FinetuneSettings, TrainerSettings
from gr00t_training.types import KeyKind

NAME = "gr00t_finetune"
_INTERRUPTED = "interrupted before the first step was done; nothing new was saved"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; return 0 or the code of `run_command`.

    A signal saves a checkpoint first. Then Ctrl-C ends with 130; SIGTERM and SIGUSR1, with which a cluster takes a
    machine back, end with 0.
    """
    if not is_launched():
        return run_command(NAME, lambda: _run(arguments), interrupted=_INTERRUPTED)
    try:
        code = run_command(NAME, lambda: run_launched(lambda: _run(arguments)), interrupted=_INTERRUPTED)
    except SystemExit as error:  # of the parser, or because another process failed
        code = error.code if isinstance(error.code, int) else 0
    return end_launched(code)


def _run(arguments: Sequence[str] | None) -> int:
    settings, options = _parse(arguments)
    if options.print_config:
        print(recipe_text(settings, settings.trainer or TrainerSettings()), end="")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.check:
        report = check_finetuning(settings, jobs=num_cores())
        print(report)
        report.refuse_no_go()
        return 0
    run: FinetuneRun | None = None
    notice = f"{shown_name(NAME)}: saving a checkpoint after this step; press Ctrl-C again to end at once"
    if is_launched():
        notice = ""  # the launcher also stops processes because another one failed
    with StopRequest(notice, lambda: run is not None and run.has_progress) as stop:
        run = prepare_finetuning(settings)
        print(_describe(run), flush=True)
        result = run.train(should_stop=lambda: bool(stop))
    print(f"saved {result.checkpoint}", flush=True)
    if result.best:
        print(f"best {result.best.checkpoint} (validation loss {result.best.loss:.4f})", flush=True)
    if result.is_complete:
        return 0
    print(f"{shown_name(NAME)}: interrupted at {result.checkpoint.name}; --resume continues from it", file=sys.stderr)
    return stop.exit_code


def _parse(arguments: Sequence[str] | None) -> tuple[FinetuneSettings, argparse.Namespace]:
    """Return the settings, and the options that are none."""
    parser = CommandParser(NAME, description=__doc__)
    add_arguments(parser, FinetuneSettings, choices={"variant": list(variants())})
    parser.add_old_spelling("--dataset-path", "--dataset")
    for name in ("--output-dir", "-o"):
        parser.add_old_spelling(name, "--output")
    parser.add_old_spelling("--base-model-path", "--base-model")
    parser.add_argument(
        "--recipe", metavar="RECIPE", help=f"Settings for a kind of machine: {', '.join(recipes())}, or a YAML file."
    )
    parser.add_argument("--print-config", action="store_true", help="Print all settings as a recipe, and end.")
    text = "Check dataset, embodiment, statistics, prompts and disk, draw some samples, and end; trains nothing."
    parser.add_argument("--check", action="store_true", help=text)
    add_arguments(parser, TrainerSettings, choices={"parallel": PARALLEL}, sections=SECTIONS)
    options = parser.parse_args(arguments)
    recipe = read_recipe(options.recipe) if options.recipe else {}
    settings = from_arguments(FinetuneSettings, options, given=recipe)
    trainer = from_arguments(TrainerSettings, options, base=starting_trainer(settings), given=recipe)
    return from_arguments(FinetuneSettings, options, given={**recipe, "trainer": trainer}), options


def _describe(run: FinetuneRun) -> str:
    trainer = run.trainer
    parameters = list(trainer.model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    sources, shares = trainer.samples.sources, trainer.samples.mixture.shares
    held_out = [(source.episodes(), len(source)) for source in trainer.held_out]
    counts = [len(source) for source in sources]
    counts = [count + rows for count, (_, rows) in zip(counts, held_out, strict=True)] if held_out else counts
    datasets = [_dataset(*each) for each in zip(run.data, counts, shares, strict=True)]
    validated = [
        f"validation  {len(episodes)} episodes ({ranges_text(episodes)}), {rows} rows held out\n"
        for episodes, rows in held_out
    ]
    embodiments = [_embodiment(trained.embodiment) for trained in run.checkpoint.trained]
    return (
        "".join(datasets + validated + embodiments)
        + f"model       {sum(p.numel() for p in parameters) / 1e6:.1f} M parameters, {trained / 1e6:.1f} M train, "
        f"on {trainer.device}\n"
        f"steps       {trainer.step} to {trainer.settings.max_steps} of {trainer.settings.batch_size} samples"
    )


def _dataset(selection: Selection, num_samples: int, share: float) -> str:
    """Return the line of a dataset; one that is trained on as a whole, alone, needs no share and no path."""
    dataset, left_out = selection.dataset, list(map(str, selection.left_out))
    late = sum(stretch.count for stretch in selection.stretches) - num_samples
    if late:
        left_out.append(f"{late} rows at the ends of episodes, that start no whole chunk")
    name = "" if share == 1 else f"{selection.settings.dataset}: {share:.1%} of the samples, "
    episodes = _of_all(len(selection.episodes), len(dataset.episodes))
    rows = f"{_of_all(num_samples, dataset.num_frames)} rows"
    weight, by_person = selection.settings.intervention_weight, ""
    if weight > 1:
        rows = f"{num_samples} samples of {dataset.num_frames} rows"
    if selection.num_corrected is not None:
        by_person = f", {selection.num_corrected} rows by a person" + (f", {weight} times each" if weight > 1 else "")
    why = f"; left out: {', '.join(left_out)}" if left_out else ""
    return f"dataset     {name}{episodes} episodes, {rows} at {dataset.fps:g} Hz{by_person}{why}\n"


def _of_all(chosen: int, number: int) -> str:
    return f"{chosen}" if chosen == number else f"{chosen} of {number}"


def _embodiment(embodiment: Embodiment) -> str:
    cameras = [(key, embodiment.video[key]) for key in embodiment.video_keys]
    return (
        f"embodiment  {embodiment.name} ({embodiment.fingerprint()}), projector tag {embodiment.tag}\n"
        f"state       {_widths(embodiment, KeyKind.STATE)}\n"
        f"action      {_widths(embodiment, KeyKind.ACTION)}, horizon {embodiment.action_horizon}\n"
        f"video       {', '.join(f'{key} {size.width}x{size.height}' for key, size in cameras)}\n"
    )


def _widths(embodiment: Embodiment, kind: KeyKind) -> str:
    return ", ".join(f"{key} {embodiment.vectors(kind)[key].dim}" for key in embodiment.used(kind))


if __name__ == "__main__":
    raise SystemExit(main())
