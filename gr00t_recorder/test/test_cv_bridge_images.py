# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Image encodings that our table does not have, and our decoding against that of cv_bridge where it is installed."""

from types import SimpleNamespace

import numpy as np
import pytest

from gr00t_recorder.topics.images import ENCODINGS, decode_raw
from gr00t_training.errors import ObservationError

HEIGHT, WIDTH = 6, 8


def image(encoding, channels, bytes_each=1):
    """Return an image of random numbers."""
    kind = np.dtype(f"<u{bytes_each}")
    limit = np.iinfo(kind).max
    numbers = np.random.default_rng(3).integers(0, limit, (HEIGHT, WIDTH, channels), kind, endpoint=True)
    return SimpleNamespace(
        encoding=encoding, height=HEIGHT, width=WIDTH, step=WIDTH * channels * bytes_each, is_bigendian=0,
        data=numbers.tobytes(),
    )  # fmt: skip


def test_unknown_encoding_goes_to_the_other_decoder_and_known_ones_do_not():
    seen = []

    def decoder(message):
        seen.append(message.encoding)
        first = np.frombuffer(message.data, np.uint8).reshape(HEIGHT, WIDTH, 2)[..., :1]
        return np.repeat(first, 3, axis=2)

    message = image("8UC2", 2)
    expected = np.frombuffer(message.data, np.uint8)[::2].reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(decode_raw(message, other_decoder=lambda: decoder)[..., 1], expected)
    decode_raw(image("bgr8", 3), other_decoder=lambda: decoder)
    assert seen == ["8UC2"]


def fails(message):
    raise RuntimeError("[8UC2] is not a color format\nbut [rgb8] is")


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        (None, r"'8UC2' is not supported; expected rgb8, .*; cv_bridge would decode others, install it"),
        (fails, r"'8UC2' cannot be decoded by cv_bridge: \[8UC2\] is not a color format but \[rgb8\] is"),
        (lambda message: np.zeros((HEIGHT, WIDTH), np.uint8), r"gives uint8 of shape \(6, 8\), expected uint8"),
    ],
)
def test_without_an_image_the_encoding_is_named(decoder, reason):
    with pytest.raises(ObservationError, match=reason):
        decode_raw(image("8UC2", 2), other_decoder=lambda: decoder)


def test_short_data_never_reach_the_other_decoder():
    message = image("8UC2", 2)
    message.data = message.data[:-1]
    with pytest.raises(ObservationError, match="image data has 95 bytes, expected 96"):
        decode_raw(message, other_decoder=lambda: pytest.fail)


@pytest.mark.parametrize("encoding", [name for name, kind in ENCODINGS.items() if not kind.is_measured])
def test_our_decoding_is_that_of_cv_bridge(encoding):
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is part of a ROS installation")
    kind = ENCODINGS[encoding]
    message = image(encoding, kind.channels, kind.bytes_each)
    try:
        expected = cv_bridge.CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except cv_bridge.CvBridgeError:
        pytest.skip(f"cv_bridge does not know {encoding} as colors")
    # 1: 16 bits are rounded to 8 before or after colors are mixed
    np.testing.assert_allclose(decode_raw(message).astype(int), np.asarray(expected).astype(int), atol=1)
