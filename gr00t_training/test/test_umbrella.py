# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The command `gr00t` and the values that stand for commands."""

import os
import signal
import subprocess
import sys

import pytest

from gr00t_training.cli.entry import Command, Job, Need
from gr00t_training.cli.umbrella import OTHER_PACKAGES, main

PLUGIN = """
import argparse
from gr00t_training.cli.command import run_command
from gr00t_training.cli.entry import Command, Job, Need
from gr00t_training.cli.parser import CommandParser

def main(arguments):
    parser = CommandParser("gr00t_juggle", description="Juggle.")
    parser.add_argument("--balls")
    return run_command("gr00t_juggle", lambda: print(parser.parse_args(arguments).balls))

COMMANDS = (
    Command("gr00t_juggle", "juggle", "plugin_for_test:main", Job.RUN, "Juggle balls."),
    Command("fly_node", "fly", "plugin_for_test:absent", Job.RUN, "Fly.", needs=(Need("no_such_wings", "grow some"),)),
)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a package that declares two commands."""
    (tmp_path / "plugin_for_test.py").write_text(PLUGIN)
    info = tmp_path / "plugin_for_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin_for_test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gr00t.commands]\nplugin_for_test = plugin_for_test:COMMANDS\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("plugin_for_test", None)


def test_help_lists_commands_of_all_packages(plugin, capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["juggle", "Juggle", "balls."] for line in lines)
    assert any(line.split()[:2] == ["fly", "Fly."] and "needs no_such_wings: grow some" in line for line in lines)
    assert any(line.split()[:1] == ["dataset"] for line in lines)


def test_help_of_a_command_has_the_umbrella_in_its_name(plugin, capsys):
    for words in (["juggle", "--help"], ["help", "juggle"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith("usage: gr00t juggle ")


def test_errors_of_a_command_have_the_umbrella_in_their_name(plugin, capsys):
    with pytest.raises(SystemExit):
        main(["juggle", "--ball", "3"])
    assert capsys.readouterr().err.startswith("gr00t juggle: error: unknown argument '--ball'; did you mean '--balls'?")


@pytest.mark.parametrize("word", ["juggle", "gr00t_juggle"])
def test_word_and_name_of_the_executable_run_the_command(plugin, capsys, word):
    assert main([word, "--balls", "3"]) == 0
    assert capsys.readouterr().out == "3\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["jugle"], 2, "unknown command 'jugle'; did you mean 'juggle'?"),
        (["xyzzy"], 2, "unknown command 'xyzzy'; see gr00t --help"),
        (["fly"], 2, "gr00t fly: error: no_such_wings is not installed; grow some"),
    ],
    ids=["misspelled", "unknown", "need"],
)
def test_what_cannot_run_is_one_line(plugin, capsys, words, code, text):
    assert main(words) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_broken_package_does_not_take_the_others_along(plugin, capsys):
    (plugin / "plugin_for_test.py").write_text("import no_such_module")
    assert main(["--help"]) == 0
    printed = capsys.readouterr()
    assert "no_such_module" in printed.err
    assert "dataset" in printed.out


def test_absent_packages_are_listed_with_what_installs_them(monkeypatch, capsys):
    monkeypatch.setattr("gr00t_training.cli.umbrella.entry_points", lambda group: ())
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"pip install ./{package}" in text for package in OTHER_PACKAGES)
    assert main(["record"]) == 2
    assert "'record' is part of gr00t_recorder" in capsys.readouterr().err


def test_a_bag_is_judged_by_the_command_of_the_policy_node(plugin, monkeypatch, capsys):
    node = Command("gr00t_bench_policy", "bench-policy", "plugin_for_test:main", Job.RUN, "")
    monkeypatch.setattr("gr00t_training.cli.evaluate.discover", lambda: [node])
    assert main(["evaluate", "--bag=--balls", "3"]) == 0
    assert capsys.readouterr().out == "3\n"
    monkeypatch.setattr("gr00t_training.cli.evaluate.discover", list)
    assert main(["evaluate", "--bag", "x"]) == 2
    assert "is part of gr00t_policy_node, which is not installed" in capsys.readouterr().err


def test_no_word_shows_the_help_and_is_an_error(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: gr00t ")


def test_help_and_version_load_no_large_library():
    code = (
        "import sys; from gr00t_training.cli.umbrella import main; main(['--help']); main(['--version']);"
        "sys.exit(bool({'torch', 'av', 'pyarrow', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SWALLOWING = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    "".join([])
except BaseException:
    pass

def main(arguments):
    return 0
"""


@pytest.mark.parametrize("is_node", [False, True], ids=["command", "node"])
def test_interrupt_during_the_import_cannot_be_swallowed(tmp_path, is_node):
    """A library may catch everything while it is imported."""
    (tmp_path / "slow_for_test.py").write_text(SWALLOWING)
    code = (
        "import sys; from gr00t_training.cli.entry import Command, Job;"
        f"sys.exit(Command('gr00t_slow', 'slow', 'slow_for_test:main', Job.RUN, '', is_node={is_node})())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        # a shell starts what is in its background with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (0 if is_node else 130, "gr00t_slow: interrupted\n")


def test_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "damaged_for_test.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(str(tmp_path))
    command = Command("gr00t_damaged", "damaged", "damaged_for_test:main", Job.RUN, "")
    assert command([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gr00t_damaged: error: cannot be loaded: No module named 'no_such_module'")
    assert error.count("\n") == 1


def test_need_that_is_installed_is_not_missing():
    assert Command("a", "a", "a:main", Job.RUN, "", needs=(Need("json", ""),)).missing() is None
