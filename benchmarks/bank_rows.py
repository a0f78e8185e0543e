"""Rows and queries that the bank benchmark works on: random ones, and real ones of any number.

Knows: how rows are drawn, noised and put into a bank part by part. Does NOT know: indexes, clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memory_bank import MemoryBank, Precision, join_banks
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from patchioner.base.progress import progress
from patchioner.regions import Box, WholeImage

_PART = 250_000
NOISE = 0.5
"""Length of the noise added to a copy of a unit row: its cosine with the row is about 0.89."""


@dataclass(frozen=True)
class Source:
    """Where rows and queries come from.

    Attributes:
        name: for the table.
        dim: width of both.
        draw: (first row, number) -> (number, dim) float32 embeddings; the same rows for the same first row.
        queries: (n, dim) float32.
        real: rows that are not made up; None where none is.
    """

    name: str
    dim: int
    draw: Callable[[int, int], Tensor]
    queries: Tensor
    real: int | None = None

    def bank(self, rows: int, storage: Precision) -> MemoryBank:
        """A bank of the first `rows` rows, made part by part: never all of it in float32.

        Example:
            >>> len(random_source(4, 2, seed=0).bank(10, "int8"))
            10
        """
        starts = range(0, rows, _PART)
        parts = [MemoryBank(self.draw(at, min(_PART, rows - at)), dtype=storage) for at in starts]
        return parts[0] if len(parts) == 1 else join_banks(parts)


def random_source(dim: int, queries: int, *, seed: int) -> Source:
    """Directions drawn uniformly: no row is near a query, so a softmax has weight everywhere.

    Example:
        >>> random_source(4, 2, seed=0).draw(0, 3).shape
        torch.Size([3, 4])
    """

    def draw(first: int, number: int) -> Tensor:
        return torch.randn(number, dim, generator=_generator(seed, first))

    asked = torch.randn(queries, dim, generator=_generator(seed, -1))
    return Source("random", dim, draw, asked)


def real_source(bank: MemoryBank, queries: Tensor, *, seed: int) -> Source:
    """The rows of a bank in random order; past their number, noised copies of them.

    Args:
        bank: of real captions.
        queries: (n, dim) real region embeddings of the same model.
        seed: of order and noise.

    Raises:
        OptionError: queries of another width.

    Example:
        >>> source = real_source(MemoryBank(torch.eye(3)), torch.ones(1, 3), seed=0)
        >>> source.draw(0, 5).shape
        torch.Size([5, 3])
    """
    if queries.shape[1] != bank.dim:
        raise OptionError(
            f"queries are {queries.shape[1]} wide, the bank {bank.dim}: of one model, please"
        )
    order = torch.randperm(len(bank), generator=_generator(seed, -1))

    def draw(first: int, number: int) -> Tensor:
        wanted = torch.arange(first, first + number)
        rows = bank.units(order[wanted % len(bank)])
        noise = torch.randn(rows.shape, generator=_generator(seed, first))
        noise *= NOISE / bank.dim**0.5 * (wanted >= len(bank))[:, None]
        return rows + noise

    return Source("real", bank.dim, draw, queries, real=len(bank))


def region_queries(model: Patchioner, photos: Sequence[Path], count: int) -> Tensor:
    """Embeddings of whole photos and of their quarters, (count, dim), photo by photo.

    Raises:
        OptionError: too few photos.

    Example:
        >>> region_queries(model, sorted(Path("photos").iterdir()), 100)  # doctest: +SKIP
    """
    from PIL import Image

    found: list[Tensor] = []
    needed = photos[: -(-count // 5)]
    for photo in progress(needed, description="photos", unit="photo"):
        with Image.open(photo) as image:
            width, height = image.size
        x, y = width / 2, height / 2
        corners = [(0, 0), (x, 0), (0, y), (x, y)]
        regions: list[Any] = [WholeImage(), *(Box(a, b, a + x, b + y) for a, b in corners)]
        found.append(model.embed_regions(model.encode(str(photo)), regions))
    queries = torch.cat(found)[:count] if found else torch.empty(0, 0)
    if len(queries) < count:
        raise OptionError(
            f"{len(photos)} photos give {len(queries)} queries, {count} are asked for"
        )
    return queries.float().cpu()


def _generator(seed: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + part + 1) % 2**63)
