# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""`conversion.json` in the dataset folder: the converted bags and the result of each."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from gr00t_recorder.bag.converting import BatchSettings, ConvertedBag
from gr00t_recorder.bag.sources import BagSource
from gr00t_training.dataset import schema
from gr00t_training.embodiment import to_mapping
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import read_text, replacing

REPORT_FILE = "conversion.json"


class ConversionLog:
    """Reads and updates `conversion.json`; newest bag last."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._path = settings.output / REPORT_FILE
        self._entries: list[dict[str, Any]] = []
        try:
            if self._path.exists():
                self._entries = [dict(entry) for entry in json.loads(read_text(self._path, DatasetError))["bags"]]
        except (DatasetError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DatasetError(
                f"{self._path}: cannot be read ({error}); move it away; bags that are already in the dataset "
                "then count as new"
            ) from error

    def holds(self, source: BagSource) -> bool:
        """Whether the bag gave episodes in an earlier run; without, other options may find some."""
        done = [entry for entry in self._entries if _has_episodes(entry)]
        return any(source.is_same(entry) for entry in done) or any(source.is_moved(entry) for entry in done)

    def num_published(self, source: BagSource, start_ns: int | None, num_episodes: int) -> int:
        """Return how many of the bag's episodes are the last of the dataset: of a run that was killed before `add`."""
        identity = bag_identity(source, start_ns)
        path = self._settings.output / schema.quality_path(num_episodes - 1)
        if not num_episodes or not path.exists():
            return 0
        found = schema.read_json(path).get("report", {}).get("bag") or {}
        is_same = all(found.get(name) == value for name, value in identity.items())
        return found["episode"] + 1 if is_same else 0

    def add(self, source: BagSource, converted: ConvertedBag) -> None:
        """Add the result of a bag; DatasetError if the file cannot be written."""
        identity = bag_identity(source, converted.start_ns)
        entry = {**dataclasses.asdict(converted.report), **identity, "sha256": converted.digest}
        if source.remote:
            entry["modified_s"] = source.remote.modified_s
        self._entries = [old for old in self._entries if old.get("bag") != identity["bag"] or _has_episodes(old)]
        self._entries.append(entry)
        document = {
            "topic_map": dataclasses.asdict(self._settings.topic_map),
            "embodiment": to_mapping(self._settings.embodiment),
            "bags": self._entries,
        }
        try:
            with replacing(self._path) as file:
                file.write((json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
                file.flush()
                os.fsync(file.fileno())
        except (OSError, ValueError, TypeError) as error:
            raise DatasetError(
                f"{self._path}: cannot be written ({error}); the episodes themselves are saved"
            ) from error


def bag_identity(source: BagSource, start_ns: int | None) -> dict[str, Any]:
    return {"bag": source.place, "bytes": source.num_bytes, "start_ns": start_ns}


def _has_episodes(entry: Mapping[str, Any]) -> bool:
    return not entry.get("error") and any(episode["is_saved"] for episode in entry.get("episodes", []))
