# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Code blocks of documentation pages, and what the comment before each says about how it is tested.

A comment on the line before the fence is invisible to readers:

    <!-- run: data, base; 10000 = 2 -->    run it; needs the materials `data` and `base`; `2` replaces the text `10000`
    <!-- run; until = operator page -->    start it, wait for this text, and end it as Ctrl-C does; it must exit with 0
    <!-- run; code = 1 -->                 run it; it must exit with 1
    <!-- load: embodiment; file = a.yaml --> load the YAML as an embodiment, and keep it under this name for later ones
    <!-- needs: gpu, network -->           not run: it needs what a test does not have; its options are checked

A block of the language `text` is output or a drawing, and needs no comment. All blocks of a page run in one folder, in
order.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gr00t_test_support.forked_python import python
from gr00t_test_support.waiting import eventually

NEEDS = ("display", "docker", "gpu", "network", "person", "robot", "ros", "setup", "slurm", "time")
OPTIONS = ("code", "file", "until")  # of a comment; others are texts to replace
LIMIT_S = 600.0  # of a block, on a machine that many processes share; seconds otherwise
_BLOCK = re.compile(r"^(?:<!-- (?P<comment>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A code block."""

    page: Path
    line: int  # of its fence
    language: str
    text: str
    job: str = ""  # run, load, needs; empty: no comment
    subjects: tuple[str, ...] = ()  # materials of `run`, kind of `load`, words of `needs`
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Return page and line, for messages."""
        return f"{self.page.name}:{self.line}"

    def code(self) -> str:
        """Return the text with the replacements of the comment."""
        text = self.text
        for old, new in self.options.items():
            if old not in OPTIONS:
                assert old in text, f"{self.place}: '{old}' is to be replaced, but is not there"
                text = text.replace(old, new)
        return text


def read_blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, match) for match in _BLOCK.finditer(text)]


def shell_lines(block: Block) -> Iterator[list[str]]:
    """Yield the words of every command of the suite and of ROS in a block; continued lines are joined."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = line.removeprefix("$ ").split("#")[0]
        if re.match(r"\s*(?:[A-Z_]+=\S+ )*(gr00t|ros2)\b", words):
            yield shlex.split(words.split(" > ")[0].split(" | ")[0])


def run_block(block: Block, folder: Path, variables: Mapping[str, str]) -> str:
    """Run a block of shell or Python in a folder, and return what it printed.

    Raises:
        AssertionError: another exit code than the comment says, or no end within the limit; has the output.
    """
    code = block.code()
    if block.language == "python":
        command = [python(), "-c", code]
    else:
        command = ["bash", "-euo", "pipefail", "-c", code]
    log = folder / f".block_{block.line}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a signal reaches the shell and what it started, as one of a terminal does
        )
    try:
        _await_end(block, process, log)
    finally:
        _end(process)
    printed = log.read_text(encoding="utf-8", errors="replace")
    expected = int(block.options.get("code", "0"))
    assert process.returncode == expected, f"{block.place}: exit code {process.returncode}\n{code}\n{printed}"
    return printed


def _await_end(block: Block, process: subprocess.Popen[bytes], log: Path) -> None:
    text = block.options.get("until")
    if text is not None:
        eventually(
            lambda: text in log.read_text(errors="replace") or process.poll() is not None,
            lambda: f"{block.place}: '{text}' in\n{log.read_text(errors='replace')}",
            LIMIT_S,
        )
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    process.wait(LIMIT_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind that the block has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _block(page: Path, text: str, match: re.Match[str]) -> Block:
    line = text.count("\n", 0, match.start("language")) + 1
    place = f"{page.name}:{line}"
    block = Block(page, line, match["language"], match["text"])
    if match["comment"] is None:
        return block
    first, *rest = [part.strip() for part in match["comment"].split(";")]
    job, _, subjects = (part.strip() for part in first.partition(":"))
    assert job in ("run", "load", "needs"), f"{place}: '{job}' is not run, load or needs"
    options = {old.strip(): new.strip() for old, _, new in (each.partition(" = ") for each in rest)}
    words = tuple(word.strip() for word in subjects.split(",") if word.strip())
    unknown = sorted(set(words) - set(NEEDS)) if job == "needs" else []
    assert not unknown, f"{place}: needs {unknown}, expected some of {NEEDS}"
    return Block(page, line, block.language, block.text, job, words, options)
