# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a machine is used for: its cameras, where it records, and the other machines of the robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Shares of the size of raw images, for estimates: JPEG of quality 80 to 90, and H.264 as the recorder writes it.
JPEG_SHARE = 0.1
VIDEO_SHARE = 0.05


@dataclass(frozen=True)
class Camera:
    """A camera as it is published."""

    name: str
    height: int
    width: int
    rate_hz: float
    is_compressed: bool = False

    @property
    def raw_bytes(self) -> int:
        """Size of a raw image, rgb8 [bytes]."""
        return self.height * self.width * 3

    @property
    def topic_rate(self) -> float:
        """Size of its messages in one second [bytes/s]."""
        return self.raw_bytes * self.rate_hz * (JPEG_SHARE if self.is_compressed else 1.0)

    @property
    def usb_rate(self) -> float:
        """What it sends through USB: YUYV, or JPEG where it is published so [bytes/s]."""
        return self.height * self.width * 2 * self.rate_hz * (JPEG_SHARE if self.is_compressed else 1.0)


# Without --robot: what most published robots of this kind have.
ASSUMED_CAMERAS = tuple(Camera(name, 480, 640, 30.0) for name in ("camera 1", "camera 2", "camera 3"))


@dataclass(frozen=True)
class Use:
    """What is expected of the machine."""

    cameras: Sequence[Camera] = ASSUMED_CAMERAS
    robot: str = ""  # empty: the cameras are assumed, and ROS may be absent
    folder: Path = Path(".")  # of datasets
    hosts: tuple[str, ...] = ()  # whose clocks are compared
    is_quick: bool = False

    @property
    def raw_bytes(self) -> int:
        """Size of the largest image that is published raw [bytes]; 0: all are compressed."""
        return max((camera.raw_bytes for camera in self.cameras if not camera.is_compressed), default=0)

    @property
    def topic_rate(self) -> float:
        """Messages of all cameras in one second [bytes/s]."""
        return sum(camera.topic_rate for camera in self.cameras)

    @property
    def video_rate(self) -> float:
        """What a dataset of all cameras grows in one second [bytes/s]."""
        return sum(camera.raw_bytes * camera.rate_hz for camera in self.cameras) * VIDEO_SHARE

    @property
    def camera_text(self) -> str:
        """The cameras in a few words."""
        sizes = sorted({f"{each.width}x{each.height} at {each.rate_hz:g} Hz" for each in self.cameras})
        kind = "" if self.robot else " (assumed; --robot makes it exact)"
        return f"{len(self.cameras)} cameras of {', '.join(sizes)}{kind}"
