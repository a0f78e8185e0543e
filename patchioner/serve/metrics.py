"""What Prometheus is told: requests, stages, batches, queue and cache; never what was in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from patchioner.base.optional import require

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        prometheus = require("prometheus_client", "serve")
        self._text = prometheus.generate_latest
        self._gauge = prometheus.Gauge
        self._registry = registry = prometheus.CollectorRegistry()
        known: dict[str, Any] = {"namespace": "patchioner", "registry": registry}
        self._requests = prometheus.Counter(
            "requests", "Requests answered", ["path", "status"], **known
        )
        self._latency = prometheus.Histogram(
            "request_seconds",
            "From the first byte to the last",
            ["path"],
            buckets=_SECONDS,
            **known,
        )
        self._stages = prometheus.Histogram(
            "stage_seconds",
            "Of decoding, waiting, and each batch",
            ["stage"],
            buckets=_SECONDS,
            **known,
        )
        self._rows = prometheus.Histogram(
            "batch_rows", "Regions, photos or texts of a batch", ["stage"], buckets=_ROWS, **known
        )

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A number that is read whenever it is asked for."""
        gauge = self._gauge(name, meaning, namespace="patchioner", registry=self._registry)
        gauge.set_function(read)

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self._requests.labels(path, str(status)).inc()
        self._latency.labels(path).observe(seconds)

    def batch(self, key: Any, rows: int, waited: float, seconds: float) -> None:
        """A batch has been answered."""
        stage = key[0]
        self._stages.labels("wait").observe(waited)
        self._stages.labels(stage).observe(seconds)
        self._rows.labels(stage).observe(rows)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._stages.labels(name).observe(time.monotonic() - started)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        found: bytes = self._text(self._registry)
        return found
