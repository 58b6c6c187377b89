# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Decode image messages: pixels to RGB, measurements (depth) to numbers.

Encodings are those of sensor_msgs/image_encodings.hpp. Images of measurements (16UC1, 32FC1) have no colors:
they are refused as color unless the values for black and white are given. An encoding that the table does not have is
decoded by cv_bridge, where ROS provides it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from gr00t_recorder.topics.cv_bridge_images import MISSING, Decoder, cv_bridge_decoder, decode_other
from gr00t_training.errors import ObservationError
from gr00t_training.io.image_header import MAX_PIXELS, MAX_SIDE, PNG_START, ImageHeader, read_header
from gr00t_training.io.text import printable


@dataclass(frozen=True)
class Encoding:
    """Memory layout of the pixels of an encoding."""

    channels: int  # numbers in a pixel, as stored
    bytes_each: int = 1
    to_rgb: int | None = None  # OpenCV's conversion; absent: it is RGB already
    is_measured: bool = False
    pixels_together: int = 1  # pixels that share color: the width is a multiple


_GRAY, _BGR, _RGBA, _BGRA = cv2.COLOR_GRAY2RGB, cv2.COLOR_BGR2RGB, cv2.COLOR_RGBA2RGB, cv2.COLOR_BGRA2RGB
_UYVY, _YUYV = cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUY2
# Pattern of the upper left 2x2 pixels, row by row, as ROS names it. OpenCV's old names describe the second row, middle
# pixels; its new ones (BayerRGGB2RGB) are absent in 4.5.4, which Ubuntu 22.04 has.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(3),
    "bgr8": Encoding(3, to_rgb=_BGR),
    "rgba8": Encoding(4, to_rgb=_RGBA),
    "bgra8": Encoding(4, to_rgb=_BGRA),
    "mono8": Encoding(1, to_rgb=_GRAY),
    "rgb16": Encoding(3, 2),
    "bgr16": Encoding(3, 2, _BGR),
    "rgba16": Encoding(4, 2, _RGBA),
    "bgra16": Encoding(4, 2, _BGRA),
    "mono16": Encoding(1, 2, _GRAY),
    "8UC1": Encoding(1, to_rgb=_GRAY),
    "8UC3": Encoding(3, to_rgb=_BGR),  # OpenCV's matrices: colors are b g r
    "8UC4": Encoding(4, to_rgb=_BGRA),
    "yuv422": Encoding(2, to_rgb=_UYVY, pixels_together=2),
    "uyvy": Encoding(2, to_rgb=_UYVY, pixels_together=2),
    "yuv422_yuy2": Encoding(2, to_rgb=_YUYV, pixels_together=2),
    "yuyv": Encoding(2, to_rgb=_YUYV, pixels_together=2),
    **{f"bayer_{pattern}8": Encoding(1, 1, code, pixels_together=2) for pattern, code in _BAYER.items()},
    **{f"bayer_{pattern}16": Encoding(1, 2, code, pixels_together=2) for pattern, code in _BAYER.items()},
    "16UC1": Encoding(1, 2, is_measured=True),
    "32FC1": Encoding(1, 4, is_measured=True),
}
DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")

JPEG_END = b"\xff\xd9"
PNG_END = b"IEND"
END_WITHIN = 64  # bytes from the end of the data: some cameras add a few bytes
PADDING = b"\x00\xff"  # up to the size of the buffer that a driver sends whole
PNG_BIT_DEPTH_OFFSET = 24  # 8 signature, 8 chunk header, 8 width and height (PNG specification, IHDR)
PNG_COLOUR_TYPE_OFFSET = 25
# compressed_depth_image_transport puts a format number and two floats before the PNG
DEPTH_HEADER = struct.Struct("<iff")
WHITE16_TO_8 = 257  # 65535 / 255


def decode_raw(
    message: Any, levels: Sequence[float] = (), other_decoder: Callable[[], Decoder | None] = cv_bridge_decoder
) -> np.ndarray:
    """Decode a sensor_msgs/msg/Image to `(H, W, 3)` uint8 RGB; rgb8 is a view of the message, not a copy.

    Rows may be padded (`step`), 16-bit numbers of either byte order; they are scaled so that 65535 is white.

    Args:
        message: the image.
        levels: values shown black and white, for images of measurements.
        other_decoder: gives what decodes encodings that the table does not have; None: nothing does.

    Raises:
        ObservationError: unsupported encoding, or the data do not fit the size.
    """
    check_raw(message, levels, other_decoder)
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        return decode_other(message, other_decoder())
    pixels = _pixels(message, encoding)
    if encoding.is_measured:
        return _gray_levels(pixels, levels)
    if encoding.to_rgb is not None:
        pixels = cv2.cvtColor(pixels, encoding.to_rgb)
    return pixels if encoding.bytes_each == 1 else _eight_bit(pixels)


