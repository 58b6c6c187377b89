# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The commands and programs of the documentation run, page by page, each block in order in the page's folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("torch")
pytest.importorskip("fastapi")
pytest.importorskip("tensorboard")
pytest.importorskip("peft")

from page_materials import Materials

from gr00t_recorder.ros.processes import next_domain
from gr00t_test_support.forked_python import programs
from gr00t_test_support.pages import read_blocks, run_block
from gr00t_training.cli.parent import parent_environment

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "docs").is_dir():
    pytest.skip("a package alone has no documentation", allow_module_level=True)
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("gr00t_*/README.md"))]
RUN = {page: [block for block in read_blocks(page) if block.job == "run"] for page in PAGES}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """Return the environment of commands: those of this installation, one thread each, a domain of their own."""
    folders = (str(programs()), str(Path(sys.executable).parent), os.environ["PATH"])
    return {
        **os.environ,
        **parent_environment(),
        "PATH": os.pathsep.join(folders),
        "ROS_DOMAIN_ID": str(next_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "OMP_NUM_THREADS": "1",  # two cores are shared
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> Materials:
    return Materials(tmp_path_factory.mktemp("materials"), variables)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if RUN[page]], ids=lambda page: str(page.relative_to(ROOT).with_suffix(""))
)
def test_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, materials: Materials, variables: dict[str, str]
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    home = {**variables, "HOME": str(tmp_path)}
    for block in RUN[page]:
        for name in block.subjects:
            materials.put(name, folder)
        run_block(block, folder, home)


def test_most_pages_have_commands_that_run() -> None:
    assert sum(bool(blocks) for blocks in RUN.values()) >= 8
    assert sum(map(len, RUN.values())) >= 20
