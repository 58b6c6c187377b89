# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Serve a checkpoint by several replicas of Ray Serve behind one address, one for each GPU.

Ray Serve starts replicas, watches their health, replaces those that fail, and adds and removes some by their load. Each
replica is a `PolicyServer` on a port of its own; requests do not pass through Ray but through
`gr00t_training.serve.relay`, so that robots speak the same protocol as with one server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gr00t_training.cli.command import shown_name
from gr00t_training.errors import ConfigError
from gr00t_training.io.ray_cluster import LOCAL, connect, import_ray
from gr00t_training.io.text import one_line
from gr00t_training.serve.access import bind_address, tcp_address
from gr00t_training.serve.relay import Relay
from gr00t_training.serve.replica_process import LEAVE_S, STOP_S, Recipe
from gr00t_training.serve.replicas import Directory, Progress, Replica, wanted_replicas
from gr00t_training.serve.server_settings import ServerSettings

NAMESPACE = "gr00t"
PACKAGE = "gr00t_training"
HEALTH_PERIOD_S = 1.0
OBJECT_STORE_BYTES = 100 * 2**20  # hardly used: requests do not pass through Ray
LOOK_S = 0.5  # between two looks at the directory
METRICS_S = 2.0  # between two reports of the load
UPSCALE_S = 10.0  # for which the load must be too high ...
DOWNSCALE_S = 300.0  # ... or low, before the number of replicas changes; a removed one costs its robots a hold
UPDATE_S = 900.0  # longest time of an update


@dataclass(frozen=True)
class ReplicaCount:
    """Least and greatest number of replicas."""

    least: int
    most: int

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}..{self.most}"


def replica_count(text: str) -> ReplicaCount:
    """Return the numbers of `N` or `MIN..MAX`; for a parser."""
    least, _, most = text.partition("..")
    try:
        found = ReplicaCount(int(least), int(most) if ".." in text else int(least))
    except ValueError:
        found = ReplicaCount(0, 0)
    if not 1 <= found.least <= found.most:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number, or two such as 1..4")
    return found


def serve_replicas(options: argparse.Namespace, settings: ServerSettings, recipe: Recipe) -> None:
    """Start the replicas, and pass robots on to them until a signal.

    Args:
        options: `replicas`, `name`, `ray_address`, `device`, `checkpoint`.
        settings: of the address that robots use; the caller has checked its exposure.
        recipe: of the server of a replica.

    Raises:
        ConfigError: Ray is missing, its cluster has too few GPUs, the name is taken, or the address cannot be used.
    """
    ray = import_ray("--replicas", PACKAGE)
    ray_serve = import_ray("--replicas", PACKAGE, "ray.serve")
    # before replicas start: a second command for this port must not touch those of the first
    with _listen(bind_address(settings.host), settings.port) as listener, _cluster(ray, options.ray_address):
        name = options.name or _default_name(listener.getsockname()[1])
        directory = _new_directory(ray, name, _place(options.checkpoint))
        deployment = ray_serve.deployment(
            name="replica",
            health_check_period_s=HEALTH_PERIOD_S,
            graceful_shutdown_timeout_s=LEAVE_S + 2 * STOP_S,
            **_resources(ray, options),
            **_scale(options.replicas, settings.max_batch / 2),
        )(Replica)
        ray_serve.start(proxy_location="Disabled")
        try:
            here = ray.util.get_node_ip_address()
            _run(ray_serve, deployment.bind(recipe, here, directory), name, options.checkpoint)
            cluster = ray.get_runtime_context().gcs_address
            asyncio.run(_relay(listener, directory, f"{options.replicas} replicas, name {name}, Ray at {cluster}"))
        finally:
            ray_serve.delete(name)


def _run(ray_serve: Any, application: Any, name: str, checkpoint: str) -> None:
    """Start the replicas and wait until they serve."""
    try:
        ray_serve.run(application, name=name, route_prefix=None)
    except RuntimeError as error:
        raise ConfigError(f"{checkpoint}: no replica started ({one_line(error)[:500]}); see Ray's log") from error


