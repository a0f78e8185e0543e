"""Regions that people drew: labelme, CVAT, Pascal VOC, Label Studio, YOLO, Visual Genome; SAM's folders."""

from __future__ import annotations

import base64
import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.base.optional import require
from patchioner.regions.base import Region, Size, around, as_numpy, items_of, listed
from patchioner.regions.items import (
    Bools,
    BoxFormat,
    Entry,
    Item,
    Make,
    NamedRegion,
    Photo,
    at,
    box_of,
    entries_of,
    items_from,
    stated_size,
)
from patchioner.regions.mask import Mask, inside
from patchioner.regions.paths import Polygon, Trace
from patchioner.regions.shapes import Box, Point, finite, rows_of

_ANGLES = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_SQUARE = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
NAMED: tuple[tuple[tuple[str, ...], BoxFormat], ...] = (
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("x", "y", "w", "h"), "xywh"),
    (("x", "y", "width", "height"), "xywh"),
)
_CALLED = ("phrase", "name", "label", "category", "class_name", "labels", "categories")
# Results of Label Studio that say something of a region which has its own result.
_ABOUT_REGIONS = ("textarea", "choices", "rating", "number", "taxonomy", "datetime", "labels")


def _turned(unit: Any, origin: Any, sides: Any, degrees: float = 0.0) -> Polygon:
    """A shape of unit size, stretched, then turned clockwise around the origin."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return Polygon(unit * sides @ np.array([[cosine, sine], [-sine, cosine]]) + origin)


def labelme(shape: Entry, image_size: Size) -> Region:
    """A rectangle, polygon, circle, point or line of labelme, or of X-AnyLabeling."""
    kind = shape.get("shape_type") or "polygon"
    pairs = rows_of(shape.get("points"), 2, "point", "points")
    if kind == "rectangle" and len(pairs) == 2:
        return Box(*around(np.array(pairs)).ravel())
    if kind == "circle" and len(pairs) == 2:
        return _turned(_CIRCLE, pairs[0], [math.dist(*pairs)] * 2)
    if kind == "point" and len(pairs) == 1:
        return Point(*pairs[0])
    if kind in ("line", "linestrip"):
        return Trace(pairs)
    if kind == "mask" and len(pairs) == 2:
        own = Mask.from_file(base64.b64decode(str(shape.get("mask"))))
        corner = [int(side) for side in np.min(pairs, axis=0)]
        found, part = _canvas(corner, own.image_size, image_size)
        part[:] = own.array
        return Mask(found)
    if kind in ("polygon", "rotation", "rectangle", "oriented_rectangle") and len(pairs) != 2:
        return Polygon(pairs)
    raise RegionError(f"labelme's shape_type {kind!r:.40} is not read; draw a polygon or rectangle")


def drawn(part: Entry, image_size: Size) -> Region:
    """An outline, or a box whose numbers have names: of ultralytics, transformers, VIA, Visual Genome, BDD100K ..."""
    part = part.get("shape_attributes", part)
    outline, segments = part.get("polygon"), part.get("segments")
    if "all_points_x" in part:
        points = zip(part["all_points_x"], part["all_points_y"], strict=True)
        return Trace(points) if part.get("name") == "polyline" else Polygon(points)
    if isinstance(outline, list):
        return Polygon(outline)
    if isinstance(outline, Mapping):
        return Polygon([[(one["x"], one["y"]) for one in ring] for ring in outline.get("paths") or [outline["path"]]])
    if isinstance(segments, Mapping):
        return Polygon(zip(segments["x"], segments["y"], strict=True))
    box = next((part[key] for key in ("box", "box2d", "bounding_box") if isinstance(part.get(key), Mapping)), part)
    if "x4" in box:  # a turned one
        return Polygon([(box[f"x{corner}"], box[f"y{corner}"]) for corner in range(1, 5)])
    for names, form in NAMED:
        if box.keys() >= set(names):
            return box_of([box[name] for name in names], form)
    raise RegionError(f"no outline and no box is among its keys {sorted(part)!r:.80}; export COCO")


def label_studio(task: Entry, make: Make) -> Photo:
    """A task of Label Studio's JSON export, or its predictions."""
    given = entries_of(task, "annotations") if task.get("annotations") else []
    every = [
        result
        for annotation in given or entries_of({"predictions": [], **task}, "predictions")
        if not annotation.get("was_cancelled")
        for result in entries_of(annotation, "result")
        if isinstance(result.get("value"), Mapping)
    ]
    results = [result for result in every if result.get("type") not in _ABOUT_REGIONS]
    named = {str(one.get("id")): one["value"]["labels"] for one in every if "labels" in one["value"]}

    def label(result: Entry) -> object:
        own = result["value"].get(result.get("type")) or named.get(str(result.get("id")))
        return (own or [None])[0]

    data = task.get("data")
    names = [str(value) for value in data.values()] if isinstance(data, Mapping) else []
    name = min(names, key=lambda one: re.search(r"\.\w{3,4}(\?|$)", one) is None, default=None)  # pictures first
    return Photo(name, items_from(results, "result", from_label_studio, label), in_pixels=False)


