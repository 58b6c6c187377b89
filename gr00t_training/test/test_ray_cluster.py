# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Which clusters are asked with the token of this user; Ray itself is a package written here."""

import os
import sys
from importlib import import_module

import pytest

from gr00t_training.io import ray_cluster


@pytest.fixture
def ray(tmp_path, monkeypatch):
    """Make a package `ray` that keeps what it finds when it is imported, as Ray's own library does."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("import os\nmode = os.environ.get('RAY_AUTH_MODE')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ray_cluster, "TOKEN_FILE", tmp_path / "token")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is restored afterwards
    monkeypatch.delenv("RAY_AUTH_MODE")
    yield tmp_path
    sys.modules.pop("ray", None)


def test_a_user_with_a_token_sends_it(ray):
    (ray / "token").write_text("secret")
    assert ray_cluster.import_ray("--engine ray", "gr00t_recorder").mode == "token"


def test_without_a_token_the_mode_is_that_of_ray(ray):
    assert ray_cluster.import_ray("--engine ray", "gr00t_recorder").mode is None
    assert "RAY_AUTH_MODE" not in os.environ


def test_ray_that_was_imported_before_keeps_its_mode(ray):
    """A cluster started with a mode that this process does not have would refuse it."""
    imported = import_module("ray")
    (ray / "token").write_text("secret")
    assert ray_cluster.import_ray("--engine ray", "gr00t_recorder") is imported
    assert "RAY_AUTH_MODE" not in os.environ
