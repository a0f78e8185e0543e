"""What a captioner consists of. Knows that the parts must fit one another; not what they do or where they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from decoders import Decoder
from memory_bank import MemoryBank, Precision
from patchioner.backbones import Backbone
from patchioner.base.errors import CheckpointError
from patchioner.base.packed import pack
from patchioner.checkpoints.settings import ModelSettings
from patchioner.text import TextTower


@dataclass(frozen=True)
class Parts:
    """Everything a captioner consists of; `bank` and `text_tower` may be absent.

    Raises:
        CheckpointError: parts of different widths, or one that needs a memory bank where there is none.
    """

    backbone: Backbone
    decoder: Decoder
    bank: MemoryBank | None
    text_tower: TextTower | None
    settings: ModelSettings

    def with_bank(self, bank: MemoryBank) -> Parts:
        """The same parts with another memory bank. Where there was none before, embeddings now go through it.

        Raises:
            CheckpointError: a bank of another width.

        Example:
            >>> Patchioner(parts.with_bank(MemoryBank.load("bank")))  # doctest: +SKIP
        """
        if self.bank is not None:  # it may serve the decoder alone, as for retrieval
            return replace(self, bank=bank)
        return replace(self, bank=bank, settings=replace(self.settings, projection="memory"))

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the networks to a device and a precision, in place, and pack them (`patchioner.base.packed`)."""
        self.backbone.place(device, dtype)
        pack(self.backbone)
        if self.text_tower is not None:
            self.text_tower.to(device, dtype)
            pack(self.text_tower)

    def bank_on(self, device: torch.device, dtype: torch.dtype) -> MemoryBank | None:
        """The bank for networks of this precision on this device; the parts keep the one they have.

        Beside networks in half precision on a GPU, float32 rows become float16: half the memory there, and rounded
        less than the queries are. Sums stay float32. On a CPU the rows may lie in a mapped file and stay as they are.
        """
        if self.bank is None:
            return None
        return self.bank.to(device, resident_precision(self.bank.dtype, device, dtype))

    def __post_init__(self) -> None:
        widths = {"backbone": self.backbone.dim, "decoder": self.decoder.embedding_dim}
        widths |= {} if self.bank is None else {"memory bank": self.bank.dim}
        widths |= {} if self.text_tower is None else {"text tower": self.text_tower.dim}
        if len(set(widths.values())) > 1:
            raise CheckpointError(
                f"the parts have different widths and cannot work together: {widths}"
            )
        if self.bank is not None:
            return
        if self.settings.projection == "memory":
            raise CheckpointError(
                "the settings ask for the memory projection, but there is no memory bank"
            )
        if self.decoder.needs_memory:
            raise CheckpointError(
                f"a {type(self.decoder).__name__} draws on a memory bank, but there is none: add one with texts"
            )


def resident_precision(stored: Precision, device: torch.device, dtype: torch.dtype) -> Precision:
    """What a bank stored in one precision is kept in beside networks of a dtype; see `Parts.bank_on`.

    Example:
        >>> resident_precision("float32", torch.device("cuda"), torch.bfloat16)
        'float16'
    """
    halved = stored == "float32" and device.type != "cpu" and dtype.itemsize == 2
    return "float16" if halved else stored
