# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Robots for `bench/serve.py`: open-loop clients, many in one process, each with its own connection.

Open loop: a robot asks at its rate whether or not the last answer has come, and a time counts from the moment at which
it was to ask. Every `CYCLE` requests it starts an episode, so that the noise of a request is that of its place in the
cycle, for every robot. A robot whose connection is lost connects again when it is to ask next, and starts an episode.

The marker of a robot is an earlier chunk that its answers continue: their first rows start from it instead of noise, so
that a row of another robot's is far away. Image and state alone move the answers of random weights too little.
"""

from __future__ import annotations

import gc
import heapq
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gr00t_training.embodiment import Embodiment
from gr00t_training.serve import zmtp
from gr00t_training.serve.images import ImageForm
from gr00t_training.serve.messages import read_reply, write_request
from gr00t_training.serve.wire import Wire, pack, unpack
from gr00t_training.types import ActionChunk, Continuation, Observation
from gr00t_training.upstream.keys import published_language

CYCLE = 4  # requests of an episode
MARKED_ROWS = 4
MAX_REPLY_BYTES = 2**20
PATIENCE_S = 60.0  # for an answer where nothing else is asked
LAST_S = 2.0  # for the last answers of a trial
WORDS = ("red", "blue", "green", "yellow")  # prompts of one length


@dataclass
class Asked:
    """A request of a robot."""

    due_s: float
    place: int | None  # in its episode; None: the start of one
    answered_s: float | None = None
    actions: np.ndarray | None = None  # of all keys, flat; None: refused, or not answered
    error: str = ""


@dataclass
class Trial:
    """What a process of robots is to do."""

    port: int
    robots: Sequence[int]
    rate_hz: float
    seconds: float
    valid_s: float
    form: ImageForm
    is_marked: bool
    begin_s: float  # on the monotonic clock, which processes of one machine share
    num_checkpoints: int = 1  # robots use them in turn


@dataclass
class Robot:
    """A connection, and what was asked over it."""

    stream: socket.socket
    receiver: zmtp.Receiver
    message: bytes
    reset: bytes
    asked: list[Asked] = field(default_factory=list)
    outbox: deque[memoryview] = field(default_factory=deque)
    is_lost: bool = False

    def flush(self) -> None:
        """Send as much as the server accepts now."""
        while self.outbox:
            try:
                count = self.stream.send(self.outbox[0])
            except BlockingIOError:
                return
            except OSError:  # `receive` finds it lost
                self.outbox.clear()
                return
            part = self.outbox.popleft()
            if count < len(part):
                self.outbox.appendleft(part[count:])

    def ask(self, message: bytes, place: int | None, due_s: float) -> None:
        """Send a request; its number is the part that routes the reply."""
        number = len(self.asked).to_bytes(4, "big")
        self.asked.append(Asked(due_s, place))
        self.outbox.extend(memoryview(part) for part in zmtp.frames([number, b"", message]))
        self.flush()

    def receive(self, embodiment: Embodiment) -> bool:
        """Read what has come; return whether the connection is still open."""
        try:
            while (event := self.receiver.receive()) is not None:
                if isinstance(event, zmtp.Message):
                    self._take(event, embodiment)
        except ConnectionError:
            self.is_lost = True
            return False
        return True

    def connect_again(self, port: int) -> bool:
        """Replace a lost connection, whose requests stay unanswered; return whether there is one now."""
        try:
            other = _connect(port, self.message, self.reset)
        except (OSError, AssertionError):
            return False
        self.stream.close()
        self.stream, self.receiver, self.outbox, self.is_lost = other.stream, other.receiver, other.outbox, False
        return True

    def _take(self, message: zmtp.Message, embodiment: Embodiment) -> None:
        asked = self.asked[int.from_bytes(message.parts[0], "big")]
        asked.answered_s = time.monotonic()
        reply = unpack(message.parts[-1])[0]
        if isinstance(reply, dict) and "error" in reply:
            asked.error = str(reply["error"])
        elif asked.place is not None:
            (actions,) = read_reply(reply, Wire.N1_7, embodiment, 1)
            asked.actions = np.concatenate([actions[key].ravel() for key in embodiment.action_keys]).astype(np.float32)


def checkpoint_name(number: int) -> str:
    """Return the name of a server's checkpoint."""
    return f"checkpoint_{number}"


def make_message(
    embodiment: Embodiment, robot: int, form: ImageForm, valid_s: float, is_marked: bool, num_checkpoints: int = 1
) -> bytes:
    """Return a robot's request: its own image, state, instruction and, if it is marked, chunk to continue."""
    rng = np.random.default_rng(robot)
    images = {key: _picture(rng, video.height, video.width)[None] for key, video in embodiment.video.items()}
    state = {key: rng.uniform(-1, 1, (1, vector.dim)) for key, vector in embodiment.state.items()}
    data = write_request(
        [Observation(images, state, f"lift the {WORDS[robot % len(WORDS)]} cube")],
        Wire.N1_7,
        embodiment,
        language=published_language(embodiment.language),
        state_dtype=np.float64,
        images=form,
        continuation=_marker(rng, embodiment) if is_marked else None,
    )
    options = {"valid_s": valid_s, "float64": True, "wire": Wire.N1_7.value, **_chosen(robot, num_checkpoints)}
    return pack({"endpoint": "get_action", "data": data, "client": options}, Wire.N1_7)


