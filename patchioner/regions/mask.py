"""Masks of any shape, from arrays, run lengths, picture files and other tools' results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import ImageError, RegionError
from patchioner.base.files import leads_out
from patchioner.geometry import ImageGeometry
from patchioner.regions.base import Floats, Footprints, Outline, Shape, Size, as_numpy, items_of, true_extent
from patchioner.regions.shapes import axis_overlap, clip_boxes, grid_boxes, require_seen

_MOST_PIXELS = 1 << 28  # more than any photo, and a bound on what a forged size can make us allocate
_ROW_BLOCK = 512  # rows that are turned into floats at a time, so that a huge mask needs little extra memory
_RESIZE = "resize the mask to the image, nearest neighbour"


def inside(folder: Path, name: str) -> Path:
    """A file that another file names; RegionError where that leads out of the folder of the latter."""
    if leads_out(name):
        raise RegionError(f"{name!r:.80} leads out of {str(folder)!r}: put the file in there")
    return folder / name


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Mask(Shape):
    """The pixels where an array is true.

    Args:
        array: (height, width) of the original image: bool, integers (0 is outside), or floats that are 0 or 1; axes of
            length one before or after it do not count. Kept as a read-only bool copy. RegionError for other shapes or
            values, or where none is true.

    Example:
        >>> Mask(np.eye(4, dtype=bool))
        Mask(4x4, 4 pixels)
    """

    kind: ClassVar[str] = "mask"
    extent_is_given: ClassVar[bool] = True

    array: npt.NDArray[np.bool_]
    _extent: Floats

    def __init__(self, array: object) -> None:
        marked = _as_bool(as_numpy(array))
        if not marked.any():
            raise RegionError(f"the {marked.shape[1]}x{marked.shape[0]} mask is empty; mark at least one pixel")
        for name, value in (("array", marked), ("_extent", true_extent(marked))):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[type[Self], tuple[npt.NDArray[np.bool_]]]:
        return type(self), (self.array,)  # read-only again

    def __repr__(self) -> str:
        height, width = self.array.shape
        return f"Mask({width}x{height}, {np.count_nonzero(self.array)} pixels)"

    def __eq__(self, other: object) -> bool:
        return np.array_equal(self.array, other.array) if isinstance(other, Mask) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.array.shape, self._extent.tobytes()))  # cheap: few unequal masks share them

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the image that the mask belongs to."""
        return self.array.shape[1], self.array.shape[0]

    @classmethod
    def from_rle(cls, rle: Mapping[str, object], image_size: Size | None = None) -> Self:
        """A mask from COCO's run lengths; one of another (width, height) than `image_size` is not even unpacked."""
        if image_size is not None and isinstance(rle, Mapping) and "size" in rle:
            require_same_size("the mask", _size(rle["size"])[::-1], image_size)
        return cls(decode_rle(rle))

    @classmethod
    def from_file(cls, path: str | Path | bytes) -> Self:
        """A mask from a picture of the image's size, PNG say; every pixel that is not black or transparent counts.

        Of a path or the bytes; a palette picture is read by its indices, a colour one by its channels. RegionError for
        what is no picture, where no pixel counts, or where the darkest are nearly black.
        """
        from patchioner.images import read_picture

        try:
            pixels = read_picture(path, lambda picture, name: _picture_values(picture))
        except ImageError as error:
            raise RegionError(f"mask: {error}") from error
        if not pixels.any():
            raise RegionError(f"mask {str(path)!r:.200} is empty: all its pixels are black")
        if 0 < pixels.min() < pixels.max() / 4:
            raise RegionError(f"mask {str(path)!r:.200} is nowhere black (least: {pixels.min()}): write 0 outside it")
        return cls(pixels != 0)

    @classmethod
    def from_supervision(cls, detections: Any) -> list[Self]:
        """One mask per row of a ``supervision.Detections``; none where it has no ``mask``."""
        return [] if detections.mask is None else [cls(one) for one in as_numpy(detections.mask)]

    @classmethod
    def from_ultralytics(cls, result: Any) -> list[Self]:
        """One mask per detection of one ultralytics ``Results``, without padding, at the photo's own size."""
        if result.masks is None:
            return []
        height, width = (int(side) for side in result.orig_shape[:2])
        return [cls(_unpadded(one, (width, height))) for one in as_numpy(result.masks.data)]

    def require_fit(self, image_size: Size) -> None:
        """RegionError unless the mask is as large as the image, (width, height)."""
        require_same_size("the mask", self.image_size, image_size)

    @classmethod
    def place(cls, shapes: Sequence[Self], geometry: ImageGeometry, reference: bool) -> Footprints:
        """Exact coverage; the published system has no masks, so both roundings agree."""
        for mask in shapes:
            mask.require_fit(geometry.image_size)
        columns, rows = _pixel_shares(geometry)
        bounds = np.array([mask._extent.ravel() for mask in shapes])
        extents = grid_boxes(clip_boxes(bounds, geometry.visible), geometry)
        cover = np.stack([_cover(mask, columns, rows) for mask in shapes])
        total = cover.sum(axis=(1, 2), keepdims=True)
        require_seen(total.ravel() > 0.0, shapes, geometry)
        return cover / total, extents

    def extent(self) -> Floats:
        """Pixel edges around the true pixels."""
        return self._extent

    def _drawn(self, image_size: Size, geometry: ImageGeometry | None) -> list[Outline]:
        return [Outline("mask", self._extent, self.array)]

    def _words(self) -> str:
        return f"of {np.count_nonzero(self.array)} pixels"

    def _value(self) -> object:
        return encode_rle(self.array)

    @classmethod
    def _parse(cls, entry: Mapping[str, Any], folder: Path | None) -> Self:
        source = entry["mask"]
        if isinstance(source, Mapping):
            return cls.from_rle(source)
        if isinstance(source, str) and folder is not None:
            return cls.from_file(inside(folder, source))
        form = "an RLE dictionary" if folder is None else "a file name or an RLE dictionary"
        raise RegionError(f"'mask' is {source!r:.80}; give {form}")


