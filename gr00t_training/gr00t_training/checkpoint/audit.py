# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Check the consistency of a checkpoint's folder: weights and configuration, statistics and embodiments.

A fault means that the folder cannot be used or gives wrong results; a warning does not prevent loading. The expected
weights come from config.json alone: the model is built without memory for them. The checks continue after a finding.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from gr00t_training.checkpoint.adapter import is_adapter
from gr00t_training.checkpoint.files import (
    BASE_FILE,
    EMBODIMENT_FILE,
    INDEX_FILE,
    PROCESSOR_FILE,
    PROJECTORS_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    place,
    read_json,
)
from gr00t_training.checkpoint.fit import check_fit
from gr00t_training.checkpoint.folder import Folder, read_folder
from gr00t_training.checkpoint.model_weights import find_model_weights
from gr00t_training.checkpoint.reading import describe, needed_names
from gr00t_training.checkpoint.tokenizer import stored_tokenizer
from gr00t_training.checkpoint.trial import shape_model, try_out
from gr00t_training.checkpoint.weight_files import (
    StoredTensor,
    StoredWeights,
    TensorReader,
    find_weights,
    index_contradictions,
    read_header,
    type_name,
    weight_files,
)
from gr00t_training.dataset.tools.validate.dataset import Finding
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import CheckpointError, Gr00tError
from gr00t_training.model.families import family
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.weight_names import unexpected_names
from gr00t_training.transforms.pipeline import Statistics
from gr00t_training.transforms.text import PromptTokenizer
from gr00t_training.upstream import fitting_data_configs

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def audit_checkpoint(path: Path, *, reads_values: bool = True) -> Iterator[Finding]:
    """Check a local folder; yield each finding at once.

    Args:
        path: folder of the checkpoint.
        reads_values: read all weights and search them for NaN and infinity.
    """
    weights = adapter = None
    try:
        if is_adapter(path):
            found = find_model_weights(path)
            weights, adapter = StoredWeights(found.tensors, None), found.adapter
        else:
            damaged = [*_damaged_files(path)]
            yield from damaged
            weights = None if damaged else find_weights(path)
    except CheckpointError as error:
        yield Finding(True, BASE_FILE if is_adapter(path) else INDEX_FILE, str(error))
    model = folder = None
    try:
        folder = read_folder(path)
        model = shape_model(folder.config)
    except CheckpointError as error:
        yield Finding(True, "folder", str(error))
    if weights:
        if not adapter:
            yield from _check_index(path, weights)
        if folder and model:
            yield from _check_tensors(folder, model, weights)
            needed = needed_names(model, weights.tensors, folder.family.names)
        else:
            needed = list(weights.tensors)
        yield from _check_types(weights, needed)
        if reads_values:
            yield from _check_values(weights.tensors, needed)
            if adapter:
                yield from _check_values(adapter.tensors, list(adapter.tensors))
    if folder and model:
        yield from _check_rows(folder)
        tokenizer = yield from _check_tokenizer(folder)
        yield from _check_embodiments(folder, model, tokenizer)


def expected_shapes(model: Gr00tModel) -> dict[str, tuple[int, ...]]:
    """Return the published name and the shape of every weight that a model has."""
    names = family(model.config.model_type).names
    return {names.to_published(name): tuple(weight.shape) for name, weight in model.state_dict().items()}


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
    for text in index_contradictions(weights):
        yield Finding(True, INDEX_FILE, text)
    stored = {weights.prefix + name: tensor.file.name for name, tensor in weights.tensors.items()}
    for name in stored.keys() - weights.weight_map.keys():
        yield Finding(False, stored[name], f"{name} is not in {INDEX_FILE}; other programs do not find it")
    total = sum(tensor.num_bytes for tensor in weights.tensors.values())
    described = read_json(place(path, INDEX_FILE)).get("metadata") or {}
    claimed = described.get("total_size", total) if isinstance(described, Mapping) else described
    if claimed != total:
        yield Finding(False, INDEX_FILE, f"total_size is {claimed!r:.80}, the tensors have {total} bytes")


def _check_types(weights: StoredWeights, needed: Sequence[str]) -> Iterator[Finding]:
    names: dict[torch.dtype, list[str]] = {}
    for name in needed:
        names.setdefault(weights.tensors[name].dtype, []).append(name)
    for dtype, of_type in names.items():
        if not dtype.is_floating_point:
            yield Finding(True, of_type[0], f"{len(of_type)} tensors have type {type_name(dtype)}, expected floats")
    floats = {dtype: of_type for dtype, of_type in names.items() if dtype.is_floating_point}
    if len(floats) > 1:
        counts = ", ".join(f"{len(of_type)} {type_name(dtype)}" for dtype, of_type in floats.items())
        yield Finding(False, "weights", f"have several types ({counts}); loading converts them to one")


