# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Actors of Ray behind one address: replicas, and the directory of what they serve.

The directory is the one place that knows the checkpoint. A replica asks it when it starts and whenever Ray Serve checks
its health; so a replica that is replaced, or added, serves what the others do. An update goes through the replicas one
by one: the next checkpoint is loaded beside the one that answers, and only then the relay gets its address. What cannot
be loaded, or would be refused by robots that were configured for this one, changes nothing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gr00t_training.errors import Gr00tError
from gr00t_training.serve.relay import Address
from gr00t_training.serve.replica_process import Recipe, ServerProcess

logger = logging.getLogger(__name__)

STALE_S = 10.0  # a replica that has not reported for so long gets no more robots
ANSWER_S = 5.0  # of the directory
LOAD = "unanswered"  # name of the measure that replicas are added for


@dataclass(frozen=True)
class Report:
    """What a replica serves."""

    address: Address
    checkpoint: str
    load: float  # mean number of unanswered requests


@dataclass(frozen=True)
class Progress:
    """How far an update is."""

    checkpoint: str  # that is to be served
    num_updated: int
    num_replicas: int
    refusal: str  # why the last update was refused; empty: it was not


class Directory:
    """What the replicas serve, and what they are to serve."""

    def __init__(self, checkpoint: str) -> None:
        """Take the checkpoint of the first replicas."""
        self._proven = self._wanted = checkpoint  # served by a replica; to be served by all
        self._turn = ""  # name of the replica that loads
        self._refusal = ""
        self._reports: dict[str, tuple[Report, float]] = {}

    def checkpoint(self) -> str:
        """Return what a new replica loads."""
        return self._proven

    def report(self, name: str, report: Report) -> str | None:
        """Take the report of a healthy replica; return the checkpoint that it is to load now, None: none."""
        self._reports[name] = report, time.monotonic()
        if report.checkpoint == self._wanted:
            self._proven = self._wanted
            self._turn = "" if self._turn == name else self._turn
            return None
        if self._turn not in self._current():
            self._turn = name
        return self._wanted if self._turn == name else None

    def refuse(self, name: str, checkpoint: str, reason: str) -> bool:
        """Give an update up that a replica cannot load; False: others serve it already, so it must."""
        if self._proven == checkpoint:
            return False
        if self._wanted == checkpoint:
            self._wanted, self._refusal = self._proven, reason
        self._turn = ""
        return True

    def remove(self, name: str) -> None:
        """Forget a replica that ends."""
        self._reports.pop(name, None)

    def addresses(self) -> list[Address]:
        """List the servers of the replicas that have reported lately."""
        return [report.address for report in self._current().values()]

    def update(self, checkpoint: str) -> str:
        """Begin to serve a checkpoint; return why not, empty: it begins."""
        if self._wanted != self._proven or self._turn:
            return f"an update to {self._wanted} is running"
        self._wanted, self._refusal = checkpoint, ""
        return ""

    def progress(self) -> Progress:
        """Return how far the last update is."""
        current = self._current().values()
        updated = [report for report in current if report.checkpoint == self._wanted]
        return Progress(self._wanted, len(updated), len(current), self._refusal)

    def _current(self) -> dict[str, Report]:
        now_s = time.monotonic()
        return {name: report for name, (report, at_s) in self._reports.items() if now_s - at_s < STALE_S}


class Replica:
    """A policy server as an actor of Ray Serve."""

    def __init__(self, recipe: Recipe, relay_host: str, directory: Any) -> None:
        """Load the policy and serve.

        Args:
            recipe: of the server.
            relay_host: of the relay; a replica on the same machine listens on loopback.
            directory: actor that keeps the addresses.
        """
        self._ray = import_module("ray")
        node = self._ray.util.get_node_ip_address()
        self._host = "127.0.0.1" if node == relay_host else node
        self._recipe, self._directory = recipe, directory
        self._name = self._ray.get_runtime_context().get_actor_id()
        self._updating: threading.Thread | None = None
        self._failure = ""
        self._server = ServerProcess(recipe, self._ask(directory.checkpoint.remote()), self._host)
        self._report()

    def check_health(self) -> None:
        """Report; Ray Serve calls it regularly, and replaces a replica that fails here."""
        if not self._server.is_alive:
            raise RuntimeError("the policy server has ended")
        if self._failure:
            raise RuntimeError(self._failure)
        checkpoint = self._report()
        if checkpoint is not None and (self._updating is None or not self._updating.is_alive()):
            self._updating = threading.Thread(target=self._update, args=(checkpoint,), daemon=True)
            self._updating.start()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load; Ray Serve adds and removes replicas by it (`wanted_replicas`)."""
        return {LOAD: self._server.load}

    def __del__(self) -> None:
        """End when the robots have left; Ray Serve calls it before it stops the process."""
        if hasattr(self, "_server"):  # else it did not start
            self._directory.remove.remote(self._name)
            self._server.leave()

    def _update(self, checkpoint: str) -> None:
        """Load another checkpoint, then let robots move to it, then end the server that they had."""
        try:
            new = ServerProcess(self._recipe, checkpoint, self._host)
        except Gr00tError as error:
            self._refuse(checkpoint, str(error))
            return
        if new.served != self._server.served:
            new.stop()
            names = ("embodiment", "statistics")
            differ = [name for name, a, b in zip(names, new.served, self._server.served, strict=True) if a != b]
            self._refuse(
                checkpoint,
                f"{checkpoint}: {' and '.join(differ)} differ from those of {self._server.checkpoint}, which robots "
                "were configured with; start a server of its own for it",
            )
            return
        old, self._server = self._server, new
        self._report()
        old.leave()

    def _refuse(self, checkpoint: str, reason: str) -> None:
        logger.error("update refused: %s", reason)
        if not self._ask(self._directory.refuse.remote(self._name, checkpoint, reason)):
            self._failure = reason  # Ray Serve starts another replica, which loads it alone

    def _report(self) -> str | None:
        report = Report(self._server.address, self._server.checkpoint, self._server.load)
        return self._ask(self._directory.report.remote(self._name, report))

    def _ask(self, answer: Any) -> Any:
        return self._ray.get(answer, timeout=ANSWER_S)


def wanted_replicas(context: Any) -> tuple[int, dict[str, Any]]:
    """Return how many replicas the load needs, and no state: an autoscaling policy of Ray Serve.

    Args:
        context: `ray.serve.config.AutoscalingContext`; its `target_ongoing_requests` is the mean number of unanswered
            requests of a replica that is wanted.
    """
    loads = (context.aggregated_metrics or {}).get(LOAD, {})
    wanted = math.ceil(sum(loads.values()) / context.config.target_ongoing_requests)
    low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return max(low, min(high, wanted)), {}
