# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole model: loss of a batch, actions of a batch, what is trained.

A batch is a dictionary of tensors (made by `gr00t_training.transforms.pipeline`):

    pixel_values    (I, 3, P, P) in [-1, 1], I images of the whole batch, sample by sample and camera by camera (N1,
                    N1.5); or packed patches (N, patch_dim) of all images, one after another (N1.6, N1.7)
    image_grid      (I, 2) rows and columns of patches of each image, on the CPU; packed patches only
    input_ids       (B, T) prompt tokens, left padded
    attention_mask  (B, T) 0 at padding; may be absent when nothing is padded
    state           (B, R, state_dim), R rows: one, or as many as the model remembers
    embodiment_id   (B,) row of the embodiment-specific tables
    action          (B, H, A) normalized targets, for the loss
    action_mask     (B, H, A) True at real channels, for the loss
    features        (B, T, D) of the backbone (`hidden_features`), instead of pixel_values, for the loss

Floating inputs are cast to the model's dtype.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gr00t_training.model.action_head import ActionHead
from gr00t_training.model.backbone import Backbone
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.dit import DitBlock
from gr00t_training.model.language import LanguageBlock
from gr00t_training.model.layers import EncoderBlock
from gr00t_training.model.plan import ContextPlan, Plan, make_plan, to_device
from gr00t_training.model.sampler import Inpainting

