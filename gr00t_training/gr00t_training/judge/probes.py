# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Changed observations that show what a policy looks at.

An input that is replaced by a plausible wrong one (the instruction of another task, the images of another episode) must
make the errors larger; otherwise the policy does not use it. A small change (a word, some pixels, a tenth of a second)
must not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gr00t_training.judge.queries import Query, Recording
from gr00t_training.types import Observation

LEAST_USED = 0.05  # share by which errors grow at least with a wrong input
MUCH_USED = 0.5  # and by which they grow where it decides the movement: by 1 to 2.5 for the shipped policy
MOST_GROWTH = 0.5  # share by which errors may grow with a small change
SHIFT = 0.03  # of the image's width: what a camera that was knocked shows
BRIGHTNESS = (1.15, 1.0, 0.85)  # factors of red, green and blue: another lamp
OFFSET = 0.1  # of a joint's standard deviation: a calibration that is a little off
STATE_DELAY_S = 0.2
AGES_S = (0.1, 0.2, 0.3, 0.5)

Item = TypeVar("Item")
Change = Callable[[Recording, Query], "Observation | None"]  # None: does not apply to this query


@dataclass(frozen=True)
class Probe:
    """A changed input."""

    group: str
    name: str
    is_wrong: bool  # True: a wrong input, whose use is tested; False: a small change that must be harmless
    change: Change
    meaning: str  # of a bad result
    is_decisive: bool = True  # whether a bad result alone is a no-go


def probes(recording: Recording) -> Iterator[Probe]:
    """Yield the probes that fit a recording."""
    cameras = recording.embodiment.video_keys
    if len(recording.tasks) > 1:
        yield Probe(
            "language",
            "instruction of another task",
            True,
            _other_instruction,
            "the policy does the same for every instruction; train with several tasks, each with its own instruction",
        )
    yield Probe(
        "language",
        "other spelling",
        False,
        lambda recording, query: _with_text(recording, query, f"please {query.task.rstrip('.')}."),
        "the policy knows one wording only; train with language variants or always send the trained sentence",
    )
    if cameras and len(recording.episodes) > 1:
        yield Probe(
            "vision",
            "all images of another episode",
            True,
            lambda recording, query: _other_images(recording, query, cameras),
            "the policy does not look at its cameras; it repeats an average movement",
        )
        if len(cameras) > 1:
            for camera in cameras:
                yield Probe(
                    "vision",
                    f"{camera} of another episode",
                    True,
                    lambda recording, query, camera=camera: _other_images(recording, query, (camera,)),
                    f"camera '{camera}' is not used: it was dark or frozen in training, or another one suffices",
                    is_decisive=False,
                )
    for camera in cameras:
        yield Probe(
            "vision",
            f"{camera} moved by {SHIFT:.0%} of its width",
            False,
            lambda recording, query, camera=camera: _with_image(recording, query, camera, _shifted),
            f"a knock against camera '{camera}' spoils the actions; fix it firmly, or train with crops",
        )
        yield Probe(
            "vision",
            f"{camera} in other light",
            False,
            lambda recording, query, camera=camera: _with_image(recording, query, camera, _tinted),
            f"other light in camera '{camera}' spoils the actions; train with color jitter or under several lamps",
        )
    if recording.embodiment.state_keys:
        if len(recording.episodes) > 1:
            yield Probe(
                "state",
                "state of another moment",
                True,
                _other_state,
                "the policy does not use the measured joints; it cannot correct their deviations",
                is_decisive=False,
            )
        yield Probe(
            "state",
            f"joints off by {OFFSET:.0%} of their spread",
            False,
            _offset_state,
            "a small calibration error of the joints spoils the actions; calibrate, or train with state noise",
        )
        yield Probe(
            "state",
            f"state {STATE_DELAY_S:g} s late",
            False,
            _late_state,
            "late joint states spoil the actions; check the driver's time stamps",
        )


def _other_instruction(recording: Recording, query: Query) -> Observation:
    return _with_text(recording, query, _other(recording.tasks, query.task, recording, query))


def _other(items: Sequence[Item], own: Item, recording: Recording, query: Query) -> Item:
    """Return one of the items that is not `own`, by turns along an episode: a single one may be like it by chance."""
    turn = query.row // recording.horizon
    return items[(items.index(own) + 1 + turn % (len(items) - 1)) % len(items)]


def _with_text(recording: Recording, query: Query, text: str) -> Observation:
    return dataclasses.replace(recording.observation(query.episode, query.row), instruction=text)


def _other_images(recording: Recording, query: Query, cameras: tuple[str, ...]) -> Observation:
    """Return the observation with images of another episode at the same share of its length."""
    other = _other(recording.episodes, query.episode, recording, query)
    row = query.row * (recording.length(other) - 1) // max(1, recording.length(query.episode) - 1)
    foreign = recording.observation(other, row).images
    own = recording.observation(query.episode, query.row)
    return dataclasses.replace(own, images={**own.images, **{camera: foreign[camera] for camera in cameras}})


def _with_image(
    recording: Recording, query: Query, camera: str, function: Callable[[np.ndarray], np.ndarray]
) -> Observation:
    own = recording.observation(query.episode, query.row)
    return dataclasses.replace(own, images={**own.images, camera: function(own.images[camera])})


def _shifted(images: np.ndarray) -> np.ndarray:
    """Return images `(T, H, W, 3)` moved to the right; the left edge is repeated."""
    width = images.shape[2]
    columns = np.maximum(np.arange(width) - max(1, round(SHIFT * width)), 0)
    return images[:, :, columns]


def _tinted(images: np.ndarray) -> np.ndarray:
    return np.clip(images * np.array(BRIGHTNESS), 0, 255).astype(np.uint8)


def _other_state(recording: Recording, query: Query) -> Observation:
    """Return the observation with the joints of another episode, half its length away."""
    other = _other(recording.episodes, query.episode, recording, query)
    length = recording.length(other)
    share = query.row / recording.length(query.episode)
    foreign = recording.state(other, int((share + 0.5) % 1.0 * (length - 1)))
    return dataclasses.replace(recording.observation(query.episode, query.row), state=foreign)


def _offset_state(recording: Recording, query: Query) -> Observation:
    own = recording.observation(query.episode, query.row)
    embodiment = recording.embodiment
    return dataclasses.replace(
        own,
        state={
            # rotations stay what they are: an offset would not be one
            key: value
            if embodiment.state[key].rotation or embodiment.state[key].pose
            else value + OFFSET * recording.state_spread(key)
            for key, value in own.state.items()
        },
    )


def _late_state(recording: Recording, query: Query) -> Observation | None:
    late = round(STATE_DELAY_S * recording.embodiment.fps)
    if query.row < late:
        return None
    own = recording.observation(query.episode, query.row)
    return dataclasses.replace(own, state=recording.state(query.episode, query.row - late))
