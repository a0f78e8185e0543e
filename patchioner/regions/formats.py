"""Which format a file of regions has; ours, COCO's and its relatives, SAM's masks, arrays."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.regions.annotators import FORMS, called, drawn, xml_photos, yolo
from patchioner.regions.base import Region, Size, as_numpy, items_of
from patchioner.regions.items import (
    LARGE,
    NAME_KEYS,
    BoxFormat,
    Entry,
    Item,
    Make,
    Photo,
    at,
    box_of,
    entries_of,
    id_key,
    items_from,
    large_coco,
    large_lines,
    stated_size,
    warn_of_lost,
)
from patchioner.regions.mask import Mask, rle_pixels
from patchioner.regions.paths import Polygon, Trace

_Array = npt.NDArray[np.generic]
_logger = logging.getLogger(__name__)

_GIVE = "give COCO, Pascal VOC, YOLO, Patchioner's JSON ({'regions': [...]}), or SAM's masks as .json or .npz"
_YOLO = re.compile(rb"(?:\xef\xbb\xbf)?\s*\d+(?:\.0*)?(?:[ \t]+[-+.\deE]+){4,}[ \t]*(?:\r?\n|\Z)")
_BOX_MODES: dict[str, BoxFormat] = {
    **{"None": "xywh", "1": "xywh", "XYWH_ABS": "xywh", "0": "xyxy", "XYXY_ABS": "xyxy"},
    **dict(zip(get_args(BoxFormat), get_args(BoxFormat), strict=True)),
}
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"BM")
_ONE_ID = "(of files that were joined?) have one id; give each its own:"
_REMEDY = 'save bool masks with np.savez_compressed("masks.npz", masks=array)'
MAX_ARRAY_BYTES = 4 * 2**30  # a hundred masks of 40 megapixels; larger files are refused before they are unpacked
MAX_MASK_BYTES = 3 * 2**29  # masks of one photo that a file may bring, at a byte a pixel: 128 of 12 megapixels


def from_coco(annotation: Entry, image_size: Size | None = None, box_format: BoxFormat | None = None) -> Region:
    """The region of one COCO annotation: its polygons, its mask, or else its box.

    Args:
        annotation: with ``segmentation`` (list of flat rings, an RLE of either spelling, or a (height, width) array as
            SAM gives it) and/or ``bbox``: [x, y, width, height], or corners where detectron2's ``bbox_mode`` is 0
            (above 1 it is none of these: RegionError, as for broken ones).
        image_size: (width, height) of the image; a mask of another size is an error.
        box_format: how ``bbox`` is written, if not as above.

    Example:
        >>> from_coco({"segmentation": [], "bbox": [10, 20, 30, 40]})
        Box(x1=10.0, y1=20.0, x2=40.0, y2=60.0)
    """
    if not isinstance(annotation, Mapping):
        raise RegionError(f"a COCO annotation is a dictionary, not {annotation!r:.80}")
    given = annotation.get("segmentation")
    if isinstance(given, list) and given and isinstance(given[0], (int, float)):
        given = [given]  # a ring that is in no list
    if isinstance(given, list) and all(isinstance(ring, list) and not ring for ring in given):
        given = None
    if isinstance(given, Mapping):
        return Mask.from_rle(given, image_size)
    if hasattr(given, "shape") or _is_yes_or_no(given):
        mask = Mask(given)
        if image_size is not None:
            mask.require_fit(image_size)
        return mask
    if isinstance(given, Sequence) and given:
        return Polygon.from_coco(given)
    if annotation.get("bbox") is None:
        raise RegionError(f"it has keys {sorted(map(str, annotation))}; give 'segmentation' (polygons, RLE) or 'bbox'")
    mode = annotation.get("bbox_mode")
    form = box_format or _BOX_MODES.get(str(mode).removeprefix("BoxMode."))
    if form is None:
        raise RegionError(f"bbox_mode {mode!r:.40} (or box_format) is not read; give 0 (xyxy: corners) or 1 (xywh)")
    return box_of(annotation["bbox"], form)


def from_sam(masks: Any, image_size: Size | None = None) -> list[Region]:
    """The regions of what SAM, SAM 2 or SAM 3 returns, in its order.

    Args:
        masks: the automatic generator's dictionaries, with ``segmentation`` as an array or RLE; or the predictor's
            masks, (n, height, width) or (n, 1, height, width), as an array or tensor, alone, as the first of the
            (masks, scores, logits) that it returns, or under "masks".
        image_size: (width, height) of the image; a RegionError names a mask of another size.

    Example:
        >>> from_sam([{"segmentation": np.ones((2, 3), dtype=bool)}])
        [Mask(3x2, 6 pixels)]
    """
    if isinstance(masks, Mapping) and "masks" in masks:
        masks = masks["masks"]
    if isinstance(masks, tuple) and masks and hasattr(masks[0], "shape"):
        masks = masks[0]
    if hasattr(masks, "shape"):
        masks = [{"segmentation": one} for _, one in _mask_stack(as_numpy(masks))]
    regions = []
    for index, entry in enumerate(items_of(masks, "SAM's result")):
        try:
            entry = {"segmentation": entry} if hasattr(entry, "shape") else entry
            regions.append(from_coco(entry, image_size))
        except RegionError as error:
            raise RegionError(f"entry {index} of SAM's result: {error}") from error
    return regions


def _is_yes_or_no(given: object) -> bool:
    """Whether nested lists are the rows of a mask that became JSON, not flat rings."""
    rows = given if isinstance(given, Sequence) else ()
    even = all(isinstance(row, Sequence) and len(row) == len(rows[0]) for row in rows)
    return bool(rows) and even and all(value in (0, 1) for row in rows for value in row)


def photos_of(path: Path, content: object, box_format: BoxFormat | None = None) -> list[Photo]:
    """What a file holds, by photo; its content (JSON that was read already) decides what it is, not its name."""
    make = partial(from_coco, box_format=box_format)
    if isinstance(content, tuple):  # of items, which no JSON is
        return [Photo(None, content)]
    if content is None:
        with path.open("rb") as stream:
            opening = stream.read(4096)
        if opening[:1] == b"\x80":
            refcoco = "of RefCOCO, give instances.json: its ann_id are the ids there"
            raise RegionError(f"it is a pickle, which runs the code in it; {_REMEDY} ({refcoco})")
        if opening[:4] == b"PK\x03\x04" or opening[:6] == b"\x93NUMPY":
            return [Photo(None, _array_items(path, box_format))]
        if opening.startswith(_PICTURES):
            own = {"regions": [{"mask": path.name}]}
            raise RegionError(f"it is a picture: name it in JSON, {own}; or save numbers of regions as .npy")
        first = opening.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \r\n\t")[:1]
        if first == b"<":
            return xml_photos(path.read_bytes())
        if _YOLO.match(opening) or (path.suffix == ".txt" and not opening.strip()):
            return [yolo([line for line in path.read_text("utf-8-sig").splitlines() if line.strip()], path.parent)]
        if first == b"{" and path.stat().st_size > LARGE:
            large = large_coco(path, partial(_coco, make=make)) or large_lines(path, partial(_of_records, make=make))
            if large:
                return large
        content = read_json(path)
    records: list[Any] = content if isinstance(content, list) else [content]
    if isinstance(content, Mapping):
        via = content.get("_via_img_metadata", content)
        if via and all(isinstance(one, Mapping) and "filename" in one for one in via.values()):
            records = [*via.values()]
    if not all(isinstance(record, Mapping) for record in records):
        raise RegionError(f"JSON, but of no known form: {_GIVE}")
    found = _of_records(records, make)
    return _of_ours(content, path.parent, box_format) if found is None else found


def read_json(path: Path) -> Any:
    """The JSON in a file, or a list of its JSON lines, of any Unicode encoding; RegionError for neither."""
    data = path.read_bytes()
    try:
        try:
            return json.loads(data)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
            lines = data.decode(json.detect_encoding(data)).split("\n")
            return [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise RegionError(f"not JSON ({error}), nor of another known form: {_GIVE}") from error


def _of_records(records: list[Entry], make: Make) -> list[Photo] | None:
    """Photos of JSON of any tool, and of lists of annotations; None where it can only be ours."""
    keys = set().union(*records)
    if len(records) == 1 and keys >= {"images", "annotations"}:
        return _coco(records[0], make)
    for telling, photo_of in FORMS.items():
        outer = {key.partition(".")[0] for key in telling}  # lists may have a million records
        fits = (all(at(one, key) is not None for key in telling) for one in records)
        if keys >= outer and any(fits):
            return [photo_of(record, make) for record in records]
    if len(records) == 1 and isinstance(records[0].get("annotations"), list):
        return _of_records(entries_of(records[0], "annotations"), make)
    if "box" in keys and any(isinstance(record.get("box"), Mapping) for record in records):
        return [Photo(None, items_from(records, "entry", drawn, called))]
    if keys & {"segmentation", "bbox"}:
        named: dict[str | None, list[Entry]] = {}
        for one in records:
            names = (one[key] for key in (*NAME_KEYS, "image", "image_path", "photo") if isinstance(one.get(key), str))
            named.setdefault(next(names, None), []).append(one)
        what = "annotation" if "image_id" in keys else "entry"
        return [
            Photo(name, items, image_id=number)
            for name, entries in named.items()
            for number, items in _by_image(entries, what, make, called).items()
        ]
    if "traces" in keys:  # Localized Narratives
        groups = _by_image(records, "narrative", lambda entry, _: narrated(entry.get("traces")))
        return [Photo(None, items, None, one, in_pixels=False) for one, items in groups.items()]
    if keys >= {"ann_id", "sentences"}:
        raise RegionError("RefCOCO's phrases without boxes: give its instances.json by ann_id")
    return None


def narrated(strokes: object) -> Trace:
    """The path of a narrator's pointer, in strokes."""
    # A point off the image breaks the path: the pen was up between strokes.
    up = {"x": -1.0, "y": -1.0}
    lists = items_of(strokes, "the list of traces")
    points = [one for stroke in lists for one in (up, *items_of(stroke, "stroke"))]
    return Trace.from_points_xyt(points[1:], normalized=True)