def decode_compressed(message: Any, levels: Sequence[float] = ()) -> np.ndarray:
    """Decode a JPEG or PNG sensor_msgs/msg/CompressedImage to `(H, W, 3)` uint8 RGB.

    Args:
        message: the image.
        levels: values shown black and white, for images of measurements (16-bit PNG, compressedDepth).

    Raises:
        ObservationError: another format, or damaged data.
    """
    check_compressed(message, levels)
    if _is_measured(message):
        return _gray_levels(_measured_compressed(message), levels)
    source, _, how = message.format.partition(";")
    if _is_gray16(message):
        return cv2.cvtColor(_eight_bit(_imdecode(message.data, cv2.IMREAD_UNCHANGED)), _GRAY)
    is_mosaic = source.startswith("bayer_") and not any(name in how for name in ("bgr8", "rgb8"))
    bayer = ENCODINGS.get(source.strip()) if is_mosaic else None
    # the EXIF orientation is ignored: cameras on robots are calibrated as they are mounted
    mode = cv2.IMREAD_GRAYSCALE if bayer else cv2.IMREAD_COLOR
    image = _imdecode(message.data, mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if bayer and bayer.to_rgb is not None:  # the transport compresses the mosaic unchanged
        return cv2.cvtColor(image, bayer.to_rgb)
    # "rgb8; jpeg compressed rgb8": written without swapping channels first, so that the decoder's "BGR" is RGB
    is_rgb = "rgb" in message.format.lower().partition("compressed")[2]
    return image if is_rgb else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_measured(message: Any) -> np.ndarray:
    """Decode an image of measurements to `(H, W)`: uint16 counts, or float32 in the message's unit (32FC1).

    Takes Image (16UC1, mono16, 32FC1) and CompressedImage (16-bit PNG, compressedDepth of both).

    Raises:
        ObservationError: another encoding, or damaged data.
    """
    check_measured(message)
    if hasattr(message, "encoding"):
        return _pixels(message, ENCODINGS[message.encoding])
    return _measured_compressed(message)


def check_raw(
    message: Any, levels: Sequence[float] = (), other_decoder: Callable[[], Decoder | None] = cv_bridge_decoder
) -> None:
    """Refuse an Image that `decode_raw` cannot decode; ObservationError gives the reason."""
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        if other_decoder() is None:
            raise ObservationError(
                f"image encoding '{printable(message.encoding)}' is not supported; expected {', '.join(ENCODINGS)}; "
                f"{MISSING}"
            )
        _check_sides(message)
        _check_rows(message, message.step)
        return
    if encoding.is_measured and not levels:
        raise ObservationError(_measured_reason(f"image encoding '{message.encoding}'"))
    _check_size(message, encoding)


def check_measured(message: Any) -> None:
    """Refuse an image that `decode_measured` cannot decode; ObservationError gives the reason."""
    if not hasattr(message, "encoding"):
        if not (_is_measured(message) or _is_gray16(message)):
            raise ObservationError(
                f"image format '{printable(message.format)}' is not depth; expected 16-bit png or compressedDepth png"
            )
        check_compressed(message, levels=(0.0, 1.0))
    elif message.encoding not in DEPTH_ENCODINGS:
        raise ObservationError(
            f"image encoding '{printable(message.encoding)}' is not depth; expected {', '.join(DEPTH_ENCODINGS)}"
        )
    else:
        _check_size(message, ENCODINGS[message.encoding])


def check_compressed(message: Any, levels: Sequence[float] = ()) -> None:
    """Refuse a CompressedImage with a wrong format, size or end; ObservationError gives the reason."""
    text = message.format.lower()
    if "rvl" in text or (text and not any(name in text for name in ("jpeg", "jpg", "png", "compresseddepth"))):
        raise ObservationError(f"image format '{printable(message.format)}' is not supported; expected jpeg or png")
    header = _header(message)
    if not _has_end(_payload(message), PNG_END if header.kind == "png" else JPEG_END):
        raise ObservationError(f"{header.kind.upper()} data is cut short")  # the decoder would fill the rest with gray
    if header.kind == "png" and not levels and _is_measured(message):
        raise ObservationError(_measured_reason(f"16-bit image of format '{printable(message.format)}'"))


def encoded_size(message: Any) -> tuple[int, int]:
    """Return (height, width) of a CompressedImage without decoding it; ObservationError when it has none."""
    header = _header(message)
    return header.height, header.width


def _header(message: Any) -> ImageHeader:
    try:
        return read_header(_payload(message))
    except ValueError as error:
        raise ObservationError(f"image data {error}") from error


def _has_end(payload: Any, mark: bytes) -> bool:
    """Whether data end with a mark, and nothing but padding behind it."""
    return mark in bytes(payload[-END_WITHIN:]) or mark in bytes(payload).rstrip(PADDING)[-END_WITHIN:]


def _check_size(message: Any, encoding: Encoding) -> None:
    row = message.width * encoding.channels * encoding.bytes_each
    if not message.height or not message.width or message.step < row:
        raise ObservationError(
            f"image of {message.width}x{message.height} {message.encoding} has step {message.step}, "
            f"expected at least {row}"
        )
    _check_sides(message)
    if message.width % encoding.pixels_together:
        raise ObservationError(f"image of {message.width}x{message.height} {message.encoding} has an odd width")
    _check_rows(message, row)


def _check_sides(message: Any) -> None:
    if max(message.width, message.height) > MAX_SIDE or message.width * message.height > MAX_PIXELS:
        raise ObservationError(
            f"image has the size {message.width}x{message.height} (limit {MAX_SIDE} a side and {MAX_PIXELS} pixels)"
        )


def _check_rows(message: Any, last_row: int) -> None:
    """Refuse data that are too short; the padding of the last row is left out by some drivers."""
    needed = (message.height - 1) * message.step + last_row
    if len(message.data) < needed:
        raise ObservationError(
            f"image data has {len(message.data)} bytes, expected {message.height * message.step} (height x step)"
        )


def _pixels(message: Any, encoding: Encoding) -> np.ndarray:
    """Return the stored numbers, `(H, W)` or `(H, W, C)`, in this machine's byte order."""
    height, width = message.height, message.width
    row = width * encoding.channels * encoding.bytes_each
    step = message.step if height > 1 else row
    if len(message.data) < height * step:
        flat = np.zeros(height * step, dtype=np.uint8)
        flat[: len(message.data)] = np.frombuffer(message.data, dtype=np.uint8)
    else:
        flat = np.frombuffer(message.data, dtype=np.uint8, count=height * step)
    rows = flat.reshape(height, step)[:, :row]
    if encoding.bytes_each > 1:
        order = ">" if message.is_bigendian else "<"
        kind = np.dtype(f"{order}{'u2' if encoding.bytes_each == 2 else 'f4'}")
        rows = np.ascontiguousarray(rows).view(kind).astype(kind.newbyteorder("="), copy=False)
    shape = (height, width) if encoding.channels == 1 else (height, width, encoding.channels)
    return rows.reshape(shape)


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.uint32) + WHITE16_TO_8 // 2) // WHITE16_TO_8).astype(np.uint8)


