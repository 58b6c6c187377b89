# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Error codes of services and actions, for refusals and results."""

from __future__ import annotations

from gr00t_msgs.msg import ErrorCode

from gr00t_recorder.episodes.requests import Refusal, RefusedError
from gr00t_recorder.episodes.run import EpisodeResult
from gr00t_training.io.text import TextError, TextFault

TEXT_CODES = {
    TextFault.EMPTY: ErrorCode.EMPTY_TEXT,
    TextFault.TOO_LONG: ErrorCode.TEXT_TOO_LONG,
    TextFault.CONTROL_CHARACTER: ErrorCode.INVALID_TEXT,
}
REFUSAL_CODES = {
    Refusal.NOT_ACTIVE: ErrorCode.NOT_ACTIVE,
    Refusal.BUSY: ErrorCode.BUSY,
    Refusal.STREAMS_NOT_READY: ErrorCode.STREAMS_NOT_READY,
    Refusal.CLOCK_STOPPED: ErrorCode.CLOCK_STOPPED,
    Refusal.DISK_FULL: ErrorCode.DISK_FULL,
    Refusal.NO_TASK: ErrorCode.NO_TASK,
    Refusal.NO_EPISODE: ErrorCode.NO_EPISODE,
    Refusal.WRITE_FAILED: ErrorCode.WRITE_FAILED,
}


def refusal_code(error: RefusedError | TextError) -> int:
    """Return the error code of a refused request."""
    return TEXT_CODES[error.fault] if isinstance(error, TextError) else REFUSAL_CODES[error.refusal]


def result_code(result: EpisodeResult, *, is_discard_requested: bool = False) -> int:
    """Return how an episode ended; NONE when it is saved, or discarded as this very client requested."""
    if result.is_saved:
        return ErrorCode.NONE
    if result.is_empty:
        return ErrorCode.TOO_SHORT
    if result.is_discarded:
        return ErrorCode.NONE if is_discard_requested else ErrorCode.DISCARDED
    return ErrorCode.WRITE_FAILED
