# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Adapters (LoRA, DoRA) in place of whole weights, made by PEFT inside our own model.

A part of the model with adapters trains nothing else. The tables per embodiment are always trained whole (`projector`):
only the robot's own rows take part, which are smaller than their adapters would be worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gr00t_training.checkpoint import Checkpoint
from gr00t_training.checkpoint.adapter import BaseReference, read_adapter, write_adapter
from gr00t_training.checkpoint.model_weights import find_model_weights
from gr00t_training.checkpoint.weight_files import TensorReader
from gr00t_training.errors import CheckpointError, ConfigError
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.model.weight_names import NameTable
from gr00t_training.train.quantize import quieten
from gr00t_training.train.settings import TrainerSettings
from gr00t_training.train.weights import TrainedWeights

# Names of `lora_targets` -> beginnings of the names of their layers.
PARTS = {
    "llm": ("backbone.language.",),
    "visual": ("backbone.vision.", "backbone.connector."),
    "diffusion": ("action_head.dit.",),
    "vlln": ("action_head.refiner.",),
}
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Base:
    """The checkpoint that adapters belong to."""

    reference: BaseReference
    shapes: Mapping[str, tuple[int, ...]]  # of its weights, under the model's names


def choose_trained(model: Gr00tModel, settings: TrainerSettings) -> Adapters | None:
    """Choose what trains: parts of the model, and adapters of others.

    Args:
        model: changed in place; on the host, float32.
        settings: of the run; their seed fixes the first weights of the adapters.

    Returns:
        The adapters; None: there are none.

    Raises:
        ConfigError: the choices contradict each other or the model.
    """
    layers = _adapted_layers(model, settings.lora_targets) if settings.lora_rank else []
    adapted = {part for part, beginnings in PARTS.items() if any(layer.startswith(beginnings) for layer in layers)}
    if "llm" in adapted and (settings.tune_llm or settings.tune_top_llm_layers):
        raise ConfigError(
            "lora_targets: the language model gets adapters, but tune_llm or tune_top_llm_layers trains it; drop one"
        )
    try:
        model.set_trainable(  # parts with adapters are as in training, with their dropout
            tune_llm=settings.tune_llm or "llm" in adapted,
            tune_visual=settings.tune_visual or "visual" in adapted,
            tune_projector=settings.tune_projector,
            tune_diffusion_model=settings.tune_diffusion_model or "diffusion" in adapted,
            tune_vlln=settings.tune_vlln or "vlln" in adapted,
            tune_top_llm_layers=settings.tune_top_llm_layers,
        )
    except ValueError as error:  # more layers than the model has
        raise ConfigError(str(error)) from error
    return Adapters(model, settings, layers, adapted) if layers else None


class Adapters:
    """The adapters of a model in training."""

    def __init__(self, model: Gr00tModel, settings: TrainerSettings, layers: Sequence[str], parts: set[str]) -> None:
        """Add adapters to a model; see `choose_trained`.

        Args:
            model: changed in place.
            settings: rank, scale, dropout and kind; seed of the first weights.
            layers: linear layers that get one.
            parts: of the model that train nothing else.

        Raises:
            ConfigError: PEFT is not installed.
        """
        peft = _peft()
        self._peft = peft
        self._model = model
        self._config = peft.LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha or 2 * settings.lora_rank,
            lora_dropout=settings.lora_dropout,
            target_modules=list(layers),
            use_dora=settings.dora,
        )
        frozen = tuple(beginning for part in parts for beginning in PARTS[part])
        trained = {name for name, x in model.named_parameters() if x.requires_grad and not name.startswith(frozen)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            peft.inject_adapter_in_model(self._config, model)
        for name, parameter in model.named_parameters():  # PEFT has frozen everything else
            if name in trained:
                parameter.requires_grad_(True)
        module: Any
        for module in model.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.cast_input_dtype_enabled = False  # autocast does it, without copies in float32

    def write(self, folder: Path, base: Base, names: NameTable, weights: TrainedWeights, averages: Weights) -> None:
        """Write the files of an adapter's checkpoint.

        Args:
            folder: of the checkpoint.
            base: that it was trained on.
            names: of the model's family.
            weights: of the model.
            averages: of trained weights, to be taken instead of them.

        Raises:
            OSError: they cannot be written.
        """
        values = {name: weight.detach() for name, weight in {**weights.trained(), **averages}.items()}
        # PEFT would ask the hub for the vocabulary of the base
        layers = self._peft.get_peft_model_state_dict(self._model, values, save_embedding_layers=False)
        trained, rows = weights.beside_adapters(averages, base.shapes)
        config = {name: _plain(value) for name, value in self._config.to_dict().items()}
        write_adapter(
            folder,
            config,
            base.reference,
            {names.to_published(name): weight for name, weight in layers.items()},
            {names.to_published(name): weight for name, weight in trained.items()},
            {names.to_published(name): chosen for name, chosen in rows.items()},
        )

    def read(self, path: Path, names: NameTable) -> None:
        """Put the adapters of a checkpoint that `write` made into the model.

        Raises:
            CheckpointError: they are missing, damaged or of other layers.
        """
        reader, found = TensorReader(torch.device("cpu")), {}
        for name, stored in read_adapter(path).layer_tensors.items():
            found[names.to_ours(name) or name] = reader.read(stored)
        own = self._peft.get_peft_model_state_dict(self._model, save_embedding_layers=False)
        if {n: x.shape for n, x in own.items()} != {n: x.shape for n, x in found.items()}:
            raise CheckpointError(f"{path}: has adapters of other layers or ranks; resume with the settings of its run")
        self._peft.set_peft_model_state_dict(self._model, found)


def find_base(checkpoint: Checkpoint, resumed: Path | None) -> Base:
    """Describe the checkpoint that a run's adapters belong to; reads all of its weights once.

    Args:
        checkpoint: that the run starts from.
        resumed: adapter of the same run that it continues; its base is that of the run.

    Raises:
        CheckpointError: it is missing, damaged or another one.
    """
    assert checkpoint.path
    weights = find_model_weights(resumed or checkpoint.path)
    if resumed:
        if not weights.adapter or not weights.base:
            raise CheckpointError(f"{resumed}: is no adapter; start a new run from it")
        reference, weights = weights.adapter.base, weights.base
    else:
        reference = BaseReference.of(checkpoint.path)
    table = checkpoint.family.names
    names = [*weights.tensors, *(name for name, other in table.stand_ins.items() if other in weights.tensors)]
    shapes = {
        table.to_ours(name) or name: weights.tensors[name if name in weights.tensors else table.stand_ins[name]].shape
        for name in names
    }
    return Base(reference, shapes)


def _adapted_layers(model: Gr00tModel, targets: Sequence[str]) -> list[str]:
    """Return the names of the linear layers that `lora_targets` selects, in the model's order."""
    layers = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    chosen: set[str] = set()
    for target in targets:
        if target in PARTS:
            found = [name for name in layers if name.startswith(PARTS[target])]
        else:
            found = [name for name in layers if f".{name}.".find(f".{target}.") >= 0]
        if not found:
            raise ConfigError(
                f"lora_targets: '{target}' is no part ({', '.join(PARTS)}) and no linear layer of this model; fix it"
            )
        chosen.update(found)
    return [name for name in layers if name in chosen]


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value.value if isinstance(value, Enum) else value


def _peft() -> ModuleType:
    quieten()
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"lora_rank: adapters need the library peft ({error}); install it with pip install 'gr00t_training[lora]'"
        ) from error
    return peft
