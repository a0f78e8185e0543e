"""Regions that people drew: labelme, CVAT, Pascal VOC, Label Studio, YOLO, Visual Genome."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.base import Region, Size, finite, inside, items_of, numbers
from patchioner.regions.items import Entry, Item, Photo, box_of, entries_of, items_from, stated_size
from patchioner.regions.label_studio import from_label_studio
from patchioner.regions.mask import Mask
from patchioner.regions.paths import Polygon, Trace
from patchioner.regions.shapes import Box, Point


def labelme(shape: Entry, image_size: Size) -> Region:
    """A rectangle, polygon, circle, point or line of labelme."""
    kind = shape.get("shape_type", "polygon")
    pairs = [numbers(one, 2, "point") for one in items_of(shape.get("points"), "points")]
    if kind == "rectangle" and len(pairs) == 2:
        (x1, x2), (y1, y2) = (sorted(axis) for axis in zip(*pairs, strict=True))
        return Box(x1, y1, x2, y2)
    if kind == "circle" and len(pairs) == 2:
        radius = math.dist(*pairs)
        return _ellipse([*pairs[0], radius, radius])
    if kind == "point" and len(pairs) == 1:
        return Point(*pairs[0])
    if kind in ("line", "linestrip"):
        return Trace(pairs)
    if kind == "polygon":
        return Polygon(pairs)
    raise RegionError(f"labelme's shape_type {kind!r:.40} is not read; draw a polygon or rectangle")


def _ellipse(measures: list[float], degrees: float = 0.0) -> Polygon:
    """Around its centre x, y, with its two radii, turned clockwise."""
    x, y, across, down = measures
    turn, slant = np.linspace(0.0, 2 * np.pi, 64, endpoint=False), np.deg2rad(degrees)
    along, beside = across * np.cos(turn), down * np.sin(turn)
    ring = (
        along * np.cos(slant) - beside * np.sin(slant),
        along * np.sin(slant) + beside * np.cos(slant),
    )
    return Polygon(np.stack(ring, axis=1) + (x, y))


def is_visual_genome(entry: Entry) -> bool:
    """Whether an entry is a photo with "regions" or "objects" of x and y."""
    parts = entry.get("regions", entry.get("objects"))
    if not isinstance(parts, list) or not parts:
        return False
    return all(isinstance(part, Mapping) and {"x", "y"} <= part.keys() for part in parts)


def visual_genome(entry: Entry) -> Photo:
    """A photo of Visual Genome: region descriptions, or objects."""

    def label(part: Entry) -> object:
        names = part.get("names") or [None]
        return part.get("phrase", part.get("name", names[0]))

    def make(part: Entry, image_size: Size) -> Region:
        width, height = part.get("width", part.get("w")), part.get("height", part.get("h"))
        return Box.from_xywh(part["x"], part["y"], width, height)

    parts = [part for part in entry.get("regions", entry.get("objects", ())) if part]
    items = items_from(parts, "region", make, label)
    number = str(entry.get("image_id", entry.get("id")))
    return Photo(None, items, image_id=number, in_pixels=False)


# Results of Label Studio that say something of a region which has its own result.
_ABOUT_REGIONS = ("textarea", "choices", "rating", "number", "taxonomy", "datetime")


def label_studio(task: Entry) -> Photo:
    """A task of Label Studio's JSON export, or its predictions."""
    given = entries_of(task, "annotations") if task.get("annotations") else []
    results = [
        result
        for annotation in given or entries_of({"predictions": [], **task}, "predictions")
        for result in entries_of(annotation, "result")
        if isinstance(result.get("value"), Mapping)
        and "original_width" in result
        and result.get("type") not in _ABOUT_REGIONS
    ]

    def label(result: Entry) -> object:
        return (result["value"].get(result.get("type")) or [None])[0]

    data = task.get("data")
    names = [str(value) for value in data.values()] if isinstance(data, Mapping) else []
    # Uploads are renamed: eight hexadecimal digits before the photo's name.
    name = re.sub(r"([/\\]|^)[0-9a-f]{8}-(?=[^/\\]+$)", r"\1", names[0]) if names else None
    return Photo(name, items_from(results, "result", from_label_studio, label), in_pixels=False)


def yolo(lines: list[str], folder: Path) -> Photo:
    """A photo's labels of YOLO: a line has the class and, in 0..1, a box by its centre or the points of a polygon.

    Names of classes are those of a classes.txt beside the file, if there is one.
    """
    listing = folder / "classes.txt"
    names = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []

    def make(numbers_: list[float], image_size: Size) -> Region:
        values = np.array(numbers_[1:])
        if len(values) == 4:
            return box_of(values * (image_size * 2), "cxcywh")
        if len(values) < 6 or len(values) % 2:
            raise RegionError(
                f"{len(values)} numbers after the class: give 4 of a box, or x, y pairs"
            )
        return Polygon(values.reshape(-1, 2) * image_size)

    items = []
    for number, line in enumerate(lines, 1):
        try:
            values = [float(word) for word in line.split()]
            kind = int(values[0])
        except (ValueError, OverflowError):
            raise RegionError(
                f"line {number}, {line!r:.60}, is no label of YOLO: numbers alone"
            ) from None
        label = names[kind] if 0 <= kind < len(names) else str(kind)
        items.append(Item(f"line {number}", partial(make, values), label))
    return Photo(None, tuple(items), in_pixels=False)


