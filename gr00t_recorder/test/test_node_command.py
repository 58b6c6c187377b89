# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a node's command line refuses, and its help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
import rclpy
from rclpy.context import Context
from rclpy.node import Node

from gr00t_recorder.ros.node_arguments import check_arguments, split_ros_args
from gr00t_recorder.ros.node_help import NodeCommand
from gr00t_recorder.ros.parameters import declare
from gr00t_recorder.ros.processes import next_domain
from gr00t_recorder.ros.spin import run_node
from gr00t_training.errors import ConfigError
from gr00t_training.settings import setting


class Speed(str, Enum):
    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True)
class ArmSettings:
    dry_run: bool = setting(False, "Move nothing.", read_only=True)
    rate_hz: float = setting(50.0, "Rate of commands [Hz].", ge=1.0, le=1000.0)
    speed: Speed = setting(Speed.SLOW, "How fast.")
    names: tuple[str, ...] = setting((), "Names of joints.")


COMMAND = NodeCommand("arm_node", "arm", "Move an arm.", ArmSettings)


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    yield context
    context.try_shutdown()


def start(context: Context, *words: str) -> Node:
    rclpy.init(args=list(words), context=context, domain_id=next_domain())
    return rclpy.create_node("arm", context=context)


def never() -> Node:
    raise AssertionError("no node may be made")


def test_help_names_every_parameter_and_how_to_set_it(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["-h"], ["--ros-args", "--help"]):
        assert run_node(never, words, COMMAND) == 0
        text = capsys.readouterr().out
        assert "dry_run (true or false; default false; at start only)\n      Move nothing." in text
        assert "rate_hz (decimal number; 1 to 1000; default 50.0)\n      Rate of commands [Hz]." in text
        assert "speed (one of slow, fast; default slow)" in text
        assert "names (list of text; default empty)" in text
        assert "arm_node --ros-args -p NAME:=VALUE" in text and "--params-file" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ros-arg", "-p", "dry_run:=true"], "unknown argument '--ros-arg'; did you mean '--ros-args'?"),
        (["-p", "dry_run:=true"], "'-p' needs --ros-args before it"),
        (["dry_run:=true"], "'dry_run:=true' needs --ros-args before it"),
        (["--ros-args", "--param-file", "a.yaml"], "unknown argument '--param-file'; did you mean '--params-file'?"),
        (["--ros-args", "dry_run:=true"], "'dry_run:=true' needs -p before it"),
        (["--ros-args", "-p"], "option -p: has no value"),
        (["--ros-args", "-p", "dry_run=true"], "-p 'dry_run=true': expected NAME:=VALUE"),
        (["--ros-args", "-p", "names:="], "parameter 'names': has no value; an empty text is written"),
        (["--ros-args", "-p", "dry_run:=true", "-p", "dry_run:=false"], "give it once"),
        (["--ros-args", "--params-file", "absent.yaml"], "absent.yaml: cannot be read (No such file or directory)"),
        (["--ros-args", "-p", "dry_run:=true", "--", "extra"], "unknown argument 'extra'"),
    ],
)
def test_words_that_ros_would_ignore_are_one_line_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_node(never, words, COMMAND) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("arm_node: error: ") and message in lines[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("arm_node:\n  ros__parameters:\n    dry_run: true\n", "did you mean '/arm' instead of '/arm_node'?"),
        ("/left/arm:\n  ros__parameters:\n    dry_run: true\n", "no section is for this node (found '/left/arm')"),
        ("arm:\n  ros_parameters:\n    dry_run: true\n", "no section is for this node (found none)"),
        ("arm:\n  ros__parameters:\n    dry_run: true\n    dry_run: false\n", ":4: duplicate key 'dry_run'"),
        ("arm:\n  ros__parameters: &a\n    dry_run: true\n/*: *a\n", ":4: alias '*a'"),
        ("arm:\n  ros__parameters: [\n", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        ("", "no section is for this node"),
    ],
)
def test_parameters_files_that_do_not_reach_the_node_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as refusal:
        check_arguments(COMMAND, ["--ros-args", "--params-file", str(path)])
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("/**", ["-r", "__ns:=/left"]),
        ("/*", []),
        ("arm", []),
        ("/left/arm", ["-r", "__ns:=/left"]),
        ("/left/*", ["-r", "__ns:=/left"]),
        ("/**/arm", ["-r", "__ns:=/cell/left"]),
        ("other", ["-r", "__node:=other"]),
        ("/left/other", ["-r", "arm:__node:=other", "-r", "__ns:=/left"]),
        ("left:\n  arm", ["-r", "__ns:=/left"]),
    ],
)
def test_sections_are_matched_as_ros_matches_them(
    tmp_path: Path, context: Context, section: str, words: list[str]
) -> None:
    path = tmp_path / "arm.yaml"
    indent = "  " if "\n" in section else ""
    path.write_text(f"{section}:\n{indent}  ros__parameters:\n{indent}    rate_hz: 7.5\n")
    given = ["--ros-args", "--params-file", str(path), *words]
    check_arguments(COMMAND, given)
    node = start(context, *given)
    assert declare(node, ArmSettings).rate_hz == 7.5


@pytest.mark.parametrize("source", ["command line", "file"])
def test_unknown_parameters_are_refused_with_the_nearest_name(tmp_path: Path, context: Context, source: str) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text("arm:\n  ros__parameters:\n    dry_rn: true\n    zzz:\n      deep: 1\n    use_sim_time: false\n")
    words = ["--params-file", str(path)] if source == "file" else ["-p", "dry_rn:=true", "-p", "zzz.deep:=1"]
    node = start(context, "--ros-args", *words)
    with pytest.raises(ConfigError) as refusal:
        declare(node, ArmSettings)
    assert "unknown parameter 'dry_rn' (did you mean 'dry_run'?); unknown parameter 'zzz.deep'" in str(refusal.value)


def test_parameters_of_ros_itself_are_no_unknown_ones(context: Context) -> None:
    words = ["-p", "use_sim_time:=true", "-p", "start_type_description_service:=false"]
    node = start(context, "--ros-args", *words, "-p", "qos_overrides./clock.subscription.depth:=3")
    assert declare(node, ArmSettings) == ArmSettings()


def test_a_wrong_value_names_itself_and_what_is_expected(context: Context) -> None:
    node = start(context, "--ros-args", "-p", "dry_run:=maybe")
    with pytest.raises(ConfigError, match="parameter 'dry_run': found 'maybe', expected true or false"):
        declare(node, ArmSettings)


def test_words_for_ros_and_for_the_program_are_told_apart() -> None:
    own, ros = split_ros_args(["out", "--ros-args", "-r", "a:=b", "--", "--topics", "t.yaml"])
    assert own == ["out", "--topics", "t.yaml"]
    assert ros == ["--ros-args", "-r", "a:=b", "--"]
