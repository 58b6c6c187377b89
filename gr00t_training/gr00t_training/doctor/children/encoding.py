# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Encode a few frames with every encoder that the recorder knows, and look for the decoders."""

from __future__ import annotations

import json
import sys

import av
from av.codec import Codec

from gr00t_training.dataset.media.encoders import VideoCodec, VideoEncoder, VideoSettings, check_encoder
from gr00t_training.errors import ConfigError


def main(height: int, width: int, fps: int) -> None:
    """Print for `codec encoder` and `codec decoder` why it does not work; empty: it does."""
    found = {}
    for codec in VideoCodec:
        for encoder in VideoEncoder:
            try:
                check_encoder(VideoSettings(codec=codec, encoder=encoder), height, width, fps)
                found[f"{codec.value} {encoder.value}"] = ""
            except ConfigError as error:
                _, _, reason = str(error).partition("does not work here (")
                found[f"{codec.value} {encoder.value}"] = reason.partition(");")[0] or str(error)
        try:
            Codec(codec.value, "r")
            found[f"{codec.value} decoder"] = ""
        except ValueError:
            found[f"{codec.value} decoder"] = "this ffmpeg has none"
    print(f"\n{json.dumps({'version': av.__version__, 'failures': found})}")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:4]))
