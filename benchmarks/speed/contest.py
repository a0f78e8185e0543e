"""The two sides of the comparison: our engine and the published way, on one set of weights.

Knows: how each side is made, what it does of each part, which boxes; that their tokens must be equal. Does NOT know
tables or targets.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from benchmarks.naive import CHUNK, STEPS, NaiveCaptioner
from benchmarks.naive.captioner import chunk_count, chunks
from benchmarks.naive.regions import pool_boxes
from benchmarks.speed.floor import PARTS
from benchmarks.speed.shapes import (
    Shapes,
    build_random_backbone,
    build_random_decoder,
    read_bank,
    read_raw_rows,
)
from decoders import DecodeOptions, PrefixGPT2Decoder
from patchioner import Patchioner
from patchioner.base.errors import PatchionerError
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.settings import ModelSettings
from patchioner.model import project
from patchioner.regions import Box, Weighting

OPTIONS = DecodeOptions(max_tokens=STEPS, scores=False)  # nor does the published way give any


class Side(Protocol):
    """One way of doing the work."""

    def token_ids(self, image: Image.Image, boxes: Sequence[Box]) -> list[tuple[int, ...]]:
        """Tokens of each box's caption, up to the end token."""


class Ours:
    """Our engine at its defaults, but for the published rounding of boxes.

    Args:
        shapes: sizes.
        work: folder of the bank.
        backbone, decoder: to share with another side; made here if None.
        precision: of the bank's rows, one that `write_bank` has written.
        device, dtype: of the networks.

    Example:
        >>> Ours(SHAPES["tiny"], Path("work")).caption(photo, boxes)  # doctest: +SKIP
    """

    def __init__(
        self,
        shapes: Shapes,
        work: Path,
        *,
        backbone: Any = None,
        decoder: PrefixGPT2Decoder | None = None,
        precision: str = "float32",
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.bank = read_bank(work, precision)
        settings = ModelSettings(weighting=Weighting(rounding="reference"), decode=OPTIONS)
        self.decoder = decoder or build_random_decoder(shapes)
        parts = Parts(
            backbone or build_random_backbone(shapes), self.decoder, self.bank, None, settings
        )
        self.model = Patchioner(parts, device=device, dtype=dtype)

    def caption(self, image: Image.Image, regions: Sequence[Any]) -> list[Any]:
        """What a user calls: one photo, its regions."""
        return self.model.caption(image, regions)

    def bridged(self, image: Image.Image, boxes: Sequence[Box]) -> Tensor:
        """The decoder's inputs, (n, dim)."""
        features = self.model.encode(image)
        return project(
            self.model.embed_regions(features, boxes), self.model.settings, self.model.parts.bank
        )

    def token_ids(self, image: Image.Image, boxes: Sequence[Box]) -> list[tuple[int, ...]]:
        """See `Side`."""
        found = self.decoder.generate(self.bridged(image, boxes), OPTIONS)
        return [one.token_ids for one in found]

    def by_part(self, image: Image.Image, boxes: Sequence[Box]) -> dict[str, float]:
        """Seconds of each of `PARTS`, each called by itself."""
        clock = _Laps()
        features = self.model.encode(image)
        clock.lap()
        pooled = self.model.embed_regions(features, boxes)
        clock.lap()
        bridged = project(pooled, self.model.settings, self.model.parts.bank)
        clock.lap()
        self.decoder.generate(bridged, OPTIONS)
        clock.lap()
        return dict(zip(PARTS, clock.seconds, strict=True))


class Published:
    """The published way.

    Args:
        shapes: sizes.
        work: folder of the bank.
        backbone, decoder: to share with another side; made here if None.
        most_chunks: chunks of four that are really run; the time of more is scaled from theirs.
    """

    def __init__(
        self,
        shapes: Shapes,
        work: Path,
        *,
        backbone: Any = None,
        decoder: PrefixGPT2Decoder | None = None,
        most_chunks: int,
    ) -> None:
        self._backbone = backbone or build_random_backbone(shapes)
        self._rows = read_raw_rows(work)
        self.most_chunks = most_chunks
        self.captioner = NaiveCaptioner(
            self._backbone, self._rows, decoder or build_random_decoder(shapes)
        )

    def with_decoder(self, decoder: PrefixGPT2Decoder) -> Published:
        """The same backbone and bank, which is not read again, with another decoder."""
        other = copy.copy(self)
        other.captioner = NaiveCaptioner(self._backbone, self._rows, decoder)
        return other

    def run(self, boxes: int) -> int:
        """How many of so many boxes are really captioned."""
        return min(boxes, self.most_chunks * CHUNK)

    def scaled(self, boxes: int) -> bool:
        """Whether the time of so many boxes is scaled from fewer."""
        return chunk_count(boxes) > self.most_chunks

    def token_ids(self, image: Image.Image, boxes: Sequence[Box]) -> list[tuple[int, ...]]:
        """See `Side`; of no more boxes than `run` says."""
        found = self.captioner.caption(image, boxes[: self.run(len(boxes))])
        return [caption.token_ids for caption in found]

    def seconds(self, image: Image.Image, boxes: Sequence[Box]) -> float:
        """Wall seconds of captioning all boxes, scaled by the number of chunks where not all are run."""
        return sum(self.by_part(image, boxes).values())

    def by_part(self, image: Image.Image, boxes: Sequence[Box]) -> dict[str, float]:
        """Seconds of each of `PARTS`, scaled as `seconds` is; the attention extras are the backbone's."""
        clock = _Laps()
        features = self.captioner.encode(image)
        clock.lap()
        spent = [0.0, 0.0, 0.0]
        for part in chunks(boxes)[: self.most_chunks]:
            laps = _Laps()
            pooled = pool_boxes(features, part)
            laps.lap()
            bridged = self.captioner.bridge(pooled)
            laps.lap()
            for ids in self.captioner.decoder.token_ids(bridged):
                self.captioner.decoder.text(ids)
            laps.lap()
            spent = [sum(both) for both in zip(spent, laps.seconds, strict=True)]
        scale = chunk_count(len(boxes)) / min(chunk_count(len(boxes)), self.most_chunks)
        return dict(zip(PARTS, [*clock.seconds, *(scale * one for one in spent)], strict=True))


class _Laps:
    """Seconds between calls of `lap`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def lap(self) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def decode_in_chunks(side: Published, vectors: Tensor) -> Callable[[], float]:
    """A clock of decoding (n, dim) vectors four at a time, scaled as `Published.seconds` is."""
    return _in_chunks(side, vectors, side.captioner.decoder.token_ids)


def project_in_chunks(side: Published, queries: Tensor) -> Callable[[], float]:
    """A clock of projecting (n, dim) queries four at a time, scaled as `Published.seconds` is."""
    return _in_chunks(side, queries, side.captioner.bridge)


def _in_chunks(
    side: Published, vectors: Tensor, work: Callable[[Tensor], object]
) -> Callable[[], float]:
    parts = vectors.split(CHUNK)[: side.most_chunks]
    scale = chunk_count(len(vectors)) / len(parts)

    def timed() -> float:
        started = time.perf_counter()
        for part in parts:
            work(part)
        return scale * (time.perf_counter() - started)

    return timed


def check_equal(
    ours: Sequence[tuple[int, ...]], published: Sequence[tuple[int, ...]], what: str
) -> int:
    """See that both sides wrote the same tokens.

    Args:
        ours: tokens of each caption, up to the end token.
        published: the same of the other side, which may have run fewer.
        what: was captioned, for the message.

    Returns:
        How many captions were compared.

    Raises:
        PatchionerError: they differ; the message says where.

    Example:
        >>> check_equal([(1, 2), (3,)], [(1, 2)], "boxes")
        1
    """
    for box, (one, other) in enumerate(zip(ours, published, strict=False)):
        if one != other:
            place = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)),
            )
            raise PatchionerError(
                f"{what}: caption {box} differs from the published way's at token {place} "
                f"({one[place : place + 3]} against {other[place : place + 3]}), so their times cannot be compared: "
                "a fast path is wrong, or two tokens are equally likely up to rounding"
            )
    return min(len(ours), len(published))
