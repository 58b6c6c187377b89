# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn messages into what pages show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gr00t_msgs.msg import ActionChunk, PolicyStatus, RecorderStatus, StreamStatus

from gr00t_bringup.ros.view_messages import SOURCE_NAMES, STATE_NAMES
from gr00t_console.robot import PolicyView
from gr00t_policy_node.ros.diagnostics import CAUSES
from gr00t_recorder.ros.status import ANSWERS
from gr00t_recorder.ros.status import STATES as STREAM_STATES
from gr00t_recorder.ros.terminal import NAMES as RECORDER_STATES

MAX_CHUNK_ROWS = 64  # of a picture of a chunk
CAUSE_NAMES = {number: cause.value if cause else "" for cause, number in CAUSES.items()}
STREAM_NAMES = {number: state.value for state, number in STREAM_STATES.items()}
SAID = {number: answer for answer, number in ANSWERS.items()}


def policy_view(status: PolicyStatus) -> PolicyView:
    """Return what decisions need of a status."""
    return PolicyView(
        state=STATE_NAMES.get(status.state, ""),
        source=SOURCE_NAMES.get(status.command_source, ""),
        device=status.device,
        cause=CAUSE_NAMES.get(status.cause, ""),
        fault=status.teleop_fault,
        chunks=status.chunks,
        holds=sum(each.count for each in status.holds),
        clamps=status.limited_commands,
        stops=sum(each.count for each in status.stops),
        takeovers=status.takeovers,
    )


def policy_section(status: PolicyStatus) -> dict[str, Any]:
    """Return the status of a policy node."""
    return {
        "state": STATE_NAMES.get(status.state, ""),
        "cause": CAUSE_NAMES.get(status.cause, ""),
        "source": SOURCE_NAMES.get(status.command_source, ""),
        **_texts(status, "reason", "instruction", "embodiment", "input_fault", "device", "teleop_fault"),
        **_texts(status, "chunks", "refused_observations", "refused_chunks", "stale_chunks", "limited_commands"),
        **_texts(status, "violations", "underruns", "takeovers"),
        "streams": _streams(status.streams),
        **{name: {each.name: each.count for each in getattr(status, name)} for name in ("gates", "holds", "stops")},
        "clamps": {each.name: each.count for each in status.clamps},
        "stages": [_quantiles(each) for each in status.stages],
        "jitter": [_quantiles(each) for each in status.jitter],
    }


def recorder_section(status: RecorderStatus) -> dict[str, Any]:
    """Return the status of a recorder."""
    return {
        "state": RECORDER_STATES.get(status.state, ""),
        **_texts(status, "reason", "warning", "dataset_path", "episode_index", "episodes", "task", "frames", "queued"),
        **_texts(status, "spilled", "progress", "duration", "can_redo", "disk_free", "disk_duration", "bag_path"),
        **_texts(status, "bag_messages", "bag_dropped", "ended_by_itself"),
        "success": SAID.get(status.marks.success),
        "valid": SAID.get(status.marks.valid),
        "note": status.marks.note,
        "streams": _streams(status.streams),
    }


def chunk_section(chunk: ActionChunk) -> dict[str, Any]:
    """Return a predicted chunk; long ones with every second, third, ... row."""
    rows = np.asarray(chunk.data, np.float64).reshape(chunk.horizon, -1)
    stride = -(-len(rows) // MAX_CHUNK_ROWS) or 1
    return {
        "sequence": chunk.sequence,
        "start_s": seconds(chunk.header.stamp),
        "step_s": seconds(chunk.step) * stride,
        "names": list(chunk.names),
        "rows": rows[::stride].tolist(),
    }


def seconds(stamp: Any) -> float:
    """Return a time or duration message in seconds."""
    return stamp.sec + stamp.nanosec * 1e-9


def _streams(statuses: Iterable[StreamStatus]) -> list[dict[str, Any]]:
    return [
        {
            "state": STREAM_NAMES.get(each.state, ""),
            **_texts(each, "name", "topic", "reason", "rate", "age", "max_age", "received", "used", "late", "dropped"),
        }
        for each in statuses
    ]


def _quantiles(found: Any) -> dict[str, Any]:
    return _texts(found, "name", "count", "p50", "p95", "p99", "worst")


def _texts(message: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names}
