# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Hostile clients, hostile servers, and honest ones next to them."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import socket
import struct
import threading
import time

import numpy as np
import pytest

msgpack = pytest.importorskip("msgpack")
zmq = pytest.importorskip("zmq")

from test_serve import (  # noqa: E402
    EMBODIMENT,
    PATIENCE_S,
    Asking,
    Serving,
    SumPolicy,
    checkpoint,  # noqa: F401
    flat,
    make_observation,
    make_observations,
    nested,
)

from gr00t_test_support.waiting import eventually  # noqa: E402
from gr00t_training.errors import ConfigError, ServerError  # noqa: E402
from gr00t_training.serve import connection, images, listener, zmtp  # noqa: E402
from gr00t_training.serve import server as server_module  # noqa: E402
from gr00t_training.serve.access import find_token  # noqa: E402
from gr00t_training.serve.client import PolicyClient  # noqa: E402
from gr00t_training.serve.images import decode_images  # noqa: E402
from gr00t_training.serve.wire import EncodedImages, Wire, pack, unpack  # noqa: E402

UNAUTHORIZED = "Unauthorized: Invalid API token"
PING = {"endpoint": "ping", "api_token": "secret"}
ALIVE = {"status": "ok", "message": "Server is running"}


class Peer:
    """A TCP connection that speaks ZMTP as far as it likes."""

    def __init__(self, port, *, greets=True):
        self.stream = socket.create_connection(("127.0.0.1", port))
        self.stream.settimeout(PATIENCE_S)
        if greets:
            self.stream.sendall(zmtp.GREETING + zmtp.ready("DEALER"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def say(self, content):
        self.stream.sendall(b"".join(zmtp.frames([b"", pack(content, Wire.N1_7)])))

    def receive(self, size):
        content = b""
        while len(content) < size:
            content += self.stream.recv(size - len(content)) or pytest.fail("the server closed the connection")
        return content

    def hear(self):
        """Return the next message, or its handshake's end as None."""
        flags, size = self.receive(2)
        if flags & 2:
            size = int.from_bytes(bytes([size]) + self.receive(7), "big")
        body = self.receive(size)
        if flags & 4:
            return self.hear()
        return self.hear() if flags & 1 else unpack(body)[0]

    def is_cut(self, within_s=PATIENCE_S):
        """Whether the server closes the connection."""
        self.stream.settimeout(within_s)
        try:
            while self.stream.recv(2**16):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


def with_greeting(peer):
    peer.receive(len(zmtp.GREETING))
    return peer


def texts(value):
    return msgpack.packb({"endpoint": "get_action", "data": value})


def with_axes(count):
    return {"__jpeg__": True, "shape": [2**62] * count + [3], "files": []}


# --- before the token


HOSTILE = {
    "axes": texts({"video.front": with_axes(30_000)}),
    "axes within the limits of lists": texts({"video.front": with_axes(4000)}),
    "axes of an array": texts({b"nd": True, b"type": "<f4", b"shape": [1] * 4000, b"data": b""}),
    "axes of a file": texts({"__ndarray_class__": True, "as_npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"1," * 4000 + b")}"
    )}),
    "empty maps": texts([[{}] * 4000] * 50),
    "empty lists": texts([[[]] * 4000] * 50),
    "numbers": texts([[0] * 4000] * 500),
    "long text": texts("x" * 2**21),
    "many texts": texts([["x" * 200] * 4000] * 10),
    "wide text among short ones": texts({"state.arm": [["x" * 60_000, *["x"] * 4000]]}),
    "map": texts({str(number): 0 for number in range(4000)}),
    "depth": b"\x91" * 1000 + b"\xc0",
    "depth of maps": b"\x81\xa1a" * 500 + b"\xc0",
    "announced list": b"\x82\xa8endpoint\xa4ping\xa4data\xdd\xff\xff\xff\xff",
    "announced bytes": b"\x82\xa8endpoint\xa4ping\xa4data\xc6\xff\xff\xff\xff",
    "time": texts(msgpack.Timestamp(2**33, 5)),
    "extension": texts(msgpack.ExtType(0, b"\0\0\0\0")),
    "config": texts({"__ModalityConfig_class__": True, "as_json": "[" * 60_000}),
    "config of texts": texts({"__ModalityConfig__": True, "as_json": {
        "delta_indices": ["y" * 60_000] * 100, "modality_keys": [],
    }}),
    "kind": texts({b"nd": True, b"type": "<f4", b"kind": b"\1" * 2**22, b"shape": [], b"data": b""}),
    "type": texts({b"nd": True, b"type": "<f4" * 20_000, b"shape": [], b"data": b""}),
    "empty but gigantic": texts({b"nd": True, b"type": "|u1", b"shape": [0, 2**39, 2**39], b"data": b""}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_nothing_is_decoded_before_the_token(name, monkeypatch):
    decoded = []
    monkeypatch.setattr(server_module, "read_content", lambda *arguments: decoded.append(arguments))
    with Serving(SumPolicy(), token="secret") as serving, Asking(serving.port) as asking:
        started_s = time.process_time()
        error = unpack(asking(HOSTILE[name]))[0]["error"]
        assert time.process_time() - started_s < 0.5
    assert "message of" in error or error == UNAUTHORIZED
    assert len(error) < 1000
    assert not decoded


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_messages_with_a_token_cost_little(name):
    message = HOSTILE[name]
    if message.startswith(b"\x82"):
        message = b"\x83\xa9api_token\xa6secret" + message[1:]
    with Serving(SumPolicy(), token="secret") as serving, Asking(serving.port) as asking:
        started_s = time.process_time()
        error = unpack(asking(message))[0]["error"]
        assert time.process_time() - started_s < 0.5
        assert error != UNAUTHORIZED or message is HOSTILE[name]
        assert len(error) < 1000 and error.isprintable()
        assert asking.ask(PING) == ALIVE


def test_a_token_counts_once_and_only_as_text():
    with Serving(SumPolicy(), token="secret") as serving, Asking(serving.port) as asking:
        for message in (
            b"\x83\xa8endpoint\xa4ping\xa9api_token\xa6secret\xa9api_token\xa1x",
            b"\x82\xa8endpoint\xa4ping\xc4\x09api_token\xa6secret",
            b"\x82\xa8endpoint\xa4ping\xa9api_token\xc4\x06secret",
            b"\x81\xa4data\x82\xa8endpoint\xa4ping\xa9api_token\xa6secret",
            msgpack.packb(["secret"]),
            msgpack.packb({**PING, "api_token": "secret" + "x" * 70_000}),
            msgpack.packb({**PING, "api_token": "x" * 5000}),
        ):
            assert set(unpack(asking(message))[0]) == {"error"}
        assert asking.ask(PING) == ALIVE


# --- connections


@pytest.mark.parametrize(
    "flood",
    [
        b"\1\0" * 100_000,  # empty parts without end
        b"\1\x0aabcdefghij" * 100_000,
        b"\3" + (2**30).to_bytes(8, "big") + b"x" * 1000,  # a large part that is not the last
        b"\2" + (2**62).to_bytes(8, "big"),
        b"\2" + (2**31).to_bytes(8, "big"),
        b"\4\0",  # an empty command
        b"\6" + (2**31).to_bytes(8, "big"),
        b"\4\x09\x08JOINxxxx",
        b"\x08\0",
        b"\xff" * 64,
        b"\0\0" * 50_000,  # empty messages without end
    ],
)
def test_floods_of_parts_end_the_connection(flood):
    with Serving(SumPolicy()) as serving, Asking(serving.port) as asking:
        assert asking.ask({"endpoint": "ping"}) == ALIVE
        with Peer(serving.port) as peer:
            with contextlib.suppress(OSError):
                peer.stream.sendall(flood)
            assert peer.is_cut()
        assert asking.ask({"endpoint": "ping"}) == ALIVE


def test_announced_bytes_take_no_memory_and_unfinished_messages_are_limited(monkeypatch):
    monkeypatch.setattr(listener, "HELD_MESSAGES", 2)
    size = 3 * 2**20
    with (
        Serving(SumPolicy(), max_request_mib=2) as serving,
        serving.client() as honest,
        contextlib.ExitStack() as open_,
    ):
        honest.infer(make_observation())
        peers = [open_.enter_context(Peer(serving.port)) for _ in range(8)]
        for peer in peers:  # each almost a whole message
            with contextlib.suppress(OSError):
                peer.stream.sendall(b"\1\0\2" + size.to_bytes(8, "big") + bytes(size - 1))
        eventually(lambda: serving.server._listener.num_connections <= 3, "few connections")
        assert serving.server._listener._held_bytes <= 2 * size
        assert sum(peer.is_cut(1.0) for peer in peers) == 9 - serving.server._listener.num_connections
        assert honest.count_losses() == 0  # the untrusted peers' messages that were given up
        honest.infer(make_observation())
    assert serving.server._listener._held_bytes == 0


def test_peers_that_say_nothing_are_closed(monkeypatch):
    with Serving(SumPolicy()) as serving, serving.client() as honest, with_greeting(Peer(serving.port)) as idle:
        honest.infer(make_observation())
        idle.say({"endpoint": "ping"})
        assert idle.hear() == ALIVE
        # from here on, so that a loaded machine has the time that it needs for honest handshakes
        monkeypatch.setattr(listener, "HANDSHAKE_S", 0.2)
        monkeypatch.setattr(listener, "MESSAGE_S", 0.3)
        with (
            Peer(serving.port, greets=False) as mute,
            Peer(serving.port, greets=False) as half,
            Peer(serving.port) as slow,
        ):
            half.stream.sendall(zmtp.GREETING[:40])
            slow.stream.sendall(b"\1\0\0\x20abc")
            assert mute.is_cut() and half.is_cut() and slow.is_cut()
            time.sleep(0.5)
            monkeypatch.undo()
            idle.say({"endpoint": "ping"})  # one that is ready may wait as long as it likes
            assert idle.hear() == ALIVE
        honest.infer(make_observation())
        assert honest.count_losses() == 0


def test_pings_alone_keep_a_connection(monkeypatch):
    monkeypatch.setattr(listener, "MESSAGE_S", 0.2)
    with Serving(SumPolicy()) as serving, with_greeting(Peer(serving.port)) as peer:
        for _ in range(30):
            peer.stream.sendall(zmtp.ping())
            time.sleep(0.02)
        peer.say({"endpoint": "ping"})
        assert peer.hear() == ALIVE


def test_floods_of_connections_leave_place_for_the_honest(monkeypatch):
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 8)
    with Serving(SumPolicy()) as serving, serving.client() as honest, contextlib.ExitStack() as open_:
        honest.infer(make_observation())
        for _ in range(40):
            open_.enter_context(Peer(serving.port))
        eventually(lambda: serving.server._listener.num_connections == 8, "eight connections")
        with serving.client() as newcomer:
            newcomer.infer(make_observation())
        assert honest.count_losses() == 0
        honest.infer(make_observation())
        assert serving.server._listener.num_connections <= 8


