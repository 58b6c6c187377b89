# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Ray, which is imported when it is used, and its cluster."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from gr00t_training.errors import ConfigError
from gr00t_training.io.text import one_line

LOCAL = "local"  # as an address: start Ray here, for this run
TOKEN_FILE = Path("~/.ray/auth_token")  # of this user, made by Ray where it asks for one
MAX_REASON = 200  # characters


def import_ray(option: str, package: str, module: str = "ray") -> Any:
    """Return the module `ray`, or one inside it.

    Args:
        option: of the command, that needs it.
        package: of the suite, whose extra `ray` installs it.
        module: to import.

    Raises:
        ConfigError: it is not installed.
    """
    # Ray that another command started here asks for the token, but reads whether to send one at its own import only
    if "ray" not in sys.modules and TOKEN_FILE.expanduser().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{option}: Ray is not installed ({one_line(error)[:MAX_REASON]}); install it with: "
            f"pip install '{package}[ray]'"
        ) from error


def connect(ray: ModuleType, address: str, *, local: dict[str, Any] | None = None, **options: Any) -> None:
    """Connect to a cluster, or start one on this machine; `ray.shutdown()` ends both.

    Args:
        ray: the module.
        address: of the cluster, or `LOCAL`.
        local: further options of `ray.init` for a cluster on this machine.
        options: further options of `ray.init`.

    Raises:
        ConfigError: the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    if address == LOCAL:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1", **(local or {})}
    try:
        ray.init(address=address, configure_logging=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--ray-address {address}: Ray does not answer ({one_line(error)[:MAX_REASON]}); check the cluster, or "
            "leave the option out to start Ray on this machine"
        ) from error
