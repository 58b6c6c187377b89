# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's folder held against itself: weights against configuration, statistics against embodiments.

A fault stops the folder from being run, or makes it run wrongly; a warning is an oddity that loading lives with. What
is expected follows from config.json alone: the model is built without memory for its weights. The checks do not stop at
the first finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from gr00t_training.checkpoint.description import PROMPTS
from gr00t_training.checkpoint.files import (
    INDEX_FILE,
    PROCESSOR_FILE,
    PROJECTORS_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    read_json,
)
from gr00t_training.checkpoint.fit import check_fit
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.tokenizer import stored_tokenizer
from gr00t_training.checkpoint.weight_files import (
    StoredTensor,
    StoredWeights,
    TensorReader,
    find_weights,
    read_header,
    type_name,
    weight_files,
)
from gr00t_training.dataset.validate import Finding
from gr00t_training.errors import CheckpointError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.gr00t import family
from gr00t_training.transforms.text import PromptTokenizer

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def audit_checkpoint(path: Path, *, reads_values: bool = False) -> Iterator[Finding]:
    """Check a local folder; yields findings as they are made.

    Args:
        path: folder of the checkpoint.
        reads_values: whether all weights are read and searched for NaN and infinity.
    """
    weights = None
    try:
        damaged = [*_damaged_files(path)]
        yield from damaged
        weights = None if damaged else find_weights(path)
    except CheckpointError as error:
        yield Finding(True, INDEX_FILE, str(error))
    try:
        folder = read_folder(path)
    except CheckpointError as error:
        yield Finding(True, "folder", str(error))
        folder = None
    if weights:
        yield from _check_index(path, weights)
        yield from _check_types(weights)
        if folder:
            yield from _check_tensors(folder.config, weights.tensors)
        if reads_values:
            yield from _check_values(weights)
    if folder:
        yield from _check_embodiments(folder)
        yield from _check_tokenizer(folder)


def expected_shapes(config: Gr00tConfig) -> dict[str, tuple[int, ...]]:
    """Return the published name and the shape of every weight that a model has."""
    kind = family(config.model_type)
    with torch.device("meta"):
        model = kind.model(config)
    return {kind.names.to_published(name): tuple(weight.shape) for name, weight in model.state_dict().items()}


def _damaged_files(path: Path) -> Iterator[Finding]:
    for file in weight_files(path)[0]:
        try:
            read_header(file)
        except CheckpointError as error:
            yield Finding(True, file.name, str(error))


def _check_index(path: Path, weights: StoredWeights) -> Iterator[Finding]:
    named, _ = weight_files(path)
    for file in sorted(set(path.glob("model*.safetensors")) - set(named)):
        yield Finding(False, file.name, "belongs to no index and is not read; remove it")
    if weights.weight_map is None:
        if (path / INDEX_FILE).exists():
            yield Finding(False, INDEX_FILE, f"is not read, since {WEIGHTS_FILE} is there; remove one of the two")
        return
    stored = {weights.prefix + name: tensor.file.name for name, tensor in weights.tensors.items()}
    for name, file in weights.weight_map.items():
        if name not in stored:
            yield Finding(True, INDEX_FILE, f"{name} is not in {file}; copy that file again")
        elif stored[name] != file:
            yield Finding(True, INDEX_FILE, f"{name} is in {stored[name]}, not in {file}; copy the files again")
    for name in stored.keys() - weights.weight_map.keys():
        yield Finding(False, stored[name], f"{name} is not in {INDEX_FILE}; other programs will miss it")
    total = sum(tensor.num_bytes for tensor in weights.tensors.values())
    claimed = (read_json(path / INDEX_FILE).get("metadata") or {}).get("total_size", total)
    if claimed != total:
        yield Finding(False, INDEX_FILE, f"total_size is {claimed}, the tensors have {total} bytes")


def _check_types(weights: StoredWeights) -> Iterator[Finding]:
    names: dict[torch.dtype, list[str]] = {}
    for name, tensor in weights.tensors.items():
        names.setdefault(tensor.dtype, []).append(name)
    for dtype, of_type in names.items():
        if not dtype.is_floating_point:
            yield Finding(True, of_type[0], f"{len(of_type)} tensors have type {type_name(dtype)}, expected floats")
    floats = {dtype: of_type for dtype, of_type in names.items() if dtype.is_floating_point}
    if len(floats) > 1:
        counts = ", ".join(f"{len(of_type)} {type_name(dtype)}" for dtype, of_type in floats.items())
        yield Finding(False, "weights", f"are of several types ({counts}); loading makes them one")