def _of_ours(content: Any, folder: Path, box_format: BoxFormat | None) -> list[Photo]:
    given: Any = content if isinstance(content, Mapping) else {"regions": content}
    keys = given.keys() if given is content else set().union(*content)
    own = ("regions", "images") if given is content else Region.json_keys()
    if not keys & set(own) and content != []:
        raise RegionError(f"JSON, but of no known form, with keys {sorted(keys)!r:.90}: {_GIVE}")
    images = {None: given["regions"]} if "regions" in given else given["images"]
    if not isinstance(images, Mapping):
        raise RegionError("'images' is not {'name.jpg': [...]}, as in this project's JSON")
    return [_ours(name, entries, folder, box_format) for name, entries in images.items()]


def _ours(name: str | None, entries: object, folder: Path, box_format: BoxFormat | None) -> Photo:
    def make(entry: Any, image_size: Size) -> Region:
        if isinstance(entry, Mapping):
            if rle_pixels(entry, image_size) > MAX_MASK_BYTES:  # before they are unpacked
                raise RegionError(f"its masks take over {MAX_MASK_BYTES:,} bytes; give fewer")
            entry = {key: value for key, value in entry.items() if key not in ("label", "id")}
            if box_format is not None and [*entry] == ["box"]:
                return box_of(entry["box"], box_format)
        return Region.from_json(entry, folder)

    return Photo(name, items_from(items_of(entries, "the list of regions"), "region", make))