def test_trusted_clients_that_are_silent_make_place_too(monkeypatch):
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(listener, "SILENT_S", 0.0)
    with Serving(SumPolicy()) as serving, contextlib.ExitStack() as open_:
        clients = [open_.enter_context(serving.client()) for _ in range(5)]
        for client in clients:
            client.infer(make_observation())
        eventually(lambda: [client.count_losses() for client in clients] == [1, 1, 0, 0, 0], "two losses")
        for client in clients:  # all come back
            client.infer(make_observation())


def test_clients_that_do_not_read_are_not_read(monkeypatch):
    monkeypatch.setattr(listener, "MESSAGE_S", 1.0)
    count = 0

    def receive(peer, parts):
        nonlocal count
        count += 1
        listening.send(peer, [b"", bytes(2**20)])
        return True

    listening = listener.Listener("127.0.0.1", 0, 2**20, receive, dict)
    is_over = threading.Event()
    thread = threading.Thread(target=lambda: [listening.poll() for _ in iter(is_over.is_set, True)])
    thread.start()
    with Peer(listening.port) as peer:
        peer.stream.settimeout(0.3)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(100):
                peer.stream.sendall(b"\1\0\0\1x" * 100_000)
            pytest.fail("the server reads on and keeps the answers")
        assert count < 50  # what the network's buffers hold
        eventually(lambda: listening.num_connections == 0, "end of the connection")
    is_over.set()
    listening.wake()
    thread.join(PATIENCE_S)
    listening.close()


