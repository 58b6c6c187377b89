# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`meta/modality.json` in one form: the channels of a column, the feature or the annotation of each key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr00t_training.dataset import schema
from gr00t_training.dataset.metadata.features import IMAGE, MAX_WIDTH, is_video
from gr00t_training.dataset.metadata.numbers import shown, whole
from gr00t_training.embodiment import ACTION_COLUMN, IMAGE_COLUMN_PREFIX
from gr00t_training.errors import DatasetError
from gr00t_training.io.text import printable
from gr00t_training.types import KeyKind

VECTORS = ("state", "action")
KINDS = (*VECTORS, "video", "annotation")


@dataclass(frozen=True)
class VectorSlice:
    """Where `modality.json` says the channels of a state or action key are."""

    column: str
    start: int
    end: int  # half open
    is_absolute: bool  # relative keys are zero outside their episode, absolute ones keep the outermost row
    rotation: str | None  # GR00T's rotation_type
    is_continuous: bool

    @property
    def dim(self) -> int:
        """Number of channels."""
        return self.end - self.start


@dataclass(frozen=True)
class Modality:
    """The contents of `modality.json`."""

    state: Mapping[str, VectorSlice]
    action: Mapping[str, VectorSlice]
    video: Mapping[str, str]  # camera -> feature
    annotation: Mapping[str, str]  # key -> column of task numbers

    def vectors(self, kind: KeyKind) -> Mapping[str, VectorSlice]:
        """Return the keys of the state or of the action."""
        return {KeyKind.STATE: self.state, KeyKind.ACTION: self.action}[kind]


def read_modality(root: Path) -> dict[str, Any] | None:
    """Read `modality.json` of the dataset in `root`; None if there is none.

    Raises:
        DatasetError: damaged, or an entry has another form; names it.
    """
    path = schema.meta_file(root, schema.MODALITY_FILE)
    return normalised_modality(schema.read_object(path), str(path)) if path.exists() else None


def normalised_modality(content: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Return `modality.json` with every kind an object of objects, and whole numbers for `start` and `end`."""
    found = dict(content)
    for kind in KINDS:
        if content.get(kind) is None:
            found.pop(kind, None)
            continue
        entries = content[kind]
        if not isinstance(entries, Mapping):
            raise DatasetError(f"{subject}: '{kind}' is {shown(entries)}, expected an object with an entry per key")
        found[kind] = {
            key: _entry(kind, entry, f"{subject}: {kind}.{printable(key)}") for key, entry in entries.items()
        }
    return found


def column_of(kind: str, key: str, entry: Mapping[str, Any]) -> str:
    """Return the column, or the feature of a camera, that an entry of `modality.json` is about."""
    defaults = {"state": schema.STATE_COLUMN, "action": schema.ACTION_COLUMN, "video": key}
    return entry.get("original_key") or defaults.get(kind, schema.ANNOTATION_PREFIX + key)


def annotation_columns(modality: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the column behind each annotation."""
    entries = (modality or {}).get("annotation", {})
    return {key: column_of("annotation", key, entry) for key, entry in entries.items()}


def parse_modality(entries: Mapping[str, Any]) -> Modality:
    """Return the keys of a `modality.json` that is normalized."""

    def slices(kind: str) -> dict[str, VectorSlice]:
        return {
            key: VectorSlice(
                column=column_of(kind, key, entry),
                start=entry["start"],
                end=entry["end"],
                is_absolute=entry.get("absolute") is not False,
                rotation=entry.get("rotation_type"),
                is_continuous=not str(entry.get("dtype") or "float64").startswith(("int", "uint", "bool")),
            )
            for key, entry in entries.get(kind, {}).items()
        }

    return Modality(
        state=slices("state"),
        action=slices("action"),
        video={key: column_of("video", key, entry) for key, entry in entries.get("video", {}).items()},
        annotation=annotation_columns(entries),
    )


def derived_modality(features: Mapping[str, Any]) -> Modality:
    """Return every column of float vectors as a key, named by its last part, for sets without `modality.json`."""

    def whole(name: str) -> VectorSlice:
        return VectorSlice(name, 0, features[name]["shape"][0], is_absolute=True, rotation=None, is_continuous=True)

    vectors = [
        name
        for name, feature in features.items()
        if "float" in feature["dtype"]
        and len(feature["shape"]) == 1
        and feature["shape"][0]
        and name != schema.TIMESTAMP_COLUMN
    ]
    cameras = [name for name, feature in features.items() if is_video(feature) or feature["dtype"] == IMAGE]
    return Modality(
        state={name.removeprefix("observation."): whole(name) for name in vectors if name.startswith("observation.")},
        action={name.removeprefix("action."): whole(name) for name in vectors if name.split(".")[0] == ACTION_COLUMN},
        video={name.removeprefix(IMAGE_COLUMN_PREFIX): name for name in cameras},
        annotation={},
    )


def _entry(kind: str, value: Any, subject: str) -> dict[str, Any]:
    if value is None and kind not in VECTORS:
        return {}
    if not isinstance(value, Mapping):
        raise DatasetError(f"{subject}: is {shown(value)}, expected an object")
    found = dict(value)
    column = value.get("original_key")
    if column is not None and not isinstance(column, str):
        raise DatasetError(f"{subject}: original_key is {shown(column)}, expected the name of a column")
    if kind in VECTORS:
        for name in ("start", "end"):
            found[name] = whole(value.get(name), f"{subject}: {name}", high=MAX_WIDTH)
        if found["start"] >= found["end"]:
            raise DatasetError(
                f"{subject}: channels {found['start']} to {found['end']}, expected a start below the end"
            )
        for name, kinds in (("absolute", bool), ("rotation_type", str), ("dtype", str)):
            if value.get(name) is not None and not isinstance(value[name], kinds):
                raise DatasetError(f"{subject}: {name} is {shown(value[name])}, expected a {kinds.__name__}")
    return found
