# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Published names of the weights and ours: one table per family, read in both directions.

A row maps the beginning of a name; what follows (`.weight`, `.layer_norm1.bias`) is the same on both sides. `#` stands
for a number, the same on both sides.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from gr00t_training.errors import CheckpointError

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 5  # of a long list in an error


@dataclass(frozen=True)
class NameTable:
    """Names of one model family."""

    rows: tuple[tuple[str, str], ...]  # (published, ours)
    ignored: tuple[str, ...] = ()  # published beginnings of weights that no action needs

    def to_ours(self, published: str) -> str | None:
        """Return our name; None for a weight that the model has not."""
        return _rename(published, self.rows)

    def to_published(self, ours: str) -> str:
        """Return the published name; KeyError if the table lacks it."""
        name = _rename(ours, [(own, published) for published, own in self.rows])
        if name is None:
            raise KeyError(f"{ours}: no row of the table of published names covers it")
        return name


_VISION = "backbone.model.vision_model.vision_model"
_LANGUAGE = "backbone.model.language_model.model"
_BLOCK, _OUR_BLOCK = "action_head.model.transformer_blocks.#", "action_head.dit.blocks.#"

N1_NAMES = NameTable(
    rows=(
        (f"{_VISION}.embeddings.patch_embedding", "backbone.vision.patch_embedding"),
        (f"{_VISION}.embeddings.position_embedding", "backbone.vision.position_embedding"),
        (f"{_VISION}.encoder.layers.#", "backbone.vision.layers.#"),
        (f"{_VISION}.post_layernorm", "backbone.vision.post_layernorm"),
        ("backbone.model.mlp1", "backbone.connector"),
        (f"{_LANGUAGE}.embed_tokens", "backbone.language.embed_tokens"),
        (f"{_LANGUAGE}.layers.#.input_layernorm", "backbone.language.layers.#.input_layernorm"),
        (f"{_LANGUAGE}.layers.#.self_attn.q_proj", "backbone.language.layers.#.self_attn.q_proj"),
        (f"{_LANGUAGE}.layers.#.self_attn.k_proj", "backbone.language.layers.#.self_attn.k_proj"),
        (f"{_LANGUAGE}.layers.#.self_attn.v_proj", "backbone.language.layers.#.self_attn.v_proj"),
        (f"{_LANGUAGE}.layers.#.self_attn.o_proj", "backbone.language.layers.#.self_attn.out_proj"),
        (f"{_LANGUAGE}.layers.#.post_attention_layernorm", "backbone.language.layers.#.post_attention_layernorm"),
        (f"{_LANGUAGE}.layers.#.mlp", "backbone.language.layers.#.mlp"),
        (f"{_LANGUAGE}.norm", "backbone.language.norm"),
        ("backbone.linear", "backbone.linear"),
        ("action_head.state_encoder", "action_head.state_encoder"),
        ("action_head.action_encoder", "action_head.action_encoder"),
        ("action_head.action_decoder", "action_head.action_decoder"),
        ("action_head.position_embedding", "action_head.position_embedding"),
        ("action_head.model.timestep_encoder.timestep_embedder", "action_head.dit.timestep"),
        (f"{_BLOCK}.norm1.linear", f"{_OUR_BLOCK}.norm1_linear"),
        (f"{_BLOCK}.attn1.to_q", f"{_OUR_BLOCK}.attn1.q_proj"),
        (f"{_BLOCK}.attn1.to_k", f"{_OUR_BLOCK}.attn1.k_proj"),
        (f"{_BLOCK}.attn1.to_v", f"{_OUR_BLOCK}.attn1.v_proj"),
        (f"{_BLOCK}.attn1.to_out.0", f"{_OUR_BLOCK}.attn1.out_proj"),
        (f"{_BLOCK}.ff.net.0.proj", f"{_OUR_BLOCK}.ff.fc1"),
        (f"{_BLOCK}.ff.net.2", f"{_OUR_BLOCK}.ff.fc2"),
        ("action_head.model.proj_out_1", "action_head.dit.proj_out_1"),
        ("action_head.model.proj_out_2", "action_head.dit.proj_out_2"),
    ),
    ignored=("action_head.decode_layer",),
)


def published_weights(model: nn.Module, table: NameTable) -> dict[str, Tensor]:
    """Return the weights under their published names."""
    return {table.to_published(name): weight for name, weight in model.state_dict().items()}


def assign_weights(model: nn.Module, weights: Mapping[str, Tensor], table: NameTable, source: str) -> None:
    """Put weights with published names into `model`, which may lie on the meta device; they are not copied.

    Weights that the model has not are ignored, with a warning unless the table expects them.

    Args:
        model: receives the weights, in their own dtype and on their own device.
        weights: published name -> tensor.
        table: of the model's family.
        source: names the weights in errors.

    Raises:
        CheckpointError: weights are missing or have another shape; names them.
    """
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    ours = {name: weight for published, weight in weights.items() if (name := table.to_ours(published)) in shapes}
    missing = [table.to_published(name) for name in shapes if name not in ours]
    if missing:
        raise CheckpointError(
            f"{source}: {len(missing)} of {len(shapes)} weights are missing: {_listing(missing)}; "
            "the file is incomplete or of another model"
        )
    wrong = [
        f"{table.to_published(name)} is {tuple(weight.shape)}, expected {tuple(shapes[name])}"
        for name, weight in ours.items()
        if weight.shape != shapes[name]
    ]
    if wrong:
        raise CheckpointError(
            f"{source}: weights do not fit config.json: {_listing(wrong)}; the two are of different models"
        )
    extra = [name for name in weights if table.to_ours(name) not in shapes and not name.startswith(table.ignored)]
    if extra:
        logger.warning("%s: ignoring %d unknown weights: %s", source, len(extra), _listing(extra))
    model.load_state_dict(ours, assign=True)  # type: ignore[arg-type]


def _rename(name: str, rows: Iterable[tuple[str, str]]) -> str | None:
    for beginning, replacement in rows:
        pattern = re.escape(beginning).replace(r"\#", r"(\d+)") + r"(?=\.|$)"
        if match := re.match(pattern, name):
            numbers = iter(match.groups())
            return re.sub("#", lambda _: next(numbers), replacement) + name[match.end() :]  # noqa: B023
    return None


def _listing(names: list[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
