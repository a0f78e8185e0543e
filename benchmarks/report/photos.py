"""Photos as small JPEG inside the page, with the region drawn on them.

Knows: photos, regions as JSON, SVG. Does NOT know: captions or scores.

A photo is stored once, however many samples show it. The region is drawn as SVG over it, in pixels of the original:
what lies outside boxes, polygons and masks is darkened, and every line is yellow on black, to show on any photo.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report.markup import Markup, element
from patchioner.base.errors import ImageError, RegionError
from patchioner.images import load_image
from patchioner.regions import Mask

LONG_SIDE, QUALITY = 448, 78
_YELLOW, _SHADE = (255, 209, 0), 0.35


class Gallery:
    """The photos of a page: each is opened at its first use.

    Args:
        override: folder of the photos, in place of those that the runs name.

    Attributes:
        missing: names of the photos that could not be opened, with the reason.

    Example:
        >>> gallery = Gallery()  # doctest: +SKIP
        >>> gallery.picture("build/photos", "359.jpg", {"box": [0, 0, 9, 9]}, "a dog")  # doctest: +SKIP
    """

    def __init__(self, override: Path | None = None) -> None:
        self._override = override
        self._sizes: dict[tuple[str, str], tuple[int, int] | None] = {}
        self._stored: list[Markup] = []
        self._keys: dict[tuple[str, str], str] = {}
        self._clips = 0
        self.missing: dict[str, str] = {}

    def picture(self, folder: str, photo: str, region: Mapping[str, Any], words: str) -> Markup:
        """A photo with its region; a note in its place where the photo cannot be opened.

        Args:
            folder: folder of the photos, as the run names it.
            photo: name of the photo in it.
            region: as in predictions.jsonl.
            words: what the picture shows, for those who cannot see it.
        """
        size = self._open(folder, photo)
        if size is None:
            reason = self.missing[photo]
            return element("p", f"{photo}: photo not shown, {reason}", class_="missing")
        width, height = size
        self._clips += 1
        reference = f"#{self._keys[folder, photo]}"
        shapes = drawing(region, size, reference, f"region-{self._clips}")
        return element(
            "svg",
            element("title", words),
            shapes,
            viewBox=f"0 0 {width} {height}",
            role="img",
            class_="photo",
        )

    def definitions(self) -> Markup:
        """The photos themselves, once each, for the end of the page."""
        return element(
            "svg",
            element("defs", self._stored),
            width=0,
            height=0,
            class_="store",
            aria_hidden="true",
        )

    def _open(self, folder: str, photo: str) -> tuple[int, int] | None:
        """(width, height) of the upright original; None where there is none."""
        if (folder, photo) not in self._sizes:
            path = (self._override or Path(folder)) / photo
            try:
                image = load_image(path)
            except ImageError as error:
                self._sizes[folder, photo] = None
                # Without the path: the page says the same wherever it was made.
                there = path.is_file()
                self.missing[photo] = (
                    f"it cannot be opened ({type(error).__name__})" if there else "no such file"
                )
            else:
                self._sizes[folder, photo] = image.size
                self._store((folder, photo), image)
        return self._sizes[folder, photo]

    def _store(self, key: tuple[str, str], image: Image.Image) -> None:
        self._keys[key] = name = f"photo-{len(self._stored) + 1}"
        width, height = image.size
        self._stored.append(
            element(
                "image",
                id=name,
                width=width,
                height=height,
                preserveAspectRatio="none",
                href=_jpeg(image),
            )
        )


def _jpeg(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return _data_uri(small, "JPEG", quality=QUALITY, optimize=True)


def _data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def drawing(
    region: Mapping[str, Any], size: tuple[int, int], photo: str, name: str
) -> list[Markup]:
    """The photo and a region on it, as the content of an SVG picture in pixels of the original.

    Args:
        region: as in predictions.jsonl; a kind that is not known leaves the photo bare.
        size: (width, height) of the original.
        photo: reference to the photo, "#photo-1".
        name: an id of its own for what is cut out.

    Example:
        >>> len(drawing({"whole": True}, (40, 20), "#photo-1", "region-1"))
        1
    """
    members = region.get("set", [region])
    areas = [shape for member in members if (shape := _area(member, size)) is not None]
    lines = [shape for member in members for shape in _strokes(member, size)]
    masks = [mask for member in members if (mask := _mask(member, size)) is not None]
    base = element("use", href=photo)
    if not areas or masks or lines:
        outlined = [_cased(tag, shape) for tag, shape in areas]
        return [base, *masks, *(part for pair in outlined for part in pair), *lines]
    width, height = size
    shade = element("rect", width=width, height=height, class_="shade")
    clip = element("clipPath", [element(tag, **shape) for tag, shape in areas], id=name)
    inside = element("use", href=photo, clip_path=f"url(#{name})")
    edges = [part for tag, shape in areas for part in _cased(tag, shape)]
    return [base, shade, clip, inside, *edges]


def _area(member: Mapping[str, Any], size: tuple[int, int]) -> tuple[str, dict[str, Any]] | None:
    """Tag and place of a box or polygon."""
    if "box" in member:
        x1, y1, x2, y2 = member["box"]
        return "rect", {
            "x": _short(x1),
            "y": _short(y1),
            "width": _short(x2 - x1),
            "height": _short(y2 - y1),
        }
    if "polygon" in member:
        rings = member["polygon"]
        several = rings if isinstance(rings[0][0], Sequence) else [rings]
        return "path", {
            "d": "".join(f"M{_points(ring)}Z" for ring in several),
            "clip_rule": "evenodd",
        }
    return None


def _strokes(member: Mapping[str, Any], size: tuple[int, int]) -> list[Markup]:
    """A trace from an open circle to a full one, or a point."""
    if "trace" not in member and "point" not in member:
        return []
    scale = size if member.get("normalized") else (1.0, 1.0)
    points = [(x * scale[0], y * scale[1]) for x, y in member.get("trace") or [member["point"]]]
    line = _cased("polyline", {"points": _points(points)}) if len(points) > 1 else []
    radius = _short(max(size) / 60)
    (x1, y1), (x2, y2) = points[0], points[-1]
    ends = (
        _cased("circle", {"cx": _short(x1), "cy": _short(y1), "r": radius})
        if len(points) > 1
        else []
    )
    last = element("circle", cx=_short(x2), cy=_short(y2), r=radius, class_="end")
    return [*line, *ends, last]


def _cased(tag: str, shape: Mapping[str, Any]) -> list[Markup]:
    """A shape drawn twice: broad and black, then narrow and yellow."""
    return [element(tag, **shape, class_=class_) for class_ in ("casing", "edge")]


def _mask(member: Mapping[str, Any], size: tuple[int, int]) -> Markup | None:
    """A mask as a picture of its own: outside shaded, edge yellow. Masks in files of their own are not shown."""
    if not isinstance(member.get("mask"), Mapping):
        return None
    try:
        mask = Mask.from_rle(member["mask"])
    except RegionError:
        return None
    height, width = mask.array.shape
    ratio = min(1.0, LONG_SIDE / max(width, height))
    small = Image.fromarray(mask.array).resize(
        (max(1, round(width * ratio)), max(1, round(height * ratio)))
    )
    inside = np.asarray(small, dtype=bool)
    picture = np.zeros((*inside.shape, 4), dtype=np.uint8)
    picture[~inside, 3] = round(255 * _SHADE)
    picture[_edge(inside)] = (*_YELLOW, 255)
    href = _data_uri(Image.fromarray(picture), "PNG", optimize=True)
    return element("image", width=size[0], height=size[1], preserveAspectRatio="none", href=href)


def _edge(inside: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Pixels inside with a neighbour, up to two pixels away, outside."""
    padded = np.pad(inside, 2)
    height, width = inside.shape
    kept = inside.copy()
    for down, right in ((0, 2), (4, 2), (2, 0), (2, 4), (1, 2), (3, 2), (2, 1), (2, 3)):
        kept &= padded[down : down + height, right : right + width]
    return inside & ~kept


def _points(points: Sequence[Sequence[float]]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
