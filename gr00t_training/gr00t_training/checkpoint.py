# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is a folder: weights, model configuration, embodiment, statistics, tokenizer, versions.

    config.json                                       model_type and sizes, as published
    model.safetensors, or shards with an index        weights under their published names
    experiment_cfg/metadata.json                      statistics and modalities per embodiment tag, as published
    eagle_config.json                                 sizes of the vision-language model      (ours)
    embodiment.json                                   the embodiment that was trained         (ours)
    embodiment_id.json                                embodiment tag -> projector row         (ours)
    tokenizer.json                                    tokenizer of the prompt                 (ours)
    versions.json                                     versions that wrote the folder          (ours)

Published folders have the first three. What they lack comes from the model family or from the caller.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Embodiment, VectorKey, differences, load_embodiment, to_mapping
from gr00t_training.errors import CheckpointError, ConfigError, DatasetError
from gr00t_training.model.config import N1_5_MODEL_TYPE, N1_MODEL_TYPE, VARIANTS, Gr00tConfig, with_horizon
from gr00t_training.model.gr00t import Gr00tModel, family
from gr00t_training.model.weights import assign_weights, published_weights
from gr00t_training.transforms.pipeline import ModelInputs, Pipeline, Statistics
from gr00t_training.transforms.text import N1_5_PROMPT, N1_PROMPT, PromptFormat, PromptTokenizer, shipped_tokenizer

FORMAT = 1  # of the files that are ours
CONFIG_FILE = "config.json"
VLM_FILE = "eagle_config.json"
EMBODIMENT_FILE = "embodiment.json"
PROJECTORS_FILE = "embodiment_id.json"
METADATA_FILE = "experiment_cfg/metadata.json"
TOKENIZER_FILE = "tokenizer.json"
VERSIONS_FILE = "versions.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000  # of the release's own files

PROMPTS: Mapping[str, PromptFormat] = {N1_MODEL_TYPE: N1_PROMPT, N1_5_MODEL_TYPE: N1_5_PROMPT}


@dataclass(frozen=True)
class Checkpoint:
    """Everything of a checkpoint but its weights."""

    config: Gr00tConfig
    embodiment: Embodiment
    statistics: Statistics  # of the embodiment
    tokenizer: Path  # a tokenizer.json
    projectors: Mapping[str, int]  # embodiment tag -> row of the model's embodiment-specific tables
    metadata: Mapping[str, Any] = field(default_factory=dict)  # metadata.json as read, all embodiment tags
    versions: Mapping[str, Any] = field(default_factory=dict)  # that wrote the folder
    path: Path | None = None  # folder that holds the weights; None: not trained yet

    @property
    def projector(self) -> int:
        """Row of the embodiment-specific tables.

        Raises:
            CheckpointError: the model knows no such tag.
        """
        tag = self.embodiment.tag
        if tag not in self.projectors:
            raise CheckpointError(
                f"{self.path or 'model'}: no projector for embodiment tag '{tag}' of '{self.embodiment.name}', "
                f"known tags: {', '.join(self.projectors)}; set the embodiment's tag to one of them"
            )
        return self.projectors[tag]

    def pipeline(self) -> Pipeline:
        """Make the transforms that belong to the model.

        Raises:
            ConfigError: embodiment, statistics and model do not fit each other.
            CheckpointError: no projector for the embodiment, or a tokenizer of another model.
        """
        backbone, head = self.config.backbone, self.config.action_head
        inputs = ModelInputs(
            image_size=self.config.image_size,
            num_image_tokens=backbone.num_image_tokens,
            image_token_id=backbone.image_token_id,
            vocab_size=backbone.language.vocab_size,
            state_dim=head.state_dim,
            action_dim=head.action_dim,
            action_horizon=head.action_horizon,
            num_projectors=head.num_embodiments,
            pixel_dtype=family(self.config.model_type).pixel_dtype,
        )
        tokenizer = PromptTokenizer.from_file(self.tokenizer, PROMPTS[self.config.model_type])
        return Pipeline(self.embodiment, self.statistics, inputs, tokenizer, self.projector)


