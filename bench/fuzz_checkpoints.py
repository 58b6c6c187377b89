# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Damaged checkpoints for `gr00t_checkpoint` and for loading with the first inference.

One file of a tiny checkpoint is changed: a value in its JSON, the header or bytes of its weights, or the whole file.
Where `verify` reports no fault, loading must work, and the other way round.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench import REPOSITORY
from bench.fuzz_trees import mutate_bytes, mutate_tree, replace_file
from gr00t_test_support.builders import make_checkpoint, make_embodiment
from gr00t_test_support.reference_files import find_reference_files
from gr00t_training.checkpoint.audit import audit_checkpoint
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.cli import checkpoint as command
from gr00t_training.cli.command import EXIT_BUG, run_command
from gr00t_training.errors import CheckpointError, Gr00tError
from gr00t_training.model.config import Gr00tConfig
from gr00t_training.model.families import variants
from gr00t_training.policy.policy import Policy
from gr00t_training.transforms.observation import resting_observation

LIBERO = "libero_sim"


def prepare(scratch: Path) -> dict[str, str | None]:
    """Make tiny checkpoints: two of N1 and one of N1.7; folder -> tag to run."""
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    embodiment = make_embodiment(size=(32, 32))
    whole = make_checkpoint(scratch / "whole", embodiment, config=_tiny())
    shards = make_checkpoint(scratch / "shards", embodiment, config=_tiny(), max_shard_bytes=100_000)
    found: dict[str, str | None] = {str(whole): None, str(shards): None}
    n1_7_tiny = find_reference_files("fixtures", "GR00T_FIXTURES", REPOSITORY) / "n1_7_tiny"
    found[str(_copied(n1_7_tiny, scratch / "n1_7"))] = LIBERO
    for folder, tag in found.items():
        assert _agree(Path(folder), tag) == 0  # what is imported and prepared once is not to be paid by every case
    return found


def case(
    context: dict[str, str | None], rng: random.Random, folder: Path
) -> Iterator[tuple[str, Callable[[], int | None]]]:
    """Damage one file of a copy; run one command, and compare `verify` with loading."""
    source = rng.choice([source for source, tag in context.items() for _ in range(1 if tag else 3)])  # N1.7 is slow
    copy = Path(shutil.copytree(source, folder / "copy"))
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    file = rng.choice(files)
    _damage(file, rng)
    output = folder / "out"
    tag = context[source]
    words = rng.choice(
        [
            ["inspect", copy],
            ["inspect", "--json", copy],
            ["verify", "--json", copy],
            ["convert", copy, output, "--dtype", "bf16"],
            ["embodiment", copy, tag or "new_embodiment"],
        ]
    )
    yield f"{words[0]} {file.name}", lambda: command.main([str(word) for word in words])
    yield f"agree {file.name}", lambda: run_command("agree", lambda: _agree(copy, tag))


def _tiny() -> Gr00tConfig:
    compact = variants()["n1_compact"].config
    backbone, head = compact.backbone, compact.action_head
    vision = dataclasses.replace(
        backbone.vision, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2, image_size=56
    )
    language = dataclasses.replace(backbone.language, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2)
    dit = dataclasses.replace(head.dit, num_heads=2, head_dim=8, num_layers=2, output_dim=16)
    return dataclasses.replace(
        compact,
        backbone=dataclasses.replace(backbone, vision=vision, language=language, select_layer=1, projector_dim=16),
        action_head=dataclasses.replace(head, dit=dit, hidden_size=16),
    )


def _copied(source: Path, target: Path) -> Path:
    """Copy what the suite reads of a published folder."""
    (target / "backbone").mkdir(parents=True)
    names = ("config.json", "processor_config.json", "statistics.json", "embodiment_id.json", "model.safetensors")
    for name in (*names, "backbone/config.json", "backbone/preprocessor_config.json", "backbone/tokenizer.json"):
        shutil.copyfile(source / name, target / name)
    return target


def _damage(file: Path, rng: random.Random) -> None:
    content = file.read_bytes()
    draw = rng.random()
    if draw < 0.08:
        replace_file(file, rng)
    elif draw < 0.3:
        if file.suffix == ".safetensors" and rng.random() < 0.5:  # the header, where most bytes are weights
            length = int.from_bytes(content[:8], "little")
            file.write_bytes(mutate_bytes(content[: 8 + length], rng) + content[8 + length :])
        else:
            file.write_bytes(mutate_bytes(content, rng))
    elif file.suffix == ".safetensors":
        length = int.from_bytes(content[:8], "little")
        header = mutate_tree(json.loads(content[8 : 8 + length]), rng, rng.choice([1, 1, 2]))
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    else:
        file.write_text(json.dumps(mutate_tree(json.loads(content), rng, rng.choice([1, 1, 2, 4]))))


def _agree(folder: Path, tag: str | None) -> int:
    """Return `EXIT_BUG` where `verify` and loading disagree."""
    try:
        found = list(audit_checkpoint(find_folder(folder)))
        # only warned of: what may be passed instead, and embodiments that can be fine-tuned, not run
        warned = ("not in the folder", "it can be fine-tuned, not run")
        faults = [finding for finding in found if finding.is_fault or any(text in str(finding) for text in warned)]
    except CheckpointError as error:
        faults = [error]
    try:
        policy = Policy.from_checkpoint(folder, tag, device="cpu", denoising_steps=1, fps=20 if tag else None)
        policy.infer(resting_observation(policy.embodiment, "pick up the cube"))
    except Gr00tError as error:
        if not faults:
            print(f"loading fails, verify says nothing: {error}")
            return EXIT_BUG
        return 2
    if faults and not any(_of_another(str(fault), tag) for fault in faults):
        print(f"loading works, verify says: {faults[0]}")
        return EXIT_BUG
    return 0


def _of_another(fault: str, tag: str | None) -> bool:
    """Whether a fault concerns an embodiment that was not requested."""
    return tag is not None and tag not in fault
