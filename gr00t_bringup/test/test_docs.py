# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The documentation: commands, parameters and files in it are right, links lead somewhere, README stays short.

`test_docs_run.py` runs what a test can run.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module, util
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("torch")
pytest.importorskip("fastapi")

from launch_stand_ins import declared_arguments
from page_materials import MATERIALS

from gr00t_bringup.commands import COMMANDS as BRINGUP
from gr00t_bringup.robots import RolloutFile
from gr00t_policy_node.commands import COMMANDS as POLICY
from gr00t_policy_node.safety.limits import LimitsFile
from gr00t_policy_node.teleop.teleop_file import TeleopFile
from gr00t_recorder.commands import COMMANDS as RECORDER
from gr00t_recorder.topics.bindings import TopicMap, load_topic_map
from gr00t_test_support.messages import list_texts
from gr00t_test_support.pages import Block, read_blocks, shell_lines
from gr00t_test_support.reference import parser_of
from gr00t_training.cli.commands import COMMANDS as TRAINING
from gr00t_training.cli.parser import CommandParser
from gr00t_training.embodiment import load_embodiment
from gr00t_training.settings import load_settings, parse_values
from gr00t_training.train.data_settings import DataSettings
from gr00t_training.train.recipes import read_recipe

ROOT = Path(__file__).parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("a package alone has no documentation", allow_module_level=True)

CONSOLE = pytest.importorskip("gr00t_console.commands").COMMANDS  # a package above this one
COMMANDS = [each for each in (*TRAINING, *RECORDER, *POLICY, *BRINGUP, *CONSOLE) if not each.name.endswith("_node")]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")})
MARKED = [page for page in PAGES if page.name not in ("ARCHITECTURE.md", "CONTRIBUTING.md", "MIGRATION.md")]
NODES = {
    "policy_node": "gr00t_policy_node.ros.policy_node",
    "teleop_node": "gr00t_policy_node.ros.teleop_node",
    "recorder_node": "gr00t_recorder.ros.recorder_node",
    "sim_node": "gr00t_bringup.ros.sim_node",
    "expert_node": "gr00t_bringup.ros.expert_node",
    "fake_robot_node": "gr00t_bringup.ros.fake_robot_node",
}
LOADERS: dict[str, Callable[[Path], object]] = {
    "data file": lambda path: load_settings(DataSettings, path),
    "embodiment": load_embodiment,
    "limits": lambda path: load_settings(LimitsFile, path),
    "part of a topic map": lambda path: parse_values([TopicMap], path.read_text(), path.name),
    "recipe": read_recipe,
    "rollout": lambda path: load_settings(RolloutFile, path),
    "teleop": lambda path: load_settings(TeleopFile, path),
    "topic map": load_topic_map,
}


def blocks() -> Iterator[Block]:
    """Yield every code block of every page."""
    for page in PAGES:
        yield from read_blocks(page)


def lines() -> Iterator[tuple[Path, list[str]]]:
    """Yield the words of every command of the suite and of ROS in a code block."""
    for block in blocks():
        for words in shell_lines(block):
            yield block.page, words


