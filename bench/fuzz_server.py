# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hostile messages for `fuzz_inputs.py --kinds server`: before and after the token, as requests, bytes and replies.

A case is `MESSAGES` messages in one process. Three quarters of the cases hand them to a server's own code in process,
an eighth sends them as mutated bytes to a server on loopback, with an honest client before and after, and an eighth
gives them to a client as replies. Promised for every message: at most `CPU_S` of processor time and `GROWTH_BYTES` of
memory beyond its own size, an answer that is an error in printable text or finite actions, and nothing but one error
for whoever does not know the token.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from bench.fixed_policy import FixedPolicy, make_observation
from gr00t_test_support.builders import make_embodiment
from gr00t_training.errors import ServerError
from gr00t_training.serve import zmtp
from gr00t_training.serve.client import PolicyClient
from gr00t_training.serve.images import ImageForm, encode_images
from gr00t_training.serve.messages import write_request
from gr00t_training.serve.server import PolicyServer, ServerSettings
from gr00t_training.serve.waiting import Client
from gr00t_training.serve.wire import EncodedImages, Wire, pack, unpack
from gr00t_training.types import ActionChunk, Continuation

MESSAGES = 20
CPU_S = 1.0
GROWTH_BYTES = 128 * 2**20
TOKEN = "correct horse"
UNAUTHORIZED = {"error": "Unauthorized: Invalid API token"}
EMBODIMENT = make_embodiment()
Command = Callable[[], int]


class Context:
    """What all cases need."""

    def __init__(self) -> None:
        """Write honest requests and replies in every form."""
        observation = make_observation(EMBODIMENT)
        forms = [ImageForm.RAW, ImageForm.JPEG, ImageForm.PNG]
        images = {form: encode_images(observation.images["front"][None], form) for form in forms}
        self.files = [image for form in forms[1:] for image in _files(images[form])]
        chunk = ActionChunk({"arm": np.zeros((16, 3)), "gripper": np.zeros((16, 1))}, 0, EMBODIMENT.step_ns)
        self.requests: list[tuple[dict, Wire]] = []
        for wire in Wire:
            for form in forms:
                for count in (1, 2):
                    continuation = Continuation(chunk, 2) if count == 1 and wire is Wire.N1_7 else None
                    data = write_request(
                        [observation] * count,
                        wire,
                        EMBODIMENT,
                        language="annotation.human.task_description",
                        state_dtype=np.float64,
                        images=form,
                        continuation=continuation,
                    )
                    self.requests.append(({"endpoint": "get_action", "data": data}, wire))
        self.requests += [
            ({"endpoint": name}, Wire.N1_7) for name in ("ping", "health", "reset", "get_modality_config")
        ]
        self.requests.append(({"endpoint": "kill", "client": {"valid_s": 1.0, "float64": True}}, Wire.N1_7))
        actions = {key: values[None] for key, values in chunk.actions.items()}
        self.replies = [[actions, {}], {"error": "busy"}, {"status": "ok"}]


def _files(images: np.ndarray | EncodedImages) -> tuple:
    return images.files if isinstance(images, EncodedImages) else ()


def prepare(scratch: Path) -> Context:
    """Write the honest messages that are mutated."""
    logging.disable(logging.CRITICAL)
    context = Context()
    with _server() as server:
        for endpoint in ("health", "get_modality_config"):
            for wire in Wire:
                request = {"endpoint": endpoint, "api_token": TOKEN, "client": {"wire": wire.value}}
                context.replies.append(_handled(server, [pack(request, wire)]))
    return context


def case(context: Context, rng: random.Random, folder: Path) -> Iterator[tuple[str, Command]]:
    """Yield one batch of messages."""
    place = rng.randrange(8)
    if place == 0:
        streams = [_stream(context, rng) for _ in range(MESSAGES)]
        yield "loopback", lambda: _try_loopback(streams)
    elif place == 1:
        replies = [_mutated(rng, context, rng.choice(context.replies), Wire.N1_7) for _ in range(MESSAGES)]
        yield "client", lambda: _try_client(replies)
    else:
        messages = [_request(context, rng) for _ in range(MESSAGES)]
        yield "in process", lambda: _try_server(messages)


# Messages.


def _request(context: Context, rng: random.Random) -> tuple[bytes, bool]:
    """Return a hostile request, and whether it may hold the token."""
    content, wire = rng.choice(context.requests)
    knows = rng.random() < 0.6
    token = TOKEN if knows else rng.choice([None, "", "x", TOKEN[:-1], TOKEN.encode(), [TOKEN], {"": TOKEN}, 5])
    return _mutated(rng, context, {**content, "api_token": token}, wire, keeps="api_token"), knows


