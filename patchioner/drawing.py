"""A photo with its regions, numbered tags and a list of their captions, or coloured by what patches say.

Pillow and numpy only. Regions are drawn on a layer at twice the display size, reduced once: that smooths edges.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from patchioner.base.errors import OptionError
from patchioner.geometry import ImageGeometry
from patchioner.regions import Patch, Region
from patchioner.results import Caption, Label

Captioned: TypeAlias = Caption | Label
Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"
FloatArray = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
_Size = tuple[int, int]
_Place = tuple[float, float]
_Rectangle = tuple[float, float, float, float]

INK: Colour = (28, 28, 32)
FAINT_INK: Colour = (110, 110, 118)
PAPER: Colour = (250, 250, 248)
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
OTHER: Colour = (150, 150, 150)  # of patches whose captions are in no group

# Smaller photos are enlarged, so that tags do not hide them; both are long sides on the page.
SMALLEST, LARGEST = 720, 1400
MARGIN = 16
COLUMN = 340  # a column of the list is at least this wide, in pixels
MAX_LISTED = 80  # a longer list is no longer a picture
FINE = 2  # layer pixels per display pixel
_TINT = 80  # opacity (0..255) of the colour inside masks and rings
_OPACITY = 0.5  # of the colour of patches
_ALIKE = 0.3  # Jaccard overlap of the things that captions name, from which one stands for the other

_COLOURS: tuple[Colour, ...] = (
    (230, 57, 70), (33, 158, 235), (255, 196, 0), (46, 184, 92), (170, 82, 220), (255, 128, 30),
    (0, 200, 200), (255, 105, 180), (150, 200, 40), (90, 100, 240), (165, 100, 50), (120, 220, 190),
)  # fmt: skip


@dataclass(frozen=True)
class Display:
    """A photo at display size that remembers its original size."""

    photo: Image.Image  # RGB, its long side within 720..1400 pixels
    image_size: _Size  # (width, height) of the original: regions are in its pixels

    @classmethod
    def of(cls, image: Image.Image) -> Display:
        """Bring a photo to display size."""
        long_side = max(image.size)
        ratio = min(max(long_side, SMALLEST), LARGEST) / long_side
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        kind = Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC
        # reducing_gap keeps the filter cheap on huge photos, at less than one grey level's cost.
        return cls(image.convert("RGB").resize(size, kind, reducing_gap=3.0), image.size)

    def to_display(self, points: npt.ArrayLike) -> FloatArray:
        """Original pixels (n, 2) as (x, y) -> pixels of `photo`."""
        scale = np.array(self.photo.size, dtype=np.float64) / self.image_size
        return np.asarray(points, dtype=np.float64).reshape(-1, 2) * scale

    @property
    def font(self) -> Font:
        """Pillow's own, in the size that suits this one; no font file is looked for on the system."""
        return ImageFont.load_default(min(max(round(max(self.photo.size) / 56), 15), 24))


def draw_overlay(
    image: Image.Image,
    captions: Sequence[Captioned],
    *,
    geometry: ImageGeometry | None = None,
    labels: Sequence[str | None] | None = None,
) -> Image.Image:
    """Draw regions on a photo, number them, and list their captions.

    Args:
        image: the photo, any size and mode.
        captions: one per region, in pixels of the photo; number, colour and list follow this order.
        geometry: the patch grid (`features.geometry`); an OptionError where a `Patch` lacks it.
        labels: a name for each region, listed below its caption; None where there is none.

    Returns:
        A new RGB picture; small photos are enlarged, huge ones reduced. At most 80 captions are listed.

    Example:
        >>> caption = model.caption(photo, [Box(10, 10, 60, 60)])[0]
        >>> draw_overlay(photo, [caption]).save("overlay.png")
    """
    display = Display.of(image)
    names = labels or [None] * len(captions)
    parts = [shapes_of(caption.region, display, geometry) for caption in captions]
    coloured = [(shape, colour_of(n)) for n, shapes in enumerate(parts) for shape in shapes]
    # Large regions first, so that small ones inside them stay visible.
    coloured.sort(key=lambda item: -_overlap(item[0].extent, item[0].extent))
    layer = draw_shapes(coloured, display.photo.size, width=3 if len(coloured) <= 40 else 2)
    photo = Image.alpha_composite(display.photo.convert("RGBA"), layer).convert("RGB")
    _draw_tags(photo, parts, display.font)
    entries = [
        Entry(colour_of(number), str(number + 1), caption.text or "none of these", name or "")
        for number, (caption, name) in enumerate(zip(captions, names, strict=True))
    ]
    if len(entries) > MAX_LISTED:
        entries[MAX_LISTED:] = [Entry(None, "", f"… and {len(entries) - MAX_LISTED} more")]
    return add_list(photo, entries, display.font)


