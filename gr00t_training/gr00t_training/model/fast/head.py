# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Action head for inference: one embodiment and a fixed number of denoising steps.

Of the trained head remain the products that depend on observation or actions. Scales and shifts of the fixed time
buckets, the time half of the action encoder and products of two layers without a non-linearity between them are made
once; keys and values of all blocks of cross attention are one product per observation. Where the model was trained to
be given rows of a chunk (`rtc_max_delay`), each row chooses between scales, shifts and time code of the step and those
of finished actions, inside the kernel of the norm.

Letters in shapes: B batch, S backbone tokens, N heads, K width of a head, H horizon, R rows of state, L leading tokens,
A action channels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gr00t_training.model.action_head import ActionHead, CategoryLinear
from gr00t_training.model.dit import Attends, DitBlock, KeysValues
from gr00t_training.model.fast.kernels import add_norm, attend_few, linear_gelu, linear_relu, norm
from gr00t_training.model.fast.layers import (
    EncoderStack,
    Linear,
    SelfAttention,
    attention,
    join,
    linear_of,
    norm_of,
    weight_bytes,
)
from gr00t_training.model.fast.norms import Norm


@dataclass(frozen=True)
class Context:
    """What one kind of blocks of cross attention attends to."""

    keys_values: Sequence[KeysValues]  # per block (B, N, S, K)
    mask: Tensor | None  # (B, 1, 1, S) bool; None: everything


@dataclass(frozen=True)
class Places:
    """Which of the backbone's tokens blocks attend to: a choice of places where all samples agree, else a mask."""

    tokens: Tensor | None = None  # (S',) places in every sample
    mask: Tensor | None = None  # (B, 1, 1, S) bool


@dataclass(frozen=True)
class _Block:
    attends: Attends
    attention: SelfAttention | None  # of the tokens to each other; None: cross attention
    query: Linear | None  # of cross attention
    out: Linear
    fc1: Linear
    fc2: Linear


@dataclass(frozen=True)
class _Choices:
    """Which rows have the time of finished actions: 1, others 0; int32."""

    rows: Tensor  # (B H,)
    tokens: Tensor  # (B T,)