# --- one client and the others


def test_a_client_that_floods_gets_one_turn_a_round():
    policy = SumPolicy()
    with Serving(policy) as serving, Asking(serving.port, zmq.DEALER) as flood, serving.client() as honest:
        honest.ping()
        for text in ("wait", *["lift"] * (server_module.MAX_WAITING + 20)):
            flood.socket.send_multipart([b"", pack(nested(language={"task": [[text]]}), Wire.N1_7)])
        assert policy.is_held.wait(PATIENCE_S)
        thread = threading.Thread(target=honest.infer, args=(make_observation(7.0),))
        thread.start()
        # the others are refused
        eventually(lambda: serving.server.num_waiting == server_module.MAX_WAITING + 1, "jobs of both clients")
        policy.release.set()
        thread.join(PATIENCE_S)
    order = [observation.state["arm"][0, 0] for observation in policy.asked]
    assert order.index(7.0) <= 2  # behind the one that ran, and at most one more


def test_nothing_is_computed_for_a_client_that_has_gone():
    policy = SumPolicy()
    with Serving(policy) as serving, Asking(serving.port) as first, Peer(serving.port) as closed:
        first.socket.send(pack(nested(language={"task": [["wait"]]}), Wire.N1_7))
        assert policy.is_held.wait(PATIENCE_S)
        closed.say(nested(language={"task": [["lift"]]}))
        eventually(lambda: serving.server.num_waiting == 2, "two jobs")
        closed.stream.close()
        eventually(lambda: serving.server._listener.num_connections == 1, "one connection")
        policy.release.set()
        first.socket.recv()
        eventually(lambda: serving.server.num_waiting == 0, "no job")
        assert first.ask({"endpoint": "health"})["requests"]["expired"] == 1
    assert [observation.instruction for observation in policy.asked] == ["wait"]


