# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Find reference numbers, datasets and recordings.

Files made for this project are in the repository, in `testdata/`. Files of other origin are not: the environment
variables name their folders, by default `../shared/` next to the repository. A test that needs a missing file is
skipped.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class ReferenceFiles:
    """A folder of reference files in several places; `/` returns the first place that has the member."""

    name: str  # for messages
    variable: str  # environment variable that names the place outside the repository
    outside: tuple[Path, ...]
    inside: Path  # in testdata/

    def __truediv__(self, member: str) -> Path:
        for place in (*self.outside, self.inside):
            if (place / member).exists():
                return place / member
        missing = f"{self.name}/{member} is missing; set {self.variable} to the folder"
        message = f"reference files of other origin: {missing}"
        # Where the outside folder is given, CI does not accept a hole in it.
        if os.environ.get("CI") and any(place.is_dir() for place in self.outside):
            pytest.fail(message)
        pytest.skip(message)

    def folder(self, member: str) -> ReferenceFiles:
        """Return a folder in this one, to search it member by member."""
        outside = tuple(place / member for place in self.outside)
        return ReferenceFiles(f"{self.name}/{member}", self.variable, outside, self.inside / member)


@pytest.fixture(scope="session")
def fixtures_dir(pytestconfig: pytest.Config) -> ReferenceFiles:
    """Numbers produced by the reference models and loaders."""
    return find_reference_files("fixtures", "GR00T_FIXTURES", pytestconfig.rootpath)


@pytest.fixture(scope="session")
def data_dir(pytestconfig: pytest.Config) -> ReferenceFiles:
    """Datasets with known contents."""
    return find_reference_files("data", "GR00T_TEST_DATA", pytestconfig.rootpath)


@pytest.fixture(scope="session")
def bags_dir(data_dir: ReferenceFiles) -> ReferenceFiles:
    """Recordings with known contents."""
    return data_dir.folder("bags")


@pytest.fixture(scope="session")
def spec_dir(pytestconfig: pytest.Config) -> ReferenceFiles:
    """Names of the released weights and data configurations; next to the folder of GR00T_FIXTURES."""
    root = pytestconfig.rootpath
    outside = tuple(place.parent / "spec" for place in find_reference_files("fixtures", "GR00T_FIXTURES", root).outside)
    return ReferenceFiles("spec", "GR00T_FIXTURES", outside, _repository(root) / "testdata" / "spec")


def find_reference_files(name: str, variable: str, root: Path) -> ReferenceFiles:
    """Return the places of a folder of reference files.

    Args:
        name: `fixtures` or `data`.
        variable: environment variable; its value comes first.
        root: the repository, or one of its packages.
    """
    repository = _repository(root)
    given = [Path(os.environ[variable])] if variable in os.environ else []
    outside = (*given, repository.parent / "shared" / name)
    return ReferenceFiles(name, variable, outside, repository / "testdata" / name)


def _repository(root: Path) -> Path:
    # colcon tests each package alone: the repository is then one level up
    return root if (root / "NOTICE").is_file() else root.parent
