# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Version of the suite: that of `package.xml`, which `make version` sets in every package."""


def suite_version() -> str:
    """Return the version of the installed suite; `unknown` where it runs from sources that are not installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes as long as a command takes to show its help

    try:
        return version("gr00t_training")
    except PackageNotFoundError:
        return "unknown"
