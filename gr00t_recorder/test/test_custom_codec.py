# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A message type that the suite does not know is added from user code: no file of the suite changes."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gr00t_recorder.topics import codecs
from gr00t_recorder.topics.bindings import Stamp, StreamConfig, TopicMap, VectorBinding, VideoBinding
from gr00t_recorder.topics.codecs import register_codec
from gr00t_recorder.topics.frames import FrameAssembler
from gr00t_recorder.topics.vector_codec import VectorCodec
from gr00t_training.embodiment import Embodiment, VectorKey, VideoKey
from gr00t_training.errors import ConfigError, ObservationError

HAND = "my_msgs/msg/Hand"
KEY = VectorKey(names=("thumb", "index"))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(codecs, "_registered", {})
    yield
    codecs._import_codecs.cache_clear()


def hand(**angles: Any) -> SimpleNamespace:
    fingers = [SimpleNamespace(name=name, angle=angle) for name, angle in angles.items()]
    return SimpleNamespace(fingers=fingers)


def angles_of(message: Any) -> list[float]:
    return [finger.angle for finger in message.fingers]


def names_of(message: Any) -> list[str]:
    return [finger.name for finger in message.fingers]


def test_a_registered_type_fills_a_frame_from_user_code() -> None:
    register_codec(HAND, angles_of, names=names_of, has_header=False)
    embodiment = Embodiment(
        name="hand",
        tag="new_embodiment",
        fps=10,
        state={"hand": KEY},
        action={"hand": KEY},
        video={"front": VideoKey(height=4, width=6)},
    )
    topic_map = TopicMap(
        embodiment="hand",
        streams={
            "fingers": StreamConfig(topic="fingers", type=HAND, stamp=Stamp.RECEIVE),
            "front": StreamConfig(topic="image", type="sensor_msgs/msg/Image", stamp=Stamp.RECEIVE),
        },
        state={"hand": VectorBinding(stream="fingers")},
        video={"front": VideoBinding(stream="front")},
    )
    assembler = FrameAssembler(topic_map, embodiment)
    assembler.store.add("fingers", hand(index=0.2, ring=9.0, thumb=0.1), 100)
    image = SimpleNamespace(height=4, width=6, encoding="rgb8", step=18, is_bigendian=0, data=bytes(72))
    assembler.store.add("front", image, 100)
    np.testing.assert_array_equal(assembler.picker.frame(100, with_action=False).state["hand"], [0.1, 0.2])


def test_without_names_channels_go_by_index() -> None:
    register_codec(HAND, angles_of)
    channels = VectorCodec("state.hand", HAND, VectorBinding(stream="fingers", start=1), KEY).decode(
        hand(a=1.0, b=2.0, c=3.0)
    )
    assert channels is not None
    np.testing.assert_array_equal(channels.values, [2.0, 3.0])


@pytest.mark.parametrize(
    "message", [hand(thumb=0.1, index="bent"), SimpleNamespace()], ids=["text_for_a_number", "no_such_field"]
)
def test_what_a_codec_raises_makes_the_message_unusable(message: Any) -> None:
    register_codec(HAND, angles_of, names=names_of)
    codec = VectorCodec("state.hand", HAND, VectorBinding(stream="fingers"), KEY)
    with pytest.raises(ObservationError, match="registered codec"):
        codec.decode(message)


def test_a_field_of_the_topic_map_goes_before_a_codec() -> None:
    register_codec(HAND, angles_of)
    codec = VectorCodec("state.hand", HAND, VectorBinding(stream="fingers", field="raw"), KEY)
    channels = codec.decode(SimpleNamespace(raw=[5.0, 6.0]))
    assert channels is not None
    np.testing.assert_array_equal(channels.values, [5.0, 6.0])


@pytest.mark.parametrize("message_type", ["sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "Hand"])
def test_known_types_and_incomplete_names_are_refused(message_type: str) -> None:
    with pytest.raises(ConfigError, match=message_type):
        register_codec(message_type, angles_of)


def test_a_type_without_header_needs_another_stamp() -> None:
    register_codec(HAND, angles_of, has_header=False)
    with pytest.raises(ConfigError, match="stamp: receive"):
        codecs.check_stamp("state.hand", StreamConfig(topic="fingers", type=HAND))


def test_modules_of_entry_points_are_imported_and_a_broken_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("hand", "my_package.no_such_module", codecs.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    codecs._import_codecs.cache_clear()
    with pytest.raises(ConfigError, match=r"'hand' .*my_package"):
        codecs.vector_type(HAND)
