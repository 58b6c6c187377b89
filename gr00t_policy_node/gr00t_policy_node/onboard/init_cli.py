# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_init`: write topic map, embodiment and limits of a robot that nobody has described yet.

They come from a bag, from a LeRobot dataset, or from the running robot where neither is named. On a terminal it asks
what these cannot tell; options answer the same questions. Otherwise lines that a person must look at are marked CHECK.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from gr00t_policy_node.onboard.from_dataset import JOINTS_TOPIC, is_dataset, suggest_from_dataset
from gr00t_policy_node.onboard.running_robot import SOURCE, listening
from gr00t_policy_node.urdf import channel_limits, read_description, read_urdf
from gr00t_recorder.bag.reader import Bag
from gr00t_recorder.bag.suggest import suggest
from gr00t_recorder.bag.suggest_texts import Answers, CommandAnswer, Range, Suggestion, write_files
from gr00t_recorder.bag.suggest_vectors import STRING, first_message
from gr00t_recorder.topics.commands import COMMAND_TYPES
from gr00t_training.cli.arguments import add, positive_int
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import printable

NAME = "gr00t_init"
LISTEN_S = 10.0
DESCRIPTION_TOPIC = "robot_description"
EPILOG = """
then: gr00t check FOLDER --bag BAG --picture sight.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; return 0, or as `run_command` after an error."""
    return run_command(NAME, lambda: _init(arguments))


def parser() -> CommandParser:
    """Return the parser of the command."""
    found = CommandParser(NAME, description=__doc__, epilog=EPILOG)
    text = "Bag or LeRobot dataset (default: the running robot)."
    found.add_argument("source", type=Path, nargs="?", metavar="SOURCE", help=text)
    add(found, "--output", required=True)
    found.add_argument("--name", metavar="NAME", help="Name of the robot.")
    text = "Ticks per second of dataset and policy [Hz] (default: the slowest camera's rate)."
    found.add_argument("--tick-rate", type=positive_int, metavar="N", help=text)
    text = "Where a policy's actions go, as KEY,KEY=TOPIC:TYPE; may be repeated."
    found.add_argument("--command", action="append", default=[], type=_command, metavar="COMMAND", help=text)
    text = "Unit of the grippers: rad where fingers turn, m where they slide."
    found.add_argument("--gripper-unit", metavar="UNIT", help=text)
    found.add_argument("--urdf", type=Path, metavar="FILE", help="URDF of the robot, for limits.")
    text = f"Dataset: topic of the joint states (default: {JOINTS_TOPIC}, marked)."
    found.add_argument("--joints", metavar="TOPIC", help=text)
    text = "Dataset: topic of a camera, as KEY=TOPIC; may be repeated."
    found.add_argument("--camera", action="append", default=[], type=_camera, metavar="CAMERA", help=text)
    text = f"Time to listen to the robot [s] (default: {LISTEN_S:g})."
    found.add_argument("--duration-s", type=float, metavar="X", help=text)
    found.add_argument("--no-questions", action="store_true", help="Do not ask on a terminal.")
    return found


def _init(arguments: Sequence[str] | None) -> None:
    options = parser().parse_args(arguments)
    if options.duration_s is not None and not options.duration_s > 0:
        raise ConfigError(f"--duration-s is {options.duration_s:g}, expected more than 0")
    is_asking = sys.stdin.isatty() and sys.stdout.isatty() and not options.no_questions
    suggestion, description = _suggest(options)
    answers = find_answers(options, suggestion, description, ask_line if is_asking else None)
    files = write_files(suggestion, answers, options.output)
    marked = sum("CHECK" in line for file in files for line in file.read_text(encoding="utf-8").splitlines()[1:])
    for path in files:
        print(f"wrote {path}")
    print(f"{marked} lines are marked CHECK; gr00t check {options.output} explains them")


