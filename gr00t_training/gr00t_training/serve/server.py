# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy behind a ZeroMQ socket that clients of GR00T N1.5 and N1.7 can talk to, and ours.

Two threads: one owns the socket, reads and checks requests and answers all but inference at once; the one that calls
`serve` runs the policy, one request after another. Endpoints: ping, health (ours), get_modality_config, get_action
(default), reset, kill (when allowed). A request is {"endpoint", "data"?, "api_token"?}; a failure is {"error": text}.

Our own client adds {"client": {"valid_s", "float64", "wire"}} to a request: seconds after which it no longer waits, so
that nothing is computed for nobody; whether actions are to come in full precision; the form of modality configs.
"""

from __future__ import annotations

import hmac
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib import metadata as package_metadata
from typing import Any, Protocol

import numpy as np
import zmq

from gr00t_training.dataset.state_range import describe_statistics
from gr00t_training.embodiment import Embodiment, to_mapping
from gr00t_training.errors import ConfigError, Gr00tError, ServerError
from gr00t_training.serve.access import bind_address, check_exposure, tcp_address
from gr00t_training.serve.messages import SERVER_NAME, ActionRequest, read_request
from gr00t_training.serve.modality import modality_configs
from gr00t_training.serve.wire import Wire, pack, unpack
from gr00t_training.settings import setting
from gr00t_training.types import ActionChunk, Continuation, Observation

logger = logging.getLogger(__name__)

N1_5_MODELS = ("gr00t_n1", "gr00t_n1_5")  # model types whose clients speak N1.5
MAX_WAITING = 16  # requests; a robot asks again sooner than it would get an answer from behind these
NUM_LATENCIES = 1000  # newest, of the percentiles
LINGER_MS = 500  # for the last replies, at the end
KEEPALIVE_S = 30  # a robot that was switched off leaves its connection open


class WireChoice(str, Enum):
    """Which messages a server takes."""

    AUTO = "auto"
    N1_5 = Wire.N1_5.value
    N1_7 = Wire.N1_7.value


@dataclass(frozen=True)
class ServerSettings:
    """Where and to whom a policy is served."""

    host: str = setting("127.0.0.1", "Address to listen at; 0.0.0.0: at all, which needs a token.")
    port: int = setting(5555, "TCP port; 0: any free one.", ge=0, le=65535)
    wire: WireChoice = setting(WireChoice.AUTO, "Form of messages; auto: whichever a request has.")
    allow_kill: bool = setting(False, "Whether a client may end the server.")
    insecure: bool = setting(False, "Whether other machines may use the policy without a token.")
    max_request_mib: int = setting(256, "Largest request [MiB].", ge=1, le=2048)


class ServedPolicy(Protocol):
    """What the server needs of a policy."""

    @property
    def embodiment(self) -> Embodiment:
        """The robot that the policy is for."""
        ...

    def infer_batch(
        self, observations: Sequence[Observation], continuations: Sequence[Continuation | None] | None = None
    ) -> list[ActionChunk]:
        """Answer several observations at once, each continuing an earlier chunk or none."""
        ...

    def reset(self) -> None:
        """Start an episode."""
        ...


@dataclass(frozen=True)
class _Request:
    envelope: tuple[bytes, ...]  # frames that lead the reply back
    data: Any
    wire: Wire  # of the reply
    actions_dtype: type[np.floating]
    received_s: float
    expires_s: float


@dataclass(frozen=True)
class _Job:
    request: _Request
    run: Callable[[], bytes]
    is_inference: bool


@dataclass(frozen=True)
class _Answer:
    request: _Request
    reply: bytes | None  # None: nobody waits for it
    is_error: bool = False
    latency_s: float | None = None  # of an inference


@dataclass
class _Counters:
    answered: int = 0  # inferences
    refused: int = 0  # requests of any kind
    expired: int = 0  # inferences that nobody waited for
    waiting: int = 0  # requests for the policy, with the one that runs
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_LATENCIES))


class PolicyServer:
    """Serves one policy at one address; made, it listens, and from `serve` on it answers."""

    def __init__(
        self,
        policy: ServedPolicy,
        settings: ServerSettings,
        *,
        token: str | None = None,
        name: str = "",
        model: str = "",
    ) -> None:
        """Bind the socket.

        Args:
            policy: used by one thread at a time, the one that calls `serve`.
            settings: address and permissions.
            token: that every request must bear; None: none.
            name: of the checkpoint, for `health`.
            model: model type of the checkpoint; tells which release's modality configs are sent when in doubt.

        Raises:
            ConfigError: the address cannot be used, or would need a token.
        """
        host = bind_address(settings.host)
        check_exposure(host, token, settings.insecure)
        self._policy = policy
        self._settings = settings
        self._token = token
        self._name, self._model = name, model
        self._wire = None if settings.wire is WireChoice.AUTO else Wire(settings.wire.value)
        self._usual_wire = self._wire or (Wire.N1_5 if model in N1_5_MODELS else Wire.N1_7)
        self._endpoints: Mapping[Any, Callable[[_Request], bytes | None]] = {
            "ping": self._ping,
            "health": self._health,
            "get_modality_config": self._get_modality_config,
            "get_action": self._get_action,
            "reset": self._reset,
            "kill": self._kill,
        }
        # a policy made of something else than a checkpoint has none
        statistics = getattr(policy, "statistics", None)
        self._described_statistics = {} if statistics is None else describe_statistics(statistics)
        self._counters = _Counters()
        self._started_s = time.monotonic()
        # SimpleQueue: `stop` may come from a signal handler that interrupts the very `get` of `serve`
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        self._is_stopping = False
        self._fault: BaseException | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        # the news tell the thread of the socket that an answer is there
        self._news, self._announce = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        try:
            self._bind(host)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """ZeroMQ address that is listened at, with the actual port."""
        return self._address

    @property
    def port(self) -> int:
        """TCP port that is listened at."""
        return int(self._address.rpartition(":")[2])

    def serve(self) -> None:
        """Answer requests until `stop`; then the socket is closed. Runs the policy in the calling thread."""
        thread = threading.Thread(target=self._exchange, name="policy_server", daemon=True)
        thread.start()
        try:
            while (job := self._jobs.get()) is not None:
                self._tell(self._run(job))
        finally:
            self._is_stopping = True
            while not self._jobs.empty():
                if job := self._jobs.get():
                    self._tell(self._run(job))
            self._tell(None)
            thread.join()
            self.close()
        if self._fault:
            raise self._fault

    def stop(self) -> None:
        """Let `serve` return after the inference that is running; for any thread and for signal handlers."""
        self._is_stopping = True
        self._jobs.put(None)

    def close(self) -> None:
        """Free the address. Not needed after `serve`; not to be called while it runs."""
        for used in (self._socket, self._news, self._announce):
            used.close(LINGER_MS)
        self._context.term()

    def _bind(self, host: str) -> None:
        self._socket.ipv6 = ":" in host
        # a little more than what is refused with a reply: this limit cuts the connection without one
        self._socket.maxmsgsize = self._max_bytes + 2**20
        self._socket.tcp_keepalive = 1
        self._socket.tcp_keepalive_idle = KEEPALIVE_S
        self._socket.linger = LINGER_MS
        try:
            self._socket.bind(tcp_address(host, self._settings.port or "*"))
        except zmq.ZMQError as error:
            raise ConfigError(
                f"{tcp_address(host, self._settings.port)}: cannot be listened at ({error.strerror}); choose another "
                "port, or end the server that uses it"
            ) from error
        self._address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._news.bind("inproc://news")
        self._announce.connect("inproc://news")

    @property
    def _max_bytes(self) -> int:
        return self._settings.max_request_mib * 2**20

    # In the thread of the policy.

    def _run(self, job: _Job) -> _Answer:
        if time.monotonic() > job.request.expires_s:
            return _Answer(job.request, None)
        if self._is_stopping:
            return self._refusal(job.request, f"{SERVER_NAME} is being shut down")
        try:
            reply = job.run()
        except Gr00tError as error:
            return self._refusal(job.request, str(error))
        except Exception as error:  # a fault of the model must reach the client and must not end the server
            logger.exception("inference failed")
            return self._refusal(job.request, f"internal error: {type(error).__name__}: {error}")
        latency_s = time.monotonic() - job.request.received_s if job.is_inference else None
        return _Answer(job.request, reply, latency_s=latency_s)

    def _infer(self, request: _Request, asked: ActionRequest) -> bytes:
        continuations = None if asked.continuation is None else [asked.continuation]
        chunks = self._policy.infer_batch(asked.observations(), continuations)
        return pack(asked.reply(chunks, request.actions_dtype), request.wire)

    def _start_episode(self, request: _Request) -> bytes:
        self._policy.reset()
        return pack({}, request.wire)

    def _refusal(self, request: _Request, reason: str) -> _Answer:
        return _Answer(request, pack({"error": reason}, request.wire), is_error=True)

    def _tell(self, answer: _Answer | None) -> None:
        self._answers.put(answer)
        self._announce.send(b"")

    # In the thread of the socket.

    def _exchange(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._news, zmq.POLLIN)
        try:
            while True:
                events = dict(poller.poll())
                if self._news in events:
                    self._news.recv()
                    answer = self._answers.get()
                    if answer is None:
                        return
                    self._finish(answer)
                if self._socket in events:
                    self._receive(self._socket.recv_multipart(copy=False))
        except BaseException as error:
            self._fault = error  # `serve` raises it
        finally:
            self.stop()  # without this thread there is nothing to serve

    def _finish(self, answer: _Answer) -> None:
        self._counters.waiting -= 1
        self._counters.expired += answer.reply is None
        self._counters.refused += answer.is_error
        if answer.latency_s is not None:
            self._counters.answered += 1
            self._counters.latencies_s.append(answer.latency_s)
        if answer.reply is not None:
            self._send(answer.request.envelope, answer.reply)

    def _receive(self, frames: Sequence[zmq.Frame]) -> None:
        envelope, body = _split(frames)
        try:
            if len(body) != 1:
                raise ServerError(f"message of {len(body)} parts, expected one")
            content, wire = unpack(body[0].buffer, self._wire, self._max_bytes)
            reply = self._answer(envelope, content, wire or self._usual_wire)
        except Gr00tError as error:
            reply = self._refuse(str(error))
        except Exception as error:  # one strange request must not end the server
            logger.exception("request failed")
            reply = self._refuse(f"internal error: {type(error).__name__}: {error}")
        if reply is not None:
            self._send(envelope, reply)

    def _refuse(self, reason: str) -> bytes:
        self._counters.refused += 1
        return pack({"error": reason}, self._usual_wire)

    def _send(self, envelope: Sequence[bytes], reply: bytes) -> None:
        try:
            self._socket.send_multipart([*envelope, reply], flags=zmq.DONTWAIT)
        except zmq.ZMQError as error:  # the client does not take its answers, or has gone
            logger.warning("an answer could not be sent (%s)", error.strerror)

    def _answer(self, envelope: tuple[bytes, ...], content: Any, wire: Wire) -> bytes | None:
        """Return the reply; None: it comes from the policy's thread."""
        if not isinstance(content, dict):
            raise ServerError(f"request: found {type(content).__name__}, expected a map with 'endpoint'")
        if not self._is_authorized(content.get("api_token")):
            raise ServerError("Unauthorized: Invalid API token")
        endpoint = content.get("endpoint", "get_action")
        if not isinstance(endpoint, str) or endpoint not in self._endpoints:
            raise ServerError(f"Unknown endpoint: {str(endpoint)[:100]}")
        return self._endpoints[endpoint](self._read(content, envelope, wire))

    def _read(self, content: Mapping[Any, Any], envelope: tuple[bytes, ...], wire: Wire) -> _Request:
        """Return the request, with what our own client says about itself."""
        client = content.get("client", {})
        if not isinstance(client, dict):
            raise ServerError(f"client: found {type(client).__name__}, expected a map")
        valid_s, asked = client.get("valid_s", float("inf")), client.get("wire", wire.value)
        if isinstance(valid_s, bool) or not isinstance(valid_s, (int, float)):
            raise ServerError(f"client.valid_s: found {type(valid_s).__name__}, expected seconds")
        known = [choice.value for choice in Wire]
        if not isinstance(asked, str) or asked not in known:
            raise ServerError(f"client.wire: found {str(asked)[:100]}, expected one of {', '.join(known)}")
        now_s = time.monotonic()
        dtype = np.float64 if client.get("float64") is True else np.float32
        return _Request(envelope, content.get("data"), self._wire or Wire(asked), dtype, now_s, now_s + valid_s)

    def _is_authorized(self, token: Any) -> bool:
        if self._token is None:
            return True
        return isinstance(token, str) and hmac.compare_digest(token.encode(errors="replace"), self._token.encode())

    def _ping(self, request: _Request) -> bytes:
        return pack({"status": "ok", "message": "Server is running"}, request.wire)

    def _health(self, request: _Request) -> bytes:
        embodiment, counters = self._policy.embodiment, self._counters
        latencies = np.quantile(counters.latencies_s, (0.5, 0.95, 0.99, 1.0)).tolist() if counters.latencies_s else []
        content = {
            "status": "ok",
            "server": SERVER_NAME,
            "version": _own_version(),
            "name": self._name,
            "model": self._model,
            "embodiment": to_mapping(embodiment),
            "fingerprint": embodiment.fingerprint(),
            **self._described_statistics,
            "extensions": ["client", "images", "continuation"],
            "latency_s": dict(zip(("p50", "p95", "p99", "max"), latencies, strict=False)),  # empty before the first
            "requests": {
                "answered": counters.answered,
                "refused": counters.refused,
                "expired": counters.expired,
                "waiting": counters.waiting,
            },
            "uptime_s": time.monotonic() - self._started_s,
        }
        return pack(content, request.wire)

    def _get_modality_config(self, request: _Request) -> bytes:
        return pack(modality_configs(self._policy.embodiment, request.wire), request.wire)

    def _get_action(self, request: _Request) -> None:
        asked = read_request(request.data, self._policy.embodiment)
        self._enqueue(_Job(request, lambda: self._infer(request, asked), is_inference=True))

    def _reset(self, request: _Request) -> None:
        self._enqueue(_Job(request, lambda: self._start_episode(request), is_inference=False))

    def _kill(self, request: _Request) -> bytes:
        if not self._settings.allow_kill:
            raise ServerError("kill: not allowed; start the server with --allow-kill, or end it on its machine")
        self.stop()
        return pack(None, request.wire)

    def _enqueue(self, job: _Job) -> None:
        if self._counters.waiting >= MAX_WAITING:
            raise ServerError(f"busy: {self._counters.waiting} requests wait already; ask again later")
        self._counters.waiting += 1
        self._jobs.put(job)


def _split(frames: Sequence[zmq.Frame]) -> tuple[tuple[bytes, ...], Sequence[zmq.Frame]]:
    """Part a message from the frames that lead back: up to the first empty one, or only the peer's own."""
    ends = [i for i, frame in enumerate(frames) if i and not len(frame.buffer)]
    end = ends[0] + 1 if ends else 1
    return tuple(frame.bytes for frame in frames[:end]), frames[end:]


def _own_version() -> str:
    try:
        return package_metadata.version("gr00t_training")
    except package_metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