class InferenceHead:
    """Actions from the backbone's features, for one embodiment."""

    def __init__(self, head: ActionHead, projector: int, num_steps: int) -> None:
        """Take the weights of a trained head.

        Args:
            head: in evaluation mode; its layers become views of joined weights.
            projector: row of the embodiment-specific tables.
            num_steps: denoising steps.
        """
        config = head.config
        self.config = config
        self.num_steps = num_steps
        self.takes_prefix = config.rtc_max_delay > 0
        self._num_heads, self._head_dim = config.dit.num_heads, config.dit.head_dim
        refiner = head.refiner
        has_norm = refiner is not None and isinstance(refiner.norm, nn.LayerNorm)
        self._context_norm = norm_of(refiner.norm) if has_norm else None  # type: ignore[union-attr, arg-type]
        has_blocks = refiner is not None and len(refiner.blocks) > 0
        self._refiner = EncoderStack(list(refiner.blocks), None) if has_blocks else None  # type: ignore[union-attr, arg-type]
        self._state = [_row(head.state_encoder.layer1, projector), _row(head.state_encoder.layer2, projector)]
        self._future = None if head.future_tokens is None else head.future_tokens.weight.detach()
        blocks: list[DitBlock] = list(head.dit.blocks)  # type: ignore[arg-type]
        self._kernel = blocks[0].attn1.kernel
        self._keys_values = {
            kind: join(*(layer for b in blocks if b.attends is kind for layer in (b.attn1.k_proj, b.attn1.v_proj)))
            for kind in dict.fromkeys(block.attends for block in blocks if block.is_cross)
        }
        self._blocks = [_block(block) for block in blocks]
        self._set_time(head)
        self._set_encoder(head, projector)
        self._set_decoder(head, projector)

    def num_bytes(self) -> int:
        """Return the bytes of weights that one chunk reads."""
        encoder = self._encoder_in.nbytes + self._encoder_out.nbytes
        step = weight_bytes(self._blocks, self._decoder_in, self._decoder_out) + encoder
        return weight_bytes(self._refiner, self._keys_values, self._state) + self.num_steps * step

    def context(self, features: Tensor, samples: int, places: Mapping[Attends, Places]) -> dict[Attends, Context]:
        """Return what the blocks of cross attention attend to.

        Args:
            features: rows `(B S, C)` of the backbone.
            samples: B.
            places: of text and of images; what is not in it attends to all tokens.
        """
        if self._context_norm is not None:
            features = norm(features, self._context_norm)
        if self._refiner is not None:
            features = self._refiner(features, samples)[0]
        contexts = {}
        for kind, layers in self._keys_values.items():
            rows, chosen = features, places.get(kind, Places())
            if chosen.tokens is not None:
                rows = features.view(samples, -1, features.shape[1])[:, chosen.tokens].flatten(0, 1)
            joined = layers(rows).view(samples, len(rows) // samples, -1, 2, self._num_heads, self._head_dim)
            heads = joined.permute(2, 3, 0, 4, 1, 5)  # (blocks, 2, B, N, S, K)
            contexts[kind] = Context([(pair[0], pair[1]) for pair in heads], chosen.mask)
        return contexts

    def sample(
        self,
        contexts: Mapping[Attends, Context],
        state: Tensor,
        start: Tensor,
        strength: Tensor,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Integrate the velocity; returns normalized actions `(B, H, A)`.

        Args:
            contexts: result of `context`.
            state: `(B, R, state_dim)`.
            start: `(B, H, A)` noise, or rows of an earlier chunk where it is continued.
            strength: `(H, 1)` or, by sample, `(B, H, 1)`: share of the velocity that each row follows; ones for a new
                chunk.
            prefix: `(H,)` or `(B, H)`, 1 at rows that are given, 0 elsewhere, for a model with `takes_prefix`; None:
                none is.
        """
        samples, horizon, channels = start.shape
        leading = self._leading_tokens(state)  # (B, L, D)
        chosen = None if prefix is None else self._choices(prefix, samples, leading.shape[1])
        scale = (strength / self.num_steps).expand(samples, -1, -1).reshape(-1, 1)  # (B H, 1)
        actions = start.reshape(-1, channels)
        for step in range(self.num_steps):
            tokens = self._encode(actions, step, samples, chosen)  # (B, H, D)
            rows = torch.cat([leading, tokens], 1).flatten(0, 1)
            rows = self._transform(rows, step, samples, contexts, chosen)  # (B T, D)
            last = rows.view(samples, -1, rows.shape[-1])[:, -horizon:].reshape(samples * horizon, -1)
            velocity = self._decode(last)
            actions = torch.addcmul(actions, velocity, scale)
        return actions.view(samples, horizon, channels)

    def _leading_tokens(self, state: Tensor) -> Tensor:
        first, second = self._state
        if self.config.state_history is not None:  # one token for all rows
            state = state.flatten(1)[:, None]
        samples, rows = state.shape[:2]
        hidden = linear_relu(state.flatten(0, 1), first.weight, first.bias)  # type: ignore[arg-type]
        tokens = second(hidden).view(samples, rows, -1)
        if self._future is None:
            return tokens
        return torch.cat([tokens, self._future.expand(samples, -1, -1)], 1)

    def _choices(self, prefix: Tensor, samples: int, num_leading: int) -> _Choices:
        if not self.takes_prefix:
            raise ValueError("prefix: given rows, but the model was trained without them")
        rows = prefix.int().expand(samples, -1)
        tokens = torch.cat([rows.new_zeros((samples, num_leading)), rows], 1)
        return _Choices(rows.flatten(), tokens.flatten())

    def _encode(self, actions: Tensor, step: int, samples: int, chosen: _Choices | None) -> Tensor:
        bias = self._encoder_bias[step]
        if self.takes_prefix:
            bias = bias[0] if chosen is None else bias[chosen.rows]
        hidden = F.silu(torch.addmm(bias, actions, self._encoder_in))
        tokens = torch.mm(hidden, self._encoder_out).view(samples, self.config.action_horizon, -1)
        return tokens + self._encoder_position

    def _transform(
        self, x: Tensor, step: int, samples: int, contexts: Mapping[Attends, Context], chosen: _Choices | None
    ) -> Tensor:
        """Map rows `(B T, D)` to the normed rows that the decoder takes."""
        norms = self._norms[step]
        if self.takes_prefix:
            norms = [_by_row(each, None if chosen is None else chosen.tokens) for each in norms]
        crossed = {kind: iter(context.keys_values) for kind, context in contexts.items()}
        h = norm(x, norms[0])
        for i, block in enumerate(self._blocks):
            if block.attention is not None:
                y = block.attention(h, samples)
            else:
                y = block.out.product(self._cross(h, block, next(crossed[block.attends]), contexts[block.attends].mask))
            x, h = add_norm(x, y, block.out.bias, self._plain_norm)
            y = block.fc2.product(linear_gelu(h, block.fc1.weight, block.fc1.bias))  # type: ignore[arg-type]
            x, h = add_norm(x, y, block.fc2.bias, norms[i + 1])
        return h

    def _cross(self, h: Tensor, block: _Block, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        """Map rows `(B T, D)` to what they find in the context, `(B T, N K)`."""
        k, v = keys_values
        query: Linear = block.query  # type: ignore[assignment]
        if mask is None and self._kernel == "sdpa":
            rows = attend_few(query.product(h), query.bias, k, v)
            if rows is not None:
                return rows
        q = query(h).view(len(k), -1, self._num_heads, self._head_dim).transpose(1, 2)
        return attention(q, k, v, kernel=self._kernel, mask=mask)

    def _decode(self, rows: Tensor) -> Tensor:
        hidden = linear_relu(rows, self._decoder_in.weight, self._decoder_in.bias)  # type: ignore[arg-type]
        return self._decoder_out(hidden)

    def _set_time(self, head: ActionHead) -> None:
        self._buckets = head.buckets(self.num_steps, head.state_encoder.layer1.W.device)
        if self.takes_prefix:
            self._buckets = torch.cat([self._buckets, self._buckets.new_tensor([head.finished_bucket])])
        with torch.no_grad():
            modulations = head.dit.modulations(self._buckets)  # per block and last, (N or N + 1, 1, 2 D)
        eps = self.config.dit.norm_eps
        self._plain_norm = Norm(None, None, eps)
        self._norms: list[list[Norm]] = []
        for step in range(self.num_steps):
            norms = []
            for modulation in modulations[:-1]:
                scale, shift = self._of_step(modulation[:, 0], step).chunk(2, -1)
                norms.append(Norm(1 + scale, shift.contiguous(), eps))
            shift, scale = self._of_step(modulations[-1][:, 0], step).chunk(2, -1)
            norms.append(Norm(1 + scale, shift.contiguous(), 1e-6))
            self._norms.append(norms)

    def _of_step(self, table: Tensor, step: int) -> Tensor:
        """Return what a step uses of a table by bucket: `(D,)`, or with that of finished rows `(2, D)`."""
        return table[[step, self.num_steps]] if self.takes_prefix else table[step]

    def _set_encoder(self, head: ActionHead, projector: int) -> None:
        encoder, horizon = head.action_encoder, self.config.action_horizon
        w1, w2, w3 = (_wide(layer, projector) for layer in (encoder.W1, encoder.W2, encoder.W3))
        dtype, width = encoder.W1.W.dtype, w1[0].shape[1]
        codes = head.time_codes(self._buckets)[:, 0].double()  # (N or N + 1, D)
        upper, lower = w2[0][:width], w2[0][width:]
        self._encoder_in = (w1[0] @ upper).to(dtype)  # (A, D)
        bias = (w1[1] @ upper + codes @ lower + w2[1]).to(dtype)  # (N or N + 1, D)
        self._encoder_bias = [self._of_step(bias, step) for step in range(self.num_steps)]
        self._encoder_out = encoder.W3.W.detach()[projector].contiguous()
        position = w3[1].expand(horizon, -1)
        if head.position_embedding is not None:
            position = position + head.position_embedding.weight.detach()[:horizon].double()
        self._encoder_position = position.to(dtype)

    def _set_decoder(self, head: ActionHead, projector: int) -> None:
        dtype = head.dit.proj_out_2.weight.dtype
        first = _wide(head.action_decoder.layer1, projector)
        product = head.dit.proj_out_2.weight.detach().double().t() @ first[0]  # (D, hidden)
        bias = head.dit.proj_out_2.bias.detach().double() @ first[0] + first[1]
        self._decoder_in = Linear(product.t().contiguous().to(dtype), bias.to(dtype))
        self._decoder_out = _row(head.action_decoder.layer2, projector)


def _by_row(norm: Norm, tokens: Tensor | None) -> Norm:
    """Return a norm of two choices with the choice of each row; None: the first for all."""
    if tokens is not None:
        return replace(norm, choice=tokens)
    weight, bias = norm.weight, norm.bias
    assert weight is not None and bias is not None
    return replace(norm, weight=weight[0], bias=bias[0])


def _block(block: DitBlock) -> _Block:
    own = None if block.is_cross else SelfAttention(block.attn1)
    query = linear_of(block.attn1.q_proj) if block.is_cross else None
    return _Block(
        block.attends, own, query, linear_of(block.attn1.out_proj), linear_of(block.ff.fc1), linear_of(block.ff.fc2)
    )


def _row(layer: CategoryLinear, projector: int) -> Linear:
    """Return one embodiment's layer, transposed to `(out, in)`."""
    return Linear(layer.W.detach()[projector].t().contiguous(), layer.b.detach()[projector].contiguous())


def _wide(layer: CategoryLinear, projector: int) -> tuple[Tensor, Tensor]:
    """Return one embodiment's weight `(in, out)` and bias in float64, to be multiplied with others."""
    return layer.W.detach()[projector].double(), layer.b.detach()[projector].double()
