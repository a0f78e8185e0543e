"""A photo with its regions and their captions.

Knows: the order of drawing, numbered tags, the list beside the photo. Does not know: models;
captions are anything with a `region` and a `text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image, ImageDraw

from patchioner.drawing.canvas import Display
from patchioner.drawing.palette import colour_of
from patchioner.drawing.panel import Entry, add_panel, badge_size, draw_badge
from patchioner.drawing.shapes import FINE, Shape, draw_shapes, shapes_of
from patchioner.drawing.text_layout import Font
from patchioner.geometry import ImageGeometry
from patchioner.regions import Region

MAX_LISTED = 80  # a longer list is no longer a picture

_Rectangle = tuple[float, float, float, float]


class Captioned(Protocol):
    """Anything that says what a region shows, such as `patchioner.Caption`."""

    @property
    def region(self) -> Region:
        """The region."""
        ...

    @property
    def text(self) -> str:
        """What it shows."""
        ...


def draw_overlay(
    image: Image.Image | Display,
    captions: Sequence[Captioned],
    *,
    geometry: ImageGeometry | None = None,
    labels: Sequence[str | None] | None = None,
) -> Image.Image:
    """Draw regions on a photo, number them, and list their captions.

    Args:
        image: the photo, any size and mode, or its `Display`.
        captions: one per region; regions in pixels of the photo. Number, colour and list follow
            this order.
        geometry: the patch grid (`features.geometry`); needed only for `Patch` regions.
        labels: a name for each region, listed below its caption; None where there is none.

    Returns:
        A new RGB picture; small photos are enlarged, huge ones reduced. Of more than 80 captions
        the first 80 are listed.

    Raises:
        OptionError: a `Patch` without geometry.

    Example:
        >>> from types import SimpleNamespace
        >>> from patchioner.regions import Box
        >>> caption = SimpleNamespace(region=Box(10, 10, 60, 60), text="a red bus")
        >>> draw_overlay(Image.new("RGB", (100, 80)), [caption]).mode
        'RGB'
    """
    display = Display.of(image)
    parts = [shapes_of(caption.region, display, geometry) for caption in captions]
    photo = _draw_regions(display, parts)
    _draw_tags(photo, parts, display.font)
    return add_panel(photo, _entries(captions, labels), display)


def _entries(captions: Sequence[Captioned], labels: Sequence[str | None] | None) -> list[Entry]:
    names = labels if labels is not None else [None] * len(captions)
    entries = [
        Entry(colour_of(number), str(number + 1), caption.text, name or "")
        for number, (caption, name) in enumerate(zip(captions, names, strict=True))
    ]
    if len(entries) > MAX_LISTED:
        more = Entry(None, "", f"… and {len(entries) - MAX_LISTED} more")
        return [*entries[:MAX_LISTED], more]
    return entries


def _draw_regions(display: Display, parts: Sequence[Sequence[Shape]]) -> Image.Image:
    """Large regions first, so that small ones inside them stay visible."""
    coloured = [
        (shape, colour_of(number)) for number, shapes in enumerate(parts) for shape in shapes
    ]
    coloured.sort(key=lambda item: -_area(item[0].extent))
    layer = draw_shapes(coloured, display.photo.size, width=3 if len(coloured) <= 40 else 2)
    return Image.alpha_composite(display.photo.convert("RGBA"), layer).convert("RGB")


def _draw_tags(photo: Image.Image, parts: Sequence[Sequence[Shape]], font: Font) -> None:
    """One numbered tag at every part of every region, moved aside where tags would overlap."""
    draw = ImageDraw.Draw(photo)
    taken: list[_Rectangle] = []
    for number, shapes in enumerate(parts):
        size = badge_size(str(number + 1), font)
        for shape in shapes:
            hidden = taken if _is_roomy(shape, size) else [*taken, _extent(shape)]
            place = _free_place(_anchors(shape, size), size, photo.size, hidden)
            taken.append(place)
            draw_badge(draw, place[:2], size, colour_of(number), str(number + 1), font)


def _extent(shape: Shape) -> _Rectangle:
    """XYXY bounds in display pixels, with room for the marker of a point."""
    x1, y1, x2, y2 = (value / FINE for value in shape.extent)
    return x1 - 5, y1 - 5, x2 + 5, y2 + 5


def _is_roomy(shape: Shape, size: tuple[int, int]) -> bool:
    """Whether a tag may lie inside without hiding what it names."""
    x1, y1, x2, y2 = (value / FINE for value in shape.extent)
    return min(x2 - x1, y2 - y1) > 2 * max(size)


def _anchors(shape: Shape, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Where the tag of a shape may go, best first, as top left corners in display pixels."""
    x1, y1, x2, y2 = (value / FINE for value in shape.extent)
    x, y = (value / FINE for value in shape.anchor)
    width, height = size
    gap = 12.0
    around = [
        (x + gap, y - gap - height),
        (x + gap, y + gap),
        (x - gap - width, y - gap - height),
        (x - gap - width, y + gap),
    ]
    if shape.kind in ("point", "line"):
        return around
    if shape.kind == "box" and _is_roomy(shape, size):
        corners = [(x1, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)]
        return [*corners, (x1 + width, y1), (x1, y1 + height)]
    return [(x - width / 2, y - height), (x - width / 2, y2), (x2, y1), (x1 - width, y1), *around]


def _free_place(
    anchors: Sequence[tuple[float, float]],
    size: tuple[int, int],
    photo: tuple[int, int],
    hidden: Sequence[_Rectangle],
) -> _Rectangle:
    """The first anchor where a tag hides nothing, else the one that hides least."""
    places: list[_Rectangle] = []
    for x, y in anchors:
        left = min(max(x, 0.0), max(photo[0] - size[0], 0))
        top = min(max(y, 0.0), max(photo[1] - size[1], 0))
        places.append((left, top, left + size[0], top + size[1]))
    return min(places, key=lambda place: sum(_overlap(place, other) for other in hidden))


def _area(box: _Rectangle) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(one: _Rectangle, two: _Rectangle) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(width, 0.0) * max(height, 0.0)
