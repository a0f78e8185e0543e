"""What a captioner consists of: parts that fit one another, and their copies for inference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from decoders import Decoder
from memory_bank import MemoryBank, Precision
from patchioner.backbones import Backbone
from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.settings import ModelSettings
from patchioner.text import TextTower


@dataclass(frozen=True)
class Parts:
    """Everything a captioner consists of; `bank` and `text_tower` may be absent. Nothing here is ever changed.

    Raises:
        CheckpointError: parts of different widths, or one that needs a memory bank where there is none.
    """

    backbone: Backbone
    decoder: Decoder
    bank: MemoryBank | None
    text_tower: TextTower | None
    settings: ModelSettings

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

    def with_bank(self, bank: MemoryBank) -> Parts:
        """The same parts with another memory bank. Where there was none before, embeddings now go through it.

        Raises:
            CheckpointError: a bank of another width.
        """
        if self.bank is not None:  # it may serve the decoder alone, as for retrieval
            return replace(self, bank=bank)
        return replace(self, bank=bank, settings=replace(self.settings, projection="memory"))

    def to(self, device: torch.device | str, dtype: torch.dtype, *, optimize: bool = True) -> Parts:
        """Copies for inference on a device, in a precision (`patchioner.base.inference.inference_copy`).

        Beside networks in half precision on a GPU, a float32 bank becomes float16: half the memory there, and rounded
        less than the queries are. Sums stay float32. On a CPU its rows may lie in a mapped file and stay as they are.

        Args:
            optimize: also pack what a CPU multiplies faster packed.
        """
        device, bank, tower = torch.device(device), self.bank, self.text_tower
        if bank is not None:
            bank = bank.to(device, resident_precision(bank.dtype, device, dtype))
        return replace(
            self,
            backbone=self.backbone.to(device, dtype, optimize=optimize),
            decoder=self.decoder.to(device, dtype, optimize=optimize),
            bank=bank,
            text_tower=None if tower is None else tower.to(device, dtype, optimize=optimize),
        )


def resident_precision(stored: Precision, device: torch.device, dtype: torch.dtype) -> Precision:
    """What a bank stored in one precision is kept in beside networks of a dtype; see `Parts.to`.

    Example:
        >>> resident_precision("float32", torch.device("cuda"), torch.bfloat16)
        'float16'
    """
    halved = stored == "float32" and device.type != "cpu" and dtype.itemsize == 2
    return "float16" if halved else stored
