"""Memory banks: text embeddings to project onto, exactly, and to explain a caption by.

Example:
    >>> import torch
    >>> bank = MemoryBank(torch.eye(3), texts=["a cat", "a dog", "a bus"])
    >>> bank.nearest(torch.tensor([[0.9, 0.1, 0.0]]), k=1).texts
    (('a cat',),)
"""

from __future__ import annotations

from memory_bank.bank import MemoryBank, Neighbours
from memory_bank.build import build_bank_folder, compact
from memory_bank.projection import Precision
from memory_bank.storage import BankIndex, IndexKind, IndexOptions
from memory_bank.text_files import read_captions

__all__ = [
    "BankIndex",
    "IndexKind",
    "IndexOptions",
    "MemoryBank",
    "Neighbours",
    "Precision",
    "build_bank_folder",
    "compact",
    "read_captions",
]
