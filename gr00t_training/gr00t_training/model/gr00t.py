# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole model: loss of a batch, actions of a batch, what is trained; and the registry of model families.

A batch is a dictionary of tensors (made by `gr00t_training.transforms.pipeline`):

    pixel_values    (I, 3, P, P) in [-1, 1], I images of the whole batch, sample by sample and camera by camera (N1,
                    N1.5); or packed patches (N, patch_dim) of all images, one after another (N1.6, N1.7)
    image_grid      (I, 2) rows and columns of patches of each image, on the CPU; packed patches only
    input_ids       (B, T) prompt tokens, left padded
    attention_mask  (B, T) 0 at padding; may be absent when nothing is padded
    state           (B, R, state_dim), R rows: one, or as many as the model remembers
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
    N1_6_MODEL_TYPE,
    N1_6_PROJECTORS,
    N1_7_MODEL_TYPE,
    N1_7_PROJECTORS,
    N1_MODEL_TYPE,
    N1_PROJECTORS,
    Gr00tConfig,
)
from gr00t_training.model.config_n1 import dump_n1, parse_n1
from gr00t_training.model.config_n1_5 import dump_n1_5, parse_n1_5
from gr00t_training.model.config_n1_6 import dump_n1_6, parse_n1_6
from gr00t_training.model.config_n1_7 import dump_n1_7, parse_n1_7
from gr00t_training.model.plan import Plan, make_plan, to_device
from gr00t_training.model.sampler import Inpainting
from gr00t_training.model.weights import N1_5_NAMES, N1_6_NAMES, N1_7_NAMES, N1_NAMES, NameTable

__all__ = ["FAMILIES", "Batch", "Family", "Gr00tModel", "Inpainting", "Plan", "family", "to_device"]

Batch = Mapping[str, Tensor]


class Gr00tModel(nn.Module):
    """GR00T N1, N1.5, N1.6 or N1.7."""

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

    def plan(self, batch: Batch) -> Plan:
        """Work out what prompt and image sizes of a batch fix.

        Reads `input_ids`, `attention_mask` and `image_grid` only, on the host; waits for a device that they lie on.

        Raises:
            ValueError: image tokens and images do not agree.
        """
        return make_plan(self.config, batch, next(self.parameters()).device, self.dtype)

    def features(self, pixels: Tensor, plan: Plan) -> Tensor:
        """Return the backbone's features `(B, T, D)`; shapes are static and nothing waits for the device.

        Args:
            pixels: `pixel_values` of the batch.
            plan: of the batch.
        """
        return self.backbone(pixels.to(self.dtype), plan)

    def loss(
        self,
        batch: Batch,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        drops_state: Tensor | None = None,
    ) -> Tensor:
        """Return the training loss, a scalar.

        Args:
            batch: see above.
            noise: `(B, H, A)` standard normal; None: drawn.
            time: `(B,)` flow-matching times; None: drawn.
            drops_state: `(B,)` bool, samples whose state is hidden; None: drawn.

        Raises:
            ValueError: the batch does not fit the model (see `check_batch`).
        """
        self.check_batch(batch)
        plan = self.plan(batch)
        actions = batch["action"].to(self.dtype)
        noise = torch.randn_like(actions) if noise is None else noise
        time = self.action_head.sample_time(len(actions), actions.device) if time is None else time
        return self.action_head.loss(
            self.features(batch["pixel_values"], plan),
            batch["state"].to(self.dtype),
            actions,
            batch["action_mask"],
            batch["embodiment_id"],
            noise.to(self.dtype),
            time.to(self.dtype),
            masks=plan.context_masks,
            drops_state=drops_state,
        )

    @torch.no_grad()
    def sample_actions(
        self,
        batch: Batch,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        inpainting: Inpainting | None = None,
    ) -> Tensor:
        """Return normalised actions `(B, H, A)` float32; hold the batch against `check_batch` beforehand.

        Args:
            batch: see above.
            noise: `(B, H, A)` start of the sampler, standard normal; None: drawn.
            num_steps: denoising steps; None: the configuration's.
            inpainting: an earlier chunk to continue; None: a chunk of its own.

        Raises:
            ValueError: image tokens and images do not agree, or the earlier chunk does not fit.
        """
        head, state = self.config.action_head, batch["state"].to(self.dtype)
        if noise is None:
            shape = (len(state), head.action_horizon, head.action_dim)
            noise = torch.randn(shape, dtype=self.dtype, device=state.device)
        plan = self.plan(batch)
        return self.action_head.sample(
            self.features(batch["pixel_values"], plan),
            state,
            batch["embodiment_id"],
            noise.to(self.dtype),
            head.num_steps if num_steps is None else num_steps,
            masks=plan.context_masks,
            inpainting=inpainting,
        ).float()

    def check_batch(self, batch: Batch) -> None:
        """Hold the shapes of a batch and its number of image tokens against the model.

        Raises:
            ValueError: names the input, what was found and what was expected.
        """
        head, samples = self.config.action_head, len(batch["state"])
        rows = batch["state"].shape[1] if head.state_history is None else head.state_history
        expected = {
            "pixel_values": self._pixel_shape(batch),
            "input_ids": (samples, batch["input_ids"].shape[-1]),
            "attention_mask": tuple(batch["input_ids"].shape),
            "state": (samples, rows, head.state_dim),
            "embodiment_id": (samples,),
            "action": (samples, head.action_horizon, head.action_dim),
            "action_mask": (samples, head.action_horizon, head.action_dim),
        }
        for key, shape in expected.items():
            if key in batch and tuple(batch[key].shape) != shape:
                raise ValueError(f"{key}: shape {tuple(batch[key].shape)}, the model expects {shape}")
        if self.config.backbone.is_packed:
            return  # `plan` holds the image tokens against the grids
        images, num_tokens = len(batch["pixel_values"]), self.config.backbone.num_image_tokens
        found = int((batch["input_ids"] == self.config.backbone.image_token_id).sum())
        if images == 0 or found != images * num_tokens:
            raise ValueError(
                f"input_ids: {found} image tokens for {images} images, expected {num_tokens} per image and at "
                "least one image"
            )

    def _pixel_shape(self, batch: Batch) -> tuple[int, ...]:
        if not self.config.backbone.is_packed:
            return len(batch["pixel_values"]), 3, self.config.image_size, self.config.image_size
        grid = batch.get("image_grid")
        if grid is None or grid.ndim != 2 or grid.shape[1] != 2:
            found = "nothing" if grid is None else f"shape {tuple(grid.shape)}"
            raise ValueError(f"image_grid: {found}, the model expects rows and columns of patches per image, (I, 2)")
        return int(grid.prod(1).sum()), self.config.backbone.vision.patch_dim

    def set_trainable(
        self,
        *,
        tune_llm: bool = False,
        tune_visual: bool = True,
        tune_projector: bool = True,
        tune_diffusion_model: bool = True,
        tune_vlln: bool = True,
        tune_top_llm_layers: int = 0,
    ) -> None:
        """Choose the parts that train; frozen ones stay in evaluation mode.

        Always trained: projection of the backbone's features, future tokens.

        Args:
            tune_llm: language model with its token embeddings.
            tune_visual: vision tower and connector.
            tune_projector: embodiment-specific encoders and decoder, action positions, token of a hidden state.
            tune_diffusion_model: diffusion transformer.
            tune_vlln: norm and self attention of the backbone's features.
            tune_top_llm_layers: so many of the last language layers, also without `tune_llm`.
        """
        backbone, head = self.backbone, self.action_head
        language, layers = backbone.language, list(backbone.language.layers)
        if not 0 <= tune_top_llm_layers <= len(layers):
            raise ValueError(f"tune_top_llm_layers is {tune_top_llm_layers}, the model keeps {len(layers)} layers")
        lower = layers[: len(layers) - tune_top_llm_layers]
        parts: list[tuple[bool, list[nn.Module | nn.Parameter | None]]] = [
            (tune_llm, [language.embed_tokens, *lower, language.norm]),
            (tune_visual, [backbone.vision, backbone.connector]),
            (
                tune_projector,
                [
                    head.state_encoder,
                    head.action_encoder,
                    head.action_decoder,
                    head.position_embedding,
                    head.mask_token,
                ],
            ),
            (tune_diffusion_model, [head.dit]),
            (tune_vlln, [head.refiner]),
        ]
        self.requires_grad_(True)
        frozen = [part for is_tuned, items in parts if not is_tuned for part in items if part is not None]
        for part in frozen:
            part.requires_grad_(False)
        self._frozen = [part for part in frozen if isinstance(part, nn.Module)]
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