def _coco(content: Entry, make: Make) -> list[Photo]:
    names: dict[str, object] = {}
    for one in entries_of(content, "categories") if "categories" in content else ():
        key, name = id_key(one.get("id"), "id of a category"), one.get("name")
        if names.setdefault(key, name) != name:
            raise RegionError(f"categories {names[key]!r:.40} and {name!r:.40} {_ONE_ID} {key!r}")

    def label(entry: Entry) -> object:
        given = entry.get("category_id")
        name = None if isinstance(given, (Mapping, list)) else names.get(id_key(given))
        return None if name is None else str(name)

    def checked(entry: Entry, image_size: Size) -> Region:
        id_key(entry.get("category_id"), "category_id")
        return make(entry, image_size)

    groups = _by_image(entries_of(content, "annotations"), "annotation", checked, label)
    images = entries_of(content, "images")
    ids = [id_key(image.get("id"), "id of an image") for image in images]
    if len(set(ids)) < len(ids):
        raise RegionError(f"several images {_ONE_ID} {Counter(ids).most_common(1)[0][0]!r:.40}")
    warn_of_lost({key: len(items) for key, items in groups.items()}, ids)
    return [
        Photo(
            next((str(image[name]) for name in NAME_KEYS if image.get(name)), str(image.get("id"))),
            groups.get(key, []),
            stated_size(image.get("width"), image.get("height")),
        )
        for image, key in zip(images, ids, strict=True)
    ]


