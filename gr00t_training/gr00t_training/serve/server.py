# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Policy server for our client and for the ZeroMQ clients of GR00T N1.5 and N1.7.

The network thread owns the sockets, reads and checks requests and answers all but inference at once; the thread that
calls `serve` computes (`gr00t_training.serve.computing`), with a few others. Before the token is checked, only the
structure of a message is read. Endpoints: ping, health (ours), get_modality_config, get_action (default), reset,
kill (if allowed). A request is {"endpoint", "data"?, "api_token"?}; a failure is {"error": text}.

Our own client adds {"client": {"valid_s", "float64", "wire", "checkpoint"}} to a request: seconds until it stops
waiting, so that a request that would be late is refused at once; whether actions are sent as float64; the format of
modality configs; the name of the checkpoint that is to answer, absent: the first.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gr00t_training.embodiment import to_mapping
from gr00t_training.errors import ConfigError, Gr00tError, ServerError
from gr00t_training.io.text import printable
from gr00t_training.io.version import suite_version
from gr00t_training.policy.policy_like import PolicyLike
from gr00t_training.policy.state_range import describe_statistics
from gr00t_training.serve.access import bind_address, check_exposure, tcp_address, token_matches
from gr00t_training.serve.computing import Answer, Computing
from gr00t_training.serve.listener import Connection, Listener
from gr00t_training.serve.messages import SERVER_NAME, read_request
from gr00t_training.serve.modality import modality_configs
from gr00t_training.serve.observer import Observer, Stage
from gr00t_training.serve.request_limits import RequestLimits, state_limits
from gr00t_training.serve.server_settings import ServerSettings, WireChoice
from gr00t_training.serve.stages import stages_of
from gr00t_training.serve.waiting import Admission, Client, Job, RefusedError, Request
from gr00t_training.serve.wire import Wire, pack, read_content, scan_message, shown

logger = logging.getLogger(__name__)

DEFAULT_VALID_S = 15.0  # of a request without `valid_s`: the time limit of the releases' clients
LOAD_CAUSES = ("busy", "deadline", "stopping")  # of refusals that the server's load is the reason of
NUM_LATENCIES = 1000  # newest ones, for the percentiles
MAX_WAITING = 4  # requests of one client, including the running one; a robot has one
LINGER_S = 0.5  # for the last replies, when closing
MAX_REASON = 2000  # characters of an error
LOG_PERIOD_S = 1.0  # between two unexpected errors in the log
HELD_REQUESTS = 4  # of the largest size, waiting for the policy


@dataclass
class _Counters:
    answered: int = 0  # inferences
    refused: int = 0  # requests of any kind
    expired: int = 0  # inferences that the client no longer waits for
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_LATENCIES))


@dataclass(frozen=True)
class _Served:
    """A checkpoint, and what does not change while it is served."""

    policy: PolicyLike
    description: Mapping[str, Any]  # for `health`
    limits: RequestLimits


