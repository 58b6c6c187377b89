# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn chunks into messages."""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Duration
from gr00t_msgs.msg import ActionChunk as ActionChunkMsg
from rclpy.time import Time

from gr00t_training.embodiment import Embodiment
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


def duration(nanoseconds: int) -> Duration:
    """Return a duration message."""
    return Duration(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
