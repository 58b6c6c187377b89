# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_check`: explain what is wrong with the files of a robot, and draw what a policy would see.

Topic map, embodiment and limits are checked against each other; with --bag or --live against what the robot says; with
--checkpoint against the data that the policy was trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from gr00t_policy_node.onboard.agreement import all_limits, check_agreement
from gr00t_policy_node.onboard.comparison import Trained, check_evidence, check_trained
from gr00t_policy_node.onboard.evidence import Evidence, gather
from gr00t_policy_node.onboard.findings import Finding, Level
from gr00t_policy_node.onboard.robot_files import RobotFiles, read_robot
from gr00t_policy_node.onboard.running_robot import SOURCE, listening
from gr00t_policy_node.safety.limits import JointLimit
from gr00t_policy_node.urdf import UrdfLimits, read_description, read_urdf
from gr00t_recorder.bag.reader import Bag
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.io.text import printable

NAME = "gr00t_check"
EXIT_FAULTS = 1
LISTEN_S = 5.0
BAG_S = 30.0  # of a bag that are read
EPILOG = """
exit codes: 0 no fault, 1 a fault (recorder or policy node would refuse it, or hold), 2 wrong options or files.
"""
MAX_LINE = 2000  # characters of a finding


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; return 0, 1 after a fault, 2 for wrong options or files."""
    return run_command(NAME, lambda: _run(arguments))


def parser() -> CommandParser:
    """Return the parser of the command."""
    found = CommandParser(NAME, description=__doc__, epilog=EPILOG)
    text = "Shipped robot, folder with topics.yaml, or a topic map (YAML)."
    found.add_argument("robot", metavar="NAME|FOLDER", help=text)
    text = "Joint limits (YAML). Absent: limits.yaml next to the topic map."
    found.add_argument("--limits", type=Path, metavar="FILE", help=text)
    found.add_argument("--urdf", type=Path, metavar="FILE", help="URDF of the robot, for limits.")
    source = found.add_mutually_exclusive_group()
    source.add_argument("--bag", type=Path, metavar="BAG", help="Bag of the robot to compare with.")
    source.add_argument("--running", action="store_true", help="Compare with the running robot.")
    add(found, "--checkpoint", "Its training data are compared.")
    text = f"Time to listen to the robot [s]. Of a bag: how much is read (default: {LISTEN_S:g}, of a bag {BAG_S:g})."
    found.add_argument("--duration-s", type=float, metavar="X", help=text)
    text = "Draw what a policy would see now as PNG: cameras with ages, joints against limits and training."
    found.add_argument("--picture", type=Path, metavar="FILE", help=text)
    add(found, "--json")
    return found


def _run(arguments: Sequence[str] | None) -> int:
    options = parser().parse_args(arguments)
    if options.picture and not (options.bag or options.running):
        raise ConfigError("--picture needs --bag or --running, which say what the cameras see")
    if options.duration_s is not None and not options.duration_s > 0:
        raise ConfigError(f"--duration-s is {options.duration_s:g}, expected more than 0")
    findings = _findings(options)
    faults = sum(finding.level is Level.FAULT for finding in findings)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
    return EXIT_FAULTS if faults else 0


def _findings(options: argparse.Namespace) -> list[Finding]:
    files, findings = read_robot(options.robot, options.limits)
    urdf = read_urdf(read_description(options.urdf)) if options.urdf else UrdfLimits()
    findings += check_agreement(files, urdf)
    for file in (files.topics, files.embodiment_file, files.limits_file):
        findings += file.marks()
    if files.topic_map is None or files.embodiment is None:
        return findings
    trained = _trained(options.checkpoint, files, findings) if options.checkpoint else None
    limits = all_limits(files, urdf)
    is_usable = not any(each.level is Level.FAULT and each.file == files.topics.name for each in findings)
    evidence = None
    if (options.bag or options.running) and is_usable:
        evidence = _evidence(options, files)
        findings += check_evidence(files, evidence, limits)
    elif options.bag or options.running:
        print(f"{NAME}: the faults of the topic map come first; the robot was not looked at", file=sys.stderr)
    if trained is not None:
        findings += check_trained(files, trained, evidence, limits)
    if evidence is not None and options.picture:
        _draw(options.picture, files, evidence, limits, trained)
    return findings


def _evidence(options: argparse.Namespace, files: RobotFiles) -> Evidence:
    assert files.topic_map is not None and files.embodiment is not None
    with ExitStack() as stack:
        heard = None
        if options.running:
            heard = stack.enter_context(listening(options.duration_s or LISTEN_S, files.topic_map))
        bag = stack.enter_context(Bag(heard.bag if heard else options.bag, allow_partial=True))
        return gather(
            bag,
            files.topic_map,
            files.embodiment,
            source=SOURCE if heard else printable(bag.path.name),
            seconds=options.duration_s or (LISTEN_S if heard else BAG_S),
            heard=heard,
        )


def _trained(checkpoint: str, files: RobotFiles, findings: list[Finding]) -> Trained | None:
    from gr00t_training.checkpoint.reading import load_checkpoint  # torch: not needed otherwise

    assert files.embodiment is not None
    try:
        found = load_checkpoint(checkpoint, embodiment=files.embodiment)
    except CheckpointError as error:
        try:
            found = load_checkpoint(checkpoint)  # one of ours knows its embodiment, so that each item has a line
        except CheckpointError:
            findings.append(files.embodiment_file.finding(Level.FAULT, str(error)))
            return None
    return Trained(checkpoint, found.embodiment, found.statistics["state"], found.statistics["action"])


def _draw(
    path: Path, files: RobotFiles, evidence: Evidence, limits: Mapping[str, JointLimit], trained: Trained | None
) -> None:
    from gr00t_policy_node.onboard.picture import draw_sight, joint_rows  # matplotlib takes a second

    assert files.embodiment is not None
    title = f"{files.embodiment.name}: what a policy would see, from {evidence.source}"
    if evidence.fault:
        title += f"\nit would hold: {printable(evidence.fault)}"
    draw_sight(title, evidence.looks, joint_rows(files.embodiment, evidence, limits, trained), path)
    print(f"wrote {path}", file=sys.stderr)


def _print(findings: Sequence[Finding]) -> None:
    order = list(Level)
    for finding in sorted(findings, key=lambda each: (order.index(each.level), each.file, each.line)):
        print(printable(str(finding), MAX_LINE))
    counts = Counter(finding.level for finding in findings)
    print(", ".join(f"{counts[level]} {level.value}{'' if counts[level] == 1 else 's'}" for level in Level))


if __name__ == "__main__":
    sys.exit(main())