def draw_patch_map(image: Image.Image, captions: Sequence[Captioned], geometry: ImageGeometry) -> Image.Image:
    """Colour every patch by what its caption says.

    Args:
        image: the photo.
        captions: of `Patch` regions of this grid, in any order, else OptionError; other patches stay uncoloured.
        geometry: the patch grid (`features.geometry`).

    Returns:
        A new RGB picture with a legend: twelve captions and their shares of the captioned patches; the rest is grey.
    """
    display = Display.of(image)
    clusters = cluster_captions([caption.text for caption in captions])
    rows, columns = geometry.grid
    cells, entries = np.full((rows, columns), -1, dtype=np.int64), []
    for number, cluster in enumerate(clusters):
        for member in cluster.members:
            region = captions[member].region
            if not isinstance(region, Patch) or region.row >= rows or region.col >= columns:
                raise OptionError(f"{region!r} is no Patch of the {rows} x {columns} grid: use draw_overlay")
            cells[region.row, region.col] = number
        colour = colour_of(number) if cluster.text else OTHER
        share = f"{100 * cluster.share:.0f} %" if cluster.share >= 0.005 else "< 1 %"
        entries.append(Entry(colour, share, cluster.text or "other"))
    colours = [entry.colour or OTHER for entry in entries]
    photo = _coloured(display.photo, _pixel_clusters(cells, display, geometry), colours)
    return add_list(photo, entries, display.font)


@dataclass(frozen=True)
class Shape:
    """One drawable part of a region: (n, 2) points in layer pixels, and of a mask what lies inside, mode L."""

    kind: str
    points: FloatArray
    mask: Image.Image | None = None

    @property
    def anchor(self) -> _Place:
        """A place that surely belongs to it, in layer pixels: first point, or middle of the top."""
        x1, y1, x2, _ = self.extent
        if self.mask is not None:
            rows, columns = np.nonzero(np.asarray(self.mask))
            if len(rows):
                return x1 + float(np.median(columns[rows == rows[0]])), y1 + float(rows[0])
        if self.kind in ("point", "line", "ring"):
            return self.corners[0 if self.kind != "ring" else int(self.points[:, 1].argmin())]
        return (x1 + x2) / 2, y1

    @property
    def corners(self) -> list[_Place]:
        """`points` as Pillow takes them."""
        return [(x, y) for x, y in self.points.tolist()]

    @property
    def extent(self) -> _Rectangle:
        """XYXY bounds in layer pixels."""
        (x1, y1), (x2, y2) = self.points.min(axis=0).tolist(), self.points.max(axis=0).tolist()
        return x1, y1, x2, y2


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
    # Enlarged masks get smooth edges; reduced ones keep their thinnest lines.
    grows = bool((scale > 1).all())
    kind, level = (Image.Resampling.BILINEAR, 128) if grows else (Image.Resampling.BOX, 1)
    width, height = (high - low).astype(int).tolist()
    fitted = mask.resize((width, height), kind, box=tuple(source.tolist()))
    inside = fitted.point([0] * level + [255] * (256 - level))
    return Shape("mask", np.stack([low, high]), inside)