def _by_image(entries: Iterable[Entry], *how: Any) -> dict[str, list[Item]]:
    """The items of a list, made as `items_from` is told, by image_id."""
    groups: dict[str, list[Item]] = {}
    for entry, item in zip(entries, items_from(entries, *how), strict=True):
        groups.setdefault(id_key(entry.get("image_id"), "image_id"), []).append(item)
    return groups


def _array_items(path: Path, box_format: BoxFormat | None) -> list[Item]:
    """Of `masks`, or else of `boxes`, (n, 4), x, y, width, height if not told; `scores` are not used."""
    try:
        # Opened here: given a path, numpy leaves a broken zip file open.
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            arrays = {"masks": content} if isinstance(content, np.ndarray) else _members(content)
    except RegionError:
        raise
    except Exception as error:  # numpy reads headers as Python: anything can come of a broken one
        raise RegionError(f"its arrays are cut short or damaged; {_REMEDY}") from error
    if not {"masks", "boxes"} & arrays.keys():
        raise RegionError(f"its arrays are {sorted(arrays)}, none is 'masks'; {_REMEDY}")
    stacks: dict[str, Any] = {name: _mask_stack(one) if name == "masks" else one for name, one in arrays.items()}
    lengths = {name: len(one) for name, one in stacks.items()}
    if len(set(lengths.values())) > 1:
        raise RegionError(f"its arrays have different lengths: {lengths}; give one row per mask")
    if "masks" not in arrays:
        return _box_items(arrays["boxes"], box_format)
    masks = enumerate(stacks["masks"])
    return [Item(f"mask {number}", partial(from_coco, {"segmentation": one}), id=own) for number, (own, one) in masks]


def _members(content: Any) -> dict[str, _Array]:
    with content:
        unpacked = sum(member.file_size for member in content.zip.infolist())
        if unpacked > MAX_ARRAY_BYTES:
            raise RegionError(f"its arrays take {unpacked:,} bytes, above {MAX_ARRAY_BYTES:,}")
        known = {"masks", "boxes", "scores"} & set(content.files)
        # A file without any of the names still has to be told apart from an empty one.
        return {name: content[name] for name in sorted(known or set(content.files))}


def _mask_stack(array: _Array) -> list[tuple[int | None, _Array]]:
    """Single (height, width) masks of an array, with their ids; a map of several integers has one for each but 0."""
    given = array.shape
    while array.ndim > 3 and 1 in array.shape[:-2]:
        array = np.squeeze(array, axis=array.shape.index(1))
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3):
        raise RegionError(f"'masks' has shape {given}; give (n, height, width)")
    maps = array if array.ndim == 3 else array[None]
    found: list[tuple[int | None, _Array]] = []
    for one in maps:
        labels = [int(value) for value in (np.unique(one) if array.dtype.kind in "iu" else ()) if value != 0]
        if labels and labels[0] < 0:
            raise RegionError("its numbers go below 0: write 0 where no region is")
        if len(labels) > 1 and len(maps) > 1:
            raise RegionError(f"{len(maps)} maps of several numbers each; give one map, or masks")
        found += [(n, one == n) for n in labels] if len(labels) > 1 else [(None, one)]
    return found


def _box_items(array: _Array, box_format: BoxFormat | None) -> list[Item]:
    if array.ndim != 2 or array.shape[1] != 4:
        raise RegionError(f"'boxes' has shape {array.shape}; give (n, 4), x, y, width, height")
    table = np.asarray(array, dtype=np.float64)
    if box_format is None and len(table) and (table[:, 2:] > table[:, :2]).all():
        _logger.warning(
            "boxes read as x, y, width, height could be corners: say which by box_format (--box-format): xywh or xyxy"
        )
    return items_from([{"bbox": row} for row in array.tolist()], "box", partial(from_coco, box_format=box_format))
