# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The documentation: commands and launch arguments in it exist, links lead somewhere, README stays short."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("torch")
pytest.importorskip("fastapi")

from launch_stand_ins import declared_arguments

from gr00t_bringup.commands import COMMANDS as BRINGUP
from gr00t_policy_node.commands import COMMANDS as POLICY
from gr00t_recorder.commands import COMMANDS as RECORDER
from gr00t_training.cli.commands import COMMANDS as TRAINING
from gr00t_training.cli.parser import CommandParser

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("a package alone has no documentation", allow_module_level=True)

CONSOLE = pytest.importorskip("gr00t_console.commands").COMMANDS  # a package above this one
COMMANDS = [each for each in (*TRAINING, *RECORDER, *POLICY, *BRINGUP, *CONSOLE) if not each.name.endswith("_node")]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")})
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shell_lines() -> Iterator[tuple[Path, list[str]]]:
    """Yield the words of every line of every code block, continued lines joined."""
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.removeprefix("$ ").split("#")[0]
                if re.match(r"\s*(?:[A-Z_]+=\S+ )*(gr00t|ros2)\b", words):
                    yield page, shlex.split(words.split(" > ")[0])


class ParsedError(BaseException):
    """The words of a command were accepted; no command catches it."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    parse: Callable[..., object] = CommandParser.parse_args

    def stop(parser: CommandParser, *arguments: object) -> None:
        parse(parser, *arguments)
        raise ParsedError

    monkeypatch.setattr(CommandParser, "parse_args", stop)


def test_commands_are_accepted(parse_only: None) -> None:
    by_name = {command.name: command for command in COMMANDS} | {f"gr00t {c.word}": c for c in COMMANDS if c.word}
    seen = set()
    for page, words in shell_lines():
        if words[0] == "ros2" or words[-1] == "--help":
            continue
        count = 2 if words[0] == "gr00t" else 1
        name = " ".join(words[:count])
        assert name in by_name, f"{page.name}: no command '{name}'"
        with pytest.raises(ParsedError):
            by_name[name](words[count:])
        seen.add(by_name[name].name)
    assert {"gr00t_convert_bag", "gr00t_dataset", "gr00t_finetune", "gr00t_evaluate", "gr00t_serve"} <= seen


def test_launch_arguments_are_declared() -> None:
    found = [(page, words) for page, words in shell_lines() if words[:3] == ["ros2", "launch", "gr00t_bringup"]]
    assert len(found) > 5
    for page, words in found:
        declared = declared_arguments(words[3])
        for word in words[4:]:
            name = word.partition(":=")[0]
            assert word == "--show-args" or name in declared, f"{page.name}: {words[3]} has no argument '{name}'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
