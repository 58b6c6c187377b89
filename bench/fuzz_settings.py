# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Damaged YAML for every loader: topic maps, embodiments, limits, parameters, rosbag2's metadata."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.fuzz_trees import mutate_bytes, mutate_tree, replace_file
from gr00t_bringup.parameters_file import read_parameters
from gr00t_bringup.robots import has_robot_file, robot_file
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_policy_node.safety.limits import LimitsFile
from gr00t_recorder.topics.bindings import load_topic_map
from gr00t_training.cli.command import run_command
from gr00t_training.embodiment import load_embodiment, modality_layout, shipped_embodiments
from gr00t_training.io.yaml_text import read_yaml
from gr00t_training.settings import load_settings

METADATA = {
    "rosbag2_bagfile_information": {
        "version": 9,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": 12},
        "starting_time": {"nanoseconds_since_epoch": 1},
        "message_count": 3,
        "topics_with_message_count": [
            {
                "topic_metadata": {"name": "/a", "type": "std_msgs/msg/String", "offered_qos_profiles": []},
                "message_count": 3,
            }
        ],
        "relative_file_paths": ["a_0.mcap"],
        "files": [{"path": "a_0.mcap", "message_count": 3}],
        "custom_data": None,
    }
}
SNIPPETS = (
    b"&a ",
    b"*a",
    b"*nothing",
    b"<<: *a\n",
    b"!!python/object/apply:os.system ",
    b"!!binary ",
    b"!x ",
    b"---\n",
    b"...\n",
    b"%YAML 9.9\n",
    b"? ",
    b": ",
    b"- ",
    b"[",
    b"{",
    b"\t",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b"|2\n",
    b">-\n",
    b"2001-99-99",
    b"1_0_0",
    b"0x_",
    b"190:20:30",
    b"=",
    b"~",
    b"#",
    b"[" * 5000,
    b"x: &x [" + b"1," * 2000 + b"]\ny: [" + b"*x," * 2000 + b"]\n",
)


@dataclass(frozen=True)
class Kind:
    """A kind of file: whole examples and what reads them."""

    texts: tuple[str, ...]
    read: Callable[[Path], Any]


def prepare(_: Path) -> dict[str, Kind]:
    """Collect the shipped files of every kind."""
    shipped = {
        name: tuple(robot_file(robot, name).read_text() for robot in shipped_robots() if has_robot_file(robot, name))
        for name in ("topics.yaml", "limits.yaml", "policy.yaml")
    }
    embodiments = Path(sys.modules["gr00t_training"].__path__[0], "embodiments")
    texts = tuple((embodiments / f"{name}.yaml").read_text() for name in shipped_embodiments())
    return {
        "topics": Kind(shipped["topics.yaml"], load_topic_map),
        "embodiment": Kind(texts, lambda path: modality_layout(load_embodiment(path))),
        "limits": Kind(shipped["limits.yaml"], lambda path: load_settings(LimitsFile, path).limits()),
        "params": Kind(shipped["policy.yaml"], lambda path: read_parameters(path, "/policy")),
        "metadata": Kind((yaml.safe_dump(METADATA),), read_yaml),
    }


def case(context: dict[str, Kind], rng: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], int | None]]]:
    """Damage one file and read it."""
    name = rng.choice(list(context))
    kind, path = context[name], folder / f"{name}.yaml"
    text = rng.choice(kind.texts)
    draw = rng.random()
    if draw < 0.1:
        path.write_text(text)
        replace_file(path, rng)
    elif draw < 0.5:
        path.write_bytes(mutate_bytes(text.encode(), rng, SNIPPETS))
    else:
        tree = mutate_tree(yaml.safe_load(text), rng, rng.choice([1, 1, 2, 5]))
        try:
            dumped = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
        except (yaml.YAMLError, RecursionError, ValueError):
            dumped = str(tree)
        path.write_bytes(dumped.encode("utf-8", "surrogatepass"))
    yield name, lambda: run_command("load", lambda: (kind.read(path), 0)[1])
