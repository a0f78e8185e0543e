"""What a backbone says about a photo: `PatchFeatures`. Knows shapes only; not networks, regions or text."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    tokens: Tensor
    cls: Tensor | None
    attention: Tensor | None
    geometry: ImageGeometry

    @property
    def dim(self) -> int:
        """Width of the embedding space."""
        return int(self.tokens.shape[-1])
