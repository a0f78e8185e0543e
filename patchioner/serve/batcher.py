"""Questions of many clients, answered together by threads: whatever waits and is asked alike makes one batch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from patchioner.base.errors import PatchionerError
from patchioner.serve.errors import RequestError

logger = logging.getLogger(__name__)

Answer = Callable[[Hashable, Sequence[Any]], Sequence[Any]]
"""A key and what is asked under it -> an answer, or an exception, for each."""
Observe = Callable[[Hashable, int, float, float], None]
"""Told of each batch: its key, its rows, seconds that its oldest waited, seconds of work."""


@dataclass(eq=False)
class _Job:
    key: Hashable
    asked: Any
    rows: int
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue that threads empty: the oldest question goes next, with all that are asked alike.

    A batch has `most_rows`, but for a single question that has more; at `limit` waiting rows the queue `is_full`.

    Example:
        >>> batcher = Batcher(lambda key, asked: [one * 2 for one in asked], 1, most_rows=8)
        >>> asyncio.run(batcher.ask("double", 21)), batcher.close()
        (42, None)
    """

    def __init__(
        self,
        answer: Answer,
        workers: int,
        *,
        most_rows: int,
        limit: int = 10**6,
        observe: Observe = lambda *_: None,
    ) -> None:
        self._answer, self._observe = answer, observe
        self._most_rows, self._limit = most_rows, limit
        self._queue: deque[_Job] = deque()
        self._change, self._stopping = threading.Condition(), False
        self._seconds_per_row = 0.01
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

    @property
    def patience(self) -> int:
        """Seconds in which what waits will be done, about."""
        return min(60, max(1, math.ceil(self.waiting * self._seconds_per_row)))

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
            while not self._queue and not self._stopping:
                self._change.wait()
            batch: list[_Job] = []
            rest, rows = deque[_Job](), 0
            for job in self._queue:
                alike = not batch or job.key == batch[0].key
                if alike and (not batch or rows + job.rows <= self._most_rows):
                    batch.append(job)
                    rows += job.rows
                else:
                    rest.append(job)
            self._queue = rest
            if rest:
                self._change.notify()  # another thread may take those
            return batch

    def _work(self) -> None:
        while taken := self._take():
            batch = [job for job in taken if job.future.set_running_or_notify_cancel()]
            if not batch:
                continue
            started, rows = time.monotonic(), sum(job.rows for job in batch)
            for job, answer in zip(batch, self._answers(batch), strict=True):
                if isinstance(answer, BaseException):
                    job.future.set_exception(answer)
                else:
                    job.future.set_result(answer)
            seconds = time.monotonic() - started
            self._seconds_per_row += 0.1 * (seconds / max(1, rows) - self._seconds_per_row)
            self._observe(batch[0].key, rows, started - batch[0].since, seconds)

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
