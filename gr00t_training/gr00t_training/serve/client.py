# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy on another machine, used like one of this machine: `gr00t_serve`, or the releases' servers of N1.5 and N1.7.

One connection asks once: when an answer does not come in time, or the connection breaks, the socket is thrown away, so
that a late answer can never be taken for that of a newer request. Each new connection first holds the server's
embodiment against ours: behind the same address there may be another policy by now. Needs no torch.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq

from gr00t_training.dataset.stats import KeyStatistics
from gr00t_training.embodiment import Embodiment, differences
from gr00t_training.errors import ConfigError, DatasetError, ServerError
from gr00t_training.published.keys import published_language
from gr00t_training.serve.access import tcp_address
from gr00t_training.serve.images import ImageForm
from gr00t_training.serve.messages import SERVER_NAME, read_reply, write_request
from gr00t_training.serve.modality import check_modality
from gr00t_training.serve.wire import MAX_MESSAGE_BYTES, ModalityConfig, Wire, pack, unpack
from gr00t_training.settings import parse_settings
from gr00t_training.types import ActionChunk, Continuation, Observation

DEFAULT_TIMEOUT_S = 15.0  # of the releases' clients
CONNECT_TIMEOUT_MS = 2000  # a server that runs is there within milliseconds
RECONNECT_MS = 100  # between two attempts
HEARTBEAT_MS = 500  # a server that was cut off or stopped is noticed without waiting for the answer ...
HEARTBEAT_TIMEOUT_MS = 1500  # ... after this time


@dataclass(frozen=True)
class _Server:
    """What is known of the server behind a connection."""

    is_ours: bool
    language: str  # key of the instruction


