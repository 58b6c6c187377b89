# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a request for actions and its reply look like in each release.

    N1.5, flat     {"video.front": (T, H, W, 3), "state.arm": (T, D), "annotation.human.task_description": [text]}
                   -> {"action.arm": (H, D)}; with a leading batch axis in all arrays there is one in the reply too
    N1.7, nested   {"observation": {"video": {"front": (B, T, H, W, 3)}, "state": {"arm": (B, T, D)},
                   "language": {"task": [[text]]}}, "options": None} -> [{"arm": (B, H, D)}, {}]
    N1.7, flat     (of the simulation wrapper) {"observation": {"video.front": (B, T, H, W, 3), "state.arm": (B, T, D),
                   "task": [text]}, "options": None} -> [{"action.arm": (B, H, D)}, {}]

Ours: `options` of a request for one sample may ask to continue the chunk that is being carried out
(`gr00t_training.types.Continuation`): {"previous_actions": {key: (rows, D)}, "frozen_steps", "overlap_steps"?,
"ramp_rate"?, "guidance"?, "elapsed_ns"?, "step_ns"?}. The first row was due `elapsed_ns` before the observation
(absent: it is due then); rows are `step_ns` apart (absent: the embodiment's tick).

Letters in shapes: B samples, T ticks observed, H ticks of the chunk or height, W width, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ObservationError, ServerError
from gr00t_training.published.keys import EPISODE_TEXTS, published_language
from gr00t_training.serve.images import ImageForm, decode_images, encode_images
from gr00t_training.serve.wire import EncodedImages, Wire
from gr00t_training.types import ActionChunk, Continuation, Observation

SERVER_NAME = "gr00t_serve"  # by which our client knows our server


class Layout(Enum):
    """How keys are arranged."""

    N1_5_FLAT = "N1.5"
    N1_7_NESTED = "N1.7"
    N1_7_FLAT = "N1.7, flat"


@dataclass(frozen=True)
class ActionRequest:
    """A checked request; images are still as they were sent."""

    video: Mapping[str, np.ndarray | EncodedImages]  # key -> (B, T, H, W, 3), each
    state: Mapping[str, np.ndarray]  # key -> (B, T, D) float64, each
    instructions: tuple[str, ...]  # B
    layout: Layout
    is_batched: bool  # whether the reply has a batch axis
    continuation: Continuation | None  # of the only sample

    def observations(self) -> list[Observation]:
        """Decode the images and return the samples.

        Raises:
            ServerError: a JPEG or PNG file is damaged.
        """
        video = {
            key: decode_images(images, f"video.{key}") if isinstance(images, EncodedImages) else images
            for key, images in self.video.items()
        }
        return [
            Observation(
                {key: images[i] for key, images in video.items()},
                {key: values[i] for key, values in self.state.items()},
                instruction,
            )
            for i, instruction in enumerate(self.instructions)
        ]

    def reply(self, chunks: Sequence[ActionChunk], dtype: type[np.floating]) -> Any:
        """Return what answers the request; `dtype` of the actions is float32 in the releases."""
        actions = {
            key: np.stack([chunk.actions[key] for chunk in chunks]).astype(dtype) for key in chunks[0].actions
        }  # (B, H, D), each
        if self.layout is Layout.N1_7_NESTED:
            return [actions, {}]
        flat = {f"action.{key}": values if self.is_batched else values[0] for key, values in actions.items()}
        return flat if self.layout is Layout.N1_5_FLAT else [flat, {}]


def read_request(content: Any, embodiment: Embodiment) -> ActionRequest:
    """Read the `data` of a request for actions; inputs that the policy does not use are not looked at.

    Raises:
        ObservationError: an input is missing or malformed; names key, found and expected.
    """
    content = _mapping(content, "data")
    layout, parts, continuation = Layout.N1_5_FLAT, content, None
    if "observation" in content:
        continuation = _read_continuation(content.get("options"), embodiment)
        parts = _mapping(content["observation"], "observation")
        layout = Layout.N1_7_NESTED if any(name in parts for name in ("video", "state")) else Layout.N1_7_FLAT
    if layout is not Layout.N1_7_NESTED:
        parts = _nested(parts)
    video, state, language = (_mapping(parts.get(name, {}), name) for name in ("video", "state", "language"))
    arrays = {key: _numbers(state, key) for key in embodiment.state_keys}
    is_batched = layout is not Layout.N1_5_FLAT or any(values.ndim > 2 for values in arrays.values())
    pictures = {key: _images(video, key, is_batched) for key in embodiment.video_keys}
    vectors = {key: _vectors(values, key, is_batched) for key, values in arrays.items()}
    sizes = {f"video.{key}": images.shape[0] for key, images in pictures.items()}
    sizes.update({f"state.{key}": values.shape[0] for key, values in vectors.items()})
    first, num_samples = next(iter(sizes.items()))
    for name, size in sizes.items():
        if size != num_samples or size == 0:
            raise ObservationError(f"{name}: batch of {size}, expected that of {first} ({num_samples}), at least one")
    if continuation is not None and num_samples > 1:
        raise ObservationError(f"options: a chunk to continue, and {num_samples} samples; ask for one at a time")
    instructions = _instructions(language, embodiment, num_samples, layout)
    return ActionRequest(pictures, vectors, instructions, layout, is_batched, continuation)


def write_request(
    observations: Sequence[Observation],
    wire: Wire,
    embodiment: Embodiment,
    *,
    language: str,
    state_dtype: type[np.floating],
    images: ImageForm,
    continuation: Continuation | None = None,
) -> dict[str, Any]:
    """Return the `data` of a request for actions; one observation goes without a batch axis where the release can.

    Args:
        observations: at least one.
        wire: whose layout.
        embodiment: says which inputs are sent.
        language: key of the instruction.
        state_dtype: that states are sent in.
        images: form that images are sent in.
        continuation: of the only observation; our server and N1.7 only.

    Raises:
        ObservationError: an input is missing, or its shape differs between the observations.
        ConfigError: see `encode_images`.
    """
    video = {
        key: encode_images(_stacked([sample.images for sample in observations], "video", key), images)
        for key in embodiment.video_keys
    }
    state = {
        key: _stacked([sample.state for sample in observations], "state", key).astype(state_dtype)
        for key in embodiment.state_keys
    }
    texts = [sample.instruction for sample in observations]
    if wire is Wire.N1_7:
        instructions = {language: [[text] for text in texts]}
        options = _write_continuation(continuation, observations[0]) if continuation else None
        return {"observation": {"video": video, "state": state, "language": instructions}, "options": options}
    is_batched = len(observations) > 1
    data: dict[str, Any] = {f"video.{key}": value if is_batched else _first(value) for key, value in video.items()}
    data.update({f"state.{key}": value if is_batched else value[0] for key, value in state.items()})
    data[language] = texts
    return data


def read_reply(reply: Any, wire: Wire, embodiment: Embodiment, num_samples: int) -> list[dict[str, np.ndarray]]:
    """Return the actions of each sample, key -> `(H, D)` float64.

    Raises:
        ServerError: the reply is malformed, of another robot or horizon, or not finite; names the key.
    """
    if wire is Wire.N1_7:
        if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[0], dict):
            raise ServerError(f"reply: found {_described(reply)}, expected a list of actions and details")
        reply = reply[0]
    elif not isinstance(reply, dict):
        raise ServerError(f"reply: found {_described(reply)}, expected a map of actions")
    actions = {}
    for key in embodiment.action_keys:
        name = f"action.{key}" if wire is Wire.N1_5 else key
        shape = (num_samples, embodiment.action_horizon, embodiment.action[key].dim)
        values = reply.get(name)
        if wire is Wire.N1_5 and num_samples == 1 and isinstance(values, np.ndarray) and values.shape == shape[1:]:
            values = values[None]
        if not isinstance(values, np.ndarray) or values.shape != shape or values.dtype.kind not in "fiu":
            raise ServerError(f"reply: {name} is {_described(values)}, '{embodiment.name}' expects numbers {shape}")
        actions[key] = values.astype(np.float64)
        if not np.isfinite(actions[key]).all():
            raise ServerError(f"reply: {name} has values that are not finite; the policy or its input is broken")
    return [{key: values[i] for key, values in actions.items()} for i in range(num_samples)]