class PolicyServer:
    """Serve one or several policies on one address. It listens when it is made and answers while `serve` runs."""

    def __init__(
        self,
        policy: PolicyLike,
        settings: ServerSettings,
        *,
        token: str | None = None,
        name: str = "",
        model: str = "",
        usual_wire: Wire = Wire.N1_7,
        observer: Observer | None = None,
        others: Mapping[str, tuple[PolicyLike, str]] | None = None,
    ) -> None:
        """Bind the socket.

        Args:
            policy: one with stages answers several clients together; others are used by the thread that calls `serve`.
            settings: address and permissions.
            token: required in every request; None: no token.
            name: of the checkpoint, for `health`.
            model: model type of the checkpoint, for `health`.
            usual_wire: of the clients of the release; format of modality configs until a request shows another.
            observer: of times, batches and refusals.
            others: name -> policy and model type of more checkpoints, for clients that name one.

        Raises:
            ConfigError: the address cannot be used, or would need a token.
        """
        host = bind_address(settings.host)
        check_exposure(host, token, settings.insecure)
        self._settings = settings
        self._token = token
        self._wire = None if settings.wire is WireChoice.AUTO else Wire(settings.wire.value)
        self._usual_wire = self._wire or usual_wire
        self._endpoints: Mapping[str, Callable[[Request], bytes | None]] = {
            "ping": self._ping,
            "health": self._health,
            "get_modality_config": self._get_modality_config,
            "get_action": self._get_action,
            "reset": self._reset,
            "kill": self._kill,
        }
        given = {name: (policy, model), **(others or {})}
        self._default = name
        self._served = {each: self._describe(each, *found, list(given)) for each, found in given.items()}
        self._counters = _Counters()
        self._observer = observer or Observer()
        self._started_s = time.monotonic()
        self._logged_s = -LOG_PERIOD_S  # when the last unexpected error was logged
        self._admission = Admission(MAX_WAITING, HELD_REQUESTS * self._max_bytes)
        self._computing = Computing(
            {each: stages_of(found, each) for each, (found, _) in given.items()},
            self._pass_on,
            self._refusal,
            max_batch=settings.max_batch,
            max_wait_s=settings.max_wait_ms / 1000,
            observer=self._observer,
        )
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._is_stopping = self._is_woken = False
        self._fault: BaseException | None = None
        try:
            # more than the limit that is refused with a reply: this one closes the connection without a reply
            self._listener = Listener(host, settings.port, self._max_bytes + 2**20, self._receive, Client)
        except OSError as error:
            raise ConfigError(
                f"{tcp_address(host, settings.port)}: cannot listen ({error.strerror}); choose another port, "
                "or stop the server that uses it"
            ) from error
        self._address = tcp_address(host, self._listener.port)

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """ZeroMQ address with the actual port."""
        return self._address

    @property
    def port(self) -> int:
        """TCP port that it listens on."""
        return self._listener.port

    @property
    def served(self) -> tuple[str, str | None]:
        """Fingerprints of embodiment and statistics of the first checkpoint; without one the second is None."""
        description = self._served[self._default].description
        return description["fingerprint"], description.get("statistics_fingerprint")

    @property
    def num_waiting(self) -> int:
        """Number of requests without an answer, including those that are computed."""
        return self._admission.num_jobs

    @property
    def num_connections(self) -> int:
        """Number of open connections."""
        return self._listener.num_connections

    def expect(self, times_s: Mapping[int, float], checkpoint: str | None = None) -> None:
        """Take the times of a checkpoint's batches that were measured before, so that the first deadlines are kept.

        Args:
            times_s: by size.
            checkpoint: its name; None: the first one's.
        """
        self._computing.paces[self._default if checkpoint is None else checkpoint].begin_with(times_s)

    def serve(self) -> None:
        """Answer requests until `stop`, then close the socket. The policy runs in the calling thread."""
        thread = threading.Thread(target=self._exchange, name="policy_server", daemon=True)
        thread.start()
        try:
            self._computing.run()
        finally:
            self._is_stopping = True
            self._pass_on(None)
            thread.join()
            self.close()
        if self._fault:
            raise self._fault

    def stop(self) -> None:
        """Make `serve` return after the running inferences. Thread-safe; may be called in a signal handler."""
        self._is_stopping = True
        self._computing.stop()

    def close(self) -> None:
        """Free the address. Not needed after `serve`; do not call it while `serve` runs."""
        self._listener.close(LINGER_S)

    @property
    def _max_bytes(self) -> int:
        return self._settings.max_request_mib * 2**20

    def _describe(self, name: str, policy: PolicyLike, model: str, names: Sequence[str]) -> _Served:
        statistics = getattr(policy, "statistics", None)  # a policy without checkpoint has none
        description = {
            "status": "ok",
            "server": SERVER_NAME,
            "version": suite_version(),
            "name": name,
            "model": model,
            "checkpoints": names,
            "embodiment": to_mapping(policy.embodiment),
            "fingerprint": policy.embodiment.fingerprint(),
            **({} if statistics is None else describe_statistics(statistics)),
            "extensions": ["client", "images", "continuation", "checkpoint"],
            "max_request_bytes": self._max_bytes,
        }
        limits = RequestLimits(self._settings.max_batch, self._max_bytes, state_limits(statistics))
        return _Served(policy, description, limits)

    # Any thread.

    def _refusal(self, request: Request, error: Exception) -> Answer:
        reason = str(error) if isinstance(error, Gr00tError) else self._log_fault("inference failed", error)
        return Answer(request, pack({"error": printable(reason, MAX_REASON)}, request.wire), refused=_cause(error))

    def _pass_on(self, answer: Answer | None) -> None:
        self._answers.put(answer)
        if (
            not self._is_woken
        ):  # else the network thread has not looked yet: each call of the system costs Python's lock
            self._is_woken = True
            self._listener.wake()

    def _log_fault(self, what: str, error: Exception) -> str:
        """Log an unexpected error with its traceback; return its text for the reply, which may quote the client."""
        reason = f"internal error: {type(error).__name__}: {printable(str(error), MAX_REASON)}"
        if time.monotonic() - self._logged_s > LOG_PERIOD_S:  # or a client could fill the disk
            self._logged_s = time.monotonic()
            place = "".join(traceback.format_tb(error.__traceback__)).rstrip()
            logger.error("%s: %s\n%s", what, reason, place)
        return reason

    # Network thread.

    def _exchange(self) -> None:
        try:
            while True:
                self._listener.poll()
                self._is_woken = False  # before looking
                while not self._answers.empty():
                    answer = self._answers.get()
                    if answer is None:
                        return
                    self._finish(answer)
        except BaseException as error:
            self._fault = error  # `serve` raises it
        finally:
            self.stop()  # without this thread no request arrives

    def _finish(self, answer: Answer) -> None:
        request = answer.request
        self._admission.remove(request)
        if answer.refused is not None:
            self._count_refused(answer.refused)
            if answer.refused == "deadline":
                self._admission.count_late(request.client)
        elif answer.reply is None:
            self._counters.expired += 1
            self._observer.add_expired()
        if answer.latency_s is not None:
            request.client.num_late = 0
            self._counters.answered += 1
            self._counters.latencies_s.append(answer.latency_s)
        if answer.reply is not None:
            self._listener.send(request.connection, [*request.route, answer.reply])
        if answer.latency_s is not None:
            now_s = time.monotonic()
            self._computing.paces[request.checkpoint].add_reply(now_s - answer.computed_s)
            self._observer.add_seconds(Stage.TOTAL, now_s - request.received_s, request.checkpoint)

    def _receive(self, connection: Connection, parts: tuple[memoryview, ...]) -> bool:
        """Answer or queue a message; return whether its sender is trusted.

        A robot that is refused because the server has too much to do has done nothing wrong: read with less priority,
        its next requests would be late before they are read.
        """
        route, body = _split(parts)
        is_good = True
        try:
            if len(body) != 1:
                raise ServerError(f"message of {len(body)} parts, expected one")
            reply = self._answer(connection, route, body[0])
        except Gr00tError as error:
            is_good, reply = _cause(error) in LOAD_CAUSES, self._refuse(str(error), _cause(error))
        except Exception as error:  # one bad request must not stop the server
            is_good, reply = False, self._refuse(self._log_fault("request failed", error), _cause(error))
        if reply is not None:
            self._listener.send(connection, [*route, reply])
        return is_good

    def _count_refused(self, cause: str) -> None:
        self._counters.refused += 1
        self._observer.add_refused(cause)

    def _refuse(self, reason: str, cause: str) -> bytes:
        self._count_refused(cause)
        return pack({"error": printable(reason, MAX_REASON)}, self._usual_wire)

    def _answer(self, connection: Connection, route: tuple[memoryview, ...], body: memoryview) -> bytes | None:
        """Return the reply; None: the policy thread sends it."""
        message = scan_message(body, self._max_bytes)
        if self._token is not None and not token_matches(message.field("api_token"), self._token):
            raise RefusedError("token", "Unauthorized: Invalid API token")
        content, wire = read_content(message, self._wire)
        if not isinstance(content, dict):
            raise ServerError(f"request: found {type(content).__name__}, expected a map with 'endpoint'")
        endpoint = content.get("endpoint", "get_action")
        if not isinstance(endpoint, str) or endpoint not in self._endpoints:
            raise ServerError(
                f"Unknown endpoint: {printable(endpoint, 100) if isinstance(endpoint, str) else shown(endpoint)}"
            )
        request = self._read(content, connection, route, message.num_bytes, wire or self._usual_wire)
        return self._endpoints[endpoint](request)

    def _read(
        self,
        content: Mapping[Any, Any],
        connection: Connection,
        route: tuple[memoryview, ...],
        num_bytes: int,
        wire: Wire,
    ) -> Request:
        """Return the request with the options of our own client."""
        client = content.get("client", {})
        if not isinstance(client, dict):
            raise ServerError(f"client: found {type(client).__name__}, expected a map")
        valid_s, asked = client.get("valid_s", DEFAULT_VALID_S), client.get("wire", wire.value)
        if isinstance(valid_s, bool) or not isinstance(valid_s, (int, float)):
            raise ServerError(f"client.valid_s: found {type(valid_s).__name__}, expected seconds")
        known = [choice.value for choice in Wire]
        if not isinstance(asked, str) or asked not in known:
            raise ServerError(f"client.wire: found {shown(asked)}, expected one of {', '.join(known)}")
        checkpoint = client.get("checkpoint", self._default)
        if not isinstance(checkpoint, str) or checkpoint not in self._served:
            names = ", ".join(f"'{name}'" for name in self._served)
            raise ServerError(
                f"client.checkpoint: found {shown(checkpoint)}, this server has {names}; ask for one of them, or start "
                "it with --checkpoint NAME=PATH"
            )
        now_s = time.monotonic()
        dtype = np.float64 if client.get("float64") is True else np.float32
        return Request(
            connection,
            route,
            content.get("data"),
            num_bytes,
            self._wire or Wire(asked),
            dtype,
            now_s,
            now_s + valid_s,
            checkpoint,
        )

    def _ping(self, request: Request) -> bytes:
        return pack({"status": "ok", "message": "Server is running"}, request.wire)

    def _health(self, request: Request) -> bytes:
        counters = self._counters
        latencies = np.quantile(counters.latencies_s, (0.5, 0.95, 0.99, 1.0)).tolist() if counters.latencies_s else []
        content = {
            **self._served[request.checkpoint].description,
            "latency_s": dict(zip(("p50", "p95", "p99", "max"), latencies, strict=False)),  # empty before the first
            "requests": {
                "answered": counters.answered,
                "refused": counters.refused,
                "expired": counters.expired,
                "waiting": self._admission.num_jobs,
            },
            "connections": self._listener.num_connections,
            "uptime_s": time.monotonic() - self._started_s,
        }
        return pack(content, request.wire)

    def _get_modality_config(self, request: Request) -> bytes:
        return pack(modality_configs(self._served[request.checkpoint].policy.embodiment, request.wire), request.wire)

    def _get_action(self, request: Request) -> None:
        self._check_admission(request)
        expected_s = self._computing.expected_s(request, self._admission.num_clients)
        self._admission.check_deadline(request, expected_s)  # before the work of reading it
        served = self._served[request.checkpoint]
        asked = read_request(request.data, served.policy.embodiment, served.limits)
        self._add(Job(request, asked))

    def _reset(self, request: Request) -> None:
        self._check_admission(request)
        self._add(Job(request, None))

    def _check_admission(self, request: Request) -> None:
        if self._is_stopping:
            raise RefusedError("stopping", f"{SERVER_NAME} is shutting down")
        self._admission.check(request)

    def _add(self, job: Job) -> None:
        self._admission.add(job.request)
        self._computing.put(job)

    def _kill(self, request: Request) -> bytes:
        if not self._settings.allow_kill:
            raise ServerError("kill: not allowed; start the server with --allow-kill, or stop it on its machine")
        self.stop()
        return pack(None, request.wire)


def _split(parts: Sequence[memoryview]) -> tuple[tuple[memoryview, ...], Sequence[memoryview]]:
    """Split the parts that route the reply, up to the first empty one, from the message."""
    end = next((i + 1 for i, part in enumerate(parts) if not len(part)), 0)
    return tuple(parts[:end]), parts[end:]


def _cause(error: Exception) -> str:
    """Return why a request was refused, for the statistics."""
    if isinstance(error, RefusedError):
        return error.cause
    return "request" if isinstance(error, Gr00tError) else "fault"
