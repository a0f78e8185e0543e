import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from patchioner.base.errors import OptionError
from patchioner.serve.engine import Batcher, Metrics
from patchioner.serve.schemas import RequestError


def test_what_waits_and_is_asked_alike_is_answered_together() -> None:
    """One that fails costs itself alone; one that is taken back leaves; closing finishes the rest and refuses more."""
    gate, reached, batches = threading.Event(), threading.Event(), list[Any]()

    def double(key: Any, asked: Sequence[int]) -> list[int]:
        batches.append((key, list(asked)))
        reached.set()
        assert gate.wait(60)
        if 13 in asked:
            raise OptionError("13 is unlucky")
        return [2 * one for one in asked]

    async def scene() -> None:
        batcher = Batcher(double, 1, Metrics(), most_rows=3, limit=7)
        tasks = [asyncio.create_task(batcher.ask("first", 0))]
        await asyncio.to_thread(reached.wait)  # the others wait behind it
        for key, number in zip("abaaabc", (1, 2, 3, 4, 5, 13, 6), strict=True):
            tasks.append(asyncio.create_task(batcher.ask(key, number)))
            await asyncio.sleep(0)
        assert batcher.is_full
        tasks[-1].cancel()
        await asyncio.wait({tasks.pop()})
        assert batcher.waiting == 6 and not batcher.is_full
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        gate.set()
        *found, unlucky = await asyncio.gather(*tasks, return_exceptions=True)
        assert found == [0, 2, 4, 6, 8, 10] and isinstance(unlucky, OptionError)
        await closing
        with pytest.raises(RequestError) as refused:
            await batcher.ask("a", 1)
        assert refused.value.status == 503

    asyncio.run(scene())
    together = [("first", [0]), ("a", [1, 3, 4]), ("b", [2, 13]), ("b", [2]), ("b", [13])]
    assert batches == [*together, ("a", [5])]
