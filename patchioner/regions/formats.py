"""Other tools' regions: COCO's annotations, SAM's masks, labelme, Visual Genome, Label Studio, arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.base import Region, Size, as_numpy, items_of, numbers
from patchioner.regions.label_studio import from_label_studio
from patchioner.regions.mask import Mask
from patchioner.regions.paths import Polygon, Trace
from patchioner.regions.shapes import Box, Point

Entry = Mapping[str, Any]
_Array = npt.NDArray[np.generic]

_ALLOWED = (
    "give this project's JSON ({'regions': [...]}), COCO annotations, "
    "or SAM's masks as .json or .npz"
)
_REMEDY = 'save bool masks with np.savez_compressed("masks.npz", masks=array)'
# Masks of a hundred objects in a photo of 40 megapixels; larger files are refused before they are unpacked.
MAX_ARRAY_BYTES = 4 * 2**30
MAX_MASK_BYTES = 3 * 2**29
"""Masks of one photo that a file may bring, at a byte a pixel: 128 of one of 12 megapixels."""


@dataclass(frozen=True)
class NamedRegion:
    """One region of a file.

    Attributes:
        region: in pixels of the original image (a trace may count in 0..1).
        label: what the file calls it (our ``label``, COCO's category), or None.
        id: the annotation's id in the file, or None.
        source: its entry in the file with all keys, where it has one.
    """

    region: Region
    label: str | None = None
    id: int | str | None = None
    source: Entry | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Item:
    """An entry that is not yet made a region: many are never asked for."""

    what: str
    make: Callable[[Size], Region]
    label: object = None
    id: object = None
    source: Entry | None = None

    def named(self, image_size: Size) -> NamedRegion:
        """The region on an image of (width, height); RegionError with the entry's place."""
        try:
            region = self.make(image_size)
            region.require_fit(image_size)
        except RegionError as error:
            raise RegionError(f"{self.what}: {error}") from error
        if self.label is not None and not isinstance(self.label, str):
            raise RegionError(f"{self.what}: label is {self.label!r:.80}; give a text")
        known = isinstance(self.id, (int, str)) and not isinstance(self.id, bool)
        own: Any = self.id if known else None
        return NamedRegion(region, self.label, own, self.source)


@dataclass(frozen=True)
class Photo:
    """What a file has for one photo; `name` is None where the file does not say which."""

    name: str | None
    items: tuple[Item, ...]
    size: Size | None = None
    image_id: str | None = None


def from_coco(annotation: Mapping[str, object], image_size: Size | None = None) -> Region:
    """The region of one COCO annotation: its polygons, its mask, or else its box.

    Args:
        annotation: with ``segmentation`` (list of flat rings, an RLE of either spelling, or a
            (height, width) array as SAM gives it) and/or ``bbox``: [x, y, width, height], or
            corners where detectron2's ``bbox_mode`` is 0; pixels of the original image.
        image_size: (width, height) of the image; a mask of another size is an error.

    Raises:
        RegionError: neither is there, or what is there is broken.

    Example:
        >>> from_coco({"segmentation": [], "bbox": [10, 20, 30, 40]})
        Box(x1=10.0, y1=20.0, x2=40.0, y2=60.0)
    """
    if not isinstance(annotation, Mapping):
        raise RegionError(f"a COCO annotation is a dictionary, not {annotation!r:.80}")
    given = annotation.get("segmentation")
    if isinstance(given, Mapping) or hasattr(given, "shape") or _is_yes_or_no(given):
        mask = Mask.from_rle(given, image_size) if isinstance(given, Mapping) else Mask(given)
        if image_size is not None:
            mask.require_fit(image_size)
        return mask
    if isinstance(given, Sequence) and given:
        return Polygon.from_coco(given)
    if annotation.get("bbox") is None:
        raise RegionError(
            f"the annotation has keys {sorted(map(str, annotation))}; "
            "give 'segmentation' (polygons or RLE) or 'bbox'"
        )
    if annotation.get("bbox_mode") == 0:
        return Box(*numbers(annotation["bbox"], 4, "bbox"))
    return Box.from_coco(annotation)


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
        masks = [{"segmentation": one} for _, one in _mask_stack(as_numpy(masks))]
    regions = []
    for index, entry in enumerate(items_of(masks, "SAM's result")):
        try:
            regions.append(from_coco(entry, image_size))  # type: ignore[arg-type]
        except RegionError as error:
            raise RegionError(f"entry {index} of SAM's result: {error}") from error
    return regions


def _is_yes_or_no(given: object) -> bool:
    """Whether nested lists are the rows of a mask that became JSON, not flat rings."""
    if not isinstance(given, Sequence) or not given:
        return False
    rows = [row for row in given if isinstance(row, Sequence)]
    return len(rows) == len(given) and all(
        len(row) == len(rows[0]) and all(value in (0, 1) for value in row) for row in rows
    )


def photos_of(path: Path, content: object) -> list[Photo]:
    """What a file holds, by photo; its content decides what it is, not its name.

    Args:
        path: of the file, and beside the masks that it names.
        content: the JSON in it, where that has been read already.
    """
    if content is None:
        with path.open("rb") as stream:
            opening = stream.read(6)
        if opening[:1] == b"\x80":
            raise RegionError(f"it is a pickle, and unpickling runs the code in it; {_REMEDY}")
        if opening[:4] == b"PK\x03\x04" or opening == b"\x93NUMPY":
            return [Photo(None, tuple(_array_items(path)))]
        content = read_json(path)
    if isinstance(content, Mapping):
        return _photos_of_mapping(content, path.parent)
    if isinstance(content, list) and all(isinstance(entry, Mapping) for entry in content):
        return _photos_of_list(content, path.parent)
    raise RegionError(f"JSON, but of no known form; {_ALLOWED}")


def read_json(path: Path) -> Any:
    """The JSON in a file, with or without a byte order mark; RegionError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise RegionError(f"not JSON ({error}); {_ALLOWED}") from error


def _photos_of_mapping(content: Entry, folder: Path) -> list[Photo]:
    image = content.get("image")
    if "annotations" in content and "images" in content:
        return _coco(content)
    if "annotations" in content and isinstance(image, Mapping):  # SA-1B
        size = _stated_size(image.get("width"), image.get("height"))
        return _one_photo(content, "annotations", from_coco, size)
    if "annotations" in content and "box_format" in content:  # Grounded SAM 2
        size = _stated_size(content.get("img_width"), content.get("img_height"))
        mode = {"bbox_mode": 0} if content["box_format"] == "xyxy" else {}
        make = lambda entry, size: from_coco({**entry, **mode}, size)  # noqa: E731
        return _one_photo(content, "annotations", make, size, label="class_name")
    if "shapes" in content:
        size = _stated_size(content.get("imageWidth"), content.get("imageHeight"))
        return _one_photo(content, "shapes", _labelme, size)
    if _is_visual_genome(content) or "segmentation" in content or "bbox" in content:
        return _photos_of_list([content], folder)
    if "regions" in content:
        return [_ours(None, content["regions"], folder)]
    if isinstance(content.get("images"), Mapping):
        return [_ours(str(name), given, folder) for name, given in content["images"].items()]
    if "images" in content:
        raise RegionError(f"'images' is not {{'name.jpg': [...]}}; {_ALLOWED}")
    raise RegionError(f"JSON, but of no known form; {_ALLOWED}")


def _photos_of_list(content: list[Entry], folder: Path) -> list[Photo]:
    if any(_is_visual_genome(entry) for entry in content):
        return [_visual_genome(entry) for entry in content]
    if any("data" in entry and {"annotations", "predictions"} & entry.keys() for entry in content):
        return [_label_studio(entry) for entry in content]
    if any("segmentation" in entry or "bbox" in entry for entry in content):
        what = "annotation" if any("image_id" in entry for entry in content) else "entry"
        groups = _by_image(content, _items(content, what, from_coco))
        return [Photo(None, tuple(items), image_id=one) for one, items in groups.items()]
    return [_ours(None, content, folder)]


def _items(
    entries: Iterable[Entry],
    what: str,
    make: Callable[[Entry, Size], Region],
    label: Callable[[Entry], object] = lambda entry: entry.get("label"),
) -> tuple[Item, ...]:
    found = []
    for index, entry in enumerate(entries):
        known = isinstance(entry, Mapping)
        own, called = (entry.get("id"), label(entry)) if known else (None, None)
        name = f"{what} {index}" + ("" if own is None else f" (id {own!r:.40})")
        found.append(Item(name, partial(make, entry), called, own, entry if known else None))
    return tuple(found)


def _one_photo(
    content: Entry,
    key: str,
    make: Callable[[Entry, Size], Region],
    size: Size | None,
    label: str = "label",
) -> list[Photo]:
    items = _items(_entries(content, key), key[:-1], make, lambda entry: entry.get(label))
    return [Photo(None, items, size)]


def _ours(name: str | None, entries: object, folder: Path) -> Photo:
    def make(entry: Entry, image_size: Size) -> Region:
        if isinstance(entry, Mapping):
            _check_masks(entry, image_size)
            entry = {key: value for key, value in entry.items() if key not in ("label", "id")}
        return Region.from_json(entry, folder)

    listed: list[Any] = items_of(entries, "the list of regions")
    return Photo(name, _items(listed, "region", make))


def _check_masks(entry: Entry, image_size: Size) -> None:
    """Refuse run lengths of another size, and more of them than are held at a time, before they are unpacked."""
    sizes = list(_rle_sizes(entry))
    for size in sizes:
        Mask.require_rle_size(size, image_size)
    if len(sizes) * image_size[0] * image_size[1] > MAX_MASK_BYTES:
        raise RegionError(f"its {len(sizes)} masks take over {MAX_MASK_BYTES:,} bytes; give fewer")


def mask_bytes(region: Region) -> int:
    """What its masks take."""
    return sum(one.array.nbytes for one, _ in region.leaves() if isinstance(one, Mask))


def _rle_sizes(entry: object) -> Iterator[object]:
    if isinstance(entry, Mapping):
        mask, parts = entry.get("mask"), entry.get("set")
        if isinstance(mask, Mapping) and "size" in mask:
            yield mask["size"]
        for part in parts if isinstance(parts, list) else ():
            yield from _rle_sizes(part)


def _coco(content: Entry) -> list[Photo]:
    categories = _entries(content, "categories") if "categories" in content else []
    names = {_key(one.get("id"), "id of a category"): one.get("name") for one in categories}

    def label(entry: Entry) -> object:
        name = names.get(str(entry.get("category_id")))
        return None if name is None else str(name)

    def make(entry: Entry, image_size: Size) -> Region:
        _key(entry.get("category_id"), "category_id")
        return from_coco(entry, image_size)

    entries = _entries(content, "annotations")
    groups = _by_image(entries, _items(entries, "annotation", make, label))
    return [
        Photo(
            # LVIS v1 has URLs alone.
            str(image.get("file_name") or image.get("coco_url") or image.get("id")),
            tuple(groups.get(str(image.get("id")), ())),
            _stated_size(image.get("width"), image.get("height")),
        )
        for image in _entries(content, "images")
    ]


def _key(value: object, what: str) -> str:
    """Exporters write ids as text in one place and as numbers in the other."""
    if isinstance(value, (Mapping, list)):
        raise RegionError(f"{what} is {value!r:.80}; give a number or a text")
    return str(value)


def _by_image(entries: Iterable[Entry], items: Iterable[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for entry, item in zip(entries, items, strict=True):
        groups.setdefault(_key(entry.get("image_id"), "image_id"), []).append(item)
    return groups


def _labelme(shape: Entry, image_size: Size) -> Region:
    """A rectangle, polygon, circle, point or line of labelme."""
    kind = shape.get("shape_type", "polygon")
    pairs = [numbers(one, 2, "point") for one in items_of(shape.get("points"), "points")]
    if kind == "rectangle" and len(pairs) == 2:
        (x1, x2), (y1, y2) = (sorted(axis) for axis in zip(*pairs, strict=True))
        return Box(x1, y1, x2, y2)
    if kind == "circle" and len(pairs) == 2:
        middle, edge = np.array(pairs)
        turn = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
        ring = np.stack([np.cos(turn), np.sin(turn)], axis=1) * np.hypot(*(edge - middle))
        return Polygon(ring + middle)
    if kind == "point" and len(pairs) == 1:
        return Point(*pairs[0])
    if kind in ("line", "linestrip"):
        return Trace(pairs)
    if kind == "polygon":
        return Polygon(pairs)
    raise RegionError(f"labelme's shape_type {kind!r:.40} is not read; draw a polygon or rectangle")


def _is_visual_genome(entry: Entry) -> bool:
    parts = entry.get("regions", entry.get("objects"))
    if not isinstance(parts, list) or not parts:
        return False
    return all(isinstance(part, Mapping) and {"x", "y"} <= part.keys() for part in parts)


def _visual_genome(entry: Entry) -> Photo:
    def label(part: Entry) -> object:
        names = part.get("names") or [None]
        return part.get("phrase", part.get("name", names[0]))

    def make(part: Entry, image_size: Size) -> Region:
        width, height = part.get("width", part.get("w")), part.get("height", part.get("h"))
        return Box.from_xywh(part["x"], part["y"], width, height)

    parts = [part for part in entry.get("regions", entry.get("objects", ())) if part]
    items = _items(parts, "region", make, label)
    return Photo(None, items, image_id=str(entry.get("image_id", entry.get("id"))))


# Results of Label Studio that say something of a region which has its own result.
_ABOUT_REGIONS = ("textarea", "choices", "rating", "number", "taxonomy", "datetime")


def _label_studio(task: Entry) -> Photo:
    given = _entries(task, "annotations") if task.get("annotations") else []
    results = [
        result
        for annotation in given or _entries({"predictions": [], **task}, "predictions")
        for result in _entries(annotation, "result")
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
    return Photo(name, _items(results, "result", from_label_studio, label))


def _stated_size(width: object, height: object) -> Size | None:
    """Text that is a number counts; 0 and -1 are how exporters say that they do not know."""
    try:
        size = int(str(width)), int(str(height))
    except ValueError:
        return None
    return size if min(size) > 0 else None


def _entries(content: Entry, key: str) -> list[Entry]:
    entries = items_of(content.get(key), f"{key!r}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise RegionError(f"entry {index} of {key!r} is {entry!r:.80}, no dictionary")
    return entries  # type: ignore[return-value]


def _array_items(path: Path) -> list[Item]:
    """Of `masks`, or else of `boxes`, (n, 4) x, y, width, height; `scores` are not used."""
    try:
        # Opened here: given a path, numpy leaves a broken zip file open.
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            arrays = {"masks": content} if isinstance(content, np.ndarray) else _members(content)
    except RegionError:
        raise
    except Exception as error:  # numpy reads headers as Python: anything can come of a broken one
        raise RegionError(
            f"its arrays cannot be read: it is cut short or damaged; {_REMEDY}"
        ) from error
    if not {"masks", "boxes"} & arrays.keys():
        raise RegionError(f"its arrays are {sorted(arrays)}, none is 'masks'; {_REMEDY}")
    stack = _mask_stack(arrays["masks"]) if "masks" in arrays else []
    lengths = {name: len(arrays[name]) for name in ("boxes", "scores") if name in arrays}
    if "masks" in arrays:
        lengths["masks"] = len(stack)
    if len(set(lengths.values())) > 1:
        raise RegionError(f"its arrays have different lengths: {lengths}; give one row per mask")
    if "masks" not in arrays:
        return _box_items(arrays["boxes"])
    return [
        Item(f"mask {index}", lambda size, one=one: Mask(one), id=own)  # type: ignore[misc]
        for index, (own, one) in enumerate(stack)
    ]


def _members(content: Any) -> dict[str, _Array]:
    with content:
        unpacked = sum(member.file_size for member in content.zip.infolist())
        if unpacked > MAX_ARRAY_BYTES:
            raise RegionError(f"its arrays take {unpacked:,} bytes, above {MAX_ARRAY_BYTES:,}")
        known = {"masks", "boxes", "scores"} & set(content.files)
        # A file without any of the names still has to be told apart from an empty one.
        return {name: content[name] for name in sorted(known or set(content.files))}


def _mask_stack(array: _Array) -> list[tuple[int | None, _Array]]:
    """Single (height, width) masks of an array, with their ids; axes of length 1 do not count.

    An integer (height, width) array of several values is a label map: one mask per value but 0.
    """
    given = array.shape
    while array.ndim > 3 and 1 in array.shape[:-2]:
        array = np.squeeze(array, axis=array.shape.index(1))
    if array.ndim not in (2, 3):
        raise RegionError(f"'masks' has shape {given}; give (n, height, width)")
    if array.ndim == 3:
        return [(None, one) for one in array]
    values = np.unique(array) if np.issubdtype(array.dtype, np.integer) else np.empty(0)
    labels = [int(value) for value in values if value != 0]
    return [(one, array == one) for one in labels] if len(labels) > 1 else [(None, array)]


def _box_items(array: _Array) -> list[Item]:
    if array.ndim != 2 or array.shape[1] != 4:
        raise RegionError(f"'boxes' has shape {array.shape}; give (n, 4), x, y, width, height")
    rows = array.tolist()

    def make(row: list[float], image_size: Size) -> Region:
        limits = np.array([*image_size, *image_size]) + 1.0
        table = np.asarray(rows, dtype=np.float64)
        overhang = (table[:, :2] + table[:, 2:] > limits[:2]).any()
        corners = (table <= limits).all() and (table[:, 2:] > table[:, :2]).all()
        if overhang and corners:
            raise RegionError(
                f"{row} sticks out of the image as x, y, width, height, and all boxes fit as "
                "x1, y1, x2, y2: save them as x, y, width, height"
            )
        return Box.from_xywh(*row)

    return [Item(f"box {index}", partial(make, row)) for index, row in enumerate(rows)]