def _check_tensors(config: Gr00tConfig, stored: Mapping[str, StoredTensor]) -> Iterator[Finding]:
    table, expected = family(config.model_type).names, expected_shapes(config)
    missing = [
        name
        for name in expected
        if name not in stored and name not in table.optional and table.stand_ins.get(name) not in stored
    ]
    known = (*table.ignored, *table.optional)
    unexpected = [name for name in stored if name not in expected and not name.startswith(known)]
    for pattern, names in _grouped(missing):
        yield Finding(True, pattern, f"{_count(names)} missing; the file is incomplete or of another model")
    for pattern, names in _grouped(unexpected):
        yield Finding(True, pattern, f"{_count(names)} not part of the model that config.json describes")
    for name, shape in expected.items():
        if name in stored and stored[name].shape != shape:
            yield Finding(True, name, f"shape {stored[name].shape}, config.json demands {shape}")


def _check_values(weights: StoredWeights) -> Iterator[Finding]:
    reader = TensorReader(torch.device("cpu"))
    for name, tensor in weights.tensors.items():
        if not tensor.dtype.is_floating_point:
            continue
        try:
            wrong = sum(len(part) - int(torch.isfinite(part).sum()) for _, part in reader.parts(tensor))
        except CheckpointError as error:
            yield Finding(True, name, str(error))
            continue
        if wrong:
            yield Finding(True, name, f"{wrong} of {tensor.num_values} values are NaN or infinite")


def _check_embodiments(folder: Folder) -> Iterator[Finding]:
    head = folder.config.action_head
    rows = head.num_embodiments
    for tag, row in folder.projectors.items():
        if not 0 <= row < rows:
            yield Finding(True, PROJECTORS_FILE, f"'{tag}' has row {row}, the model has rows 0 to {rows - 1}")
    if folder.options and folder.options.max_action_horizon != head.action_horizon:
        found = f"max_action_horizon is {folder.options.max_action_horizon}, the model's is {head.action_horizon}"
        yield Finding(False, PROCESSOR_FILE, f"{found}; only the release's own training minds")
    for tag in folder.tags:
        if tag not in folder.projectors:
            yield Finding(True, PROJECTORS_FILE, f"'{tag}' has no row of the model's tables; add it")
        if tag not in folder.metadata:
            yield Finding(False, tag, f"has no entry in {folder.metadata_file.name}; it can be fine-tuned, not run")
            continue
        try:
            statistics = folder.statistics(tag)
            if folder.options:  # the keys that N1 and N1.5 use are not told by their files
                check_fit(folder.path, folder.config, folder.options, folder.derive(tag, fps=1), statistics)
        except CheckpointError as error:
            yield Finding(True, tag, str(error))
    if folder.embodiment:
        try:
            folder.check_stored()
            statistics = folder.statistics(folder.embodiment.tag, folder.embodiment.name)
            check_fit(folder.path, folder.config, folder.options, folder.embodiment, statistics)
        except CheckpointError as error:
            yield Finding(True, folder.embodiment.name, str(error))


def _check_tokenizer(folder: Folder) -> Iterator[Finding]:
    prompt_format = PROMPTS[folder.config.model_type]
    found = stored_tokenizer(folder.path)
    if found is None:
        yield Finding(
            False,
            TOKENIZER_FILE,
            f"not in the folder; put that of {prompt_format.base} into it unless you pass it to every command",
        )
        return
    try:
        tokenizer = PromptTokenizer.from_file(found, prompt_format)
    except CheckpointError as error:
        yield Finding(True, TOKENIZER_FILE, str(error))
        return
    backbone = folder.config.backbone
    if tokenizer.image_token_id != backbone.image_token_id or tokenizer.vocab_size > backbone.language.vocab_size:
        yield Finding(
            True,
            TOKENIZER_FILE,
            f"{tokenizer.vocab_size} entries with image token {tokenizer.image_token_id}, the model has room for "
            f"{backbone.language.vocab_size} and expects {backbone.image_token_id}; it is of another model",
        )


def _grouped(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Join names that differ in numbers only, since a missing layer is one matter and not twenty."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_NUMBER.sub("#", name), []).append(name)
    for pattern, group in groups.items():
        group.sort(key=lambda name: [int(number) for number in _NUMBER.findall(name)])
        yield (group[0] if len(group) == 1 else pattern), group


def _count(names: list[str]) -> str:
    if len(names) == 1:
        return "is"
    return f"{len(names)} tensors ({names[0]} to {names[-1]}) are"
