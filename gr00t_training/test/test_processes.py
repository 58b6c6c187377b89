# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys

import pytest

from gr00t_training.dataset.tools.validate.dataset import workers
from gr00t_training.io.processes import starting_workers

INTERRUPT_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"


def is_interrupt_blocked(_):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_worker_survives_ctrl_c_before_it_can_ignore_it():
    with starting_workers():
        done = subprocess.run([sys.executable, "-c", INTERRUPT_ITSELF], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_ctrl_c_during_the_start_of_workers_is_not_lost():
    with pytest.raises(KeyboardInterrupt), starting_workers():
        os.kill(os.getpid(), signal.SIGINT)
    assert not is_interrupt_blocked(None)


def test_validation_starts_its_workers_so():
    with workers(2) as run:
        assert list(run(is_interrupt_blocked, range(3))) == [True] * 3
