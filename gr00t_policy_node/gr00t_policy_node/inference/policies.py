# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the model runs: in this process, or behind a policy server (ours, or one of the N1.5 and N1.7 releases)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gr00t_training.embodiment import Embodiment
from gr00t_training.errors import ConfigError, ServerError
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.access import find_token
from gr00t_training.serve.client import PolicyClient
from gr00t_training.serve.images import ImageForm
from gr00t_training.serve.wire import Wire
from gr00t_training.types import ActionChunk, Continuation, Observation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalPolicy:
    """A checkpoint, and how it is run."""

    checkpoint: str  # folder, or name on the hub
    device: str
    num_threads: int  # of a model on the CPU; 0: PyTorch's choice
    denoising_steps: int  # 0: the release's
    seed: int  # -1: a new one every time
    instruction: str  # that the model is prepared for


@dataclass(frozen=True)
class RemotePolicy:
    """A policy server."""

    address: str  # host:port
    wire: Wire
    token_file: str  # empty: the environment's token, or none
    timeout_s: float
    images: ImageForm
    checkpoint: str = ""  # that is to answer, where the server has several; empty: its first one


class NoPolicy(PolicyLike):
    """Answers nothing: only persons, moves and replays command the robot."""

    def __init__(self, embodiment: Embodiment) -> None:
        """Stand in for the policy of a robot."""
        self.embodiment = embodiment

    def infer_batch(
        self, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None = None
    ) -> list[ActionChunk]:
        """Refuse; raises ConfigError."""
        raise ConfigError("this node has no policy; set 'checkpoint_path' or 'server', or command it by ~/teleop")


def load_local(settings: LocalPolicy, embodiment: Embodiment) -> PolicyLike:
    """Load a checkpoint, compare it with the robot's embodiment, and run it once.

    Raises:
        Gr00tError: see `gr00t_training.policy.policy.Policy.from_checkpoint`.
    """
    import torch  # not needed if the model runs on another computer

    from gr00t_training.policy.policy import Policy

    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    policy = Policy.from_checkpoint(
        settings.checkpoint,
        embodiment=embodiment,
        device=settings.device,
        denoising_steps=settings.denoising_steps or None,
        seed=None if settings.seed < 0 else settings.seed,
    )
    policy.warm_up(settings.instruction)
    return policy


def connect_remote(settings: RemotePolicy, embodiment: Embodiment) -> PolicyClient:
    """Return a client of a server. A server that answers must serve this embodiment; one may also start later.

    Raises:
        ConfigError: address or token cannot be used.
        ServerError: the server serves another embodiment; names each item.
    """
    host, separator, port = settings.address.rpartition(":")
    if not separator or not port.isdigit():
        raise ConfigError(f"server '{settings.address}': expected host:port, like 192.168.1.20:5555")
    token = find_token(file=Path(settings.token_file) if settings.token_file else None)
    client = PolicyClient(
        embodiment,
        host.strip("[]"),
        int(port),
        wire=settings.wire,
        token=token,
        timeout_s=settings.timeout_s,
        images=settings.images,
        timeout_name="server_timeout_s",
        checkpoint=settings.checkpoint,
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
