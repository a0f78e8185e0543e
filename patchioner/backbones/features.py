"""What a backbone says about photos: `PatchFeatures` of one, `Dense` of a batch.

Knows: shapes, and how a batch comes apart. Does not know: networks, regions or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from patchioner.geometry import ImageGeometry


@dataclass(frozen=True, eq=False)
class PatchFeatures:
    """Text-aligned features of one photo, from one backbone pass. Immutable; reuse it for any number of regions.

    Attributes:
        tokens: (rows, columns, dim) float32 patch tokens, in the space of the checkpoint's text embeddings.
        cls: (dim,) float32 global token in the same space, or None if the backbone has none.
        attention: (heads, rows, columns) float32, the last block's attention of the global token over the patches,
            each head summing to 1; or None.
        geometry: how pixels of the original photo map to the rows and columns.
        reference_attention: (rows, columns) float32 summing to 1, the attention as the published system computes it
            (see `patchioner.backbones.attention`), for reference rounding; or None.
        image: the photo itself, upright RGB, kept only for models that cut regions out of it; or None.
    """

    tokens: Tensor
    cls: Tensor | None
    attention: Tensor | None
    geometry: ImageGeometry
    reference_attention: Tensor | None = None
    image: Image.Image | None = None

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return int(self.tokens.shape[-1])


class Dense(NamedTuple):
    """What a network gives for B images of one size; `None` where it has no such thing.

    Attributes:
        tokens: (B, rows, columns, width).
        cls: (B, width).
        attention: (B, heads, rows, columns), see `PatchFeatures.attention`.
        published: (B, rows, columns), see `PatchFeatures.reference_attention`.
    """

    tokens: Tensor
    cls: Tensor | None
    attention: Tensor | None
    published: Tensor | None


def split_features(found: Dense, geometries: Sequence[ImageGeometry]) -> list[PatchFeatures]:
    """Take a batch apart: float32 features of each photo, in the batch's order.

    Args:
        found: of B images.
        geometries: B maps between pixels and the one grid that all of them have.

    Returns:
        Features that own their numbers: keeping those of one photo does not keep the whole batch.

    Example:
        >>> found = Dense(torch.zeros(2, 3, 4, 8), None, None, None)
        >>> geometry = ImageGeometry((40, 30), (3, 4), 10, (1.0, 1.0), (0.0, 0.0))
        >>> [tuple(one.tokens.shape) for one in split_features(found, [geometry] * 2)]
        [(3, 4, 8), (3, 4, 8)]
    """
    shared = len(geometries) > 1

    def row(part: Tensor | None, index: int) -> Tensor | None:
        return None if part is None else part[index].to(torch.float32, copy=shared)

    return [
        PatchFeatures(
            found.tokens[index].to(torch.float32, copy=shared),
            row(found.cls, index),
            row(found.attention, index),
            geometry,
            reference_attention=row(found.published, index),
        )
        for index, geometry in enumerate(geometries)
    ]
