# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Modality layout of a robot: keys, their order, channel names, units and normalization.

The embodiment travels with dataset and checkpoint. The topic of a key on a running robot is in the
topic map (`gr00t_recorder.topics.bindings`), never in the embodiment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

from gr00t_training.errors import ConfigError
from gr00t_training.io.files import read_text
from gr00t_training.io.text import printable
from gr00t_training.io.yaml_text import SIZE_LIMIT
from gr00t_training.settings import parse_settings, setting
from gr00t_training.types import VECTOR_KINDS, KeyKind, KeyRef

STATE_COLUMN = "observation.state"
ACTION_COLUMN = "action"
IMAGE_COLUMN_PREFIX = "observation.images."

MODEL_KINDS = (*VECTOR_KINDS, KeyKind.VIDEO)  # that a model sees or answers with
ROBOT_KINDS = (*MODEL_KINDS, KeyKind.DEPTH)  # that a robot has

MAX_CHANNELS = 8192  # of a key
MAX_NAME = 200  # [characters] of a name

# Safe in file names; published keys have '-' and '.' too (top_camera-images-rgb, images.rgb.head).
_KEY = re.compile(r"\w([\w.-]*\w)?")


class Normalization(str, Enum):
    """How a key is scaled for the model (formulas: `gr00t_training.transforms.state_action`)."""

    MIN_MAX = "min_max"
    Q99 = "q99"
    MEAN_STD = "mean_std"
    SCALE = "scale"
    BINARY = "binary"
    SIN_COS = "sin_cos"


class Rotation(str, Enum):
    """Rotation form of a key; quaternions of datasets are (w, x, y, z)."""

    QUATERNION = "quaternion"
    ROTATION_6D = "rotation_6d"
    AXIS_ANGLE = "axis_angle"
    MATRIX = "matrix"
    EULER_RPY = "euler_angles_rpy"
    EULER_RYP = "euler_angles_ryp"
    EULER_PRY = "euler_angles_pry"
    EULER_PYR = "euler_angles_pyr"
    EULER_YRP = "euler_angles_yrp"
    EULER_YPR = "euler_angles_ypr"


class Pose(str, Enum):
    """Form of a key that is a position and a rotation together; its relative action is a transform, not a difference.

    A rotation in six numbers is the first two rows of its matrix.
    """

    XYZ_ROTATION_6D = "xyz_rotation_6d"
    XYZ_AXIS_ANGLE = "xyz_axis_angle"
    MATRIX = "matrix_4x4"

    @property
    def dim(self) -> int:
        """Number of channels."""
        return {"xyz_rotation_6d": 9, "xyz_axis_angle": 6, "matrix_4x4": 16}[self.value]


class Interpolation(str, Enum):
    """How a controller may move between two actions of a key."""

    LINEAR = "linear"
    STEP = "step"
    SLERP = "slerp"


@dataclass(frozen=True)
class VectorKey:
    """One named group of channels of the state or the action."""

    names: tuple[str, ...] = setting(description="Channel names in order; joint names where channels are joints.")
    unit: str = setting("rad", "Unit of every channel (SI; joints in radians, REP 103).")
    normalization: Normalization | None = setting(None, "How the model's input is scaled; absent: unchanged.")
    rotation: Rotation | None = setting(None, "Rotation form in the dataset; absent: not a rotation.")
    target_rotation: Rotation | None = setting(None, "Rotation form that the model sees; absent: as in the dataset.")
    is_absolute: bool = setting(True, "Whether values are absolute; relative actions pad an episode's end with zeros.")
    interpolation: Interpolation = setting(Interpolation.LINEAR, "How a controller moves between two actions.")
    relative_to: str | None = setting(
        None, "Actions only: state key; values are relative to its newest row (N1.6, N1.7); absent: as recorded."
    )
    pose: Pose | None = setting(None, "Form of a pose, position and rotation in one key; absent: not a pose.")

    def __post_init__(self) -> None:
        if self.pose and len(self.names) != self.pose.dim:
            raise ValueError(f"pose {self.pose.value} has {self.pose.dim} channels, names has {len(self.names)}")
        if not self.names:
            raise ValueError("names is empty, expected at least one channel name")
        if len(self.names) > MAX_CHANNELS:
            raise ValueError(f"names has {len(self.names)} channels (limit {MAX_CHANNELS})")
        for name in self.names:
            _check_text("a channel name", name, shortest=1)
        repeated = _repeated(self.names)
        if repeated:
            raise ValueError(f"duplicate channel '{min(repeated)}' in names")

    @property
    def dim(self) -> int:
        """Number of channels."""
        return len(self.names)


