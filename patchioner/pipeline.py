"""The one loop over many photos: read ahead, encoded in groups, answered in batches; a result or an error of each.

What comes out does not depend on how the work was cut up, beyond the rounding of the platform's matrix product.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from patchioner.base.errors import OutOfMemoryError, PatchionerError, out_of_memory
from patchioner.base.files import check
from patchioner.images import Doubt
from patchioner.regions import Region

Item = TypeVar("Item")
Photo = TypeVar("Photo")
Seen = TypeVar("Seen")
Answer = TypeVar("Answer")
In = TypeVar("In")
Out = TypeVar("Out")

OnError: TypeAlias = Literal["raise", "skip", "return"]
Outcome: TypeAlias = "list[Answer | PatchionerError] | PatchionerError"
"""What becomes of an item: per region an answer or its error; or the error that cost all of it."""

_LEAST = 4  # regions that a photo counts for
_LANES = 8  # most threads that encode side by side, each with its activations
_FEW = 4  # photos for each of them, from which that pays
_LIMITING = threading.Lock()
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batching:
    """How the work on many photos is cut up; captions do not depend on it.

    Attributes:
        photos: how many are encoded as one group; those of equal shape share a backbone pass.
        regions: captions of at least so many regions are written as one batch (a photo's own stay together); a photo
            counts for four at least, so that those of whole photos do not wait for long.
        readers: threads that read photos ahead; 0 reads each when its turn comes.
        ahead: how many photos may wait, read but not yet encoded.
        overlap: captions of one batch are written while the photos of the next are encoded.
        encoders: threads that encode groups side by side and share torch's threads: on a CPU more photos an hour than
            one photo by all threads; 1 encodes in the caller's thread.

    Raises:
        OptionError: a number below its least.
    """

    photos: int = 1
    regions: int = 64
    readers: int = 1
    ahead: int = 4
    overlap: bool = True
    encoders: int = 1

    def __post_init__(self) -> None:
        check("int [1, inf)", self, "photos regions ahead encoders")
        check("int [0, inf)", readers=self.readers)

    @classmethod
    def alone(cls) -> Batching:
        """What suits a single photo: no threads."""
        return cls(readers=0, overlap=False)

    @classmethod
    def on(cls, device_type: str, items: Iterable[object] = ()) -> Batching:
        """What suits a device: small groups on a CPU, whose caches are small; large ones on a GPU.

        Of few photos each is encoded by all threads; of more, or where nobody knows how many `items` there are, several
        side by side.
        """
        if device_type == "cpu":
            lanes = min(torch.get_num_threads(), _LANES)
            few = isinstance(items, Sized) and len(items) < _FEW * lanes
            return cls(encoders=1 if few else lanes)
        return cls(photos=16, regions=2048, readers=4, ahead=64)


@dataclass(frozen=True, eq=False)
class Embedded:
    """Regions of one photo as embeddings; the last three where captions are kept to them, or have a confidence."""

    regions: Sequence[Region]  # the n that can be used
    embeddings: Tensor  # (n, dim) float32
    errors: Mapping[int, PatchionerError]  # of the others, by their place among all
    shares: Tensor | None = None  # (n,) float32: how much of the photo the bounds of each take
    whole: Tensor | None = None  # (dim,): the whole photo's embedding
    doubt: Doubt | None = None  # why captions of the photo would be invented, where that is so


@dataclass(frozen=True)
class Steps(Generic[Item, Photo, Seen, Answer]):
    """The work itself; each step may be called in another thread."""

    read: Callable[[Item], Photo]
    encode: Callable[[Sequence[Photo]], Sequence[Seen]]  # each with its features
    embed: Callable[[Seen], Embedded]
    answer: Callable[[Sequence[Embedded]], Sequence[Sequence[Answer]]]  # of each photo one per region


def run(
    items: Iterable[Item], steps: Steps[Item, Photo, Seen, Answer], batching: Batching
) -> Generator[Outcome[Answer], None, None]:
    """Yield what becomes of each item, in their order.

    At most `ahead` photos, a group for each of the `encoders`, and the embeddings of three batches are held at a time,
    however many items there are. An item that fails costs itself alone. An error of `items` itself is raised after the
    outcomes of those before it.
    """

    def read(item: Item) -> Photo | PatchionerError:
        return attempt(lambda some: [steps.read(some[0])], [item])[0]

    def encode(group: Sequence[Photo | PatchionerError]) -> list[Embedded | PatchionerError]:
        seen = _through(steps.encode, group)
        return [_through(lambda one: [steps.embed(one[0])], [photo])[0] for photo in seen]

    def answer(batch: Sequence[Embedded | PatchionerError]) -> list[Outcome[Answer]]:
        answered = _through(steps.answer, batch)
        return [_merged(rows, answers) for rows, answers in zip(batch, answered, strict=True)]

    lanes = batching.encoders if batching.encoders > 1 else 0
    own = max(1, torch.get_num_threads() // lanes) if lanes else None
    # All are closed here, not when the garbage is collected, so that no thread outlives the loop.
    with closing(map_ahead(read, items, workers=batching.readers, ahead=batching.ahead)) as photos:
        groups = chunks(photos, lambda group: len(group) == batching.photos)
        with closing(map_ahead(encode, groups, workers=lanes, ahead=lanes, threads=own)) as encoded:
            embedded = (one for group in encoded for one in group)
            batches = chunks(embedded, lambda batch: sum(map(_size, batch)) >= batching.regions)
            with closing(map_ahead(answer, batches, workers=int(batching.overlap), ahead=1, threads=own)) as answered:
                for outcomes in answered:
                    yield from outcomes


def delivered(
    outcomes: Generator[Outcome[Answer], None, None], on_error: OnError
) -> Generator[list[Answer], None, None]:
    """Give the answers of each item; with "return", errors stand in the places of answers."""
    with closing(outcomes):  # also where an error that is kept keeps this frame
        for outcome in outcomes:
            if on_error == "return":
                yield cast("list[Answer]", outcome)
                continue
            answers = [outcome] if isinstance(outcome, PatchionerError) else outcome
            for error in (one for one in answers if isinstance(one, PatchionerError)):
                if on_error == "raise":
                    raise error
                logger.warning("skipped: %s", error)
            if answers is outcome:
                yield [one for one in answers if not isinstance(one, PatchionerError)]


class Answers(Iterator[Answer]):
    """A stream of answers to items, in their order; as long as the items where those have a length (progress bars)."""

    def __init__(self, stream: Generator[Answer, None, None], items: Iterable[object]) -> None:
        self._stream = stream
        self._items = items

    def __next__(self) -> Answer:
        return next(self._stream)

    def __len__(self) -> int:
        if not isinstance(self._items, Sized):
            raise TypeError("the items have no length")
        return len(self._items)

    def close(self) -> None:
        """Stop the threads that read ahead; garbage collection does it, too."""
        self._stream.close()


def attempt(work: Callable[[Sequence[In]], Sequence[Out]], group: Sequence[In]) -> list[Out | PatchionerError]:
    """`work` on all at once; where that fails, on each half, so that only what fails by itself is lost."""
    try:
        return list(work(group))
    except Exception as error:
        found = _failure(error)
        if found is None:
            raise
    if len(group) == 1:
        return [found]
    if isinstance(found, OutOfMemoryError) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    middle = len(group) // 2
    return attempt(work, group[:middle]) + attempt(work, group[middle:])


def _through(
    work: Callable[[Sequence[In]], Sequence[Out]], batch: Sequence[In | PatchionerError]
) -> list[Out | PatchionerError]:
    """`work` on what has not failed before; the errors stay where they are."""
    sound = [one for one in batch if not isinstance(one, PatchionerError)]
    done = iter(attempt(work, sound) if sound else ())
    return [one if isinstance(one, PatchionerError) else next(done) for one in batch]


def _failure(error: Exception) -> PatchionerError | None:
    """The error as one that costs its item alone; None for a defect, which is passed on."""
    frames: BaseException | None = error
    while frames is not None:  # a waiting error must not hold photos and features
        traceback.clear_frames(frames.__traceback__)
        frames = frames.__cause__ or frames.__context__
    if isinstance(error, PatchionerError):
        return error
    if isinstance(error, OSError):
        return PatchionerError(str(error))
    return out_of_memory(error)


def _size(rows: Embedded | PatchionerError) -> int:
    return _LEAST if isinstance(rows, PatchionerError) else max(_LEAST, len(rows.regions))


def _merged(rows: Embedded | PatchionerError, answers: Sequence[Answer] | PatchionerError) -> Outcome[Answer]:
    """Answers and errors of a photo's regions, in their order."""
    if isinstance(rows, PatchionerError) or isinstance(answers, PatchionerError):
        return cast("PatchionerError", answers)
    rest = iter(answers)
    total = len(answers) + len(rows.errors)
    return [rows.errors[place] if place in rows.errors else next(rest) for place in range(total)]


def map_ahead(
    function: Callable[[In], Out],
    items: Iterable[In],
    *,
    workers: int,
    ahead: int,
    on_stop: Callable[[], object] = lambda: None,
    threads: int | None = None,
) -> Generator[Out, None, None]:
    """`map` with threads: results in order, never more than `ahead` of them waiting to be taken.

    Args:
        function: called in threads that see the caller's context variables.
        items: taken one by one, in the caller's thread.
        workers: threads; 0 is plain `map`.
        ahead: how many items are worked on beyond the one that is taken next.
        on_stop: called ahead of the wait for work under way, where the caller has seen enough or an error ends it.
        threads: of torch's, for each worker; None is as many as the process has.

    Example:
        >>> list(map_ahead(abs, [-1, 2, -3], workers=2, ahead=1))
        [1, 2, 3]
    """
    if workers == 0:
        yield from map(function, items)
        return
    waiting: deque[Future[Out]] = deque()
    begin = None if threads is None else partial(_limit, threads)
    with ThreadPoolExecutor(workers, "patchioner", begin) as pool:
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
        except BaseException:  # an error, or a caller who has seen enough
            on_stop()
            for future in waiting:
                future.cancel()
            raise


def _limit(threads: int) -> None:
    """Give a new thread so many of torch's; all others, and those begun later, keep theirs."""
    # Torch gives a thread the process's number at its first question, and changes both together.
    with _LIMITING:
        usual, changed = torch.get_num_threads(), threading.Event()

        def restore() -> None:
            changed.wait()
            torch.set_num_threads(usual)

        other = threading.Thread(target=restore)
        other.start()
        torch.set_num_threads(threads)
        changed.set()
        other.join()


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
