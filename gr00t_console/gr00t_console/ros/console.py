# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_console`: operate robot, recorder and policy in a browser."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import rclpy
import uvicorn
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from gr00t_bringup.views.joints import JointRow
from gr00t_console.access import MIN_TOKEN, Access
from gr00t_console.actions import add_actions
from gr00t_console.board import Board
from gr00t_console.checkup import examining
from gr00t_console.datasets import Shelf
from gr00t_console.lease import TIMEOUT_S
from gr00t_console.operator import Operator
from gr00t_console.ros.bridge import BridgeSettings, RosRobot
from gr00t_console.ros.fleet_watch import FleetWatch
from gr00t_console.ros.previews import MAX_RATE_HZ, MIN_RATE_HZ
from gr00t_console.routes import make_router
from gr00t_console.runs import Runs
from gr00t_console.server import MAX_BROWSERS, create_app, new_token
from gr00t_console.trial_desk import TrialDesk
from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import TerminatedError, run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError
from gr00t_training.io.files import read_text
from gr00t_training.io.text import check_instruction
from gr00t_training.serve.access import bind_address, find_token

if TYPE_CHECKING:
    from gr00t_console.webrtc import VideoDesk

NAME = "gr00t_console"
PORT = 8600
JOG_SHARE = 0.15  # of max_velocity, while a joint's button is held
MIN_LOST_S, MAX_LOST_S = 0.5, 30.0
SPIN_S = 0.2
TASKS_LIMIT = 2**20  # [bytes]
LAST_ANSWERS_S = 1  # for open requests at the end


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until a signal; return 0 after one."""
    return run_command(NAME, lambda: _serve(*parse_with_ros_args(_parser(), arguments)))


def _parser() -> CommandParser:
    parser = CommandParser(NAME, description=__doc__)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="Address to listen on; 0.0.0.0: all interfaces, which needs a token.",
    )
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help="TCP port; 0: any free one.")
    text = "File with the token (default: a new one at each start, where one is needed)."
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=text)
    parser.add_argument("--policy", default="policy", metavar="NAME", help="Name of the policy node (default: policy).")
    text = "Name of the recorder node (default: recorder)."
    parser.add_argument("--recorder", default="recorder", metavar="NAME", help=text)
    add(parser, "--topics", "(default: that of the nodes)")
    text = "Joint limits (YAML) (default: those of the policy node)."
    parser.add_argument("--limits", type=Path, metavar="FILE", help=text)
    text = "Silence of the browser in control after which the robot is held [s]."
    parser.add_argument("--lost-after", type=_lost_after, default=TIMEOUT_S, metavar="X", help=text)
    text = "Datasets to show, or folders with datasets; that of the recorder is shown anyway."
    parser.add_argument("--datasets", type=Path, nargs="+", default=[], metavar="FOLDER", help=text)
    text = "Folders of fine-tunes, or folders with some."
    parser.add_argument("--runs", type=Path, nargs="+", default=[], metavar="FOLDER", help=text)
    text = "Table of the trials that are judged at the page."
    parser.add_argument("--trials", type=Path, default=Path("trials.csv"), metavar="FILE", help=text)
    text = "Task texts to offer, one per line; those of the recorder's dataset are offered anyway."
    parser.add_argument("--task-list", type=Path, metavar="FILE", help=text)
    text = "Pictures of a camera per second."
    parser.add_argument("--picture-rate", type=_rate, default=5.0, metavar="X", help=text)
    text = "Send pictures as video over WebRTC, by aiortc; a browser that it does not reach gets JPEG."
    parser.add_argument("--webrtc", action="store_true", help=text)
    return parser


def _rate(text: str) -> float:
    rate = float(text)
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise argparse.ArgumentTypeError(f"{text} is not a rate from {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g} Hz")
    return rate


def _lost_after(text: str) -> float:
    seconds = float(text)
    if not MIN_LOST_S <= seconds <= MAX_LOST_S:
        raise argparse.ArgumentTypeError(f"{text} is not a time from {MIN_LOST_S:g} to {MAX_LOST_S:g} s")
    return seconds


def _serve(options: argparse.Namespace, ros: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(_listen(options.host, options.port))
        token = _token(options, listener)
        board, pictures = Board(), Board()
        videos = _videos(pictures) if options.webrtc else None
        shelf, desk, runs = Shelf(options.datasets), TrialDesk(options.trials), Runs(options.runs)
        tasks = _tasks(options.task_list)
        settings = BridgeSettings(
            options.policy, options.recorder, options.topics, options.limits, options.picture_rate
        )
        reading = opened.enter_context(ThreadPoolExecutor(1, "datasets"))
        robot = opened.enter_context(_robot(ros, board, pictures, settings, _page(listener, token)))
        operator = Operator(robot, board, lost_after_s=options.lost_after)
        add_actions(operator, robot, board, shelf, desk)
        robot.on_joints = lambda rows: operator.set_jog_speeds(_jog_speeds(rows))
        opened.enter_context(examining(board, options.topics))
        robot.on_policy = lambda view: desk.observe(view, time.monotonic())

        def on_recorder(path: str) -> None:
            reading.submit(_show_tasks, board, shelf, tasks, path)

        robot.on_recorder = on_recorder
        board.post("webrtc", options.webrtc)
        app = create_app(
            operator,
            board,
            pictures,
            Access(token),
            make_router(shelf, desk, runs),
            lambda: _announce(listener, token),
            videos,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=2**16,
            server_header=False,
            timeout_graceful_shutdown=LAST_ANSWERS_S,
        )
        server = uvicorn.Server(config)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup; the server handles the other signals
            signal.signal(signal.SIGHUP, lambda number, frame: setattr(server, "should_exit", True))
        try:
            # a node ends with code 0 after a signal
            with contextlib.suppress(KeyboardInterrupt, TerminatedError):
                server.run(sockets=[listener])
        finally:
            operator.close()


def _videos(pictures: Board) -> VideoDesk:
    try:
        from gr00t_console.webrtc import VideoDesk  # an extra of the package
    except ImportError as error:
        raise ConfigError(f"--webrtc needs aiortc, which cannot be imported ({error}): pip install aiortc") from error
    return VideoDesk(pictures, max_browsers=MAX_BROWSERS)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}, expected 0 to 65535")
    address = bind_address(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port}: cannot listen ({error.strerror}); choose another --port") from error
    return listener


def _token(options: argparse.Namespace, listener: socket.socket) -> str | None:
    """Return the token that the page needs, None on the loopback interface without a file."""
    if options.token_file is not None:
        token = find_token(file=options.token_file)
        if token is None or len(token) < MIN_TOKEN:
            raise ConfigError(f"{options.token_file}: token is shorter than {MIN_TOKEN} characters; choose another")
        return token
    address = str(listener.getsockname()[0])
    return None if address.startswith("127.") or address == "::1" else new_token()


def _tasks(file: Path | None) -> list[str]:
    if file is None:
        return []
    lines = read_text(file, ConfigError, TASKS_LIMIT).splitlines()
    return [check_instruction(line.strip(), f"{file}:{i}") for i, line in enumerate(lines, start=1) if line.strip()]


def _show_tasks(board: Board, shelf: Shelf, tasks: Sequence[str], path: str) -> None:
    """Post the tasks with their numbers of episodes; `path` is the dataset of an active recorder, or empty."""
    shelf.set_recording(path)
    counts = dict.fromkeys(tasks, 0) | dict(shelf.task_counts(path) if path else [])
    board.post("tasks", list(counts.items()))
    board.post("datasets_changed", {"at_s": time.monotonic()})


def _announce(listener: socket.socket, token: str | None) -> None:
    print(f"operator page: {_page(listener, token)}{f'?token={token}' if token else ''}", flush=True)


def _page(listener: socket.socket, token: str | None) -> str:
    """Return the address of the page, without its token."""
    address, port = listener.getsockname()[:2]
    host = "localhost" if token is None else _reachable(address)
    return f"http://{host}:{port}/"


def _reachable(address: str) -> str:
    if address in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{address}]" if ":" in address else address


def _jog_speeds(rows: tuple[JointRow, ...]) -> dict[str, float]:
    return {row.name: JOG_SHARE * row.max_velocity for row in rows if row.is_commanded and row.max_velocity}


@contextlib.contextmanager
def _robot(ros: list[str], board: Board, pictures: Board, settings: BridgeSettings, page: str) -> Iterator[RosRobot]:
    """Run the node in a thread of its own."""
    context = Context()
    rclpy.init(args=ros, context=context, signal_handler_options=SignalHandlerOptions.NO)
    with contextlib.ExitStack() as opened:
        opened.callback(context.try_shutdown)
        node = Node(f"gr00t_console_{os.getpid()}", context=context, enable_rosout=False)
        opened.callback(node.destroy_node)
        executor = SingleThreadedExecutor(context=context)
        opened.callback(executor.shutdown)
        executor.add_node(node)
        robot = RosRobot(node, board, pictures, settings)
        opened.callback(robot.close)
        FleetWatch(node, board).announce(page, settings.policy)
        is_over = threading.Event()

        def spin() -> None:
            with contextlib.suppress(ExternalShutdownException):
                while not is_over.is_set():
                    executor.spin_once(timeout_sec=SPIN_S)
                end_s = time.monotonic() + LAST_ANSWERS_S
                while robot.is_answer_due and time.monotonic() < end_s:
                    executor.spin_once(timeout_sec=SPIN_S)

        thread = threading.Thread(target=spin, name="ros", daemon=True)
        thread.start()
        opened.callback(thread.join)
        opened.callback(is_over.set)
        yield robot