def require_same_size(what: str, own: Size, image_size: Size, advice: str = _RESIZE) -> None:
    """RegionError with the advice where a (width, height) is not that of the image."""
    if own == tuple(image_size):
        return
    (width, height), (across, down) = own, image_size
    if own == (down, across):
        advice = "draw on the upright photo, or say exif='ignore' (--exif ignore): EXIF turns it"
    raise RegionError(f"{what} is {width}x{height} but the image is {across}x{down}; {advice}")


def _as_bool(array: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """A fresh (h, w) bool copy."""
    given = array.shape
    while array.ndim > 2 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or 0 in array.shape:
        raise RegionError(f"a mask is a (height, width) array; this one has shape {given}")
    kind = array.dtype.kind
    if not (kind in "biu" or (kind == "f" and ((array == 0) | (array == 1)).all())):
        raise RegionError(f"a mask holds yes or no: compare the {array.dtype}s with a threshold")
    marked = np.asarray(array != 0)  # new already
    if array.dtype != bool and (marked & (array != array.flat[marked.argmax()])).any():
        one = "Mask(array == n) is one of a label map, from_sam(array) each; of a soft mask"
        raise RegionError(f"the mask has several numbers besides 0: {one} Mask(array > 127)")
    return marked


def _picture_values(picture: Any) -> npt.NDArray[np.generic]:
    """(h, w) values of a PIL image: grey level or index; the brightest channel of a colour one."""
    values: npt.NDArray[Any] = np.asarray(picture)
    if values.ndim == 3 and picture.mode.endswith("A"):
        values = values[..., :-1] * (values[..., -1:] > 0)  # transparent is outside
    return values if values.ndim == 2 else np.asarray(values.max(axis=-1))


def _pixel_shares(geometry: ImageGeometry) -> tuple[Floats, Floats]:
    """How much of a cell each pixel column (w, W) and each pixel row (h, H) covers."""
    (width, height), (rows, columns) = geometry.image_size, geometry.grid
    edges = np.arange(max(width, height) + 1, dtype=np.float64)
    x, y = geometry.to_grid(np.stack([edges, edges], axis=1)).T
    x, y = x[: width + 1], y[: height + 1]
    return axis_overlap(x[:-1], x[1:], columns).T, axis_overlap(y[:-1], y[1:], rows).T


def _cover(mask: Mask, columns: Floats, rows: Floats) -> Floats:
    """(h, w) float64 = rows @ mask @ columns^T, over the mask's bounds only."""
    left, top, right, bottom = mask._extent.astype(np.int64).ravel()
    across = np.ascontiguousarray(columns[:, left:right].T)
    cover = np.zeros((len(rows), len(columns)), dtype=np.float64)
    for start in range(top, bottom, _ROW_BLOCK):
        stop = min(start + _ROW_BLOCK, bottom)
        cover += rows[:, start:stop] @ (mask.array[start:stop, left:right].astype(np.float64) @ across)
    return cover


def _unpadded(array: npt.NDArray[np.generic], size: Size) -> npt.NDArray[np.bool_]:
    """A letterboxed (h, w) mask at the size (width, height) of its photo."""
    from PIL import Image

    inside = _as_bool(array)
    if inside.shape == size[::-1]:
        return inside
    gain = min(inside.shape[0] / size[1], inside.shape[1] / size[0])
    left = max(0.0, (inside.shape[1] - size[0] * gain) / 2)
    top = max(0.0, (inside.shape[0] - size[1] * gain) / 2)
    box = (left, top, inside.shape[1] - left, inside.shape[0] - top)
    picture = Image.fromarray(inside.astype(np.uint8) * np.uint8(255))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box)) > 127


