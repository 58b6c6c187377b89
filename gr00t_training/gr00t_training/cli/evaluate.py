# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_evaluate`: compare a checkpoint's actions with recorded ones; prints a table, draws plots."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gr00t_training.dataset.reader import LeRobotDataset
from gr00t_training.embodiment import load_embodiment
from gr00t_training.errors import ConfigError, Gr00tError
from gr00t_training.evaluate import EpisodeEvaluation, evaluate_episode, format_table, make_report, plot_evaluation
from gr00t_training.loader import check_match
from gr00t_training.policy import Policy


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; return 0, or 2 after an error on one line."""
    options = _parser().parse_args(arguments)
    try:
        evaluate(options)
    except Gr00tError as error:
        print(f"gr00t_evaluate: error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(options: argparse.Namespace) -> None:
    """Run the evaluation that the command line asks for.

    Raises:
        Gr00tError: options, dataset and checkpoint do not fit each other.
    """
    dataset = LeRobotDataset(options.dataset_path)
    embodiment = load_embodiment(options.embodiment) if options.embodiment else None
    policy = Policy.from_checkpoint(
        options.checkpoint_path,
        embodiment=embodiment,
        device=options.device,
        denoising_steps=options.denoising_steps,
        seed=options.seed,
        tokenizer=options.tokenizer,
    )
    check_match(dataset, policy.embodiment)
    evaluations = []
    for episode in options.episodes:
        policy.reset()  # an episode's numbers do not depend on those before it
        evaluations.append(
            evaluate_episode(
                policy,
                dataset,
                episode,
                steps=_steps(options, dataset, episode),
                horizon=options.action_horizon,
                keys=options.modality_keys,
            )
        )
    report = make_report(evaluations, policy.embodiment)
    print(format_table(report))
    if options.output_dir:
        _write(options.output_dir, evaluations, report, policy)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gr00t_evaluate", description=__doc__)
    parser.add_argument("--checkpoint-path", type=Path, required=True, help="Folder of the checkpoint.")
    parser.add_argument("--dataset-path", type=Path, required=True, help="Folder of the dataset.")
    parser.add_argument("--embodiment", help="Embodiment, for a checkpoint that holds none.")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, for a checkpoint that has none.")
    parser.add_argument("--episodes", type=int, nargs="+", default=[0], help="Episodes to compare (default: 0).")
    parser.add_argument("--steps", type=int, help="Rows per episode (default: all).")
    parser.add_argument("--action-horizon", type=int, help="Rows taken from a chunk (default: all of it).")
    parser.add_argument("--modality-keys", nargs="+", default=[], help="Action keys (default: all of the model).")
    parser.add_argument("--denoising-steps", type=int, help="Steps of the sampler (default: 4).")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the sampler's noise (default: 0).")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto).")
    parser.add_argument("--output-dir", type=Path, help="Gets evaluation.json and a plot per episode.")
    return parser


def _steps(options: argparse.Namespace, dataset: LeRobotDataset, episode: int) -> int | None:
    """Rows to compare: what was asked, or less where the episode is shorter."""
    return options.steps and min(options.steps, dataset.episode(episode).length)


def _write(folder: Path, evaluations: Sequence[EpisodeEvaluation], report: dict, policy: Policy) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / "evaluation.json").write_text(text, encoding="utf-8")
        for evaluation in evaluations:
            path = folder / f"episode_{evaluation.episode:06d}.png"
            plot_evaluation(evaluation, policy.embodiment, path)
            print(f"saved {path}")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another --output-dir") from error


if __name__ == "__main__":
    raise SystemExit(main())
