# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Export what a policy server reports as Prometheus metrics; needs the package prometheus_client.

The page is served on loopback without a token: it has names, counts and times, no observation. The dashboard for it is
docker/grafana/gr00t_serve.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gr00t_training.errors import ConfigError
from gr00t_training.io.version import suite_version
from gr00t_training.serve.observer import Observer, Stage

HOST = "127.0.0.1"
CAUSES = ("busy", "deadline", "fault", "request", "stopping", "token")  # of refusals
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128)


class PrometheusObserver(Observer):
    """Count in a registry of its own."""

    def __init__(self, models: Mapping[str, str]) -> None:
        """Make the metrics.

        Args:
            models: name of each checkpoint -> its type.

        Raises:
            ConfigError: prometheus_client is not installed.
        """
        prometheus = _prometheus()
        self.registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        info = prometheus.Info("gr00t_serve", "Checkpoint that is served.", ["checkpoint"], registry=registry)
        for name, model in models.items():
            info.labels(name).info({"model": model, "version": suite_version()})
        stages = prometheus.Histogram(
            "gr00t_serve_stage_seconds",
            "Time of a stage of an answer.",
            ["checkpoint", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {(name, stage): stages.labels(name, stage.value) for name in models for stage in Stage}
        samples = prometheus.Histogram(
            "gr00t_serve_batch_samples", "Samples of a batch.", ["checkpoint"], buckets=_SAMPLES, registry=registry
        )
        self._samples = {name: samples.labels(name) for name in models}
        computed = prometheus.Counter(
            "gr00t_serve_computed_samples",
            "Samples computed, with those that fill a batch.",
            ["checkpoint"],
            registry=registry,
        )
        self._computed = {name: computed.labels(name) for name in models}
        refused = prometheus.Counter(
            "gr00t_serve_refused", "Refused requests of any kind, by cause.", ["cause"], registry=registry
        )
        self._refused = {cause: refused.labels(cause) for cause in CAUSES}
        self._expired = prometheus.Counter(
            "gr00t_serve_expired", "Requests that their clients no longer waited for.", registry=registry
        )
        self._gauge = lambda *names, **labels: prometheus.Gauge(*names, **labels, registry=registry)

    def watch(
        self,
        num_waiting: Callable[[], float],
        num_connections: Callable[[], float],
        device_memory: Callable[[], Mapping[str, int]],
        weight_bytes: Mapping[str, int],
    ) -> None:
        """Export values that are read when the page is, and the bytes of the weights of each checkpoint."""
        self._gauge("gr00t_serve_waiting_requests", "Requests without an answer.").set_function(num_waiting)
        self._gauge("gr00t_serve_connections", "Open connections.").set_function(num_connections)
        memory = self._gauge("gr00t_serve_gpu_memory_bytes", "Memory of the GPU, by use.", labelnames=["use"])
        for use in device_memory():
            memory.labels(use).set_function(lambda use=use: device_memory()[use])
        weights = self._gauge("gr00t_serve_weight_bytes", "Weights of a checkpoint.", labelnames=["checkpoint"])
        for name, count in weight_bytes.items():
            weights.labels(name).set(count)

    def add_seconds(self, stage: Stage, seconds: float, checkpoint: str) -> None:
        """Take the time of a stage (`Observer.add_seconds`)."""
        self._stages[checkpoint, stage].observe(seconds)

    def add_batch(self, num_samples: int, size: int, checkpoint: str) -> None:
        """Take a batch (`Observer.add_batch`)."""
        self._samples[checkpoint].observe(num_samples)
        self._computed[checkpoint].inc(size)

    def add_refused(self, cause: str) -> None:
        """Count a refusal (`Observer.add_refused`)."""
        self._refused[cause].inc()

    def add_expired(self) -> None:
        """Count an expired request (`Observer.add_expired`)."""
        self._expired.inc()


class MetricsPage:
    """Serve a registry at http://127.0.0.1:PORT/metrics until it is closed."""

    def __init__(self, observer: PrometheusObserver, port: int) -> None:
        """Listen.

        Raises:
            ConfigError: the port cannot be used.
        """
        try:
            self._server, self._thread = _prometheus().start_http_server(port, HOST, observer.registry)
        except OSError as error:
            raise ConfigError(
                f"metrics_port {port}: cannot listen ({error.strerror}); choose another one, or stop its program"
            ) from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _prometheus() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise ConfigError(
            f"metrics_port: needs the library prometheus_client ({error}); install it with pip install "
            "'gr00t_training[metrics]'"
        ) from error
    return prometheus_client