def decode_rle(rle: Mapping[str, object]) -> npt.NDArray[np.bool_]:
    """Decode ``{"size": [height, width], "counts": list of runs, or compressed str}`` to a (height, width) bool mask.

    RegionError where it is no RLE, or the runs do not fill the mask exactly.

    Example:
        >>> decode_rle({"size": [2, 2], "counts": [1, 2, 1]})
        array([[False,  True],
               [ True, False]])
    """
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise RegionError(f"{rle!r:.80} is no RLE; give {{'size': [height, width], 'counts': ...}}")
    height, width = _size(rle["size"])
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        # Not through pycocotools: it hands back uninitialised memory when runs are missing.
        counts = _runs_of_string(counts if isinstance(counts, bytes) else counts.encode("ascii", "replace"))
    runs = as_numpy(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or np.min(runs, initial=0) < 0:
        raise RegionError("counts of the RLE must be a list of non-negative integers or a string")
    # Python's integers: an int64 sum of forged runs could wrap around to the right total.
    total = sum(runs.tolist())
    if total != height * width:
        raise RegionError(f"the RLE's runs sum to {total}, not to {height} x {width}; is its size [height, width]?")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64)).reshape((height, width), order="F")


def rle_pixels(entry: object, image_size: Size) -> int:
    """Pixels of all run lengths in what JSON holds; RegionError where one is of another (width, height)."""
    if not isinstance(entry, Mapping | list):
        return 0
    if isinstance(entry, Mapping) and "counts" in entry:
        require_same_size("the mask", _size(entry.get("size"))[::-1], image_size)
        return image_size[0] * image_size[1]
    parts = entry.values() if isinstance(entry, Mapping) else entry
    return sum(rle_pixels(part, image_size) for part in parts)


def encode_rle(mask: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """The uncompressed run lengths of a (height, width) mask: what `decode_rle` reads."""
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _size(size: object) -> tuple[int, int]:
    sides = items_of(size, "size of the RLE")
    whole = [int(side) for side in sides if isinstance(side, (int, np.integer)) and side > 0]
    if len(sides) != 2 or len(whole) != 2:
        raise RegionError(f"size of the RLE is {size!r}; give two positive integers, height, width")
    if whole[0] * whole[1] > _MOST_PIXELS:
        raise RegionError(f"size of the RLE is {size!r}: over {_MOST_PIXELS} pixels")
    return whole[0], whole[1]


def _runs_of_string(counts: bytes) -> list[int]:
    """Run lengths of a compressed string.

    Source: the format of the COCO API. Numbers are groups of 5 bits, lowest first, as characters from "0" on; bit 6
    says that more follow, the top bit of the last is the sign. From the fourth on it is what the run two before lacks.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            raise RegionError(f"the compressed RLE {counts!r:.60} is broken: not COCO's alphabet")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise RegionError(f"the compressed RLE {counts!r:.60} ends in the middle of a number")
    return runs