def _mutated(rng: random.Random, context: Context, content: Any, wire: Wire, keeps: str = "") -> bytes:
    if rng.random() < 0.75:
        for _ in range(rng.randint(1, 3)):
            content = _with_change(rng, context, content, keeps)
    try:
        message = pack(content, wire)
    except (ServerError, ValueError, TypeError, OverflowError):
        message = b"\x93\xc0\xc0"
    return _damaged(rng, message) if rng.random() < 0.4 else message


def _with_change(rng: random.Random, context: Context, content: Any, keeps: str, depth: int = 0) -> Any:
    """Return a copy with something hostile at a random place."""
    if isinstance(content, dict) and content and (depth == 0 or rng.random() < 0.9):
        key = rng.choice([name for name in content if name != keeps] or list(content))
        if "data" in content and rng.random() < 0.8:  # where most of a request is
            return {**content, "data": _with_change(rng, context, content["data"], keeps, depth + 1)}
        kind = rng.random()
        if kind < 0.1:
            return {name: value for name, value in content.items() if name != key}
        if kind < 0.2:
            return {**content, _hostile_key(rng): content[key]}
        return {**content, key: _with_change(rng, context, content[key], keeps, depth + 1)}
    if isinstance(content, list) and content and rng.random() < 0.7:
        place = rng.randrange(len(content))
        if rng.random() < 0.2:
            return content * rng.choice([0, 2, 50])
        return [*content[:place], _with_change(rng, context, content[place], keeps, depth + 1), *content[place + 1 :]]
    if isinstance(content, np.ndarray) and content.dtype.kind in "biuf" and rng.random() < 0.6:
        return _changed_array(rng, content)
    return _hostile_value(rng, context)


def _hostile_key(rng: random.Random) -> Any:
    return rng.choice(
        ["", "\x1b[2J", "nd", b"nd", "__jpeg__", "__ndarray_class__", "__ModalityConfig__", "data", "x" * 5000, b"\xff"]
    )


def _changed_array(rng: random.Random, array: np.ndarray) -> Any:
    kind = rng.randrange(7)
    if kind == 0:
        return array.astype(rng.choice(["<f2", "<f4", ">f8", "<f16", "|b1", "<i8", "|u1", "<u2"]), casting="unsafe")
    if kind == 1:
        return np.full(array.shape, rng.choice([np.nan, np.inf, 1e308, -1e30, 2e6, -0.0, 5e-324]))
    if kind == 2:
        return np.zeros(rng.choice([(), (0,), (1,), (40, 1, 3), (1, 1), (1, 1, 1, 1, 1), (5000, 3), (1,) * 8, (0, 3)]))
    if kind == 3:
        return np.resize(np.array(["x", "y" * rng.choice([1, 900, 5000])]), rng.choice([1, 2, 3, 3000]))
    if kind == 4:
        return np.atleast_1d(array)[..., :0]
    if kind == 5:
        return np.asfortranarray(array)
    return np.concatenate([np.atleast_1d(array)] * rng.choice([2, 40]))


def _hostile_value(rng: random.Random, context: Context) -> Any:
    makers: list[Callable[[], Any]] = [
        lambda: rng.choice([None, True, -1, 0, 2**64 - 1, -(2**63), 1e308, float("nan"), float("-inf"), 0.5]),
        lambda: rng.choice(["", "\0", "\x1b]0;x\x07", "x" * 60_000, "x" * 70_000, "é" * 1001, "../..", "%s{0}"]),
        lambda: rng.choice([b"", b"\0" * 1000, bytes(2**20)]),
        lambda: [rng.choice([0, {}, [], "x", None])] * rng.choice([1, 100, 4000, 5000, 60_000]),
        lambda: [[{}] * 3000] * rng.choice([1, 3, 4]),
        lambda: _nested(rng.choice([3, 14, 17, 200])),
        lambda: ["x" * 50_000, *range(4000)],
        lambda: {str(number): number for number in range(rng.choice([3, 900, 1100]))},
        lambda: msgpack.Timestamp(rng.randrange(2**33), 0),
        lambda: {"__jpeg__": True, "shape": _shape(rng), "files": [_file(rng, context)] * rng.choice([0, 1, 2, 3000])},
        lambda: {"__jpeg__": True, "shape": [1, 1, 32, 48, 3], "files": [_file(rng, context)]},
        lambda: {
            b"nd": True,
            b"type": _type(rng),
            b"kind": b"",
            b"shape": _shape(rng),
            b"data": bytes(rng.choice([0, 8])),
        },
        lambda: {b"nd": rng.choice([True, False, 1]), b"type": _type(rng), b"data": bytes(rng.choice([1, 8, 16]))},
        lambda: {"__ndarray_class__": True, "as_npy": _npy(rng)},
        lambda: {
            "__ModalityConfig_class__": True,
            "as_json": rng.choice(["[" * 60_000, "{}", "9" * 60_000, '{"a":NaN}']),
        },
        lambda: {
            "__ModalityConfig__": True,
            "as_json": {"delta_indices": [2**63] * 3000, "modality_keys": ["x"] * 3000},
        },
    ]
    return rng.choice(makers)()


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


