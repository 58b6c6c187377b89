# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_checkpoint`: show, check and convert folders with a model; start an embodiment file from one."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from gr00t_training.checkpoint.audit import audit_checkpoint
from gr00t_training.checkpoint.conversion import convert_checkpoint
from gr00t_training.checkpoint.folder import ASSUMED_FPS, read_folder
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.report import CheckpointReport, EmbodimentReport, KeyReport, describe_checkpoint
from gr00t_training.checkpoint.weight_files import LEROBOT_PREFIX, MAX_SHARD_BYTES
from gr00t_training.embodiment import Embodiment, VectorKey, to_mapping
from gr00t_training.errors import Gr00tError
from gr00t_training.published import data_config_names

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; return 0, 1 when `verify` found faults, 2 after an error on one line, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except Gr00tError as error:
        print(f"gr00t_checkpoint: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gr00t_checkpoint: interrupted", file=sys.stderr)
        return 130


def inspect(options: argparse.Namespace) -> int:
    """Print what a checkpoint holds."""
    report = describe_checkpoint(find_folder(options.path))
    if options.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        print("\n\n".join(["\n".join(_summary(report)), _parts_table(report), *map(_embodiment, report.embodiments)]))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Print what is wrong with a checkpoint; return 1 when there is a fault."""
    path = find_folder(options.path)
    findings = []
    for finding in audit_checkpoint(path, reads_values=options.full):
        findings.append(finding)
        if not options.json:
            print(finding, flush=True)
    faults = sum(finding.is_fault for finding in findings)
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print(f"{path}: {_plural(faults, 'fault')}, {_plural(len(findings) - faults, 'warning')}")
    return 1 if faults else 0


def convert(options: argparse.Namespace) -> int:
    """Write a converted copy of a checkpoint."""
    path = convert_checkpoint(
        find_folder(options.path),
        options.output,
        dtype=DTYPES.get(options.dtype),
        tags=options.embodiment,
        max_shard_bytes=options.max_shard_bytes,
        prefix=options.prefix_strip,
    )
    print(f"saved {path}")
    return 0


def embodiment(options: argparse.Namespace) -> int:
    """Print the embodiment of a tag as YAML, to be completed for the robot."""
    folder = read_folder(find_folder(options.path))
    tag = folder.resolve(options.tag)
    derived = folder.derive(tag, data_config=options.data_config, fps=options.fps)
    print(
        f"# Embodiment of tag '{tag}', read from {folder.path}.\n"
        "# The checkpoint does not tell everything. Complete, without changing keys, their order or normalization:\n"
        "#   names    channel names in order; joint names where channels are joints\n"
        "#   unit     of every channel (SI; joints in radians)\n"
        "#   video    height and width as recorded [px]; 0: any, for running without recording\n"
        "#   fps      tick rate of the data that was trained on [Hz]"
    )
    print(yaml.safe_dump(_skeleton(derived), sort_keys=False, width=120, default_flow_style=None), end="")
    return 0


def _skeleton(embodiment: Embodiment) -> dict[str, Any]:
    """Return an embodiment as it would be written by hand: without settings that have their default."""
    content = to_mapping(embodiment)
    defaults = {field.name: field.default for field in dataclasses.fields(VectorKey) if field.name != "unit"}
    for kind in ("state", "action"):
        content[kind] = {
            key: {name: value for name, value in vector.items() if value != defaults.get(name, dataclasses.MISSING)}
            for key, vector in content[kind].items()
        }
    return {name: value for name, value in content.items() if value != ""}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gr00t_checkpoint", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Callable[[argparse.Namespace], int], name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("path", help="Folder of the checkpoint, or hub id: org/name[/folder][@revision].")
        command.set_defaults(run=run)
        return command

    command = add(inspect, "inspect", "Show family, sizes, weights, embodiments and tokenizer; reads no weights.")
    command.add_argument("--json", action="store_true", help="Print JSON.")
    command = add(verify, "verify", "Hold weights against config.json and statistics against embodiments; 1: faults.")
    command.add_argument("--full", action="store_true", help="Read all weights and look for NaN and infinity.")
    command.add_argument("--json", action="store_true", help="Print JSON.")
    command = add(convert, "convert", "Copy with another type, other shards or fewer embodiments.")
    command.add_argument("output", type=Path, help="Folder to make; must not exist.")
    command.add_argument("--dtype", choices=list(DTYPES), help="Type of the weights (default: as they are).")
    command.add_argument("--embodiment", metavar="TAG", nargs="+", default=[], help="Tags to keep (default: all).")
    command.add_argument(
        "--max-shard-bytes",
        type=int,
        default=MAX_SHARD_BYTES,
        help=f"Largest weight file [bytes] (default: {MAX_SHARD_BYTES}).",
    )
    command.add_argument(
        "--prefix-strip",
        metavar="PREFIX",
        default=LEROBOT_PREFIX,
        help=f"Taken off the weights' names where all have it (default: {LEROBOT_PREFIX}, of LeRobot).",
    )
    command = add(embodiment, "embodiment", "Print an embodiment file for a robot, to be completed by hand.")
    command.add_argument("tag", help="Embodiment tag or its public name, in any case.")
    command.add_argument(
        "--data-config",
        choices=data_config_names(),
        metavar="NAME",
        help="N1, N1.5: which keys the model uses, where several would fit.",
    )
    command.add_argument(
        "--fps", type=int, help=f"Tick rate of the training data [Hz], where not told (default: {ASSUMED_FPS})."
    )
    return parser


def _summary(report: CheckpointReport) -> list[str]:
    sizes, parts = report.sizes, report.parts
    dtypes = sorted({dtype for part in parts for dtype in part.dtypes})
    parameters, size = sum(part.num_parameters for part in parts), _size(sum(part.num_bytes for part in parts))
    refiner = f"{sizes['refiner_layers']} layers of self-attention, " if sizes["refiner_layers"] else ""
    texts = {
        "folder": report.path,
        "family": f"{report.family} ({report.model_type})",
        "weights": f"{parameters:,} parameters, {size}, {', '.join(dtypes)}, {_plural(len(report.files), 'file')}",
        "vision": f"{sizes['vision_layers']} layers of {sizes['vision_width']}",
        "language": "{language_layers} layers of {language_width}, vocabulary {vocabulary}".format(**sizes),
        "action head": f"{refiner}{sizes['diffusion_layers']} diffusion layers of {sizes['diffusion_width']}",
        "sampler": f"{sizes['denoising_steps']} steps, horizon {sizes['action_horizon']}",
        "room for": "state {state_dim}, action {action_dim}, {num_embodiments} embodiments".format(**sizes),
        "tokenizer": report.tokenizer or f"none here; needs the tokenizer.json of {report.tokenizer_source}",
    }
    if report.options:
        shown = {key: value for key, value in report.options.items() if value not in (None, False, "")}
        texts["transforms"] = ", ".join(f"{key} {_option(value)}" for key, value in shown.items())
    if report.versions:
        texts["written by"] = ", ".join(f"{key} {value}" for key, value in report.versions.items())
    # hyphens and long words stay: names are copied from here
    lines = [
        textwrap.wrap(text, 100, break_on_hyphens=False, break_long_words=False) or [""] for text in texts.values()
    ]
    return [f"{label:12} " + ("\n" + 13 * " ").join(line) for label, line in zip(texts, lines, strict=True)]


def _parts_table(report: CheckpointReport) -> str:
    rows = [
        [part.name, f"{part.num_tensors}", f"{part.num_parameters:,}", _size(part.num_bytes), " ".join(part.dtypes)]
        for part in report.parts
    ]
    return _table(["part", ">tensors", ">parameters", ">size", "type"], rows)


def _embodiment(report: EmbodimentReport) -> str:
    facts = [
        f"projector {'none' if report.projector is None else report.projector}",
        f"horizon {report.action_horizon}" if report.action_horizon else "",
        f"{report.fps} Hz" if report.fps else "",
        f"video at {report.video_history}" if report.video_history not in ([], [0]) else "",
        f"state at {report.state_history}" if report.state_history not in ([], [0]) else "",
        f"language {report.language}" if report.language else "",
        f"trained here as '{report.name}'" if report.name else "",
        f"fitting data configurations: {', '.join(report.data_configs)}" if report.data_configs else "",
    ]
    lines = [f"embodiment {report.tag}: {', '.join(fact for fact in facts if fact)}"]
    if report.problem:
        lines.append(f"  incomplete: {report.problem}")
    if report.keys:
        columns = ["", "key", ">dim", "scaling", ">lowest", ">highest", "remarks"]
        lines.append(_table(columns, [_key_row(key) for key in report.keys], indent="  "))
    return "\n".join(lines)


def _key_row(key: KeyReport) -> list[str]:
    constant = f"{_plural(key.num_constant, 'constant channel')}" if key.num_constant else ""
    return [
        key.kind,
        key.key,
        "" if key.dim is None else str(key.dim),
        key.scaling,
        "" if key.lowest is None else f"{key.lowest:.4g}",
        "" if key.highest is None else f"{key.highest:.4g}",
        ", ".join(remark for remark in (key.form, constant) if remark),
    ]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "") -> str:
    """Align rows under their columns; those whose name starts with '>' to the right."""
    titles = [column.removeprefix(">") for column in columns]
    lines = [titles, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    aligned = [
        [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        for line in lines
    ]
    return "\n".join((indent + "  ".join(line)).rstrip() for line in aligned)


def _size(num_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes} B"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _option(value: Any) -> str:
    if value is True:
        return "on"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {number}" for key, number in value.items()) + ")"
    return str(value)


if __name__ == "__main__":
    raise SystemExit(main())
