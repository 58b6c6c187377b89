# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Compare the clock of another host through ssh: the answer of the fastest of a few exchanges counts."""

from __future__ import annotations

import json
import subprocess
import sys
import time

EXCHANGES = 8
OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=5")


def main(*ssh: str) -> int:
    """Print offset and half of the round trip [s]; `ssh` is the command that opens a shell on the host."""
    words = [*ssh, "while read -r x; do date +%s.%N; done"]
    # without buffers: what could not be sent would be sent again, and fail again, at the end
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin and process.stdout
        exchanges = []
        for _ in range(EXCHANGES):
            start = time.time()
            try:
                process.stdin.write(b"\n")
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = b""
            if not answer:
                process.kill()
                return 1  # ssh has said why
            end = time.time()
            exchanges.append(((end - start) / 2, float(answer) - (start + end) / 2))
        process.stdin.close()
    half, offset = min(exchanges)
    print(f"\n{json.dumps({'offset_s': offset, 'uncertainty_s': half})}")
    return 0


if __name__ == "__main__":
    sys.exit(main("ssh", *OPTIONS, sys.argv[1]))
