"""Several banks as one.

Knows banks. Does not know why there are several.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memory_bank.arrays import BankArrays
from memory_bank.bank import MemoryBank
from patchioner.base.errors import MemoryBankError


def join_banks(banks: Sequence[MemoryBank]) -> MemoryBank:
    """Return one bank with the rows of all, in order, on the first one's device.

    So a bank larger than memory in float32 is made of parts in int8. Equal rows stay apart until
    `merge_duplicates`. It has texts if all banks have, and no index.

    Raises:
        MemoryBankError: no banks, or of unlike width or precision.

    Example:
        >>> len(join_banks([MemoryBank(torch.eye(3)), MemoryBank(torch.eye(3)[:2])]))
        5
    """
    kinds = sorted({(bank.dim, bank.dtype) for bank in banks})
    if len(kinds) != 1:
        found = ", ".join(f"{dim} wide in {dtype}" for dim, dtype in kinds) or "none"
        raise MemoryBankError(
            f"banks to join must be alike, got {found}; see MemoryBank.to(dtype=)"
        )
    device = banks[0].device

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.to(device) for tensor in tensors])

    scales = [bank.scales for bank in banks if bank.scales is not None]
    arrays = BankArrays(
        joined([bank.keys for bank in banks]),
        joined([bank.norms for bank in banks]),
        joined([bank.counts for bank in banks]),
        joined(scales) if scales else None,
    )
    texts = [bank.texts for bank in banks if bank.texts is not None]
    whole = [text for some in texts for text in some] if len(texts) == len(banks) else None
    return MemoryBank._of(arrays, whole)
