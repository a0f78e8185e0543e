"""Where the time goes: seconds of each part of captioning, collected while the work is done.

Knows: clocks, threads, that a GPU works on after a call has returned. Does not know: what the parts do.

Parts report to whoever listens in their context; without a listener `measure` costs next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType

PARTS = ("read", "backbone", "regions", "memory bank", "decoder")
"""In the order of the work: photo files to pixels; pixels to patch tokens; regions to embeddings; embeddings through
the memory bank; embeddings to captions."""


@dataclass(frozen=True)
class Profile:
    """Where the time of some work went.

    Attributes:
        seconds: busy wall seconds of each part of `PARTS` that ran. Reading and decoding run beside the backbone
            where many photos are captioned, so the parts may sum to more than `total`.
        calls: how often each part ran.
        total: wall seconds from start to end.
        photos, regions: how many photos were encoded, and regions captioned.

    Example:
        >>> Profile({"backbone": 0.3, "decoder": 0.1}, {"backbone": 1, "decoder": 1}, 0.5, 1, 2).other
        0.1
    """

    seconds: Mapping[str, float]
    calls: Mapping[str, int]
    total: float
    photos: int
    regions: int

    @property
    def other(self) -> float:
        """Seconds of the total that no part accounts for; 0 where parts ran side by side."""
        return max(0.0, round(self.total - sum(self.seconds.values()), 9))

    def table(self) -> str:
        """The profile as lines of text, ending in a newline."""
        rows = [(part, self.seconds[part], f"{self.calls[part]}") for part in self.seconds]
        lines = [f"{'part':<12} {'seconds':>9} {'share':>6} {'calls':>6}"]
        for part, seconds, calls in [*rows, ("other", self.other, ""), ("total", self.total, "")]:
            share = seconds / self.total if self.total else 0.0
            lines.append(f"{part:<12} {seconds:9.3f} {share:6.0%} {calls:>6}".rstrip())
        lines.append(f"{self.photos} photos, {self.regions} regions")
        return "\n".join(lines) + "\n"


@dataclass
class _Listener:
    """Adds up what the parts report; threads may report at once."""

    gpu: str | None
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, part: str, seconds: float, items: int) -> None:
        with self.lock:
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
            self.calls[part] = self.calls.get(part, 0) + 1
            self.items[part] = self.items.get(part, 0) + items

    def clock(self) -> float:
        if self.gpu is not None:
            import torch

            torch.cuda.synchronize(self.gpu)
        return time.perf_counter()


_LISTENER: ContextVar[_Listener | None] = ContextVar("profile_listener", default=None)


@contextmanager
def measure(part: str, items: int = 1) -> Iterator[None]:
    """Report the seconds of the block as those of `part`, if somebody listens.

    Args:
        part: of `PARTS`.
        items: how many photos or regions the block is for.
    """
    listener = _LISTENER.get()
    if listener is None:
        yield
        return
    started = listener.clock()
    try:
        yield
    finally:
        listener.add(part, listener.clock() - started, items)


@contextmanager
def listen(*, gpu: str | None = None) -> Iterator[list[Profile]]:
    """Collect what `measure` reports in this context and in threads that copy it.

    Args:
        gpu: name of the GPU to wait for at the borders of each part, such as "cuda:1", so that its work is counted
            where it belongs. That takes away some of the overlap.

    Yields:
        A list that holds the one `Profile` once the block has ended.

    Example:
        >>> with listen() as profiles:
        ...     captions = model.caption("photo.jpg")  # doctest: +SKIP
        >>> profiles[0].table()  # doctest: +SKIP
    """
    listener, profiles = _Listener(gpu), list[Profile]()
    token = _LISTENER.set(listener)
    started = listener.clock()
    try:
        yield profiles
    finally:
        _LISTENER.reset(token)
        total = listener.clock() - started
        order = [part for part in PARTS if part in listener.seconds]
        profiles.append(
            Profile(
                MappingProxyType({part: listener.seconds[part] for part in order}),
                MappingProxyType({part: listener.calls[part] for part in order}),
                total,
                listener.items.get("backbone", 0),
                listener.items.get("decoder", 0),
            )
        )
