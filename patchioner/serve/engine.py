"""The model as requests see it: photos are encoded once and kept; questions of many clients are answered together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from typing import Annotated, Any, NamedTuple, TypeAlias

import prometheus_client as prometheus
from fastapi import Depends, Request
from torch import Tensor

from patchioner.backbones import PatchFeatures
from patchioner.base.errors import PatchionerError, TextError, UnknownNameError
from patchioner.detail import DetailCaptioner, DetailedCaption, Photo
from patchioner.model import Patchioner
from patchioner.pipeline import Batching, attempt
from patchioner.regions import Region
from patchioner.serve import ServeSettings, content_id, schemas
from patchioner.serve.schemas import Asked, Json, RequestError, failure, open_photo, region_list

Asking: TypeAlias = Sequence[Any] | None
Answer: TypeAlias = Callable[[Any, Sequence[Any]], Sequence[Any]]
"""A key and what is asked under it -> an answer, or an exception, for each."""
logger = logging.getLogger(__name__)
MOST_TEXTS, LONGEST_TEXT = 1000, 2000  # of a request; characters of each
_AT_ONCE = Batching(photos=10**6, regions=10**6, readers=0, overlap=False)
_MOST_ROWS = 512  # of a batch
_DECODERS = 2  # threads that decode photos
_DECODED = 8  # photos that may be decoded and not yet encoded: they are large
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_ROWS = tuple(2**power for power in range(11))


class Metrics:
    """What Prometheus is told: requests, stages, batches, queue and cache; never what was in them."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        known: Any = {"namespace": "patchioner", "registry": self.registry}
        self.gauge: Any = partial(prometheus.Gauge, **known)
        self._requests = prometheus.Counter("requests", "Answered", ["path", "status"], **known)
        timed: Any = partial(prometheus.Histogram, buckets=_SECONDS, **known)
        self._latency = timed("request_seconds", "Of requests", ["path"])
        self.stages = timed("stage_seconds", "Of parts of the work", ["stage"])
        self._rows = prometheus.Histogram("batch_rows", "Regions, photos or texts", ["stage"], buckets=_ROWS, **known)

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self._requests.labels(path, str(status)).inc()
        self._latency.labels(path).observe(seconds)

    def batch(self, key: Any, rows: int, waited: float, seconds: float) -> None:
        """A batch has been answered; its oldest question `waited`."""
        self.stages.labels("wait").observe(waited)
        self.stages.labels(key[0]).observe(seconds)
        self._rows.labels(key[0]).observe(rows)


@dataclass(eq=False)
class _Job:
    key: Hashable
    asked: Any
    rows: int
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue that threads empty: the oldest question goes next, with all that are asked alike, up to `most_rows`."""

    def __init__(self, answer: Answer, workers: int, metrics: Metrics, *, most_rows: int, limit: int) -> None:
        self._answer, self._metrics = answer, metrics
        self._most_rows, self._limit = most_rows, limit
        self._queue: deque[_Job] = deque()
        self._change, self._stopping = threading.Condition(), False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    async def ask(self, key: Hashable, asked: Any, rows: int = 1) -> Any:
        """The answer to one question; cancelling this takes the question back."""
        job = _Job(key, asked, rows)
        with self._change:
            if self._stopping:
                raise RequestError(503, "stopping", "the server is stopping: try again later")
            self._queue.append(job)
            self._change.notify()
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            with self._change, contextlib.suppress(ValueError):
                self._queue.remove(job)  # unless it is under way
            raise

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        with self._change:
            return sum(job.rows for job in self._queue)

    @property
    def is_full(self) -> bool:
        """Whether more waits than should."""
        return self.waiting >= self._limit

    def close(self) -> None:
        """Answer what waits, then stop the threads; new questions are refused."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _take(self) -> list[_Job]:
        """The next batch, which is under way from now on; empty at the end."""
        with self._change:
            self._change.wait_for(lambda: self._queue or self._stopping)
            batch: list[_Job] = []
            rest, rows = deque[_Job](), 0
            for job in self._queue:
                if batch and (job.key != batch[0].key or rows + job.rows > self._most_rows):
                    rest.append(job)
                else:
                    batch.append(job)
                    rows += job.rows
            self._queue = rest
            if rest:
                self._change.notify()  # another thread may take those
            return batch

    def _work(self) -> None:
        while taken := self._take():
            if not (batch := [job for job in taken if job.future.set_running_or_notify_cancel()]):
                continue
            started, rows = time.monotonic(), sum(job.rows for job in batch)
            for job, answer in zip(batch, self._answers(batch), strict=True):
                if isinstance(answer, BaseException):
                    job.future.set_exception(answer)
                else:
                    job.future.set_result(answer)
            self._metrics.batch(batch[0].key, rows, started - batch[0].since, time.monotonic() - started)

    def _answers(self, batch: Sequence[_Job]) -> Sequence[Any]:
        """Where a batch fails, each question is answered alone, so that none suffers for another."""
        try:
            answers = self._answer(batch[0].key, [job.asked for job in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} questions")
            return answers
        except Exception as error:
            if len(batch) > 1:
                return [answer for job in batch for answer in self._answers([job])]
            if not isinstance(error, PatchionerError):
                logger.exception("a question could not be answered")
            return [error]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A photo as its file and its features; `id` is made of its content."""

    id: str
    data: bytes
    features: PatchFeatures

    @property
    def bytes(self) -> int:
        """What it takes in memory, about."""
        image, parts = self.features.image, vars(self.features).values()
        pixels = 0 if image is None else 3 * image.width * image.height
        return len(self.data) + pixels + sum(one.nbytes for one in parts if isinstance(one, Tensor))


class PhotoCache:
    """At most `limit` bytes of encoded photos, the least recently used of which give way; all of it is counted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, Encoded] = OrderedDict()
        self.bytes = self.hits = self.misses = self.evicted = 0

    def get(self, name: str) -> Encoded | None:
        """A photo that is held, which becomes the most recently used."""
        if name not in self._held:
            self.misses += 1
            return None
        self.hits += 1
        self._held.move_to_end(name)
        return self._held[name]

    def put(self, photo: Encoded) -> None:
        """Hold a photo; others give way, and itself where it is larger than the limit."""
        if photo.id in self._held:  # two clients sent it at once
            return
        self._held[photo.id] = photo
        self.bytes += photo.bytes
        while self.bytes > self._limit:
            self.bytes -= self._held.popitem(last=False)[1].bytes
            self.evicted += 1

    def __len__(self) -> int:
        return len(self._held)


