"""A photo with its regions, numbered tags, and the list of their captions.

Regions are drawn on a transparent layer at twice the display size, which is reduced once at the
end: that smooths the edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from patchioner.drawing.panel import (
    BLACK,
    WHITE,
    Colour,
    Display,
    Entry,
    Font,
    add_panel,
    badge_size,
    colour_of,
    draw_badge,
)
from patchioner.geometry import ImageGeometry
from patchioner.regions import Region

MAX_LISTED = 80  # a longer list is no longer a picture
FINE = 2  # layer pixels per display pixel
_TINT = 80  # opacity (0..255) of the colour inside masks and rings

FloatArray = npt.NDArray[np.float64]
_Rectangle = tuple[float, float, float, float]


class Captioned(Protocol):
    """Anything that says what a region shows, such as `patchioner.Caption`."""

    @property
    def region(self) -> Region:
        """The region."""

    @property
    def text(self) -> str | None:
        """What it shows; None where no text does."""


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
        Entry(colour_of(number), str(number + 1), caption.text or "none of these", name or "")
        for number, (caption, name) in enumerate(zip(captions, names, strict=True))
    ]
    if len(entries) > MAX_LISTED:
        more = Entry(None, "", f"… and {len(entries) - MAX_LISTED} more")
        return [*entries[:MAX_LISTED], more]
    return entries


def _draw_regions(display: Display, parts: Sequence[Sequence[Shape]]) -> Image.Image:
    """Large regions first, so that small ones inside them stay visible."""
    coloured = [(shape, colour_of(n)) for n, shapes in enumerate(parts) for shape in shapes]
    coloured.sort(key=lambda item: -_overlap(item[0].extent, item[0].extent))
    layer = draw_shapes(coloured, display.photo.size, width=3 if len(coloured) <= 40 else 2)
    return Image.alpha_composite(display.photo.convert("RGBA"), layer).convert("RGB")


def _draw_tags(photo: Image.Image, parts: Sequence[Sequence[Shape]], font: Font) -> None:
    """One numbered tag at every part of every region, moved aside where tags would overlap."""
    draw = ImageDraw.Draw(photo)
    taken: list[_Rectangle] = []
    for number, shapes in enumerate(parts):
        size = badge_size(str(number + 1), font)
        for shape in shapes:
            x1, y1, x2, y2 = (value / FINE for value in shape.extent)
            own = (x1 - 5, y1 - 5, x2 + 5, y2 + 5)  # with room for the marker of a point
            hidden = taken if _is_roomy(shape, size) else [*taken, own]
            place = _free_place(_anchors(shape, size), size, photo.size, hidden)
            taken.append(place)
            draw_badge(draw, place[:2], size, colour_of(number), str(number + 1), font)


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


def _overlap(one: _Rectangle, two: _Rectangle) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(width, 0.0) * max(height, 0.0)


@dataclass(frozen=True)
class Shape:
    """One drawable part of a region: (n, 2) points in layer pixels, and of a mask what lies inside, mode L."""

    kind: str
    points: FloatArray
    mask: Image.Image | None = None

    @property
    def anchor(self) -> tuple[float, float]:
        """A place that surely belongs to it, in layer pixels: first point, or middle of the top."""
        x1, y1, x2, _ = self.extent
        if self.mask is not None:
            rows, columns = np.nonzero(np.asarray(self.mask))
            if len(rows):
                return x1 + float(np.median(columns[rows == rows[0]])), y1 + float(rows[0])
        if self.kind in ("point", "line", "ring"):
            top = 0 if self.kind != "ring" else self.points[:, 1].argmin()
            return float(self.points[top, 0]), float(self.points[top, 1])
        return (x1 + x2) / 2, y1

    @property
    def corners(self) -> list[tuple[float, float]]:
        """`points` as Pillow takes them."""
        return [(x, y) for x, y in self.points.tolist()]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """XYXY bounds in layer pixels."""
        (x1, y1), (x2, y2) = self.points.min(axis=0), self.points.max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)


def shapes_of(region: Region, display: Display, geometry: ImageGeometry | None) -> list[Shape]:
    """The parts of a region, in layer pixels; a set gives those of its members."""
    found = []
    for part in region.outline(display.image_size, geometry):
        if part.mask is not None:
            found.append(_mask_shape(part.mask, np.asarray(part.points, np.float64), display))
            continue
        points = display.to_display(part.points) * FINE
        if part.style == "box":
            # Moved in far enough that a frame along the edge of the photo shows whole.
            limit = np.array(display.photo.size, dtype=np.float64) * FINE
            rim = np.minimum(3 * FINE, limit / 4)
            points = np.clip(points, rim, limit - rim)
        found.append(Shape(part.style, points))
    return found


def _mask_shape(array: npt.NDArray[np.bool_], bounds: FloatArray, display: Display) -> Shape:
    """Only the bounding box is brought to layer size: a thousand whole layers would not fit."""
    scale = display.to_display([[1, 1]])[0] * FINE
    limit = np.array(display.photo.size) * FINE
    low = np.clip(np.floor(bounds[0] * scale), 0, limit - 1)
    high = np.clip(np.ceil(bounds[1] * scale), low + 1, limit)
    source = np.minimum(np.concatenate([low / scale, high / scale]), [*display.image_size * 2])
    mask = Image.fromarray(array.astype(np.uint8) * np.uint8(255))
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    # Enlarged masks get smooth edges; reduced ones keep their thinnest lines.
    grows = bool((scale > 1).all())
    kind, level = (Image.Resampling.BILINEAR, 128) if grows else (Image.Resampling.BOX, 1)
    fitted = mask.resize(size, kind, box=tuple(source.tolist()))
    inside = fitted.point([0] * level + [255] * (256 - level))
    return Shape("mask", np.stack([low, high]), inside)


def draw_shapes(
    shapes: Sequence[tuple[Shape, Colour]], size: tuple[int, int], *, width: int
) -> Image.Image:
    """Draw parts on a transparent RGBA layer of (width, height) display pixels, the later ones on top."""
    layer = Image.new("RGBA", (size[0] * FINE, size[1] * FINE), (0, 0, 0, 0))
    for shape, colour in shapes:
        if shape.mask is not None:
            corner = (int(shape.points[0, 0]), int(shape.points[0, 1]))
            layer.paste((*colour, _TINT), corner, shape.mask)
        elif shape.kind == "ring":
            ImageDraw.Draw(layer).polygon(shape.corners, fill=(*colour, _TINT))
    for shape, colour in shapes:
        if shape.mask is not None:
            _outline_mask(layer, shape.mask, shape.points, colour, width * FINE)
            continue
        # Black under white under colour: the line shows on any background.
        for ink, extra in ((BLACK, 2 * FINE), (WHITE, FINE), (colour, 0)):
            _stroke(ImageDraw.Draw(layer), shape, ink, width * FINE + 2 * extra)
    # Averaged with premultiplied alpha, so that transparent black does not darken the edges.
    return layer.convert("RGBa").resize(size, Image.Resampling.BOX).convert("RGBA")


def _stroke(draw: ImageDraw.ImageDraw, shape: Shape, ink: Colour, width: int) -> None:
    points = shape.corners
    if shape.kind == "point" or len(points) == 1:
        _dot(draw, points[0], 4 * FINE + width / 2, ink)
    elif shape.kind == "box":
        (x1, y1), (x2, y2) = points
        _line(draw, [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)], ink, width)
    elif shape.kind == "ring":
        _line(draw, [*points, points[0]], ink, width)
    else:
        _line(draw, points, ink, width)
        _dot(draw, points[0], 3 * FINE + width / 2, ink)


def _line(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], ink: Colour, width: int
) -> None:
    """A polyline with round joints and ends (Pillow's own joints leave notches at sharp turns)."""
    draw.line(points, fill=ink, width=width)
    for point in points:
        _dot(draw, point, (width - 1) / 2, ink)


def _dot(
    draw: ImageDraw.ImageDraw, middle: tuple[float, float], radius: float, ink: Colour
) -> None:
    x, y = middle
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def _outline_mask(
    layer: Image.Image, mask: Image.Image, points: FloatArray, colour: Colour, width: int
) -> None:
    """The same three strokes around a mask, by growing it; only its surroundings are touched."""
    reach = width + 2 * FINE
    inner = ImageOps.expand(mask, border=reach, fill=0)
    corner = (int(points[0, 0]) - reach, int(points[0, 1]) - reach)
    for ink, radius in ((BLACK, reach), (WHITE, width + FINE), (colour, width)):
        grown = inner
        for _ in range(radius):
            grown = grown.filter(ImageFilter.MaxFilter(3))
        layer.paste(ink, corner, ImageChops.subtract(grown, inner))