@dataclass(frozen=True)
class Family:
    """What a checkpoint's `model_type` stands for."""

    model: Callable[..., Gr00tModel]
    names: NameTable
    projectors: Mapping[str, int]  # embodiment tag -> row, where the folder has no embodiment_id.json
    parse: Callable[[Mapping[str, Any], Mapping[str, Any] | None], Gr00tConfig]  # config.json, `vlm_file`
    dump: Callable[[Gr00tConfig], tuple[dict[str, Any], dict[str, Any]]]
    pixel_dtype: torch.dtype  # that the release rounds pixels to
    vlm_file: str  # in a checkpoint's folder, sizes of the vision-language model; may be absent


FAMILIES: Mapping[str, Family] = {
    N1_MODEL_TYPE: Family(Gr00tModel, N1_NAMES, N1_PROJECTORS, parse_n1, dump_n1, torch.bfloat16, "eagle_config.json"),
    N1_5_MODEL_TYPE: Family(
        Gr00tModel, N1_5_NAMES, N1_5_PROJECTORS, parse_n1_5, dump_n1_5, torch.float32, "eagle_config.json"
    ),
    N1_6_MODEL_TYPE: Family(
        Gr00tModel, N1_6_NAMES, N1_6_PROJECTORS, parse_n1_6, dump_n1_6, torch.float32, "backbone/config.json"
    ),
    N1_7_MODEL_TYPE: Family(
        Gr00tModel, N1_7_NAMES, N1_7_PROJECTORS, parse_n1_7, dump_n1_7, torch.float32, "backbone/config.json"
    ),
}


def family(model_type: object) -> Family:
    """Return the family of a `model_type`.

    Raises:
        CheckpointError: the family is not supported.
    """
    if model_type not in FAMILIES:
        raise CheckpointError(f"model_type is {model_type!r}, supported: {', '.join(FAMILIES)}")
    return FAMILIES[str(model_type)]
