# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Client of a policy server: `gr00t_serve`, or the servers of the N1.5 and N1.7 releases. Needs no torch.

After a timeout or a lost connection the socket is closed, so that a late answer is never mistaken for that of a newer
request. Every new connection first compares the server's embodiment with ours, because another policy may now be
behind the same address.
"""

from __future__ import annotations

import json
import reprlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gr00t_training.dataset.statistics.compute import KeyStatistics
from gr00t_training.embodiment import Embodiment, differences
from gr00t_training.errors import ConfigError, DatasetError, ServerError
from gr00t_training.io.text import printable
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.serve.access import tcp_address
from gr00t_training.serve.connection import ServerConnection, UnansweredError
from gr00t_training.serve.images import ImageForm
from gr00t_training.serve.messages import SERVER_NAME, read_reply, write_request
from gr00t_training.serve.modality import check_modality
from gr00t_training.serve.wire import ModalityConfig, Wire, pack, unpack
from gr00t_training.settings import parse_settings
from gr00t_training.types import ActionChunk, Continuation, Observation
from gr00t_training.upstream.keys import published_language

DEFAULT_TIMEOUT_S = 15.0  # of the releases' clients
MAX_REASON = 2000  # characters of a server's error


@dataclass(frozen=True)
class _Server:
    """Properties of the connected server."""

    is_ours: bool
    language: str  # key of the instruction
    max_request_bytes: int | None = None  # None: not reported


class PolicyClient(PolicyLike):
    """A policy behind a server, used like a local one. Thread-safe; calls run one after another."""

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
        timeout_name: str = "timeout_s",
        checkpoint: str = "",
    ) -> None:
        """Prepare; the first call connects.

        Args:
            embodiment: of the robot; every server must serve it.
            host: name or address of the server.
            port: its TCP port.
            wire: message format; our server accepts both, those of the releases only their own.
            token: required by the server; None: no token.
            timeout_s: longest time of one call.
            images: format in which images are sent; compressed ones only to our server.
            timeout_name: name of the user's setting of `timeout_s`, for errors.
            checkpoint: that is to answer, where our server has several; empty: its first one.

        Raises:
            ConfigError: invalid host, port or timeout.
        """
        if not host or not 0 < port < 65536 or not timeout_s > 0:
            raise ConfigError(
                f"server '{host}', port {port}, timeout {timeout_s} s: expected a name or address, 1 to 65535, above 0"
            )
        self.address = tcp_address(host, port)
        self.embodiment = embodiment
        self._wire = wire
        self._token = token
        self._timeout_s, self._timeout_name = timeout_s, timeout_name
        self._images = images
        self._chosen = {"checkpoint": checkpoint} if checkpoint else {}
        self._lock = threading.Lock()
        self._host, self._port = host, port
        self._connection: ServerConnection | None = None
        self._server: _Server | None = None  # of the connection, once it was checked
        self._num_losses = 0
        self._statistics_fingerprint: str | None = None  # of the first server that reported one
        self._state_statistics: Mapping[str, KeyStatistics] | None = None

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state_statistics(self) -> Mapping[str, KeyStatistics] | None:
        """Statistics of the state in training, by key; None before our server has reported them, others never do."""
        return self._state_statistics

    def count_losses(self) -> int:
        """Return how often the connection was lost between two calls; never waits, so a control loop may call it.

        If the connection is lost during a call, that call fails. The next call reconnects.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._drop_lost()
            finally:
                self._lock.release()
        return self._num_losses

    def infer_batch(
        self, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None = None
    ) -> list[ActionChunk]:
        """Answer several observations at once.

        Args:
            observations: at least one.
            continuations: at most one, and only for a single observation; our server only.

        Raises:
            ObservationError: an input is missing.
            ServerError: no server, no answer in time, or the server refused; names the reason.
        """
        continuation = _only(continuations, len(observations))
        with self._lock:
            deadline_s = time.monotonic() + self._timeout_s
            server = self._checked_server(deadline_s)
            if continuation is not None and not (server.is_ours and self._wire is Wire.N1_7):
                raise ServerError(
                    f"{self.address}: cannot continue a chunk (needs {SERVER_NAME} and wire {Wire.N1_7.value}); ask "
                    "without continuation"
                )
            data = write_request(
                observations,
                self._wire,
                self.embodiment,
                language=server.language,
                state_dtype=np.float64 if server.is_ours or self._wire is Wire.N1_5 else np.float32,
                images=self._images,
                continuation=continuation,
            )
            reply = self._ask("get_action", deadline_s, data)
        actions = read_reply(reply, self._wire, self.embodiment, len(observations))
        step_ns = self.embodiment.step_ns
        return [
            ActionChunk(values, observation.stamp_ns, step_ns)
            for values, observation in zip(actions, observations, strict=True)
        ]

    def reset(self, seed: int | None = None) -> None:
        """Start an episode.

        Args:
            seed: has no effect; the server chooses.

        Raises:
            ServerError: as `infer`.
        """
        with self._lock:
            deadline_s = time.monotonic() + self._timeout_s
            server = self._checked_server(deadline_s)
            if server.is_ours or self._wire is Wire.N1_7:  # the release's N1.5 has nothing to reset, and no endpoint
                self._ask("reset", deadline_s, {"options": None})

    def ping(self) -> None:
        """Check that the server answers.

        Raises:
            ServerError: no answer.
        """
        self._ask_alone("ping")

    def health(self) -> Mapping[str, Any]:
        """Return the status of our server: name, embodiment, latencies, counts.

        Raises:
            ServerError: no answer, or the server is not ours.
        """
        with self._lock:
            reply = self._exchange(self._health_request, time.monotonic() + self._timeout_s)
        self._refuse_error("health", reply)
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
            raise ServerError(f"{self.address}: found {_shown(reply)}, expected modality configs")
        return reply

    def check_embodiment(self) -> None:
        """Compare the server's embodiment with ours; every new connection does this before its first request.

        Raises:
            ServerError: no answer, or they differ; names each item.
        """
        with self._lock:
            self._server = None
            self._checked_server(time.monotonic() + self._timeout_s)

    def close(self) -> None:
        """Close the connection; do not use the client afterwards."""
        with self._lock:
            self._drop()

    # Called with the lock held.

    def _ask_alone(self, endpoint: str) -> Any:
        with self._lock:
            return self._ask(endpoint, time.monotonic() + self._timeout_s)

    def _checked_server(self, deadline_s: float) -> _Server:
        """Return the connected server; connect to it and check it first if needed."""
        self._drop_lost()
        if self._server is None:
            self._server = self._check(deadline_s)
        return self._server

    def _check(self, deadline_s: float) -> _Server:
        health = self._exchange(self._health_request, deadline_s)
        if isinstance(health, dict) and _text(health, "server") == SERVER_NAME:
            self._check_ours(health)
            limit = health.get("max_request_bytes")
            language = published_language(self.embodiment.language)
            return _Server(True, language, limit if type(limit) is int else None)
        if not isinstance(health, dict) or not (_text(health, "error") or "").startswith("Unknown endpoint"):
            self._refuse_error("health", health)
            raise ServerError(f"{self.address}: found {_shown(health)}, expected the health of a policy server")
        if self._chosen:
            raise ServerError(
                f"{self.address}: is not {SERVER_NAME} and has one checkpoint (found '{self._chosen['checkpoint']}'); "
                "name none"
            )
        if self._images is not ImageForm.RAW:
            raise ServerError(
                f"{self.address}: is not {SERVER_NAME} and accepts raw images only (found {self._images.value}); send "
                "raw images"
            )
        found = self._ask("get_modality_config", deadline_s)
        return _Server(is_ours=False, language=check_modality(found, self.embodiment, self.address))

    @property
    def _health_request(self) -> dict[str, Any]:
        return {"endpoint": "health", **({"client": self._chosen} if self._chosen else {})}

    def _check_ours(self, health: Mapping[str, Any]) -> None:
        extensions = health.get("extensions")
        if self._chosen and not (isinstance(extensions, list) and "checkpoint" in extensions):
            raise ServerError(
                f"{self.address}: its {SERVER_NAME} is older and has one checkpoint (found "
                f"'{self._chosen['checkpoint']}'); update it, or name none"
            )
        self._check_served(health)
        self._check_statistics(health)

    def _check_statistics(self, health: Mapping[str, Any]) -> None:
        """Refuse a server that was restarted with other statistics than those that the robot was checked with."""
        found, known = _text(health, "statistics_fingerprint"), self._statistics_fingerprint
        if known is not None and found != known:
            raise ServerError(
                f"{self.address}: serves another checkpoint than before, '{printable(_text(health, 'name') or '')}': "
                f"statistics found {printable(found or 'none')}, expected {known}; start the server with the "
                "checkpoint it had, or configure the client again"
            )
        if known is not None or found is None:
            return
        try:
            described = health["state_statistics"]
            statistics = {key: KeyStatistics.from_mapping(lists, f"state.{key}") for key, lists in described.items()}
        except (KeyError, TypeError, AttributeError, DatasetError) as error:
            raise ServerError(
                f"{self.address}: statistics cannot be read ({printable(str(error))}); server and client have "
                "different versions"
            ) from error
        self._statistics_fingerprint, self._state_statistics = found, statistics

    def _check_served(self, health: Mapping[str, Any]) -> None:
        if _text(health, "fingerprint") == self.embodiment.fingerprint():
            return
        try:
            served = parse_settings(Embodiment, json.dumps(health.get("embodiment")), f"{self.address}: embodiment")
        except (ConfigError, TypeError, ValueError) as error:
            reason = printable(str(error), MAX_REASON)
            raise ServerError(f"{reason}; server and client have different versions") from error
        items = differences(served, self.embodiment) or [f"fingerprint: found {_text(health, 'fingerprint')}"]
        raise ServerError(
            f"{self.address}: serves another embodiment (found: the server's, expected: ours): "
            f"{printable('; '.join(items), MAX_REASON)}"
        )

    def _ask(self, endpoint: str, deadline_s: float, data: Any = None) -> Any:
        """Return the reply of an endpoint; ServerError if the reply is an error."""
        request: dict[str, Any] = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self._server is not None and self._server.is_ours:
            valid_s = max(0.0, deadline_s - time.monotonic())
            request["client"] = {"valid_s": valid_s, "float64": True, "wire": self._wire.value, **self._chosen}
        reply = self._exchange(request, deadline_s)
        self._refuse_error(endpoint, reply)
        return reply

    def _refuse_error(self, endpoint: str, reply: Any) -> None:
        if isinstance(reply, dict) and "error" in reply:
            reason = reply["error"]
            shown = printable(reason, MAX_REASON) if isinstance(reason, str) else _shown(reason)
            raise ServerError(f"{self.address}: {endpoint} was refused: {shown}")

    def _exchange(self, request: dict[str, Any], deadline_s: float) -> Any:
        if self._token is not None:
            request["api_token"] = self._token
        message = pack(request, self._wire)
        limit = None if self._server is None else self._server.max_request_bytes
        if limit is not None and len(message) > limit:
            raise ServerError(
                f"{self.address}: request of {len(message)} bytes (limit {limit}); send fewer or smaller images, or "
                "JPEG, or raise the server's --max-request-mib"
            )
        try:
            if self._connection is None:
                self._connection = ServerConnection(self._host, self._port, deadline_s)
            return unpack(self._connection.exchange(message, deadline_s))[0]
        except UnansweredError as error:
            self._drop()
            remedy = f"; if it is only slow, raise {self._timeout_name}" if error.is_late else ""
            raise ServerError(
                f"{self.address}: {error} ({request['endpoint']}, limit {self._timeout_s:g} s){remedy}"
            ) from error
        except ServerError as error:
            self._drop()
            raise ServerError(f"{self.address}: {error}") from error

    def _drop_lost(self) -> None:
        """Close the connection if the server closed it."""
        if self._connection is not None and self._connection.is_lost:
            self._num_losses += 1
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._server = None


def _only(continuations: Sequence[Continuation | None] | None, num_samples: int) -> Continuation | None:
    given = [continuation for continuation in continuations or () if continuation is not None]
    if given and num_samples > 1:
        raise ServerError(f"a chunk to continue, and {num_samples} observations (limit 1); ask for one at a time")
    return given[0] if given else None


def _text(reply: Mapping[str, Any], name: str) -> str | None:
    """Return a text of a server's reply; None if it is missing or not a text."""
    value = reply.get(name)
    return value if isinstance(value, str) else None


def _shown(reply: Any) -> str:
    """Return a short text of a server's reply for an error; time and length are bounded."""
    return printable(reprlib.repr(reply))
