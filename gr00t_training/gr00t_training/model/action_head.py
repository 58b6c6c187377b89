# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Flow-matching action head (arXiv 2503.14734, section 2.1): encoders per embodiment, loss and sampler.

Time runs from 0 (noise) to 1 (actions).

Letters in shapes: B batch, S backbone tokens, H horizon, F future tokens, A action channels, D width, N denoising steps
or samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import ActionHeadConfig, RefinerConfig
from gr00t_training.model.dit import Dit, KeysValues
from gr00t_training.model.layers import EncoderBlock


class ActionHead(nn.Module):
    """State, noisy actions and backbone features in; velocity towards the actions out."""

    def __init__(self, config: ActionHeadConfig, context_dim: int, *, kernel: str) -> None:
        super().__init__()
        self.config = config
        width, hidden, num = config.dit.width, config.hidden_size, config.num_embodiments
        self.refiner = FeatureRefiner(config.refiner, kernel=kernel) if config.refiner else None
        self.state_encoder = CategoryMlp(num, config.state_dim, hidden, width)
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
    ) -> Tensor:
        """Return the mean squared error of the velocity over the channels that `action_mask` marks.

        Args:
            features: `(B, S, D)` of the backbone.
            state: `(B, 1, state_dim)`.
            actions: `(B, H, A)` normalised targets.
            action_mask: `(B, H, A)`, 1 at real channels.
            embodiment_id: `(B,)` integers.
            noise: `(B, H, A)` standard normal.
            time: `(B,)` in about [0, 1].
        """
        t = time[:, None, None]
        noisy = (1 - t) * noise + t * actions
        bucket = (time * self.config.num_time_buckets).long()
        velocity = self._velocity(
            noisy,
            self._leading_tokens(state, embodiment_id),
            self._time_codes(bucket),
            self.dit.modulations(bucket),
            self._keys_values(features),
            embodiment_id,
        )
        squares = (velocity.float() - (actions - noise).float()) ** 2 * action_mask
        return squares.sum() / action_mask.sum()

    def sample(self, features: Tensor, state: Tensor, embodiment_id: Tensor, noise: Tensor, num_steps: int) -> Tensor:
        """Integrate the velocity from `noise` `(B, H, A)` in `num_steps` Euler steps; returns `(B, H, A)`."""
        # float64 gives the release's integers; 0, 250, 500, 750 for four steps
        starts = torch.arange(num_steps, dtype=torch.float64, device=noise.device) / num_steps
        bucket = (starts * self.config.num_time_buckets).long()  # (N,)
        codes, modulations = self._time_codes(bucket), self.dit.modulations(bucket)
        leading, keys_values = self._leading_tokens(state, embodiment_id), self._keys_values(features)
        actions = noise
        for k in range(num_steps):
            step = slice(k, k + 1)
            velocity = self._velocity(
                actions, leading, codes[step], [m[step] for m in modulations], keys_values, embodiment_id
            )
            actions = actions + velocity / num_steps
        return actions

    def sample_time(self, count: int, device: torch.device) -> Tensor:
        """Draw `count` training times; noise-heavy ones more often (arXiv 2410.24164, appendix B)."""
        s = torch.distributions.Beta(self.config.noise_alpha, self.config.noise_beta).sample((count,)).to(device)
        return (self.config.noise_s - s) / self.config.noise_s

    def _leading_tokens(self, state: Tensor, embodiment_id: Tensor) -> Tensor:
        """Return the tokens before those of the actions, `(B, 1 + F, D)` with F future tokens."""
        tokens = self.state_encoder(state, embodiment_id)  # (B, 1, D)
        if self.future_tokens is None:
            return tokens
        return torch.cat([tokens, self.future_tokens.weight.expand(len(tokens), -1, -1)], 1)

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
    ) -> Tensor:
        horizon = actions.shape[1]
        x = self.action_encoder(actions, time_codes, embodiment_id)  # (B, H, D)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[:horizon]
        x = self.dit(torch.cat([leading, x], 1), keys_values, modulations)  # (B, 1 + F + H, output_dim)
        return self.action_decoder(x[:, -horizon:], embodiment_id)

    def _time_codes(self, bucket: Tensor) -> Tensor:
        """Return sinusoids `(N, 1, D)` of integer buckets `(N,)`."""
        half = self.config.dit.width // 2
        steps = torch.arange(half, dtype=torch.float32, device=bucket.device)
        angles = bucket[:, None, None] * torch.exp(-math.log(10000) / half * steps)
        code = torch.cat([angles.sin(), angles.cos()], -1)  # sines first, unlike in the transformer's embedding
        return code.to(self.action_encoder.W1.W.dtype)


class FeatureRefiner(nn.Module):
    """Norm and self attention over the backbone's features (N1.5); rows of padding take part."""

    def __init__(self, config: RefinerConfig, *, kernel: str) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
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
