"""Memory banks: text embeddings to project onto, exactly, and to explain a caption by.

Knows vectors and the texts behind them. Knows nothing of images, regions or decoders.

Example:
    >>> import torch
    >>> bank = MemoryBank(torch.eye(3), texts=["a cat", "a dog", "a bus"])
    >>> bank.nearest(torch.tensor([[0.9, 0.1, 0.0]]), k=1).texts
    (('a cat',),)
"""

from __future__ import annotations

from memory_bank.arrays import Precision
from memory_bank.bank import MemoryBank
from memory_bank.build import build_bank
from memory_bank.compaction import CompactionMethod, compact
from memory_bank.index import BankIndex
from memory_bank.index_kinds import IndexKind, IndexOptions
from memory_bank.joining import join_banks
from memory_bank.projection import Blocks
from memory_bank.results import Approximation, Neighbours

__all__ = [
    "Approximation",
    "BankIndex",
    "Blocks",
    "CompactionMethod",
    "IndexKind",
    "IndexOptions",
    "MemoryBank",
    "Neighbours",
    "Precision",
    "build_bank",
    "compact",
    "join_banks",
]
