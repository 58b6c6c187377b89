# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Layout of a request for actions and of its reply in each release.

    N1.5, flat     {"video.front": (T, H, W, 3), "state.arm": (T, D), "annotation.human.task_description": [text]}
                   -> {"action.arm": (H, D)}; with a leading batch axis in all arrays there is one in the reply too
    N1.7, nested   {"observation": {"video": {"front": (B, T, H, W, 3)}, "state": {"arm": (B, T, D)},
                   "language": {"task": [[text]]}}, "options": None} -> [{"arm": (B, H, D)}, {}]
    N1.7, flat     (of the simulation wrapper) {"observation": {"video.front": (B, T, H, W, 3), "state.arm": (B, T, D),
                   "task": [text]}, "options": None} -> [{"action.arm": (B, H, D)}, {}]

Ours: `options` of a request for one sample may ask to continue the chunk that the robot carries out now
(`gr00t_training.types.Continuation`): {"previous_actions": {key: (rows, D)}, "frozen_steps", "overlap_steps"?,
"ramp_rate"?, "guidance"?, "elapsed_ns"?, "step_ns"?}. The first row was due `elapsed_ns` before the observation
(absent: it is due then); rows are `step_ns` apart (absent: the embodiment's tick).

Letters in shapes: B samples, T ticks observed, H ticks of the chunk or height, W width, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any

import numpy as np

from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ObservationError, ServerError
from gr00t_training.io.text import MAX_INSTRUCTION, check_instruction, printable
from gr00t_training.serve.images import ImageForm, decode_images, encode_images
from gr00t_training.serve.request_limits import MAX_STATE, RequestLimits, check_image_bytes, check_state
from gr00t_training.serve.wire import EncodedImages, Wire
from gr00t_training.types import ActionChunk, Continuation, KeyKind, KeyRef, Observation
from gr00t_training.upstream.keys import EPISODE_TEXTS, published_language

SERVER_NAME = "gr00t_serve"  # our client recognizes our server by it
MAX_ROWS = 1000  # of a chunk to continue
MAX_KEY, MAX_KEYS = 100, 20  # characters and keys of a client shown in an error


class Layout(Enum):
    """Arrangement of the keys."""

    N1_5_FLAT = "N1.5"
    N1_7_NESTED = "N1.7"
    N1_7_FLAT = "N1.7, flat"


@dataclass(frozen=True)
class ActionRequest:
    """A checked request; images are not decoded yet."""

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
        """Return the content of the reply; `dtype` of the actions is float32 in the releases.

        Raises:
            ServerError: an action is not finite.
        """
        with np.errstate(over="ignore"):  # of float32; refused below
            actions = {
                key: np.array([chunk.actions[key] for chunk in chunks], dtype) for key in chunks[0].actions
            }  # (B, H, D), each
        for key, values in actions.items():
            if not np.isfinite(values).all():
                raise ServerError(
                    f"action.{key}: the policy predicted NaN or infinity; check its weights and the state"
                )
        if self.layout is Layout.N1_7_NESTED:
            return [actions, {}]
        flat = {f"action.{key}": values if self.is_batched else values[0] for key, values in actions.items()}
        return flat if self.layout is Layout.N1_5_FLAT else [flat, {}]


def read_request(content: Any, embodiment: Embodiment, limits: RequestLimits = RequestLimits()) -> ActionRequest:  # noqa: B008
    """Read the `data` of a request for actions; inputs that the policy does not use are ignored.

    Raises:
        ObservationError: an input is missing, malformed or beyond a limit; names key, found and expected.
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
    vectors = {key: _vectors(values, key, is_batched, embodiment) for key, values in arrays.items()}
    sizes = {f"video.{key}": images.shape[0] for key, images in pictures.items()}
    sizes.update({f"state.{key}": values.shape[0] for key, values in vectors.items()})
    first, num_samples = next(iter(sizes.items()))
    for name, size in sizes.items():
        if size != num_samples or size == 0:
            raise ObservationError(f"{name}: batch of {size}, expected that of {first} ({num_samples}), at least one")
    if num_samples > limits.num_samples:
        raise ObservationError(
            f"{first}: batch of {num_samples} (limit {limits.num_samples}); send fewer samples, or start the server "
            "with a larger --max-batch"
        )
    check_image_bytes(pictures, limits.image_bytes)
    for key, values in vectors.items():
        check_state(key, values, embodiment, limits.state.get(key, MAX_STATE))
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
    """Return the `data` of a request for actions; a single observation has no batch axis if the release allows it.

    Args:
        observations: at least one.
        wire: message format.
        embodiment: declares the inputs to send.
        language: key of the instruction.
        state_dtype: type of the sent states.
        images: format of the sent images.
        continuation: of the only observation; our server and N1.7 only.

    Raises:
        ObservationError: an input is missing, or its shape differs between the observations.
        ConfigError: see `encode_images`.
    """
    video = {
        key: encode_images(_stacked([sample.images for sample in observations], KeyRef(KeyKind.VIDEO, key)), images)
        for key in embodiment.video_keys
    }
    state = {
        key: _stacked([sample.state for sample in observations], KeyRef(KeyKind.STATE, key)).astype(state_dtype)
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
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ObservationError(f"options: unknown {_listed(unknown)}, expected {', '.join(known)}")
    values = {name: _option(options, name) for name in _CONTINUATION_NUMBERS if options.get(name) is not None}
    if "frozen_steps" not in values:
        raise ObservationError("options.frozen_steps: missing, expected the number of steps before the answer arrives")
    previous = _mapping(options.get("previous_actions"), "options.previous_actions")
    actions = {key: _previous(previous, key, embodiment.action[key].dim) for key in embodiment.action_keys}
    if len({len(rows) for rows in actions.values()}) > 1:
        raise ObservationError("options.previous_actions: keys have different numbers of rows, expected equal ones")
    # the client's stamp comes from another clock: here it is zero
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
    is_array = isinstance(values, np.ndarray) and values.dtype.kind in "fiu" and values.ndim == 2
    is_shape = is_array and 0 < len(values) <= MAX_ROWS and values.shape[1] == dim
    numbers = _float64(values) if is_shape else None
    if numbers is None or not (np.abs(numbers) <= MAX_STATE).all():
        raise ObservationError(
            f"options.previous_actions.{key}: found {_described(values)}, expected finite numbers (rows, {dim}) of at "
            f"most {MAX_ROWS} rows and magnitude {MAX_STATE:g}"
        )
    return numbers


def _float64(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.float64:
        return values
    with np.errstate(all="ignore"):  # what becomes infinite or NaN is refused where it is checked
        return values.astype(np.float64)


def _nested(flat: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """Sort "video.x", "state.x" and language keys; actions are ignored."""
    parts: dict[str, dict[str, Any]] = {"video": {}, "state": {}, "language": {}}
    for name, value in flat.items():
        ref = _ref(str(name))
        if name in EPISODE_TEXTS or (ref and ref.kind is KeyKind.ANNOTATION):
            parts["language"][name] = value
        elif ref and ref.kind in (KeyKind.VIDEO, KeyKind.STATE):
            parts[ref.kind.value][ref.key] = value
        elif ref is None or ref.kind is not KeyKind.ACTION:
            shown = printable(str(name), MAX_KEY)
            raise ObservationError(
                f"{shown}: unknown key, expected video.*, state.*, annotation.* or {EPISODE_TEXTS[0]}"
            )
    return parts


def _ref(name: str) -> KeyRef | None:
    try:
        return KeyRef.parse(name)
    except ValueError:
        return None


def _images(video: Mapping[str, Any], key: str, is_batched: bool) -> np.ndarray | EncodedImages:
    value = _input(video, KeyRef(KeyKind.VIDEO, key))
    expected = f"uint8 {'(B, T, H, W, 3)' if is_batched else '(T, H, W, 3)'}"
    is_array = isinstance(value, np.ndarray) and value.dtype == np.uint8
    if not (is_array or isinstance(value, EncodedImages)) or len(value.shape) != 4 + is_batched:
        raise ObservationError(f"video.{key}: found {_described(value)}, expected {expected}")
    if is_batched:
        return value
    return EncodedImages((1, *value.shape), value.files) if isinstance(value, EncodedImages) else value[None]


def _numbers(state: Mapping[str, Any], key: str) -> np.ndarray:
    value = _input(state, KeyRef(KeyKind.STATE, key))
    if isinstance(value, list) and not _holds_numbers(value):
        raise ObservationError(f"state.{key}: found {_described(value)}, expected lists of numbers")
    try:
        values = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ObservationError(f"state.{key}: found lists of different length, expected numbers") from error
    if values.dtype.kind not in "biuf":
        raise ObservationError(f"state.{key}: found {_described(value)}, expected numbers")
    return values


def _holds_numbers(value: Any, num_axes: int = 3) -> bool:
    """Whether a list holds numbers only: among texts NumPy would give each item the width of the longest."""
    if isinstance(value, list):
        return num_axes > 0 and all(_holds_numbers(item, num_axes - 1) for item in value)
    return isinstance(value, (int, float))


def _vectors(values: np.ndarray, key: str, is_batched: bool, embodiment: Embodiment) -> np.ndarray:
    if values.ndim != 2 + is_batched:
        expected = "(B, T, D)" if is_batched else "(T, D)"
        raise ObservationError(f"state.{key}: found shape {values.shape}, expected {expected}")
    rows = len(embodiment.state_history), embodiment.state[key].dim
    if values.shape[-2:] != rows:
        raise ObservationError(
            f"state.{key}: found shape {values.shape}, embodiment '{embodiment.name}' expects {rows} per sample"
        )
    return _float64(values if is_batched else values[None])


def _instructions(language: Mapping[str, Any], embodiment: Embodiment, count: int, layout: Layout) -> tuple[str, ...]:
    expected = published_language(embodiment.language)
    if not language and layout is Layout.N1_5_FLAT:
        return ("",) * count  # the release and the policy then use a default
    if expected not in language and len(language) != 1:
        found = _listed(language)
        raise ObservationError(f"language: found {found}, expected {expected}")
    # the only instruction is used, whatever its key
    key, value = (expected, language[expected]) if expected in language else next(iter(language.items()))
    try:
        return _texts(value, count)
    except ValueError as error:
        raise ObservationError(f"{printable(str(key), MAX_KEY)}: {error}") from error


def _texts(value: Any, count: int) -> tuple[str, ...]:
    """Return one text per sample; ValueError: `value` is something else."""
    try:  # as many texts as samples: another number is refused below without reading them
        texts = value.tolist() if isinstance(value, np.ndarray) and value.size <= count else value
    except ValueError as error:
        raise ValueError(f"not valid text ({error})") from error
    texts = [texts] * count if isinstance(texts, str) else texts
    entries = texts if isinstance(texts, list) else []
    newest = [entry[-1] if isinstance(entry, list) and entry else entry for entry in entries]  # of several ticks
    instructions = tuple(entry for entry in newest if isinstance(entry, str))
    if len(instructions) != count or len(newest) != count:
        raise ValueError(f"found {_described(value)}, expected one text per sample, {count} in all")
    for instruction in instructions:
        if instruction.strip() or len(instruction) > MAX_INSTRUCTION:  # for an empty one the policy has a default
            check_instruction(instruction)
    return instructions


def _mapping(value: Any, subject: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise ObservationError(f"{subject}: found {_described(value)}, expected a map of keys")
    return value


def _input(values: Mapping[str, Any], ref: KeyRef) -> Any:
    if ref.key not in values:
        raise ObservationError(f"{ref}: missing, found {_listed(values)} under {ref.kind}")
    return values[ref.key]


def _stacked(samples: Sequence[Mapping[str, np.ndarray]], ref: KeyRef) -> np.ndarray:
    values = [np.asarray(_input(sample, ref)) for sample in samples]
    if len({value.shape for value in values}) > 1:
        raise ObservationError(f"{ref}: shapes {[value.shape for value in values]} differ within the batch")
    return values[0][None] if len(values) == 1 else np.stack(values)  # one image needs no copy


def _listed(keys: Iterable[Any]) -> str:
    """Return keys of a client for an error."""
    return ", ".join(printable(str(key), MAX_KEY) for key in islice(keys, MAX_KEYS)) or "nothing"


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
        return f"the text '{printable(value, MAX_KEY)}'"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, dict)):
        return f"a {'list' if isinstance(value, list) else 'map'} of {len(value)}"
    return type(value).__name__
