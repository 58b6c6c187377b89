# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Tell the state of the policy: typed status and `/diagnostics`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from gr00t_msgs.msg import Count, PolicyStatus, StreamStatus
from gr00t_msgs.msg import Quantiles as QuantilesMsg
from rclpy.time import Time

from gr00t_policy_node.control_state import ControlReport, ControlState
from gr00t_policy_node.timing import Measurements, Quantiles, Stage
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
    gates: Mapping[str, int],
    measured: Measurements,
    streams: list[StreamStatus],
) -> PolicyStatus:
    """Return the status message; `gates` counts what closed one."""
    inference, observation = measured.stage(Stage.POLICY_CALL), measured.stage(Stage.OBSERVATION_TO_CHUNK)
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
        inference_latency_p50=inference.p50,
        inference_latency_p95=inference.p95,
        observation_latency_p50=observation.p50,
        observation_latency_p95=observation.p95,
        streams=streams,
        stale_chunks=report.stale_chunks,
        violations=report.violations,
        gates=_counts(gates),
        holds=_counts({cause.value: count for cause, count in report.holds.items()}),
        stops=_counts({cause.value: count for cause, count in report.stops.items()}),
        clamps=_counts({kind.value: count for kind, count in report.clamps.items()}),
        stages=_quantiles(measured.stages),
        jitter=_quantiles(measured.jitter),
    )
    status.header.stamp = now.to_msg()
    return status


def policy_diagnostics(
    node_name: str, report: ControlReport, gates: Mapping[str, int], measured: Measurements
) -> list[DiagnosticStatus]:
    """Return the diagnostics of the policy itself: counts, stages and smoothness."""
    counts = {
        "chunks": report.chunks,
        "refused observations": report.refused_observations,
        "refused chunks": report.refused_chunks,
        "stale chunks": report.stale_chunks,
        "limited commands": report.limited_commands,
        "violations": report.violations,
        "underruns": report.underruns,
        **{f"refused: {gate}": count for gate, count in gates.items()},
        **{f"held: {cause.value}": count for cause, count in report.holds.items()},
        **{f"stopped: {cause.value}": count for cause, count in report.stops.items()},
        **{f"limited: {kind.value}": count for kind, count in report.clamps.items()},
    }
    values = [key_value("instruction", report.instruction), *(key_value(*item) for item in counts.items())]
    timing = [entry for found in measured.stages for entry in _entries(found, " [ms]", 1e3)]
    jitter = [entry for found in measured.jitter for entry in _entries(found)]

    def status(part: str, message: str, values: list[KeyValue], level: bytes = DiagnosticStatus.OK) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level, name=f"{node_name}: {part}", message=message, hardware_id=node_name, values=values
        )

    return [
        status("policy", report.reason or report.state.value, values, LEVELS[report.state]),
        status("timing", "of the last minute", timing),
        status("smoothness", "of the last minute", jitter),
    ]


def _counts(counts: Mapping[str, int]) -> list[Count]:
    return [Count(name=name, count=count) for name, count in counts.items()]


def _quantiles(found: Iterable[Quantiles]) -> list[QuantilesMsg]:
    return [
        QuantilesMsg(name=each.name, count=each.count, p50=each.p50, p95=each.p95, p99=each.p99, worst=each.worst)
        for each in found
    ]


def _entries(found: Quantiles, unit: str = "", scale: float = 1.0) -> list[KeyValue]:
    """Return the entries of a quantity; of one that was not measured there is only the count."""
    entries = [key_value(f"{found.name} count", found.count)]
    if found.count:
        shares = {"p50": found.p50, "p95": found.p95, "p99": found.p99, "worst": found.worst}
        entries += [key_value(f"{found.name} {share}{unit}", scale * value) for share, value in shares.items()]
    return entries