def _shape(rng: random.Random) -> list:
    return rng.choice(
        [
            [],
            [0],
            [2**62] * 3000,
            [1] * 40,
            [0, 2**39, 2**39],
            [2**40, 3],
            [-1],
            [1, 1, 8000, 8000, 3],
            [True],
            [1.5],
            ["x"],
        ]
    )


def _type(rng: random.Random) -> str:
    return rng.choice(
        ["<f8", "|u1", "<U4", "|S99999999", "<U999999999", "|O", "<M8[s]", "<f16", "<c8", "f" * 5000, "\x1b"]
    )


def _npy(rng: random.Random) -> bytes:
    shape = rng.choice(["()", "(1,)", "(" + "1," * 3000 + ")", "(99999999999,)", "(0,)", "(__import__('os'),)"])
    header = f"{{'descr': '{rng.choice(['<f8', '|O', '|u1'])}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = rng.choice([len(header), 0, 2**16 - 1]).to_bytes(2, "little")
    return b"\x93NUMPY" + rng.choice([b"\1\0", b"\2\0", b"\3\0"]) + size + header + bytes(rng.choice([0, 8]))


def _file(rng: random.Random, context: Context) -> bytes:
    return (
        _damaged(rng, bytes(rng.choice(context.files))) if rng.random() < 0.8 else rng.choice([b"", b"BM", b"GIF89a"])
    )


def _damaged(rng: random.Random, message: bytes) -> bytes:
    """Return bytes that were flipped, cut, doubled or given other sizes."""
    content = bytearray(message)
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = rng.randrange(len(content) + 1) if rng.random() < 0.3 else rng.randrange(min(len(content), 300) + 1)
        kind = rng.randrange(5)
        if kind == 0 and place < len(content):
            content[place] = rng.randrange(256)
        elif kind == 1:
            content[place:place] = rng.choice(
                [
                    b"\xdd\xff\xff\xff\xff",
                    b"\xdf\x7f\xff\xff\xff",
                    b"\xc6\xff\xff\xff\xff",
                    b"\x91" * 50,
                    b"\xc1",
                    b"\xc7",
                ]
            )
        elif kind == 2:
            del content[place:]
        elif kind == 3:
            del content[place : place + rng.choice([1, 2, 4, 100])]
        else:
            content[place:place] = content[place : place + rng.choice([1, 10, 1000])]
    return bytes(content)


def _stream(context: Context, rng: random.Random) -> bytes:
    """Return what a peer sends on one connection: greeting, commands and frames, one of them wrong."""
    parts = [zmtp.GREETING, zmtp.ready(rng.choice(["REQ", "DEALER", "PUB", "x" * 200]))]
    for _ in range(rng.randint(0, 3)):
        body = [b""] * rng.choice([0, 1, 1, 1, 5, 20]) + [_request(context, rng)[0]]
        parts += [zmtp.ping(), *map(bytes, zmtp.frames(body))]
    if rng.random() < 0.5:
        parts.append(
            rng.choice([b"\1\0" * 50_000, b"\2" + b"\xff" * 8, b"\2\0\0\0\0\x03\xff\xff\xff" + bytes(2**20), b"\4\0"])
        )
    content = b"".join(parts)
    return _damaged(rng, content) if rng.random() < 0.7 else content


# Trials, in a separate process.


class _Peer:
    """Stands for a connection; keeps what is sent to it."""

    def __init__(self) -> None:
        self.state = Client()
        self.is_closed = False


def _server() -> PolicyServer:
    policy = FixedPolicy(EMBODIMENT)
    return PolicyServer(policy, ServerSettings(port=0, allow_kill=False), token=TOKEN, name="fuzz")


