# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn chunks and commands into messages."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from gr00t_msgs.msg import ActionChunk as ActionChunkMsg
from rclpy.time import Time
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from gr00t_recorder.topics.bindings import CommandConfig
from gr00t_training.embodiment import Embodiment, VectorKey
from gr00t_training.types import ActionChunk


class ChunkCodec:
    """Makes the message of a chunk; what every chunk of an embodiment has in common is worked out once."""

    def __init__(self, embodiment: Embodiment) -> None:
        """Prepare for the action keys that the model of `embodiment` produces."""
        keys = embodiment.action_keys
        self._keys = keys
        self._constant = {
            "embodiment": embodiment.name,
            "embodiment_fingerprint": embodiment.fingerprint(),
            "keys": list(keys),
            "dims": [embodiment.action[key].dim for key in keys],
            "names": [name for key in keys for name in embodiment.action[key].names],
        }

    def encode(self, chunk: ActionChunk) -> ActionChunkMsg:
        """Return the chunk without its sequence number and latencies, which the node knows."""
        message = ActionChunkMsg(**self._constant, horizon=chunk.horizon, step=duration(chunk.step_ns))
        message.header.stamp = Time(nanoseconds=chunk.start_ns).to_msg()
        rows = np.concatenate([chunk.actions[key] for key in self._keys], axis=1)
        message.data = array.array("f", np.ascontiguousarray(rows, np.float32).tobytes())
        return message


class CommandCodec:
    """Picks one command topic's channels out of the controller's command and makes its message."""

    def __init__(self, config: CommandConfig, keys: Mapping[str, VectorKey], period_ns: int) -> None:
        """`keys` are the controller's action keys in order; `period_ns` is the control period."""
        wanted = config.keys or tuple(keys)
        starts = dict(zip(keys, np.cumsum([0, *(vector.dim for vector in keys.values())]), strict=False))
        self._indices = np.concatenate([np.arange(starts[key], starts[key] + keys[key].dim) for key in wanted])
        self._names: Sequence[str] = config.names or [name for key in wanted for name in keys[key].names]
        self._period = duration(period_ns)
        self.message_type: Any = JointTrajectory if config.type.endswith("JointTrajectory") else Float64MultiArray

    def encode(self, positions: np.ndarray) -> Any:
        """Return the message for a command (N,)."""
        values = positions[self._indices].tolist()
        if self.message_type is Float64MultiArray:
            return Float64MultiArray(data=values)
        # stamp zero: start now; reached within a control period, so the controller interpolates between ticks
        point = JointTrajectoryPoint(positions=values, time_from_start=self._period)
        return JointTrajectory(joint_names=list(self._names), points=[point])


def duration(nanoseconds: int) -> Duration:
    """Return a duration message."""
    return Duration(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
