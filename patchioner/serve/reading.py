"""Photos and regions out of requests, within limits."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from patchioner.base.errors import ImageError, PatchionerError, RegionError
from patchioner.images import PILLOW_QUIET, load_image, readable_formats
from patchioner.regions import Mask, Region, WholeImage, from_coco
from patchioner.serve.errors import RequestError, bad_request, told
from patchioner.serve.settings import ServeSettings

T = TypeVar("T")
Size = tuple[int, int]
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "MPO", "PPM")
_MOST_NUMBERS, _DEEPEST = 50_000, 8  # of a region
_MOST_MASK_PIXELS = 2**28  # of a request: a byte each, when unpacked


def photo_bytes(text: str) -> bytes:
    """The file in base64 or a data URL; RequestError for a link, a path, or no base64."""
    head, comma, body = text.partition(",") if text.startswith("data:") else ("", "", text)
    if re.match(r"[a-z]{2,10}://", text, re.IGNORECASE) or (head and not comma):
        raise RequestError(
            400, "bad_image", "photos are not fetched: send the file as base64 or a data URL"
        )
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, "bad_image", "the image is no base64 and no data URL") from None


def open_photo(data: bytes, settings: ServeSettings) -> Image.Image:
    """A file of a known kind as upright RGB; RequestError where it is too large, damaged, or of another kind."""
    readable_formats()  # those of extras, too
    formats = [one for one in _FORMATS if one in Image.OPEN]
    try:
        with PILLOW_QUIET, Image.open(io.BytesIO(data), formats=formats) as picture:
            if picture.width * picture.height > settings.max_pixels:
                raise RequestError(
                    413,
                    "too_large",
                    f"the photo has {picture.width} x {picture.height} pixels, more than "
                    f"{settings.max_pixels:,}: make it smaller first",
                )
            return load_image(picture)
    except RequestError:
        raise
    except Image.DecompressionBombError:
        raise RequestError(413, "too_large", "the photo has too many pixels") from None
    except MemoryError:
        raise RequestError(413, "too_large", "too little memory for this photo") from None
    except Exception as error:  # decoders fail in any way at hostile files
        raise told(error if isinstance(error, ImageError) else ImageError()) from error


def named_photo(name: str, root: Path | None, most: int) -> bytes:
    """A file of the server's folder; RequestError where it is not there, lies elsewhere, or is too large."""
    refused = RequestError(400, "bad_image", f"no photo {name!r:.80} in the server's --root")
    if root is None or "\0" in name:
        raise refused
    try:
        base = root.resolve()
        path = (base / name).resolve()
        if not path.is_relative_to(base) or not path.is_file():
            raise refused
        if path.stat().st_size > most:
            raise RequestError(413, "too_large", f"the photo {name!r:.80} is too large")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError):
        raise refused from None


def region_list(
    entries: Sequence[Any] | None, size: Size, settings: ServeSettings
) -> list[Region | PatchionerError]:
    """Each entry as a region or its error; None is the whole photo.

    Args:
        entries: our JSON, or ``{"format": "coco" | "rle", ...}``; or what another dialect found: a region's error.
        size: (width, height) of the photo.

    Raises:
        RequestError: none, or more than are allowed, by number or by the pixels of their masks.
    """
    if entries is None:
        return [WholeImage()]
    if not entries:
        raise bad_request("'regions' is empty: leave it out for the whole photo")
    most, room = settings.max_regions, _MOST_MASK_PIXELS
    if len(entries) > most:
        raise RequestError(413, "too_large", f"{len(entries)} regions: give at most {most}")
    found: list[Region | PatchionerError] = []
    for entry in entries:
        pixels = _attempt(_mask_pixels, entry, size)
        if isinstance(pixels, PatchionerError):
            found.append(pixels)
            continue
        room -= pixels
        if room < 0:
            message = f"masks of more than {_MOST_MASK_PIXELS:,} pixels in all: send some at a time"
            raise RequestError(413, "too_large", message)
        found.append(_attempt(_region, entry, size))
    return found


def _attempt(work: Callable[[Any, Size], T], entry: Any, size: Size) -> T | PatchionerError:
    try:
        return work(entry, size)
    except PatchionerError as error:
        return error
    except RecursionError:
        return RegionError("the region is nested too deeply")
    except Exception:  # what only looks like a region fails in any way
        return RegionError(f"{entry!r:.80} is no region: see docs/regions.md")


def _region(entry: Any, size: Size) -> Region:
    region = _made(entry, size)
    region.require_fit(size)
    return region


def _made(entry: Any, size: Size) -> Region:
    if not isinstance(entry, Mapping):
        return Region.from_json(entry)
    given = {key: value for key, value in entry.items() if key not in ("format", "label", "id")}
    form = entry.get("format")
    if form not in (None, "coco", "rle"):
        raise RegionError(f"format {form!r:.40} is unknown: use coco, rle, or leave it out")
    if form is None:
        return Region.from_json(given)
    return from_coco(given, size) if form == "coco" else Mask.from_rle(given, size)


def _mask_pixels(entry: Any, size: Size) -> int:
    """Pixels of the masks in an entry; what would take much memory or time is refused before it is read."""
    if isinstance(entry, PatchionerError):
        raise entry
    numbers, masks, level = 0, 0, [entry]
    for _ in range(_DEEPEST):
        deeper: list[Any] = []
        for one in level:
            if isinstance(one, Mapping):
                if "counts" in one:
                    Mask.require_rle_size(one.get("size"), size)
                    masks += 1
                deeper += [value for key, value in one.items() if key != "counts"]
            elif isinstance(one, list):
                numbers += len(one)
                deeper += [value for value in one if isinstance(value, list | Mapping)]
        if numbers > _MOST_NUMBERS:
            raise RegionError(f"the region has more than {_MOST_NUMBERS:,} numbers: simplify it")
        level = deeper
    if level:
        raise RegionError("the region is nested too deeply")
    return masks * size[0] * size[1]
