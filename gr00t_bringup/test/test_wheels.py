# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Wheels of the pure packages: complete, and their commands run in an environment where nothing else of the suite is.

Without a network: what the suite depends on comes from the environment of the tests, after the wheels.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest
from test_packaging import declared

from gr00t_training.cli.entry import Command

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gr00t_training", "gr00t_recorder", "gr00t_policy_node", "gr00t_bringup", "gr00t_console")
LEFT_OUT = ("__pycache__", "*.egg-info", "build", "test", "*.pyc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "NOTICE").exists(), reason="this package is tested alone"),
]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheels from copies: setuptools writes into the folder that it builds."""
    folder = tmp_path_factory.mktemp("wheels")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "src" / package, ignore=shutil.ignore_patterns(*LEFT_OUT))
    words = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    sources = [str(folder / "src" / package) for package in PACKAGES]
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", *words, *sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def python(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheels into a new environment."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    words = ["--python", str(python), "install", "--no-deps", "--no-index", "--quiet", *map(str, wheels.values())]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the wheels
    return python


def source_files(package: str) -> Iterator[str]:
    """Yield what the package's folder has, without what a run leaves there."""
    for path in (ROOT / package / package).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(ROOT / package))


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_has_every_file_and_entry_point(wheels: dict[str, Path], package: str) -> None:
    with zipfile.ZipFile(wheels[package]) as wheel:
        names = set(wheel.namelist())
        assert set(source_files(package)) - names == set()
        (points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        found = ConfigParser(delimiters="=")
        found.optionxform = str  # type: ignore[method-assign, assignment]
        found.read_string(wheel.read(points).decode())
    for group, lines in declared(package, "entry_points").items():
        assert dict(found[group]) == dict(line.split(" = ") for line in lines)
    share = [name.partition(".data/data/")[2] for name in names if ".data/data/" in name]
    assert f"share/{package}/package.xml" in share
    assert f"share/ament_index/resource_index/packages/{package}" in share
    launch = {f"share/{package}/launch/{path.name}" for path in (ROOT / package).glob("launch/*.launch.py")}
    assert launch <= set(share)
    assert not any("/test/" in name for name in names)


def run(python: Path, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
    return subprocess.run(list(map(str, words)), env=environment, cwd=folder, capture_output=True, text=True)


def test_packages_of_the_wheels_are_imported(python: Path, tmp_path: Path) -> None:
    code = f"from importlib import import_module as i; [print(i(name).__file__) for name in {PACKAGES}]"
    done = run(python, python, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = str(python.parents[1])
    assert [line.startswith(folder) for line in done.stdout.splitlines()] == [True] * len(PACKAGES)


def test_umbrella_finds_the_commands_of_all_packages(python: Path, tmp_path: Path) -> None:
    done = run(python, python.parent / "gr00t", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not installed" not in done.stdout
    words = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"doctor", "convert", "check", "fake", "console"} <= words


def test_every_command_without_ros_and_torch_shows_its_help(python: Path, tmp_path: Path) -> None:
    for package in PACKAGES:
        for line in declared(package, "entry_points")["console_scripts"]:
            name, _, place = line.partition(" = ")
            module, _, variable = place.partition(":")
            command = getattr(import_module(module), variable)
            assert isinstance(command, Command)
            assert (python.parent / name).exists()
            if command.needs:
                continue
            done = run(python, python.parent / name, "--help", folder=tmp_path)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"usage: {name} ")


def test_data_files_are_read_from_the_wheels(python: Path, tmp_path: Path) -> None:
    """Robots, limits, embodiments, recipes, checkpoints and pages are package data."""
    code = """
from importlib import resources
from gr00t_bringup.cameras import cameras_of
from gr00t_bringup.robots import compact_checkpoint, fastdds_profile
from gr00t_policy_node.onboard.robot_names import shipped_robots
from gr00t_training.checkpoint.reading import load_checkpoint
print(len([cameras_of(robot) for robot in shipped_robots()]))
load_checkpoint(str(compact_checkpoint()))
assert fastdds_profile().is_file()
assert resources.files("gr00t_console").joinpath("static/index.html").is_file()
"""
    pytest.importorskip("torch")
    done = run(python, python, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15
