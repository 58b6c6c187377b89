# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Choose the device that computes, and explain its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from gr00t_training.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" takes a GPU if there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):  # PyTorch has some that compute nothing
            raise RuntimeError("the model runs on cpu and cuda")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("no CUDA GPU found, or PyTorch is built without CUDA")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{name}': not available ({str(error).splitlines()[0]}); use auto or cpu") from error
    return device


@contextlib.contextmanager
def explained_memory(remedy: str) -> Iterator[None]:
    """Turn PyTorch's out-of-memory errors, which are RuntimeErrors, into a ConfigError that ends with `remedy`."""
    try:
        yield
    except RuntimeError as error:
        is_memory = isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not is_memory:
            raise
        raise ConfigError(f"out of memory ({str(error).splitlines()[0]:.200}); {remedy}") from error
