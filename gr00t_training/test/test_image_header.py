# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import struct

import cv2
import numpy as np
import pytest

from gr00t_training.io.image_header import ImageHeader, read_header
from gr00t_training.io.text import check_instruction, printable

EMPTY_CHUNK = bytes(4) + b"tEXt" + bytes(4)


@pytest.mark.parametrize(
    ("extension", "options"), [("jpeg", []), ("png", []), ("jpeg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])]
)
def test_kind_and_size_are_read_from_the_header(extension, options):
    file = cv2.imencode(f".{extension}", np.zeros((48, 64, 3), np.uint8), options)[1].tobytes()
    assert read_header(file) == ImageHeader(extension, 64, 48)
    for length in range(len(file)):  # never anything but ValueError
        try:
            read_header(file[:length])
        except ValueError:
            continue


def test_sizes_beyond_the_limit_are_refused_before_decoding():
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60000, 60000)
    with pytest.raises(ValueError, match="60000x60000"):
        read_header(png)
    with pytest.raises(ValueError, match="neither JPEG nor PNG"):
        read_header(b"GIF89a")


def test_instructions_are_bounded_and_foreign_text_is_safe_to_print():
    assert check_instruction("  pick the cube\n") == "pick the cube"
    for bad in ("", " \n", "x" * 1001, "clear \x1b[2J the table"):
        with pytest.raises(ValueError, match="the instruction"):
            check_instruction(bad)
    assert printable("a\x1b[31m\nü") == "a\\x1b[31m\\nü"
    assert len(printable("x" * 10**6)) == 203


def test_chunks_that_declare_more_than_the_file_has_are_refused_before_decoding():
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    file = cv2.imencode(".png", image)[1].tobytes()
    place = file.index(b"IDAT") - 4
    for length in (2**32 - 1, 2**31, len(file)):
        with pytest.raises(ValueError, match=rf"a chunk of {length} bytes, \d+ are left"):
            read_header(file[:place] + struct.pack(">I", length) + file[place + 4 :])
    assert read_header(file + bytes(10_000)) == ImageHeader("png", 64, 48)  # padded to the size of a buffer
    with pytest.raises(ValueError, match="animated"):
        read_header(file[:place] + struct.pack(">I4sI", 0, b"acTL", 0) + file[place:])


@pytest.mark.parametrize(
    "file",
    [
        b"\xff\xd8\xff" + b"\xff" * 2**22,
        b"\xff\xd8" + b"\xff\xe0\0\0" * 2**20,
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 8, 8, 8, 2, *bytes(4)) + EMPTY_CHUNK * 2**18,
    ],
    ids=["fill bytes", "empty segments", "empty chunks"],
)
def test_headers_without_end_are_refused_after_a_bounded_number_of_steps(file):
    with pytest.raises(ValueError, match=r"cut short|damaged|chunks"):
        read_header(file)