class PolicyClient:
    """Asks a policy server; any thread may call, one after another."""

    def __init__(
        self,
        embodiment: Embodiment,
        host: str = "127.0.0.1",
        port: int = 5555,
        *,
        wire: Wire = Wire.N1_7,
        token: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        images: ImageForm = ImageForm.RAW,
    ) -> None:
        """Prepare; the first call connects.

        Args:
            embodiment: the robot at hand; every server that is met must serve it.
            host: name or address of the server.
            port: its TCP port.
            wire: form of messages; our server takes either, those of the releases their own.
            token: that the server wants.
            timeout_s: longest time of one call.
            images: form in which images are sent; files only to our server.

        Raises:
            ConfigError: host, port or timeout cannot be.
        """
        if not host or not 0 < port < 65536 or not timeout_s > 0:
            raise ConfigError(
                f"server '{host}', port {port}, timeout {timeout_s} s: expected a name or address, 1 to 65535, above 0"
            )
        self.address = tcp_address(host, port)
        self._embodiment = embodiment
        self._wire = wire
        self._token = token
        self._timeout_s = timeout_s
        self._images = images
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._connection: _Connection | None = None
        self._server: _Server | None = None  # of the connection, once it was checked
        self._num_losses = 0
        self._statistics_fingerprint: str | None = None  # of the first server that told it
        self._state_statistics: Mapping[str, KeyStatistics] | None = None

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def embodiment(self) -> Embodiment:
        """The robot that the policy is for."""
        return self._embodiment

    @property
    def state_statistics(self) -> Mapping[str, KeyStatistics] | None:
        """What training saw of the state, by key; None until our server has told it, other servers never do."""
        return self._state_statistics

    def count_losses(self) -> int:
        """Return how often the server was found gone between two calls; never waits, so that a control loop may ask.

        A server that goes during a call makes the call fail. The next call connects anew.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._drop_lost()
            finally:
                self._lock.release()
        return self._num_losses

    def infer(self, observation: Observation, continuation: Continuation | None = None) -> ActionChunk:
        """Answer one observation.

        Args:
            observation: what the robot sees, feels and is told.
            continuation: the chunk that it carries out now, for the answer to agree with; our server only.

        Raises:
            ObservationError: an input is missing.
            ServerError: no server, no answer in time, or the server refused; names the reason.
        """
        return self._infer([observation], continuation)[0]

    def infer_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Answer several observations at once.

        Raises:
            ObservationError, ServerError: as `infer`.
        """
        return self._infer(observations, None)

    def _infer(self, observations: Sequence[Observation], continuation: Continuation | None) -> list[ActionChunk]:
        with self._lock:
            deadline_s = time.monotonic() + self._timeout_s
            server = self._meet(deadline_s)
            if continuation is not None and not (server.is_ours and self._wire is Wire.N1_7):
                raise ServerError(
                    f"{self.address}: a chunk is to be continued, which only {SERVER_NAME} does, with wire "
                    f"{Wire.N1_7.value}; ask without"
                )
            data = write_request(
                observations,
                self._wire,
                self._embodiment,
                language=server.language,
                state_dtype=np.float64 if server.is_ours or self._wire is Wire.N1_5 else np.float32,
                images=self._images,
                continuation=continuation,
            )
            reply = self._ask("get_action", deadline_s, data)
        actions = read_reply(reply, self._wire, self._embodiment, len(observations))
        step_ns = self._embodiment.step_ns
        return [
            ActionChunk(values, observation.stamp_ns, step_ns)
            for values, observation in zip(actions, observations, strict=True)
        ]

    def reset(self) -> None:
        """Start an episode.

        Raises:
            ServerError: as `infer`.
        """
        with self._lock:
            deadline_s = time.monotonic() + self._timeout_s
            server = self._meet(deadline_s)
            if server.is_ours or self._wire is Wire.N1_7:  # the release's N1.5 has nothing to reset, and no endpoint
                self._ask("reset", deadline_s, {"options": None})

    def ping(self) -> None:
        """Ask for a sign of life.

        Raises:
            ServerError: there is none.
        """
        self._ask_alone("ping")

    def health(self) -> Mapping[str, Any]:
        """Return what our server tells about itself: name, embodiment, latencies, counts.

        Raises:
            ServerError: no answer, or the server is not ours.
        """
        reply = self._ask_alone("health")
        if not isinstance(reply, dict):
            raise ServerError(f"{self.address}: health is {type(reply).__name__}, expected a map; it is another server")
        return reply

    def modality_config(self) -> Mapping[str, ModalityConfig]:
        """Return the server's keys and ticks.

        Raises:
            ServerError: no answer.
        """
        reply = self._ask_alone("get_modality_config")
        check = isinstance(reply, dict) and all(isinstance(config, ModalityConfig) for config in reply.values())
        if not check:
            raise ServerError(f"{self.address}: found {str(reply)[:200]}, expected modality configs")
        return reply

    def check_embodiment(self) -> None:
        """Hold the server's embodiment against ours; every new connection does so before it is used.

        Raises:
            ServerError: no answer, or they differ; names each item.
        """
        with self._lock:
            self._server = None
            self._meet(time.monotonic() + self._timeout_s)

    def close(self) -> None:
        """Close the connection; not to be used afterwards."""
        with self._lock:
            self._drop()
            self._context.term()

    # Under the lock.

    def _ask_alone(self, endpoint: str) -> Any:
        with self._lock:
            return self._ask(endpoint, time.monotonic() + self._timeout_s)

    def _meet(self, deadline_s: float) -> _Server:
        """Return what is known of the server; connect and check it where that has not been done."""
        self._drop_lost()
        if self._server is None:
            self._server = self._check(deadline_s)
        return self._server

    def _check(self, deadline_s: float) -> _Server:
        health = self._exchange({"endpoint": "health"}, deadline_s)
        if isinstance(health, dict) and health.get("server") == SERVER_NAME:
            self._check_ours(health)
            return _Server(is_ours=True, language=published_language(self._embodiment.language))
        if not isinstance(health, dict) or not str(health.get("error", "")).startswith("Unknown endpoint"):
            self._refuse_error("health", health)
            raise ServerError(f"{self.address}: found {str(health)[:200]}, expected the health of a policy server")
        if self._images is not ImageForm.RAW:
            raise ServerError(
                f"{self.address}: is not {SERVER_NAME} and takes raw images only; send no {self._images.value}"
            )
        found = self._ask("get_modality_config", deadline_s)
        return _Server(is_ours=False, language=check_modality(found, self._embodiment, self.address))

    def _check_ours(self, health: Mapping[str, Any]) -> None:
        self._check_served(health)
        self._check_statistics(health)

    def _check_statistics(self, health: Mapping[str, Any]) -> None:
        """Refuse a server that was started anew with a checkpoint of other statistics: ours was held against them."""
        found, known = health.get("statistics_fingerprint"), self._statistics_fingerprint
        if known is not None and found != known:
            raise ServerError(
                f"{self.address}: serves another checkpoint than before, '{health.get('name')}': statistics found "
                f"{found}, expected {known}; start the server with the checkpoint it had, or configure the client anew"
            )
        if known is not None or found is None:
            return
        try:
            described = health["state_statistics"]
            statistics = {key: KeyStatistics.from_mapping(lists, f"state.{key}") for key, lists in described.items()}
        except (KeyError, TypeError, AttributeError, DatasetError) as error:
            raise ServerError(
                f"{self.address}: statistics cannot be read ({error}); server and client are of different versions"
            ) from error
        self._statistics_fingerprint, self._state_statistics = str(found), statistics

    def _check_served(self, health: Mapping[str, Any]) -> None:
        if health.get("fingerprint") == self._embodiment.fingerprint():
            return
        try:
            served = parse_settings(Embodiment, json.dumps(health.get("embodiment")), f"{self.address}: embodiment")
        except (ConfigError, TypeError, ValueError) as error:
            raise ServerError(f"{error}; server and client are of different versions") from error
        items = differences(served, self._embodiment) or [f"fingerprint: found {health.get('fingerprint')}"]
        raise ServerError(
            f"{self.address}: serves another embodiment (found: the server's, expected: ours): {'; '.join(items)}"
        )

    def _ask(self, endpoint: str, deadline_s: float, data: Any = None) -> Any:
        """Return the reply of an endpoint; ServerError where it is an error."""
        request: dict[str, Any] = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self._server is not None and self._server.is_ours:
            valid_s = max(0.0, deadline_s - time.monotonic())
            request["client"] = {"valid_s": valid_s, "float64": True, "wire": self._wire.value}
        reply = self._exchange(request, deadline_s)
        self._refuse_error(endpoint, reply)
        return reply

    def _refuse_error(self, endpoint: str, reply: Any) -> None:
        if isinstance(reply, dict) and "error" in reply:
            raise ServerError(f"{self.address}: {endpoint} was refused: {reply['error']}")

    def _exchange(self, request: dict[str, Any], deadline_s: float) -> Any:
        if self._token is not None:
            request["api_token"] = self._token
        message = pack(request, self._wire)
        if len(message) > MAX_MESSAGE_BYTES:
            raise ServerError(
                f"request of {len(message)} bytes: longer than the limit of {MAX_MESSAGE_BYTES}; send fewer or "
                "smaller images, or JPEG"
            )
        if self._connection is None:
            self._connection = _Connection(self._context, self.address)
        try:
            reply = self._connection.exchange(message, deadline_s)
        except _UnansweredError as error:
            self._drop()
            raise ServerError(
                f"{self.address}: {error} ({request['endpoint']}, limit {self._timeout_s:g} s)"
            ) from error
        return unpack(reply)[0]

    def _drop_lost(self) -> None:
        """Throw a connection away whose server has gone."""
        if self._connection is not None and self._connection.is_lost:
            self._num_losses += 1
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._server = None