@dataclass(frozen=True)
class VideoKey:
    """One camera as stored in the dataset."""

    height: int = setting(description="Stored height [px], even; 0: any (never recorded).", ge=0, le=8192)
    width: int = setting(description="Stored width [px], even; 0: any (never recorded).", ge=0, le=8192)

    @property
    def is_any_size(self) -> bool:
        """Whether images of any size are taken: only so in an embodiment read from a published checkpoint."""
        return self.height == 0

    def __post_init__(self) -> None:
        if (self.height == 0) != (self.width == 0):
            raise ValueError(f"size {self.width}x{self.height}: give both, or 0 for both")
        if self.height % 2 or self.width % 2:
            raise ValueError(f"size {self.width}x{self.height} is odd; yuv420p video needs even width and height")


@dataclass(frozen=True)
class DepthKey:
    """One depth camera as stored next to the dataset (`gr00t_training.dataset.media.depth`)."""

    height: int = setting(description="Stored height [px].", ge=1, le=8192)
    width: int = setting(description="Stored width [px].", ge=1, le=8192)
    unit_m: float = setting(0.001, "Length of one stored count [m]; 65535 of them are the farthest.", ge=1e-6, le=1.0)


@dataclass(frozen=True)
class ModelKeys:
    """Which of the recorded keys the model uses, in the order in which it concatenates them."""

    state: tuple[str, ...] = setting((), "State keys; empty: all, in order.")
    action: tuple[str, ...] = setting((), "Action keys; empty: all, in order.")
    video: tuple[str, ...] = setting((), "Cameras; empty: all, in order.")


