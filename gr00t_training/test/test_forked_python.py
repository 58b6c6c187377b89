# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The Python that tests start commands with does what `sys.executable` does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gr00t_test_support.forked_python import programs, python
from gr00t_test_support.waiting import eventually

SHOW = "import os, sys; print(sys.argv[1:], __name__, os.getcwd(), os.environ.get('CASE'), os.umask(0))"
WAIT = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
child = subprocess.Popen(["sleep", "1000"])
print(os.getpid(), child.pid, flush=True)
time.sleep(1000)
"""


def run(executable, *words, **options):
    done = subprocess.run([executable, *words], capture_output=True, text=True, **options)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    "words",
    [
        ["-c", SHOW, "a", "-b"],
        ["-", "a"],
        ["show.py", "a"],
        ["-m", "show", "a"],
        ["-B", "-c", SHOW],
        ["-c", "import sys; print(sys.stdin.read()); sys.exit('refused')"],
        ["-c", "import sys; sys.exit(300)"],
        ["-c", "import atexit; atexit.register(print, 'end'); 1 / 0"],
        ["-c", "import threading, time; threading.Thread(target=lambda: [time.sleep(0.2), print('end')]).start()"],
        ["-c", "raise KeyboardInterrupt"],
        ["-c", "import os; os.abort()"],
        ["-m", "no_such_module"],
        ["no_such_file.py"],
    ],
)
def test_output_and_exit_code_are_those_of_python(words, tmp_path):
    (tmp_path / "show.py").write_text(SHOW)
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "CASE": "\N{GREEK SMALL LETTER MU}"},
        "input": SHOW,
        "umask": 0o27,
    }
    assert run(python(), *words, **options) == run(sys.executable, *words, **options)


def test_a_command_is_the_installed_one():
    code, text, _ = run(programs() / "gr00t", "--version")
    assert (code, text.split()[0]) == (0, "gr00t")
    with_path = {**os.environ, "PYTHONPATH": os.devnull}  # not the server's
    assert run(python(), "-c", "import sys; print(sys.path[1])", env=with_path)[1].strip() == os.devnull


@pytest.fixture
def waiting():
    """Give a client whose process waits, and the ids of that process and of its child."""
    with subprocess.Popen([python(), "-c", WAIT], stdout=subprocess.PIPE, text=True) as client:
        yield client, *map(int, client.stdout.readline().split())
        client.kill()


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_signals_reach_the_process(waiting):
    client, process, child = waiting
    client.send_signal(signal.SIGUSR1)
    assert client.stdout.readline() == "usr1\n"
    client.terminate()
    assert client.wait() == -signal.SIGTERM
    assert has_ended(process)
    os.kill(child, signal.SIGKILL)  # as after the end of any other process, it runs on


def test_a_killed_client_leaves_nothing_behind(waiting):
    client, process, child = waiting
    client.kill()
    eventually(lambda: has_ended(process) and has_ended(child), "end of the process and its child")


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    code = "from gr00t_test_support import forked_python\nforked_python.IMPORTS = ()\n"
    code += f"print(forked_python.python(), flush=True)\n{WAIT}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        path = Path(parent.stdout.readline().strip())
        _, child = map(int, parent.stdout.readline().split())
        with subprocess.Popen([path, "-c", WAIT], stdout=subprocess.PIPE, text=True) as client:
            process, _ = map(int, client.stdout.readline().split())
            parent.kill()
            os.kill(child, signal.SIGKILL)
            eventually(lambda: has_ended(process) and not path.parent.exists(), "end of the process and the server")