class _Regions(NamedTuple):
    features: PatchFeatures
    regions: Sequence[Region]

    def weigh(self, some: Sequence[Region]) -> list[Any]:
        return [region.patch_weights(self.features.geometry) for region in some]


class Engine:
    """A model, the photos that it has seen, and the queue in front of it; `active` are the requests under way."""

    def __init__(self, model: Patchioner, settings: ServeSettings) -> None:
        self.model, self.settings, self.metrics = model, settings, Metrics()
        self.cache, self.active = PhotoCache(settings.cache_bytes), 0
        # No larger batches than these: whoever asks next need not wait for long.
        most = min(Batching.on(model.device.type).regions, _MOST_ROWS)
        self.batcher = Batcher(self._answer, settings.workers, self.metrics, most_rows=most, limit=32 * settings.queue)
        self._piece = max(1, most // 2)
        self._readers = ThreadPoolExecutor(_DECODERS, thread_name_prefix="patchioner-photos")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="patchioner-detail")
        self._describer = cache(lambda preset: DetailCaptioner(model, settings=preset))
        self._room = asyncio.Semaphore(_DECODED)
        gauge = self.metrics.gauge
        gauge("active_requests", "Requests under way").set_function(lambda: self.active)
        gauge("waiting_rows", "Rows in the queue").set_function(lambda: self.batcher.waiting)
        gauge("cache_photos", "Encoded photos").set_function(lambda: len(self.cache))
        for name in ("bytes", "hits", "misses", "evicted"):
            gauge(f"cache_{name}", "Of encoded photos").set_function(partial(getattr, self.cache, name))

    @property
    def is_full(self) -> bool:
        """Whether it takes no request now."""
        return self.active >= self.settings.queue or self.batcher.is_full

    def close(self) -> None:
        """Finish what was asked, and stop."""
        self._readers.shutdown()
        self.batcher.close()
        self._writer.shutdown()

    async def photo(self, data: bytes) -> Encoded:
        """The photo in a file, encoded once while there is room for it; RequestError where it cannot be read."""
        name = content_id(data)
        if known := self.cache.get(name):
            return known
        async with self._room:
            with self.metrics.stages.labels("decode").time():
                image = await asyncio.get_running_loop().run_in_executor(self._readers, open_photo, data, self.settings)
            features = await self.batcher.ask(("encode",), image)
        photo = Encoded(name, data, features)
        self.cache.put(photo)
        return photo

    async def upload(self, image: str | None, path: str | None = None) -> Encoded:
        """The photo in base64 or a data URL, or of a name in `--root`, encoded."""
        if (image is None) == (path is None):
            raise schemas.bad_request("give the photo as 'image' (base64 or a data URL)")
        data = schemas.named_photo(path or "", self.settings) if image is None else schemas.photo_bytes(image)
        return await self.photo(data)

    def known(self, name: str) -> Encoded:
        """The photo of that id; RequestError where it is not there, or no more."""
        if found := self.cache.get(name):
            return found
        raise RequestError(404, "unknown_image", f"no image {name!r:.40} here (any more): upload it again")

    def checked(self, texts: Sequence[str]) -> tuple[str, ...]:
        """The texts; TextError where they are too many or too long."""
        if len(texts) > MOST_TEXTS or any(len(text) > LONGEST_TEXT for text in texts):
            raise TextError(f"give at most {MOST_TEXTS} texts of at most {LONGEST_TEXT} characters")
        return tuple(texts)

    def require_model(self, name: str) -> None:
        """UnknownNameError for a model that is not the one of this server."""
        own = self.model.settings.name
        if name not in (own, f"{own}:latest"):
            raise UnknownNameError.among("model", name[:80], [own])

    async def captions(self, photo: Encoded, regions: Asking, asked: Asked, candidates: Asking = None) -> list[Json]:
        """Captions as JSON, or the error of each region."""
        if candidates is None:
            return await as_json(await self.ask(("caption", asked), photo, regions), schemas.caption_json)
        key = ("label", self.checked(candidates), dict(asked).get("min_confidence"))
        return await as_json(await self.ask(key, photo, regions), schemas.choice_json)

    async def ask(self, key: tuple[Any, ...], photo: Encoded, regions: Asking) -> list[Any]:
        """The answer for each of `region_list`, or its error; in pieces, so that small questions need not wait.

        The key is ("caption", Asked), ("label", names, threshold), ("embed",) or ("explain", texts wanted).
        """
        read = await asyncio.to_thread(region_list, regions, photo.features.geometry.image_size, self.settings)
        sound, piece = [one for one in read if isinstance(one, Region)], self._piece
        pieces = [sound[start : start + piece] for start in range(0, len(sound), piece)]
        asked = (self.batcher.ask(key, _Regions(photo.features, some), len(some)) for some in pieces)
        answered = chain.from_iterable(await asyncio.gather(*asked))
        return [next(answered) if isinstance(one, Region) else one for one in read]

    async def texts(self, texts: Sequence[str]) -> Any:
        """(n, dim) float32 embeddings of texts."""
        return await self.batcher.ask(("text",), self.checked(texts), len(texts))

    async def detail(self, photo: Encoded, seed: int, preset: str) -> DetailedCaption:
        """A long description; one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._describe, photo, seed, preset)

    def _describe(self, photo: Encoded, seed: int, preset: str) -> DetailedCaption:
        with self.metrics.stages.labels("detail").time():
            seen = Photo("photo", open_photo(photo.data, self.settings), photo.id, photo.features)
            return self._describer(preset).describe(seen, seed=seed)

    def _answer(self, key: Any, asked: Sequence[Any]) -> Sequence[Any]:
        """One batch, in a thread of the queue."""
        verb, *how = key
        if verb == "encode":
            return attempt(lambda some: self.model.encode(list(some)), asked)
        if verb == "text":
            rows = self.model.embed_text([text for texts in asked for text in texts])
            return list(rows.split([len(texts) for texts in asked]))
        if verb == "explain":
            return [attempt(partial(self._explain, one.features, *how), one.regions) for one in asked]
        if verb == "embed":
            found: Iterable[Any] = self.model.embed_many(asked, on_error="return")
        elif verb == "caption":
            found = self.model.caption_many(asked, on_error="return", batching=_AT_ONCE, **dict(how[0]))
        else:
            names, threshold = how
            found = self.model.label_many(asked, names, threshold=threshold, on_error="return", batching=_AT_ONCE)
        return list(_each(asked, found))

    def _explain(self, seen: PatchFeatures, count: int, regions: Sequence[Region]) -> Sequence[Any]:
        return [self.model.explain(seen, region, count) for region in regions]


def _each(asked: Sequence[_Regions], outcomes: Iterable[Any]) -> Iterator[list[Any]]:
    """An error of all regions of a photo becomes the own error of each."""
    for one, outcome in zip(asked, outcomes, strict=True):
        if not isinstance(outcome, PatchionerError):
            yield outcome
            continue
        own = attempt(one.weigh, one.regions)
        yield [error if isinstance(error, PatchionerError) else outcome for error in own]


async def as_json(found: Sequence[Any], write: Callable[[Any], Any]) -> list[Any]:
    """Each as JSON, or its error; masks take a while, and so a thread."""
    each = (failure(one) if isinstance(one, PatchionerError) else write(one) for one in found)
    return await asyncio.to_thread(list, each)


def _of_app(request: Request) -> Any:
    return request.app.state.engine


Asker = Annotated[Engine, Depends(_of_app)]