def _write_continuation(continuation: Continuation, observation: Observation) -> dict[str, Any]:
    chunk = continuation.chunk
    return {
        "previous_actions": {key: np.asarray(values) for key, values in chunk.actions.items()},
        "elapsed_ns": observation.stamp_ns - chunk.start_ns,
        "step_ns": chunk.step_ns,
        "frozen_steps": continuation.frozen_steps,
        "overlap_steps": continuation.overlap_steps,
        "ramp_rate": continuation.ramp_rate,
        "guidance": continuation.guidance,
    }


def _read_continuation(options: Any, embodiment: Embodiment) -> Continuation | None:
    if options is None or (isinstance(options, dict) and not options):
        return None
    options = _mapping(options, "options")
    known = ("previous_actions", *_CONTINUATION_NUMBERS)
    unknown = [str(name)[:100] for name in options if name not in known]
    if unknown:
        raise ObservationError(f"options: {', '.join(unknown[:20])} unknown, known are {', '.join(known)}")
    values = {name: _option(options, name) for name in _CONTINUATION_NUMBERS if options.get(name) is not None}
    if "frozen_steps" not in values:
        raise ObservationError("options.frozen_steps: missing, expected the steps that will be over before the answer")
    previous = _mapping(options.get("previous_actions"), "options.previous_actions")
    actions = {key: _previous(previous, key, embodiment.action[key].dim) for key in embodiment.action_keys}
    if len({len(rows) for rows in actions.values()}) > 1:
        raise ObservationError("options.previous_actions: keys have different numbers of rows, expected equal ones")
    # the observation's own stamp is that of another clock: here it is zero
    chunk = ActionChunk(actions, -values.pop("elapsed_ns", 0), values.pop("step_ns", embodiment.step_ns))
    return Continuation(chunk, **values)


