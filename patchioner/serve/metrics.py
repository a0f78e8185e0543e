"""What Prometheus is told: requests, stages, batches, queue and cache; never what was in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import prometheus_client as prometheus

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_ROWS = tuple(2**power for power in range(11))


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = prometheus.CollectorRegistry()
        self._known: Any = {"namespace": "patchioner", "registry": self._registry}
        names = ["path", "status"]
        self._requests = prometheus.Counter("requests", "Answered", names, **self._known)
        self._latency = self._histogram("request_seconds", "Of requests", "path", _SECONDS)
        self._stages = self._histogram("stage_seconds", "Of parts of the work", "stage", _SECONDS)
        self._rows = self._histogram("batch_rows", "Regions, photos or texts", "stage", _ROWS)

    def _histogram(self, name: str, meaning: str, label: str, buckets: Any) -> Any:
        return prometheus.Histogram(name, meaning, [label], buckets=buckets, **self._known)

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A number that is read whenever it is asked for."""
        prometheus.Gauge(name, meaning, **self._known).set_function(read)

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self._requests.labels(path, str(status)).inc()
        self._latency.labels(path).observe(seconds)

    def batch(self, key: Any, rows: int, waited: float, seconds: float) -> None:
        """A batch has been answered."""
        self._stages.labels("wait").observe(waited)
        self._stages.labels(key[0]).observe(seconds)
        self._rows.labels(key[0]).observe(rows)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        with self._stages.labels(name).time():
            yield

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return prometheus.generate_latest(self._registry)