def draw_shapes(shapes: Sequence[tuple[Shape, Colour]], size: _Size, *, width: int) -> Image.Image:
    """Draw parts on a transparent RGBA layer of (width, height) display pixels, the later ones on top."""
    layer = Image.new("RGBA", (size[0] * FINE, size[1] * FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for shape, colour in shapes:
        if shape.mask is not None:
            corner = (int(shape.points[0, 0]), int(shape.points[0, 1]))
            layer.paste((*colour, _TINT), corner, shape.mask)
        elif shape.kind == "ring":
            draw.polygon(shape.corners, fill=(*colour, _TINT))
    for shape, colour in shapes:
        # Black under white under colour: the line shows on any background.
        strokes = ((BLACK, 2 * FINE), (WHITE, FINE), (colour, 0))
        for ink, extra in strokes if shape.mask is None else ():
            _stroke(draw, shape, ink, width * FINE + 2 * extra)
        if shape.mask is not None:
            _outline_mask(layer, shape, [(ink, width * FINE + extra) for ink, extra in strokes])
    # Averaged with premultiplied alpha, so that transparent black does not darken the edges.
    return layer.convert("RGBa").resize(size, Image.Resampling.BOX).convert("RGBA")


def _stroke(draw: ImageDraw.ImageDraw, shape: Shape, ink: Colour, width: int) -> None:
    points = shape.corners
    if shape.kind == "point" or len(points) == 1:
        _dot(draw, points[0], 4 * FINE + width / 2, ink)
        return
    if shape.kind == "line":
        _dot(draw, points[0], 3 * FINE + width / 2, ink)
    if shape.kind == "box":
        (x1, y1), (x2, y2) = points
        points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    draw.line(points if shape.kind == "line" else [*points, points[0]], fill=ink, width=width)
    for dot in points:  # round joints and ends: Pillow's own joints leave notches at sharp turns
        _dot(draw, dot, (width - 1) / 2, ink)


def _dot(draw: ImageDraw.ImageDraw, middle: _Place, radius: float, ink: Colour) -> None:
    x, y = middle
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def _outline_mask(layer: Image.Image, shape: Shape, strokes: Sequence[tuple[Colour, int]]) -> None:
    """Strokes around a mask, by growing it; only its surroundings are touched."""
    assert shape.mask is not None
    reach = strokes[0][1]
    inner = ImageOps.expand(shape.mask, border=reach, fill=0)
    corner = (int(shape.points[0, 0]) - reach, int(shape.points[0, 1]) - reach)
    for ink, radius in strokes:
        grown = inner
        for _ in range(radius):
            grown = grown.filter(ImageFilter.MaxFilter(3))
        layer.paste(ink, corner, ImageChops.subtract(grown, inner))


def _draw_tags(photo: Image.Image, parts: Sequence[Sequence[Shape]], font: Font) -> None:
    """One numbered tag at every part of every region, moved aside where tags would overlap."""
    draw = ImageDraw.Draw(photo)
    taken: list[_Rectangle] = []
    for number, shapes in enumerate(parts):
        size = badge_size(str(number + 1), font)
        for shape in shapes:
            x1, y1, x2, y2 = extent = [value / FINE for value in shape.extent]
            # Whether a tag may lie inside without hiding what it names.
            roomy = min(x2 - x1, y2 - y1) > 2 * max(size)
            own = (x1 - 5, y1 - 5, x2 + 5, y2 + 5)  # with room for the marker of a point
            anchors = _anchors(shape, extent, size, roomy)
            place = _free_place(anchors, size, photo.size, taken if roomy else [*taken, own])
            taken.append(place)
            draw_badge(draw, place[:2], size, colour_of(number), str(number + 1), font)


def _anchors(shape: Shape, extent: Sequence[float], size: _Size, roomy: bool) -> list[_Place]:
    """Where the tag of a shape may go, best first, as top left corners in display pixels."""
    x1, y1, x2, y2 = extent
    x, y = (value / FINE for value in shape.anchor)
    width, height = size
    right, left, above, below = x + 12.0, x - 12.0 - width, y - 12.0 - height, y + 12.0
    around = [(right, above), (right, below), (left, above), (left, below)]
    if shape.kind in ("point", "line"):
        return around
    if shape.kind == "box" and roomy:
        corners = [(x1, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)]
        return [*corners, (x1 + width, y1), (x1, y1 + height)]
    return [(x - width / 2, y - height), (x - width / 2, y2), (x2, y1), (x1 - width, y1), *around]


def _free_place(anchors: Sequence[_Place], size: _Size, photo: _Size, hidden: Sequence[_Rectangle]) -> _Rectangle:
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


def colour_of(index: int) -> Colour:
    """The colour of the index-th thing: twelve in turn."""
    return _COLOURS[index % len(_COLOURS)]


def luminance(colour: Colour) -> float:
    """Relative luminance 0..1 of an sRGB colour (WCAG 2)."""
    shares = [channel / 255 for channel in colour]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever contrasts more with the colour (at least 4.5 to 1)."""
    # Both contrast alike, (brighter + 0.05) / (darker + 0.05), at sqrt(1.05 * 0.05) - 0.05.
    return WHITE if luminance(colour) < 0.179 else BLACK


def wrap_text(text: str, font: Font, width: float) -> list[str]:
    """Break text at spaces into lines of at most `width` pixels, at least one; longer words are cut."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


@dataclass(frozen=True)
class Entry:
    """One line of the list: a badge (None: no colour, none), a caption, and a fainter note below it."""

    colour: Colour | None
    badge: str
    text: str
    note: str = ""


def add_list(photo: Image.Image, entries: Sequence[Entry], font: Font) -> Image.Image:
    """Put the list beside a photo, or below it where the photo is wide or the list long."""
    beside = photo.width <= 1.25 * photo.height and len(entries) <= 24
    width = max(COLUMN, round(photo.width * 0.45) if beside else photo.width)
    panel = draw_list(entries, width, 1 if beside else width // COLUMN, font)
    left, top = (photo.width + MARGIN, 0) if beside else (0, photo.height + MARGIN)
    size = (max(photo.width, left + panel.width), max(photo.height, top + panel.height))
    page = Image.new("RGB", size, PAPER)
    page.paste(photo)
    page.paste(panel, (left, top))
    return ImageOps.expand(page, MARGIN, PAPER)


def draw_list(entries: Sequence[Entry], width: int, columns: int, font: Font) -> Image.Image:
    """The list as a picture of `width` pixels and the height that it needs, in at most `columns` columns."""
    columns = max(1, min(columns, len(entries)))
    column_width = (width - (columns - 1) * MARGIN) // columns
    widest = max((entry.badge for entry in entries), key=len, default="")
    badge, step = badge_size(widest, font), line_height(font)
    room = column_width - badge[0] - MARGIN // 2
    blocks = []
    for entry in entries:
        rows = [(line, INK) for line in wrap_text(entry.text, font, room)]
        rows += [(line, FAINT_INK) for line in wrap_text(entry.note, font, room) if entry.note]
        blocks.append((entry, rows, max(len(rows) * step, badge[1]) + round(step * 0.5)))
    # A block goes into the column where its middle falls, so a long one is not pushed over by its first line.
    share = sum(height for _, _, height in blocks) / columns
    places, tops = [], [0] * columns
    for _, _, height in blocks:
        column = min(columns - 1, int((sum(tops) + height / 2) / share))
        places.append((column * (column_width + MARGIN), tops[column]))
        tops[column] += height
    panel = Image.new("RGB", (width, max(1, *tops)), PAPER)
    draw = ImageDraw.Draw(panel)
    for (entry, rows, _), (left, top) in zip(blocks, places, strict=True):
        if entry.colour is not None:
            draw_badge(draw, (left, top), badge, entry.colour, entry.badge, font)
        for number, (line, ink) in enumerate(rows):
            # The first line sits level with the middle of the badge.
            middle = (left + badge[0] + MARGIN // 2, top + badge[1] // 2 + number * step)
            draw.text(middle, line, fill=ink, font=font, anchor="lm")
    return panel


def line_height(font: Font) -> int:
    """Pixels from one line of text to the next."""
    top, bottom = font.getbbox("Ápgjy")[1::2]
    return round((bottom - top) * 1.25)


def badge_size(text: str, font: Font) -> _Size:
    """(width, height) in pixels of a badge around a text."""
    height = round(line_height(font) * 1.1)
    return max(height, round(font.getlength(text)) + height // 2), height


def draw_badge(draw: ImageDraw.ImageDraw, corner: _Place, size: _Size, colour: Colour, text: str, font: Font) -> None:
    """A rounded, haloed badge with centred text; `corner` is its top left."""
    box = (*corner, corner[0] + size[0] - 1, corner[1] + size[1] - 1)
    draw.rounded_rectangle(box, radius=size[1] // 4, fill=colour, outline=BLACK, width=1)
    # Centred by the height of a digit: "mm" would leave room for descenders that badges never have.
    digit = -font.getbbox("0", anchor="ls")[1]
    baseline = (corner[0] + size[0] / 2, corner[1] + (size[1] + digit) / 2)
    draw.text(baseline, text, fill=ink_on(colour), font=font, anchor="ms")


def _pixel_clusters(cells: Numbers, display: Display, geometry: ImageGeometry) -> Numbers:
    """The cluster under the centre of every display pixel, (height, width); -1 off the grid."""
    width, height = display.photo.size
    centres = np.arange(max(width, height))[:, None] + 0.5
    places = np.floor(geometry.to_grid(centres * display.image_size / display.photo.size))
    bordered = np.pad(cells, 1, constant_values=-1)
    last = np.array(bordered.shape[::-1]) - 1
    columns, rows = np.clip(places + 1, 0, last).astype(np.int64).T
    found: Numbers = bordered[rows[:height, None], columns[None, :width]]
    return found


def _coloured(photo: Image.Image, per_pixel: Numbers, colours: Sequence[Colour]) -> Image.Image:
    """Blend the colours over the photo, with a darker line where two clusters meet."""
    pixels = np.asarray(photo, dtype=np.float32)
    # The last colour is read by -1, where the opacity is 0.
    table = np.array([*colours, OTHER], dtype=np.float32)
    opacity = np.where(per_pixel >= 0, np.float32(_OPACITY), np.float32(0.0))[..., None]
    # Grey under the colour, or a red object would look like a red cluster.
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    ground = np.where(opacity > 0, grey[..., None], pixels)
    blended = ground * (1 - opacity) + table[per_pixel] * opacity
    lines = np.zeros(per_pixel.shape, dtype=bool)
    lines[:, 1:] |= per_pixel[:, 1:] != per_pixel[:, :-1]
    lines[1:, :] |= per_pixel[1:, :] != per_pixel[:-1, :]
    blended[lines] *= 0.35
    return Image.fromarray(np.rint(blended).astype(np.uint8))


class Cluster(NamedTuple):
    """Captions that say about the same."""

    text: str  # the one that stands for all; "" of those that fit nowhere
    members: tuple[int, ...]  # their places in the list, ascending
    share: float  # their part of all, 0..1


def cluster_captions(texts: Sequence[str | None], *, limit: int = 12) -> list[Cluster]:
    """At most `limit` groups of captions, the largest first, then one with `text == ""` for the rest, if any.

    A group's captions name the same things (or, without any, have the same words); those of no group of their own are
    in the one of which they name most.
    """
    said = [text or "none of these" for text in texts]
    plain = [" ".join(re.findall(r"\w+", text.lower())) for text in said]
    from patchioner.nouns import named  # which needs torch

    things = [named(text) or frozenset(text.split()) for text in plain]
    leaders = [own for own, _ in Counter(things).most_common(limit)]
    groups: dict[int, list[int]] = {}
    for place, own in enumerate(things):
        alike = [1.0 if own == one else len(own & one) / len(own | one) for one in leaders]
        best = max(range(len(leaders)), key=alike.__getitem__)
        groups.setdefault(best if alike[best] >= _ALIKE else -1, []).append(place)
    clusters = []
    for group in sorted(groups, key=lambda one: (one < 0, -len(groups[one]), one)):
        members = groups[group]
        text = Counter(said[place] for place in members).most_common(1)[0][0] if group >= 0 else ""
        clusters.append(Cluster(text, tuple(members), len(members) / len(said)))
    return clusters
