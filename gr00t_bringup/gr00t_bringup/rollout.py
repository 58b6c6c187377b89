# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What `gr00t_rollout` is asked for, and which processes that takes; without ROS."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gr00t_bringup.processes import (
    CLOCK_HELP,
    LOCK_STEP,
    REAL,
    ROBOT,
    launched,
    parameter_words,
    policy_of,
    policy_timing,
    stepped_clock,
    stepped_policy,
)
from gr00t_bringup.robots import TrialRobot, load_robot
from gr00t_bringup.runner import Runner
from gr00t_bringup.trials.table import Spec, plan
from gr00t_recorder.episodes.buttons import Command
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_training.cli.arguments import add, positive_int
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import TextError, check_instruction, printable

SIM, PERSON = "sim", "person"
SCENE, OTHER = "task", "other"
RUNNING_POLICY = "running policy node"  # instead of a checkpoint, where a person judges


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser("gr00t_rollout", description="Try a policy many times through ROS 2, and count successes.")
    add(parser, "--robot", f"It must be a simulated one (default: {ROBOT}).", default=ROBOT)
    add(
        parser,
        "--checkpoint",
        "Several are tried in the same scenes and compared (default: that of the robot).",
        nargs="+",
        default=[],
    )
    add(parser, "--output", "Finished trials in it are not repeated.", default=Path("out/rollout"))
    text = "Trials of each task with each checkpoint."
    parser.add_argument("--num-trials", type=positive_int, default=10, metavar="N", help=text)
    add(parser, "--seed", "The first scene; every further trial has the next one.", default=1000)
    detail = "Several are tried one after another (default: all tasks of the robot)."
    add(parser, "--instruction", detail, nargs="+", default=[])
    text = "Give the instruction of the task, or that of another one, which must not succeed."
    parser.add_argument("--instruction-of", choices=(SCENE, OTHER), default=SCENE, help=text)
    parser.add_argument("--clock", choices=(LOCK_STEP, REAL), default=LOCK_STEP, help=f"Time: {CLOCK_HELP}")
    text = "Who judges: the simulated robot, or a person at the keyboard while policy and robot run already."
    parser.add_argument("--judge", choices=(SIM, PERSON), default=SIM, help=text)
    add(parser, "--round-s", default=20.0)
    text = "Parameters of the policy node, such as execution:=real_time_chunking."
    parser.add_argument("--parameters", nargs="+", default=[], metavar="NAME:=VALUE", help=text)
    text = (
        "Record every trial as an episode of this dataset, marked with its success; a person's recorder runs already."
    )
    parser.add_argument("--record-to", type=Path, metavar="FOLDER", help=text)
    text = "Joystick of the person who judges (sensor_msgs/msg/Joy)."
    parser.add_argument("--joy-topic", default="", metavar="TOPIC", help=text)
    for name, what in (("begin", "begins a trial"), ("success", "says success"), ("failure", "says failure")):
        text = f"Button that {what}; -1: none."
        parser.add_argument(f"--joy-{name}", type=int, default=-1, metavar="INDEX", help=text)
    text = "Write no videos of the trials."
    parser.add_argument("--no-video", action="store_true", help=text)
    return parser


@dataclass(frozen=True)
class Joystick:
    """Topic and buttons by which a person may answer; an empty topic: none."""

    topic: str
    buttons: Mapping[Command, int]  # index; -1: none


@dataclass(frozen=True)
class Rollout:
    """A checked request."""

    robot: TrialRobot | None  # None: a person judges
    specs: list[Spec]
    folder: Path
    has_video: bool
    dataset: Path | None
    joystick: Joystick

    @property
    def is_judged_by_person(self) -> bool:
        """Whether a person judges; robot and policy node run already then."""
        return self.robot is None


