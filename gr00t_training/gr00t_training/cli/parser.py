# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The argument parser of all commands."""

from __future__ import annotations

import argparse
import difflib
import functools
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from gr00t_training.cli.command import EXIT_ERROR, shown_name
from gr00t_training.errors import DatasetError
from gr00t_training.io.object_storage import COPY_FIRST, USE_LOCAL, WRITE_FIRST, refuse_remote
from gr00t_training.io.text import printable
from gr00t_training.io.version import suite_version


class CommandParser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations, refuses repeated options and suggests similar ones."""

    def __init__(self, prog: str = "", *, has_version: bool = True, description: str | None = None, **kwargs: Any):
        kwargs = {"allow_abbrev": False, "formatter_class": _HelpFormatter, "add_help": False, **kwargs}
        super().__init__(shown_name(prog), description=_purpose(description or ""), **kwargs)
        self.add_argument("-h", "--help", action="help", help="Show this help.")
        self._old_spellings: dict[str, str] = {}
        if has_version:
            self.add_argument("--version", action=_VersionAction, nargs=0, help="Show the version of the suite.")

    def add_subparsers(self, **kwargs: Any) -> Any:  # type: ignore[override]
        """Add subcommands, which have no `--version`."""
        kwargs["parser_class"] = functools.partial(CommandParser, has_version=False)
        return super().add_subparsers(**kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse; end the process with one line for an unknown or repeated option."""
        given = list(sys.argv[1:] if args is None else args)
        found, unknown = self.parse_known_args(given, namespace)
        if unknown:
            self.error(unknown_argument(unknown[0], self.option_names()))
        return found

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse what is known; a repeated option is an error."""
        given = self._respelled(sys.argv[1:] if args is None else args)
        self._refuse_repeated(given)
        return super().parse_known_args(given, namespace)

    def add_old_spelling(self, old: str, new: str) -> None:
        """Keep an option working that is called `new` now; help and suggestions do not show it.

        Where `old` is an option that takes no value today, it means `new` only with a value.
        """
        self._old_spellings[old] = new

    def option_names(self) -> list[str]:
        """Every option of this parser and of its subcommands."""
        names = []
        for action in self._actions:
            names += action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names += parser.option_names() if isinstance(parser, CommandParser) else []
        return names

    def _respelled(self, given: Sequence[str]) -> list[str]:
        words = list(given)
        options = words[: words.index("--")] if "--" in words else words
        for place, word in enumerate(options):
            name, equals, value = word.partition("=")
            following = options[place + 1] if place + 1 < len(options) else "-"
            has_value = bool(equals) or not following.startswith("-")
            if name in self._old_spellings and (has_value or name not in self._option_string_actions):
                words[place] = self._old_spellings[name] + equals + value
        return words

    def _refuse_repeated(self, given: Sequence[str]) -> None:
        kinds = {name: action for action in self._actions for name in action.option_strings}
        seen: dict[str, str] = {}
        for word in given:
            if word == "--":
                break
            action = kinds.get(word.partition("=")[0])
            if action is None or isinstance(action, (argparse._AppendAction, argparse._CountAction)):
                continue
            if action.dest in seen:
                self.error(f"option {word.partition('=')[0]} is given more than once; give it once")
            seen[action.dest] = word

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Convert a value; addresses in object storage are for those whose help says so: others would make a folder."""
        is_word_of_subcommand = action.nargs in (argparse.PARSER, argparse.REMAINDER)
        if not is_word_of_subcommand and "s3://" not in (action.help or ""):
            remedy = COPY_FIRST if action.metavar == "DATASET" else USE_LOCAL
            remedy = WRITE_FIRST if action.dest == "output" else remedy
            try:
                refuse_remote(arg_string, remedy)
            except DatasetError as error:
                raise argparse.ArgumentError(action, str(error)) from error
        return super()._get_value(action, arg_string)  # type: ignore[misc]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            close = difflib.get_close_matches(str(value), known, n=1)
            remedy = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(known)}"
            raise argparse.ArgumentError(action, f"'{printable(str(value))}' is unknown; {remedy}")

    def error(self, message: str) -> NoReturn:
        """Print one line and end with code 2."""
        print(f"{self.prog}: error: {printable(message, 2000)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_ERROR)


def _purpose(docstring: str) -> str:
    """Return a description from the docstring of a module: without the name of the command, which the usage shows."""
    words = re.sub(r"^(Command|Subcommand) `[\w ]+`: ", "", docstring)
    return words[:1].upper() + words[1:]


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default that is not empty, unless the help names it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        is_plain = default is None or default is False or default in ("", [], (), argparse.SUPPRESS)
        return action.help if is_plain or "(default" in (action.help or "") else super()._get_help_string(action)


class _VersionAction(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"{parser.prog} {suite_version()}")
        parser.exit()


def unknown_argument(word: str, known: Sequence[str]) -> str:
    """Return the error message for an unknown argument."""
    word = word.partition("=")[0]
    close = difflib.get_close_matches(word, known, n=1)
    return f"unknown argument '{printable(word)}'" + (f"; did you mean '{close[0]}'?" if close else "")
