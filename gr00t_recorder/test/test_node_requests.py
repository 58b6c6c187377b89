# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Requests that rclpy's own services cannot take do not end a node."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically

from gr00t_recorder.ros.processes import NodeProcess, next_domain
from gr00t_test_support.ros.nodes import Peer

TRANSITIONS = [
    Transition(id=Transition.TRANSITION_ACTIVATE),
    Transition(id=Transition.TRANSITION_DEACTIVATE),
    Transition(id=0),
    Transition(id=99),
    Transition(label="activate"),
    Transition(label="transition_success"),
    Transition(label="nonsense\x1b[2J"),
]


def test_invalid_requests_are_refused_and_the_recorder_lives_on() -> None:
    domain = next_domain()
    with NodeProcess("gr00t_recorder.ros.recorder_node", domain=domain) as process, Peer(domain) as peer:
        for transition in TRANSITIONS:
            assert not peer.call(ChangeState, "recorder/change_state", transition=transition).success
        unknown_type = Parameter(name="task", value=ParameterValue(type=99))
        peer.call(SetParameters, "recorder/set_parameters", parameters=[unknown_type])
        atomic = peer.call(SetParametersAtomically, "recorder/set_parameters_atomically", parameters=[unknown_type])
        assert not atomic.result.successful
        assert peer.call(GetState, "recorder/get_state").current_state.label == "unconfigured"
        assert process.process.poll() is None
        output = process.output
    assert "lifecycle transition 'activate' refused in state 'unconfigured'; possible: configure, shutdown" in output
    assert "lifecycle transition with id 99 refused" in output and "\x1b[2J" not in output
    assert "99 is not a valid Parameter.Type" in output and "Traceback" not in output
