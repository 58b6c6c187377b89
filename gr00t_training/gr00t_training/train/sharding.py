# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights, gradients and optimizer state that are split over several processes (FSDP2), and their checkpoints.

A block of the model is a unit: its weights are put together before it computes and stay so until its backward pass is
done. Where a step computes in bfloat16, they are put together and their gradients are summed in that type; each process
keeps its part in float32. Splitting the weights again behind the forward pass would save 2 bytes a weight and cost 6 %
of the speed with two GPUs (`bench/distributed.py`).

A checkpoint holds whole weights, as that of any run. The optimizer state is written by all processes, each its part,
and is read by any number of them, with split or whole weights.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gr00t_training.errors import CheckpointError
from gr00t_training.io.files import check_regular
from gr00t_training.io.text import printable
from gr00t_training.model.gr00t import Gr00tModel

if TYPE_CHECKING:
    from accelerate import Accelerator

OPTIMIZER_FOLDER = "optimizer"  # in a checkpoint
_METADATA = "torch.distributed.checkpoint.metadata"
_DESCRIPTIONS = {  # what an index of PyTorch consists of
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata")),
    *((_METADATA, name) for name in ("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
}
_UNITS = ("EncoderBlock", "LanguageBlock", "DitFeedForward")


class _Loss(nn.Module):
    """The loss as a forward pass, where the hooks that put weights together are."""

    def __init__(self, model: Gr00tModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss; see `Gr00tModel.planned_loss`."""
        return self.model.planned_loss(*args, **kwargs)


def split(model: Gr00tModel, accelerator: Accelerator, computes_in: torch.dtype | None) -> nn.Module:
    """Split the weights of a model in place, and move them to the device; returns what computes its loss.

    Args:
        model: of which blocks are split.
        accelerator: of this process.
        computes_in: type of the weights that are put together, and of the sums of gradients; None: as they are.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin, fsdp2_prepare_model
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # a feed-forward layer returns a view; its block does not change it in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    names = {type(module).__name__ for module in model.modules()}
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[name for name in _UNITS if name in names],
        reshard_after_forward=False,
        mixed_precision_policy=MixedPrecisionPolicy(
            param_dtype=computes_in, reduce_dtype=computes_in, cast_forward_inputs=False
        ),
        cpu_ram_efficient_loading=False,
        state_dict_type="SHARDED_STATE_DICT",
    )
    return fsdp2_prepare_model(accelerator, _Loss(model))


def is_split(tensor: Tensor) -> bool:
    """Return whether a tensor is one part of several."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process has: all of one that is not split."""
    return tensor.to_local() if is_split(tensor) else tensor  # type: ignore[attr-defined]


def like(whole: Tensor, pattern: Tensor) -> Tensor:
    """Return the part of a whole tensor that this process has of `pattern`, as a tensor of that kind."""
    if not is_split(pattern):
        return whole.to(pattern.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = pattern.device_mesh, pattern.placements  # type: ignore[attr-defined]
    return distribute_tensor(whole.to(pattern.device), mesh, placements, src_data_rank=None)


def save_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the state of an optimizer; all processes call it with the same folder of a checkpoint.

    Raises:
        OSError: it cannot be written.
    """
    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        state_dict_saver.save(_named(model, optimizer), checkpoint_id=folder / OPTIMIZER_FOLDER)
    except CheckpointException as error:
        raise OSError(f"{OPTIMIZER_FOLDER}: {next(iter(error.failures.values()))[0]}") from error


def read_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Read the state that `save_optimizer` wrote with any number of processes.

    Raises:
        ValueError: it is missing, damaged, or of other parameters.
    """
    from torch.distributed.checkpoint import filesystem, state_dict_loader
    from torch.distributed.checkpoint.api import CheckpointException

    place = folder / OPTIMIZER_FOLDER
    try:
        _check_index(place / ".metadata")
        reader = filesystem.FileSystemReader(place)
        _make_room(reader.read_metadata().state_dict_metadata, model, optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            state_dict_loader.load(_named(model, optimizer), storage_reader=reader)
    except (CheckpointException, OSError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise ValueError(f"{place.name}: {error}") from error


def split_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the whole state of an optimizer as that of one whose parameters may be split."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = {
        number: {
            name: like(x, parameters[number]) if x.shape == parameters[number].shape and name != "step" else x
            for name, x in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": found}


def _named(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}.{kind}": value
        for parameter, values in optimizer.state.items()
        for kind, value in values.items()
    }


def _make_room(stored: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give the parameters the state that is stored, as zeros."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    is_on_device = any(optimizer.param_groups[0].get(name) for name in ("fused", "capturable"))
    for key, description in stored.items():
        name, _, kind = key.rpartition(".")
        parameter = parameters[name]
        if description.size == parameter.shape and kind != "step":
            value = torch.zeros_like(parameter, dtype=description.properties.dtype)
        else:
            value = torch.zeros(description.size, device=parameter.device if is_on_device else "cpu")
        optimizer.state[parameter][kind] = value


def _check_index(file: Path) -> None:
    """Refuse an index whose pickle names anything but plain descriptions: PyTorch would run it.

    Raises:
        ValueError: it names something else.
    """
    check_regular(file, CheckpointError)
    with file.open("rb") as stream:
        _IndexReader(stream).load()


class _IndexReader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return a class or function that an index may use."""
        is_description = (module_name, global_name) in _DESCRIPTIONS
        if is_description or (module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)):
            return super().find_class(module_name, global_name)
        raise ValueError(f"{printable(module_name)}.{printable(global_name)} does not belong into an index")
