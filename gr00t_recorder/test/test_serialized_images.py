# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Images read out of their bytes, compared with the middleware's own reading."""

from __future__ import annotations

import array
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from gr00t_recorder.topics.images import decode_compressed, decode_measured, decode_raw
from gr00t_recorder.topics.serialized_images import read_encoded_image, read_raw_image


def serialize_raw(message: SimpleNamespace, order: str = "<") -> bytes:
    """Write an Image field by field, by the rules of plain CDR."""
    out = bytearray(b"\0\1\0\0" if order == "<" else b"\0\0\0\0")

    def number(value: int) -> None:
        out.extend(bytes(-len(out) % 4) + struct.pack(f"{order}I", value))

    def text(value: str) -> None:
        number(len(value) + 1)
        out.extend(value.encode() + b"\0")

    out.extend(struct.pack(f"{order}iI", message.sec, message.nanosec))
    text(message.frame_id)
    number(message.height)
    number(message.width)
    text(message.encoding)
    out.append(message.is_bigendian)
    number(message.step)
    number(len(message.data))
    out.extend(message.data)
    return bytes(out)


def make_raw(**changes: object) -> SimpleNamespace:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).tobytes()
    values = {"sec": -2, "nanosec": 5, "frame_id": "camera", "height": 2, "width": 3, "encoding": "rgb8"}
    return SimpleNamespace(**{**values, "is_bigendian": 0, "step": 9, "data": pixels, **changes})


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("frame_id", ["", "a", "ab", "abc", "abcd", "camera_optical_frame"])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "8UC3"])
def test_every_field_is_read_whatever_lies_before_it(order: str, frame_id: str, encoding: str) -> None:
    wanted = make_raw(frame_id=frame_id, encoding=encoding)
    image = read_raw_image(serialize_raw(wanted, order))
    assert (image.header.stamp.sec, image.header.stamp.nanosec, image.header.frame_id) == (-2, 5, frame_id)
    assert (image.height, image.width, image.encoding, image.is_bigendian, image.step) == (2, 3, encoding, 0, 9)
    assert bytes(image.data) == wanted.data
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert (decode_raw(image) == (pixels if encoding == "rgb8" else pixels[..., ::-1])).all()


def test_bytes_that_end_early_are_refused() -> None:
    serialized = serialize_raw(make_raw())
    for length in (4, 11, 20, 40, len(serialized) - 1):
        with pytest.raises(ValueError, match="cut short"):
            read_raw_image(serialized[:length])


def test_measurements_of_either_byte_order_are_read_from_a_view() -> None:
    counts = np.array([[1, 256], [65535, 0]], np.uint16)
    for is_bigendian, kind in ((0, "<u2"), (1, ">u2")):
        raw = make_raw(height=2, width=2, encoding="16UC1", step=4, is_bigendian=is_bigendian)
        raw.data = counts.astype(kind).tobytes()
        assert (decode_measured(read_raw_image(serialize_raw(raw))) == counts).all()


def test_same_as_the_middleware_reads() -> None:
    pytest.importorskip("rclpy")
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CompressedImage, Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    raw = Image(height=48, width=64, encoding="bgr8", step=192, data=array.array("B", pixels.tobytes()))
    raw.header.frame_id, raw.header.stamp.sec = "left_camera", 17
    found = read_raw_image(bytes(serialize_message(raw)))
    assert (found.header.stamp.sec, found.header.frame_id) == (17, "left_camera")
    assert (decode_raw(found) == decode_raw(raw)).all()

    for extension in ("png", "jpg"):
        file = cv2.imencode(f".{extension}", pixels)[1].tobytes()
        encoded = CompressedImage(format=f"bgr8; {extension} compressed bgr8", data=array.array("B", file))
        read = read_encoded_image(bytes(serialize_message(encoded)))
        assert read.format == encoded.format
        assert bytes(read.data) == file
        assert (decode_compressed(read) == decode_compressed(encoded)).all()
