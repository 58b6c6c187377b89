# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of all commands: the same name means the same and has the same help, and all are described."""

import argparse
from collections.abc import Iterator
from importlib import import_module

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("torch")
pytest.importorskip("fastapi")

from gr00t_bringup.commands import COMMANDS as BRINGUP
from gr00t_policy_node.commands import COMMANDS as POLICY
from gr00t_recorder.commands import COMMANDS as RECORDER
from gr00t_test_support.reference import with_subcommands
from gr00t_training.cli.arguments import SHARED
from gr00t_training.cli.commands import COMMANDS as TRAINING
from gr00t_training.cli.entry import Command
from gr00t_training.cli.parser import CommandParser

CONSOLE = pytest.importorskip("gr00t_console.commands").COMMANDS  # a package above this one
COMMANDS = [each for each in (*TRAINING, *RECORDER, *POLICY, *BRINGUP, *CONSOLE) if not each.name.endswith("_node")]
every_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
# not the shared option: a list of episodes for each name; which clock, not whether to publish one; another command
OTHER_MEANING = {
    ("gr00t_dataset split", "--episodes"),
    ("gr00t_rollout", "--clock"),
    ("gr00t_demo", "--clock"),
    ("gr00t_evaluate", "--bag"),
    ("gr00t_serve", "--checkpoint"),
    ("gr00t_serve", "--name"),
}


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[CommandParser]]:
    """Return the parsers of all commands, with those of their subcommands."""
    made: list[CommandParser] = []

    def stop(parser: CommandParser, *_: object) -> None:
        made.append(parser)
        raise SystemExit(0)

    monkeypatch.setattr(CommandParser, "parse_args", stop)
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            command([])
    return {command.name: list(with_subcommands(parser)) for command, parser in zip(COMMANDS, made, strict=True)}


def _options(parsers: list[CommandParser]) -> Iterator[tuple[CommandParser, str, argparse.Action]]:
    for parser in parsers:
        for action in parser._actions:
            if action.option_strings and action.help != argparse.SUPPRESS:
                yield parser, max(action.option_strings, key=lambda name: (name.startswith("--"), -len(name))), action


def _first_sentence(text: str) -> str:
    return text.partition(" (default")[0].split(". ")[0].rstrip(".")


@every_command
def test_every_argument_is_described(command: Command, parsers: dict[str, list[CommandParser]]) -> None:
    for parser in parsers[command.name]:
        for action in parser._actions:
            is_own = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
            if is_own or action.help == argparse.SUPPRESS:
                continue
            name = f"{parser.prog} {'/'.join(action.option_strings) or action.dest}"
            assert action.help, name
            sentence = action.help.partition(" (default")[0]
            assert sentence[0].isupper() or sentence.split()[0].rstrip(",") in ("auto", "name", "tokenizer.json"), name
            assert sentence.endswith(".") or "(default" in action.help, name
            if action.nargs != 0 and action.choices is None and not isinstance(action, argparse.BooleanOptionalAction):
                assert action.metavar, name


@every_command
def test_defaults_are_shown(command: Command, parsers: dict[str, list[CommandParser]]) -> None:
    for parser, name, action in _options(parsers[command.name]):
        if action.default is None or action.default is False or action.default in ("", [], (), argparse.SUPPRESS):
            continue
        formatter = parser._get_formatter()
        formatter.add_argument(action)
        assert "(default: " in " ".join(formatter.format_help().split()), f"{parser.prog} {name}"


def test_the_same_option_has_the_same_help(parsers: dict[str, list[CommandParser]]) -> None:
    found: dict[str, dict[tuple[str, object], str]] = {}
    for each in parsers.values():
        for parser, name, action in _options(each):
            if (parser.prog, name) not in OTHER_MEANING:
                meaning = (_first_sentence(action.help or ""), action.metavar)
                found.setdefault(name, {})[meaning] = parser.prog
    differing = {name: meanings for name, meanings in found.items() if len(meanings) > 1}
    assert not differing
    assert {name: _first_sentence(shared.help) for name, shared in SHARED.items()} == {
        name: next(iter(found[name]))[0] for name in SHARED
    }


@pytest.mark.parametrize(
    ("target", "words", "option", "value"),
    [
        ("gr00t_training.cli.dataset:_parser", ["convert", "d", "--to", "v3.0"], "dataset_version", "v3.0"),
        ("gr00t_training.cli.checkpoint:_parser", ["convert", "c", "--embodiment", "a", "b"], "tags", ["a", "b"]),
        ("gr00t_training.cli.checkpoint:_parser", ["convert", "c", "--dtype", "bf16"], "dtype", "bfloat16"),
        ("gr00t_recorder.bag.convert_cli:_parser", ["b", "--version", "v3.0"], "dataset_version", "v3.0"),
        ("gr00t_recorder.bag.convert_cli:_parser", ["b", "--version=v3.0"], "dataset_version", "v3.0"),
        ("gr00t_recorder.bag.convert_cli:_parser", ["b", "--episodes", "gaps"], "episodes_by", "gaps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_old_spellings_keep_working(target: str, words: list[str], option: str, value: object) -> None:
    module, _, function = target.partition(":")
    parser = getattr(import_module(module), function)()
    assert getattr(parser.parse_args(words), option) == value


def test_option_and_its_old_spelling_are_one_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser("gr00t_test")
    parser.add_argument("--dataset")
    parser.add_old_spelling("--dataset-path", "--dataset")
    with pytest.raises(SystemExit):
        parser.parse_args(["--dataset", "a", "--dataset-path", "b"])
    assert "--dataset is given more than once" in capsys.readouterr().err
    assert "--dataset-path" not in parser.format_help()
