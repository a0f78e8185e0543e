"""The regions that mean something: things that were given or found, each alone or, as published, in one box.

Knows: detections, and what a caption names. Does not know: who found them, who captioned, quadrants.
"""

from __future__ import annotations

from collections.abc import Sequence

from patchioner.detail.divide.detections import Detection
from patchioner.detail.divide.rectangles import Rectangle, area, bounding_union, iou, shared_area
from patchioner.detail.text import canonical, noun_phrases
from patchioner.detail.values import DetailRegion, RegionKind

_INSIDE = 0.8
"""Share of a thing that must lie in another for that to be its parent."""


def union_of_named(
    detections: Sequence[Detection],
    caption: str,
    image_size: tuple[int, int],
    coverage: float = 0.4,
) -> Rectangle | None:
    """The published semantic patch: the box around all things that the photo's caption names.

    Published: a language model lists the objects of a one-line caption and matches them with the detector's names; the
    patch is the bounding union of all boxes of the names kept, the whole photo if none is, and it is described only if
    its IoU with the photo is at most 0.4. Here names are matched word by word, synonyms of a short list included.

    Args:
        detections: with names; those without are never named.
        caption: of the whole photo.
        image_size: (width, height).
        coverage: IoU with the photo above which there is no semantic patch.

    Returns:
        The box, or None where nothing is named or it is too large.

    Example:
        >>> things = [Detection((0, 0, 10, 10), "dog"), Detection((20, 0, 30, 10), "kite")]
        >>> union_of_named(things, "a dog on the grass", (100, 100))
        (0, 0, 10, 10)
    """
    said = {canonical(phrase.head) for phrase in noun_phrases(caption)}
    boxes = [
        detection.box
        for detection in detections
        if detection.name and _heads(detection.name) & said
    ]
    if not boxes:
        return None
    union = bounding_union(boxes)
    whole = (0.0, 0.0, float(image_size[0]), float(image_size[1]))
    return union if iou(union, whole) <= coverage else None


def detail_regions(detections: Sequence[Detection], kind: RegionKind) -> list[DetailRegion]:
    """One region per thing, "semantic-1", "semantic-2", ... in their order.

    Args:
        detections: of one photo.
        kind: "semantic" for what was found, "user" for what was given; the ids begin with it.

    Returns:
        Regions whose parents are the photo and, smallest first, the larger ones that hold at least four fifths of it.
    """
    return [
        DetailRegion(
            f"{kind}-{number}",
            kind,
            detection.box,
            detection.mask,
            ("global", *_holders(number - 1, detections, kind)),
            detection.name,
        )
        for number, detection in enumerate(detections, 1)
    ]


def _heads(name: str) -> set[str]:
    """What a detector's class name may be called: its head noun, or all of it as one word ("traffic_light")."""
    words = name.replace("_", " ").lower().split()
    return {canonical(word) for word in (words[-1:] + [" ".join(words)]) if word}


def _holders(place: int, detections: Sequence[Detection], kind: RegionKind) -> list[str]:
    held = detections[place]
    larger = [
        (area(other.box), f"{kind}-{number}")
        for number, other in enumerate(detections, 1)
        if area(other.box) > area(held.box)
        and shared_area(other.box, held.box) >= _INSIDE * area(held.box)
    ]
    return [name for _, name in sorted(larger)]
