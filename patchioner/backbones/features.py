"""What a backbone says about a photo: `PatchFeatures`. Knows shapes only; not networks, regions or text."""

from __future__ import annotations

from dataclasses import dataclass

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