def make_reset(robot: int, num_checkpoints: int = 1) -> bytes:
    """Return a robot's request to start an episode."""
    chosen = _chosen(robot, num_checkpoints)
    return pack({"endpoint": "reset", "data": {"options": None}, "client": chosen}, Wire.N1_7)


def _chosen(robot: int, num_checkpoints: int) -> dict[str, str]:
    return {"checkpoint": checkpoint_name(robot % num_checkpoints)} if num_checkpoints > 1 else {}


def _marker(rng: np.random.Generator, embodiment: Embodiment) -> Continuation:
    rows = {key: rng.uniform(-0.8, 0.8, (MARKED_ROWS, embodiment.action[key].dim)) for key in embodiment.action_keys}
    return Continuation(ActionChunk(rows, 0, embodiment.step_ns), frozen_steps=1)


def answers_alone(
    port: int, embodiment: Embodiment, count: int, form: ImageForm, is_marked: bool, num_checkpoints: int = 1
) -> np.ndarray:
    """Return what each robot is answered when nobody else asks, `(robots, CYCLE, numbers)`."""
    found = []
    for number in range(count):
        message = make_message(embodiment, number, form, PATIENCE_S, is_marked, num_checkpoints)
        robot = _connect(port, message, make_reset(number, num_checkpoints))
        for place in (None, *range(CYCLE)):
            robot.ask(robot.reset if place is None else robot.message, place, time.monotonic())
            while robot.asked[-1].answered_s is None:
                _wait(robot)
                assert robot.receive(embodiment), "the server closed the connection"
        assert not any(asked.error for asked in robot.asked), [asked.error for asked in robot.asked]
        found.append([asked.actions for asked in robot.asked if asked.actions is not None])
        robot.stream.close()
    return np.array(found)


def drive(trial: Trial, embodiment: Embodiment) -> list[list[Asked]]:
    """Let robots ask; return what each of them was answered."""
    gc.disable()  # a pause of this process would be taken for one of the server
    count = trial.num_checkpoints
    messages = [make_message(embodiment, i, trial.form, trial.valid_s, trial.is_marked, count) for i in trial.robots]
    robots = [
        _connect(trial.port, message, make_reset(i, count)) for i, message in zip(trial.robots, messages, strict=True)
    ]
    selector = selectors.DefaultSelector()
    for robot in robots:
        selector.register(robot.stream, selectors.EVENT_READ, robot)
    period_s = 1 / trial.rate_hz
    rng = np.random.default_rng(trial.robots[0])
    due = [(trial.begin_s + phase, i) for i, phase in enumerate(rng.uniform(0, period_s, len(robots)))]
    heapq.heapify(due)
    end_s = trial.begin_s + trial.seconds
    while (now_s := time.monotonic()) < end_s + LAST_S and (now_s < end_s or not _are_answered(robots)):
        while due and due[0][0] <= now_s:
            due_s, i = heapq.heappop(due)
            if robots[i].is_lost and robots[i].connect_again(trial.port):
                selector.register(robots[i].stream, selectors.EVENT_READ, robots[i])
                _start_episode(robots[i], due_s)
            elif robots[i].is_lost:
                robots[i].asked.append(Asked(due_s, 0, error="no server"))
            else:
                _ask_next(robots[i], due_s)
            if due_s + period_s < end_s:
                heapq.heappush(due, (due_s + period_s, i))
        for key, _ in selector.select(max(0.0, min(due[0][0] if due else end_s + LAST_S, now_s + 0.01) - now_s)):
            if not key.data.receive(embodiment):
                selector.unregister(key.fileobj)
        for robot in robots:
            robot.flush()
    for robot in robots:
        robot.stream.close()
    return [robot.asked for robot in robots]


def _ask_next(robot: Robot, due_s: float) -> None:
    place = (robot.asked[-1].place or 0) + 1 if robot.asked else CYCLE
    if place == CYCLE:
        _start_episode(robot, due_s)
    else:
        robot.ask(robot.message, place, due_s)


def _start_episode(robot: Robot, due_s: float) -> None:
    robot.ask(robot.reset, None, due_s)
    robot.ask(robot.message, 0, due_s)


def _are_answered(robots: Sequence[Robot]) -> bool:
    return all(asked.answered_s is not None for robot in robots for asked in robot.asked if not robot.is_lost)


def _connect(port: int, message: bytes, reset: bytes) -> Robot:
    stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setblocking(False)
    robot = Robot(stream, zmtp.Receiver(stream, MAX_REPLY_BYTES), message, reset)
    robot.outbox.extend([memoryview(zmtp.GREETING), memoryview(zmtp.ready("DEALER"))])
    # as a client checks its server first, which makes the connection a trusted one
    robot.outbox.extend(memoryview(part) for part in zmtp.frames([b"", pack({"endpoint": "ping"}, Wire.N1_7)]))
    while not isinstance(robot.receiver.receive(), zmtp.Message):
        _wait(robot)
    return robot


def _wait(robot: Robot) -> None:
    """Send, and wait until the server does."""
    robot.flush()
    with selectors.DefaultSelector() as selector:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if robot.outbox else 0)
        selector.register(robot.stream, events)
        assert selector.select(PATIENCE_S), "no answer"


def _picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return an image whose JPEG is as large as that of a camera: shapes and a little noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / rng.uniform(9, 60) + columns / rng.uniform(9, 60) + rng.uniform(0, 6)) for _ in range(3)]
    image = 128 + 90 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)