def update_replicas(options: argparse.Namespace) -> None:
    """Let running replicas serve another checkpoint, one after the other; return when all do.

    Args:
        options: `update` (name of the replicas), `ray_address` (local: a cluster on this machine), `checkpoint`.

    Raises:
        ConfigError: there are no such replicas, or they cannot serve it; then they go on with what they had.
    """
    ray = import_ray("--update", PACKAGE)
    address = "auto" if options.ray_address == LOCAL else options.ray_address
    with _cluster(ray, address):
        try:
            directory = ray.get_actor(directory_name(options.update), namespace=NAMESPACE)
        except ValueError as error:
            raise ConfigError(
                f"--update {options.update}: no replicas of this name in the cluster; the command that started them "
                "prints their name, and the address for --ray-address"
            ) from error
        refusal = ray.get(directory.update.remote(_place(options.checkpoint)))
        if refusal:
            raise ConfigError(f"--update {options.update}: {refusal}; wait until it ends")
        _follow(ray, directory, options.update)


def _follow(ray: Any, directory: Any, name: str) -> None:
    told, end_s = -1, time.monotonic() + UPDATE_S
    while time.monotonic() < end_s:
        progress: Progress = ray.get(directory.progress.remote())
        if progress.refusal:
            raise ConfigError(f"--update {name}: {progress.refusal} (the replicas serve what they served before)")
        if progress.num_updated != told:
            told = progress.num_updated
            print(f"{told} of {progress.num_replicas} replicas serve {progress.checkpoint}", flush=True)
        if told and told == progress.num_replicas:
            return
        time.sleep(LOOK_S)
    raise ConfigError(f"--update {name}: not all replicas serve it after {UPDATE_S:g} s; see Ray's log")


def _default_name(port: int) -> str:
    return f"gr00t_serve_{port}"


def directory_name(name: str) -> str:
    """Return the name of the actor that knows what the replicas of a name serve."""
    return f"{name}_directory"


def _new_directory(ray: Any, name: str, checkpoint: str) -> Any:
    """Start the directory, whose name keeps others from using that of the replicas while it lives."""
    try:
        actor = ray.remote(Directory).options(name=directory_name(name), namespace=NAMESPACE, num_cpus=0)
        return actor.remote(checkpoint)
    except ValueError as error:
        raise ConfigError(f"--name {name}: replicas of this name run in this cluster; choose another name") from error


def _place(checkpoint: str) -> str:
    """Return the whole path of a folder; a hub id stays as it is."""
    return os.path.abspath(checkpoint) if os.path.exists(checkpoint) else checkpoint


def _resources(ray: Any, options: argparse.Namespace) -> dict[str, Any]:
    num_gpus = _gpus_each(ray, options)
    return {"ray_actor_options": {"num_gpus": num_gpus, "num_cpus": 0 if num_gpus else 1}}


def _scale(count: ReplicaCount, target: float) -> dict[str, Any]:
    if count.least == count.most:
        return {"num_replicas": count.least}
    config = import_ray("--replicas", PACKAGE, "ray.serve.config")
    scaling = config.AutoscalingConfig(
        min_replicas=count.least,
        max_replicas=count.most,
        metrics_interval_s=METRICS_S,
        look_back_period_s=2 * METRICS_S,
        upscale_delay_s=UPSCALE_S,
        downscale_delay_s=DOWNSCALE_S,
        target_ongoing_requests=target,
        policy=config.AutoscalingPolicy(policy_function=wanted_replicas),
    )
    return {"autoscaling_config": scaling}


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"{tcp_address(host, port)}: cannot listen ({error.strerror}); choose another port"
        ) from error


async def _relay(listener: socket.socket, directory: Any, what: str) -> None:
    relay, stopped = Relay(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    relay.use(await directory.addresses.remote())
    listening = await relay.listen(listener)
    address = tcp_address(*listener.getsockname()[:2])
    print(f"{shown_name('gr00t_serve')}: ready at {address}: {what}", flush=True)
    try:
        while not stopped.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopped.wait(), LOOK_S)
            relay.use(await directory.addresses.remote())
    finally:
        listening.close()
        await relay.close()


@contextlib.contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine."""
    local = {"object_store_memory": OBJECT_STORE_BYTES}
    connect(ray, address, local=local, namespace=NAMESPACE, log_to_driver=True)
    try:
        yield
    finally:
        ray.shutdown()


def _gpus_each(ray: Any, options: argparse.Namespace) -> int:
    found = int(ray.cluster_resources().get("GPU", 0))
    if options.device == "cpu" or (options.device == "auto" and not found):
        return 0
    if found < options.replicas.least and options.ray_address == LOCAL:  # a cluster may grow
        raise ConfigError(
            f"--replicas {options.replicas}: the cluster has {found} GPUs, one is needed for each; lower it, or pass "
            "--device cpu"
        )
    return 1
