# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from gr00t_training.types import KeyKind, KeyRef


@pytest.mark.parametrize("text", ["state.arm", "video.images.rgb.head", "annotation.human.task_description"])
def test_a_key_is_read_from_its_text_and_written_back(text: str):
    ref = KeyRef.parse(text)
    assert (ref.kind.value, ref.key) == tuple(text.split(".", 1))
    assert (str(ref), f"{ref}") == (text, text)


@pytest.mark.parametrize("text", ["", "arm", "state", "state.", ".arm", "sound.left"])
def test_other_texts_are_no_keys(text: str):
    with pytest.raises(ValueError, match=f"'{text}'"):
        KeyRef.parse(text)


def test_kinds_print_as_in_files():
    assert [f"{kind}" for kind in KeyKind] == ["state", "action", "video", "depth", "annotation", "command"]
