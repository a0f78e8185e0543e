"""What is asked of the captioner, on its way: a photo with regions, then those regions' embeddings.

Knows: photos, features, regions. Does not know: networks, order of work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from patchioner.backbones import Encodable, PatchFeatures
from patchioner.base.errors import ImageError
from patchioner.images import ImageSource
from patchioner.regions import Region, WholeImage


@dataclass(frozen=True, eq=False)
class Request:
    """A photo that is read, or already encoded, and the regions asked about."""

    photo: Encodable | PatchFeatures
    regions: Sequence[Region]


@dataclass(frozen=True, eq=False)
class EmbeddedRegions:
    """Regions of one photo and their embeddings, (n, dim) float32."""

    regions: Sequence[Region]
    rows: Tensor

    def __len__(self) -> int:
        return len(self.regions)


Read = Callable[[ImageSource], Encodable]
"""Makes of a source what a backbone encodes."""


def open_request(
    item: tuple[ImageSource | PatchFeatures, Sequence[Region] | None], read: Read
) -> Request:
    """Read the photo of an (image or features, regions or None) pair; None is the whole image.

    Raises:
        ImageError: the photo cannot be read, or is a list.
    """
    photo, regions = item
    if isinstance(photo, list):
        raise ImageError(
            f"expected one photo, got a list of {len(photo)}: give caption_many (photo, regions) pairs"
        )
    opened = photo if isinstance(photo, PatchFeatures) else read(photo)
    return Request(opened, [WholeImage()] if regions is None else regions)
