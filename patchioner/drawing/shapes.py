"""Region outlines, tints and markers on a transparent layer.

Knows: how each kind of region looks. Does not know: captions, tags, the panel. Everything is drawn
at twice the display size and reduced once at the end, which smooths the edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from patchioner.drawing.canvas import Display
from patchioner.drawing.palette import BLACK, WHITE, Colour
from patchioner.geometry import ImageGeometry
from patchioner.regions import Region
from patchioner.regions.coverage import Floats

FINE = 2  # layer pixels per display pixel
_TINT = 80  # opacity (0..255) of the colour inside masks and polygons

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """One drawable part of a region, in layer pixels.

    Attributes:
        kind: how to draw it.
        points: (n, 2) corners, vertices or the single point.
        mask: what lies inside `points`, mode L, 0 or 255, for kind ``mask``.
    """

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
    def extent(self) -> tuple[float, float, float, float]:
        """XYXY bounds in layer pixels."""
        (x1, y1), (x2, y2) = self.points.min(axis=0), self.points.max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)


def shapes_of(region: Region, display: Display, geometry: ImageGeometry | None) -> list[Shape]:
    """The parts of a region, in layer pixels; a set gives those of its members.

    Args:
        region: any kind.
        display: the photo that the layer will lie on.
        geometry: where patches are; needed for `Patch` only.

    Raises:
        OptionError: a `Patch` without geometry.
    """
    found = []
    for part in region.outline(display.image_size, geometry):
        if part.mask is not None:
            found.append(_mask_shape(part.mask, part.points, display))
            continue
        points = display.to_display(part.points) * FINE
        found.append(Shape(part.style, _inside(points, display) if part.style == "box" else points))
    return found


def _mask_shape(array: npt.NDArray[np.bool_], bounds: Floats, display: Display) -> Shape:
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


def _inside(points: FloatArray, display: Display) -> FloatArray:
    """Corners moved in far enough that a frame along the edge of the photo shows whole."""
    limit = np.array(display.photo.size, dtype=np.float64) * FINE
    rim = np.minimum(3 * FINE, limit / 4)
    inside: FloatArray = np.clip(points, rim, limit - rim)
    return inside


def draw_shapes(
    shapes: Sequence[tuple[Shape, Colour]], size: tuple[int, int], *, width: int
) -> Image.Image:
    """Draw parts in the given order on a transparent layer.

    Args:
        shapes: parts in layer pixels, each with its colour; the later ones lie on top.
        size: (width, height) of the result in display pixels.
        width: of the coloured line in display pixels; halos add to it.

    Returns:
        An RGBA picture of `size`.
    """
    layer = Image.new("RGBA", (size[0] * FINE, size[1] * FINE), (0, 0, 0, 0))
    for shape, colour in shapes:
        if shape.kind in ("mask", "ring"):
            _tint(layer, shape, colour)
    for shape, colour in shapes:
        if shape.kind == "mask" and shape.mask is not None:
            _outline_mask(layer, shape, colour, width * FINE)
        else:
            _stroke(ImageDraw.Draw(layer), shape, colour, width * FINE)
    return _reduce(layer, size)


def _reduce(layer: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Average with premultiplied alpha, so that transparent black does not darken the edges."""
    return layer.convert("RGBa").resize(size, Image.Resampling.BOX).convert("RGBA")


def _tint(layer: Image.Image, shape: Shape, colour: Colour) -> None:
    if shape.mask is not None:
        x1, y1 = (int(value) for value in shape.points[0])
        layer.paste((*colour, _TINT), (x1, y1), shape.mask)
        return
    draw = ImageDraw.Draw(layer)
    draw.polygon([(x, y) for x, y in shape.points.tolist()], fill=(*colour, _TINT))


def _stroke(draw: ImageDraw.ImageDraw, shape: Shape, colour: Colour, width: int) -> None:
    """Black under white under colour: the line shows on any background."""
    for ink, extra in ((BLACK, 2 * FINE), (WHITE, FINE), (colour, 0)):
        _stroke_once(draw, shape, ink, width + 2 * extra)


def _stroke_once(draw: ImageDraw.ImageDraw, shape: Shape, ink: Colour, width: int) -> None:
    points = [(x, y) for x, y in shape.points.tolist()]
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


def _outline_mask(layer: Image.Image, shape: Shape, colour: Colour, width: int) -> None:
    """The same three strokes around a mask, by growing it; only its surroundings are touched."""
    assert shape.mask is not None
    reach = width + 2 * FINE
    inner = ImageOps.expand(shape.mask, border=reach, fill=0)
    corner = (int(shape.points[0, 0]) - reach, int(shape.points[0, 1]) - reach)
    for ink, radius in ((BLACK, reach), (WHITE, width + FINE), (colour, width)):
        ring = ImageChops.subtract(_grown(inner, radius), inner)
        layer.paste(ink, corner, ring)


def _grown(mask: Image.Image, radius: int) -> Image.Image:
    """Every pixel within `radius` steps, sideways or diagonal."""
    for _ in range(radius):
        mask = mask.filter(ImageFilter.MaxFilter(3))
    return mask
