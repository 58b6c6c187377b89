# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What the commands of the documentation work on, small: bags, a robot's files, a dataset, checkpoints.

All are of a made-up robot with two joints and a camera, but for `two_arms`, the bag of one with two arms and three
cameras. The base checkpoint is a GR00T N1.7 with random weights, in the layout of the published one.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gr00t_test_support.bag_builder import ToyBag, numbered_image
from gr00t_test_support.forked_python import programs
from gr00t_test_support.pages import LIMIT_S
from gr00t_test_support.robot_bags import ARM, bimanual, leaders
from gr00t_training.dataset.writer import DatasetWriter
from gr00t_training.embodiment import load_embodiment
from gr00t_training.types import Frame

FIXTURES = Path(__file__).resolve().parents[2] / "testdata" / "fixtures"
PUBLISHED = ("config.json", "processor_config.json", "statistics.json", "embodiment_id.json", "model.safetensors")
BACKBONE = ("config.json", "tokenizer.json", "preprocessor_config.json")
TASKS = ("fold the towel", "open the drawer")
ROWS = 18  # of an episode: more than a chunk of the base checkpoint
URDF = """<robot name="two_arms">
{joints}
</robot>
"""
JOINT = '<joint name="{name}" type="revolute"><limit lower="-20" upper="20" velocity="3" effort="9"/></joint>'


class Materials:
    """Makes each material once, and puts copies of it into folders."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        """Keep the originals in a folder; `variables` are added to the environment of commands."""
        self._folder, self._variables = folder, variables

    def put(self, name: str, folder: Path) -> None:
        """Put a material into a folder; what is there stays as it is."""
        for made in self._made(name):
            target = folder / made.name
            within = sorted(made.iterdir()) if target.is_dir() else [made]
            for each in within:
                place = folder / each.relative_to(made.parent)
                if not place.exists():
                    (shutil.copytree if each.is_dir() else shutil.copyfile)(each, place)

    def _made(self, name: str) -> list[Path]:
        place = self._folder / name
        if not place.exists():
            place.mkdir(parents=True)
            MATERIALS[name](self, place)
        return sorted(place.iterdir())

    def path(self, name: str, member: str) -> Path:
        """Return a file or folder of a material."""
        self._made(name)
        return self._folder / name / member

    def gr00t(self, folder: Path, *words: object) -> None:
        """Run a command of the suite."""
        command = [programs() / "gr00t", *map(str, words)]
        done = subprocess.run(
            command, cwd=folder, env=self._variables, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _bag(_: Materials, folder: Path) -> None:
    (folder / "my_bag").mkdir()
    ToyBag().text("/task", 0, TASKS[0]).steps(0, ROWS).write(folder / "my_bag" / "my_bag_0.mcap")


def _two_arms(_: Materials, folder: Path) -> None:
    (folder / "my_bag").mkdir()
    bimanual(leaders).write(folder / "my_bag" / "my_bag_0.mcap")


def _bags(materials: Materials, folder: Path) -> None:
    for name in ("monday", "tuesday"):
        shutil.copytree(materials.path("bag", "my_bag"), folder / "bags" / name)


def _robot(materials: Materials, folder: Path) -> None:
    """Write `my_robot/`, and its files outside it, where pages name them alone."""
    bag = materials.path("bag", "my_bag")
    command = "arm=/position_controller/commands:std_msgs/msg/Float64MultiArray"
    materials.gr00t(folder, "init", bag, "--output", "my_robot", "--no-questions", "--command", command)
    for file in (folder / "my_robot").iterdir():
        shutil.copyfile(file, folder / file.name)


def _data(materials: Materials, folder: Path) -> None:
    embodiment = load_embodiment(materials.path("robot", "my_robot") / "embodiment.yaml")
    with DatasetWriter(folder / "data", embodiment) as writer:
        for number in range(10):
            task = TASKS[number % len(TASKS)]
            episode = writer.start_episode(task)
            for row in range(ROWS):
                at = number + 0.2 * row
                values = {key: np.sin(at + np.arange(vector.dim)) for key, vector in embodiment.state.items()}
                images = {key: numbered_image(number * ROWS + row) for key in embodiment.video}
                action = {key: values[key] for key in embodiment.action}
                episode.add_frame(Frame(round(row * 1e9 / embodiment.fps), values, action, images, task))
            episode.save()


def _sessions(materials: Materials, folder: Path) -> None:
    for name in ("monday", "tuesday"):
        shutil.copytree(materials.path("data", "data"), folder / name)


def _tasks(_: Materials, folder: Path) -> None:
    lines = ["bag,task", *(f"{name},{task}" for name, task in zip(("monday", "tuesday"), TASKS, strict=True))]
    (folder / "tasks.csv").write_text("\n".join(lines) + "\n")


def _base(_: Materials, folder: Path) -> None:
    source, target = FIXTURES / "n1_7_tiny", folder / "GR00T-N1.7-3B"
    (target / "backbone").mkdir(parents=True)
    for name in (*PUBLISHED, *(f"backbone/{name}" for name in BACKBONE)):
        shutil.copyfile(source / name, target / name)


def _run(materials: Materials, folder: Path) -> None:
    data, base = materials.path("data", "data"), materials.path("base", "GR00T-N1.7-3B")
    steps = ("--max-steps", 2, "--save-steps", 1, "--batch-size", 2, "--no-preflight")
    materials.gr00t(folder, "finetune", "--dataset", data, "--base-model", base, "--output", "run", *steps)
    for made, shown in (("checkpoint-1", "checkpoint-5000"), ("checkpoint-2", "checkpoint-10000")):
        (folder / "run" / made).rename(folder / "run" / shown)


def _urdf(_: Materials, folder: Path) -> None:
    joints = "\n".join(JOINT.format(name=name) for name in ARM)
    (folder / "robot.urdf").write_text(URDF.format(joints=joints))


MATERIALS: dict[str, Callable[[Materials, Path], None]] = {
    "bag": _bag,
    "bags": _bags,
    "base": _base,
    "data": _data,
    "robot": _robot,
    "run": _run,
    "sessions": _sessions,
    "tasks": _tasks,
    "two_arms": _two_arms,
    "urdf": _urdf,
}
