# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Model card, `README.md`, shown by the Hub; written from the files of a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gr00t_training.checkpoint.files import (
    ADAPTER_FILE,
    TRAINER_SETTINGS_FILE,
    VALIDATION_FILE,
    place,
    read_json_if_there,
)
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.training_data import read_training_data
from gr00t_training.checkpoint.training_run import CARD_FILE, TrainingRun, read_training_run
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError
from gr00t_training.io.files import read_text, replacing
from gr00t_training.io.text import printable
from gr00t_training.types import KeyKind

# A card that a person wrote is never replaced.
_MARK = "<!-- written by gr00t_training; remove this line to keep your own changes -->"
_MAX_BYTES = 16 * 2**20  # of an existing card
_RECIPE = (
    "max_steps",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "warmup_ratio",
    "ema_decay",
    "seed",
    "tune_llm",
    "tune_visual",
    "tune_projector",
    "tune_diffusion_model",
    "tune_vlln",
)


def make_card(path: Path, name: str) -> str:
    """Return the card of a checkpoint.

    Args:
        path: its folder.
        name: what commands call it: a folder or hub id.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    folder, run = read_folder(path), read_training_run(path)
    settings = read_json_if_there(place(path, TRAINER_SETTINGS_FILE)) or {}
    lines = [*_head(run), _MARK, "", f"# {printable(name.rstrip('/').rsplit('/', 1)[-1])}", ""]
    lines += [
        f"A {folder.family.name} policy for robots, fine-tuned with gr00t_training.",
        "",
        "| | |",
        "| --- | --- |",
    ]
    lines += [f"| {key} | {_cell(value)} |" for key, value in _facts(folder, run)]
    for embodiment in folder.embodiments.values():
        lines += ["", *_embodiment(embodiment)]
    lines += ["", *_data(path), *_training(path, run, settings), *_use(name, folder)]
    return "\n".join(lines) + "\n"


def write_card(path: Path, text: str) -> bool:
    """Write the card into the folder; return False if there is one by somebody else.

    Raises:
        CheckpointError: it cannot be written.
    """
    card = place(path, CARD_FILE)
    try:
        if card.exists() and _MARK not in read_text(card, CheckpointError, _MAX_BYTES):
            return False
        with replacing(card) as file:
            file.write(text.encode())
    except OSError as error:
        raise CheckpointError(f"{card}: cannot be written ({error.strerror}); check path and rights") from error
    return True


def _head(run: TrainingRun | None) -> list[str]:
    lines = ["---"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in (run.license if run else {}).items()]
    base = run.base.partition("@")[0] if run else ""
    if base.count("/") == 1 and not base.startswith("/"):
        lines.append(f"base_model: {base}")
    return [*lines, "pipeline_tag: robotics", "tags:", "- GR00T", "- robotics", "- LeRobot", "---"]


def _facts(folder: Folder, run: TrainingRun | None) -> list[tuple[str, str]]:
    facts = [("model", f"{folder.family.name} (`{folder.family.model_type}`)")]
    if run:
        facts += [("fine-tuned from", run.base or "fresh weights"), ("optimizer steps", str(run.step))]
        terms = " ".join(run.license.values()) or (
            "that of the base model, which its card does not name; read it before you publish" if run.base else "yours"
        )
        facts.append(("license", terms))
    adapter = read_json_if_there(place(folder.path, ADAPTER_FILE))
    if adapter:
        facts.append(("adapter", f"rank {adapter.get('r')}; it is loaded together with its base checkpoint"))
    facts += [(key, str(value)) for key, value in folder.versions.items() if key != "format"]
    return facts


def _embodiment(embodiment: Embodiment) -> list[str]:
    facts = (
        f"Tag `{embodiment.tag}`, fingerprint `{embodiment.fingerprint()}`, {embodiment.fps} Hz, chunks of "
        f"{embodiment.action_horizon} ticks, instruction from `{embodiment.language}`."
    )
    lines = [
        f"## Robot: {embodiment.name}",
        "",
        facts,
        "",
        "| key | channels | unit | scaling |",
        "| --- | --- | --- | --- |",
    ]
    for key in embodiment.video_keys:
        size = embodiment.video[key]
        lines.append(f"| `video.{key}` | {'any size' if size.is_any_size else f'{size.width}x{size.height}'} | px | |")
    for kind in (KeyKind.STATE, KeyKind.ACTION):
        for key in embodiment.used(kind):
            vector = embodiment.vectors(kind)[key]
            scaling = vector.normalization.value if vector.normalization else ""
            relative = f", relative to `{vector.relative_to}`" if vector.relative_to else ""
            names = _cell(", ".join(vector.names))
            lines.append(f"| `{kind.value}.{key}` | {names} | {_cell(vector.unit)} | {scaling}{relative} |")
    return lines


def _data(path: Path) -> list[str]:
    trained = read_training_data(path)
    if trained is None:
        return []
    digest = hashlib.sha256("".join(sorted(trained.episodes)).encode()).hexdigest()[:16]
    text = (
        f"{len(trained.episodes)} episodes, the last ones from `{printable(Path(trained.path).name)}`; digest of their "
        f"actions `{digest}` (each episode's is in `training_data.json`)."
    )
    if not trained.sources:
        return ["## Data", "", text, ""]
    table = ["| dataset | tag | share of the samples | episodes | samples | digest |", "| --- |" + " --- |" * 5]
    table += [
        f"| {_cell(Path(source.path).name)} | {_cell(source.tag)} | {source.share:.1%} | {_cell(source.episodes)} | "
        f"{source.num_samples} | `{_cell(source.data_digest)}` |"
        for source in trained.sources
    ]
    return ["## Data", "", text, "", *table, ""]


def _training(path: Path, run: TrainingRun | None, settings: Mapping[str, Any]) -> list[str]:
    lines = ["## Training", ""]
    recipe = [f"{key} {settings[key]}" for key in _RECIPE if key in settings]
    if recipe:
        lines += [f"{', '.join(recipe)}; all settings are in `{TRAINER_SETTINGS_FILE}`.", ""]
    if run and run.losses:
        steps = run.losses[:: max(1, len(run.losses) // 6)]
        shown = [*steps, *([run.losses[-1]] if steps[-1] != run.losses[-1] else [])]
        lines += [
            f"| step | {' | '.join(str(step) for step, _ in shown)} |",
            "| --- |" + " --- |" * len(shown),
            f"| training loss | {' | '.join(f'{loss:.4f}' for _, loss in shown)} |",
            "",
        ]
    validation = read_json_if_there(place(path, VALIDATION_FILE))
    if validation and isinstance(validation.get("loss"), float):
        lines += [f"On held-out episodes: loss {validation['loss']:.4f}.", ""]
        errors = validation.get("errors")
        if isinstance(errors, dict) and errors:
            lines += ["| action key | mean absolute error |", "| --- | --- |"]
            lines += [
                f"| `{_cell(str(key))}` | {error['mae']:.4g} {_cell(str(error['unit']))} |"
                for key, error in errors.items()
            ]
            lines.append("")
    return lines if len(lines) > 2 else []


def _use(name: str, folder: Folder) -> list[str]:
    choice = f' "{next(iter(folder.embodiments))}",' if len(folder.embodiments) > 1 else ""
    return [
        "## Use",
        "",
        "```",
        f"gr00t serve {name}",
        f"gr00t evaluate --checkpoint {name} --dataset DATASET",
        f"gr00t finetune --base-model {name} --dataset DATASET --output run",
        "```",
        "",
        "```python",
        "from gr00t_training import Policy",
        "",
        f'policy = Policy.from_checkpoint("{name}",{choice} device="cuda")'.replace(",,", ","),
        "chunk = policy.infer(observation)  # actions per key, in the robot's units",
        "```",
    ]


def _cell(text: str) -> str:
    return printable(text, 1000).replace("|", "\\|").replace("<", "&lt;")