def _suggest(options: argparse.Namespace) -> tuple[Suggestion, str]:
    """Return what the source says, and the robot's description if it has one."""
    path = options.source
    if path is not None and is_dataset(path):
        return suggest_from_dataset(path, options.joints or "", dict(options.camera)), ""
    if options.joints or options.camera:
        raise ConfigError("--joints and --camera are for a dataset, which has no topics; leave them out")
    with ExitStack() as stack:
        heard = None if path else stack.enter_context(listening(options.duration_s or LISTEN_S))
        bag = stack.enter_context(Bag(heard.bag if heard else options.source, allow_partial=True))
        doors = {**heard.subscribed, **heard.actions} if heard else {}
        taken = [(topic, kind) for topic, kind in doors.items() if kind in COMMAND_TYPES]
        return suggest(bag, SOURCE if heard else "", taken), _description(bag)


def _description(bag: Bag) -> str:
    for topic in bag.topics.values():
        if topic.type == STRING and topic.name.rpartition("/")[2] == DESCRIPTION_TOPIC:
            message = first_message(bag, topic.name)
            if message is not None:
                return message.data
    return ""


def find_answers(
    options: argparse.Namespace, suggestion: Suggestion, description: str, ask: Callable[[str, str], str] | None
) -> Answers:
    """Return the answers of options and, where `ask` is given, of a person."""
    name, unit, commands = options.name or "", options.gripper_unit or "", list(options.command)
    urdf = options.urdf
    if ask is not None:
        name = name or ask("name of the robot", suggestion.name)
        if suggestion.known is None and suggestion.gripper_channels and not unit:
            unit = ask("unit of the grippers (rad, m, 1)", suggestion.gripper_unit)
        if not commands:
            commands = _ask_commands(suggestion, ask)
        if urdf is None and not description:
            given = ask("URDF file for limits (empty: as far and fast as it was seen)", "")
            urdf = Path(given) if given else None
    limits, source = _limits(suggestion, urdf, description)
    return Answers(name, options.tick_rate or 0, unit, tuple(commands), limits, source)


def _ask_commands(suggestion: Suggestion, ask: Callable[[str, str], str]) -> list[CommandAnswer]:
    commands = []
    for topic, kind in suggestion.listening:
        print(f"  commands are taken on {printable(topic)} ({printable(kind)})")
    for keys in suggestion.uncommanded():
        while given := ask(f"where a policy's {', '.join(keys)} go, as TOPIC:TYPE (empty: later)", ""):
            try:
                answer = _command(f"{','.join(keys)}={given}")
            except argparse.ArgumentTypeError:
                print(f"  '{printable(given)}' is not of the form TOPIC:TYPE")
                continue
            if answer.type in COMMAND_TYPES:
                commands.append(answer)
                break
            print(f"  '{printable(answer.type)}' cannot be commanded; expected one of {', '.join(COMMAND_TYPES)}")
    return commands


def _limits(suggestion: Suggestion, urdf: Path | None, description: str) -> tuple[dict[str, Range], str]:
    """Return the limits of the robot's description by channel, and where it is from."""
    if urdf is None and not description:
        return {}, ""
    found = read_urdf(read_description(urdf) if urdf else description).limits
    if suggestion.known is not None:  # maybe in degrees
        found = channel_limits(found, suggestion.known)
    names = {name for part in suggestion.action for name in part.channels}
    limits = {name: (limit.min, limit.max, limit.max_velocity) for name, limit in found.items() if name in names}
    return limits, str(urdf) if urdf else DESCRIPTION_TOPIC


def _command(text: str) -> CommandAnswer:
    keys, _, rest = text.rpartition("=")
    topic, _, kind = rest.rpartition(":")
    if not topic or not kind:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form KEY,KEY=TOPIC:TYPE")
    return CommandAnswer(tuple(key.strip() for key in keys.split(",") if key.strip()), topic, kind)


def _camera(text: str) -> tuple[str, str]:
    key, _, topic = text.partition("=")
    if not key or not topic:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form KEY=TOPIC")
    return key, topic


def ask_line(question: str, default: str) -> str:
    """Ask a person on the terminal; an empty answer is `default`."""
    try:
        given = input(f"{question}{f' [{default}]' if default else ''}: ").strip()
    except EOFError:
        given = ""
    return given or default


if __name__ == "__main__":
    sys.exit(main())