def checked(given: argparse.Namespace) -> Rollout:
    """Return what was asked for.

    Raises:
        ConfigError: names the option that is wrong, and what to do.
    """
    if not 1.0 <= given.round_s <= 3600.0:
        raise ConfigError(f"--round-s is {given.round_s:g}, expected 1 to 3600 s")
    if not 0 <= given.seed <= 2**31 - given.num_trials:
        raise ConfigError(f"--seed is {given.seed}, expected 0 or more, and every trial's seed below 2147483648")
    for each in given.parameters:
        if not re.fullmatch(r"[a-z_]+:=\S+", each):
            raise ConfigError(f"--parameters: '{printable(each)}' is not NAME:=VALUE without spaces")
    robot = None
    if given.judge == PERSON:
        _check_person(given)
    else:
        robot = load_robot(given.robot)
    try:
        if robot is None:
            pairs = [(check_instruction(task), task) for task in given.instruction]
        else:
            tasks = [robot.check_task(check_instruction(task)) for task in given.instruction or robot.tasks]
            pairs = [(task, task if given.instruction_of == SCENE else robot.other_task(task)) for task in tasks]
    except (TextError, ValueError) as error:
        raise ConfigError(f"--instruction: {error}") from error
    checkpoints = [str(Path(each).resolve()) if Path(each).exists() else each for each in given.checkpoint]
    if not checkpoints:
        checkpoints = [RUNNING_POLICY if robot is None else _own_checkpoint(robot)]
    specs = plan(
        checkpoints,
        pairs,
        range(given.seed, given.seed + given.num_trials),
        clock=REAL if robot is None else given.clock,
        judge=given.judge,
        time_limit_s=given.round_s,
        parameters=" ".join(given.parameters),
    )
    dataset = given.record_to.resolve() if given.record_to else None
    return Rollout(robot, specs, given.output.resolve(), not given.no_video, dataset, _joystick(given))


def _check_person(given: argparse.Namespace) -> None:
    if not given.instruction:
        raise ConfigError("--judge person: give the task texts of your robot with --instruction")
    if given.instruction_of == OTHER or given.parameters or len(given.checkpoint) > 1:
        raise ConfigError(
            "--judge person: robot and policy run already, so that --instruction-of other, --parameters and several "
            "checkpoints have no effect; leave them out"
        )


def _own_checkpoint(robot: TrialRobot) -> str:
    if robot.checkpoint is None:
        raise ConfigError(f"--checkpoint: {robot.name} comes without a policy; give one")
    return str(robot.checkpoint)


def _joystick(given: argparse.Namespace) -> Joystick:
    indices = {Command.START: given.joy_begin, Command.SUCCESS: given.joy_success, Command.FAILURE: given.joy_failure}
    has_button = max(indices.values()) >= 0
    if has_button != bool(given.joy_topic):
        missing = "--joy-topic" if has_button else "a button, such as --joy-success 0,"
        raise ConfigError(f"--joy-topic and buttons belong together: {missing} is missing; give both")
    if given.joy_topic and given.judge != PERSON:
        raise ConfigError("--joy-topic: the simulated robot judges itself; leave it out, or add --judge person")
    return Joystick(given.joy_topic, indices)


def start_processes(runner: Runner, robot: TrialRobot, spec: Spec, dataset: Path | None, folder: Path) -> None:
    """Start simulator, policy node and, for a dataset, a recorder node; for the trials of one checkpoint."""
    is_stepped = spec.clock == LOCK_STEP
    parameters = spec.parameters.split()
    timing = policy_timing(robot, parameters)
    policy = policy_of(Path(spec.checkpoint), robot.name)
    sim: list[str | Path] = list(robot.simulator)
    if is_stepped:
        speed = 0.0 if dataset is None else 1.0  # a recorder keeps pace with a real robot
        ros = [] if "--ros-args" in sim else ["--ros-args"]
        sim += [*ros, *parameter_words(**stepped_clock(timing, speed))]
        policy = stepped_policy(policy)
    runner.start("simulator", sim)
    runner.start_node(policy, parameters=parameters)
    if dataset is not None:
        topics = recorder_topics(robot, folder)
        recorder = launched("record", robot=robot.name, topics_file=topics, dataset_path=dataset)
        runner.start_node(recorder.with_parameters(use_sim_time=is_stepped))


def recorder_topics(robot: TrialRobot, folder: Path) -> Path:
    """Write a topic map whose action is what the controller gets, from the first row on; return its path.

    Raises:
        ConfigError: the robot's own map is wrong, or has no commands to replace.
    """
    given = robot.file("topics_policy.yaml")
    load_topic_map(given)
    topics: Any = yaml.safe_load(given.read_text(encoding="utf-8"))
    if "commands" not in topics["streams"]:
        raise ConfigError(f"{given}: stream 'commands' not found; name the stream of the action so")
    topics["streams"]["commands"]["topic"] = "arm_controller/reference"  # also before the first command
    topics["streams"].pop("events", None)
    for name in ("events", "commands"):
        topics.pop(name, None)
    own = given.parent / topics["embodiment"]
    if own.is_file():
        topics["embodiment"] = str(own)
    path = folder / "topics.yaml"
    path.write_text(yaml.safe_dump(topics, sort_keys=False), encoding="utf-8")
    return path