def from_label_studio(result: Entry, image_size: Size) -> Region:
    """The region of one result of Label Studio, with a ``type`` and a ``value`` in per cent of the image."""
    value, kind = result.get("value"), str(result.get("type"))
    if not isinstance(value, Mapping):
        raise RegionError(f"Label Studio's {kind!r:.40} has no value; draw it again")
    drawn = stated_size(result.get("original_width"), result.get("original_height")) or image_size
    skew = drawn[0] * image_size[1] / (drawn[1] * image_size[0])
    if result.get("image_rotation") or not 0.9 < skew < 1.1:
        other = f"{drawn[0]}x{drawn[1]}, turned by {result.get('image_rotation') or 0!r:.9} degrees"
        raise RegionError(f"it was drawn on a photo of {other}: draw it on this one, upright")
    scale = np.array(image_size) / 100.0

    def read(*keys: str) -> npt.NDArray[np.float64]:
        return np.array([finite(value.get(key), key) for key in keys]) * scale

    if kind.startswith("brush"):
        return Mask(_brush(value.get("rle"), image_size))
    if kind.startswith("polygon"):
        return Polygon(np.reshape(rows_of(value.get("points"), 2, "point", "points"), (-1, 2)) * scale)
    if kind.startswith("keypoint"):
        return Point(*read("x", "y"))
    turn = finite(value.get("rotation") or 0.0, "rotation")
    if kind.startswith("ellipse"):
        return _turned(_CIRCLE, read("x", "y"), read("radiusX", "radiusY"), turn)
    if not kind.startswith("rectangle"):
        raise RegionError(f"Label Studio's {kind!r:.40} is not read; export the project as COCO")
    origin, sides = read("x", "y"), read("width", "height")
    return _turned(_SQUARE, origin, sides, turn) if turn else Box.from_xywh(*origin, *sides)


def _brush(rle: object, size: Size) -> Bools:
    """(height, width) bool of a brush: run lengths of RGBA pixels.

    Source: the format of thi.ng's rle-pack. Bits, highest first: 32 for how many values there are, 5 for the bits of
    a value, 4 times 4 for the bits of a length; then of each run whether it repeats, which of the four lengths is
    used, the length, and one value or as many as the length says. All but the first of these numbers count from 1.
    """
    try:
        bits = StringIO("".join(f"{byte:08b}" for byte in bytes(rle)))  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise RegionError(f"the brush's 'rle' is {rle!r:.60}; give a list of bytes") from None

    def read(count: int) -> int:
        if len(found := bits.read(count)) < count:
            raise RegionError("the brush's run lengths end too early: draw it again")
        return int(found, 2)

    total, width = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1]:
        raise RegionError(f"the brush is of another size than the image, {size[0]}x{size[1]}")
    if width > 8:
        raise RegionError(f"the brush has values of {width} bits; export the project as COCO")
    values, done = np.zeros(total, dtype=np.uint8), 0
    while done < total:
        repeats = read(1)
        stop = done + 1 + read(lengths[read(2)])
        if stop > total:
            raise RegionError("the brush's run lengths go beyond its size: draw it again")
        values[done:stop] = read(width) if repeats else [read(width) for _ in range(done, stop)]
        done = stop
    return np.asarray(values.reshape(size[1], size[0], 4)[..., 3] > 0)