class _UnansweredError(Exception):
    """The connection has to be thrown away; says why."""


class _Connection:
    """One REQ socket, from its first request to the first that has no answer."""

    def __init__(self, context: zmq.Context, address: str) -> None:
        self._socket = context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.ipv6 = "[" in address
        self._socket.maxmsgsize = MAX_MESSAGE_BYTES
        self._socket.immediate = 1  # a request goes to a server that is there, or nowhere
        self._socket.reconnect_ivl = RECONNECT_MS
        self._socket.connect_timeout = self._socket.handshake_ivl = CONNECT_TIMEOUT_MS
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS
        self._losses = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._address = address
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise ServerError(f"{address}: no address ({error.strerror}); check host and port") from error

    @property
    def is_lost(self) -> bool:
        """Whether the server has gone since the connection was made."""
        return bool(self._losses.poll(0))

    def exchange(self, message: bytes, deadline_s: float) -> memoryview:
        """Send a message and return the reply.

        Raises:
            _UnansweredError: no server, no answer in time, or the server has gone meanwhile.
        """
        if not self._socket.poll(min(_until_ms(deadline_s), CONNECT_TIMEOUT_MS), zmq.POLLOUT):
            raise _UnansweredError("no policy server reached; check that it runs, host and port")
        try:
            self._socket.send(message, zmq.DONTWAIT, copy=False)
        except zmq.Again as error:
            raise _UnansweredError("the server has gone") from error
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._losses, zmq.POLLIN)
        poller.poll(_until_ms(deadline_s))
        # first the loss: behind a connection made anew there may be another policy, which was not checked
        if self.is_lost:
            raise _UnansweredError("the server has gone before it answered")
        if not self._socket.poll(0):
            raise _UnansweredError("no answer in time; the server is too slow or hangs")
        return self._socket.recv(copy=False).buffer

    def close(self) -> None:
        self._socket.disable_monitor()
        self._losses.close(0)
        self._socket.close(0)


def _until_ms(deadline_s: float) -> int:
    return max(0, round((deadline_s - time.monotonic()) * 1000))