def _handled(server: PolicyServer, parts: list[bytes]) -> Any:
    """Let a server's own code answer a message; return the reply, read."""
    replies: list[list] = []
    server._listener.send = lambda _, reply: replies.append(reply)  # type: ignore[method-assign, assignment]
    peer: Any = _Peer()
    server._receive(peer, tuple(memoryview(part) for part in parts))
    server._computing.work_off()
    while not server._answers.empty():
        answer = server._answers.get()
        assert answer is not None
        server._finish(answer)
    assert len(replies) == 1, f"{len(replies)} replies"
    return unpack(replies[0][-1])[0]


def _try_server(messages: list[tuple[bytes, bool]]) -> int:
    with _server() as server:
        for number, (message, knows_token) in enumerate(messages):
            policy: Any = server._served["fuzz"].policy
            num_inferences = policy.num_inferences
            with _bounded(number, len(message)):
                reply = _handled(server, [message])
            _check_reply(reply)
            if not knows_token:
                assert set(reply) == {"error"}, f"message {number}: answered without the token"
                assert reply == UNAUTHORIZED or "message of" in reply["error"], reply
                assert policy.num_inferences == num_inferences
        assert _handled(server, [pack({"endpoint": "ping", "api_token": TOKEN}, Wire.N1_7)])["status"] == "ok"
    return 0


def _check_reply(reply: Any) -> None:
    if isinstance(reply, dict) and set(reply) == {"error"}:
        assert reply["error"].isprintable() and len(reply["error"]) < 10_000
        assert "internal error" not in reply["error"], reply["error"]
        return
    actions = reply[0] if isinstance(reply, list) else reply
    for values in actions.values():
        if isinstance(values, np.ndarray):
            assert np.isfinite(values).all()


def _try_client(replies: list[bytes]) -> int:
    for number, reply in enumerate(replies):
        client = PolicyClient(EMBODIMENT, timeout_s=1.0)
        client._connection = _Canned(reply)  # type: ignore[assignment]
        with _bounded(number, len(reply)):
            for call in (client.ping, client.health, client.modality_config, client.check_embodiment, client.reset):
                with contextlib.suppress(ServerError):
                    client._connection = client._connection or _Canned(reply)  # type: ignore[assignment]
                    call()
            _check_inference(client, _Canned(reply))
    return 0


def _check_inference(client: PolicyClient, server: Any) -> None:
    client._connection = server
    try:
        chunk = client.infer(make_observation(EMBODIMENT))
    except ServerError as error:
        text = str(error)
    else:
        text = ""
        assert all(np.isfinite(values).all() for values in chunk.actions.values())
    assert text.isprintable() and len(text) < 10_000, text[:200]


class _Canned:
    """A connection to a server that always sends the same."""

    is_lost = False

    def __init__(self, reply: bytes) -> None:
        self._reply = memoryview(reply)

    def exchange(self, message: bytes, deadline_s: float) -> memoryview:
        return self._reply

    def close(self) -> None:
        pass


def _try_loopback(streams: list[bytes]) -> int:
    with _server() as server:
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        with PolicyClient(EMBODIMENT, port=server.port, token=TOKEN, timeout_s=30.0) as honest:
            observation = make_observation(EMBODIMENT)
            for number, stream in enumerate(streams):
                with _bounded(number, len(stream)), socket.create_connection(("127.0.0.1", server.port)) as peer:
                    peer.settimeout(5.0)
                    with contextlib.suppress(OSError):
                        peer.sendall(stream)
                        peer.shutdown(socket.SHUT_WR)
                        while peer.recv(2**16):
                            pass
                honest.infer(observation)
            assert honest.count_losses() == 0
        server.stop()
        thread.join(30.0)
        assert not thread.is_alive()
    return 0


@contextlib.contextmanager
def _bounded(number: int, size: int) -> Iterator[None]:
    _reset_peak()
    start_s, start_bytes = time.process_time(), _peak_bytes()
    yield
    used_s, grown = time.process_time() - start_s, _peak_bytes() - start_bytes
    assert used_s < CPU_S, f"message {number} of {size} bytes took {used_s:.1f} s"
    assert grown < GROWTH_BYTES + 8 * size, f"message {number} of {size} bytes took {grown / 2**20:.0f} MB"


def _reset_peak() -> None:
    """Make the peak the present size; a process that was larger before would hide what a message takes."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    peak = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert peak
    return int(peak[1]) * 1024