def yolo(lines: Sequence[str], folder: Path) -> Photo:
    """A photo's labels of YOLO: lines of a class and, in 0..1, a box by its centre or a polygon; of poses the boxes."""
    names = _class_names(folder.absolute())

    def make(values: npt.NDArray[Any], image_size: Size) -> Region:
        if not (np.abs(values) <= 1.01).all():
            raise RegionError(f"{values.tolist()!r:.80}: labels of YOLO are in 0..1 of the photo")
        if len(values) in (4, 5):  # or with its confidence
            return box_of(values[:4] * (image_size * 2), "cxcywh")
        if len(values) % 2 or len(values) < 6:
            raise RegionError(f"{len(values)} numbers: give 4 of a box, or x, y pairs alone")
        if values[-1] == 1 and (values[1:-2:2] < 1).all():  # a number of its own?
            what = f"{values.tolist()!r:.80} may end with its confidence and a track, or a point on the photo's edge"
            raise RegionError(f"{what}: leave the track out, or give its y as 0.999")
        return Polygon(values.reshape(-1, 2) * image_size)

    rows, kinds = [], []
    for number, line in enumerate(lines, 1):
        try:
            rows.append([float(word) for word in line.split()])
            kinds.append(int(rows[-1][0]))
        except (ValueError, OverflowError):
            raise RegionError(f"line {number}, {line!r:.60}, is no label of YOLO: numbers alone") from None
    end = 5 if _are_poses(rows) else None
    items = [
        Item(f"line {number}", partial(make, np.array(row[1:end])), names.get(kind, str(kind)), None, {"line": line})
        for number, (line, row, kind) in enumerate(zip(lines, rows, kinds, strict=True), 1)
    ]
    return Photo(None, items, in_pixels=False)


def _class_names(folder: Path) -> Mapping[int, str]:
    """Of a classes.txt beside labels of YOLO, or of their data set's data.yaml, there or up to two folders above."""
    if (listing := folder / "classes.txt").is_file():
        return dict(enumerate(listing.read_text(encoding="utf-8").splitlines()))
    paths = (place / "data.yaml" for place in (folder, *folder.parents[:2]))
    path = next((one for one in paths if one.is_file()), None)
    return {} if path is None else _names_of(path, path.stat().st_mtime_ns)


@lru_cache(4)  # a folder of labels has a file for each photo
def _names_of(path: Path, written: int) -> Mapping[int, str]:
    names: Any = ()
    with suppress(Exception):  # of the library or the file, which may be about anything
        names = require("yaml", "published").safe_load(path.read_text(encoding="utf-8"))["names"]
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return {key: str(name) for key, name in pairs} if isinstance(names, dict | list) else {}


def _are_poses(rows: Sequence[Sequence[float]]) -> bool:
    """Whether each is a box and key points that lie in it, and somewhere fill it: no outline begins in its middle."""
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or min(lengths) < 9:
        return False
    table = np.array(rows)[:, 1:, None]
    middle, size, rest = table[:, None, :2, 0], table[:, None, 2:4, 0], table[:, 4:, 0]
    for step in (2, 3):  # x, y and perhaps whether it is seen; 0, 0 is not
        if rest.shape[1] % step == 0:
            points = rest.reshape(len(rows), -1, step)[..., :2]
            points = np.where(points.any(axis=2, keepdims=True), points, middle)
            fills = np.ptp(points, axis=1) > 0.55 * size[:, 0]
            if (np.abs(points - middle) <= 0.55 * size).all() and fills.all(axis=1).any():
                return True
    return False


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
        Item(f"{shape.tag} {number}", partial(_cvat_region, shape), shape.get("label"), own, said)
        for number, shape in enumerate(image)
        if shape.tag != "tag"
        for said in [_said(shape)]
        for own in [said.get("attributes", {}).get("annotation_id")]  # which an export gives it
    ]
    return Photo(image.get("name"), items, stated_size(image.get("width"), image.get("height")))


def _said(element: ElementTree.Element) -> dict[str, Any]:
    """An element as a dictionary; CVAT's attributes by their names."""
    found: dict[str, Any] = {**element.attrib}
    for one in element:
        if one.tag == "attribute":
            found.setdefault("attributes", {})[one.get("name")] = one.text
        else:
            found[one.tag] = _said(one) if len(one) else one.text
    return found


