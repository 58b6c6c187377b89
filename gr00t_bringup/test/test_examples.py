# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The examples do what their README shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gr00t_test_support.forked_python import python

FOLDER = Path(__file__).resolve().parents[2] / "examples"
if not FOLDER.is_dir():
    pytest.skip("the examples are in the repository only", allow_module_level=True)
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text())
SHOWN = re.findall(r"```console\n\$ python examples/(\S+)(.*)\n((?:.+\n)+)```", (FOLDER / "README.md").read_text())
MAX_LINES = 60


def run(folder: Path, script: str, *arguments: str) -> str:
    command = [python(), str(FOLDER / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_shows_every_script_once():
    assert sorted(script for script, *_ in SHOWN) == SCRIPTS
    assert len(SCRIPTS) == 6


@pytest.mark.slow
def test_commands_of_the_readme_print_what_it_shows(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    pytest.importorskip("rosbags")
    for script, arguments, expected in SHOWN:  # in one folder: later ones use the results of earlier ones
        pattern = re.escape(expected).replace(re.escape("..."), r"-?\d+\.\d+")
        assert re.fullmatch(pattern, run(tmp_path, script, *arguments.split())), script


@pytest.mark.parametrize("script", ["read_dataset.py", "custom_codec.py"])
def test_without_arguments_a_script_makes_its_own_data(script, tmp_path):
    assert run(tmp_path, script)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < MAX_LINES
    if path.name in SCRIPTS:
        assert "usage:" in run(FOLDER, path.name, "--help")
