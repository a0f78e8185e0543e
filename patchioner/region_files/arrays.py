"""Masks stored as numpy files, without pickle. Does NOT know JSON.

* ``.npz``: ``masks`` (n, height, width) bool; beside it perhaps ``boxes`` (n, 4), x, y, width,
  height in pixels, used only where there are no ``masks``, and ``scores`` (n,), not used.
* ``.npy``: a bool array (n, height, width), or (height, width) for one mask.

What SAM's automatic mask generator returns becomes such a file by
``np.savez_compressed("masks.npz", masks=np.stack([m["segmentation"] for m in result]))``.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchioner.base.errors import RegionError
from patchioner.region_files.named import NamedRegion
from patchioner.regions import Box, Mask, Region

_REMEDY = 'save bool masks with np.savez_compressed("masks.npz", masks=array)'
_READ_ERRORS = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError)


def array_regions(path: Path, image_size: tuple[int, int]) -> list[NamedRegion]:
    """The regions of an .npz or .npy file, in order, without labels.

    Raises:
        RegionError: pickled objects, a truncated file, other arrays than those above.
    """
    try:
        # Opened here: given a path, numpy leaves a broken zip file open.
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            arrays = {"masks": content} if isinstance(content, np.ndarray) else _members(content)
    except _READ_ERRORS as error:
        raise RegionError(f"its arrays cannot be read ({error}); {_REMEDY}") from error
    _require_same_length(arrays)
    if "masks" in arrays:
        return [NamedRegion(mask) for mask in _masks(arrays["masks"], image_size)]
    if "boxes" in arrays:
        return [NamedRegion(box) for box in _boxes(arrays["boxes"])]
    raise RegionError(f"its arrays are {sorted(arrays)}, none is 'masks'; {_REMEDY}")


def _members(content: np.lib.npyio.NpzFile) -> dict[str, npt.NDArray[np.generic]]:
    with content:
        known = {"masks", "boxes", "scores"} & set(content.files)
        # A file without any of the names still has to be told apart from an empty one.
        return {name: content[name] for name in sorted(known or set(content.files))}


def _require_same_length(arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    parts = ("masks", "boxes", "scores")
    lengths = {n: len(a) for n, a in arrays.items() if n in parts and a.ndim and n != "masks"}
    masks = arrays.get("masks")
    if masks is not None and masks.ndim == 3:
        lengths["masks"] = len(masks)
    if len(set(lengths.values())) > 1:
        raise RegionError(f"its arrays have different lengths: {lengths}; give one row per mask")


def _masks(array: npt.NDArray[np.generic], image_size: tuple[int, int]) -> list[Region]:
    if array.ndim not in (2, 3):
        raise RegionError(f"'masks' has shape {array.shape}; give (n, height, width)")
    masks: list[Region] = []
    for index, one in enumerate(array if array.ndim == 3 else array[None]):
        try:
            mask = Mask(one)
            mask.require_size(image_size)
        except RegionError as error:
            raise RegionError(f"mask {index}: {error}") from error
        masks.append(mask)
    return masks


def _boxes(array: npt.NDArray[np.generic]) -> list[Region]:
    if array.ndim != 2 or array.shape[1] != 4:
        raise RegionError(f"'boxes' has shape {array.shape}; give (n, 4), x, y, width, height")
    boxes: list[Region] = []
    for index, row in enumerate(array.tolist()):
        try:
            boxes.append(Box.from_xywh(*row))
        except RegionError as error:
            raise RegionError(f"box {index}: {error}") from error
    return boxes
