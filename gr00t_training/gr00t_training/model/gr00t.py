# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole model: loss of a batch, actions of a batch, what is trained; and the registry of model families.

A batch is a dictionary of tensors (made by `gr00t_training.transforms.pipeline`):

    pixel_values    (I, 3, P, P) in [-1, 1], I images of the whole batch, sample by sample and camera by camera
    input_ids       (B, T) prompt tokens, left padded
    attention_mask  (B, T) 0 at padding; may be absent when nothing is padded
    state           (B, 1, state_dim)
    embodiment_id   (B,) row of the embodiment-specific tables
    action          (B, H, A) normalised targets, for the loss
    action_mask     (B, H, A) True at real channels, for the loss

Floating inputs are cast to the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gr00t_training.errors import CheckpointError
from gr00t_training.model.action_head import ActionHead
from gr00t_training.model.backbone import Backbone
from gr00t_training.model.config import (
    N1_5_MODEL_TYPE,
    N1_5_PROJECTORS,
    N1_MODEL_TYPE,
    N1_PROJECTORS,
    Gr00tConfig,
    dump_n1,
    parse_n1,
)
from gr00t_training.model.config_n1_5 import dump_n1_5, parse_n1_5
from gr00t_training.model.weights import N1_5_NAMES, N1_NAMES, NameTable

Batch = Mapping[str, Tensor]


