# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command line of policy_node, and requests that are invalid, with the real process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState

from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_test_support.ros.nodes import Peer

MODULE = "gr00t_policy_node.ros.policy_node"


COMMAND_LINES = [  # words, exit code, text
    ("--help", 0, "max_input_gap_s (decimal number; 0 to 3600; default 10.0)"),
    ("--ros-args -p dry_rn:=true", 2, "unknown parameter 'dry_rn' (did you mean 'dry_run'?)"),
    ("--ros-args --params-file absent.yaml", 2, "absent.yaml: cannot be read"),
    ("--ros-args --param-file a.yaml", 2, "did you mean '--params-file'?"),
    ("--ros-args --log-level loud", 2, "--log-level 'loud': expected one of debug, info"),
]


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, NodeProcess]]:
    """The nodes of `COMMAND_LINES`, started together: a start takes seconds."""
    with ExitStack() as opened:
        yield {
            words: opened.enter_context(NodeProcess(MODULE, *words.split(), domain=next_domain()))
            for words, *_ in COMMAND_LINES
        }


@pytest.mark.parametrize(("words", "code", "text"), COMMAND_LINES)
def test_the_command_line_is_checked_in_one_line(
    started: dict[str, NodeProcess], words: str, code: int, text: str
) -> None:
    process = started[words]
    assert process.wait() == code
    output = process.output
    assert text in output
    if code:
        lines = output.splitlines()
        assert len(lines) == 1 and lines[0].startswith("policy_node: error: ")


def test_an_invalid_transition_is_refused_and_the_node_lives_on() -> None:
    domain = next_domain()
    with NodeProcess(MODULE, domain=domain) as process, Peer(domain) as peer:
        for transition in (Transition(id=Transition.TRANSITION_ACTIVATE), Transition(id=99), Transition(label="run")):
            assert not peer.call(ChangeState, "policy/change_state", transition=transition).success
        assert peer.call(GetState, "policy/get_state").current_state.label == "unconfigured"
        assert process.process.poll() is None