def new_checkpoint(
    variant: str, embodiment: Embodiment, statistics: Statistics, *, tokenizer: str | Path | None = None
) -> Checkpoint:
    """Describe a model to train from scratch; make its weights with `Gr00tModel(checkpoint.config)`.

    Args:
        variant: name in `gr00t_training.model.config.VARIANTS`.
        embodiment: to train for; its action horizon becomes the model's.
        statistics: of the dataset.
        tokenizer: tokenizer.json or its folder; needed by variants that ship none.

    Raises:
        ConfigError: no such variant.
        CheckpointError: no tokenizer.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"model variant '{variant}' is unknown, expected one of {', '.join(VARIANTS)}")
    chosen = VARIANTS[variant]
    if tokenizer is None and chosen.tokenizer:
        tokenizer = shipped_tokenizer(chosen.tokenizer)
    config = with_horizon(chosen.config, embodiment.action_horizon)
    found = _find_tokenizer(None, tokenizer, PROMPTS[config.model_type])
    return Checkpoint(config, embodiment, statistics, found, chosen.projectors)


def load_checkpoint(
    path: str | Path,
    *,
    embodiment: Embodiment | None = None,
    statistics: Statistics | None = None,
    tokenizer: str | Path | None = None,
) -> Checkpoint:
    """Read a checkpoint's folder, without its weights.

    Args:
        path: folder of ours or as published.
        embodiment: to run; must equal the stored one. Needed where none is stored.
        statistics: of a dataset that `embodiment` is to be fine-tuned on. They replace what the folder says of it:
            nothing is compared then, and the model takes the embodiment's action horizon.
        tokenizer: tokenizer.json or its folder, used when the checkpoint has none.

    Raises:
        CheckpointError: a file is missing or damaged, or the folder is of another embodiment; names each item.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder, expected a checkpoint; download or train one first")
    model_json = _read_json(path / CONFIG_FILE)
    kind = family(model_json.get("model_type"))
    config = kind.parse(model_json, _read_json(path / VLM_FILE) if (path / VLM_FILE).exists() else None)
    projectors = _read_json(path / PROJECTORS_FILE) if (path / PROJECTORS_FILE).exists() else kind.projectors
    metadata = _read_json(path / METADATA_FILE) if (path / METADATA_FILE).exists() or not statistics else {}
    versions = _read_json(path / VERSIONS_FILE) if (path / VERSIONS_FILE).exists() else {}
    if versions.get("format", FORMAT) > FORMAT:
        raise CheckpointError(f"{path}: format {versions['format']} is newer than {FORMAT}; update gr00t_training")
    if statistics is None:
        embodiment = _stored_embodiment(path, embodiment)
        statistics = _stored_statistics(path / METADATA_FILE, metadata, embodiment)
    elif embodiment is None:
        raise ValueError("statistics belong to an embodiment; pass it too")
    else:
        config = with_horizon(config, embodiment.action_horizon)
    found = _find_tokenizer(path, tokenizer, PROMPTS[config.model_type])
    return Checkpoint(config, embodiment, statistics, found, projectors, metadata, versions, path)