def xml_photos(data: bytes) -> list[Photo]:
    """Photos of CVAT (for images) or of Pascal VOC."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise RegionError("XML with a document type of its own is not read: remove <!DOCTYPE ...>")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise RegionError(f"not XML: {error}") from error
    if root.find("image") is not None:
        return [_cvat(image) for image in root.iter("image")]
    if root.find("object") is not None or root.find("filename") is not None:
        return [_voc(root)]
    raise RegionError("XML, but neither CVAT's 'for images' nor Pascal VOC's; export one of these")


def _cvat(image: ElementTree.Element) -> Photo:
    items = [
        Item(f"{shape.tag} {number}", partial(_cvat_region, shape), shape.get("label"))
        for number, shape in enumerate(image)
        if shape.tag != "tag"
    ]
    size = stated_size(image.get("width"), image.get("height"))
    return Photo(image.get("name"), tuple(items), size, in_pixels=False)


def _cvat_region(shape: ElementTree.Element, image_size: Size) -> Region:
    def read(*keys: str) -> list[float]:
        return [_number(shape.get(key), key) for key in keys]

    if shape.tag == "box" and not _number(shape.get("rotation", "0"), "rotation"):
        return Box(*read("xtl", "ytl", "xbr", "ybr"))
    if shape.tag == "ellipse":
        return _ellipse(
            read("cx", "cy", "rx", "ry"), _number(shape.get("rotation", "0"), "rotation")
        )
    if shape.tag == "mask":
        return Mask(_cvat_mask(shape, image_size))
    pairs = [
        [_number(one, "a point") for one in pair.split(",")]
        for pair in shape.get("points", "").split(";")
    ]
    if shape.tag == "polygon":
        return Polygon(pairs)
    if shape.tag == "polyline":
        return Trace(pairs)
    if shape.tag == "points" and len(pairs) == 1:
        return Point(*numbers(pairs[0], 2, "points"))
    raise RegionError(f"CVAT's {shape.tag!r:.40} is not read, nor is a turned box: draw a polygon")


def _cvat_mask(shape: ElementTree.Element, image_size: Size) -> npt.NDArray[np.bool_]:
    """Run lengths by rows, from outside, within a box of the image."""
    left, top, width, height = (
        int(_number(shape.get(k), k)) for k in ("left", "top", "width", "height")
    )
    if min(left, top) < 0 or left + width > image_size[0] or top + height > image_size[1]:
        raise RegionError(f"the mask at {left},{top} of {width}x{height} sticks out of the image")
    runs = np.array([_number(one, "rle") for one in shape.get("rle", "").split(",")]).astype(
        np.int64
    )
    if (runs < 0).any() or sum(runs.tolist()) != width * height:
        raise RegionError(f"the runs of the mask do not sum to {width} x {height}")
    found = np.zeros(image_size[::-1], dtype=bool)
    inner = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    found[top : top + height, left : left + width] = inner
    return found


def _voc(root: ElementTree.Element) -> Photo:
    def make(entry: ElementTree.Element, image_size: Size) -> Region:
        left, top, right, bottom = (
            _number(entry.findtext(f"bndbox/{key}"), key)
            for key in ("xmin", "ymin", "xmax", "ymax")
        )
        return Box(
            left - 1, top - 1, right, bottom
        )  # pixels are counted from 1, and the last one is inside

    items = [
        Item(f"object {number}", partial(make, entry), entry.findtext("name"))
        for number, entry in enumerate(root.iter("object"))
    ]
    size = stated_size(root.findtext("size/width"), root.findtext("size/height"))
    return Photo(root.findtext("filename"), tuple(items), size, in_pixels=False)


def _number(text: str | None, what: str) -> float:
    try:
        return finite(float(text or "nothing"), what)
    except ValueError:
        raise RegionError(f"{what} is {text!r:.40}; give a number") from None


def sam_masks(folder: Path) -> Photo:
    """A folder that SAM's command line wrote: a picture of each mask, and metadata.csv."""
    with (folder / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        ids = [row.get("id") for row in csv.DictReader(file)]
    if None in ids:
        raise RegionError("its metadata.csv has no column 'id', as SAM writes it")

    def make(name: str, image_size: Size) -> Region:
        return Mask.from_file(inside(folder, name))

    return Photo(
        None, tuple(Item(f"mask {one}", partial(make, f"{one}.png"), id=one) for one in ids)
    )
