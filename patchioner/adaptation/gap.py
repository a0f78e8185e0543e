"""Making text embeddings look like region embeddings, for training a decoder without photos.

Knows: embeddings and a memory bank. Does not know: photos, texts, decoders. Two published ideas, blended: Gaussian
noise (CapDec, arXiv 2211.00575) and projection onto a memory of texts (DeCap, arXiv 2303.03032).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from memory_bank import MemoryBank
from patchioner.base.errors import OptionError


@dataclass(frozen=True, eq=False)
class GapNoise:
    """A corruption for `decoders.train_decoder`: noise of random strength, then, for most rows, the memory projection.

    At inference every region passes the memory bank, so the decoder must be at home with its outputs; rows that skip it
    keep the decoder usable without a bank.

    Attributes:
        bank: projects; None skips the projection.
        weakest, strongest: range of the noise's standard deviation per coordinate, drawn per row.
        temperature: of the projection.
        share: share of the rows that are projected.

    Raises:
        OptionError: a range or share that makes no sense.
    """

    bank: MemoryBank | None
    weakest: float = 0.02
    strongest: float = 0.1
    temperature: float = 0.01
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weakest <= self.strongest < float("inf"):
            raise OptionError(
                f"noise from {self.weakest} to {self.strongest}: give 0 <= weakest <= strongest"
            )
        if not 0 <= self.share <= 1:
            raise OptionError(f"share {self.share} of projected rows must lie in 0..1")

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Unit embeddings (n, dim) -> corrupted unit embeddings; draws from torch's global generator."""
        spread = self.strongest - self.weakest
        rows, device = (len(embeddings), 1), embeddings.device
        sigma = self.weakest + spread * torch.rand(rows, device=device)
        noisy = F.normalize(embeddings + sigma * torch.randn_like(embeddings), dim=1)
        if self.bank is None:
            return noisy
        projected = self.bank.project(noisy, temperature=self.temperature)
        return torch.where(torch.rand(rows, device=device) < self.share, projected, noisy)
