"""Many photos on one line: read ahead, encoded in groups, their regions captioned in shared batches.

Knows: order, threads, bounded queues. Does not know: what a photo, an embedding or a caption is made of (`Steps`).
What comes out does not depend on how the work was cut up, beyond the rounding of the platform's matrix product.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Generic, TypeVar

from patchioner.base.errors import OptionError

Source = TypeVar("Source")
Photo = TypeVar("Photo")
Rows = TypeVar("Rows")
Answer = TypeVar("Answer")
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Batching:
    """How the work on many photos is cut up; captions do not depend on it.

    Attributes:
        photos: how many are encoded as one group; those of equal shape share a backbone pass.
        regions: captions of at least so many regions are written as one batch (a photo's own stay together).
        readers: threads that read photos ahead; 0 reads each when its turn comes.
        ahead: how many photos may wait, read but not yet encoded.
        overlap: captions of one batch are written while the photos of the next are encoded.

    Raises:
        OptionError: a number below its least.
    """

    photos: int = 1
    regions: int = 512
    readers: int = 1
    ahead: int = 4
    overlap: bool = True

    def __post_init__(self) -> None:
        for name, least in (("photos", 1), ("regions", 1), ("readers", 0), ("ahead", 1)):
            value = getattr(self, name)
            if value < least:
                raise OptionError(f"Batching({name}={value}): give {least} or more")

    @classmethod
    def alone(cls) -> Batching:
        """What suits a single photo: no threads."""
        return cls(readers=0, overlap=False)

    @classmethod
    def on(cls, device_type: str) -> Batching:
        """What suits a device: small groups on a CPU, whose caches are small; large ones on a GPU."""
        if device_type == "cpu":
            return cls()
        return cls(photos=16, regions=2048, readers=4, ahead=64)


@dataclass(frozen=True)
class Steps(Generic[Source, Photo, Rows, Answer]):
    """The work itself.

    Attributes:
        read: one source -> its photo; called in other threads.
        embed: a group of photos -> the embeddings of each one's regions, each with a length.
        answer: embeddings of several photos -> one answer for each of their rows, in order; called in another thread.
    """

    read: Callable[[Source], Photo]
    embed: Callable[[Sequence[Photo]], Sequence[Rows]]
    answer: Callable[[Sequence[Rows]], Sequence[Answer]]


def run(
    sources: Iterable[Source],
    steps: Steps[Source, Photo, Rows, Answer],
    batching: Batching,
    *,
    length: Callable[[Rows], int],
) -> Iterator[list[Answer]]:
    """Yield the answers of each source, in their order.

    At most `ahead` photos, one group of encoded ones, and the embeddings of three batches are held at a time, however
    many sources there are. An error of one source is raised here, after the answers of those before its group.

    Args:
        sources: may be endless.
        steps: the work.
        batching: how it is cut up.
        length: how many answers a photo's embeddings give.
    """
    photos = map_ahead(steps.read, sources, workers=batching.readers, ahead=batching.ahead)
    groups = chunks(photos, lambda group: len(group) == batching.photos)
    embedded = (rows for group in groups for rows in steps.embed(group))
    batches = chunks(embedded, lambda batch: sum(map(length, batch)) >= batching.regions)

    def answer(batch: Sequence[Rows]) -> list[list[Answer]]:
        answers = list(steps.answer(batch))
        bounds = accumulate((length(rows) for rows in batch), initial=0)
        return [answers[start:end] for start, end in pairwise(bounds)]

    for answered in map_ahead(answer, batches, workers=int(batching.overlap), ahead=1):
        yield from answered


def map_ahead(
    function: Callable[[In], Out], items: Iterable[In], *, workers: int, ahead: int
) -> Iterator[Out]:
    """`map` with threads: results in order, never more than `ahead` of them waiting to be taken.

    Args:
        function: called in threads that see the caller's context variables.
        items: taken one by one, in the caller's thread.
        workers: threads; 0 is plain `map`.
        ahead: how many items are worked on beyond the one that is taken next.

    Example:
        >>> list(map_ahead(abs, [-1, 2, -3], workers=2, ahead=1))
        [1, 2, 3]
    """
    if workers == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="patchioner") as pool:
        try:
            stopped: Exception | None = None
            upcoming = iter(items)
            while True:
                try:
                    item = next(upcoming)
                except StopIteration:
                    break
                except Exception as error:
                    stopped = error  # what came before it is still good
                    break
                waiting.append(pool.submit(contextvars.copy_context().run, function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if stopped is not None:
                raise stopped
        finally:  # an error, or a caller who has seen enough
            for future in waiting:
                future.cancel()


def chunks(items: Iterable[In], is_full: Callable[[Sequence[In]], bool]) -> Iterator[list[In]]:
    """Cut into lists, each ending with the item that makes it full; an error comes after the items before it.

    Example:
        >>> list(chunks([1, 2, 3], lambda found: len(found) == 2))
        [[1, 2], [3]]
    """
    found: list[In] = []
    try:
        for item in items:
            found.append(item)
            if is_full(found):
                yield found
                found = []
    except Exception:
        if found:
            yield found
        raise
    if found:
        yield found