def test_noise_of_clients_is_apart(checkpoint):  # noqa: F811
    from gr00t_training.policy.policy import Policy

    def load():
        policy = Policy.from_checkpoint(checkpoint, device="cpu", seed=7, denoising_steps=1)
        policy.release = threading.Event()
        return policy

    (observation,) = make_observations(1)
    local = load()
    expected = [local.infer(observation).actions["arm"] for _ in range(3)]
    assert not np.array_equal(expected[0], expected[1])
    with Serving(load()) as serving, serving.client() as one, serving.client() as other:
        found = []
        for _ in range(3):
            found.append(one.infer(observation).actions["arm"])
            other.reset()
            np.testing.assert_array_equal(other.infer(observation).actions["arm"], expected[0])
        one.reset()
        found.append(one.infer(observation).actions["arm"])
    np.testing.assert_array_equal(found, [*expected, expected[0]])


# --- values


def state(value):
    return nested(state={"arm": np.array([[[0.0, value, 0.0]]]), "gripper": np.zeros((1, 1, 1))})


REFUSED = {
    "huge state": (state(1e30), r"state.arm: 'j1' is 1e\+30 rad .limit 1e\+06.; check the sensor and its unit"),
    "largest state": (state(1.7e308), "state.arm: 'j1' is 1.7e"),
    "NaN state": (state(math.nan), "state.arm: 'j1' is nan"),
    "infinite state": (state(-math.inf), "state.arm: 'j1' is -inf"),
    "list of huge": (flat(state__arm=[[1e300, 0, 0]]), "state.arm: 'j0' is 1e"),
    "width": (flat(state__arm=np.zeros((1, 4))), r"state.arm: found shape \(1, 4\), embodiment .* expects \(1, 3\)"),
    "rows": (flat(state__arm=np.zeros((900, 3))), r"state.arm: found shape \(900, 3\)"),
    "texts among numbers": (flat(state__arm=[["x" * 60_000, 1, 2]]), "state.arm: found a list of 1, expected lists"),
    "batch": (nested(batch=33), r"video.front: batch of 33 \(limit 32\); send fewer samples, or .*--max-batch"),
    "long instruction": (nested(language={"task": [["x" * 1001]]}), "task: the instruction has 1001 characters"),
    "long blank": (nested(language={"task": [[" " * 2000]]}), "task: the instruction is empty"),
    "control character": (nested(language={"task": [["lift\x1b[2J"]]}), r"control character '\\x1b'"),
    "texts without end": (
        nested(language={"task": np.full(2**16, "x")}),
        r"task: found <U1 \(65536,\), expected one text per sample, 1",
    ),
    "images of another kind": (
        nested(video={"front": EncodedImages((1, 1, 32, 48, 3), (b"BM" + bytes(100),))}),
        r"video.front: file 0 is not a readable JPEG or PNG \(is neither JPEG nor PNG\)",
    ),
    "many small files": (
        nested(video={"front": EncodedImages((1, 1, 8000, 8000, 3), (b"x",))}),
        "video: images of 192000000 bytes .limit 67108864.; send fewer or smaller images",
    ),
    "previous actions": (
        {
            "data": {
                **nested()["data"],
                "options": {
                    "frozen_steps": 1,
                    "previous_actions": {"arm": np.full((5, 3), 1e30), "gripper": np.zeros((5, 1))},
                },
            }
        },
        "options.previous_actions.arm: found float64 .*magnitude 1e\\+06",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_values_beyond_any_robot_are_refused(name):
    content, words = REFUSED[name]
    policy = SumPolicy()
    with Serving(policy) as serving, Asking(serving.port) as asking:
        error = asking.error(content)
        assert re.search(words, error), error
        assert asking.ask({"endpoint": "ping"}) == ALIVE
    assert not policy.asked


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_an_answer_that_is_not_finite_is_an_error(value):
    class Broken(SumPolicy):
        def _ramp(self, dim):
            return np.full((self.embodiment.action_horizon, dim), value)

    with Serving(Broken()) as serving, Asking(serving.port) as asking:  # the releases' clients get float32
        assert "action.arm: the policy predicted NaN or infinity" in asking.error(nested())
        assert "NaN or infinity" in asking.error(flat(), Wire.N1_5)
        health = asking.ask({"endpoint": "health"})["requests"]
        assert (health["answered"], health["refused"]) == (0, 2)


def test_image_files_are_measured_before_they_are_decoded(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(images, "_opencv", lambda: pytest.fail("a decoder was asked"))

    def png(width, height):
        return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + bytes(20)

    for file, words in (
        (png(30_000, 30_000), "has the size 30000x30000"),
        (png(64, 48), r"is an image of shape \(48, 64, 3\), expected shape \(32, 48, 3\)"),
        (b"GIF89a" + bytes(50), "neither JPEG nor PNG"),
        (b"RIFF\0\0\0\0WEBP" + bytes(50), "neither JPEG nor PNG"),
    ):
        with pytest.raises(ServerError, match=words):
            decode_images(EncodedImages((1, 32, 48, 3), (file,)), "video.front")
    file = cv2.imencode(".jpg", np.zeros((32, 48, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    bomb = file[:-2] + file[file.index(b"\xff\xda") : -2] * 200 + file[-2:]
    with pytest.raises(ServerError, match=r"scans \(limit 64\)"):
        decode_images(EncodedImages((1, 32, 48, 3), (bomb,)), "video.front")


# --- what is logged and printed


def test_control_characters_of_a_client_are_escaped(caplog):
    class Quoting(SumPolicy):
        def infer_batch(self, observations, continuations=None):
            raise RuntimeError("no \x1b[31msuch\x07 thing\n")

    evil = "\x1b[2J\x07\n\x9b"
    with (
        caplog.at_level(logging.DEBUG),
        Serving(Quoting()) as serving,
        Asking(serving.port) as asking,
        Asking(serving.port, zmq.DEALER) as other,
    ):
        errors = [
            asking.error(content)
            for content in (
                {"endpoint": evil},
                nested(video={evil: 1}),
                nested(language={evil: [["x"]], "b" + evil: [["y"]]}),
                nested(language={evil: [[5]]}),
                {"data": {evil: 1}},
                {"data": {**nested()["data"], "options": {evil: 1}}},
                {"data": evil},
                {"endpoint": "ping", "client": {"wire": evil}},
                {"data": {b"nd": True, b"type": evil, b"data": b""}},
                {"data": {b"nd": True, b"type": "<f4", b"kind": evil, b"data": b""}},
                nested(),
            )
        ]
        other.socket.send_multipart([b"", msgpack.packb({"endpoint": evil})])
        other.socket.recv_multipart()
    assert all(error.isprintable() for error in errors), errors
    for record in caplog.records:
        assert all(line.isprintable() for line in record.getMessage().split("\n"))
        assert record.exc_info is None
    assert "no \\x1b[31msuch\\x07 thing" in caplog.text


class Answering:
    """A server that sends each client the same bytes once it has asked."""

    def __init__(self, *answers):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._answers = answers
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._is_closed = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(PATIENCE_S)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self):
        while not self._is_closed:
            with contextlib.suppress(OSError), self._listener.accept()[0] as stream:
                stream.settimeout(PATIENCE_S)
                stream.sendall(zmtp.GREETING + zmtp.ready("ROUTER"))
                asked = b""
                while b"endpoint" not in asked:
                    if not (more := stream.recv(2**16)):
                        raise ConnectionError
                    asked += more
                for answer in self._answers:
                    stream.sendall(answer)
                while stream.recv(2**16):
                    pass


def reply(content):
    return b"".join(zmtp.frames([b"", pack(content, Wire.N1_7)]))


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([b"\1\0" * 1_000_000], "more than 16 parts"),
        ([b"\2" + (2**40).to_bytes(8, "big")], "part of 1099511627776 bytes"),
        ([b"\1\0\2" + (2**25).to_bytes(8, "big")], "part of 33554432 bytes"),
        ([b"\1\0\0\1\xc1"], "not msgpack within the limits"),
        ([b"\1\0\0" + bytes([250]) + b"\x91" * 250], "nested deeper than 16"),
        ([b"\1\0\0\5"], "no answer in time"),
        ([b"".join(zmtp.frames([b"x", b"y", b"z"]))], "reply of 3 parts"),
        ([reply({"error": "\x1b[2Jno\n" * 1000})], r"health was refused: \\x1b\[2Jno\\n"),
        ([reply({"error": ["\x1b[2J"] * 1000})], "health was refused: "),
        ([reply([["\x1b[2J" * 100] * 1000])], "expected the health of a policy server"),
        (
            [reply({"server": "gr00t_serve", "fingerprint": "x", "embodiment": {"name": "\x1b[2J"}})],
            "different versions",
        ),
        ([reply({"server": "gr00t_serve", "fingerprint": "x", "embodiment": np.zeros(3)})], "different versions"),
        ([reply({"server": np.array(["gr00t_serve"] * 2)})], "expected the health of a policy server"),
        ([reply({"server": "gr00t_serve", "fingerprint": np.zeros(2)})], "different versions"),
        ([reply({"error": np.zeros(2)})], "health was refused: array"),
        (
            [
                reply(
                    {
                        "server": "gr00t_serve",
                        "fingerprint": EMBODIMENT.fingerprint(),
                        "statistics_fingerprint": "x",
                        "state_statistics": {"\x1b[2J": {"min": ["\x1b[2J"]}},
                    }
                )
            ],
            "statistics cannot be read",
        ),
    ],
)
def test_a_hostile_server_does_no_harm(answers, words):
    timeout_s = 0.6 if words == "no answer in time" else PATIENCE_S
    with Answering(*answers) as server, PolicyClient(EMBODIMENT, port=server.port, timeout_s=timeout_s) as client:
        used_s = time.process_time()
        with pytest.raises(ServerError, match=words) as caught:
            client.infer(make_observation())
        assert time.process_time() - used_s < 2.0
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 5000


def test_answers_that_were_not_asked_for_are_not_taken():
    # the second answer is ready before the second request
    health = {"server": "gr00t_serve", "fingerprint": EMBODIMENT.fingerprint()}
    stale = [{"arm": np.ones((1, 16, 3)), "gripper": np.ones((1, 16, 1))}, {}]
    with Answering(reply(health) + reply(stale)) as server, PolicyClient(EMBODIMENT, port=server.port) as client:
        client.check_embodiment()
        with pytest.raises(ServerError):
            client.infer(make_observation())


def test_a_server_that_is_stopped_is_noticed_between_calls(monkeypatch):
    health = reply({"server": "gr00t_serve", "fingerprint": EMBODIMENT.fingerprint()})
    with Answering(health) as server, PolicyClient(EMBODIMENT, port=server.port) as client:
        client.check_embodiment()  # the last thing it says, without closing
        assert client.count_losses() == 0
        monkeypatch.setattr(connection, "PING_S", 0.05)
        monkeypatch.setattr(connection, "PING_TIMEOUT_S", 0.2)
        eventually(lambda: client.count_losses() == 1, "loss")
    monkeypatch.setattr(connection, "PING_TIMEOUT_S", PATIENCE_S)
    with Serving(SumPolicy()) as serving, serving.client() as client:
        client.infer(make_observation())
        for _ in range(3):  # each ping of a server that lives has its answer
            eventually(lambda: client.count_losses() or client._connection._unanswered_s is not None, "ping")
            eventually(lambda: client.count_losses() or client._connection._unanswered_s is None, "pong")
        assert client.count_losses() == 0


def test_a_time_limit_names_its_setting():
    def reason(**options):
        for timeout_s in (0.2, 2.5, 20.0):  # a loaded machine may not connect within the first
            with (
                PolicyClient(EMBODIMENT, port=server.port, timeout_s=timeout_s, **options) as client,
                pytest.raises(ServerError) as caught,
            ):
                client.ping()
            if "no policy server reached" not in str(caught.value):
                break
        assert f"(ping, limit {timeout_s:g} s)" in str(caught.value)
        return str(caught.value)

    with Answering() as server:
        assert re.search(r"no answer in time; .*raise timeout_s$", reason())
        assert reason(timeout_name="server_timeout_s").endswith("raise server_timeout_s")


def test_names_are_looked_up_within_the_time_limit(monkeypatch):
    look_up, is_over = socket.getaddrinfo, threading.Event()

    def slow(host, *arguments, **options):
        if host == "slow.example" and not options and len(arguments) < 4:  # as a number it is refused at once
            assert is_over.wait(PATIENCE_S)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with (
        PolicyClient(EMBODIMENT, host="slow.example", timeout_s=0.2) as client,
        pytest.raises(ServerError, match="was not resolved in time; use its address"),
    ):
        client.ping()  # the look-up still waits
    is_over.set()


# --- the command


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666, 0o440])
def test_a_token_file_that_others_can_read_is_refused(tmp_path, mode):
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"other users can read the token .mode {mode:04o}.*chmod 600 .*token"):
        find_token(None, file)
    file.chmod(0o600)
    assert find_token(None, file) == "secret"