def _gray_levels(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Show `(H, W)` numbers between the two levels as gray `(H, W, 3)`; NaN is black."""
    black, white = levels
    share = (values.astype(np.float64) - black) / (white - black)
    gray = np.rint(255 * np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def _is_measured(message: Any) -> bool:
    """Whether a CompressedImage holds measurements: its format says so, or it is a 16-bit PNG not said to be gray."""
    text = message.format.lower()
    return (
        "compresseddepth" in text
        or text.startswith(("16uc1", "32fc1"))
        or (_is_gray16(message) and not text.startswith("mono16"))
    )


def _is_gray16(message: Any) -> bool:
    """Whether a CompressedImage is a PNG of one channel of 16 bits."""
    start = bytes(message.data[: PNG_COLOUR_TYPE_OFFSET + 1])
    depth_and_type = start[PNG_BIT_DEPTH_OFFSET : PNG_COLOUR_TYPE_OFFSET + 1]
    return start.startswith(PNG_START) and depth_and_type == b"\x10\x00"


def _measured_compressed(message: Any) -> np.ndarray:
    """Return `(H, W)` uint16 counts, or float32 meters where a compressedDepth of 32FC1 holds inverse depth."""
    counts = _imdecode(_payload(message), cv2.IMREAD_UNCHANGED)
    if counts.dtype != np.uint16 or counts.ndim != 2:
        raise ObservationError(f"image '{message.format}' holds {counts.dtype}, expected one channel of 16 bits")
    if not message.format.lower().startswith("32fc1"):
        return counts
    if bytes(message.data[: len(PNG_START)]) == PNG_START:
        raise ObservationError(f"image '{message.format}' has no compressedDepth header, which scales its depth")
    _, a, b = DEPTH_HEADER.unpack(bytes(message.data[: DEPTH_HEADER.size]))
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.float32(a) / (counts.astype(np.float32) - np.float32(b))
    return np.where(counts == 0, np.float32(np.nan), depth)


def _payload(message: Any) -> Any:
    """Return the encoded image behind the header of compressedDepth, where there is one."""
    has_header = "compresseddepth" in message.format.lower() and bytes(message.data[: len(PNG_START)]) != PNG_START
    return message.data[DEPTH_HEADER.size :] if has_header else message.data


def _imdecode(data: Any, mode: int) -> np.ndarray:
    encoded = np.frombuffer(data, dtype=np.uint8)
    image = cv2.imdecode(encoded, mode) if encoded.size else None
    if image is None:
        raise ObservationError(f"image data of {encoded.size} bytes cannot be decoded")
    return image


def _measured_reason(subject: str) -> str:
    return (
        f"{subject} holds measurements, not colors; bind it under 'depth', or set 'levels: [black, white]' to show it "
        "as gray"
    )
