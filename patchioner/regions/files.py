"""Files of regions: this project's JSON, COCO, SAM, labelme and their neighbours; traces.

The content decides what a file is, not its name; nothing is unpickled. Ours:

    {"regions": [
        {"box": [x1, y1, x2, y2], "label": "left dog", "id": 7},
        {"point": [x, y]},
        {"patch": [row, col]},
        {"polygon": [[x, y], ...]},                       (or a list of such rings)
        {"trace": [[x, y], ...], "normalized": true},
        {"mask": "mask.png"},                             (beside the JSON; or an RLE dictionary)
        {"set": [{"box": [...]}, {"point": [...]}]},
        {"whole": true}
    ]}

or, for several images, {"images": {"a.jpg": [...], "b.jpg": [...]}} with such lists. All numbers
are pixels of the original image, x right, y down; ``normalized`` traces count in 0..1.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError, RegionFileError
from patchioner.regions.base import Region, Size, items_of
from patchioner.regions.formats import (
    from_coco,
    label_studio_region,
    label_values,
    labelme_region,
    mask_stack,
    visual_genome_region,
)
from patchioner.regions.mask import Mask
from patchioner.regions.shapes import Box
from patchioner.regions.trace import Trace

_ALLOWED = (
    "give this project's JSON ({'regions': [...]}), COCO annotations, "
    "or SAM's masks as .json or .npz"
)
_REMEDY = 'save bool masks with np.savez_compressed("masks.npz", masks=array)'
_NO_PICKLE = f"it is a pickle, and unpickling runs whatever code is in it; {_REMEDY}"
# Masks of a hundred objects in a photo of 40 megapixels; larger files are refused before they are unpacked.
MAX_ARRAY_BYTES = 4 * 2**30

_Entry = Mapping[str, Any]


@dataclass(frozen=True)
class NamedRegion:
    """One region of a file.

    Attributes:
        region: in pixels of the original image (a trace may count in 0..1).
        label: what the file calls it (our ``label``, COCO's category), or None.
        id: the annotation's id in the file, or None.
    """

    region: Region
    label: str | None = None
    id: int | str | None = None


@dataclass(frozen=True)
class _Item:
    """An entry that is not yet made a region: many are never asked for."""

    what: str
    make: Callable[[Size], Region]
    label: object = None
    id: object = None

    def named(self, image_size: Size) -> NamedRegion:
        try:
            region = self.make(image_size)
            region.require_fit(image_size)
        except RegionError as error:
            raise RegionError(f"{self.what}: {error}") from error
        if self.label is not None and not isinstance(self.label, str):
            raise RegionError(f"{self.what}: label is {self.label!r:.80}; give a text")
        known = isinstance(self.id, (int, str)) and not isinstance(self.id, bool)
        return NamedRegion(region, self.label, self.id if known else None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Photo:
    """What a file has for one photo; `name` is None where the file does not say which."""

    name: str | None
    items: tuple[_Item, ...]
    size: Size | None = None
    image_id: str | None = None


class RegionFile:
    """A file of regions, read once; it answers by photo.

    Args:
        path: as in `read_regions`.
        content: what JSON the file holds, where that has been read already.

    Raises:
        RegionFileError: no such file, or an unknown or unsafe format.

    Example:
        >>> file = RegionFile("coco.json")
        >>> for photo in photos:
        ...     named = file.for_photo(photo.size, photo.path)
    """

    def __init__(self, path: str | Path, content: object = None) -> None:
        self.path = Path(path)
        with _named_errors(self.path):
            self._photos = _photos_of(self.path, content)
        self._by_file_name: dict[str, list[_Photo]] = {}
        for photo in self._photos:
            if photo.name is not None:
                self._by_file_name.setdefault(_parts(photo.name)[-1], []).append(photo)

    def for_photo(self, image_size: Size, image_name: str | None = None) -> list[NamedRegion]:
        """The regions of one photo, in the file's order; RegionFileError for the first bad one.

        Args:
            image_size: (width, height) of the original image; what the file says must agree.
            image_name: its path or file name, for files about several images: the image whose
                path ends alike for the longest stretch is taken.
        """
        found = self.entries(image_size, image_name)
        for one in found:
            if isinstance(one, RegionFileError):
                raise one
        return [one for one in found if isinstance(one, NamedRegion)]

    def entries(
        self, image_size: Size, image_name: str | None = None
    ) -> list[NamedRegion | RegionFileError]:
        """As `for_photo`, but a bad entry is answered by its error and the others are kept.

        Raises:
            RegionFileError: the photo is not in the file, is ambiguous, or has another size there.
        """
        with _named_errors(self.path):
            photos = self._matching(image_name)
            for photo in photos:
                _require_same_size(photo, image_size)
        found: list[NamedRegion | RegionFileError] = []
        for item in (item for photo in photos for item in photo.items):
            try:
                with _named_errors(self.path):
                    found.append(item.named(image_size))
            except RegionFileError as error:
                found.append(error)
        return found

    def _matching(self, image_name: str | None) -> list[_Photo]:
        """The photos that are the named one; several where one name has several ids."""
        photos = self._photos
        if len(photos) == 1 and (photos[0].name is None or image_name is None):
            return photos
        if image_name is None:
            raise RegionError(f"it has {len(photos)} images; say which one by its file name")
        if photos and not self._by_file_name:
            return [_by_number(photos, image_name)]
        wanted = _parts(image_name)
        named = [
            (photo, _parts(photo.name or "")) for photo in self._by_file_name.get(wanted[-1], ())
        ]
        if not named:
            names = [str(photo.name) for photo in photos]
            close = difflib.get_close_matches(image_name, names, n=3, cutoff=0.0)
            raise RegionError(
                f"none of its {len(photos)} images is called {wanted[-1]!r}; "
                f"close: {', '.join(close)}"
            )
        longest = max(_alike_from_the_end(parts, wanted) for _, parts in named)
        found = [one for one in named if _alike_from_the_end(one[1], wanted) == longest]
        paths = sorted({"/".join(parts) for _, parts in found})
        if len(paths) > 1:
            raise RegionError(
                f"{image_name!r} is ambiguous: several of its images are called so, "
                f"{', '.join(paths[:3])}; give the photo with its folder"
            )
        return [photo for photo, _ in found]


@overload
def read_regions(path: str | Path) -> RegionFile: ...


@overload
def read_regions(
    path: str | Path, image_size: Size, image_name: str | None = None
) -> list[NamedRegion]: ...


def read_regions(
    path: str | Path, image_size: Size | None = None, image_name: str | None = None
) -> RegionFile | list[NamedRegion]:
    """Read a file of regions; with an image's size, what it has for that image.

    Args:
        path: our JSON (see `patchioner.regions.files`), COCO annotations or results (LVIS, SA-1B
            and Grounded-SAM-2 too), what SAM's automatic mask generator returns as JSON, masks as
            .npz or .npy (integer label maps: one region per id), labelme, Visual Genome, Label
            Studio. Never a pickle.
        image_size: (width, height) of the original image, in pixels.
        image_name: its path or file name, for files about several images.

    Returns:
        The file, to be asked photo by photo; or the regions of the one image, in the file's order.

    Raises:
        RegionFileError: no such file, an unknown or unsafe format, no such image, a broken entry.

    Example:
        >>> regions = read_regions("regions.json", (640, 480))
        >>> model.caption("photo.jpg", [named.region for named in regions])
    """
    file = RegionFile(path)
    return file if image_size is None else file.for_photo(image_size, image_name)


def read_trace(path: str | Path) -> Trace:
    """Read one trace from a JSON file.

    Takes `[[x, y], ...]` in pixels; `[{"x": .., "y": .., "t": ..}, ...]` in 0..1, as the traces of
    Localized Narratives are published; one of their records, `{"traces": [[{"x": ..}, ...], ...]}`;
    or `{"trace": [...], "normalized": bool}`, which says so itself.

    Raises:
        RegionFileError: no such file, no JSON, or no trace in it.
        RegionError: the points make no trace.
    """
    with _named_errors(Path(path)):
        content = _json(Path(path))
        points, normalized = content, None
        if isinstance(content, Mapping):
            normalized = content.get("normalized")
            points = content.get("trace")
            strokes = content.get("traces")
            if points is None and isinstance(strokes, list):
                # A point off the image breaks the path: the pen was up between strokes.
                up = [{"x": -1.0, "y": -1.0}]
                pieces = [[*up, *items_of(stroke, "stroke")] for stroke in strokes]
                points = [sample for piece in pieces for sample in piece][1:]
        if not isinstance(points, list) or not points:
            raise RegionError(
                "it holds no trace: write [[x, y], ...] in pixels or "
                '{"trace": [[x, y], ...], "normalized": true}'
            )
        if isinstance(points[0], Mapping):
            return Trace.from_points_xyt(points, normalized=normalized is not False)
        return Trace(points, normalized=bool(normalized))


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Every failure of reading becomes a RegionFileError that names the file."""
    name = f"region file {str(path)!r}"
    try:
        yield
    except RegionError as error:
        raise RegionFileError(f"{name}: {error}") from error
    except RecursionError:
        raise RegionFileError(f"{name}: nested too deeply") from None
    except OSError as error:
        raise RegionFileError(f"{name} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # A file that only looks like its format fails in any way.
        raise RegionFileError(f"{name} is broken ({type(error).__name__}: {error})") from error


# Which photo is meant


def _parts(name: str) -> tuple[str, ...]:
    # Files written on Windows have backslashes.
    return PurePosixPath(name.replace("\\", "/")).parts or ("",)


def _alike_from_the_end(one: Sequence[str], two: Sequence[str]) -> int:
    count = 0
    for left, right in zip(reversed(one), reversed(two), strict=False):
        if left != right:
            break
        count += 1
    return count


def _by_number(photos: Sequence[_Photo], image_name: str) -> _Photo:
    """A results list knows images by id alone; COCO's file names end in that number."""
    number = re.search(r"(\d+)$", _parts(image_name)[-1].rpartition(".")[0])
    for photo in photos:
        if number and photo.image_id == str(int(number[1])):
            return photo
    ids = ", ".join(str(photo.image_id) for photo in photos[:3])
    raise RegionError(
        f"it is a list about several images (image_id {ids}), and none is the number at the end of "
        f"{image_name!r}; give the annotation file with its 'images', or one image's part"
    )


def _require_same_size(photo: _Photo, image_size: Size) -> None:
    if photo.size in (None, tuple(image_size)):
        return
    (width, height), (across, down) = photo.size or (0, 0), image_size
    advice = "give the image they were drawn on"
    if (width, height) == (down, across):
        advice = "they were drawn before the photo's EXIF rotation: draw them on the upright photo"
    raise RegionError(
        f"its annotations are for {photo.name!r} of {width}x{height}, "
        f"but the image is {across}x{down}; {advice}"
    )


def _stated_size(width: object, height: object) -> Size | None:
    """Text that is a number counts; 0 and -1 are how exporters say that they do not know."""
    try:
        size = int(str(width)), int(str(height))
    except ValueError:
        return None
    return size if min(size) > 0 else None


# Formats


def _photos_of(path: Path, content: object) -> list[_Photo]:
    if content is None:
        with path.open("rb") as stream:
            opening = stream.read(6)
        if opening[:1] == b"\x80":
            raise RegionError(_NO_PICKLE)
        if opening[:4] == b"PK\x03\x04" or opening == b"\x93NUMPY":
            return [_Photo(None, tuple(_array_items(path)))]
        content = _json(path)
    if isinstance(content, Mapping):
        return _photos_of_mapping(content, path.parent)
    if isinstance(content, list) and all(isinstance(entry, Mapping) for entry in content):
        return _photos_of_list(content, path.parent)
    raise RegionError(f"JSON, but of no known form; {_ALLOWED}")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise RegionError(f"not JSON ({error}); {_ALLOWED}") from error


def _photos_of_mapping(content: _Entry, folder: Path) -> list[_Photo]:
    if "annotations" in content and "images" in content:
        return _coco(content)
    if "annotations" in content and isinstance(content.get("image"), Mapping):
        return [_one_image(content["image"], content)]  # SA-1B
    if "annotations" in content and "box_format" in content:
        return [_grounded_sam(content)]
    if "shapes" in content:
        size = _stated_size(content.get("imageWidth"), content.get("imageHeight"))
        shapes = _entries(content, "shapes")
        return [_Photo(None, tuple(_items(shapes, "shape", labelme_region)), size)]
    if _is_visual_genome(content):
        return _photos_of_list([content], folder)
    if "regions" in content:
        return [_ours(None, content["regions"], folder)]
    if "images" in content:
        images = content["images"]
        if not isinstance(images, Mapping):
            raise RegionError(f"'images' is not {{'name.jpg': [...]}}; {_ALLOWED}")
        return [_ours(str(name), entries, folder) for name, entries in images.items()]
    if "segmentation" in content or "bbox" in content:
        return _photos_of_list([content], folder)  # one annotation on its own
    raise RegionError(f"JSON, but of no known form; {_ALLOWED}")


def _photos_of_list(content: list[_Entry], folder: Path) -> list[_Photo]:
    if any(_is_visual_genome(entry) for entry in content):
        return [_visual_genome(entry) for entry in content]
    if any("data" in entry and "annotations" in entry for entry in content):
        return [_label_studio(entry) for entry in content]
    if any("segmentation" in entry or "bbox" in entry for entry in content):
        groups: dict[str, list[_Item]] = {}
        what = "annotation" if any("image_id" in e for e in content) else "entry"
        for item, entry in zip(_items(content, what, from_coco), content, strict=True):
            groups.setdefault(str(entry.get("image_id")), []).append(item)
        return [_Photo(None, tuple(items), image_id=one) for one, items in groups.items()]
    return [_ours(None, content, folder)]


def _items(
    entries: Iterable[_Entry],
    what: str,
    make: Callable[[_Entry, Size], Region],
    label: Callable[[_Entry], object] = lambda entry: entry.get("label"),
) -> list[_Item]:
    found = []
    for index, entry in enumerate(entries):
        own = entry.get("id") if isinstance(entry, Mapping) else None
        name = f"{what} {index}" + ("" if own is None else f" (id {own!r:.40})")
        called = label(entry) if isinstance(entry, Mapping) else None
        found.append(_Item(name, partial(make, entry), called, own))
    return found


def _ours(name: str | None, entries: object, folder: Path) -> _Photo:
    def make(entry: _Entry, image_size: Size) -> Region:
        if isinstance(entry, Mapping):
            entry = {key: value for key, value in entry.items() if key not in ("label", "id")}
        return Region.from_json(entry, folder)

    listed: list[Any] = items_of(entries, "the list of regions")
    return _Photo(name, tuple(_items(listed, "region", make)))


def _coco(content: _Entry) -> list[_Photo]:
    categories = _entries(content, "categories") if "categories" in content else []
    names = {str(one.get("id")): one.get("name") for one in categories}

    def label(entry: _Entry) -> object:
        name = names.get(str(entry.get("category_id")))
        return None if name is None else str(name)

    annotations = _entries(content, "annotations")
    groups: dict[str, list[_Item]] = {}
    for entry, item in zip(
        annotations, _items(annotations, "annotation", from_coco, label), strict=True
    ):
        # Exporters write ids as text in one place and as numbers in the other.
        groups.setdefault(str(entry.get("image_id")), []).append(item)
    return [
        _Photo(
            _file_name(image),
            tuple(groups.get(str(image.get("id")), ())),
            _stated_size(image.get("width"), image.get("height")),
        )
        for image in _entries(content, "images")
    ]


def _file_name(image: _Entry) -> str:
    # LVIS v1 has URLs alone.
    return str(image.get("file_name") or image.get("coco_url") or image.get("id"))


def _one_image(image: _Entry, content: _Entry) -> _Photo:
    size = _stated_size(image.get("width"), image.get("height"))
    items = _items(_entries(content, "annotations"), "annotation", from_coco)
    return _Photo(None, tuple(items), size)


def _grounded_sam(content: _Entry) -> _Photo:
    corners = content["box_format"] == "xyxy"

    def make(entry: _Entry, image_size: Size) -> Region:
        return from_coco({**entry, "bbox_mode": 0} if corners else entry, image_size)

    entries = _entries(content, "annotations")
    items = _items(entries, "annotation", make, lambda entry: entry.get("class_name"))
    size = _stated_size(content.get("img_width"), content.get("img_height"))
    return _Photo(None, tuple(items), size)


def _is_visual_genome(entry: _Entry) -> bool:
    parts = entry.get("regions", entry.get("objects"))
    return (
        isinstance(parts, list)
        and bool(parts)
        and all(isinstance(part, Mapping) and {"x", "y"} <= part.keys() for part in parts)
    )


def _visual_genome(entry: _Entry) -> _Photo:
    def label(part: _Entry) -> object:
        names = part.get("names") or [None]
        return part.get("phrase", part.get("name", names[0]))

    parts = [part for part in entry.get("regions", entry.get("objects", ())) if part]
    items = _items(parts, "region", visual_genome_region, label)
    return _Photo(None, tuple(items), image_id=str(entry.get("image_id", entry.get("id"))))


def _label_studio(task: _Entry) -> _Photo:
    results = [
        result
        for annotation in _entries(task, "annotations")
        for result in _entries(annotation, "result")
        if isinstance(result.get("value"), Mapping) and "original_width" in result
    ]
    items = _items(
        results,
        "result",
        label_studio_region,
        lambda result: (result["value"].get(result.get("type")) or [None])[0],
    )
    data = task.get("data")
    names = [str(value) for value in data.values()] if isinstance(data, Mapping) else []
    # Uploads are renamed: eight hexadecimal digits before the photo's name.
    name = re.sub(r"([/\\]|^)[0-9a-f]{8}-(?=[^/\\]+$)", r"\1", names[0]) if names else None
    return _Photo(name, tuple(items))


def _entries(content: _Entry, key: str) -> list[_Entry]:
    entries = items_of(content.get(key), f"{key!r}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise RegionError(f"entry {index} of {key!r} is {entry!r:.80}, no dictionary")
    return entries  # type: ignore[return-value]


# Arrays: .npz with `masks`, or else `boxes` (n, 4) x, y, width, height; `scores` are not used


def _array_items(path: Path) -> list[_Item]:
    try:
        # Opened here: given a path, numpy leaves a broken zip file open.
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            arrays = {"masks": content} if isinstance(content, np.ndarray) else _members(content)
    except RegionError:
        raise
    except Exception as error:  # numpy reads headers as Python: anything can come of a broken one
        raise RegionError(f"its arrays cannot be read ({error}); {_REMEDY}") from error
    if not {"masks", "boxes"} & set(arrays):
        raise RegionError(f"its arrays are {sorted(arrays)}, none is 'masks'; {_REMEDY}")
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    if "masks" in arrays:
        labels: list[Any] = label_values(arrays["masks"])
        stack = list(mask_stack(arrays["masks"]))
        if not labels:
            lengths["masks"] = len(stack)
        else:
            del lengths["masks"]
    if (
        len({length for name, length in lengths.items() if name in ("masks", "boxes", "scores")})
        > 1
    ):
        raise RegionError(f"its arrays have different lengths: {lengths}; give one row per mask")
    if "masks" not in arrays:
        return _box_items(arrays["boxes"])
    ids = labels or [None] * len(stack)
    return [
        _Item(f"mask {index}", partial(_mask, one), id=own)
        for index, (one, own) in enumerate(zip(stack, ids, strict=True))
    ]


def _members(content: Any) -> dict[str, npt.NDArray[np.generic]]:
    with content:
        unpacked = sum(member.file_size for member in content.zip.infolist())
        if unpacked > MAX_ARRAY_BYTES:
            raise RegionError(f"its arrays take {unpacked:,} bytes, above {MAX_ARRAY_BYTES:,}")
        known = {"masks", "boxes", "scores"} & set(content.files)
        # A file without any of the names still has to be told apart from an empty one.
        return {name: content[name] for name in sorted(known or set(content.files))}


def _mask(array: npt.NDArray[np.generic], image_size: Size) -> Region:
    return Mask(array)


def _box_items(array: npt.NDArray[np.generic]) -> list[_Item]:
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

    return [_Item(f"box {index}", partial(make, row)) for index, row in enumerate(rows)]