def _cvat_region(shape: ElementTree.Element, image_size: Size) -> Region:
    def read(*keys: str) -> list[float]:
        return [_number(shape.get(key), key) for key in keys]

    degrees = _number(shape.get("rotation", "0"), "rotation")
    if shape.tag == "box":
        box = Box(*read("xtl", "ytl", "xbr", "ybr"))
        sides, middle = np.ptp(box.extent(), axis=0), box.extent().mean(axis=0)
        return _turned(_SQUARE - 0.5, middle, sides, degrees) if degrees else box
    if shape.tag == "ellipse":
        return _turned(_CIRCLE, read("cx", "cy"), read("rx", "ry"), degrees)
    if shape.tag == "mask":
        left, top, width, height = (int(value) for value in read("left", "top", "width", "height"))
        found, part = _canvas((left, top), (width, height), image_size)
        runs = [int(_number(one, "rle")) for one in shape.get("rle", "").split(",")]
        if min(runs) < 0 or sum(runs) != width * height:
            raise RegionError(f"the mask's runs do not sum to {width} x {height}: export it again")
        part[:] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        return Mask(found)
    points = shape.get("points", "").split(";") if shape.get("points") else []
    pairs = [[_number(one, "a point") for one in pair.split(",")] for pair in points]
    if shape.tag == "polygon":
        return Polygon(pairs)
    if shape.tag == "polyline":
        return Trace(pairs)
    if shape.tag == "points" and len(pairs) == 1:
        return Point(*pairs[0])
    raise RegionError(f"CVAT's {shape.tag!r:.40} is not read: draw a polygon")


def _canvas(corner: Sequence[int], part: Size, image_size: Size) -> tuple[Bools, Bools]:
    """An empty mask of an image, and the view of a part of it, (width, height), at a left top corner."""
    (left, top), (width, height) = corner, part
    if min(left, top) < 0 or left + width > image_size[0] or top + height > image_size[1]:
        raise RegionError(f"the mask at {left},{top} of {width}x{height} sticks out of the image: draw it on this one")
    found = np.zeros(image_size[::-1], dtype=bool)
    return found, found[top : top + height, left : left + width]


def _voc(root: ElementTree.Element) -> Photo:
    def make(entry: ElementTree.Element, image_size: Size) -> Region:
        x1, y1, x2, y2 = (_number(entry.findtext(f"bndbox/{key}"), key) for key in ("xmin", "ymin", "xmax", "ymax"))
        # Pixels are counted from 1, and the last one is inside; shares are not.
        first = float(max(x2, y2) > 1)
        return Box(x1 - first, y1 - first, x2, y2)

    items = [
        Item(f"object {number}", partial(make, entry), entry.findtext("name"), None, _said(entry))
        for number, entry in enumerate(root.iter("object"))
    ]
    size = stated_size(root.findtext("size/width"), root.findtext("size/height"))
    return Photo(root.findtext("filename"), items, size)


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

    return Photo(None, [Item(f"mask {one}", partial(make, f"{one}.png"), id=one) for one in ids])


def items_given(regions: Any) -> tuple[Item, ...]:
    """Of regions, named or not; of rows of `supervision.Detections` or of ultralytics, each called by its class."""
    if hasattr(regions, "orig_shape"):
        regions = require("supervision", "supervision").Detections.from_ultralytics(regions)
    if hasattr(regions, "xyxy"):
        return tuple(_detected(number, *row) for number, row in enumerate(regions))
    given = items_of(regions, "the list of regions")
    named = [one if isinstance(one, NamedRegion) else NamedRegion(one) for one in given]
    makes = [partial(lambda one, _: one, one) for one in listed(one.region for one in named)]
    pairs = enumerate(zip(named, makes, strict=True))
    return tuple(Item(f"region {n}", make, x.label, x.id, x.source) for n, (x, make) in pairs)


