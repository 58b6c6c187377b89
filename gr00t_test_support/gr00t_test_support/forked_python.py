# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A Python that starts in a moment: its processes are forked from a server that has imported torch and others.

`python()` is an executable for `python -m MODULE`, `python -c CODE`, `python FILE` and `python -`; `programs()` is a
folder with it and the suite's commands, for `PATH`. An executable is a client: it hands its standard streams,
arguments, environment and working directory to the server, passes signals on, and ends as the forked process does. If
it is killed, so are that process and its group. The server ends with the process that started it.

The forked process has its own process id and session, the resource limits of the server, and one thread for computing.
A test that is about these, about imports or about a terminal takes `sys.executable`.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy

# What takes long when commands import it. Not rclpy, which starts threads, nor what reads variables of the environment
# at import, as huggingface_hub does.
IMPORTS = (
    "torch._dynamo",  # by every optimizer
    "torch.utils.tensorboard",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "gr00t_training.cli.dataset",
    "gr00t_training.cli.evaluate",
    "gr00t_training.cli.finetune",
    "gr00t_training.cli.serve",
    "gr00t_recorder.bag.convert_cli",
)
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # passed on
SETTABLE = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")  # other PYTHON variables must be those of the server
_servers: list[subprocess.Popen[bytes]] = []  # one at most; kept, so that its pipe stays open
_CLIENT = """#!{python} -IS
import os, signal, sys

early = []
deliver = early.append
ignored = [number for number in {signals} if signal.getsignal(number) is signal.SIG_IGN]
for number in {signals}:
    if number not in ignored:
        signal.signal(number, lambda number, _: deliver(number))
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
variables = {{name: os.environ[name] for name in os.environ if name.startswith("PYTHON") and name not in {settable}}}
is_known = words and (words[0] in ("-c", "-m", "-") or os.path.isfile(words[0]))
if variables != {variables} or (name == "python" and not is_known):
    program = {python!r} if name == "python" else os.path.join(os.path.dirname({python!r}), name)
    os.execv(program, [program, *words])

import json, socket

mask = os.umask(0)
os.umask(mask)
request = json.dumps([name, words, dict(os.environ), os.getcwd(), mask, ignored]).encode()
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
deliver = lambda number: server.send(bytes([number]))
for number in early:
    deliver(number)
answer = server.recv(4)
code = os.waitstatus_to_exitcode(int.from_bytes(answer, "big")) if answer else 70
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def python() -> str:
    """Return the path of the executable that takes the place of `sys.executable`."""
    return str(programs() / "python")


@cache
def programs() -> Path:
    """Return a folder with `python` and the commands of the suite; starts the server, but does not wait for it."""
    folder = Path(tempfile.mkdtemp(prefix="forked_python_"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "server"))
        listener.listen(100)
        # its end of this pipe, which is never written to, tells it that this process has ended
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), str(folder), *IMPORTS],
            stdin=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # read at import; more would start threads before the fork
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        _servers.append(server)
    client = _CLIENT.format(
        python=sys.executable,
        address=str(folder / "server"),
        signals=tuple(map(int, SIGNALS)),
        settable=SETTABLE,
        variables={key: os.environ[key] for key in os.environ if key.startswith("PYTHON") and key not in SETTABLE},
    )
    for name in ("python", *(path.name for path in Path(sys.executable).parent.glob("gr00t*"))):
        (folder / name).write_text(client)
        (folder / name).chmod(0o755)
    return folder


@dataclass(frozen=True)
class _Request:
    """What a client asks for."""

    name: str  # python, or a command
    words: list[str]
    environment: Mapping[str, str]
    folder: str
    mask: int
    ignored: list[int]  # signals
    streams: list[int]


def main() -> None:
    """Serve requests at a listening socket; each forked process returns from here into what was asked for."""
    listener, folder = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    for name in sys.argv[3:]:
        with suppress(ImportError):
            import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy the pages
    request = _serve(listener)
    if request is not None:
        _become(request)
    else:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@dataclass(frozen=True)
class _Process:
    """A forked process and its client."""

    pid: int
    end: int  # descriptor; readable when the process has ended
    client: socket.socket


def _serve(listener: socket.socket) -> _Request | None:
    """Fork for each client; return its request in the forked process, and None in this one at the end."""
    selector = selectors.DefaultSelector()
    for each in (listener, 0):
        selector.register(each, selectors.EVENT_READ)
    running: dict[object, _Process] = {}  # by client and by end
    while True:
        for ready in [key.fileobj for key, _ in selector.select()]:
            if ready is listener:
                client, _ = listener.accept()
                request = _receive(client)
                if request is None:  # killed at its start
                    continue
                pid = os.fork()
                if pid == 0:
                    _close(selector, listener, client, *running)
                    return request
                for stream in request.streams:
                    os.close(stream)
                process = _Process(pid, os.pidfd_open(pid), client)
                for each in (process.client, process.end):
                    selector.register(each, selectors.EVENT_READ)
                    running[each] = process
            elif ready == 0:
                for process in running.values():
                    _kill(process.pid)
                return None
            elif ready in running:
                process = running[ready]
                if ready is process.client:
                    numbers = process.client.recv(100)
                    for number in numbers:
                        os.kill(process.pid, number)
                    if numbers:
                        continue
                    _kill(process.pid)
                for each in (process.client, process.end):
                    selector.unregister(each)
                    del running[each]
                _, status = os.waitpid(process.pid, 0)
                with suppress(OSError):  # killed
                    process.client.send(status.to_bytes(4, "big"))
                _close(process.client, process.end)


def _receive(client: socket.socket) -> _Request | None:
    length, streams, _, _ = socket.recv_fds(client, 8, 3)
    text = b""
    while len(text) < int.from_bytes(length, "big"):
        part = client.recv(1 << 20)
        if not part:
            break
        text += part
    if not text or len(text) < int.from_bytes(length, "big"):
        _close(client, *streams)
        return None
    return _Request(*json.loads(text), streams=streams)


def _close(*opened: Any) -> None:
    for each in opened:
        os.close(each) if isinstance(each, int) else each.close()


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # it may not have its group yet
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _become(request: _Request) -> None:
    """Make this process what the request asks for, and run it."""
    os.setsid()
    for number in SIGNALS:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request.ignored else default)
    for target, stream in enumerate(request.streams):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(request.folder)
    os.umask(request.mask)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    assert isinstance(sys.stdout, TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty() or bool(os.environ.get("PYTHONUNBUFFERED")))
    numpy.random.seed()  # the module's own generator; others are seeded when they are made, `random` after each fork
    _end(lambda: _run(request.name, request.words))


def _end(run: Callable[[], None]) -> None:
    """Run, and end as Python does, but without taking everything apart, which takes a second: it copies the pages."""
    code: object = 0
    is_interrupted = False
    try:
        run()
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code, is_interrupted = 1, isinstance(error, KeyboardInterrupt)
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] - waits for threads, as Python does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if is_interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def _run(name: str, words: list[str]) -> None:
    """Do what `python WORD...`, or a command, does."""
    module = sys.modules["__main__"] = ModuleType("__main__")
    if name != "python":
        words = [str(Path(sys.executable).with_name(name)), *words]
    first, *rest = words
    if first == "-m":
        sys.path[0], sys.argv = os.getcwd(), ["-m", *rest[1:]]
        runpy._run_module_as_main(rest[0])  # pyright: ignore[reportAttributeAccessIssue] - what `python -m` calls
        return
    if first == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        code = compile(rest[0], "<string>", "exec")
    elif first == "-":
        sys.path[0], sys.argv = "", words
        code = compile(sys.stdin.read(), "<stdin>", "exec")
    else:
        sys.path[0], sys.argv = str(Path(first).resolve().parent), words
        module.__file__ = first
        code = compile(Path(first).read_bytes(), first, "exec")
    exec(code, module.__dict__)


if __name__ == "__main__":
    main()
