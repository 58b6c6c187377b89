# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Recognize folders and files of other formats by their names, and say what to do with them.

Pickled weights are never loaded: a pickle can run any code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gr00t_training.checkpoint.files import ADAPTER_FILE, BASE_FILE, CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, place
from gr00t_training.errors import CheckpointError
from gr00t_training.io.json_text import read_json_object
from gr00t_training.io.text import printable

_SHOWN = 20  # of a long list in an error
_MOST_ENTRIES = 10_000  # of a folder that are read
_TO_SAFETENSORS = (
    "on a machine where you trust the file, load it with torch.load(file, map_location='cpu', weights_only=True) and "
    f"write it with safetensors.torch.save_file(weights, '{WEIGHTS_FILE}')"
)
_TRAINER_STATE = ("optimizer*", "scheduler*", "rng_state*", "trainer_state.*", "random_states_*", "scaler.pt")
# patterns of names, content of such a folder, what to do; the first match counts
_KINDS: Sequence[tuple[tuple[str, ...], str, str]] = (
    (
        ("global_step*", "zero_to_fp32.py", "*_model_states.pt", "*_optim_states.pt"),
        "the state of a DeepSpeed run",
        "run 'python zero_to_fp32.py . OUTPUT --safe_serialization' in it; put its weights next to config.json",
    ),
    (
        ("*.distcp", "pytorch_model_fsdp*", ".metadata"),
        "the shards of a distributed (FSDP) run",
        "run 'accelerate merge-weights FOLDER OUTPUT' and put the weights of OUTPUT next to config.json",
    ),
    (
        ("model-*-of-*.safetensors",),
        f"shards without {INDEX_FILE}",
        "copy the index from where the shards come from",
    ),
    (
        ("*.safetensors",),
        f"safetensors files of other names than {WEIGHTS_FILE}",
        f"rename the one with all weights of the model to {WEIGHTS_FILE}",
    ),
    (("*.engine", "*.plan", "*.trt"), "TensorRT engines", "pass the checkpoint that they were built from"),
    (("*.onnx",), "an ONNX export", "pass the checkpoint that it was exported from"),
    (("*.gguf", "*.ggml"), "quantized weights (GGUF)", "pass the checkpoint that they were made from"),
    (
        ("*.msgpack", "*.h5", "_CHECKPOINT_METADATA", "*.ckpt.index", "*.ckpt.data-*", "saved_model.pb"),
        "weights of JAX or TensorFlow",
        "pass a checkpoint with weights as safetensors",
    ),
    (_TRAINER_STATE, "the state of an optimizer, but no weights", "pass the checkpoint-N folder with the weights"),
    (
        ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.bin.index.json"),
        "pickled weights, which are not loaded (a pickle can run code)",
        _TO_SAFETENSORS,
    ),
    (("*.zip", "*.tar", "*.tgz", "*.gz", "*.zst", "*.7z"), "an archive", "unpack it and pass the folder"),
    (("*.mcap", "*.db3", "*.bag"), "a bag", "pass the folder of a checkpoint; gr00t_convert_bag reads bags"),
)


def recognized(folder: Path) -> str | None:
    """Return the message about a folder without usable weights: what was found and what to do.

    None: unknown content.
    """
    names = _names(folder)
    if BASE_FILE in names and CONFIG_FILE in names:  # an adapter of ours
        return None
    if ADAPTER_FILE in names or any(name.startswith("adapter_model.") for name in names):
        return _adapter_message(folder)
    if (folder / "meta" / "info.json").exists():
        return f"{folder}: is a dataset (meta/info.json), expected a checkpoint; pass it as dataset"
    nested = nested_checkpoints(folder)
    if nested:
        is_run = all(Path(name).match("checkpoint-*") for name in nested)
        missing = WEIGHTS_FILE if CONFIG_FILE in names else CONFIG_FILE
        return nested_message(folder, nested, f"{folder}/{nested[-1 if is_run else 0]}", missing)
    if {"blobs", "snapshots"} <= set(names):
        return f"{folder}: is the hub's cache of a repository; pass one of its folders in snapshots/, or the hub id"
    return _kind_message(str(folder), names)


def recognized_repository(path: str, names: Sequence[str]) -> str | None:
    """Return the message about a hub repository without usable weights, from its list of files."""
    if BASE_FILE in names:
        return None
    if ADAPTER_FILE in names:
        return (
            f"{path}: is an adapter (LoRA), not a whole model; merge it into its base model and pass the merged folder"
        )
    if "meta/info.json" in names:
        return f"{path}: is a dataset (meta/info.json), expected a checkpoint; pass it as dataset"
    return _kind_message(path, [Path(name).parts[0] for name in names if name])


def _kind_message(subject: str, names: Sequence[str]) -> str | None:
    states = _matching(names, _TRAINER_STATE)
    for patterns, what, remedy in _KINDS:
        found = _matching(names, patterns)
        if patterns is not _TRAINER_STATE:
            found = [name for name in found if name not in states]
        if found:
            shown = printable(", ".join(found[:3]))
            return f"{subject}: has no {WEIGHTS_FILE}, found {what} ({shown}); {remedy}"
    return None


def recognized_file(path: Path) -> str:
    """Return the message about a file that was passed instead of a checkpoint's folder."""
    for patterns, what, remedy in _KINDS:
        if _matching([path.name], patterns) and not path.name.endswith(".safetensors"):
            return f"{path}: is a file ({what}), expected the folder of a checkpoint; {remedy}"
    return f"{path}: is a file, expected the folder of a checkpoint; pass its folder"


def nested_checkpoints(folder: Path) -> list[str]:
    """Return the sub-folders, at most two levels down, that hold checkpoints; later ones of a run last."""
    found = {file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{CONFIG_FILE}")}
    nested = [str(sub.relative_to(folder)) for sub in found if any(sub.glob("*model*.safetensors"))]
    return sorted(nested, key=lambda name: [(int(part), "") if part.isdigit() else (-1, part) for part in _parts(name)])


def nested_message(path: str | Path, nested: Sequence[str], example: str, missing: str = CONFIG_FILE) -> str:
    """Return the message about a folder that holds checkpoints in `nested` sub-folders only."""
    more = len(nested) - _SHOWN
    names = ", ".join(nested[-_SHOWN:]) + (f" and {more} more" if more > 0 else "")
    return f"{path}: has no {missing}, but checkpoints in sub-folders: {names}; choose one, as in {example}"


def _adapter_message(folder: Path) -> str:
    base = "the model that it was trained on"
    if (folder / ADAPTER_FILE).exists():
        found = read_json_object(place(folder, ADAPTER_FILE), CheckpointError, "copy the adapter again")
        if isinstance(found.get("base_model_name_or_path"), str):
            base = printable(found["base_model_name_or_path"])
    return (
        f"{folder}: is an adapter (LoRA) of {base}, not a whole model; merge the two where it was trained: "
        "PeftModel.from_pretrained(base, FOLDER).merge_and_unload().save_pretrained(OUTPUT), copy the other files of "
        f"{base} to OUTPUT and pass that"
    )


def _names(folder: Path) -> list[str]:
    names = []
    try:
        for entry in folder.iterdir():
            names.append(entry.name)
            if len(names) == _MOST_ENTRIES:
                break
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror}); check path and permissions") from error
    return sorted(names)


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(Path(name).match(pattern) for pattern in patterns)]


def _parts(name: str) -> list[str]:
    return re.findall(r"\d+|\D+", name)
