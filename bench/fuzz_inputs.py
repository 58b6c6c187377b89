#!/usr/bin/env python3
# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Give every command hostile inputs, drawn from a seed; exit 1 when one does not end as promised.

    python3 -m bench.fuzz_inputs --kinds datasets bags --cases 5000 --seed 1

Promised for every input: no traceback, no death by a signal, at most 10 s of processor time, at most 1 GB of memory,
nothing written outside the case's own folder, and no content changed silently where a checksum covers it. Each kind is
a module `fuzz_<kind>.py` next to this file that makes one case from a random generator: `prepare(scratch)` is called
once and returns what its `cases` need; `case(context, rng, folder)` builds an input in `folder` and yields pairs of a
name and a command to call.
"""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.fuzz_process import attempt

KINDS = ("bags", "datasets", "settings", "checkpoints", "server")
SHOWN = 20


def main() -> int:
    """Run the cases, print a table of counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--cases", type=int, default=200, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=1, help="case k of a kind has the seed '<seed>-<kind>-<k>'")
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of cases that fail")
    options = parser.parse_args()
    num_faults = 0
    print(
        f"{'kind':<14}{'inputs':>8}{'commands':>10}{'refused':>9}{'faults':>8}{'most MB':>9}{'most s':>8}{'took s':>8}"
    )
    for kind in options.kinds:
        num_faults += _run_kind(kind, options)
    return 1 if num_faults else 0


def _run_kind(kind: str, options: argparse.Namespace) -> int:
    module = importlib.import_module(f"bench.fuzz_{kind}")
    counts: Counter[str] = Counter()
    shown: list[str] = []
    most_bytes, most_s, start_s = 0, 0.0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz_") as scratch_name:
        scratch = Path(scratch_name)
        (scratch / "outside").mkdir()
        context: Any = module.prepare(scratch)
        untouched = _listing(scratch)
        for number in range(options.first, options.first + options.cases):
            folder = scratch / "case"
            folder.mkdir()
            for name, command in module.case(context, random.Random(f"{options.seed}-{kind}-{number}"), folder):
                outcome = attempt(command, scratch / "log.txt")
                (scratch / "log.txt").unlink(missing_ok=True)
                counts["commands"] += 1
                counts["refused"] += outcome.code != 0
                most_bytes, most_s = max(most_bytes, outcome.peak_bytes), max(most_s, outcome.cpu_s)
                faults = outcome.faults()
                if _listing(scratch) != untouched:
                    faults.append("written outside")
                    untouched = _listing(scratch)
                if faults:
                    counts["faults"] += 1
                    last = outcome.output.strip().splitlines()[-1:] or [""]
                    shown.append(f"  {kind} {number}, {name}: {', '.join(faults)}: {last[0][:300]}")
                    if options.keep:
                        shutil.copytree(folder, options.keep / f"{kind}-{number}", symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder)
    print(
        f"{kind:<14}{options.cases:>8}{counts['commands']:>10}{counts['refused']:>9}{counts['faults']:>8}"
        f"{most_bytes / 2**20:>9.0f}{most_s:>8.1f}{time.monotonic() - start_s:>8.0f}",
        flush=True,
    )
    for line in shown[:SHOWN]:
        print(line)
    return counts["faults"]


def _listing(scratch: Path) -> dict[str, tuple[int, int]]:
    """Every file outside the case's folder with its size and time of change."""
    found = {}
    for path in scratch.rglob("*"):
        parts = path.relative_to(scratch).parts
        if parts[0] != "case" and path.is_file() and not path.is_symlink():
            status = path.stat()
            found["/".join(parts)] = (status.st_size, status.st_mtime_ns)
    return found


if __name__ == "__main__":
    sys.exit(main())
