# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from gr00t_test_support.reference_files import find_reference_files


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with one file, next to a shared folder with two files."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("GR00T_TEST_DATA", raising=False)
    root = tmp_path / "suite"
    for name in ("suite/testdata/data/own", "shared/data/own", "shared/data/bags/other", "given/bags/other"):
        (tmp_path / name).mkdir(parents=True)
    (root / "NOTICE").touch()
    return root


def test_places_are_searched_in_order_for_each_file(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = repository.parent / "shared" / "data"
    files = find_reference_files("data", "GR00T_TEST_DATA", repository)
    assert files / "own" == shared / "own"
    assert files.folder("bags") / "other" == shared / "bags" / "other"
    monkeypatch.setenv("GR00T_TEST_DATA", str(repository.parent / "given"))
    files = find_reference_files("data", "GR00T_TEST_DATA", repository / "gr00t_training")
    assert files / "own" == shared / "own"
    assert files / "bags/other" == repository.parent / "given" / "bags" / "other"


def test_a_clone_has_its_own_files_only(repository: Path) -> None:
    (repository.parent / "shared").rename(repository.parent / "elsewhere")
    files = find_reference_files("data", "GR00T_TEST_DATA", repository)
    assert files / "own" == repository / "testdata" / "data" / "own"
    with pytest.raises(pytest.skip.Exception, match="data/bags/other is missing; set GR00T_TEST_DATA"):
        files.folder("bags") / "other"


def test_ci_accepts_no_hole_in_a_given_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    files = find_reference_files("data", "GR00T_TEST_DATA", repository)
    with pytest.raises(pytest.fail.Exception, match="data/nothing is missing"):
        files / "nothing"
    (repository.parent / "shared").rename(repository.parent / "elsewhere")
    with pytest.raises(pytest.skip.Exception):
        files / "nothing"
