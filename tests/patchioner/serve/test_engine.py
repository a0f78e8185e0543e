from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from patchioner.base.errors import OptionError
from patchioner.serve.engine import Batcher
from patchioner.serve.reading import RequestError


class Answerer:
    """Doubles numbers; the first batch waits at the gate."""

    def __init__(self) -> None:
        self.gate, self.reached = threading.Event(), threading.Event()
        self.batches: list[tuple[Any, list[int]]] = []

    def __call__(self, key: Any, asked: Sequence[int]) -> list[int]:
        self.batches.append((key, list(asked)))
        self.reached.set()
        assert self.gate.wait(60)
        if 13 in asked:
            raise OptionError("13 is unlucky")
        return [2 * one for one in asked]


async def queued(
    batcher: Batcher, answerer: Answerer, questions: Sequence[tuple[str, int]]
) -> list[asyncio.Task[Any]]:
    """The questions, all waiting behind a first one that is under way."""
    tasks = [asyncio.create_task(batcher.ask("first", 0))]
    await asyncio.to_thread(answerer.reached.wait)
    for key, number in questions:
        tasks.append(asyncio.create_task(batcher.ask(key, number)))
        await asyncio.sleep(0)
    assert batcher.waiting == len(questions)
    return tasks


def test_what_waits_and_is_asked_alike_is_answered_together() -> None:
    async def scenario() -> list[Any]:
        answerer = Answerer()
        batcher = Batcher(answerer, 1, most_rows=3)
        asked = [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5)]
        tasks = await queued(batcher, answerer, asked)
        answerer.gate.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
        batcher.close()
        return answerer.batches

    assert asyncio.run(scenario()) == [
        ("first", [0]), ("a", [1, 3, 4]), ("b", [2]), ("a", [5])
    ]  # fmt: skip


def test_what_is_cancelled_leaves_the_queue() -> None:
    async def scenario() -> list[Any]:
        answerer = Answerer()
        batcher = Batcher(answerer, 1, most_rows=9)
        tasks = await queued(batcher, answerer, [("a", 1), ("a", 2)])
        tasks[1].cancel()
        await asyncio.wait({tasks[1]})
        answerer.gate.set()
        assert await tasks[2] == 4
        batcher.close()
        return answerer.batches

    assert asyncio.run(scenario()) == [("first", [0]), ("a", [2])]


def test_a_question_that_fails_costs_itself_alone() -> None:
    async def scenario() -> None:
        answerer = Answerer()
        batcher = Batcher(answerer, 2, most_rows=9)
        tasks = await queued(batcher, answerer, [])
        answerer.gate.set()
        found = await asyncio.gather(
            *tasks, *(batcher.ask("a", one) for one in (1, 13, 3)), return_exceptions=True
        )
        assert found[0] == 0 and found[1] == 2 and found[3] == 6
        assert isinstance(found[2], OptionError)
        batcher.close()

    asyncio.run(scenario())


def test_closing_finishes_what_waits_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        answerer = Answerer()
        batcher = Batcher(answerer, 1, most_rows=1, limit=2)
        tasks = await queued(batcher, answerer, [("a", 1), ("b", 2)])
        assert batcher.is_full and batcher.patience >= 1
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        answerer.gate.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4]
        await closing
        with pytest.raises(RequestError) as refused:
            await batcher.ask("a", 1)
        assert refused.value.status == 503

    asyncio.run(scenario())