@pytest.mark.parametrize("page", MARKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_says_what_it_needs(page: Path) -> None:
    if page.parent.name == "examples":
        return  # test_examples.py runs it
    open_blocks = [block.place for block in read_blocks(page) if not block.job and block.language != "text"]
    assert not open_blocks, "put a comment before them, see gr00t_test_support/pages.py"
    for block in read_blocks(page):
        assert block.code()  # what is to be replaced is there
        assert block.job != "run" or set(block.subjects) <= set(MATERIALS), block.place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_a_page_are_read(page: Path, tmp_path: Path) -> None:
    for block in read_blocks(page):
        if block.job == "load":
            (kind,) = block.subjects
            path = tmp_path / block.options.get("file", f"line{block.line}.yaml")
            path.write_text(block.code(), encoding="utf-8")
            LOADERS[kind](path)


def test_programs_of_the_pages_are_python() -> None:
    found = [block for block in blocks() if block.language == "python"]
    assert len(found) >= 4
    for block in found:
        compile(block.text, block.place, "exec")


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
    for page, words in lines():
        if words[0] == "ros2" or words[-1] == "--help":
            continue
        count = 2 if words[0] == "gr00t" else 1
        name = " ".join(words[:count])
        assert name in by_name, f"{page.name}: no command '{name}'"
        with pytest.raises(ParsedError):
            by_name[name](words[count:])
        seen.add(by_name[name].name)
    assert {"gr00t_convert_bag", "gr00t_dataset", "gr00t_finetune", "gr00t_evaluate", "gr00t_serve"} <= seen


def test_commands_and_options_in_the_text_exist() -> None:
    by_word = {command.word: command for command in COMMANDS if command.word}
    nodes = {each.removesuffix("_node") for each in NODES} | {"fake"}
    found = 0
    for page in MARKED:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for shown in re.findall(r"`gr00t ([a-z][^`]*)`", text):
            word, *more = shown.split()
            assert word in by_word or word in nodes, f"{page.name}: gr00t {shown}"
            options = {each for each in more if re.match(r"--[a-z]", each)}
            if options and word in by_word:
                found += 1
                known = set(parser_of(by_word[word]).option_names())
                if "--bag" in options:  # gr00t evaluate hands over
                    known |= set(parser_of(by_word["bench-policy"]).option_names())
                assert options <= known, f"{page.name}: gr00t {shown}"
    assert found > 10


def test_launch_arguments_are_declared() -> None:
    found = [(page, words) for page, words in lines() if words[:3] == ["ros2", "launch", "gr00t_bringup"]]
    assert len(found) > 5
    for page, words in found:
        declared = declared_arguments(words[3])
        for word in words[4:]:
            name = word.partition(":=")[0]
            assert word == "--show-args" or name in declared, f"{page.name}: {words[3]} has no argument '{name}'"


def test_executables_and_parameters_exist() -> None:
    """`ros2 run PACKAGE EXECUTABLE --ros-args -p NAME:=VALUE`."""
    names = {each.name: each.target.partition(".")[0] for each in (*TRAINING, *RECORDER, *POLICY, *BRINGUP, *CONSOLE)}
    found = [(page, words) for page, words in lines() if words[:2] == ["ros2", "run"]]
    assert len(found) > 3
    for page, (_, _, package, executable, *more) in found:
        assert names.get(executable) == package or executable == "gr00t", f"{page.name}: {package} {executable}"
        given = [word.partition(":=")[0] for option, word in pairwise(more) if option == "-p"]
        if given:
            assert set(given) <= parameters(executable), f"{page.name}: {executable}"


def parameters(executable: str) -> set[str]:
    return {field.name for field in fields(import_module(NODES[executable]).COMMAND.settings)}


def test_calls_and_parameters_of_running_nodes_exist() -> None:
    """`ros2 service call`, `ros2 action send_goal` and `ros2 param set`."""
    every = set().union(*map(parameters, NODES))
    seen = set()
    for page, words in lines():
        kind = tuple(words[1:3])
        seen.add(kind)
        if kind in (("service", "call"), ("action", "send_goal")):
            package, folder, name = words[4].split("/")
            interface = getattr(import_module(f"{package}.{folder}"), name)
            request = interface.Request if kind[0] == "service" else interface.Goal
            given = yaml.safe_load(words[5]) if len(words) > 5 else {}
            unknown = set(given) - set(request.get_fields_and_field_types())
            assert not unknown, f"{page.name}: {words[4]} has no {unknown}"
        elif kind == ("param", "set"):
            assert words[4] in every, f"{page.name}: no node has a parameter '{words[4]}'"
    assert {("service", "call"), ("action", "send_goal"), ("param", "set")} <= seen


def test_programs_of_bench_and_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    found = 0
    for page in MARKED:
        text = page.read_text(encoding="utf-8")
        for module in re.findall(r"python3? -m ([\w.]+)", text):
            found += 1
            assert module in ("venv", "pip", "pytest") or util.find_spec(module), f"{page.name}: {module}"
        for target in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.MULTILINE):
            found += 1
            assert "".join(target) in targets, f"{page.name}: make {target}"
    assert found > 10


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    """`...` stands for any text; the rest of a message is in one literal of the source, in this order."""
    literals = list(dict.fromkeys(list_texts(ROOT)))
    quoted = [
        line
        for block in read_blocks(ROOT / "docs" / "troubleshooting.md")
        if block.language == "text"
        for line in block.text.splitlines()
    ]
    assert len(quoted) > 25
    for line in quoted:
        parts = [re.escape(part) for part in line.split("...")]
        pattern = re.compile(".*".join(parts))
        assert any(pattern.search(literal) for literal in literals), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?://|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_readme_is_short() -> None:
    every = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len([line for line in every if not line.startswith("<!--")]) <= 150
