"""Order, bounds, errors and threads of the line that many photos go through."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchioner import pipeline
from patchioner.base.errors import ImageError, OptionError, OutOfMemoryError, PatchionerError
from patchioner.pipeline import Batching, Embedded, Steps, delivered, run
from patchioner.regions import Box

ANY = Box(0, 0, 1, 1)


def embedded(number: int) -> Embedded:
    """As many regions as the number's rest by 3; every seventh has a bad one in front."""
    count = number % 3
    errors = {0: PatchionerError(f"region of {number}")} if number % 7 == 0 else {}
    rows = torch.full((count, 1), float(number))
    return Embedded([ANY] * count, rows, errors, torch.ones(count))


def answer(batch: Sequence[Embedded]) -> list[list[str]]:
    return [[str(int(row)) for row in one.embeddings[:, 0].tolist()] for one in batch]


def steps(read: Callable[[int], int] = abs, **others: Any) -> Steps[int, int, int, str]:
    parts: dict[str, Any] = {"encode": list, "embed": embedded, "answer": answer}
    return Steps(read, **(parts | others))


def expected(number: int) -> list[str]:
    return ([f"!region of {number}"] if number % 7 == 0 else []) + [str(number)] * (number % 3)


def shown(outcome: Any) -> Any:
    if isinstance(outcome, list):
        return [shown(one) for one in outcome]
    return f"!{outcome}" if isinstance(outcome, Exception) else outcome


CUTS = st.builds(
    Batching, photos=st.integers(1, 5), regions=st.integers(1, 20), readers=st.integers(0, 3),
    ahead=st.integers(1, 4), overlap=st.booleans(), encoders=st.integers(1, 3),
)  # fmt: skip
NUMBER = st.integers(0, 50)


@given(items=st.lists(NUMBER, max_size=30), broken=st.sets(NUMBER), cut=CUTS)
def test_outcomes_however_it_is_cut(items: list[int], broken: set[int], cut: Batching) -> None:
    def read(item: int) -> int:
        if item in broken:
            raise ImageError(f"photo {item}")
        return item

    before = set(threading.enumerate())
    plain = [f"!photo {item}" if item in broken else expected(item) for item in items]
    assert [shown(one) for one in run(items, steps(read), cut)] == plain
    skipped = list(delivered(run(items, steps(read), cut), "skip"))
    sound = [expected(item) for item in items if item not in broken]
    assert skipped == [[one for one in answers if one[0] != "!"] for answers in sound]
    found: list[Any] = []
    try:
        for answers in delivered(run(items, steps(read), cut), "raise"):
            found.append(answers)
    except PatchionerError as error:
        assert shown(error) in (plain[len(found)], plain[len(found)][0])
    else:
        assert found == plain
    assert found == plain[: len(found)]
    assert set(threading.enumerate()) <= before


OF_CUDA = torch.cuda.OutOfMemoryError("CUDA out of memory")
OF_THE_CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("stage", ["encode", "answer"])
@pytest.mark.parametrize("raised", [ImageError("bad"), MemoryError(), OF_CUDA, OF_THE_CPU])
def test_one_that_fails_in_a_group_costs_itself_alone(stage: str, raised: Exception) -> None:
    calls: list[int] = []

    def fails(group: Sequence[Any]) -> Any:
        calls.append(len(group))
        if 5 in [int(one if stage == "encode" else one.embeddings[0, 0]) for one in group]:
            raise raised
        return list(group) if stage == "encode" else answer(group)

    items = [1, 2, 4, 5, 8, 10, 11, 13]  # all with regions
    found = list(run(items, steps(**{stage: fails}), Batching(photos=8, regions=99)))  # type: ignore[arg-type]
    assert [one for one in found if isinstance(one, list)] == [expected(n) for n in items if n != 5]
    kind = ImageError if isinstance(raised, ImageError) else OutOfMemoryError
    assert isinstance(found[3], kind)
    assert calls == [8, 4, 2, 2, 1, 1, 4]


@pytest.mark.parametrize("stage", ["read", "encode", "embed", "answer"])
def test_our_own_mistakes_are_not_hidden(stage: str) -> None:
    broken: Any = {stage: Mock(side_effect=AttributeError("a bug"))}
    with pytest.raises(AttributeError):
        list(run([1, 2], steps(**broken), Batching()))


def test_an_error_that_waits_holds_nothing() -> None:
    photo, kept = torch.zeros(3), []

    def fails(group: Sequence[int]) -> list[int]:
        local = photo[group[0] :]
        raise ImageError(f"of {len(local)}") from ValueError("why")

    (error,) = pipeline.attempt(fails, [1])
    assert isinstance(error, ImageError)
    trace = error.__traceback__
    while trace is not None:
        kept += [one for one in trace.tb_frame.f_locals.values() if isinstance(one, torch.Tensor)]
        trace = trace.tb_next
    assert kept == []


def test_groups_and_batches_are_as_large_as_asked() -> None:
    encode, write = Mock(side_effect=list), Mock(side_effect=answer)
    list(run([2] * 7, steps(encode=encode, answer=write), Batching(3, 12)))
    assert [len(call.args[0]) for call in encode.call_args_list] == [3, 3, 1]
    batches = [call.args[0] for call in write.call_args_list]
    assert [sum(len(one.regions) for one in batch) for batch in batches] == [6, 6, 2]


@pytest.mark.parametrize("fails", [False, True])
def test_an_endless_source_is_read_only_as_far_as_the_queues_reach(fails: bool) -> None:
    read, before = list[int](), set(threading.enumerate())

    def endless() -> Iterator[int]:
        while True:
            read.append(1)
            yield 1

    reader = Mock(side_effect=ImageError("bad")) if fails else abs
    stream = run(endless(), steps(reader), Batching(photos=2, regions=8, readers=2, ahead=3))
    assert [shown(next(stream)) for _ in range(4)] == ["!bad" if fails else ["1"]] * 4
    # Two batches of two out, one more on its way, one group, three ahead and one in hand.
    assert len(read) <= 4 + 2 + 2 + 3 + 1
    stream.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_source_comes_after_the_outcomes_before_it(workers: int) -> None:
    def broken() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the disk is gone")

    stream = pipeline.map_ahead(abs, broken(), workers=workers, ahead=2)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(OSError, match="disk"):
        next(stream)


def test_threads_work_beside_the_caller_and_see_its_context() -> None:
    name: ContextVar[str] = ContextVar("name", default="nobody")
    name.set("caller")
    count, usual = torch.get_num_threads, torch.get_num_threads()
    look = lambda _: (name.get(), threading.get_ident(), count())  # noqa: E731
    within = lambda _: next(pipeline.map_ahead(look, [1], workers=2, ahead=1, threads=usual + 2))  # noqa: E731
    ((seen, thread, own),) = pipeline.map_ahead(within, [1], workers=2, ahead=1, threads=usual + 1)
    assert seen == "caller" and thread != threading.get_ident() and own == usual + 2
    assert next(pipeline.map_ahead(look, [1], workers=1, ahead=1))[2] == usual == count()


def test_impossible_batches_are_refused_and_a_gpu_gets_larger_groups() -> None:
    for name, value in (("photos", 0), ("regions", 0), ("readers", -1), ("ahead", 0)):
        with pytest.raises(OptionError, match=name):
            Batching(**{name: value})  # type: ignore[arg-type]
    threads = min(torch.get_num_threads(), 8)
    assert Batching.on("cpu", range(4 * threads)) == Batching(encoders=threads)
    assert Batching.on("cpu", [1]) == Batching()
    assert Batching.on("cuda").photos > Batching.on("cpu").photos