_CONTINUATION_NUMBERS = {  # name -> kinds, smallest value
    "frozen_steps": (int, 0),
    "overlap_steps": (int, 0),
    "ramp_rate": ((int, float), 0),
    "guidance": ((int, float), 0),
    "elapsed_ns": (int, 0),
    "step_ns": (int, 1),
}


def _option(options: Mapping[str, Any], name: str) -> Any:
    value, (kinds, smallest) = options[name], _CONTINUATION_NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, kinds) or not smallest <= value < np.inf:
        kind = "a whole number" if kinds is int else "a number"
        raise ObservationError(f"options.{name}: found {_described(value)}, expected {kind}, at least {smallest}")
    return value


def _previous(previous: Mapping[str, Any], key: str, dim: int) -> np.ndarray:
    values: Any = previous.get(key)
    is_array = isinstance(values, np.ndarray) and values.dtype.kind in "fiu" and values.size > 0
    if not is_array or values.shape != (len(values), dim) or not np.isfinite(values).all():
        raise ObservationError(
            f"options.previous_actions.{key}: found {_described(values)}, expected finite numbers (rows, {dim})"
        )
    return values.astype(np.float64)


def _nested(flat: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """Sort "video.x", "state.x" and language keys; actions may come along and are not looked at."""
    parts: dict[str, dict[str, Any]] = {"video": {}, "state": {}, "language": {}}
    for name, value in flat.items():
        kind, _, key = str(name).partition(".")
        if kind in ("video", "state") and key:
            parts[kind][key] = value
        elif kind == "annotation" or name in EPISODE_TEXTS:
            parts["language"][name] = value
        elif kind != "action":
            raise ObservationError(
                f"{str(name)[:100]}: unknown key, expected video.*, state.*, annotation.* or {EPISODE_TEXTS[0]}"
            )
    return parts


def _images(video: Mapping[str, Any], key: str, is_batched: bool) -> np.ndarray | EncodedImages:
    value = _input(video, "video", key)
    expected = f"uint8 {'(B, T, H, W, 3)' if is_batched else '(T, H, W, 3)'}"
    is_array = isinstance(value, np.ndarray) and value.dtype == np.uint8
    if not (is_array or isinstance(value, EncodedImages)) or len(value.shape) != 4 + is_batched:
        raise ObservationError(f"video.{key}: found {_described(value)}, expected {expected}")
    if is_batched:
        return value
    return EncodedImages((1, *value.shape), value.files) if isinstance(value, EncodedImages) else value[None]


def _numbers(state: Mapping[str, Any], key: str) -> np.ndarray:
    value = _input(state, "state", key)
    try:
        values = np.asarray(value)
    except ValueError as error:
        raise ObservationError(f"state.{key}: found lists of different length, expected numbers") from error
    if values.dtype.kind not in "biuf":
        raise ObservationError(f"state.{key}: found {_described(value)}, expected numbers")
    return values


def _vectors(values: np.ndarray, key: str, is_batched: bool) -> np.ndarray:
    if values.ndim != 2 + is_batched:
        expected = "(B, T, D)" if is_batched else "(T, D)"
        raise ObservationError(f"state.{key}: found shape {values.shape}, expected {expected}")
    return values.astype(np.float64) if is_batched else values[None].astype(np.float64)


def _instructions(language: Mapping[str, Any], embodiment: Embodiment, count: int, layout: Layout) -> tuple[str, ...]:
    expected = published_language(embodiment.language)
    if not language and layout is Layout.N1_5_FLAT:
        return ("",) * count  # the release then has a sentence of its own, and so has the policy
    if expected not in language and len(language) != 1:
        found = ", ".join(str(key)[:100] for key in language) or "nothing"
        raise ObservationError(f"language: found {found}, expected {expected}")
    # the only instruction is meant, whatever its key
    key, value = (expected, language[expected]) if expected in language else next(iter(language.items()))
    try:
        texts = value.tolist() if isinstance(value, np.ndarray) else value
    except ValueError as error:
        raise ObservationError(f"{key}: not valid text ({error})") from error
    texts = [texts] * count if isinstance(texts, str) else texts
    entries = texts if isinstance(texts, list) else []
    newest = [entry[-1] if isinstance(entry, list) and entry else entry for entry in entries]  # of several ticks
    instructions = tuple(entry for entry in newest if isinstance(entry, str))
    if len(instructions) != count or len(newest) != count:
        raise ObservationError(f"{key}: found {_described(value)}, expected one text per sample, {count} in all")
    return instructions


def _mapping(value: Any, subject: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise ObservationError(f"{subject}: found {_described(value)}, expected a map of keys")
    return value


def _input(values: Mapping[str, Any], kind: str, key: str) -> Any:
    if key not in values:
        found = ", ".join(str(name)[:100] for name in list(values)[:20]) or "nothing"
        raise ObservationError(f"{kind}.{key}: missing, found {found} under {kind}")
    return values[key]


def _stacked(samples: Sequence[Mapping[str, np.ndarray]], kind: str, key: str) -> np.ndarray:
    values = [np.asarray(_input(sample, kind, key)) for sample in samples]
    if len({value.shape for value in values}) > 1:
        raise ObservationError(f"{kind}.{key}: shapes {[value.shape for value in values]} differ within the batch")
    return values[0][None] if len(values) == 1 else np.stack(values)  # one image needs no copy


def _first(value: np.ndarray | EncodedImages) -> np.ndarray | EncodedImages:
    return EncodedImages(value.shape[1:], value.files) if isinstance(value, EncodedImages) else value[0]


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, EncodedImages):
        return f"images of shape {value.shape}"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value[:100]}'"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'map'} of {len(value)}"
    return type(value).__name__
