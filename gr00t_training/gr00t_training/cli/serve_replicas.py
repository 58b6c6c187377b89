# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Serve a checkpoint by several replicas of Ray Serve behind one address, one for each GPU.

Ray Serve starts replicas, watches their health and replaces those that fail. Each replica is a `PolicyServer` on a
port of its own; requests do not pass through Ray but through `gr00t_training.serve.relay`, so that robots speak the
same protocol as with one server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from gr00t_training.cli.command import shown_name
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import one_line
from gr00t_training.serve.access import bind_address, tcp_address
from gr00t_training.serve.relay import Address, Relay
from gr00t_training.serve.server import PolicyServer
from gr00t_training.serve.server_settings import ServerSettings

logger = logging.getLogger(__name__)

APPLICATION = "gr00t_serve"
DIRECTORY = "gr00t_serve_directory"  # name of the actor
NAMESPACE = "gr00t"
HEALTH_PERIOD_S = 1.0
STALE_S = 10.0  # a replica that has not reported for so long gets no more robots
LOOK_S = 0.5  # between two looks at the directory
STOP_S = 5.0


class Directory:
    """Where the replicas listen."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[Address, float]] = {}

    def report(self, name: str, address: Address) -> None:
        """Take the address of a healthy replica."""
        self._reports[name] = (address, time.monotonic())

    def remove(self, name: str) -> None:
        """Forget a replica that ends."""
        self._reports.pop(name, None)

    def addresses(self) -> list[Address]:
        """List the replicas that have reported lately."""
        now_s = time.monotonic()
        return [address for address, reported_s in self._reports.values() if now_s - reported_s < STALE_S]


class Replica:
    """A policy server as an actor of Ray Serve."""

    def __init__(self, make_server: Callable[[str], PolicyServer], relay_host: str, directory: Any) -> None:
        """Load the policy and serve.

        Args:
            make_server: loads the policy and binds any free port of a host.
            relay_host: of the relay; a replica on the same machine listens on loopback.
            directory: actor that takes the address.
        """
        ray = import_module("ray")
        node = ray.util.get_node_ip_address()
        host = "127.0.0.1" if node == relay_host else node
        self._directory = directory
        self._name = ray.get_runtime_context().get_actor_id()
        self._server = make_server(host)
        self._address = (host, self._server.port)
        self._thread = threading.Thread(target=self._server.serve, name="serve", daemon=True)
        self._thread.start()
        ray.get(directory.report.remote(self._name, self._address))

    def check_health(self) -> None:
        """Report to the directory; Ray Serve calls it regularly, and replaces a replica that fails here."""
        if not self._thread.is_alive():
            raise RuntimeError("the policy server has ended")
        self._directory.report.remote(self._name, self._address)

    def __del__(self) -> None:
        """End: Ray Serve calls it before it stops the process."""
        if hasattr(self, "_thread"):  # else it did not start
            self._directory.remove.remote(self._name)
            self._server.stop()
            self._thread.join(STOP_S)


def serve_replicas(
    options: argparse.Namespace, settings: ServerSettings, make_server: Callable[[str], PolicyServer]
) -> None:
    """Start the replicas, and pass robots on to them until a signal.

    Args:
        options: `replicas`, `ray_address`, `device`, `checkpoint`.
        settings: of the address that robots use; the caller has checked its exposure.
        make_server: of a replica; pickled by Ray.

    Raises:
        ConfigError: Ray is missing, its cluster has too few GPUs, or the address cannot be used.
    """
    ray, ray_serve = _import_ray()
    # before replicas start: a second command for this port must not touch those of the first
    with _listen(bind_address(settings.host), settings.port) as listener, _cluster(ray, options.ray_address):
        directory = ray.remote(Directory).options(name=DIRECTORY, namespace=NAMESPACE, get_if_exists=True, num_cpus=0)
        num_gpus = _gpus_each(ray, options)
        deployment = ray_serve.deployment(
            name="replica",
            num_replicas=options.replicas,
            ray_actor_options={"num_gpus": num_gpus, "num_cpus": 0 if num_gpus else 1},
            health_check_period_s=HEALTH_PERIOD_S,
            graceful_shutdown_timeout_s=STOP_S,
        )(Replica)
        here = ray.util.get_node_ip_address()
        actor = directory.remote()
        ray_serve.start(proxy_location="Disabled")
        try:
            ray_serve.run(deployment.bind(make_server, here, actor), name=APPLICATION, route_prefix=None)
        except RuntimeError as error:
            raise ConfigError(
                f"{options.checkpoint}: no replica started ({one_line(error)[:500]}); see Ray's log"
            ) from error
        try:
            asyncio.run(_relay(listener, actor, options.replicas))
        finally:
            ray_serve.delete(APPLICATION)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"{tcp_address(host, port)}: cannot listen ({error.strerror}); choose another port"
        ) from error


async def _relay(listener: socket.socket, directory: Any, num_replicas: int) -> None:
    relay, stopped = Relay(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    relay.use(await directory.addresses.remote())
    listening = await relay.listen(listener)
    address = tcp_address(*listener.getsockname()[:2])
    print(f"{shown_name('gr00t_serve')}: ready at {address}: {num_replicas} replicas", flush=True)
    try:
        while not stopped.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopped.wait(), LOOK_S)
            relay.use(await directory.addresses.remote())
    finally:
        listening.close()
        await relay.close()


def _import_ray() -> tuple[ModuleType, ModuleType]:
    try:
        return import_module("ray"), import_module("ray.serve")
    except ImportError as error:
        raise ConfigError(
            f"--replicas: needs Ray Serve ({one_line(error)[:200]}); pip install 'gr00t_training[ray]', or leave it out"
        ) from error


@contextlib.contextmanager
def _cluster(ray: ModuleType, address: str) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=True, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray-address {address}: no cluster ({one_line(error)[:200]}); start one with `ray start --head`"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _gpus_each(ray: ModuleType, options: argparse.Namespace) -> int:
    found = int(ray.cluster_resources().get("GPU", 0))
    if options.device == "cpu" or (options.device == "auto" and not found):
        return 0
    if found < options.replicas:
        raise ConfigError(
            f"--replicas {options.replicas}: the cluster has {found} GPUs, one is needed for each; lower it, or pass "
            "--device cpu"
        )
    return 1
