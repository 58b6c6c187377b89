# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Assemble frames out of messages: the one translation behind recorder, bag converter and policy node.

Messages go into the store as they arrive; frames of any recent tick come out of the picker; the health report says what
is wrong with the streams.
"""

from __future__ import annotations

from gr00t_recorder.topics.bindings import RECORDED_ONLY, TopicMap
from gr00t_recorder.topics.health import StreamHealth
from gr00t_recorder.topics.inputs import make_inputs
from gr00t_recorder.topics.picking import FramePicker
from gr00t_recorder.topics.samples import SampleStore
from gr00t_training.embodiment import Embodiment

DEFAULT_HORIZON_S = 3.0  # at least the wait for a slow stream plus the delay of the slowest


class FrameAssembler:
    """Store, picker and health report of one topic map. All of them may be used from any thread."""

    def __init__(
        self,
        topic_map: TopicMap,
        embodiment: Embodiment,
        *,
        horizon_s: float = DEFAULT_HORIZON_S,
        with_history: bool = False,
        holds_stale: bool = False,
        validate_on_arrival: bool = False,
    ) -> None:
        """Prepare a buffer and a codec for each key.

        Args:
            topic_map: where the keys come from.
            embodiment: the keys.
            horizon_s: how long samples are kept; what comes later than that is not seen by a frame.
            with_history: whether samples are kept longer, for the earlier frames of an observation of the embodiment.
            holds_stale: whether a required input that has become too old keeps its last sample (`filled`) instead of
                refusing the frame.
            validate_on_arrival: whether a compressed image of another size than the one before, and those that follow a
                damaged one, are decoded as they come, so that `StreamHealth.fault` reports it at once; no frame shows
                them either way.

        Raises:
            ConfigError: a message type cannot give a key, or has no header although its stamp is used.
        """
        self.embodiment = embodiment
        self.topic_map = topic_map
        inputs = make_inputs(
            topic_map,
            embodiment,
            horizon_ns=round(horizon_s * 1e9),
            observed_ticks=embodiment.observed_ticks if with_history else (0,),
            validate_on_arrival=validate_on_arrival,
        )
        observed = [
            entry
            for ref, entry in inputs.items()
            if ref.kind not in RECORDED_ONLY and (entry.binding.required or ref.key in embodiment.used(ref.kind))
        ]
        self.store = SampleStore(topic_map, inputs)
        self.picker = FramePicker(self.store, embodiment, holds_stale=holds_stale)
        self.health = StreamHealth(self.store, observed, topic_map)
