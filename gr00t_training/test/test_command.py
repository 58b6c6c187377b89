# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import signal
import subprocess
import sys

import pytest

from gr00t_test_support.waiting import DEADLINE_S
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import DatasetError

WORKING = """
import sys, time
from gr00t_training.cli.command import run_command

def work():
    try:
        print("started", flush=True)
        time.sleep(600)
    finally:
        print("tidied up", flush=True)

sys.exit(run_command("gr00t_test", work, interrupted="interrupted; --resume continues"))
"""


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DatasetError("data: empty"), 2, "gr00t_test: error: data: empty\n"),
        (KeyError("fps"), 70, "a bug in this program"),
        (PermissionError(13, "Permission denied", "out"), 2, "gr00t_test: error: out: Permission denied;"),
        (MemoryError(), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "gr00t_test: interrupted\n"),
    ],
    ids=["own", "bug", "system", "memory", "ctrl-c"],
)
def test_every_error_ends_in_one_line_and_a_code(capsys, error, code, text):
    assert run_command("gr00t_test", raising(error)) == code
    printed = capsys.readouterr().err
    assert text in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_signals_tidy_up(number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what is in its background with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, errors) == (code, "tidied up\n", "gr00t_test: interrupted; --resume continues\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ouput", "x"], "did you mean '--output'?"),
        (["--output", "x", "--output", "y"], "--output is given more than once"),
        (["--out", "x"], "unknown argument '--out'"),
        (["--kind", "compct"], "argument --kind: 'compct' is unknown; did you mean 'compact'?"),
        (["--kind", "x"], "argument --kind: 'x' is unknown; choose from compact, large"),
    ],
    ids=["misspelled", "repeated", "abbreviated", "misspelled choice", "unknown choice"],
)
def test_options_that_are_not_meant_are_refused(capsys, arguments, text):
    parser = CommandParser(prog="gr00t_test")
    parser.add_argument("--output")
    parser.add_argument("--kind", choices=["compact", "large"])
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert text in printed
    assert printed.count("\n") == 1
