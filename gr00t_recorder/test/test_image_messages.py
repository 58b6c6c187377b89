# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from gr00t_recorder.topics.bindings import DepthBinding
from gr00t_recorder.topics.image_codec import DepthCodec
from gr00t_recorder.topics.images import decode_compressed, decode_measured, decode_raw
from gr00t_training.embodiment import DepthKey
from gr00t_training.errors import ObservationError

# 2 rows, 3 columns: red green blue / black gray white
PICTURE = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [128, 128, 128], [255, 255, 255]]], dtype=np.uint8
)
IMAGE = "sensor_msgs/msg/Image"


def image(encoding, pixels, *, padding=0, big_endian=False):
    """Lay out `pixels` (H, W) or (H, W, C) of any type as an image message."""
    kind = pixels.dtype.newbyteorder(">" if big_endian else "<")
    rows = np.ascontiguousarray(pixels.astype(kind)).view(np.uint8).reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        encoding=encoding,
        height=pixels.shape[0],
        width=pixels.shape[1],
        step=padded.shape[1],
        is_bigendian=int(big_endian),
        data=padded.tobytes(),
    )


def compressed(extension, text, *, picture=None, bgr=True, header=b""):
    picture = np.kron(PICTURE, np.ones((8, 8, 1), np.uint8)) if picture is None else picture
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if bgr else picture
    encoded = cv2.imencode(extension, stored, [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    return SimpleNamespace(format=text, data=header + encoded.tobytes())


def with_alpha(picture, alpha=9):
    return np.dstack([picture, np.full(picture.shape[:2], alpha, picture.dtype)])


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", PICTURE),
        ("bgr8", PICTURE[..., ::-1]),
        ("8UC3", PICTURE[..., ::-1]),
        ("rgba8", with_alpha(PICTURE)),
        ("bgra8", with_alpha(PICTURE[..., ::-1])),
        ("8UC4", with_alpha(PICTURE[..., ::-1])),
    ],
)
def test_raw_color_images_become_rgb(encoding, pixels, padding):
    np.testing.assert_array_equal(decode_raw(image(encoding, pixels, padding=padding)), PICTURE)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb16", PICTURE.astype(np.uint16) * 257),
        ("bgr16", PICTURE[..., ::-1].astype(np.uint16) * 257),
        ("rgba16", with_alpha(PICTURE.astype(np.uint16) * 257)),
        ("bgra16", with_alpha(PICTURE[..., ::-1].astype(np.uint16) * 257)),
    ],
)
def test_sixteen_bits_a_color_become_eight_in_either_byte_order(encoding, pixels, big_endian):
    message = image(encoding, pixels, padding=6, big_endian=big_endian)
    np.testing.assert_array_equal(decode_raw(message), PICTURE)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_gray_image_is_the_same_in_all_channels(encoding):
    gray = np.array([[0, 10, 20], [30, 40, 50]], np.uint8)
    np.testing.assert_array_equal(decode_raw(image(encoding, gray, padding=1)), np.dstack([gray] * 3))


@pytest.mark.parametrize("big_endian", [False, True])
def test_mono16_is_scaled_so_that_its_greatest_value_is_white(big_endian):
    gray = np.array([[0, 257, 65535], [128, 129, 32896]], np.uint16)  # 129 is nearer to 257 than to 0
    decoded = decode_raw(image("mono16", gray, padding=3, big_endian=big_endian))
    np.testing.assert_array_equal(decoded[..., 0], [[0, 1, 255], [0, 1, 128]])
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_pairs_become_rgb(encoding):
    """By hand, ITU-R BT.601 with Y from 16 to 235: gray is 1.164 (Y - 16); red is Y 81, U 90, V 240."""
    white_black, red_red = (128, 235, 128, 16), (90, 81, 240, 81)  # U Y V Y
    rows = [[white_black[:2], white_black[2:]], [red_red[:2], red_red[2:]]]
    pixels = np.array(rows, np.uint8)
    if encoding in ("yuv422_yuy2", "yuyv"):
        pixels = pixels[..., ::-1]
    decoded = decode_raw(image(encoding, pixels, padding=4)).astype(int)
    np.testing.assert_array_equal(decoded[0], [[255, 255, 255], [0, 0, 0]])
    np.testing.assert_allclose(decoded[1], [[255, 0, 0], [255, 0, 0]], atol=2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("pattern", "places"),  # row and column parity of red and of blue
    [("rggb", ((0, 0), (1, 1))), ("bggr", ((1, 1), (0, 0))), ("gbrg", ((1, 0), (0, 1))), ("grbg", ((0, 1), (1, 0)))],
)
def test_bayer_mosaic_of_one_color_becomes_that_color(pattern, places, bits):
    mosaic = np.full((8, 8), 100, np.uint8)  # green
    for (row, column), level in zip(places, (200, 50), strict=True):
        mosaic[row::2, column::2] = level
    pixels = mosaic if bits == 8 else mosaic.astype(np.uint16) * 257
    decoded = decode_raw(image(f"bayer_{pattern}{bits}", pixels, padding=2, big_endian=bits == 16))
    np.testing.assert_array_equal(decoded, np.full((8, 8, 3), (200, 100, 50), np.uint8))