def test_a_token_file_is_a_small_file(tmp_path):
    for path, words in (
        ("/dev/zero", "character device"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            find_token(None, path)
    (tmp_path / "large").write_text("x" * 5000)
    (tmp_path / "large").chmod(0o600)
    with pytest.raises(ConfigError, match="has 5000 bytes"):
        find_token(None, tmp_path / "large")
    with pytest.raises(ConfigError, match="token of 2000 bytes"):
        find_token("x" * 2000)


def test_the_first_query_prepares_once(checkpoint, caplog):  # noqa: F811
    from gr00t_training.policy.policy import Policy

    def count():
        return sum("preparing" in record.getMessage() for record in caplog.records)

    (observation,) = make_observations(1)
    with caplog.at_level(logging.INFO):
        policy = Policy.from_checkpoint(checkpoint, device="cpu", seed=7, denoising_steps=1)
        expected = policy.infer(observation).actions["arm"]
        assert count() == 1
        policy = Policy.from_checkpoint(checkpoint, device="cpu", seed=7, denoising_steps=1)
        policy.warm_up(None)
        assert count() == 1
        np.testing.assert_array_equal(policy.infer(observation).actions["arm"], expected)
        assert count() == 2
        policy.warm_up(observation.instruction)
        assert count() == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--instruction", "x" * 1001], "--instruction: the instruction has 1001 characters"),
        (["--port", "5", "--port", "6"], "option --port is given more than once"),
        (["--tokenfile", "x"], "did you mean '--token-file'?"),
        (["--token-fil", "x"], "did you mean '--token-file'?"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(checkpoint, capsys, options, words):  # noqa: F811
    from gr00t_training.cli import serve

    try:
        code = serve.main([str(checkpoint), *options])
    except SystemExit as error:
        code = error.code
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
