# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn statuses and chunks into what views show."""

from __future__ import annotations

from typing import Any

import numpy as np
from gr00t_msgs.msg import ActionChunk, PolicyStatus, RecorderStatus

from gr00t_bringup.views.notes import PolicyNote, RecorderNote
from gr00t_policy_node.ros.diagnostics import SOURCES, STATES
from gr00t_recorder.ros.terminal import NAMES as RECORDER_STATES
from gr00t_recorder.topics.codecs import stamp_of

STATE_NAMES = {number: state.value for state, number in STATES.items()}
SOURCE_NAMES = {number: source.value for source, number in SOURCES.items()}


def policy_note(status: PolicyStatus) -> PolicyNote:
    """Return the status of a policy node."""
    kinds = {"hold": status.holds, "stop": status.stops, "clamp": status.clamps, "gate": status.gates}
    return PolicyNote(
        stamp_ns=stamp_of(status) or 0,
        state=STATE_NAMES.get(status.state, ""),
        reason=status.reason,
        instruction=status.instruction,
        source=SOURCE_NAMES.get(status.command_source, ""),
        device=status.device,
        counts={kind: {each.name: each.count for each in found} for kind, found in kinds.items()},
        totals={name: getattr(status, name) for name in ("chunks", "refused_chunks", "stale_chunks", "underruns")},
        latencies_s={each.name: (each.p50, each.p95) for each in status.stages if each.count and not _is_age(each)},
        ages_s=_ages(status.streams),
    )


def recorder_note(status: RecorderStatus) -> RecorderNote:
    """Return the status of a recorder."""
    return RecorderNote(
        stamp_ns=stamp_of(status) or 0,
        state=RECORDER_STATES.get(status.state, ""),
        reason=status.reason,
        warning=status.warning,
        task=status.task,
        totals={"episodes": status.episodes, "rows": status.frames, "waiting_rows": status.queued},
        ages_s=_ages(status.streams),
    )


def chunk_rows(chunk: ActionChunk) -> np.ndarray:
    """Return the rows (H, N) of a chunk."""
    return np.asarray(chunk.data, np.float64).reshape(chunk.horizon, -1)


def step_ns(chunk: ActionChunk) -> int:
    """Return the time between two rows."""
    return chunk.step.sec * 1_000_000_000 + chunk.step.nanosec


def _is_age(stage: Any) -> bool:
    return stage.name.startswith("age ")  # the streams have it


def _ages(streams: Any) -> dict[str, float]:
    return {each.name: each.age for each in streams if each.age >= 0}
