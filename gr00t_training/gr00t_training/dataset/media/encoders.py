# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Video encoders, their options, and a check that one works on this machine.

An encoder that ffmpeg lists may still not work (NVENC needs a driver and a suitable GPU), so a few frames are encoded
with the same settings before the first recording.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import cast

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext

from gr00t_training.errors import ConfigError
from gr00t_training.io.machine import kept_scheduling
from gr00t_training.settings import setting


class VideoCodec(str, Enum):
    """Codec of the written videos, by the codec's own name."""

    H264 = "h264"
    HEVC = "hevc"
    AV1 = "av1"


class VideoEncoder(str, Enum):
    """What encodes."""

    SOFTWARE = "software"
    NVENC = "nvenc"


@dataclass(frozen=True)
class VideoSettings:
    """How images are encoded: yuv420p, no B-frames, key frames close together."""

    codec: VideoCodec = setting(
        VideoCodec.H264,
        "Codec: h264 opens everywhere; hevc and av1 files are smaller and take longer to write; GR00T's torchvision "
        "back end shows only the first frame of hevc.",
    )
    crf: int = setting(20, "Constant rate factor, or NVENC's cq: lower is better and larger.", ge=0, le=51)
    gop: int = setting(2, "Distance of key frames [frames]; small values make random access fast.", ge=1, le=250)
    preset: str = setting("", "Encoder preset; empty: a fast one that is visually lossless at the default crf.")
    encoder: VideoEncoder = setting(VideoEncoder.SOFTWARE, "What encodes: software, or nvenc (NVIDIA's encoder).")

    @property
    def encoder_name(self) -> str:
        """Ffmpeg's name of the encoder."""
        return _ENCODERS[self.codec, self.encoder].name

    @property
    def encoder_options(self) -> dict[str, str]:
        """Options for the encoder."""
        entry = _ENCODERS[self.codec, self.encoder]
        encoding = {"preset": self.preset} if self.preset else entry.fast
        return {"g": str(self.gop), **entry.options(self), **encoding}


@dataclass(frozen=True)
class _Entry:
    """An encoder of ffmpeg."""

    name: str
    options: Callable[[VideoSettings], dict[str, str]]  # quality, and packets in the order of presentation
    fast: dict[str, str]  # options if no preset is given
    min_side: int = 2  # [px]


def _x265_options(settings: VideoSettings) -> dict[str, str]:
    # libx265 ignores ffmpeg's options for B-frames and for the minimum distance of key frames
    params = f"bframes=0:keyint={settings.gop}:min-keyint=1:open-gop=0:log-level=error"
    return {"crf": str(settings.crf), "x265-params": params}


def _nvenc_options(settings: VideoSettings) -> dict[str, str]:
    return {"rc": "vbr", "cq": str(settings.crf), "b": "0", "bf": "0", "strict_gop": "1", "forced-idr": "1"}


def _av1_nvenc_options(settings: VideoSettings) -> dict[str, str]:
    return {"rc": "vbr", "cq": str(settings.crf), "b": "0", "bf": "0", "strict_gop": "1"}


_ENCODERS: dict[tuple[VideoCodec, VideoEncoder], _Entry] = {
    (VideoCodec.H264, VideoEncoder.SOFTWARE): _Entry(
        "libx264",
        lambda settings: {"crf": str(settings.crf), "bf": "0"},
        # x264's ultrafast plus the cheap tools that it turns off: half the time of veryfast, a higher signal-to-noise
        # ratio, and files that are 20 to 33 % larger (bench/convert.py)
        {"preset": "ultrafast", "x264-params": "cabac=1:8x8dct=1:no-deblock=0"},
    ),
    (VideoCodec.HEVC, VideoEncoder.SOFTWARE): _Entry(
        "libx265",
        _x265_options,
        {"preset": "ultrafast"},
        min_side=64,  # x265 4.1 overwrites memory with images of 48x32
    ),
    (VideoCodec.AV1, VideoEncoder.SOFTWARE): _Entry(
        "libsvtav1",
        # low delay: otherwise tens of frames wait in the encoder and are lost in a kill
        lambda settings: {"crf": str(settings.crf), "svtav1-params": "pred-struct=1"},
        {"preset": "8"},
    ),
    (VideoCodec.H264, VideoEncoder.NVENC): _Entry("h264_nvenc", _nvenc_options, {"preset": "p4"}),
    (VideoCodec.HEVC, VideoEncoder.NVENC): _Entry("hevc_nvenc", _nvenc_options, {"preset": "p4"}),
    (VideoCodec.AV1, VideoEncoder.NVENC): _Entry("av1_nvenc", _av1_nvenc_options, {"preset": "p4"}),
}


@functools.cache
def check_encoder(settings: VideoSettings, height: int, width: int, fps: int) -> None:
    """Encode a few frames with `settings`; the result is cached.

    Raises:
        ConfigError: it does not work on this machine; names the encoders that do.
    """
    failure = _try_out(settings, height, width, fps)
    if not failure:
        return
    working = [
        f"{codec.value} by {encoder.value}"
        for codec, encoder in _ENCODERS
        if not _try_out(VideoSettings(codec=codec, encoder=encoder), height, width, fps)
    ]
    preset = f" with preset '{settings.preset}'" if settings.preset else ""
    raise ConfigError(
        f"video of {width}x{height} as {settings.codec.value} by {settings.encoder.value}{preset}: "
        f"{settings.encoder_name} does not work here ({failure}); this machine's ffmpeg writes "
        f"{', '.join(working) or 'none of the known codecs'}: choose one of these"
    )


def _try_out(settings: VideoSettings, height: int, width: int, fps: int) -> str:
    """Return why encoding does not work, empty if it does."""
    num_frames, min_side = 3, _ENCODERS[settings.codec, settings.encoder].min_side
    if min(height, width) < min_side:
        return f"it needs sides of {min_side} pixels or more"
    try:
        context = cast(VideoCodecContext, av.CodecContext.create(settings.encoder_name, "w"))
        context.height, context.width, context.pix_fmt = height, width, "yuv420p"
        context.time_base, context.framerate = Fraction(1, fps), Fraction(fps)
        context.options = settings.encoder_options
        packets = []
        with kept_scheduling():
            context.open()
        for number in range(num_frames):
            image = np.full((height, width, 3), 80 * number, np.uint8)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = number, context.time_base
            packets += context.encode(picture)
        packets += context.encode(None)
    except (OSError, ValueError, RuntimeError) as error:  # PyAV's errors are all of these
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    found = sum(1 for packet in packets if packet.size)
    return "" if found == num_frames else f"{found} of {num_frames} frames came out"
