from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from patchioner.base.errors import OptionError
from patchioner.serve.engine import Batcher
from patchioner.serve.reading import RequestError


class Queue:
    """A batcher that doubles numbers; its first batch waits at the gate, with the questions behind it."""

    def __init__(self) -> None:
        self.gate, self.reached = threading.Event(), threading.Event()
        self.batches: list[tuple[Any, list[int]]] = []
        self.batcher = Batcher(self._double, 1, most_rows=3, limit=7)

    def _double(self, key: Any, asked: Sequence[int]) -> list[int]:
        self.batches.append((key, list(asked)))
        self.reached.set()
        assert self.gate.wait(60)
        if 13 in asked:
            raise OptionError("13 is unlucky")
        return [2 * one for one in asked]

    async def fill(self, *questions: tuple[str, int]) -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(self.batcher.ask("first", 0))]
        await asyncio.to_thread(self.reached.wait)
        for key, number in questions:
            tasks.append(asyncio.create_task(self.batcher.ask(key, number)))
            await asyncio.sleep(0)
        return tasks


def test_what_waits_and_is_asked_alike_is_answered_together() -> None:
    """One that fails costs itself alone; one that is taken back leaves; closing finishes the rest and refuses more."""

    async def scene() -> None:
        queue = Queue()
        questions = ("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5), ("b", 13), ("c", 6)
        tasks = await queue.fill(*questions)
        assert queue.batcher.is_full and queue.batcher.patience >= 1
        tasks[-1].cancel()
        await asyncio.wait({tasks.pop()})
        assert queue.batcher.waiting == 6 and not queue.batcher.is_full
        closing = asyncio.create_task(asyncio.to_thread(queue.batcher.close))
        queue.gate.set()
        *found, unlucky = await asyncio.gather(*tasks, return_exceptions=True)
        assert found == [0, 2, 4, 6, 8, 10] and isinstance(unlucky, OptionError)
        await closing
        together = [("first", [0]), ("a", [1, 3, 4]), ("b", [2, 13]), ("b", [2]), ("b", [13])]
        assert queue.batches == [*together, ("a", [5])]
        with pytest.raises(RequestError) as refused:
            await queue.batcher.ask("a", 1)
        assert refused.value.status == 503

    asyncio.run(scene())
