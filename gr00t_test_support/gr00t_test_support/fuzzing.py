# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a small part of `bench/fuzz_inputs.py` in a process without other threads, which it needs to fork."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class FuzzCounts:
    """What the fuzz of one kind of input reports."""

    inputs: int
    commands: int
    refused: int
    faults: int


def run_fuzz(kind: str, *, cases: int, seed: int) -> FuzzCounts:
    """Give the commands hostile inputs of one kind; fails where the fuzz does, with its output."""
    bench = pytest.importorskip("bench", reason="the benches are not part of an installed package")
    command = [sys.executable, "-m", "bench.fuzz_inputs", "--kinds", kind, "--cases", str(cases), "--seed", str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=bench.REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line.split() for line in done.stdout.splitlines() if line.startswith(kind)]
    return FuzzCounts(*map(int, line[1:5]))
