# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_evaluate`: judge a policy on recorded episodes before it moves a robot.

With `--bag` it is judged in its ROS 2 node, by a command of gr00t_policy_node.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command, shown_name
from gr00t_training.cli.parser import CommandParser
from gr00t_training.cli.umbrella import discover, find, refuse
from gr00t_training.dataset.episode_ranges import ranges_text
from gr00t_training.judge.evaluate import prepare_evaluation
from gr00t_training.judge.output import exit_code, lines
from gr00t_training.judge.report import format_table
from gr00t_training.judge.settings import EvaluationSettings
from gr00t_training.settings import add_arguments, from_arguments

NAME = "gr00t_evaluate"
DESCRIPTION = "Judge a policy on recorded episodes before it moves a robot."
BAG, BAG_COMMAND = "--bag", "bench-policy"


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate a policy.

    Returns:
        Exit code: 0, 1 for a verdict that `--fail-on` names, that of `run_command`, or that of the command for bags.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    place = next((place for place, word in enumerate(words) if word.partition("=")[0] == BAG), None)
    if place is None:
        return run_command(NAME, lambda: _run(words))
    commands = discover()
    command = find(commands, BAG_COMMAND)
    if command is None:
        return run_command(NAME, lambda: refuse(BAG_COMMAND, commands))
    words[place : place + 1] = filter(None, [words[place].partition("=")[2]])
    return command(words, f"{shown_name(NAME)} {BAG}")


def _run(arguments: Sequence[str]) -> int:
    parser = CommandParser(NAME, description=DESCRIPTION)
    add_arguments(parser, EvaluationSettings)
    add(parser, "--fail-on")
    text = f"Judge in the policy node instead, on a bag: see '{shown_name(NAME)} {BAG} --help'."
    parser.add_argument(BAG, metavar="BAG", help=text)
    for name in ("--checkpoint", "--dataset"):
        parser.add_old_spelling(f"{name}-path", name)
    for name in ("--output-dir", "-o"):
        parser.add_old_spelling(name, "--output")
    given = parser.parse_args(arguments)
    run = prepare_evaluation(from_arguments(EvaluationSettings, given))
    if run.trained:
        print(
            f"{shown_name(NAME)}: warning: the checkpoint was trained on episodes {ranges_text(run.trained)}; their "
            "errors do not predict those on other episodes",
            file=sys.stderr,
        )
    result = run.run()
    print(format_table(result.report))
    for judgement in result.judgements:
        print("\n".join(lines(judgement)))
    for path in (*result.plots, *filter(None, [result.page])):
        print(f"saved {path}")
    return exit_code(result.judgements, given.fail_on)


if __name__ == "__main__":
    raise SystemExit(main())
