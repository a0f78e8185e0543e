"""Photo and boxes in, captions out, in the published order of work.

Knows: how the naive parts follow one another, and chunks of four. Does NOT know what happens inside a part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.naive.decoding import STEPS, NaiveDecoder
from benchmarks.naive.image import NaiveFeatures, encode
from benchmarks.naive.projection import TEMPERATURE, project
from benchmarks.naive.regions import pool_boxes
from decoders import PrefixGPT2Decoder
from patchioner.base.errors import OptionError
from patchioner.regions import Box

CHUNK = 4


@dataclass(frozen=True)
class NaiveCaption:
    """A caption and its tokens, the end token included where it came."""

    text: str
    token_ids: tuple[int, ...]


class NaiveCaptioner:
    """The published way, on our weights; see the package for what it follows and leaves out.

    Args:
        backbone: a `patchioner.backbones.TimmViT` whose preprocessing stretches (as all published numbers do).
        rows: (N, dim) float32, the memory bank as it comes, not normalised; None for a decoder without a bank, which
            then takes the pooled vectors as they are.
        decoder: its weights are used, its engine is not.
        temperature: of the projection.

    Raises:
        OptionError: another preprocessing.
    """

    def __init__(
        self,
        backbone: Any,
        rows: Tensor | None,
        decoder: PrefixGPT2Decoder,
        *,
        temperature: float = TEMPERATURE,
    ) -> None:
        if backbone.preprocessing.mode != "stretch":
            raise OptionError(
                f"the backbone fits photos by {backbone.preprocessing.mode!r}: the published boxes are those of a "
                "stretched image, so set its preprocessing's mode to 'stretch'"
            )
        self._backbone = backbone
        self._rows = rows
        self._temperature = temperature
        self.decoder = NaiveDecoder(decoder)

    def encode(self, image: Image.Image) -> NaiveFeatures:
        """One backbone pass, attention extras included."""
        return encode(self._backbone, image)

    @torch.inference_mode()
    def bridge(self, pooled: Tensor) -> Tensor:
        """(n, dim) pooled vectors to the decoder's inputs: the whole bank in one expression."""
        return pooled if self._rows is None else project(pooled, self._rows, self._temperature)

    def caption_chunk(self, features: NaiveFeatures, boxes: Sequence[Box]) -> list[NaiveCaption]:
        """Caption up to `CHUNK` boxes (more are taken, but the published evaluation sends no more)."""
        written = self.decoder.token_ids(self.bridge(pool_boxes(features, boxes)), STEPS)
        return [
            NaiveCaption(self.decoder.text(ids), self.decoder.until_end(ids)) for ids in written
        ]

    def caption(self, image: Image.Image, boxes: Sequence[Box]) -> list[NaiveCaption]:
        """Caption all boxes of an image (upright RGB), chunk by chunk; one `NaiveCaption` each.

        Example:
            >>> naive.caption(photo, boxes)[0].token_ids  # doctest: +SKIP
            (49406, 320, 2368, 49407)
        """
        features = self.encode(image)
        return [caption for part in chunks(boxes) for caption in self.caption_chunk(features, part)]


def chunks(boxes: Sequence[Box], size: int = CHUNK) -> list[Sequence[Box]]:
    """The boxes in parts of `size`; the last may be shorter.

    Example:
        >>> [len(part) for part in chunks([Box(0, 0, 1, 1)] * 9)]
        [4, 4, 1]
    """
    return [boxes[start : start + size] for start in range(0, len(boxes), size)]


def chunk_count(boxes: int, size: int = CHUNK) -> int:
    """How many chunks that many boxes make.

    Example:
        >>> chunk_count(9)
        3
    """
    return math.ceil(boxes / size)