def _detected(number: int, box: Any, mask: Any, sure: Any, kind: Any, track: Any, more: Any) -> Item:
    given = {**more, "class_id": kind, "confidence": sure, "tracker_id": track}
    said = {key: as_numpy(one).tolist() for key, one in given.items() if one is not None}
    turned = said.pop("xyxyxyxy", None)

    def make(image_size: Size) -> Region:
        if mask is not None:
            return Mask(mask)
        return Box(*as_numpy(box).tolist()) if turned is None else Polygon(turned)

    return Item(f"row {number}", make, said.get("class_name"), None, said)


def photo_of(
    record: Entry,
    make: Make,
    parts: str = "annotations",
    name: str = "",
    size: tuple[str, str] = ("width", "height"),
    label: str | Callable[[Entry], object] = "label",
    read: Make | None = None,
) -> Photo:
    """The photo of a record, by keys or nested keys with dots; `read` makes its parts regions, or COCO's `make`."""
    entries = entries_of(record, parts) if record.get(parts) is not None else []
    told = at(record, name), record.get("image_id", record.get("id"))
    called, number = (None if one is None else str(one) for one in told)
    sides = stated_size(*(at(record, side) for side in size))
    return Photo(called, items_from(entries, parts[:-1], read or make, label), sides, number)


def _grounded_sam(record: Entry, make: Make) -> Photo:
    def boxed(entry: Entry, image_size: Size) -> Region:
        return make({"bbox_mode": record["box_format"], **entry}, image_size)

    return photo_of(record, boxed, name="image_path", size=("img_width", "img_height"), label="class_name")


def called(part: Entry) -> object:
    """What one of the shapes that `drawn` reads is called, or an entry of a list."""
    keys = (*_CALLED, *(f"region_attributes.{key}" for key in part.get("region_attributes") or ()), "names.0")
    return next((one for one in (at(part, key) for key in keys) if isinstance(one, str)), None)


def _side_by_side(record: Entry, make: Make) -> Photo:
    """Objects of datasets: a list for each of their keys."""
    lists = {key: one for key, one in (record.get("objects") or {}).items() if isinstance(one, list)}
    if len({len(one) for one in lists.values()}) > 1:
        raise RegionError(f"its objects are lists of unequal lengths, {sorted(lists)}: mend them")
    objects = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    return photo_of({**record, "objects": objects}, make, "objects", "file_name", label=called)


def _json_min(record: Entry, make: Make) -> Photo:
    raise RegionError("Label Studio's JSON-MIN leaves out what shapes are; export JSON or COCO")


_IN = ("image.width", "image.height")
_drawn = partial(photo_of, read=drawn)
FORMS: Mapping[tuple[str, ...], Callable[[Entry, Make], Photo]] = {
    ("annotations", "box_format"): _grounded_sam,
    ("annotations", "item.name"): partial(_drawn, name="item.name", label="name"),
    ("annotations", "image.filename"): partial(_drawn, name="image.filename", size=_IN, label="name"),
    ("annotations", "image.width"): partial(photo_of, name="image.file_name", size=_IN),
    ("annotations", "image.image_id"): partial(photo_of, name="image.file_name", size=_IN),
    ("annotations", "file_name"): partial(photo_of, name="file_name"),
    ("shapes",): partial(photo_of, parts="shapes", name="imagePath", size=("imageWidth", "imageHeight"), read=labelme),
    ("objects", "imgWidth"): partial(_drawn, parts="objects", size=("imgWidth", "imgHeight")),
    ("labels", "name"): partial(_drawn, parts="labels", name="name", label="category"),
    ("regions.0.x",): partial(_drawn, parts="regions", label=called),
    ("objects.bbox",): _side_by_side,
    ("objects.segmentation",): _side_by_side,
    ("objects.0.x",): partial(_drawn, parts="objects", label=called),
    ("regions", "filename"): partial(_drawn, parts="regions", name="filename", label=called),
    ("data", "annotations"): label_studio,
    ("data", "predictions"): label_studio,
    ("annotator", "image"): _json_min,
    ("annotator", "label"): _json_min,
}
"""Keys that tell a photo's record of JSON -> its reader: Grounded SAM 2, Darwin 2 and 1, SA-1B, detectron2, labelme,
Cityscapes, BDD100K, Visual Genome, datasets, VIA, Label Studio; the first that fits, in this order."""
