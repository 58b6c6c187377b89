# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The documentation's reference says what the code has."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("torch")
pytest.importorskip("fastapi")

from gr00t_test_support.reference import files_page, messages_page
from gr00t_test_support.ros.reference import all_commands, nodes_page, running_connections

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
if not FOLDER.is_dir():
    pytest.skip("a package alone has no documentation", allow_module_level=True)
HOW = "read the difference, then: make reference"


def written(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_commands_are_those_of_the_parsers() -> None:
    assert all_commands() == written("commands.md"), HOW


def test_files_are_those_of_the_settings() -> None:
    assert files_page() == written("files.md"), HOW


def test_messages_are_those_of_the_interfaces() -> None:
    assert messages_page(ROOT / "gr00t_msgs") == written("messages.md"), HOW


@pytest.mark.slow
def test_nodes_have_the_topics_services_and_parameters() -> None:
    assert nodes_page(running_connections()) == written("nodes.md"), HOW