@dataclass(frozen=True)
class Embodiment:
    """A robot's modality layout. Order of `state` and `action` is the order of the dataset's columns."""

    name: str = setting(description="Name of the embodiment, as in the file name.")
    tag: str = setting(description="GR00T embodiment tag; chooses the model's projector (gr1, new_embodiment).")
    fps: int = setting(description="Tick rate of dataset and policy [Hz].", ge=1, le=1000)
    state: Mapping[str, VectorKey] = setting(description="State keys in column order.")
    action: Mapping[str, VectorKey] = setting(description="Action keys in column order.")
    video: Mapping[str, VideoKey] = setting(description="Cameras.")
    language: str = setting("human.task_description", "Annotation key that holds the instruction.")
    robot_type: str = setting("", "Robot name written to the dataset; empty: the embodiment's name.")
    action_horizon: int = setting(16, "Ticks in one action chunk.", ge=1, le=1000)
    video_history: tuple[int, ...] = setting(
        (0,), "Ticks of the images that the model sees, oldest first, 0 the newest (N1.6, N1.7)."
    )
    state_history: tuple[int, ...] = setting(
        (0,), "Ticks of the states that the model sees, oldest first, 0 the newest (N1.6, N1.7)."
    )
    model: ModelKeys = setting(default_factory=ModelKeys, description="Keys the model uses; absent: all.")
    depth: Mapping[str, DepthKey] = setting(
        default_factory=dict, description="Depth cameras, kept next to the dataset; no model reads them."
    )

    def __post_init__(self) -> None:
        for field in ("name", "tag", "language"):
            _check_text(field, getattr(self, field))
        for kind in MODEL_KINDS:
            declared = self.declared(kind)
            if not declared:
                raise ValueError(f"{kind} is empty, expected at least one key")
            for key in self.used(kind):
                if key not in declared:
                    raise ValueError(f"model.{kind}: '{key}' is not declared under {kind} ({', '.join(declared)})")
        for kind in ROBOT_KINDS:
            for key in self.declared(kind):
                if not _KEY.fullmatch(key):
                    raise ValueError(
                        f"{kind} key '{key}': use letters, digits and '_', inside also '-' and '.' (no '/')"
                    )
        for kind, history in (("video", self.video_history), ("state", self.state_history)):
            if not history or history[-1] != 0 or any(a >= b for a, b in itertools.pairwise(history)):
                raise ValueError(
                    f"{kind}_history is {list(history)}, expected rising ticks that end at 0, like [-15, 0]"
                )
        for key, vector in self.action.items():
            if vector.relative_to is not None and vector.relative_to not in self.state:
                raise ValueError(
                    f"action.{key}.relative_to: '{vector.relative_to}' is not a state key ({', '.join(self.state)})"
                )
        for kind in VECTOR_KINDS:
            repeated = _repeated(column_names(self.vectors(kind)))
            if repeated:
                raise ValueError(f"{kind}: channel '{min(repeated)}' is in two keys (limit 1)")

    @property
    def step_ns(self) -> int:
        """Tick period, nanoseconds (rounded; use `tick_ns` for the k-th tick)."""
        return round(1e9 / self.fps)

    @property
    def state_keys(self) -> tuple[str, ...]:
        """State keys that the model uses, in order of concatenation."""
        return self.model.state or tuple(self.state)

    @property
    def action_keys(self) -> tuple[str, ...]:
        """Action keys that the model produces, in order of concatenation."""
        return self.model.action or tuple(self.action)

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Cameras that the model sees, in order."""
        return self.model.video or tuple(self.video)

    def declared(self, kind: KeyKind) -> Mapping[str, VectorKey | VideoKey | DepthKey]:
        """Return the keys of a kind in order of the dataset's columns; annotations are not part of an embodiment."""
        return {
            KeyKind.STATE: self.state,
            KeyKind.ACTION: self.action,
            KeyKind.VIDEO: self.video,
            KeyKind.DEPTH: self.depth,
        }[kind]

    def vectors(self, kind: KeyKind) -> Mapping[str, VectorKey]:
        """Return the keys of the state or of the action."""
        return {KeyKind.STATE: self.state, KeyKind.ACTION: self.action}[kind]

    def used(self, kind: KeyKind) -> tuple[str, ...]:
        """Return the keys of a kind that the model uses, in order of concatenation; it uses no depth."""
        return {
            KeyKind.STATE: self.state_keys,
            KeyKind.ACTION: self.action_keys,
            KeyKind.VIDEO: self.video_keys,
            KeyKind.DEPTH: (),
        }[kind]

    def used_vectors(self) -> Iterator[tuple[KeyRef, VectorKey]]:
        """Yield the keys of state and action that the model uses, in order of concatenation."""
        for kind in VECTOR_KINDS:
            for key in self.used(kind):
                yield KeyRef(kind, key), self.vectors(kind)[key]

    @property
    def observed_ticks(self) -> tuple[int, ...]:
        """Ticks of the frames of one observation, oldest first, 0 the newest."""
        return tuple(sorted({*self.video_history, *self.state_history}))

    def fingerprint(self) -> str:
        """Return a short hash of everything that must agree between dataset, checkpoint and robot."""
        text = json.dumps(to_mapping(self), sort_keys=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_embodiment(name_or_path: str | Path) -> Embodiment:
    """Load a shipped embodiment by name, or any embodiment from its YAML or JSON file.

    Raises:
        ConfigError: no such embodiment, or the file is wrong (names file and line).
    """
    return parse_settings(Embodiment, *find_embodiment(name_or_path))


def find_embodiment(name_or_path: str | Path) -> tuple[str, str]:
    """Return the text of a shipped embodiment or of a file, and what messages call it.

    Raises:
        ConfigError: no such embodiment, or the file cannot be read.
    """
    shipped = shipped_embodiments()
    if str(name_or_path) in shipped:
        with resources.as_file(_shipped_folder() / f"{name_or_path}.yaml") as path:
            return read_text(path, ConfigError, SIZE_LIMIT), str(path)
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            f"embodiment '{name_or_path}': neither a file nor a shipped embodiment ({', '.join(shipped)})"
        )
    return read_text(path, ConfigError, SIZE_LIMIT), str(path)


