# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""What a host needs for what it does."""

import subprocess
import sys

import pytest

from gr00t_test_support.builders import make_checkpoint, make_embodiment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("gr00t_training.policy.policy, gr00t_training.checkpoint", ("av",)),
        ("gr00t_training.dataset.reader, gr00t_training.dataset.writer", ("torch",)),
        ("gr00t_training.serve.client", ("torch", "av", "pyarrow")),
        ("gr00t_training.cli.finetune, gr00t_training.cli.evaluate", ("accelerate", "peft", "matplotlib")),
    ],
    ids=["policy without video", "dataset without torch", "client without both", "one process without a picture"],
)
def test_modules_import_where_a_library_is_absent(modules, absent):
    blocked = "; ".join(f"sys.modules['{name}'] = None" for name in absent)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}; import {modules}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_policy_loads_without_the_compiler_of_torch(tmp_path):
    """It took most of the time in which a policy node or a server starts."""
    pytest.importorskip("torch")
    path = make_checkpoint(tmp_path / "checkpoint", make_embodiment())
    code = (
        "import sys; from gr00t_training.policy.policy import Policy;"
        f"Policy.from_checkpoint({str(path)!r}, device='cpu'); sys.exit('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
