# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a host needs for what it does."""

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("gr00t_training.policy.policy, gr00t_training.checkpoint", ("av",)),
        ("gr00t_training.dataset.reader, gr00t_training.dataset.writer", ("torch",)),
        ("gr00t_training.serve.client", ("torch", "av", "pyarrow")),
        ("gr00t_training.cli.finetune", ("accelerate", "peft")),
    ],
    ids=["policy without video", "dataset without torch", "client without both", "one process without accelerate"],
)
def test_modules_import_where_a_library_is_absent(modules, absent):
    blocked = "; ".join(f"sys.modules['{name}'] = None" for name in absent)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}; import {modules}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