def embodiment_or_tag(name: str | Path) -> Embodiment | str:
    """Return the embodiment of that name or file; any other name is a tag or name that a checkpoint may know.

    Raises:
        ConfigError: the file is missing or wrong (names file and line).
    """
    path = Path(name)
    if str(name) in shipped_embodiments() or path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        return load_embodiment(name)
    return str(name)


def shipped_embodiments() -> list[str]:
    """Names of the embodiments that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _shipped_folder().iterdir() if entry.name.endswith(".yaml")
    )


def to_mapping(embodiment: Embodiment) -> dict[str, Any]:
    """Return the embodiment as plain JSON types; `load_embodiment` reads them back equal.

    Settings added after the first fingerprints are left out if they have their default, so that old ones stay valid.
    """
    content = json.loads(json.dumps(dataclasses.asdict(embodiment)))
    for history in ("video_history", "state_history"):
        if content[history] == [0]:
            del content[history]
    if not content["depth"]:
        del content["depth"]
    for vector in (*content["state"].values(), *content["action"].values()):
        for name in ("relative_to", "pose"):
            if vector[name] is None:
                del vector[name]
    return content


def modality_layout(embodiment: Embodiment) -> dict[str, Any]:
    """Derive GR00T's `meta/modality.json` (spec: lerobot_dataset, section `modality.json`)."""

    def slices(keys: Mapping[str, VectorKey]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        start = 0
        for key, vector in keys.items():
            entries[key] = {"start": start, "end": start + vector.dim, "absolute": vector.is_absolute}
            if vector.rotation:
                entries[key]["rotation_type"] = vector.rotation.value
            start += vector.dim
        return entries

    return {
        "state": slices(embodiment.state),
        "action": slices(embodiment.action),
        "video": {key: {"original_key": IMAGE_COLUMN_PREFIX + key} for key in embodiment.video},
        "annotation": {embodiment.language: {"original_key": "task_index"}},
    }


def _check_text(what: str, text: str, shortest: int = 0) -> None:
    """Refuse names that cannot be printed: they go to logs, plots and file names."""
    if not shortest <= len(text) <= MAX_NAME or not text.isprintable():
        raise ValueError(f"{what} is '{printable(text)}', expected {shortest} to {MAX_NAME} printable characters")


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def column_names(keys: Mapping[str, VectorKey]) -> list[str]:
    """Channel names of a whole column, keys concatenated in order."""
    return [name for vector in keys.values() for name in vector.names]


def differences(found: Embodiment, expected: Embodiment) -> list[str]:
    """List what two embodiments disagree on, one item with both values per entry; empty if they agree."""
    return _differences(_whole(found), _whole(expected), "")


def _whole(embodiment: Embodiment) -> dict[str, Any]:
    """Return every setting, defaults included: a difference shows both values."""
    return json.loads(json.dumps(dataclasses.asdict(embodiment)))


def _differences(found: Any, expected: Any, place: str) -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        items = []
        if list(found) != list(expected):
            items.append(f"{place or 'keys'}: found {_text(list(found))}, expected {_text(list(expected))}")
        for key in [key for key in expected if key in found]:
            items += _differences(found[key], expected[key], f"{place}.{key}" if place else key)
        return items
    if found == expected:
        return []
    hint = _channels_hint(found, expected) if place.endswith(".names") else ""
    return [f"{place}: found {_text(found)}, expected {_text(expected)}{hint}"]


def _channels_hint(found: Any, expected: Any) -> str:
    """Return what is wrong with a list of channel names, which may be too long to see it."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    parts = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    return f" ({', '.join(parts) or 'the same in another order'})"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _shipped_folder() -> Any:
    return resources.files("gr00t_training") / "embodiments"
