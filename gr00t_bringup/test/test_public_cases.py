# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Inputs from public reports of comparable systems, each with what a user should get.

The inputs are not part of this repository: `GR00T_CASES` names their folder (default `../shared/cases`).
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from gr00t_test_support.forked_python import programs

REPOSITORY = Path(__file__).resolve().parents[2]
CASES = Path(os.environ.get("GR00T_CASES", REPOSITORY.parent / "shared" / "cases"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.is_dir(), reason="cases of public reports (GR00T_CASES)"),
]

OK, FAULTS, REFUSED = 0, 1, 2


@dataclass(frozen=True)
class Step:
    """One command of a case and what it printed."""

    command: str
    code: int
    output: str


@dataclass(frozen=True)
class Expected:
    """What the commands that match `command` must give."""

    command: str  # regular expression
    codes: tuple[int, ...]
    says: str = ""  # regular expression in the output, or empty
    never: str = ""  # regular expression that may not be in it


NO_FAULTS = Expected(r"dataset validate", (OK,), r"\b0 faults")
TRAINS = Expected(r"finetune", (OK,), r"saved run_")
CONVERTS = Expected(r"dataset convert", (OK,), r"3 episodes, 155 frames")
LFS = r"is a Git LFS pointer, not the file; run 'git lfs pull'"
EXPECTED = {
    "01": [Expected("convert_bag", (OK,), r"warning: .*two publishers.*/joint_states")],
    "02": [Expected("validate", (FAULTS,), "target"), TRAINS, CONVERTS],
    "03": [
        Expected(
            "convert_bag bag .*pick$",
            (FAULTS,),
            r"/joint_states: a message with an impossible log time of 9223372036854775807",
        ),
        Expected("--allow-partial", (OK,), r"1 messages .*left out[\s\S]*1 episodes, 20 rows"),
        Expected("--dry-run", (FAULTS,), "log time of 9223372036854775807"),
        Expected("bag2", (FAULTS,), r"/joint_states: .*log time"),
    ],
    "04": [Expected("repair", (OK,), "", "cannot be repaired"), Expected("validate v21_plain", (OK,))],
    "05": [Expected("validate|stats", (OK,)), TRAINS, CONVERTS],
    "06": [TRAINS, Expected("repair", (OK, FAULTS), "", "unhashable|not of the expected form")],
    "07": [NO_FAULTS, TRAINS],
    "09": [
        Expected("validate", (FAULTS,), "episode 1", "nan"),
        TRAINS,
        Expected("convert", (OK,), "episode 1 has no rows and is left out"),
        Expected("stats", (OK,)),
    ],
    "10": [  # GR00T N1 needs the plain names: a fault that repair fixes
        Expected("info", (OK,), "160x120"),
        Expected("validate", (FAULTS,), r"\b2 faults", "restore the file"),
        TRAINS,
        CONVERTS,
    ],
    "11": [NO_FAULTS, TRAINS, CONVERTS],
    "13": [Expected("info", (OK,)), NO_FAULTS, TRAINS],
    "14": [Expected("--output", (OK,), "1 episodes, 20 rows"), Expected("--suggest", (OK,), r"wrote sug/topics.yaml")],
    "15": [Expected("--output", (OK,), "1 episodes, 10 rows"), Expected("--suggest", (OK,), r"wrote sug/topics.yaml")],
    "17": [
        Expected("convert_bag bag .*pick$", (FAULTS,), r"b_1.mcap: is empty .*--allow-partial"),
        Expected("--allow-partial|bag_mac", (OK,), "1 episodes, 20 rows"),
    ],
    "18": [Expected("convert_bag bag .*pick$", (OK,), r"pick_run.mcap is used for|already converted")],
    "19": [NO_FAULTS, TRAINS],
    "24": [
        Expected("adapter", (REFUSED,), r"adapter .* of some/base[\s\S]*merge"),
        Expected("pytorch_bin", (REFUSED,), r"pytorch_model.bin"),
        Expected("deepspeed", (REFUSED,), "zero_to_fp32"),
    ],
    "25": [
        Expected("convert_bag bag ", (FAULTS,), r"/image_raw are 1.7e9 s before .*stamp: receive.*front"),
        Expected("bag_frozen", (FAULTS,), r"/image_raw do not advance"),
    ],
    "27": [
        Expected("info", (OK,)),
        Expected("validate", (FAULTS,), r"observation.images.front: .*encode them as video", "correct meta/modality"),
        Expected("finetune", (REFUSED,), r"observation.images.front.*encode them as video"),
    ],
    "29": [Expected("", (FAULTS, REFUSED), LFS)],
    "31": [Expected("repair", (OK, FAULTS), "(before: 0 of 155|0 of 155)")],
    "32": [Expected("repair ds", (OK,), "nothing to repair"), Expected("convert", (OK,)), NO_FAULTS],
}
LOOSE_LINES = {  # what a case prints outside its commands
    "21": (r"gripper.urdf -> \[", r"mimic_unknown.urdf -> \["),
    "32": (r"episode_000002.mp4: 0 of 50 rows", r"from_timestamp now \[2.0, 3.5\]"),
}


def steps_of(text: str) -> list[Step]:
    """Split what a case printed into its commands."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    steps = []
    for part in parts:
        command, _, rest = part.partition("\n")
        code = re.search(r"^ +rc=(\d+)$", rest, flags=re.MULTILINE)
        assert code, f"no exit code after: {command}"
        steps.append(Step(command, int(code[1]), rest))
    return steps


def run_case(name: str) -> str:
    """Run a case with this installation's commands; return what it printed."""
    script = next(CASES.glob(f"{name}*/run.sh"), None)
    if script is None:
        pytest.skip(f"no case {name}")
    environment = {**os.environ, "GR00T_BIN": str(programs()), "TAIL": "40"}
    done = subprocess.run(
        ["bash", str(script)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1200
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CASES.glob("*/run.sh")))
def test_what_users_reported_is_answered(name):
    text = run_case(name)
    assert "Traceback" not in text
    assert "dumped" not in text
    steps = steps_of(text)
    for step in steps:
        assert step.code in (OK, FAULTS, REFUSED), f"{step.command}\n{step.output}"
    for expected in EXPECTED.get(name.partition("-")[0], []):
        matching = [step for step in steps if re.search(expected.command, step.command)]
        assert matching, f"no command matches {expected.command}"
        for step in matching:
            assert step.code in expected.codes, f"{step.command}\n{step.output}"
            assert re.search(expected.says, step.output), f"{step.command}\n{step.output}"
            assert not expected.never or not re.search(expected.never, step.output), f"{step.command}\n{step.output}"
    for pattern in LOOSE_LINES.get(name.partition("-")[0], ()):
        assert re.search(pattern, text), text
