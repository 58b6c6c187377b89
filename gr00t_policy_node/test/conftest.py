# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import importlib
import os
from types import ModuleType

import pytest

from gr00t_test_support.reference_files import bags_dir, data_dir, fixtures_dir, spec_dir

__all__ = ["bags_dir", "control_actions", "data_dir", "fixtures_dir", "spec_dir"]


@pytest.fixture(scope="session")
def control_actions() -> ModuleType:
    """The actions of control_msgs, where it is installed."""
    try:
        return importlib.import_module("control_msgs.action")
    except ImportError as error:
        message = f"{error}; install control_msgs of the ROS installation, or outside one run 'make test'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
