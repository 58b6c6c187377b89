# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_evaluate`: judge a policy on recorded episodes before it moves a robot."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gr00t_training.cli.command import run_command, shown_name
from gr00t_training.cli.parser import CommandParser
from gr00t_training.dataset.episode_ranges import ranges_text
from gr00t_training.judge.evaluate import prepare_evaluation
from gr00t_training.judge.report import format_table
from gr00t_training.judge.settings import EvaluationSettings
from gr00t_training.judge.verdicts import Verdict
from gr00t_training.settings import add_arguments, from_arguments

NAME = "gr00t_evaluate"


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; return 0 or the code of `run_command`."""
    return run_command(NAME, lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = CommandParser(NAME, description=__doc__)
    add_arguments(parser, EvaluationSettings)
    for name in ("--checkpoint", "--dataset"):
        parser.add_old_spelling(f"{name}-path", name)
    for name in ("--output-dir", "-o"):
        parser.add_old_spelling(name, "--output")
    run = prepare_evaluation(from_arguments(EvaluationSettings, parser.parse_args(arguments)))
    if run.trained:
        print(
            f"{shown_name(NAME)}: warning: the checkpoint was trained on episodes {ranges_text(run.trained)}; their "
            "errors do not predict those on other episodes",
            file=sys.stderr,
        )
    result = run.run()
    print(format_table(result.report))
    for judgement in result.judgements:
        print(f"\n{judgement.verdict.upper()}: {judgement.name}")
        for finding in judgement.findings:
            if finding.verdict in (Verdict.LOOK, Verdict.NO_GO):
                print(f"  {finding.verdict!s:6} {finding.group}, {finding.name} ({finding.shown}): {finding.meaning}")
    for path in (*result.plots, *filter(None, [result.page])):
        print(f"saved {path}")


if __name__ == "__main__":
    raise SystemExit(main())
