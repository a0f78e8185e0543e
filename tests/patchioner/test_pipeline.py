"""Order, bounds, errors and threads of the line that many photos go through."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchioner.base.errors import OptionError
from patchioner.pipeline import Batching, Steps, chunks, map_ahead, run

STEPS: Steps[int, int, list[int], str] = Steps(
    read=lambda source: source + 100,
    embed=lambda group: [[photo] * (photo % 3) for photo in group],
    answer=lambda batch: [f"{row}" for rows in batch for row in rows],
)


@given(
    sources=st.lists(st.integers(0, 50), max_size=30),
    photos=st.integers(1, 5),
    regions=st.integers(1, 9),
    readers=st.integers(0, 3),
    ahead=st.integers(1, 4),
    overlap=st.booleans(),
)
def test_answers_do_not_depend_on_how_the_work_is_cut(
    sources: list[int], photos: int, regions: int, readers: int, ahead: int, overlap: bool
) -> None:
    cut = Batching(photos, regions, readers, ahead, overlap)
    plain = [[f"{source + 100}"] * ((source + 100) % 3) for source in sources]
    assert list(run(sources, STEPS, cut, length=len)) == plain


def test_groups_and_batches_are_as_large_as_asked() -> None:
    groups: list[int] = []
    batches: list[int] = []

    def embed(group: Sequence[int]) -> list[list[int]]:
        groups.append(len(group))
        return [[photo] * 2 for photo in group]

    def answer(batch: Sequence[list[int]]) -> list[int]:
        batches.append(sum(map(len, batch)))
        return [row for rows in batch for row in rows]

    found = list(run(range(7), Steps(abs, embed, answer), Batching(3, 5), length=len))
    assert found == [[n, n] for n in range(7)]
    assert groups == [3, 3, 1]
    assert batches == [6, 6, 2]


def test_an_endless_source_is_read_only_as_far_as_the_queues_reach() -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            read.append(number)
            yield number
            number += 1

    steps: Steps[int, int, list[int], int] = Steps(
        abs, lambda group: [[n] for n in group], lambda batch: [row for (row,) in batch]
    )
    stream = run(endless(), steps, Batching(photos=2, regions=2, readers=2, ahead=3), length=len)
    assert [next(stream) for _ in range(4)] == [[0], [1], [2], [3]]
    # Two batches of two out, one more on its way, one group, three ahead and one in hand.
    assert len(read) <= 4 + 2 + 2 + 3 + 1
    stream.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name.startswith("patchioner")]


@pytest.mark.parametrize("readers", [0, 1, 3])
@pytest.mark.parametrize("overlap", [True, False])
def test_an_error_comes_after_the_answers_before_it(readers: int, overlap: bool) -> None:
    def read(source: int) -> int:
        if source == 5:
            raise ValueError("the sixth is broken")
        return source

    steps = Steps(read, lambda group: [[n] for n in group], lambda b: [r for (r,) in b])
    stream = run(range(9), steps, Batching(2, 3, readers, 2, overlap), length=len)
    found = []
    with pytest.raises(ValueError, match="sixth"):
        for answers in stream:
            found += answers
    assert found == [0, 1, 2, 3, 4]


def test_an_error_of_the_source_itself_is_passed_on() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    mapped = map_ahead(abs, broken(), workers=2, ahead=2)
    assert next(mapped) == 1
    with pytest.raises(OSError, match="disk"):
        next(mapped)


def test_threads_see_the_context_of_the_caller() -> None:
    name: ContextVar[str] = ContextVar("name", default="nobody")
    name.set("caller")
    assert list(map_ahead(lambda _: name.get(), [1, 2], workers=2, ahead=1)) == ["caller"] * 2


def test_reading_happens_beside_the_caller() -> None:
    threads = list(map_ahead(lambda _: threading.get_ident(), range(3), workers=1, ahead=1))
    assert threading.get_ident() not in threads


def test_chunks_end_with_the_item_that_fills_them() -> None:
    assert list(chunks([3, 1, 4, 1, 5], lambda found: sum(found) >= 4)) == [[3, 1], [4], [1, 5]]
    assert list(chunks([], lambda found: True)) == []


@pytest.mark.parametrize(
    "wrong", [{"photos": 0}, {"regions": 0}, {"readers": -1}, {"ahead": 0}], ids=str
)
def test_impossible_batches_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Batching(**wrong)  # type: ignore[arg-type]


def test_a_gpu_gets_larger_groups() -> None:
    assert Batching.on("cpu") == Batching()
    assert Batching.on("cuda").photos > Batching.on("cpu").photos
