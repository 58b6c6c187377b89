# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Make the messages that report the state of the policy: typed status and `/diagnostics`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from gr00t_msgs.msg import CommandSource as CommandSourceMsg
from gr00t_msgs.msg import Count, PolicyStatus, StreamStatus
from gr00t_msgs.msg import Quantiles as QuantilesMsg
from rclpy.time import Time

from gr00t_policy_node.control.state import CommandSource, ControlReport, ControlState, HoldCause, StopCause
from gr00t_policy_node.timing import Measurements, Quantiles, Stage
from gr00t_recorder.ros.status import key_value

STATES = {
    ControlState.IDLE: PolicyStatus.IDLE,
    ControlState.RUNNING: PolicyStatus.RUNNING,
    ControlState.HOLDING: PolicyStatus.HOLDING,
    ControlState.STOPPED: PolicyStatus.STOPPED,
}
SOURCES = {
    CommandSource.NONE: CommandSourceMsg.NONE,
    CommandSource.POLICY: CommandSourceMsg.POLICY,
    CommandSource.PERSON: CommandSourceMsg.PERSON,
    CommandSource.MOTION: CommandSourceMsg.MOTION,
    CommandSource.HOLD: CommandSourceMsg.HOLD,
    CommandSource.STOP: CommandSourceMsg.STOP,
}
CAUSES = {
    None: PolicyStatus.CAUSE_NONE,
    HoldCause.WAITING: PolicyStatus.CAUSE_WAITING,
    HoldCause.INPUT: PolicyStatus.CAUSE_INPUT,
    HoldCause.PUBLISHERS: PolicyStatus.CAUSE_PUBLISHERS,
    HoldCause.STATE_RANGE: PolicyStatus.CAUSE_STATE_RANGE,
    HoldCause.CLOCK: PolicyStatus.CAUSE_CLOCK,
    HoldCause.OUTPUT: PolicyStatus.CAUSE_OUTPUT,
    HoldCause.POLICY: PolicyStatus.CAUSE_POLICY,
    HoldCause.CHUNK: PolicyStatus.CAUSE_CHUNK,
    HoldCause.UNDERRUN: PolicyStatus.CAUSE_UNDERRUN,
    HoldCause.POSE: PolicyStatus.CAUSE_POSE,
    HoldCause.LINK: PolicyStatus.CAUSE_LINK,
    HoldCause.ALIGN: PolicyStatus.CAUSE_ALIGN,
    HoldCause.ASKED: PolicyStatus.CAUSE_HOLD,
    StopCause.REQUEST: PolicyStatus.CAUSE_REQUEST,
    StopCause.SILENCE: PolicyStatus.CAUSE_SILENCE,
    StopCause.LIMITS: PolicyStatus.CAUSE_LIMITS,
    StopCause.INPUT: PolicyStatus.CAUSE_INPUT,
    StopCause.PUBLISHERS: PolicyStatus.CAUSE_PUBLISHERS,
    StopCause.STATE_RANGE: PolicyStatus.CAUSE_STATE_RANGE,
    StopCause.CLOCK: PolicyStatus.CAUSE_CLOCK,
    StopCause.OUTPUT: PolicyStatus.CAUSE_OUTPUT,
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
    input_fault: str = "",
) -> PolicyStatus:
    """Return the status message; `gates` counts what closed one, `input_fault` is what is wrong with the inputs."""
    inference, observation = measured.stage(Stage.POLICY_CALL), measured.stage(Stage.OBSERVATION_TO_CHUNK)
    status = PolicyStatus(
        state=STATES[report.state],
        reason=report.reason,
        cause=CAUSES[report.cause],
        input_fault=input_fault,
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
        command_source=SOURCES[report.source],
        device=report.device,
        teleop_fault=report.teleop_fault,
        takeovers=report.takeovers,
    )
    status.header.stamp = now.to_msg()
    return status


def policy_diagnostics(
    node_name: str,
    report: ControlReport,
    gates: Mapping[str, int],
    measured: Measurements,
    input_fault: str = "",
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
        "takeovers": report.takeovers,
        **{f"refused: {gate}": count for gate, count in gates.items()},
        **{f"held: {cause.value}": count for cause, count in report.holds.items()},
        **{f"stopped: {cause.value}": count for cause, count in report.stops.items()},
        **{f"limited: {kind.value}": count for kind, count in report.clamps.items()},
    }
    cause = report.cause.value if report.cause else ""
    texts = {
        "instruction": report.instruction,
        "cause": cause,
        "input fault": input_fault,
        "command source": report.source.value,
        "device": report.device,
        "teleop fault": report.teleop_fault,
    }
    values = [*(key_value(*item) for item in texts.items()), *(key_value(*item) for item in counts.items())]
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
