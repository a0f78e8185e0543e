"""Regions out of the values of other tools: COCO's annotations, SAM's masks, labelme's shapes, ..."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.base import Region, Size, as_numpy, finite, items_of, numbers
from patchioner.regions.mask import Mask
from patchioner.regions.polygon import Polygon
from patchioner.regions.shapes import Box, Point
from patchioner.regions.trace import Trace


def from_coco(annotation: Mapping[str, object], image_size: Size | None = None) -> Region:
    """The region of one COCO annotation: its polygons, its mask, or else its box.

    Args:
        annotation: with ``segmentation`` (list of flat rings, an RLE of either spelling, or a
            (height, width) array as SAM gives it) and/or ``bbox``: [x, y, width, height], or
            corners where detectron2's ``bbox_mode`` is 0; pixels of the original image.
        image_size: (width, height) of the image; a mask of another size is an error.

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
    if hasattr(segmentation, "shape") or _is_yes_or_no(segmentation):
        return _sized(Mask(segmentation), image_size)
    if isinstance(segmentation, Sequence) and segmentation:
        return Polygon.from_coco(segmentation)
    if annotation.get("bbox") is not None:
        if annotation.get("bbox_mode") == 0:
            return Box(*numbers(annotation["bbox"], 4, "bbox"))
        return Box.from_coco(annotation)
    raise RegionError(
        f"the annotation has keys {sorted(map(str, annotation))}; "
        "give 'segmentation' (polygons or RLE) or 'bbox'"
    )


def from_sam(masks: Any, image_size: Size | None = None) -> list[Region]:
    """The regions of what SAM, SAM 2 or SAM 3 returns, in its order.

    Args:
        masks: the automatic generator's dictionaries, with ``segmentation`` as an array or RLE
            (their ``bbox``, x, y, width, height, is used only without it); or the predictor's
            masks, (n, height, width) or (n, 1, height, width), as an array or tensor, alone or as
            the first of the (masks, scores, logits) that it returns.
        image_size: (width, height) of the image; a mask of another size is an error.

    Raises:
        RegionError: naming the entry that is no mask.

    Example:
        >>> from_sam([{"segmentation": np.ones((2, 3), dtype=bool)}])
        [Mask(3x2, 6 pixels)]
    """
    if isinstance(masks, tuple) and masks and hasattr(masks[0], "shape"):
        masks = masks[0]
    if hasattr(masks, "shape"):
        masks = [{"segmentation": one} for one in mask_stack(as_numpy(masks))]
    regions = []
    for index, entry in enumerate(items_of(masks, "SAM's result")):
        if not isinstance(entry, Mapping):
            raise RegionError(f"entry {index} of SAM's result is {entry!r:.80}, no dictionary")
        try:
            regions.append(from_coco(entry, image_size))
        except RegionError as error:
            raise RegionError(f"entry {index} of SAM's result: {error}") from error
    return regions


def mask_stack(array: npt.NDArray[np.generic]) -> Iterable[npt.NDArray[np.generic]]:
    """Single (height, width) arrays of a (height, width), (n, height, width) or stack with a 1 axis.

    An integer (height, width) array of several values is a label map: one mask per value but 0.
    """
    given = array.shape
    while array.ndim > 3 and 1 in array.shape[:-2]:
        array = np.squeeze(array, axis=array.shape.index(1))
    if array.ndim not in (2, 3):
        raise RegionError(f"'masks' has shape {given}; give (n, height, width)")
    if array.ndim == 3:
        return list(array)
    labels = label_values(array)
    return [array == label for label in labels] if labels else [array]


def label_values(array: npt.NDArray[np.generic]) -> list[int]:
    """The ids of an integer label map, ascending, without 0; empty for anything else."""
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        return []
    found = [int(value) for value in np.unique(array) if value != 0]
    return found if len(found) > 1 else []


def labelme_region(shape: Mapping[str, Any], image_size: Size) -> Region:
    """A rectangle, polygon, circle, point or line of labelme."""
    points, kind = shape.get("points"), shape.get("shape_type", "polygon")
    pairs = [tuple(numbers(one, 2, "point")) for one in items_of(points, "points")]
    if kind == "rectangle" and len(pairs) == 2:
        (x1, y1), (x2, y2) = pairs
        return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    if kind == "circle" and len(pairs) == 2:
        (x, y), (edge_x, edge_y) = pairs
        turn = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
        ring = np.stack([np.cos(turn), np.sin(turn)], axis=1) * np.hypot(edge_x - x, edge_y - y)
        return Polygon(ring + (x, y))
    if kind == "point" and len(pairs) == 1:
        return Point(*pairs[0])
    if kind in ("line", "linestrip"):
        return Trace(pairs)
    if kind == "polygon":
        return Polygon(pairs)
    raise RegionError(f"labelme's shape_type {kind!r:.40} is not read; draw a polygon or rectangle")


def label_studio_region(result: Mapping[str, Any], image_size: Size) -> Region:
    """A rectangle or polygon of Label Studio, which counts in per cent of the image."""
    value, kind = result["value"], str(result.get("type"))
    width, height = (side / 100.0 for side in image_size)
    if kind.startswith("rectangle") and not value.get("rotation"):
        x, y, w, h = (finite(value.get(key), key) for key in ("x", "y", "width", "height"))
        return Box.from_xywh(x * width, y * height, w * width, h * height)
    if kind.startswith("polygon"):
        ring = (numbers(one, 2, "point") for one in items_of(value.get("points"), "points"))
        return Polygon([(x * width, y * height) for x, y in ring])
    raise RegionError(f"Label Studio's {kind!r:.40} is not read; export the project as COCO")


def visual_genome_region(part: Mapping[str, Any], image_size: Size) -> Region:
    """The box of an object or of a described region of Visual Genome."""
    width, height = part.get("width", part.get("w")), part.get("height", part.get("h"))
    return Box.from_xywh(part["x"], part["y"], width, height)


def _is_yes_or_no(segmentation: object) -> bool:
    """Whether nested lists are the rows of a mask that became JSON, not flat rings."""
    if not isinstance(segmentation, Sequence) or not segmentation:
        return False
    first = segmentation[0]
    if not isinstance(first, Sequence) or not all(
        isinstance(row, Sequence) for row in segmentation
    ):
        return False
    return all(
        len(row) == len(first) and all(value in (0, 1) for value in row) for row in segmentation
    )


def _sized(mask: Mask, image_size: Size | None) -> Mask:
    if image_size is not None:
        mask.require_fit(image_size)
    return mask
