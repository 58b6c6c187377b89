# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Read a message type that the suite does not know: encoder ticks become radians.

In your own package, put `register_codec(...)` into a module, and name that module in setup.py, so that the recorder,
the policy node and `gr00t_convert_bag` import it:

    entry_points={"gr00t_recorder.codecs": ["arm = my_package.arm_codec"]}

A topic map then uses the type like any other:

    streams: {joints: {topic: encoders, type: arm_msgs/msg/Encoders}}
    state: {arm: {stream: joints}}
"""

import argparse
import math
from types import SimpleNamespace
from typing import Any

from write_dataset import ARM

from gr00t_recorder.topics.bindings import VectorBinding
from gr00t_recorder.topics.codecs import register_codec
from gr00t_recorder.topics.vector_codec import VectorCodec

ENCODERS = "arm_msgs/msg/Encoders"  # std_msgs/Header header, int32[] ticks
TICKS_PER_TURN = 4096


def radians(message: Any) -> list[float]:
    """Return the joint angles; an exception here makes the recorder reject this message, with the reason."""
    return [2 * math.pi * ticks / TICKS_PER_TURN for ticks in message.ticks]


def main() -> None:
    """Register the codec and read one message, as the recorder and the converter do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, nargs=2, default=[1024, -512], help="of the message (default: 1024 -512)")
    message = SimpleNamespace(ticks=parser.parse_args().ticks)  # live and from bags, messages have these attributes
    register_codec(ENCODERS, radians, names=lambda _: ARM.names)
    codec = VectorCodec("state.arm", ENCODERS, VectorBinding(stream="joints"), ARM)
    channels = codec.decode(message)
    assert channels is not None  # None: the message has none of the channels
    for name, ticks, angle_rad in zip(ARM.names, message.ticks, channels.values, strict=True):
        print(f"{name}: {ticks} ticks = {angle_rad:.3f} rad")


if __name__ == "__main__":
    main()
