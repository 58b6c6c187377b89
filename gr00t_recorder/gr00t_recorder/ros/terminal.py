# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_record`: operate a running recorder_node from a terminal, over ssh as well.

It only talks to the recorder's services and reads its status, so it may be closed and opened again at any time.
"""

from __future__ import annotations

import argparse
import codecs
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType, TracebackType
from typing import Any

import rclpy
from gr00t_msgs.msg import EpisodeMarks, RecorderStatus, StreamStatus
from gr00t_msgs.srv import DiscardLastEpisode, MarkEpisode, RedoEpisode, SetTask, StartEpisode, StopEpisode
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import Trigger

from gr00t_recorder.ros.node_arguments import parse_with_ros_args
from gr00t_recorder.ros.screen import LineEditor, StreamView, View, paint, render
from gr00t_recorder.ros.status import ANSWERS, STATES
from gr00t_training.cli.command import run_command
from gr00t_training.cli.parser import CommandParser
from gr00t_training.errors import ConfigError

MAX_TIMEOUT_S = 86400.0
QUESTION_S = 10.0  # an unanswered question is withdrawn
YES_KEYS, NO_KEYS = ("y", "u"), ("n", "\x1b", "\r", "\n")
START_SERVICE = "/start_episode"
START_TYPE = "gr00t_msgs/srv/StartEpisode"
FRAME_S = 0.1
ONCE_SETTLE_S = 0.3  # discovery may know of one recorder a moment before the other
NAMES = {
    RecorderStatus.IDLE: "idle",
    RecorderStatus.RECORDING: "recording",
    RecorderStatus.SAVING: "saving",
    RecorderStatus.FAILED: "failed",
}
STREAM_NAMES = {number: state.value for state, number in STATES.items()}
SAID = {number: answer for answer, number in ANSWERS.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Operate a recorder until `q`; return 0, or 2 when there is none, or no terminal."""
    return run_command("gr00t_record", lambda: _operate(arguments))


