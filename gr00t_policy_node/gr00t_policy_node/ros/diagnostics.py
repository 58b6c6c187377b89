# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Tell the state of the policy: typed status and `/diagnostics`."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
from gr00t_msgs.msg import PolicyStatus, StreamStatus
from rclpy.time import Time

from gr00t_policy_node.controller import ControlReport, ControlState
from gr00t_policy_node.inference import LatencyWindow
from gr00t_recorder.ros.status import key_value

STATES = {
    ControlState.IDLE: PolicyStatus.IDLE,
    ControlState.RUNNING: PolicyStatus.RUNNING,
    ControlState.HOLDING: PolicyStatus.HOLDING,
    ControlState.STOPPED: PolicyStatus.STOPPED,
}
LEVELS = {
    ControlState.IDLE: DiagnosticStatus.OK,
    ControlState.RUNNING: DiagnosticStatus.OK,
    ControlState.HOLDING: DiagnosticStatus.WARN,
    ControlState.STOPPED: DiagnosticStatus.ERROR,
}


def policy_status(
    now: Time,
    embodiment: str,
    report: ControlReport,
    inference: LatencyWindow,
    observation: LatencyWindow,
    streams: list[StreamStatus],
) -> PolicyStatus:
    """Return the status message."""
    status = PolicyStatus(
        state=STATES[report.state],
        reason=report.reason,
        instruction=report.instruction,
        embodiment=embodiment,
        chunks=report.chunks,
        refused_observations=report.refused_observations,
        refused_chunks=report.refused_chunks,
        limited_commands=report.limited_commands,
        underruns=report.underruns,
        streams=streams,
    )
    status.header.stamp = now.to_msg()
    status.inference_latency_p50, status.inference_latency_p95 = inference.quantiles(0.5, 0.95)
    status.observation_latency_p50, status.observation_latency_p95 = observation.quantiles(0.5, 0.95)
    return status


def policy_diagnostic(node_name: str, report: ControlReport, latencies: dict[str, LatencyWindow]) -> DiagnosticStatus:
    """Return the diagnostic of the policy itself, with the quantiles of each latency [s]."""
    values = [
        key_value("instruction", report.instruction),
        key_value("chunks", report.chunks),
        key_value("refused observations", report.refused_observations),
        key_value("refused chunks", report.refused_chunks),
        key_value("limited commands", report.limited_commands),
        key_value("underruns", report.underruns),
    ]
    for name, window in latencies.items():
        for share, quantile in zip((50, 95, 99), window.quantiles(0.5, 0.95, 0.99), strict=True):
            values.append(key_value(f"{name} p{share} [s]", quantile))
    return DiagnosticStatus(
        level=LEVELS[report.state],
        name=f"{node_name}: policy",
        message=report.reason or report.state.value,
        hardware_id=node_name,
        values=values,
    )
