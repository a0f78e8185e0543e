"""What the decoder reads while it trains: embeddings of texts, made noisy or projected.

Knows: where embeddings come from, the noise, the caller's corruption, their checks.
Does NOT know: decoders, memory banks (`corrupt` is any function), the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from patchioner.base.errors import DecoderError

Embed: TypeAlias = Callable[[list[str]], Tensor] | NDArray[Any] | Tensor
Corrupt: TypeAlias = Callable[[Tensor], Tensor]


class TrainingInputs:
    """The embeddings of a corpus as training sees them.

    Args:
        texts: the corpus.
        embed: (len(texts), dim) array or tensor, or a function of a list of texts.
        dim: width of the embeddings.
        noise_sigma: standard deviation of the noise, per coordinate of the unit embedding.
        corrupt: applied last, from (n, dim) float32 to the same shape.

    Raises:
        DecoderError: when an array is not (len(texts), dim).
    """

    def __init__(
        self,
        texts: Sequence[str],
        embed: Embed,
        *,
        dim: int,
        noise_sigma: float,
        corrupt: Corrupt | None,
    ) -> None:
        if not callable(embed) and tuple(embed.shape) != (len(texts), dim):
            raise DecoderError(
                f"the embeddings are {tuple(embed.shape)}; {len(texts)} texts and this decoder "
                f"need ({len(texts)}, {dim})"
            )
        self._texts, self._embed, self._dim = texts, embed, dim
        self._noise_sigma, self._corrupt = noise_sigma, corrupt

    def embeddings(self, indices: NDArray[np.int64], *, noise: bool = True) -> Tensor:
        """Embeddings (n, dim) float32 on the CPU: unit length, noise, unit length, corruption.

        The noise comes from torch's global generator, which the training loop seeds per step.

        Raises:
            DecoderError: when `embed` or `corrupt` gives a wrong shape or numbers not finite.
        """
        rows = functional.normalize(self._clean(indices), dim=-1)
        if noise and self._noise_sigma > 0:
            rows = rows + self._noise_sigma * torch.randn(rows.shape)
            rows = functional.normalize(rows, dim=-1)
        if self._corrupt is None:
            return rows
        return self._checked(self._corrupt(rows), len(indices), "corrupt")

    def _clean(self, indices: NDArray[np.int64]) -> Tensor:
        if callable(self._embed):
            rows = self._embed([self._texts[i] for i in indices])
        elif isinstance(self._embed, Tensor):
            rows = self._embed[torch.from_numpy(indices).to(self._embed.device)]
        else:
            rows = torch.from_numpy(np.asarray(self._embed[indices], dtype=np.float32))
        return self._checked(rows, len(indices), "embed")

    def _checked(self, rows: Tensor, count: int, source: str) -> Tensor:
        if tuple(rows.shape) != (count, self._dim):
            raise DecoderError(
                f"{source} gave {tuple(rows.shape)} embeddings; needed ({count}, {self._dim})"
            )
        rows = rows.detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(rows).all()):
            raise DecoderError(f"{source} gave embeddings that are not finite; check its inputs")
        return rows