def _check_tensors(folder: Folder, model: Gr00tModel, weights: StoredWeights) -> Iterator[Finding]:
    table, expected, stored = folder.family.names, expected_shapes(model), weights.tensors
    missing = [
        name
        for name in expected
        if name not in stored and name not in table.optional and table.stand_ins.get(name) not in stored
    ]
    for pattern, names in _grouped(missing):
        yield Finding(True, pattern, f"{_count(names)} missing; the file is incomplete or of another model")
    surplus, unknown = unexpected_names(stored, model.state_dict().keys(), table)
    for is_fault, unexpected in ((True, surplus), (False, unknown)):
        for pattern, names in _grouped(unexpected):
            yield Finding(is_fault, pattern, f"{_count(names)} not part of the model that config.json describes")
    stood_in = {other: expected[name] for name, other in table.stand_ins.items() if name not in stored}
    for name, shape in {**expected, **stood_in}.items():
        if name in stored and stored[name].shape != shape:
            yield Finding(True, name, f"shape {stored[name].shape}, config.json expects {shape}")


def _check_values(tensors: Mapping[str, StoredTensor], needed: Sequence[str]) -> Iterator[Finding]:
    reader = TensorReader(torch.device("cpu"))
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            continue
        try:
            wrong = reader.count_not_finite(tensor)
        except CheckpointError as error:
            yield Finding(True, name, str(error))
            continue
        if wrong:
            what = f"{wrong} of {tensor.num_values} values are NaN or infinite"
            yield Finding(name in needed, name, what if name in needed else f"{what}; the model does not use it")


def _check_rows(folder: Folder) -> Iterator[Finding]:
    head = folder.config.action_head
    rows = head.num_embodiments
    described = {*folder.tags, *folder.embodiments}
    for tag, row in folder.projectors.items():
        if not 0 <= row < rows:
            text = f"'{tag}' has row {row}, the model has rows 0 to {rows - 1}"
            yield Finding(tag in described, PROJECTORS_FILE, text)
    if folder.options and folder.options.max_action_horizon != head.action_horizon:
        found = f"max_action_horizon is {folder.options.max_action_horizon}, the model's is {head.action_horizon}"
        yield Finding(False, PROCESSOR_FILE, f"{found}; only the release's own training uses it")


def _check_embodiments(folder: Folder, model: Gr00tModel, tokenizer: Path | None) -> Iterator[Finding]:
    """Check every embodiment as loading and the first inference do."""
    for tag in folder.tags:
        if tag not in folder.projectors:
            yield Finding(True, PROJECTORS_FILE, f"'{tag}' has no row of the model's tables; add it")
            continue
        if tag not in folder.metadata:
            yield Finding(False, tag, f"has no entry in {folder.metadata_file.name}; it can be fine-tuned, not run")
            continue
        try:
            statistics = folder.statistics(tag)
            # the files of N1 and N1.5 say which keys are used only if exactly one data configuration fits
            if folder.options or len(fitting_data_configs(folder.metadata[tag])) == 1:
                _try_embodiment(folder, model, folder.derive(tag, fps=1), statistics, tokenizer)
        except Gr00tError as error:
            yield Finding(True, tag, str(error))
    if folder.versions and not folder.embodiments and not folder.options:
        text = f"not in the folder; pass an embodiment to every command, or one of the tags {', '.join(folder.tags)}"
        yield Finding(False, EMBODIMENT_FILE, text)
    for embodiment in folder.embodiments.values():
        try:
            folder.check_stored()
            statistics = folder.statistics(embodiment.tag, embodiment.name)
            _try_embodiment(folder, model, embodiment, statistics, tokenizer)
        except Gr00tError as error:
            yield Finding(True, embodiment.name, str(error))


def _try_embodiment(
    folder: Folder, model: Gr00tModel, embodiment: Embodiment, statistics: Statistics, tokenizer: Path | None
) -> None:
    check_fit(folder.path, folder.config, folder.options, embodiment, statistics)
    if tokenizer:
        try_out(describe(folder, embodiment, statistics, tokenizer), model)


def _check_tokenizer(folder: Folder) -> Generator[Finding, None, Path | None]:
    """Check the tokenizer; returns its file if it can be used."""
    prompt_format = folder.family.prompt
    try:
        found = stored_tokenizer(folder.path)
        if found is None:
            yield Finding(
                False,
                TOKENIZER_FILE,
                f"not in the folder; put that of {prompt_format.base} into it unless you pass it to every command",
            )
            return None
        tokenizer = PromptTokenizer.from_file(found, prompt_format)
    except Gr00tError as error:
        yield Finding(True, TOKENIZER_FILE, str(error))
        return None
    backbone = folder.config.backbone
    if tokenizer.image_token_id != backbone.image_token_id or tokenizer.vocab_size > backbone.language.vocab_size:
        yield Finding(
            True,
            TOKENIZER_FILE,
            f"{tokenizer.vocab_size} entries with image token {tokenizer.image_token_id}, the model has room for "
            f"{backbone.language.vocab_size} and expects {backbone.image_token_id}; it belongs to another model",
        )
        return None
    return found


def _grouped(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Join names that differ in numbers only, since a missing layer is one finding and not twenty."""
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
