"""Reading a file of regions, whatever its format: the content decides, not the name.

Knows: how to tell the formats apart. Does NOT know their details.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from patchioner.base.errors import RegionError, RegionFileError
from patchioner.region_files.arrays import array_regions
from patchioner.region_files.coco import coco_regions
from patchioner.region_files.lookup import part_of
from patchioner.region_files.named import NamedRegion
from patchioner.region_files.native import named_region
from patchioner.regions import from_sam
from patchioner.regions.values import items_of

ImageSize = tuple[int, int]

_ALLOWED = (
    "give this project's JSON ({'regions': [...]}), COCO annotations, "
    "or SAM's masks as .json or .npz"
)
_NO_PICKLE = (
    "it is a pickle, and unpickling runs whatever code is in it; save the masks again with "
    'np.savez_compressed("masks.npz", masks=array)'
)


def read_regions(
    path: str | Path, image_size: ImageSize, image_name: str | None = None
) -> list[NamedRegion]:
    """The regions that a file has for one image.

    Args:
        path: this project's JSON (see `patchioner.region_files.native`), COCO annotations, or
            what SAM's automatic mask generator returns, as JSON, .npz or .npy (see
            `patchioner.region_files.arrays`). Never a pickle.
        image_size: (width, height) of the original image, in pixels.
        image_name: its file name, for files about several images; folders do not matter.

    Returns:
        At least one region, in the file's order.

    Raises:
        RegionFileError: no such file, an unknown or unsafe format, a broken entry (named), or
            nothing for this image.

    Example:
        >>> regions = read_regions("regions.json", (640, 480))
        >>> model.caption("photo.jpg", [named.region for named in regions])
    """
    file = Path(path)
    try:
        found = _reader(_opening(file))(file, image_size, image_name)
    except RegionError as error:
        raise RegionFileError(f"region file {str(path)!r}: {error}") from error
    except RecursionError:
        raise RegionFileError(f"region file {str(path)!r}: nested too deeply") from None
    except OSError as error:
        reason = error.strerror or error
        raise RegionFileError(f"region file {str(path)!r} cannot be read: {reason}") from error
    if not found:
        which = f" for {image_name!r}" if image_name else ""
        raise RegionFileError(f"region file {str(path)!r} has no region{which}; add at least one")
    return found


_Reader = Callable[[Path, ImageSize, str | None], list[NamedRegion]]


def _opening(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(6)


def _reader(opening: bytes) -> _Reader:
    if opening[:1] == b"\x80":
        raise RegionError(_NO_PICKLE)
    if opening[:4] == b"PK\x03\x04" or opening == b"\x93NUMPY":
        return _read_arrays
    return _read_json


def _read_arrays(file: Path, image_size: ImageSize, image_name: str | None) -> list[NamedRegion]:
    return array_regions(file, image_size)


def _read_json(file: Path, image_size: ImageSize, image_name: str | None) -> list[NamedRegion]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise RegionError(f"not JSON ({error}); {_ALLOWED}") from error
    if isinstance(content, Mapping):
        if "annotations" in content and "images" in content:
            return coco_regions(content, image_size, image_name)
        if "regions" in content or "images" in content:
            return _native(_entries(content, image_name), file.parent, image_size)
        # One annotation or mask on its own is a list of one.
        content = [content] if "segmentation" in content else content
    if isinstance(content, list) and all(isinstance(entry, Mapping) for entry in content):
        if not content or any("segmentation" in entry for entry in content):
            return [NamedRegion(region) for region in from_sam(content, image_size)]
        return _native(content, file.parent, image_size)
    raise RegionError(f"JSON, but of no known form; {_ALLOWED}")


def _entries(content: Mapping[str, object], image_name: str | None) -> list[object]:
    """The list of regions of one image."""
    if "regions" in content:
        return items_of(content["regions"], "'regions'")
    images = content["images"]
    if not isinstance(images, Mapping):
        raise RegionError(f"'images' is not {{'name.jpg': [...]}}; {_ALLOWED}")
    return items_of(part_of(images, image_name), "the list of regions")


def _native(entries: list[object], folder: Path, image_size: ImageSize) -> list[NamedRegion]:
    found = []
    for index, entry in enumerate(entries):
        try:
            found.append(named_region(entry, folder, image_size))
        except RegionError as error:
            raise RegionError(f"region {index}: {error}") from error
    return found