def load_model(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> Gr00tModel:
    """Read the weights of a checkpoint; the model comes in evaluation mode.

    Raises:
        CheckpointError: weights are missing, damaged or do not fit config.json.
    """
    if checkpoint.path is None:
        raise CheckpointError("this checkpoint was never saved, it has no weights; train and save it first")
    kind = family(checkpoint.config.model_type)
    with torch.device("meta"):  # no memory and no time for weights that are replaced at once
        model = kind.model(checkpoint.config, attention=attention)
    weights = _read_weights(checkpoint.path, torch.device(device), dtype)
    assign_weights(model, weights, kind.names, str(checkpoint.path))
    return model.eval()


def save_checkpoint(
    path: str | Path,
    checkpoint: Checkpoint,
    model: Gr00tModel,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    add_files: Callable[[Path], None] | None = None,
) -> Path:
    """Write a checkpoint's folder; it appears complete or not at all.

    Args:
        path: folder to make; must not exist.
        checkpoint: what to write beside the weights.
        model: weights.
        dtype: of the weights; None: the model's.
        max_shard_bytes: weights are split into files of at most this size.
        add_files: writes more files into the folder before it appears (optimizer state and the like).

    Returns:
        `path`.

    Raises:
        CheckpointError: the folder exists, or the disk refuses.
    """
    path = Path(path)
    if path.exists():
        raise CheckpointError(f"{path}: exists already; choose another folder or remove it")
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed here
        partial.mkdir(parents=True)
        _write_descriptions(partial, checkpoint)
        _write_weights(partial, checkpoint, model, dtype, max_shard_bytes)
        if add_files:
            add_files(partial)
        _flush(partial)
        partial.rename(path)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{path}: cannot be written ({error}); check space and rights") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return path


def embodiment_metadata(embodiment: Embodiment, statistics: Statistics) -> dict[str, Any]:
    """Return the embodiment's entry of `metadata.json`."""

    def vectors(keys: Mapping[str, VectorKey]) -> dict[str, Any]:
        return {
            name: {
                "absolute": key.is_absolute,
                "rotation_type": key.rotation.value if key.rotation else None,
                "shape": [key.dim],
                "continuous": True,
            }
            for name, key in keys.items()
        }

    return {
        "statistics": {
            kind: {name: values.to_mapping() for name, values in statistics[kind].items()}
            for kind in ("state", "action")
        },
        "modalities": {
            "video": {
                name: {"resolution": [video.width, video.height], "channels": 3, "fps": float(embodiment.fps)}
                for name, video in embodiment.video.items()
            },
            "state": vectors(embodiment.state),
            "action": vectors(embodiment.action),
        },
        "embodiment_tag": embodiment.tag,
    }


def _stored_embodiment(path: Path, asked: Embodiment | None) -> Embodiment:
    file = path / EMBODIMENT_FILE
    if not file.exists():
        if asked is None:
            raise CheckpointError(f"{path}: has no {EMBODIMENT_FILE} (a published folder has none); pass embodiment")
        return asked
    try:
        stored = load_embodiment(file)
    except ConfigError as error:
        raise CheckpointError(f"{error}; the checkpoint is damaged") from error
    items = differences(stored, asked) if asked else []
    if items:
        raise CheckpointError(
            f"{path}: was trained for another embodiment (found: the checkpoint's, expected: the one asked for): "
            + "; ".join(items)
        )
    return stored


def _stored_statistics(file: Path, metadata: Mapping[str, Any], embodiment: Embodiment) -> Statistics:
    entry = metadata.get(embodiment.tag)
    if entry is None:
        raise CheckpointError(
            f"{file}: no statistics for embodiment tag '{embodiment.tag}' of '{embodiment.name}', found "
            f"{', '.join(metadata) or 'none'}; fine-tune the checkpoint for this embodiment first"
        )
    try:
        return {
            kind: {
                name: KeyStatistics.from_mapping(lists, f"{file}: {embodiment.tag}.statistics.{kind}.{name}")
                for name, lists in entry["statistics"][kind].items()
            }
            for kind in ("state", "action")
        }
    except DatasetError as error:
        raise CheckpointError(str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: '{embodiment.tag}' lacks statistics.state or statistics.action; the file is damaged"
        ) from error


def _find_tokenizer(path: Path | None, given: str | Path | None, prompt_format: PromptFormat) -> Path:
    places = [path / TOKENIZER_FILE] if path else []
    if given is not None:
        places.append(Path(given) / TOKENIZER_FILE if Path(given).is_dir() else Path(given))
    for place in places:
        if place.is_file():
            return place
    raise CheckpointError(
        f"{path or 'model'}: no tokenizer (looked for {', '.join(map(str, places)) or 'nothing, none was given'}); "
        f"for {prompt_format.model} put the {TOKENIZER_FILE} of {prompt_format.base} into the checkpoint's folder, or "
        "pass its path as tokenizer"
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}); the checkpoint is incomplete") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not JSON ({error}); the checkpoint is damaged") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds {type(content).__name__}, expected an object; the checkpoint is damaged")
    return content


def _read_weights(path: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    names = [WEIGHTS_FILE]
    if not (path / WEIGHTS_FILE).exists() and (path / INDEX_FILE).exists():
        names = sorted(set(_read_json(path / INDEX_FILE).get("weight_map", {}).values()))
    weights = {}
    for file in (path / name for name in names):
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; the checkpoint is incomplete, copy it again")
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    # a copy: tensors of an open file are views of it and would change with it
                    weights[name] = tensors.get_tensor(name).to(device, dtype, copy=True)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: damaged or cut short ({error}); copy it again") from error
    return weights


def _write_descriptions(folder: Path, checkpoint: Checkpoint) -> None:
    model_json, vlm_json = family(checkpoint.config.model_type).dump(checkpoint.config)
    embodiment = checkpoint.embodiment
    metadata = {**checkpoint.metadata, embodiment.tag: embodiment_metadata(embodiment, checkpoint.statistics)}
    files: dict[str, Mapping[str, Any]] = {
        CONFIG_FILE: model_json,
        VLM_FILE: vlm_json,
        EMBODIMENT_FILE: to_mapping(embodiment),
        PROJECTORS_FILE: dict(checkpoint.projectors),
        METADATA_FILE: metadata,
        VERSIONS_FILE: {"format": FORMAT, "gr00t_training": _own_version(), "torch": str(torch.__version__)},
    }
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(checkpoint.tokenizer, folder / TOKENIZER_FILE)


def _write_weights(
    folder: Path, checkpoint: Checkpoint, model: Gr00tModel, dtype: torch.dtype | None, max_shard_bytes: int
) -> None:
    names = family(checkpoint.config.model_type).names
    weights = {
        name: weight.detach().to("cpu", dtype or weight.dtype).contiguous()
        for name, weight in published_weights(model, names).items()
    }
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, weight in weights.items():
        if shards[-1] and size + weight.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = weight
        size += weight.nbytes
    if len(shards) == 1:
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        return
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _flush(folder: Path) -> None:
    """Put all files of a folder on the disk, so that a power cut after the rename leaves no empty ones."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _own_version() -> str:
    try:
        return package_metadata.version("gr00t_training")
    except package_metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