__all__ = ["Batch", "Gr00tModel", "Inpainting", "Plan", "to_device"]

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

    def plan(self, batch: Batch, *, hides_padding: bool = False) -> Plan:
        """Return everything that depends only on the prompt and the image sizes of a batch.

        Reads `input_ids`, `attention_mask` and `image_grid` only, on the host; waits for the device if they are on one.

        Args:
            batch: see above.
            hides_padding: see `make_plan`.

        Raises:
            ValueError: image tokens and images do not agree.
        """
        device = next(self.parameters()).device
        return make_plan(self.config, batch, device, self.dtype, hides_padding=hides_padding)

    def features(self, pixels: Tensor, plan: Plan) -> Tensor:
        """Return the backbone's features `(B, T, D)`; shapes are static and nothing waits for the device.

        Args:
            pixels: `pixel_values` of the batch.
            plan: of the batch.
        """
        return self.backbone(pixels.to(self.dtype), plan)

    def hidden_features(self, pixels: Tensor, plan: Plan) -> Tensor:
        """Return the backbone's features before their projection, `(B, T, D)`; args: see `features`."""
        return self.backbone.hidden(pixels.to(self.dtype), plan)

    def loss(
        self,
        batch: Batch,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        drops_state: Tensor | None = None,
        delay: Tensor | None = None,
    ) -> Tensor:
        """Return the training loss, a scalar.

        Args:
            batch: see above.
            noise: `(B, H, A)` standard normal; None: drawn.
            time: `(B,)` flow-matching times; None: drawn.
            drops_state: `(B,)` bool, samples whose state is hidden; None: drawn.
            delay: `(B,)` first rows that are given, see `ActionHead.loss`; None: drawn if the model is trained so.

        Raises:
            ValueError: the batch does not fit the model (see `check_batch`).
        """
        self.check_batch(batch)
        return self.planned_loss(batch, self.plan(batch), noise, time, drops_state, delay)

    def planned_loss(
        self,
        batch: Batch,
        plan: ContextPlan,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        drops_state: Tensor | None = None,
        delay: Tensor | None = None,
    ) -> Tensor:
        """Return the training loss of a batch that was checked and planned; nothing waits for the device.

        Args and result: see `loss`.
        """
        actions = batch["action"].to(self.dtype)
        noise = torch.randn_like(actions) if noise is None else noise
        time = self.action_head.sample_time(len(actions), actions.device) if time is None else time
        return self.action_head.loss(
            self._context(batch, plan),
            batch["state"].to(self.dtype),
            actions,
            batch["action_mask"],
            batch["embodiment_id"],
            noise.to(self.dtype),
            time.to(self.dtype),
            masks=plan.context_masks,
            drops_state=drops_state,
            delay=delay,
        )

    def _context(self, batch: Batch, plan: ContextPlan) -> Tensor:
        """Return the features of a batch, from its pixels or from the backbone's part that was computed before."""
        if "features" not in batch:
            assert isinstance(plan, Plan)
            return self.features(batch["pixel_values"], plan)
        hidden = batch["features"]
        return self.backbone.linear(hidden if torch.is_autocast_enabled(hidden.device.type) else hidden.to(self.dtype))

    @torch.no_grad()
    def loss_and_actions(self, batch: Batch, plan: ContextPlan, num_steps: int) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and predicted actions `(B, H, A)`, both of the same features.

        States are visible and no rows are given, so that the losses of runs with other options can be compared.

        Args:
            batch: checked and planned; with actions.
            plan: of the batch.
            num_steps: of the sampler.
        """
        features, ids = self._context(batch, plan), batch["embodiment_id"]
        actions, state = batch["action"].to(self.dtype), batch["state"].to(self.dtype)
        loss = self.action_head.loss(
            features,
            state,
            actions,
            batch["action_mask"],
            ids,
            torch.randn_like(actions),
            self.action_head.sample_time(len(actions), actions.device).to(self.dtype),
            masks=plan.context_masks,
            drops_state=torch.zeros(len(actions), dtype=torch.bool, device=actions.device),
            delay=torch.zeros_like(ids) if self.config.action_head.rtc_max_delay else None,
        )
        noise = torch.randn_like(actions)
        return loss, self.action_head.sample(features, state, ids, noise, num_steps, masks=plan.context_masks)

    @torch.no_grad()
    def sample_actions(
        self,
        batch: Batch,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        inpainting: Inpainting | None = None,
        *,
        hides_padding: bool = False,
    ) -> Tensor:
        """Return normalized actions `(B, H, A)` float32; call `check_batch` first.

        Args:
            batch: see above.
            noise: `(B, H, A)` start of the sampler, standard normal; None: drawn.
            num_steps: denoising steps; None: the configuration's.
            inpainting: an earlier chunk to continue; None: an independent chunk.
            hides_padding: see `make_plan`.

        Raises:
            ValueError: image tokens and images do not agree, or the earlier chunk does not fit.
        """
        head, state = self.config.action_head, batch["state"].to(self.dtype)
        if noise is None:
            shape = (len(state), head.action_horizon, head.action_dim)
            noise = torch.randn(shape, dtype=self.dtype, device=state.device)
        plan = self.plan(batch, hides_padding=hides_padding)
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
        """Compare a batch with the model, see the function `check_batch`."""
        check_batch(self.config, batch)

    def set_conditioning(self, *, rtc_max_delay: int, state_dropout: float, has_mask_token: bool) -> None:
        """Choose what the action head is given in training and what is hidden from it.

        Args:
            rtc_max_delay: most first rows of a chunk that are given; 0: none.
            state_dropout: share of the samples whose state is hidden.
            has_mask_token: whether a learned token takes the place of a hidden state; made or removed.
        """
        head = dataclasses.replace(
            self.config.action_head,
            rtc_max_delay=rtc_max_delay,
            state_dropout=state_dropout,
            has_mask_token=has_mask_token,
        )
        self.config = dataclasses.replace(self.config, action_head=head)
        self.action_head.set_config(head)

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

    def blocks(self) -> list[nn.Module]:
        """List the blocks that the model repeats: of the vision tower, the language model and the action head."""
        kinds = (EncoderBlock, LanguageBlock, DitBlock)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def undecayed_names(self) -> set[str]:
        """Names of parameters that weight decay spares: those of norms, and biases of ordinary layers."""
        norms = (nn.LayerNorm, nn.RMSNorm)
        names = {name for name, _ in self.named_parameters() if "bias" in name}
        for prefix, module in self.named_modules():
            if isinstance(module, norms):
                names.update(f"{prefix}.{name}" for name, _ in module.named_parameters())
        return names


def check_batch(config: Gr00tConfig, batch: Batch) -> None:
    """Check the shapes of a batch and its number of image tokens.

    Raises:
        ValueError: names the input, what was found and what was expected.
    """
    head, samples = config.action_head, len(batch["state"])
    rows = batch["state"].shape[1] if head.state_history is None else head.state_history
    expected = {
        "input_ids": (samples, batch["input_ids"].shape[-1]),
        "attention_mask": tuple(batch["input_ids"].shape),
        "state": (samples, rows, head.state_dim),
        "embodiment_id": (samples,),
        "action": (samples, head.action_horizon, head.action_dim),
        "action_mask": (samples, head.action_horizon, head.action_dim),
    }
    if "pixel_values" in batch:  # else the device makes them
        expected["pixel_values"] = _pixel_shape(config, batch)
    for key, shape in expected.items():
        if key in batch and tuple(batch[key].shape) != shape:
            raise ValueError(f"{key}: shape {tuple(batch[key].shape)}, the model expects {shape}")
    if config.backbone.is_packed or "pixel_values" not in batch:
        return  # `plan` compares the image tokens with the grids
    images, num_tokens = len(batch["pixel_values"]), config.backbone.num_image_tokens
    found = int((batch["input_ids"] == config.backbone.image_token_id).sum())
    if images == 0 or found != images * num_tokens:
        raise ValueError(
            f"input_ids: {found} image tokens for {images} images, expected {num_tokens} per image and at "
            "least one image"
        )


def _pixel_shape(config: Gr00tConfig, batch: Batch) -> tuple[int, ...]:
    if not config.backbone.is_packed:
        return len(batch["pixel_values"]), 3, config.image_size, config.image_size
    grid = batch.get("image_grid")
    if grid is None or grid.ndim != 2 or grid.shape[1] != 2:
        found = "nothing" if grid is None else f"shape {tuple(grid.shape)}"
        raise ValueError(f"image_grid: {found}, the model expects rows and columns of patches per image, (I, 2)")
    return int(grid.prod(1).sum()), config.backbone.vision.patch_dim
