# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks and fuzzers; run each from the root of the repository: `python3 -m bench.NAME --help`."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
