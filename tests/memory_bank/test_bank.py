"""The bank: what enters, what it refuses, merging, copying, fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from memory_bank import MemoryBank, join_banks
from patchioner.base.errors import MemoryBankError
from tests.memory_bank.conftest import DTYPES, random_rows


def test_the_callers_tensors_are_neither_changed_nor_kept() -> None:
    rows, counts = random_rows(4, 3), torch.tensor([1, 2, 3, 4])
    rows /= rows.norm(dim=1, keepdim=True)
    before = rows.clone()
    bank = MemoryBank(rows, counts=counts)
    assert torch.equal(rows, before)
    rows.zero_()
    counts.zero_()
    torch.testing.assert_close(bank.keys, before)
    assert bank.counts.tolist() == [1, 2, 3, 4]


def test_zero_rows_are_named_or_dropped() -> None:
    rows = random_rows(9, 3)
    rows[[2, 5]] = 0
    texts = [f"text {row}" for row in range(9)]
    with pytest.raises(MemoryBankError, match=r"zero norm.*: 2, 5; pass drop_zero_rows=True"):
        MemoryBank(rows, texts)
    bank = MemoryBank(rows, texts, counts=range(1, 10), drop_zero_rows=True)
    assert bank.texts == tuple(f"text {row}" for row in (0, 1, 3, 4, 6, 7, 8))
    assert bank.counts.tolist() == [1, 2, 4, 5, 7, 8, 9]
    torch.testing.assert_close(bank.embeddings(), rows[[0, 1, 3, 4, 6, 7, 8]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("picks", [[0], [3, 3, 3], [5, 0, 5, 2, 2, 0], list(range(6)) * 4])
def test_merging_leaves_projections_as_they_were(picks: list[int], dtype: Any) -> None:
    """Counts are summed; the first texts stay, in order."""
    texts, counts = (
        [f"{pick} {place}" for place, pick in enumerate(picks)],
        range(1, len(picks) + 1),
    )
    bank = MemoryBank(random_rows(6, 4)[picks], texts, list(counts), dtype=dtype)
    merged, distinct = bank.merge_duplicates(), list(dict.fromkeys(picks))
    assert merged.texts == tuple(texts[picks.index(pick)] for pick in distinct)
    assert merged.counts.tolist() == [
        sum(count for count, other in zip(counts, picks, strict=True) if other == pick)
        for pick in distinct
    ]
    for temperature in (0.01, 1.0):
        found, wanted = (
            one.project(random_rows(3, 4, seed=1), temperature, False) for one in (merged, bank)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert len(bank) == len(picks)


def test_fingerprint_tells_banks_apart() -> None:
    rows = random_rows(4, 3)
    other = rows.clone()
    other[3, 2] += 1e-3
    banks = [
        *(MemoryBank(rows), MemoryBank(other), MemoryBank(2 * rows)),
        *(MemoryBank(rows, list("abcd")), MemoryBank(rows, list("abce"))),
        *(MemoryBank(rows, counts=[1, 1, 1, 2]), MemoryBank(rows, dtype="float16")),
    ]
    assert len({bank.fingerprint() for bank in banks}) == len(banks)
    assert MemoryBank(rows, list("abcd")).fingerprint() == banks[3].fingerprint()


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_make_the_bank_of_all_rows(dtype: Any) -> None:
    rows, texts, counts = random_rows(8, 5), list("abcdefgh"), [1] * 4 + [2] + [3] * 3
    parts = [slice(0, 4), slice(4, 5), slice(5, 8)]
    banks = [MemoryBank(rows[one], texts[one], counts[one], dtype=dtype) for one in parts]
    whole = MemoryBank(rows, texts, counts, dtype=dtype)
    assert join_banks(banks).fingerprint() == whole.fingerprint()
    assert join_banks([banks[0], banks[1].with_texts(None)]).texts is None


def made(embeddings: Any, **more: Any) -> MemoryBank:
    return MemoryBank(embeddings, drop_zero_rows=True, **more)


TWO, HOLED = torch.eye(2), torch.ones(20, 3).index_fill_(0, torch.arange(4, 20), torch.nan)
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: made(torch.ones(3)), r"shape \(rows, dim\), got \(3,\)"),
    (lambda: made(torch.ones(2, 3, 4)), r"got \(2, 3, 4\)"),
    (lambda: made(torch.ones(3, 0)), r"got \(3, 0\)"),
    (lambda: made(torch.ones(0, 3)), "no rows"),
    (lambda: made(torch.zeros(2, 3)), "no rows"),
    (lambda: made(torch.ones(2, 3, dtype=torch.int64)), "floating point, got torch.int64"),
    (lambda: made(np.ones((2, 3), dtype=np.int32)), "floating point, got int32"),
    (lambda: made([[1.0, 2.0]]), "tensor or a numpy array"),
    (lambda: made(HOLED), "not finite: 4, 5, 6, 7, 8 and 11 more"),
    (lambda: made(torch.full((2, 3), -torch.inf)), "not finite"),
    (lambda: made(TWO, texts=["a"]), "1 texts for 2"),
    (lambda: made(TWO, texts="ab"), "2 texts for 2"),
    (lambda: made(TWO).with_texts(["a", 7]), r"texts\[1\] is 7"),  # type: ignore[list-item]
    (lambda: made(TWO, counts=[1]), r"shape \(1,\) for 2"),
    (lambda: made(TWO, counts=[1, 0]), "below 1 in rows 1"),
    (lambda: made(TWO, counts=[1.0, 2.0]), "integers"),
    (lambda: join_banks([]), "got none"),
    (lambda: join_banks([made(TWO), made(torch.eye(3))]), "got 2 wide in float32, 3 wide"),
    (lambda: join_banks([made(TWO), made(TWO, dtype="int8")]), "2 wide in int8"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_no_bank_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(MemoryBankError, match=message):
        make()
