# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Flow-matching action head (arXiv 2503.14734, section 2.1): encoders per embodiment, loss and sampler.

Time runs from 0 (noise) to 1 (actions).

Letters in shapes: B batch, S backbone tokens, H horizon, R rows of state, L leading tokens (state, future), A action
channels, D width, N denoising steps or samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import ActionHeadConfig, RefinerConfig
from gr00t_training.model.dit import ContextMasks, Dit, KeysValues
from gr00t_training.model.layers import EncoderBlock
from gr00t_training.model.sampler import Inpainting, integrate


class ActionHead(nn.Module):
    """State, noisy actions and backbone features in; velocity towards the actions out."""

    def __init__(self, config: ActionHeadConfig, context_dim: int, *, kernel: str) -> None:
        super().__init__()
        self.config = config
        width, hidden, num = config.dit.width, config.hidden_size, config.num_embodiments
        self.refiner = FeatureRefiner(config.refiner, context_dim, kernel=kernel) if config.refiner else None
        self.state_encoder = CategoryMlp(num, config.state_dim * (config.state_history or 1), hidden, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if config.has_mask_token else None
        self.action_encoder = ActionEncoder(num, config.action_dim, width)
        self.dit = Dit(config.dit, context_dim, kernel=kernel)
        self.action_decoder = CategoryMlp(num, config.dit.output_dim, hidden, config.action_dim)
        self.position_embedding = nn.Embedding(config.max_positions, width) if config.add_position_embedding else None
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=0.02)
        self.future_tokens = nn.Embedding(config.num_future_tokens, width) if config.num_future_tokens else None
        if self.future_tokens is not None:
            nn.init.normal_(self.future_tokens.weight, std=0.02)

    def loss(
        self,
        features: Tensor,
        state: Tensor,
        actions: Tensor,
        action_mask: Tensor,
        embodiment_id: Tensor,
        noise: Tensor,
        time: Tensor,
        *,
        masks: ContextMasks | None = None,
        drops_state: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error of the velocity over the channels that `action_mask` marks.

        Args:
            features: `(B, S, D)` of the backbone.
            state: `(B, R, state_dim)`.
            actions: `(B, H, A)` normalised targets.
            action_mask: `(B, H, A)`, 1 at real channels.
            embodiment_id: `(B,)` integers.
            noise: `(B, H, A)` standard normal.
            time: `(B,)` in about [0, 1].
            masks: of text and images, see `Dit.forward`.
            drops_state: `(B,)` bool, samples whose state is hidden; None: drawn.
        """
        t = time[:, None, None]
        noisy = (1 - t) * noise + t * actions
        bucket = (time * self.config.num_time_buckets).long()
        state_tokens = self._disturbed(self._state_tokens(state, embodiment_id), drops_state)
        velocity = self._velocity(
            noisy,
            self._leading_tokens(state_tokens),
            self.time_codes(bucket),
            self.dit.modulations(bucket),
            self._keys_values(features),
            embodiment_id,
            masks,
        )
        mask = action_mask.float()
        squares = (velocity.float() - (actions - noise).float()) ** 2 * mask
        return squares.sum() / (mask.sum() + self.config.loss_epsilon)

    def sample(
        self,
        features: Tensor,
        state: Tensor,
        embodiment_id: Tensor,
        noise: Tensor,
        num_steps: int,
        *,
        masks: ContextMasks | None = None,
        inpainting: Inpainting | None = None,
    ) -> Tensor:
        """Integrate the velocity from `noise` `(B, H, A)` in `num_steps` Euler steps; returns `(B, H, A)`.

        Args:
            features: `(B, S, D)` of the backbone.
            state: `(B, R, state_dim)`.
            embodiment_id: `(B,)` integers.
            noise: standard normal.
            num_steps: of the integration.
            masks: of text and images, see `Dit.forward`.
            inpainting: an earlier chunk to continue; None: a chunk of its own.

        Raises:
            ValueError: the earlier chunk does not fit.
        """
        bucket = self.buckets(num_steps, noise.device)
        codes, modulations = self.time_codes(bucket), self.dit.modulations(bucket)
        leading = self._leading_tokens(self._state_tokens(state, embodiment_id))
        keys_values = self._keys_values(features)

        def velocity(actions: Tensor, step: int) -> Tensor:
            at = slice(step, step + 1)
            return self._velocity(
                actions, leading, codes[at], [m[at] for m in modulations], keys_values, embodiment_id, masks
            )

        return integrate(velocity, noise, num_steps, inpainting)

    def buckets(self, num_steps: int, device: torch.device) -> Tensor:
        """Return the time buckets `(N,)` of the sampler's steps; 0, 250, 500, 750 for four of them."""
        # float64 gives the release's integers
        starts = torch.arange(num_steps, dtype=torch.float64, device=device) / num_steps
        return (starts * self.config.num_time_buckets).long()

    def sample_time(self, count: int, device: torch.device) -> Tensor:
        """Draw `count` training times; noise-heavy ones more often (arXiv 2410.24164, appendix B)."""
        s = torch.distributions.Beta(self.config.noise_alpha, self.config.noise_beta).sample((count,)).to(device)
        if self.config.scales_time:
            return (1 - s) * self.config.noise_s
        return (self.config.noise_s - s) / self.config.noise_s

    def _state_tokens(self, state: Tensor, embodiment_id: Tensor) -> Tensor:
        """Return a token for all rows of the state, or one for each, `(B, 1 or R, D)`."""
        if self.config.state_history is not None:
            state = state.flatten(1)[:, None]
        return self.state_encoder(state, embodiment_id)

    def _disturbed(self, tokens: Tensor, dropped: Tensor | None) -> Tensor:
        """Hide the state of the samples that `dropped` `(B,)` marks, of some samples where it is None; add noise."""
        share = self.config.state_dropout
        # the release draws a learned token in evaluation mode too, zeros in training only
        if dropped is None and share and (self.training or self.mask_token is not None):
            dropped = torch.rand(len(tokens), device=tokens.device) < share
        if dropped is not None:
            hidden = torch.zeros_like(tokens[:1, :1]) if self.mask_token is None else self.mask_token
            tokens = torch.where(dropped[:, None, None], hidden.to(tokens.dtype), tokens)
        if self.training and self.config.state_noise:
            tokens = tokens + self.config.state_noise * torch.randn_like(tokens)
        return tokens

    def _leading_tokens(self, state_tokens: Tensor) -> Tensor:
        """Return the tokens before those of the actions, `(B, L, D)`."""
        if self.future_tokens is None:
            return state_tokens
        return torch.cat([state_tokens, self.future_tokens.weight.expand(len(state_tokens), -1, -1)], 1)

    def _keys_values(self, features: Tensor) -> list[KeysValues | None]:
        return self.dit.keys_values(features if self.refiner is None else self.refiner(features))

    def _velocity(
        self,
        actions: Tensor,
        leading: Tensor,
        time_codes: Tensor,
        modulations: list[Tensor],
        keys_values: list[KeysValues | None],
        embodiment_id: Tensor,
        masks: ContextMasks | None = None,
    ) -> Tensor:
        horizon = actions.shape[1]
        x = self.action_encoder(actions, time_codes, embodiment_id)  # (B, H, D)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[:horizon]
        x = self.dit(torch.cat([leading, x], 1), keys_values, modulations, masks)  # (B, L + H, output_dim)
        return self.action_decoder(x[:, -horizon:], embodiment_id)

    def time_codes(self, bucket: Tensor) -> Tensor:
        """Return sinusoids `(N, 1, D)` of integer buckets `(N,)`."""
        half = self.config.dit.width // 2
        steps = torch.arange(half, dtype=torch.float32, device=bucket.device)
        angles = bucket[:, None, None] * torch.exp(-math.log(10000) / half * steps)
        code = torch.cat([angles.sin(), angles.cos()], -1)  # sines first, unlike in the transformer's embedding
        return code.to(self.action_encoder.W1.W.dtype)


class FeatureRefiner(nn.Module):
    """Norm and self attention over the backbone's features; rows of padding take part."""

    def __init__(self, config: RefinerConfig, width: int, *, kernel: str) -> None:
        """Make the layers; `width` is that of the features."""
        super().__init__()
        self.norm = nn.LayerNorm(width) if config.has_norm else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                EncoderBlock(
                    width,
                    config.num_heads,
                    4 * width,
                    norm_eps=1e-5,
                    kernel=kernel,
                    dropout=config.dropout,
                    final_dropout=config.final_dropout,
                )
                for _ in range(config.num_layers)
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, S, D)` to `(B, S, D)`."""
        return self.blocks(self.norm(features))


class CategoryLinear(nn.Module):
    """A linear layer per embodiment."""

    def __init__(self, num_categories: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        # the release starts from 0.02 at widths of 1024 and more; narrow models hardly learn from so little
        self.W = nn.Parameter(in_dim**-0.5 * torch.randn(num_categories, in_dim, out_dim))
        self.b = nn.Parameter(torch.zeros(num_categories, out_dim))

    def forward(self, x: Tensor, category: Tensor) -> Tensor:
        """Map `(B, T, in)` to `(B, T, out)` with the layer of each sample's `category` `(B,)`."""
        return torch.bmm(x, self.W[category]) + self.b[category][:, None]


class CategoryMlp(nn.Module):
    """Linear, ReLU, linear per embodiment."""

    def __init__(self, num_categories: int, in_dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.layer1 = CategoryLinear(num_categories, in_dim, hidden)
        self.layer2 = CategoryLinear(num_categories, hidden, out_dim)

    def forward(self, x: Tensor, category: Tensor) -> Tensor:
        """Map `(B, T, in)` to `(B, T, out)`."""
        return self.layer2(F.relu(self.layer1(x, category)), category)


class ActionEncoder(nn.Module):
    """Actions and time to tokens, per embodiment."""

    def __init__(self, num_categories: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.W1 = CategoryLinear(num_categories, action_dim, width)
        self.W2 = CategoryLinear(num_categories, 2 * width, width)
        self.W3 = CategoryLinear(num_categories, width, width)

    def forward(self, actions: Tensor, time_codes: Tensor, category: Tensor) -> Tensor:
        """Map `(B, H, A)` and time codes `(B or 1, 1, D)` to `(B, H, D)`."""
        x = self.W1(actions, category)
        x = torch.cat([x, time_codes.to(x.dtype).expand_as(x)], -1)
        return self.W3(F.silu(self.W2(x, category)), category)
