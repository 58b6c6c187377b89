# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the model runs: in this process, or behind a policy server (ours, or one of the N1.5 and N1.7 releases)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from gr00t_policy_node.inference import Infers
from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, ServerError
from gr00t_training.serve.access import find_token
from gr00t_training.serve.client import PolicyClient
from gr00t_training.serve.images import ImageForm
from gr00t_training.serve.wire import Wire

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalPolicy:
    """A checkpoint, and how it is run."""

    checkpoint: str  # folder, or name on the hub
    device: str
    num_threads: int  # of a model on the CPU; 0: PyTorch's choice
    denoising_steps: int  # 0: the release's
    seed: int  # -1: another one every time
    instruction: str  # that the model is prepared for


@dataclass(frozen=True)
class RemotePolicy:
    """A policy server."""

    address: str  # host:port
    wire: Wire
    token_file: str  # empty: the environment's token, or none
    timeout_s: float
    images: ImageForm


def load_local(wanted: LocalPolicy, embodiment: Embodiment) -> Infers:
    """Load a checkpoint, hold it against the robot's embodiment, and run it once.

    Raises:
        Gr00tError: see `gr00t_training.policy.Policy.from_checkpoint`.
    """
    import torch  # a robot whose model runs elsewhere needs none

    from gr00t_training.policy import Policy

    if wanted.num_threads:
        torch.set_num_threads(wanted.num_threads)
    policy = Policy.from_checkpoint(
        wanted.checkpoint,
        embodiment=embodiment,
        device=wanted.device,
        denoising_steps=wanted.denoising_steps or None,
        seed=None if wanted.seed < 0 else wanted.seed,
    )
    policy.warm_up(wanted.instruction)
    return policy


def connect_remote(wanted: RemotePolicy, embodiment: Embodiment) -> PolicyClient:
    """Return a client of a server. One that answers must serve this embodiment; one that does not may still come.

    Raises:
        ConfigError: address or token cannot be used.
        ServerError: the server serves another embodiment; names each item.
    """
    host, separator, port = wanted.address.rpartition(":")
    if not separator or not port.isdigit():
        raise ConfigError(f"server '{wanted.address}': expected host:port, like 192.168.1.20:5555")
    token = find_token(file=Path(wanted.token_file) if wanted.token_file else None)
    client = PolicyClient(
        embodiment,
        host.strip("[]"),
        int(port),
        wire=wanted.wire,
        token=token,
        timeout_s=wanted.timeout_s,
        images=wanted.images,
    )
    try:
        client.ping()
    except ServerError as error:
        logger.warning("%s; holding until it does", error)
        return client
    try:
        client.check_embodiment()
    except ServerError:
        client.close()
        raise
    return client
