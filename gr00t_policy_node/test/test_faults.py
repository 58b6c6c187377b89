# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Some of the faults of `bench/faults.py` on real processes, without its limits of time; and the stop topic."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from gr00t_msgs.msg import ErrorCode, PolicyStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from gr00t_test_support.builders import make_embodiment
from gr00t_test_support.ros.nodes import call
from gr00t_training.serve.server import PolicyServer, ServerSettings

faults = pytest.importorskip("bench.faults", reason="the benches are not part of an installed package")
fault_rig = pytest.importorskip("bench.fault_rig")

MAX_AGE_S = 1.0  # a loaded machine holds up good messages by less
TIMEOUT_S = 10.0  # and answers by less


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with faults.Rig(tmp_path_factory.mktemp("rig"), max_age_s=MAX_AGE_S, silence_s=60.0, timeout_s=TIMEOUT_S) as rig:
        yield rig


def outcome_of(rig: Any, name: str) -> Any:
    fault = next(fault for fault in faults.FAULTS if fault.name == name)
    outcome = faults.measure(rig, fault)
    assert outcome.problems == [], f"{outcome}\n{rig.node.output}"
    assert 0.0 < outcome.step_rad <= faults.MAX_VELOCITY * faults.PERIOD_S * (1 + 1e-9)
    return outcome


@pytest.mark.parametrize("name", ["camera stops", "wrong joint names", "NaN chunk", "stop topic"])
def test_a_fault_ends_as_promised(rig: Any, name: str) -> None:
    outcome_of(rig, name)


def test_a_lost_server_is_found_again(rig: Any) -> None:
    node = rig.node
    outcome = outcome_of(rig, "server killed")
    assert (outcome.end, rig.node) == ("hold", node)


def test_a_killed_node_begins_again_where_the_robot_is(rig: Any) -> None:
    killed = rig.node
    assert outcome_of(rig, "policy node killed").end == "commands cease"
    assert (killed.process.returncode, rig.node is killed) == (-9, False)


def test_a_server_of_another_robot_at_the_same_address_moves_nothing(rig: Any) -> None:
    rig.run()
    rig.server.process.kill()
    rig.server.process.wait()
    other = fault_rig.SwingPolicy(make_embodiment(fps=20, size=faults.SIZE))
    with PolicyServer(other, ServerSettings(port=rig.port)) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            rig.until(lambda: "another embodiment" in rig.statuses[-1].message.reason, "the other server is refused")
            assert rig.statuses[-1].message.state == PolicyStatus.HOLDING
            start = len(rig.commands)
            rig.until(lambda: len(rig.commands) >= start + 30, "commands of the hold")
            assert (np.ptp(faults.positions(rig.commands[start:]), axis=0) == 0.0).all()
        finally:
            server.stop()
            thread.join()
    rig.server = rig.start_server()
    rig.until(lambda: rig.statuses[-1].message.state == PolicyStatus.RUNNING, "the robot continues")


def test_a_stop_while_the_node_is_inactive_is_latched(rig: Any) -> None:
    def change(transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert call(rig.witness, ChangeState, "policy/change_state", request).success

    def state() -> int:
        return rig.statuses[-1].message.state

    rig.run()
    change(Transition.TRANSITION_DEACTIVATE)
    rig.until(lambda: state() == PolicyStatus.IDLE, "the node is idle")
    rig.stop_publisher.publish(Bool(data=False))  # says nothing
    rig.stop_publisher.publish(Bool(data=True))
    rig.until(lambda: state() == PolicyStatus.STOPPED, "the stop is latched")
    rig.stop_publisher.publish(Bool(data=False))  # resets nothing
    change(Transition.TRANSITION_ACTIVATE)
    answer = rig.instruct()
    assert answer.error_code == ErrorCode.STOPPED
    assert "stop topic says stop" in answer.error_msg
    assert state() == PolicyStatus.STOPPED
    assert rig.call(Trigger, "reset").success
    rig.run()
