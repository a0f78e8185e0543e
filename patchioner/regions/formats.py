"""Regions out of the dictionaries that other tools return: COCO annotations, SAM's masks.

Knows: those two layouts. Does NOT know files (that is ``patchioner.region_files``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from patchioner.base.errors import RegionError
from patchioner.regions.base import Region
from patchioner.regions.box import Box
from patchioner.regions.mask import Mask
from patchioner.regions.polygon import Polygon
from patchioner.regions.values import items_of


def from_coco(
    annotation: Mapping[str, object], image_size: tuple[int, int] | None = None
) -> Region:
    """The region of one COCO annotation: its polygons, its RLE, or else its box.

    Args:
        annotation: with ``segmentation`` (list of flat rings, or an RLE of either spelling)
            and/or ``bbox`` ([x, y, width, height]), pixels of the original image.
        image_size: (width, height) of the image; an RLE of another size is an error.

    Returns:
        A Polygon, Mask or Box.

    Raises:
        RegionError: neither is there, or what is there is broken.

    Example:
        >>> from_coco({"segmentation": [], "bbox": [10, 20, 30, 40]})
        Box(x1=10.0, y1=20.0, x2=40.0, y2=60.0)
    """
    if not isinstance(annotation, Mapping):
        raise RegionError(f"a COCO annotation is a dictionary, not {annotation!r:.80}")
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        return _sized(Mask.from_rle(segmentation), image_size)
    if isinstance(segmentation, Sequence) and segmentation:
        return Polygon.from_coco(segmentation)
    if annotation.get("bbox") is not None:
        return Box.from_coco(annotation)
    raise RegionError(
        f"the annotation has keys {sorted(map(str, annotation))}; "
        "give 'segmentation' (polygons or RLE) or 'bbox'"
    )


def from_sam(
    masks: Iterable[Mapping[str, object]], image_size: tuple[int, int] | None = None
) -> list[Region]:
    """The regions of what SAM's automatic mask generator returns, in its order.

    Args:
        masks: dictionaries with ``segmentation``: a (height, width) bool array, or an RLE
            where the generator was told to return RLE; ``bbox`` (x, y, width, height) is used
            only where there is no segmentation.
        image_size: (width, height) of the image; a mask of another size is an error.

    Raises:
        RegionError: naming the entry that is no mask.

    Example:
        >>> from_sam([{"segmentation": np.ones((2, 3), dtype=bool)}])
        [Mask(3x2, 6 pixels)]
    """
    regions = []
    for index, entry in enumerate(items_of(masks, "SAM's result")):
        if not isinstance(entry, Mapping):
            raise RegionError(f"entry {index} of SAM's result is {entry!r:.80}, no dictionary")
        try:
            regions.append(_sam_region(entry, image_size))
        except RegionError as error:
            raise RegionError(f"entry {index} of SAM's result: {error}") from error
    return regions


def _sam_region(entry: Mapping[str, object], image_size: tuple[int, int] | None) -> Region:
    segmentation = entry.get("segmentation")
    if segmentation is None or isinstance(segmentation, Mapping):
        return from_coco(entry, image_size)
    return _sized(Mask(segmentation), image_size)


def _sized(mask: Mask, image_size: tuple[int, int] | None) -> Mask:
    if image_size is not None:
        mask.require_size(image_size)
    return mask