class Gr00tModel(nn.Module):
    """GR00T N1 or N1.5."""

    def __init__(self, config: Gr00tConfig, *, attention: str = "sdpa") -> None:
        """Make the model with fresh weights, on the current default device.

        Args:
            config: sizes.
            attention: kernel: sdpa, eager or flash (needs the package flash-attn).
        """
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, config.feature_dim, kernel=attention)
        self.action_head = ActionHead(config.action_head, config.feature_dim, kernel=attention)
        self._frozen: list[nn.Module] = []

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the model computes (outside autocast)."""
        return self.action_head.state_encoder.layer1.W.dtype

    def loss(self, batch: Batch, noise: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        """Return the training loss, a scalar.

        Args:
            batch: see above.
            noise: `(B, H, A)` standard normal; None: drawn.
            time: `(B,)` flow-matching times; None: drawn.

        Raises:
            ValueError: the batch does not fit the model (see `check_batch`).
        """
        self.check_batch(batch)
        actions = batch["action"].to(self.dtype)
        noise = torch.randn_like(actions) if noise is None else noise
        time = self.action_head.sample_time(len(actions), actions.device) if time is None else time
        return self.action_head.loss(
            self._features(batch),
            batch["state"].to(self.dtype),
            actions,
            batch["action_mask"],
            batch["embodiment_id"],
            noise.to(self.dtype),
            time.to(self.dtype),
        )

    @torch.no_grad()
    def sample_actions(self, batch: Batch, noise: Tensor | None = None, num_steps: int | None = None) -> Tensor:
        """Return normalised actions `(B, H, A)` float32.

        Shapes are static and nothing waits for the device, so the call can be captured; hold the batch against
        `check_batch` beforehand.

        Args:
            batch: see above.
            noise: `(B, H, A)` start of the sampler, standard normal; None: drawn.
            num_steps: denoising steps; None: the configuration's.
        """
        head, state = self.config.action_head, batch["state"].to(self.dtype)
        if noise is None:
            shape = (len(state), head.action_horizon, head.action_dim)
            noise = torch.randn(shape, dtype=self.dtype, device=state.device)
        steps = head.num_steps if num_steps is None else num_steps
        features = self._features(batch)
        return self.action_head.sample(features, state, batch["embodiment_id"], noise.to(self.dtype), steps).float()

    def check_batch(self, batch: Batch) -> None:
        """Hold the shapes of a batch and its number of image tokens against the model.

        Raises:
            ValueError: names the input, what was found and what was expected.
        """
        head, backbone, size = self.config.action_head, self.config.backbone, self.config.image_size
        samples, images = len(batch["state"]), len(batch["pixel_values"])
        expected = {
            "pixel_values": (images, 3, size, size),
            "input_ids": (samples, batch["input_ids"].shape[-1]),
            "attention_mask": tuple(batch["input_ids"].shape),
            "state": (samples, 1, head.state_dim),
            "embodiment_id": (samples,),
            "action": (samples, head.action_horizon, head.action_dim),
            "action_mask": (samples, head.action_horizon, head.action_dim),
        }
        for key, shape in expected.items():
            if key in batch and tuple(batch[key].shape) != shape:
                raise ValueError(f"{key}: shape {tuple(batch[key].shape)}, the model expects {shape}")
        found = int((batch["input_ids"] == backbone.image_token_id).sum())
        if images == 0 or found != images * backbone.num_image_tokens:
            raise ValueError(
                f"input_ids: {found} image tokens for {images} images, expected {backbone.num_image_tokens} per image "
                "and at least one image"
            )

    def set_trainable(
        self,
        *,
        tune_llm: bool = False,
        tune_visual: bool = True,
        tune_projector: bool = True,
        tune_diffusion_model: bool = True,
    ) -> None:
        """Choose the parts that train; frozen ones stay in evaluation mode.

        Always trained: projection and refiner of the backbone's features, future tokens.

        Args:
            tune_llm: language model with its token embeddings.
            tune_visual: vision tower and connector.
            tune_projector: embodiment-specific encoders and decoder, action positions.
            tune_diffusion_model: diffusion transformer.
        """
        backbone, head = self.backbone, self.action_head
        projector: list[nn.Module] = [head.state_encoder, head.action_encoder, head.action_decoder]
        if head.position_embedding is not None:
            projector.append(head.position_embedding)
        parts = [
            (tune_llm, [backbone.language]),
            (tune_visual, [backbone.vision, backbone.connector]),
            (tune_projector, projector),
            (tune_diffusion_model, [head.dit]),
        ]
        self.requires_grad_(True)
        self._frozen = [module for is_tuned, modules in parts if not is_tuned for module in modules]
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Gr00tModel:
        """Switch dropout on or off; never on in frozen parts."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def undecayed_names(self) -> set[str]:
        """Names of parameters that weight decay spares: those of norms, and biases of ordinary layers."""
        norms = (nn.LayerNorm, nn.RMSNorm)
        names = {name for name, _ in self.named_parameters() if "bias" in name}
        for prefix, module in self.named_modules():
            if isinstance(module, norms):
                names.update(f"{prefix}.{name}" for name, _ in module.named_parameters())
        return names

    def _features(self, batch: Batch) -> Tensor:
        pixels = batch["pixel_values"].to(self.dtype)
        return self.backbone(pixels, batch["input_ids"], batch.get("attention_mask"))


@dataclass(frozen=True)
class Family:
    """What a checkpoint's `model_type` stands for."""

    model: Callable[..., Gr00tModel]
    names: NameTable
    projectors: Mapping[str, int]  # embodiment tag -> row, where the folder has no embodiment_id.json
    parse: Callable[[Mapping[str, Any], Mapping[str, Any] | None], Gr00tConfig]  # config.json, eagle_config.json
    dump: Callable[[Gr00tConfig], tuple[dict[str, Any], dict[str, Any]]]
    pixel_dtype: torch.dtype  # that the release rounds pixels to


FAMILIES: Mapping[str, Family] = {
    N1_MODEL_TYPE: Family(Gr00tModel, N1_NAMES, N1_PROJECTORS, parse_n1, dump_n1, torch.bfloat16),
    N1_5_MODEL_TYPE: Family(Gr00tModel, N1_5_NAMES, N1_5_PROJECTORS, parse_n1_5, dump_n1_5, torch.float32),
}


def family(model_type: object) -> Family:
    """Return the family of a `model_type`.

    Raises:
        CheckpointError: the family is not supported.
    """
    if model_type not in FAMILIES:
        raise CheckpointError(f"model_type is {model_type!r}, supported: {', '.join(FAMILIES)}")
    return FAMILIES[str(model_type)]
