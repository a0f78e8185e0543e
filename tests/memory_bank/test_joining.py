"""Several banks as one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memory_bank import MemoryBank, join_banks
from patchioner.base import MemoryBankError


def rows(number: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(number, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_parts_make_the_bank_of_all_rows(dtype: Any) -> None:
    parts = [rows(4, 0), rows(1, 1), rows(3, 2)]
    banks = [
        MemoryBank(
            part,
            [f"{number} {row}" for row in range(len(part))],
            [number + 1] * len(part),
            dtype=dtype,
        )
        for number, part in enumerate(parts)
    ]
    whole = MemoryBank(
        torch.cat(parts),
        [text for bank in banks for text in bank.texts or ()],
        [1] * 4 + [2] + [3] * 3,
        dtype=dtype,
    )
    assert join_banks(banks).fingerprint() == whole.fingerprint()
    assert join_banks([banks[0], banks[1].with_texts(None)]).texts is None
    assert join_banks(banks[:1]).fingerprint() == banks[0].fingerprint()


@pytest.mark.parametrize(
    ("banks", "message"),
    [
        ([], "got none"),
        ([MemoryBank(torch.eye(2)), MemoryBank(torch.eye(3))], "got 2 wide in float32, 3 wide"),
        ([MemoryBank(torch.eye(2)), MemoryBank(torch.eye(2), dtype="int8")], "2 wide in int8"),
    ],
)
def test_unlike_banks(banks: list[MemoryBank], message: str) -> None:
    with pytest.raises(MemoryBankError, match=message):
        join_banks(banks)
