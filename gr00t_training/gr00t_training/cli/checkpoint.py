# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_checkpoint`: inspect, verify, convert, export and publish checkpoints; print an embodiment file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from gr00t_training.checkpoint.adapter import BASE_VARIABLE, is_adapter
from gr00t_training.checkpoint.audit import audit_checkpoint
from gr00t_training.checkpoint.card import make_card, write_card
from gr00t_training.checkpoint.conversion import convert_checkpoint
from gr00t_training.checkpoint.export import export_checkpoint, tags_of_its_own
from gr00t_training.checkpoint.folder import ASSUMED_FPS, read_folder
from gr00t_training.checkpoint.hub import find_folder
from gr00t_training.checkpoint.push import push_checkpoint, upload_bytes
from gr00t_training.checkpoint.report import CheckpointReport, EmbodimentReport, KeyReport, describe_checkpoint
from gr00t_training.checkpoint.training_run import CARD_FILE
from gr00t_training.checkpoint.weight_files import LEROBOT_PREFIX, MAX_SHARD_BYTES
from gr00t_training.cli.arguments import add, add_upload_options, positive_int
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.embodiment import Embodiment, VectorKey, to_mapping
from gr00t_training.errors import ConfigError
from gr00t_training.upstream import data_config_names

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return 0, 1 if `verify` found faults, or the code of `run_command`."""
    return run_command("gr00t_checkpoint", lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    return options.run(options)


def inspect(options: argparse.Namespace) -> int:
    """Print the contents of a checkpoint."""
    report = describe_checkpoint(find_folder(options.path))
    if options.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        print("\n\n".join(["\n".join(_summary(report)), _parts_table(report), *map(_embodiment, report.embodiments)]))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Print the faults of a checkpoint; return 1 if there are any."""
    path = find_folder(options.path)
    findings = []
    for finding in audit_checkpoint(path, reads_values=not options.quick):
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
    output = options.output or options.old_output
    if output is None:
        raise ConfigError("--output is missing; name the folder to write")
    path = convert_checkpoint(
        find_folder(options.path),
        output,
        dtype=DTYPES.get(options.dtype),
        tags=options.tags,
        max_shard_bytes=options.max_shard_bytes,
        prefix=options.prefix_strip,
    )
    print(f"saved {path}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a copy in NVIDIA's layout and verify it; return 1 if it has faults."""
    path = export_checkpoint(
        find_folder(options.path),
        options.output,
        base=find_folder(options.base) if options.base else None,
        dtype=DTYPES[options.dtype],
        max_shard_bytes=options.max_shard_bytes,
    )
    print(f"saved {path}")
    for tag in tags_of_its_own(path):
        print(f"warning: NVIDIA's code does not know tag '{tag}'; it runs under a tag of its own list only")
    faults = [finding for finding in audit_checkpoint(path, reads_values=False) if finding.is_fault]
    for finding in faults:
        print(finding)
    return 1 if faults else 0


def push(options: argparse.Namespace) -> int:
    """Upload a checkpoint to the Hugging Face Hub."""
    path = Path(options.path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder, expected a checkpoint of this machine; check the path")
    read_folder(find_folder(path))
    if write_card(path, make_card(path, options.repository)):
        print(f"wrote {path / CARD_FILE}")
    else:
        print(f"kept {path / CARD_FILE}, which was not written by this suite")
    if options.dry_run:
        print(f"would upload {_size(upload_bytes(path))} to {options.repository}")
        return 0
    print(f"uploaded to {push_checkpoint(path, options.repository, private=options.private, branch=options.branch)}")
    return 0


def merge(options: argparse.Namespace) -> int:
    """Write an adapter (LoRA) and its base as one checkpoint."""
    source = find_folder(options.path)
    if not is_adapter(source):
        raise ConfigError(f"{source}: is no adapter, there is nothing to merge; use it as it is")
    path = convert_checkpoint(source, options.output, dtype=DTYPES.get(options.dtype), base=options.base)
    print(f"saved {path}")
    return 0


def embodiment(options: argparse.Namespace) -> int:
    """Print the embodiment of a tag as YAML, to be completed for the robot."""
    folder = read_folder(find_folder(options.path))
    tag = folder.resolve(options.tag)
    derived = folder.derive(tag, data_config=options.data_config, fps=options.fps)
    print(
        f"# Embodiment of tag '{tag}', read from {folder.path}.\n"
        "# The checkpoint does not contain everything. Complete, without changing keys, their order or normalization:\n"
        "#   names    channel names in order; joint names where channels are joints\n"
        "#   unit     of every channel (SI; joints in radians)\n"
        "#   video    height and width as recorded [px]; 0: any, for running without recording\n"
        "#   fps      tick rate of the training data [Hz]"
    )
    print(yaml.safe_dump(_skeleton(derived), sort_keys=False, width=120, default_flow_style=None), end="")
    return 0


def _skeleton(embodiment: Embodiment) -> dict[str, Any]:
    """Return an embodiment as a mapping without default values, as written by hand."""
    content = to_mapping(embodiment)
    defaults = {field.name: field.default for field in dataclasses.fields(VectorKey) if field.name != "unit"}
    for kind in ("state", "action"):
        content[kind] = {
            key: {name: value for name, value in vector.items() if value != defaults.get(name, dataclasses.MISSING)}
            for key, vector in content[kind].items()
        }
    return {name: value for name, value in content.items() if value != ""}


def _parser() -> CommandParser:
    parser = CommandParser("gr00t_checkpoint", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def subcommand(run: Callable[[argparse.Namespace], int], text: str) -> CommandParser:
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.add_argument(
            "path", metavar="CHECKPOINT", help="Folder of the checkpoint, or hub id: org/name[/folder][@revision]."
        )
        command.set_defaults(run=run)
        return command

    add(subcommand(inspect, "Show family, sizes, weights, embodiments and tokenizer; reads no weights."), "--json")
    command = subcommand(verify, "Check everything that can fail at load and first inference. Exit code 1: faults.")
    depth = command.add_mutually_exclusive_group()
    add(command, "--quick", "Reads the headers of the weights, not their values.", group=depth)
    depth.add_argument("--full", action="store_true", help="Search all weights for NaN and infinity (the default).")
    add(command, "--json")
    command = subcommand(convert, "Copy with another number type, other shards or fewer embodiments.")
    command.add_argument("old_output", type=Path, nargs="?", help=argparse.SUPPRESS)  # before --output was an option
    add(command, "--output", "Must not exist.")
    add(command, "--dtype", "(default: unchanged)")
    command.add_argument("--tags", metavar="TAG", nargs="+", default=[], help="Embodiment tags to keep (default: all).")
    command.add_old_spelling("--embodiment", "--tags")
    _add_shards(command)
    text = "Prefix to remove from the names of weights if all have it; the default is that of LeRobot."
    command.add_argument("--prefix-strip", metavar="PREFIX", default=LEROBOT_PREFIX, help=text)
    command = subcommand(export, "Copy in NVIDIA's layout, for programs that are not of this suite; verifies the copy.")
    add(command, "--output", "Must not exist.", required=True)
    _add_base(command, "For weights that actions do not need, and for an adapter.")
    add(command, "--dtype", default="bfloat16")
    _add_shards(command)
    command = subcommand(push, "Upload to the Hugging Face Hub with a model card, without the state of the trainer.")
    add_upload_options(command)
    command = subcommand(merge, "Write an adapter (LoRA) and the checkpoint that it was trained on as one checkpoint.")
    add(command, "--output", "Must not exist.", required=True)
    add(command, "--dtype", "(default: float32)")
    _add_base(command, f"(default: {BASE_VARIABLE}, else where it was in training)")
    command = subcommand(embodiment, "Print an embodiment file for a robot, to be completed by hand.")
    command.add_argument("tag", metavar="TAG", help="Embodiment tag or its public name, in any case.")
    add(command, "--data-config", "Needed where several fit.", choices=data_config_names())
    add(command, "--fps", f"(default: {ASSUMED_FPS})")
    return parser


def _add_base(command: CommandParser, detail: str) -> None:
    text = "Checkpoint that it was fine-tuned from: folder or hub id."
    command.add_argument("--base", metavar="CHECKPOINT", help=f"{text} {detail}")


def _add_shards(command: CommandParser) -> None:
    text = "Largest weight file [bytes]."
    command.add_argument("--max-shard-bytes", type=positive_int, default=MAX_SHARD_BYTES, metavar="N", help=text)


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
    if report.base:
        texts["adapter of"] = report.base
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
    """Align rows under their columns; columns with a name that starts with '>' to the right."""
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
