# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Dataset card, `README.md`, shown by the Hub; written from the summary."""

from __future__ import annotations

import json
from pathlib import Path

from gr00t_training.dataset.view.summary import DatasetSummary
from gr00t_training.errors import DatasetError
from gr00t_training.io.files import inside, read_text, replacing
from gr00t_training.io.text import duration_text, printable, size_text

CARD_FILE = "README.md"
# A card that a person wrote is never replaced.
_MARK = "<!-- written by gr00t_dataset; remove this line to keep your own changes -->"
_MAX_TASKS = 50
_MAX_BYTES = 16 * 2**20  # of an existing card


def make_card(summary: DatasetSummary, title: str, license_name: str | None = None) -> str:
    """Return the card.

    Args:
        summary: of the dataset.
        title: heading.
        license_name: identifier as the Hub knows it ("apache-2.0"); None: not in the card.
    """
    lines = ["---"]
    if license_name:
        lines.append(f"license: {license_name}")
    tags = ["LeRobot", "GR00T", *([summary.robot_type] if summary.robot_type else [])]
    data = "data/*/*.parquet"
    lines += ["task_categories:", "- robotics", "tags:", *(f"- {json.dumps(tag, ensure_ascii=False)}" for tag in tags)]
    lines += ["configs:", "- config_name: default", f"  data_files: {data}", "---", _MARK, "", f"# {title}", ""]
    lines += ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in _facts(summary)), ""]
    if summary.cameras:
        lines += ["## Cameras", "", "| feature | size | codec | on disk |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{camera.feature}` | {camera.width}x{camera.height} | {camera.codec} | {size_text(camera.size_bytes)} |"
            for camera in summary.cameras
        ]
        lines.append("")
    lines += ["## State and action", "", "| key | column | channels |", "| --- | --- | --- |"]
    lines += [
        f"| `{vector.key}` | `{vector.column}` | {_cell(', '.join(vector.names))} |" for vector in summary.vectors
    ]
    lines += ["", "## Tasks", "", "| task | episodes |", "| --- | --- |"]
    lines += [f"| {_cell(text)} | {count} |" for text, count in list(summary.tasks.items())[:_MAX_TASKS]]
    if len(summary.tasks) > _MAX_TASKS:
        lines.append(f"| and {len(summary.tasks) - _MAX_TASKS} more | |")
    return "\n".join(lines) + "\n"


def write_card(path: Path, text: str) -> bool:
    """Write the card into the dataset; return False if there is one by somebody else.

    Raises:
        DatasetError: it cannot be written.
    """
    card = inside(path, CARD_FILE, DatasetError)
    try:
        if card.exists() and _MARK not in read_text(card, DatasetError, _MAX_BYTES):
            return False
        with replacing(card) as file:
            file.write(text.encode())
    except OSError as error:
        raise DatasetError(f"{card}: cannot be written ({error.strerror}); check path and rights") from error
    return True


def _facts(summary: DatasetSummary) -> list[tuple[str, str]]:
    facts = [
        ("format", f"LeRobot {summary.version}"),
        ("robot", summary.robot_type or "unknown"),
        ("episodes", str(summary.num_episodes)),
        ("frames", f"{summary.num_frames} at {summary.fps:g} Hz"),
        ("duration", duration_text(summary.num_frames / summary.fps)),
        ("size", size_text(summary.size_bytes)),
    ]
    if summary.embodiment:
        facts.append(("embodiment", f"{summary.embodiment} (GR00T tag `{summary.tag}`, {summary.fingerprint})"))
    if summary.success["yes"] or summary.success["no"]:
        facts.append(("success", ", ".join(f"{count} {name}" for name, count in summary.success.items())))
    if summary.depth:
        facts.append(("depth", ", ".join(summary.depth) + " (lossless 16 bit, FFV1 in `depth/`)"))
    return facts


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