@pytest.mark.parametrize("encoding", ["nv12", "RGB8", ""])
def test_unknown_encodings_are_refused_naming_them_and_the_supported_ones(encoding):
    with pytest.raises(ObservationError, match=rf"encoding '{encoding}' is not supported; expected rgb8, .*32FC1"):
        decode_raw(image(encoding, PICTURE))


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_measurements_are_not_colors_unless_levels_are_given(encoding):
    values = np.array([[0, 1000, 2000, 9000]])
    message = image(encoding, values.astype(np.uint16 if encoding == "16UC1" else np.float32), big_endian=True)
    with pytest.raises(ObservationError, match=f"'{encoding}' holds measurements, not colors; bind it under 'depth'"):
        decode_raw(message)
    np.testing.assert_array_equal(decode_raw(message, (0, 2000))[0, :, 1], [0, 128, 255, 255])
    np.testing.assert_array_equal(decode_raw(message, (2000, 0))[0, :, 1], [255, 128, 0, 0])


def test_missing_measurement_is_black():
    message = image("32FC1", np.array([[np.nan, np.inf, -np.inf]], np.float32))
    np.testing.assert_array_equal(decode_raw(message, (0.0, 4.0))[0, :, 0], [0, 255, 0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": image("rgb8", PICTURE).data[:-1]}, "has 17 bytes, expected 18"),
        ({"step": 8}, "3x2 rgb8 has step 8, expected at least 9"),
        ({"height": 0}, "3x0 rgb8"),
        ({"encoding": "yuv422"}, "3x2 yuv422 has an odd width"),
    ],
)
def test_image_that_does_not_fit_its_size_is_refused(change, reason):
    message = image("rgb8", PICTURE)
    vars(message).update(change)
    with pytest.raises(ObservationError, match=reason):
        decode_raw(message)


def test_last_row_may_lack_its_padding():
    message = image("bgr8", PICTURE[..., ::-1], padding=5)
    message.data = message.data[:-5]
    np.testing.assert_array_equal(decode_raw(message), PICTURE)


@pytest.mark.parametrize("text", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", ""])
def test_png_variants_become_rgb(text):
    np.testing.assert_array_equal(decode_compressed(compressed(".png", text))[::8, ::8], PICTURE)


def test_png_stored_without_channel_swap_becomes_rgb():
    message = compressed(".png", "rgb8; png compressed rgb8", bgr=False)
    np.testing.assert_array_equal(decode_compressed(message)[::8, ::8], PICTURE)


@pytest.mark.parametrize("text", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed bgr8"])
def test_jpeg_variants_become_rgb(text):
    decoded = decode_compressed(compressed(".jpg", text))
    # the middle of each 8x8 block; chroma is shared between neighbors at the borders only
    np.testing.assert_allclose(decoded[4::8, 4::8].astype(int), PICTURE.astype(int), atol=6)


@pytest.mark.parametrize(("extension", "text"), [(".jpg", "mono8; jpeg compressed "), (".png", "png")])
def test_compressed_gray_is_the_same_in_all_channels(extension, text):
    gray = np.full((16, 16), 77, np.uint8)
    decoded = decode_compressed(compressed(extension, text, picture=gray, bgr=False))
    np.testing.assert_array_equal(decoded, np.full((16, 16, 3), 77))


def test_compressed_mosaic_becomes_rgb():
    mosaic = np.full((8, 8), 100, np.uint8)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = 200, 50
    message = compressed(".png", "bayer_rggb8; png compressed bayer_rggb8", picture=mosaic, bgr=False)
    np.testing.assert_array_equal(decode_compressed(message), np.full((8, 8, 3), (200, 100, 50)))


def test_png_of_gray_with_16_bits_needs_a_word_on_what_it_holds():
    gray = np.array([[0, 257, 65535]], np.uint16)
    decoded = decode_compressed(compressed(".png", "mono16; png compressed ", picture=gray, bgr=False))
    np.testing.assert_array_equal(decoded[0, :, 2], [0, 1, 255])
    for text in ("png", "16UC1; png compressed "):
        message = compressed(".png", text, picture=gray, bgr=False)
        with pytest.raises(ObservationError, match=r"16-bit image of format .* holds measurements, not colors"):
            decode_compressed(message)
        np.testing.assert_array_equal(decode_compressed(message, (0, 514))[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (SimpleNamespace(format="h264", data=b"\0\0\0\1"), "'h264' is not supported; expected jpeg or png"),
        (SimpleNamespace(format="16UC1; compressedDepth rvl", data=bytes(40)), "compressedDepth rvl' is not supported"),
        (SimpleNamespace(format="jpeg", data=b"no image"), "neither JPEG nor PNG"),
        (SimpleNamespace(format="jpeg", data=b""), "neither JPEG nor PNG"),
        (SimpleNamespace(format="jpeg", data=b"\xff\xd8\xff\xe0 broken\xff\xd9"), "cut short in its header"),
        (SimpleNamespace(format="jpeg", data=compressed(".jpg", "jpeg").data[:-80]), "JPEG data is cut short"),
        (SimpleNamespace(format="png", data=compressed(".png", "png").data[:-80]), "PNG that is cut short"),
    ],
)
def test_unusable_compressed_images_are_refused_with_the_reason(message, reason):
    with pytest.raises(ObservationError, match=reason):
        decode_compressed(message)


def depth_codec(*, message_type=IMAGE, unit_m=0.001, stored_unit_m=0.001, size=(1, 4), **binding):
    key = DepthKey(height=size[0], width=size[1], unit_m=stored_unit_m)
    return DepthCodec("depth.front", message_type, DepthBinding(stream="s", unit_m=unit_m, **binding), key)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_depth_counts_of_the_stored_unit_stay_exact(encoding, big_endian):
    counts = np.array([[0, 1, 4000, 65535]], np.uint16)
    decoded = depth_codec().decode(image(encoding, counts, padding=2, big_endian=big_endian))
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, counts)


def test_depth_counts_of_another_unit_are_converted():
    counts = np.array([[0, 4, 10, 65535]], np.uint16)  # of a quarter of a millimeter
    np.testing.assert_array_equal(depth_codec(unit_m=0.00025).decode(image("16UC1", counts)), [[0, 1, 2, 16384]])
    # too far for 16 bits of a quarter of a millimeter: no measurement, and not some nearer one
    found = depth_codec(stored_unit_m=0.00025).decode(image("16UC1", np.array([[1, 2, 16383, 16384]], np.uint16)))
    np.testing.assert_array_equal(found, [[4, 8, 65532, 0]])


@pytest.mark.parametrize("big_endian", [False, True])
def test_depth_in_meters_becomes_millimeters_and_what_is_no_measurement_zero(big_endian):
    meters = np.array([[0.0, 1.2344, 0.0004, 65.535], [np.nan, np.inf, -np.inf, 65.6], [-1.0, 0.001, 2.0, 0.5]])
    decoded = depth_codec(size=(3, 4)).decode(image("32FC1", meters.astype(np.float32), big_endian=big_endian))
    np.testing.assert_array_equal(decoded, [[0, 1234, 0, 65535], [0, 0, 0, 0], [0, 1, 2000, 500]])


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("16UC1; png compressed ", b""),
        ("png", b""),
        ("16UC1; compressedDepth png", struct.pack("<iff", 0, 0.0, 0.0)),
        ("16UC1; compressedDepth", struct.pack("<iff", 0, 0.0, 0.0)),
        ("16UC1; compressedDepth png", b""),  # some drivers leave the header out
    ],
)
def test_compressed_depth_counts_stay_exact(text, header):
    counts = np.array([[0, 1, 4000, 65535]], np.uint16)
    message = compressed(".png", text, picture=counts, bgr=False, header=header)
    codec = depth_codec(message_type="sensor_msgs/msg/CompressedImage")
    codec.check(message)
    np.testing.assert_array_equal(codec.decode(message), counts)


