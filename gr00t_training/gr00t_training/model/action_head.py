# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Flow-matching action head (arXiv 2503.14734, section 2.1): encoders per embodiment, loss and sampler.

Time runs from 0 (noise) to 1 (actions).

Letters in shapes: B batch, S backbone tokens, H horizon, R rows of state, L leading tokens (state, future), A action
channels, D width, N denoising steps or samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.config import ActionHeadConfig, RefinerConfig
from gr00t_training.model.dit import Dit, KeysValues
from gr00t_training.model.layers import NO_MASKS, ContextMasks, EncoderBlock
from gr00t_training.model.sampler import Inpainting, integrate


class ActionHead(nn.Module):
    """State, noisy actions and backbone features in; velocity towards the actions out."""

    def __init__(self, config: ActionHeadConfig, context_dim: int, *, kernel: str) -> None:
        super().__init__()
        self.config = config
        width, hidden, num = config.dit.width, config.hidden_size, config.num_embodiments
        self.refiner = FeatureRefiner(config.refiner, context_dim, kernel=kernel) if config.refiner else None
        self.state_encoder = CategoryMlp(num, config.state_dim * (config.state_history or 1), hidden, width)
        self.mask_token = _mask_token(width) if config.has_mask_token else None
        self.action_encoder = ActionEncoder(num, config.action_dim, width)
        self.dit = Dit(config.dit, context_dim, kernel=kernel)
        self.action_decoder = CategoryMlp(num, config.dit.output_dim, hidden, config.action_dim)
        self.position_embedding = nn.Embedding(config.max_positions, width) if config.add_position_embedding else None
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=0.02)
        self.future_tokens = nn.Embedding(config.num_future_tokens, width) if config.num_future_tokens else None
        if self.future_tokens is not None:
            nn.init.normal_(self.future_tokens.weight, std=0.02)
        self.register_buffer("_row_of", None, persistent=False)  # projector -> row of the tables that are kept

    def set_config(self, config: ActionHeadConfig) -> None:
        """Take a configuration of the same sizes; makes or removes the token of a hidden state."""
        if config.has_mask_token and self.mask_token is None:
            self.mask_token = nn.Parameter(_mask_token(config.dit.width).detach().to(self.action_encoder.W1.W))
        elif not config.has_mask_token:
            self.mask_token = None
        self.config = config

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only the layers of some embodiments; `embodiment_id` still names them as before.

        A fine-tune of one robot then neither stores gradients and optimizer state of the others' layers nor spends time
        on them: in N1 they are 37 % of what a head-only run trains.
        """
        index = torch.full((self.config.num_embodiments,), -1)
        index[list(rows)] = torch.arange(len(rows))
        for module in self.modules():
            if isinstance(module, CategoryLinear):
                for name, table in list(module.named_parameters(recurse=False)):
                    kept = nn.Parameter(table.detach()[list(rows)].clone(), requires_grad=table.requires_grad)
                    setattr(module, name, kept)
        self._row_of = index.to(self.state_encoder.layer1.W.device)

    def _rows(self, embodiment_id: Tensor) -> Tensor:
        return embodiment_id if self._row_of is None else self._row_of[embodiment_id]

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
        masks: ContextMasks = NO_MASKS,
        drops_state: Tensor | None = None,
        delay: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error of the velocity over the channels that `action_mask` marks.

        Where `rtc_max_delay` is set, a sample's first `delay` rows are given as they are: actions that a robot carries
        out while the model computes (training-time real-time chunking, arXiv 2512.05964, section 4). They have their
        own time, that of finished actions, and no loss.

        Args:
            features: `(B, S, D)` of the backbone.
            state: `(B, R, state_dim)`.
            actions: `(B, H, A)` normalized targets.
            action_mask: `(B, H, A)`, 1 at real channels.
            embodiment_id: `(B,)` integers.
            noise: `(B, H, A)` standard normal.
            time: `(B,)` in about [0, 1].
            masks: of the features, see `Dit.forward`.
            drops_state: `(B,)` bool, samples whose state is hidden; None: drawn.
            delay: `(B,)` whole numbers below H; None: drawn from 0 to `rtc_max_delay`, each as often.
        """
        embodiment_id = self._rows(embodiment_id)
        prefix, t = self._prefix(delay, actions), time[:, None, None]
        if prefix is not None:
            t = torch.where(prefix[..., None], 1.0, t)  # (B, H, 1)
        noisy = (1 - t) * noise + t * actions
        bucket = (time * self.config.num_time_buckets).long()
        state_tokens = self._disturbed(self._state_tokens(state, embodiment_id), drops_state)
        leading = self._leading_tokens(state_tokens)
        codes, modulations = self._times(bucket, prefix, leading.shape[1])
        keys_values = self._keys_values(features, masks)
        velocity = self._velocity(noisy, leading, codes, modulations, keys_values, embodiment_id, masks)
        mask = action_mask.float()
        if prefix is not None:
            mask = mask * ~prefix[..., None]
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
        masks: ContextMasks = NO_MASKS,
        inpainting: Inpainting | None = None,
    ) -> Tensor:
        """Integrate the velocity from `noise` `(B, H, A)` in `num_steps` Euler steps; returns `(B, H, A)`.

        Args:
            features: `(B, S, D)` of the backbone.
            state: `(B, R, state_dim)`.
            embodiment_id: `(B,)` integers.
            noise: standard normal.
            num_steps: of the integration.
            masks: of the features, see `Dit.forward`.
            inpainting: an earlier chunk to continue; None: an independent chunk.

        Raises:
            ValueError: the earlier chunk does not fit.
        """
        embodiment_id = self._rows(embodiment_id)
        bucket = self.buckets(num_steps, noise.device)
        leading = self._leading_tokens(self._state_tokens(state, embodiment_id))
        prefix = None
        if inpainting is not None and inpainting.is_prefix:
            prefix = inpainting.prefix(noise.shape[1])[None].to(noise.device)
        codes, modulations = self._times(bucket, prefix, leading.shape[1])
        keys_values = self._keys_values(features, masks)

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

    def draw_delay(self, count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw how many first rows of `count` training samples are given; None if the model is not trained so."""
        if not self.config.rtc_max_delay:
            return None
        return torch.randint(self.config.rtc_max_delay + 1, (count,), device=device, generator=generator)

    def draw_drops(self, count: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw which of `count` samples have their state hidden; None if none has."""
        share = self.config.state_dropout
        # the release draws a learned token in evaluation mode too, zeros in training only
        if not share or not (self.training or self.mask_token is not None):
            return None
        return torch.rand(count, device=device, generator=generator) < share

    def _prefix(self, delay: Tensor | None, actions: Tensor) -> Tensor | None:
        """Return which rows `(B, H)` bool of a training batch are given; None if the model is not trained so."""
        delay = self.draw_delay(len(actions), actions.device) if delay is None else delay
        if delay is None:
            return None
        return torch.arange(actions.shape[1], device=actions.device) < delay[:, None]

    def _times(self, bucket: Tensor, prefix: Tensor | None, num_leading: int) -> tuple[Tensor, list[Tensor]]:
        """Return what time buckets `(N,)` give: codes of the encoder and modulations of the transformer.

        The releases have one time per sample in both. With a prefix `(N or 1, H)` every action token has its own, in
        both too: the paper asks for it, and the adaptive norms would otherwise tell the transformer that given rows
        are noise. No weight depends on the number of times. State and future tokens keep the sampled time, which they
        have in the releases, so that a chunk without a prefix is computed as before.

        Args:
            bucket: of the rows that are not given.
            prefix: rows that are given; None: none, and the results have one row.
            num_leading: tokens before those of the actions.

        Returns:
            `(N, 1 or H, D)`, and per block and last for the output `(N, 1 or L + H, 2 D)`.
        """
        if prefix is None:
            return self.time_codes(bucket), self.dit.modulations(bucket)
        buckets = torch.cat([bucket, bucket.new_full((1,), self.finished_bucket)])
        codes, modulations = self.time_codes(buckets), self.dit.modulations(buckets)
        tokens = torch.cat([prefix.new_zeros(len(prefix), num_leading), prefix], 1)[..., None]  # (N or 1, L + H, 1)
        return (
            torch.where(prefix[..., None], codes[-1:], codes[:-1]),
            [torch.where(tokens, each[-1:], each[:-1]) for each in modulations],
        )

    @property
    def finished_bucket(self) -> int:
        """Time bucket of rows that are given: time 1, just behind the buckets of noisy ones."""
        return self.config.num_time_buckets

    def _state_tokens(self, state: Tensor, embodiment_id: Tensor) -> Tensor:
        """Return a token for all rows of the state, or one for each, `(B, 1 or R, D)`."""
        if self.config.state_history is not None:
            state = state.flatten(1)[:, None]
        return self.state_encoder(state, embodiment_id)

    def _disturbed(self, tokens: Tensor, dropped: Tensor | None) -> Tensor:
        """Hide the state of the samples that `dropped` `(B,)` marks, of some samples where it is None; add noise."""
        dropped = self.draw_drops(len(tokens), tokens.device) if dropped is None else dropped
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

    def _keys_values(self, features: Tensor, masks: ContextMasks) -> list[KeysValues | None]:
        if self.refiner is not None:
            features = self.refiner(features, masks.tokens)
        return self.dit.keys_values(features)

    def _velocity(
        self,
        actions: Tensor,
        leading: Tensor,
        time_codes: Tensor,
        modulations: list[Tensor],
        keys_values: list[KeysValues | None],
        embodiment_id: Tensor,
        masks: ContextMasks = NO_MASKS,
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


def _mask_token(width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(1, 1, width), std=0.02))


class FeatureRefiner(nn.Module):
    """Norm and self attention over the backbone's features; rows of padding take part unless a mask hides them."""

    def __init__(self, config: RefinerConfig, width: int, *, kernel: str) -> None:
        """Make the layers; `width` is that of the features."""
        super().__init__()
        self.norm = nn.LayerNorm(width) if config.has_norm else nn.Identity()
        self.blocks = nn.ModuleList(
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

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `(B, S, D)` to `(B, S, D)`; `mask`: `(B, 1, 1, S)` bool, False where nothing attends to."""
        x = self.norm(features)
        for block in self.blocks:
            x = block(x, mask=mask)
        return x


class CategoryLinear(nn.Module):
    """A linear layer per embodiment, or for some of them only (see `ActionHead.keep_rows`)."""

    def __init__(self, num_categories: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        # the release starts from 0.02 at widths of 1024 and more; narrow models hardly learn from so little
        self.W = nn.Parameter(nn.init.normal_(torch.empty(num_categories, in_dim, out_dim), std=in_dim**-0.5))
        self.b = nn.Parameter(torch.zeros(num_categories, out_dim))

    def forward(self, x: Tensor, category: Tensor) -> Tensor:
        """Map `(B, T, in)` to `(B, T, out)` with the layer of each sample's `category` `(B,)`."""
        if len(self.W) == 1:
            return x @ self.W[0] + self.b[0]
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
        """Map `(B, H, A)` and time codes `(B or 1, 1 or H, D)` to `(B, H, D)`."""
        x = self.W1(actions, category)
        x = torch.cat([x, time_codes.to(x.dtype).expand_as(x)], -1)
        return self.W3(F.silu(self.W2(x, category)), category)