def _operate(arguments: Sequence[str] | None) -> int:
    parser = CommandParser("gr00t_record", description="Operate a running recorder_node from a terminal.")
    text = "Name of the recorder, such as /arm1/recorder (default: the only one)."
    parser.add_argument("--node", default="", metavar="NAME", help=text)
    text = "Longest wait for the recorder [s]."
    parser.add_argument("--timeout", type=_seconds, default=10.0, metavar="X", help=text)
    parser.add_argument("--once", action="store_true", help="Print the table once and end, for scripts.")
    options, ros = parse_with_ros_args(parser, arguments)
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if not options.once and not is_interactive:
        raise ConfigError("not a terminal; use --once to print the table")
    context = Context()
    rclpy.init(args=ros, context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        client = RecorderClient(context, options.node, options.timeout)
        try:
            if options.once:
                print("\n".join(line.text for line in _table(client, options.timeout)))
            else:
                Terminal(client).run()
        finally:
            client.close()
    except ExternalShutdownException:
        pass
    finally:
        context.try_shutdown()
    return 0


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0 and up to {MAX_TIMEOUT_S:g} s")
    return seconds


def _table(client: RecorderClient, timeout_s: float) -> list[Any]:
    if not client.spin_until(lambda: client.view() is not None, timeout_s):
        raise ConfigError(f"{client.name}: no status within {timeout_s:g} s; is it active? ('ros2 lifecycle get')")
    return render(client.view(), 10_000, 10_000, has_keys=False)


class RecorderClient:
    """Services and status of one recorder."""

    def __init__(self, context: Context, name: str, timeout_s: float) -> None:
        """Find the recorder.

        Raises:
            ConfigError: there is none within `timeout_s`, or several and no name was given.
        """
        self.answer = ""  # to the last request
        self._node = Node(f"gr00t_record_{os.getpid()}", context=context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._status: RecorderStatus | None = None
        self._status_s = 0.0
        self._clients: dict[str, Any] = {}
        try:
            self.name = self._find(name, timeout_s)
        except BaseException:
            self.close()
            raise
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(RecorderStatus, f"{self.name}/status", self._take_status, latched)

    def view(self) -> View | None:
        """Return what is known of the recorder, None before its first status."""
        if self._status is None:
            return None
        return view_of(self._status, self.name, time.monotonic() - self._status_s)

    def spin(self, timeout_s: float) -> None:
        """Process the messages that have arrived."""
        self._executor.spin_once(timeout_sec=timeout_s)

    def spin_until(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Process messages until the condition holds; return whether it did in time."""
        end_s = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < end_s:
            self.spin(FRAME_S)
        return bool(condition())

    def request(self, kind: Any, service: str, describe: Callable[[Any], str], **members: Any) -> None:
        """Call a service; `describe` turns its response into the answer."""
        client = self._clients.get(service)
        if client is None:
            client = self._clients[service] = self._node.create_client(kind, f"{self.name}/{service}")
        if not client.wait_for_service(1.0):
            self.answer = f"{self.name}/{service} is not available; is the recorder running?"
            return
        self.answer = "..."
        future = client.call_async(kind.Request(**members))
        future.add_done_callback(partial(self._take_answer, describe))

    def close(self) -> None:
        """Destroy the node."""
        self._executor.shutdown()
        self._node.destroy_node()

    def _find(self, name: str, timeout_s: float) -> str:
        wanted = name if not name or name.startswith("/") else "/" + name
        if not self.spin_until(lambda: self._recorders(wanted), timeout_s):
            sought = f"recorder named {wanted}" if wanted else "recorder"
            raise ConfigError(f"found no {sought} within {timeout_s:g} s; start recorder_node, or check ROS_DOMAIN_ID")
        self.spin_until(lambda: False, ONCE_SETTLE_S)
        found = self._recorders(wanted)
        if len(found) > 1:
            raise ConfigError(f"found {len(found)} recorders ({', '.join(found)}); choose one with --node")
        return found[0]

    def _recorders(self, wanted: str) -> list[str]:
        services = self._node.get_service_names_and_types()
        names = [name.removesuffix(START_SERVICE) for name, types in services if START_TYPE in types]
        return sorted(name for name in names if not wanted or name == wanted)

    def _take_status(self, message: RecorderStatus) -> None:
        self._status, self._status_s = message, time.monotonic()

    def _take_answer(self, describe: Callable[[Any], str], future: Future) -> None:
        error = future.exception()
        self.answer = f"failed: {error}" if error is not None else describe(future.result())


class Terminal:
    """The interactive screen."""

    def __init__(self, client: RecorderClient) -> None:
        self._client = client
        self._editor: LineEditor | None = None
        self._on_line: Callable[[str], None] = lambda text: None
        self._question: Question | None = None
        self._is_over = False
        self._read = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def run(self) -> None:
        """Draw the screen and handle keys until `q` or a signal."""
        drawn = ""
        with RawTerminal(self._end):
            while not self._is_over:
                size = shutil.get_terminal_size()
                lines = render(
                    self._client.view(), size.columns, size.lines, message=self._client.answer, prompt=self._prompt()
                )
                picture = paint(lines)
                if picture != drawn:
                    sys.stdout.write(picture)
                    sys.stdout.flush()
                    drawn = picture
                for key in self._keys():
                    self._press(key)
                self._client.spin(FRAME_S / 2)

    def _end(self) -> None:
        self._is_over = True

    def _prompt(self) -> str:
        if self._question is not None and not self._question.holds(self._client.view(), time.monotonic()):
            self._question = None
        if self._question is not None:
            return self._question.prompt
        return self._editor.prompt if self._editor else ""

    def _keys(self) -> str:
        """Return the characters typed within half a frame."""
        ready, _, _ = select.select([sys.stdin], [], [], FRAME_S / 2)
        if not ready:
            return ""
        read = os.read(sys.stdin.fileno(), 1024)
        if not read:  # the connection is closed
            self._end()
        if len(read) > 1 and read.startswith(b"\x1b"):
            return ""  # an arrow or function key
        return self._read.decode(read)

    def _press(self, key: str) -> None:
        if self._editor is not None:
            self._editor.press(key)
            if self._editor.is_done:
                editor, self._editor = self._editor, None
                if not editor.is_given_up:
                    self._on_line(editor.text.strip())
            return
        question, self._question = self._question, None
        if question is not None and question.holds(self._client.view(), time.monotonic()):
            if key.lower() in YES_KEYS:
                self._client.request(DiscardLastEpisode, "discard_last_episode", taken_back)
            if key.lower() in (*YES_KEYS, *NO_KEYS):
                return
        # any other key withdraws the question and has its usual effect
        action = self._actions().get(key.lower())
        if action is not None:
            action()

    def _actions(self) -> dict[str, Callable[[], None]]:
        request, view = self._client.request, self._client.view()
        return {
            "s": lambda: request(StartEpisode, "start_episode", started),
            "k": lambda: request(StopEpisode, "stop_episode", stopped, keep=True),
            "d": lambda: request(StopEpisode, "stop_episode", stopped, keep=False),
            "x": lambda: request(Trigger, "cancel_episode", lambda response: response.message),
            "r": lambda: request(RedoEpisode, "redo_episode", started),
            "u": self._ask_to_take_back,
            "y": lambda: self._mark(success=EpisodeMarks.YES),
            "n": lambda: self._mark(success=EpisodeMarks.NO),
            "v": lambda: self._mark(valid=EpisodeMarks.YES),
            "i": lambda: self._mark(valid=EpisodeMarks.NO),
            "t": lambda: self._ask("task of the next episodes", self._set_task, view.task if view else ""),
            "c": lambda: self._ask("note", lambda text: self._mark(note=text)),
            "q": self._end,
            "\x03": self._end,
        }

    def _ask(self, question: str, on_line: Callable[[str], None], text: str = "") -> None:
        self._editor, self._on_line = LineEditor(question, text), on_line

    def _ask_to_take_back(self) -> None:
        view = self._client.view()
        if view is None or view.state in ("recording", "saving") or not view.num_episodes:
            self._client.request(DiscardLastEpisode, "discard_last_episode", taken_back)  # its answer has the reason
        else:
            self._question = Question(view.num_episodes, time.monotonic() + QUESTION_S)

    def _set_task(self, text: str) -> None:
        self._client.request(SetTask, "set_task", lambda response: response.error_msg or "task set", task=text)

    def _mark(self, **marks: Any) -> None:
        self._client.request(MarkEpisode, "mark_episode", marked, marks=EpisodeMarks(**marks))


@dataclass(frozen=True)
class Question:
    """Ask whether to take the last episode out of the dataset; one key answers."""

    num_episodes: int  # when it was asked
    until_s: float  # on the monotonic clock

    @property
    def prompt(self) -> str:
        """Text on the screen."""
        return f"take episode {self.num_episodes - 1} out of the dataset? [y] yes  [n] no"

    def holds(self, view: View | None, now_s: float) -> bool:
        """Whether the recorder has not changed since the question."""
        is_idle = view is not None and view.state not in ("recording", "saving")
        return is_idle and view is not None and view.num_episodes == self.num_episodes and now_s < self.until_s


class RawTerminal:
    """Read keys one by one on an alternate screen; the terminal is always restored afterwards."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, on_signal: Callable[[], None]) -> None:
        self._on_signal = on_signal
        self._file = sys.stdin.fileno()

    def __enter__(self) -> RawTerminal:
        self._settings = termios.tcgetattr(self._file)
        self._handlers = {number: signal.signal(number, self._stop) for number in self.SIGNALS}
        tty.setcbreak(self._file)
        sys.stdout.write("\x1b[?1049h\x1b[?25l")  # alternate screen, no cursor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            sys.stdout.write("\x1b[0m\x1b[?25h\x1b[?1049l")
            sys.stdout.flush()
        finally:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._settings)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._on_signal()


def view_of(status: RecorderStatus, name: str, silent_s: float = 0.0) -> View:
    """Return what the screen shows of a status."""
    return View(
        node=name,
        state=NAMES.get(status.state, f"state {status.state}"),
        reason=status.reason,
        warning=status.warning,
        dataset=status.dataset_path,
        episode_index=status.episode_index,
        num_episodes=status.episodes,
        task=status.task,
        num_frames=status.frames,
        num_queued=status.queued,
        num_spilled=status.spilled,
        progress=status.progress,
        duration_s=status.duration,
        success=SAID.get(status.marks.success),
        valid=SAID.get(status.marks.valid),
        note=status.marks.note,
        has_ended_by_itself=status.ended_by_itself,
        can_redo=status.can_redo,
        free_bytes=status.disk_free,
        left_s=status.disk_duration,
        bag_path=status.bag_path,
        bag_messages=status.bag_messages,
        bag_dropped=status.bag_dropped,
        streams=[_stream_view(stream) for stream in status.streams],
        silent_s=silent_s,
    )


def _stream_view(stream: StreamStatus) -> StreamView:
    return StreamView(
        name=stream.name,
        topic=stream.topic,
        state=STREAM_NAMES.get(stream.state, f"state {stream.state}"),
        reason=stream.reason,
        rate_hz=stream.rate,
        age_s=None if stream.age < 0 else stream.age,
        used=stream.used,
        late=stream.late,
        dropped=stream.dropped,
    )


def started(response: Any) -> str:
    """Return the answer to a request to start or redo an episode, for people."""
    return response.error_msg or f"recording episode {response.episode_index}"


def stopped(response: StopEpisode.Response) -> str:
    """Return the answer to a request to stop an episode, for people."""
    if response.error_code:
        return response.error_msg
    if not response.frames:
        return "discarded"
    early = f"; it ended early: {response.error_msg}" if response.error_msg else ""
    return f"saved episode {response.episode_index}: {response.frames} rows{early}"


def taken_back(response: DiscardLastEpisode.Response) -> str:
    """Return the answer to a request to take the last episode out, for people."""
    return response.error_msg or f"took episode {response.episode_index} out; its files are in {response.moved_to}"


def marked(response: MarkEpisode.Response) -> str:
    """Return the answer to a request to mark an episode, for people."""
    return response.error_msg or f"marked episode {response.episode_index}"


if __name__ == "__main__":
    sys.exit(main())