def test_compressed_depth_in_meters_is_read_from_its_inverse():
    """Depth is a / (count - b), count 0 is none: 100 / (150 - 50) = 1 m, 100 / (100 - 50) = 2 m."""
    message = compressed(
        ".png",
        "32FC1; compressedDepth png",
        picture=np.array([[0, 150, 100, 450]], np.uint16),
        bgr=False,
        header=struct.pack("<iff", 0, 100.0, 50.0),
    )
    np.testing.assert_array_equal(decode_measured(message), np.array([[np.nan, 1.0, 2.0, 0.25]], np.float32))
    codec = depth_codec(message_type="sensor_msgs/msg/CompressedImage")
    np.testing.assert_array_equal(codec.decode(message), [[0, 1000, 2000, 250]])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (image("rgb8", PICTURE), "encoding 'rgb8' is not depth; expected 16UC1, mono16, 32FC1"),
        (image("16UC1", np.zeros((2, 3), np.uint16)), "image is 3x2, the embodiment expects 4x1"),
    ],
)
def test_images_that_are_no_depth_are_refused(message, reason):
    with pytest.raises(ObservationError, match=reason):
        depth_codec().check(message)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (compressed(".jpg", "jpeg"), "format 'jpeg' is not depth; expected 16-bit png or compressedDepth png"),
        (compressed(".png", "16UC1; png compressed "), "holds uint8, expected one channel of 16 bits"),
        (
            compressed(".png", "32FC1; compressedDepth png", picture=np.ones((1, 4), np.uint16), bgr=False),
            "has no compressedDepth header",
        ),
    ],
)
def test_compressed_images_that_are_no_depth_are_refused(message, reason):
    with pytest.raises(ObservationError, match=reason):
        depth_codec(message_type="sensor_msgs/msg/CompressedImage").decode(message)


def test_resized_depth_takes_measurements_and_no_means():
    counts = np.array([[1000, 1000, 3000, 3000], [1000, 1000, 3000, 3000]], np.uint16)
    found = depth_codec(size=(1, 2), resize=True).decode(image("16UC1", counts))
    np.testing.assert_array_equal(found, [[1000, 3000]])
