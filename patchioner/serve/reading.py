"""Photos and regions out of requests, within limits; and what a client is told is wrong, never in a library's words."""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

from PIL import Image

from patchioner.base import errors
from patchioner.base.errors import ImageError, PatchionerError, RegionError
from patchioner.images import PILLOW_QUIET, load_image, readable_formats
from patchioner.regions import Mask, Region, WholeImage, from_coco
from patchioner.serve.settings import ServeSettings

T = TypeVar("T")
_URLSAFE = str.maketrans("-_", "+/")  # base64's other spelling
Size = tuple[int, int]
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "MPO", "PPM")
_MOST_NUMBERS, _DEEPEST = 50_000, 8  # of a region
_MOST_SCANS = 100  # of a JPEG, each of which takes as long as the whole photo
_TILE = (322, 323)  # TIFF's tags for width and height of tiles
_MOST_MASK_PIXELS = 2**28  # of a request: a byte each, when unpacked
# The last column replaces messages that quote a library.
_TOLD: tuple[tuple[Any, int, str, str | None], ...] = (
    ((errors.RegionError, errors.RegionFileError), 400, "bad_region", None),
    ((errors.OptionError, errors.DecoderError), 400, "bad_option", None),
    (errors.TextError, 400, "bad_text", None),
    (errors.UnknownNameError, 404, "unknown_model", None),
    (errors.ImageError, 400, "bad_image", "the photo is damaged, or of no known kind"),
    (errors.OutOfMemoryError, 413, "too_large", "too little memory: give fewer regions"),
)


class RequestError(PatchionerError):
    """A request without an answer: HTTP's status, a word for programs, seconds after which to try again."""

    def __init__(self, status: int, kind: str, message: str, wait: int | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.retry_after = status, kind, wait

    def to_dict(self) -> dict[str, Any]:
        """As it stands in answers, under "error"."""
        return {"type": self.kind, "message": str(self)}


bad_request = partial(RequestError, 400, "bad_request")  # it cannot be understood
bad_image = partial(RequestError, 400, "bad_image")  # there is no such photo, or it is none
too_large = partial(RequestError, 413, "too_large")  # a limit is passed


def told(error: BaseException) -> RequestError:
    """What a client is told of an error; of one that nobody foresaw, nothing but that."""
    if isinstance(error, RequestError):
        return error
    for sort, status, kind, words in _TOLD:
        if isinstance(error, sort):
            return RequestError(status, kind, words or str(error))
    return RequestError(500, "failed", "the server failed at this request; its log says more")


def photo_bytes(text: str) -> bytes:
    """The file in base64 or a data URL; RequestError for a link, a path, or no base64."""
    head, comma, body = text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
    if re.match(r"[a-z]{2,10}://", text, re.IGNORECASE) or (head and not comma):
        raise bad_image("photos are not fetched: send the file as base64 or a data URL")
    text = "".join((unquote(body) if head else body).split())
    try:
        return base64.b64decode(text.translate(_URLSAFE), validate=True)
    except (binascii.Error, ValueError):
        raise bad_image("the image is no base64 and no data URL") from None


def open_photo(data: bytes, settings: ServeSettings) -> Image.Image:
    """A file of a known kind as upright RGB; RequestError where it is too large, damaged, or of another kind."""
    readable_formats()  # those of extras, too
    formats, most = [one for one in _FORMATS if one in Image.OPEN], settings.max_pixels
    try:
        with PILLOW_QUIET, Image.open(io.BytesIO(data), formats=formats) as picture:
            width, height = picture.size
            if width * height > most:
                raise too_large(f"the photo has {width} x {height} pixels, more than {most:,}")
            if _is_costly(picture, data, most):
                raise too_large("the photo takes far more work than its size: save it anew")
            return load_image(picture)
    except RequestError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise too_large("the photo is too large for this server") from None
    except Exception as error:  # decoders fail in any way at hostile files
        raise told(error if isinstance(error, ImageError) else ImageError()) from error


def _is_costly(picture: Image.Image, data: bytes, most: int) -> bool:
    """Whether a decoder would need far more time or memory than the pixels: many scans, tiles beyond the photo."""
    if picture.format in ("JPEG", "MPO"):
        return data.count(b"\xff\xda") > _MOST_SCANS
    tags: Any = getattr(picture, "tag_v2", {})
    return math.prod(int(tags.get(tag, 1)) for tag in _TILE) > most


def named_photo(name: str, settings: ServeSettings) -> bytes:
    """A file of the server's `--root`; RequestError where it is not there, lies elsewhere, or is too large."""
    refused = bad_image(f"no photo {name!r:.80} in the server's --root")
    if settings.root is None or "\0" in name:
        raise refused
    try:
        base = settings.root.resolve()
        path = (base / name).resolve()
        if not path.is_relative_to(base) or not path.is_file():
            raise refused
        if path.stat().st_size > settings.max_bytes:
            raise too_large(f"the photo {name!r:.80} is too large")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError):
        raise refused from None


def region_list(
    entries: Sequence[Any] | None, size: Size, settings: ServeSettings
) -> list[Region | PatchionerError]:
    """Each entry as a region or its error; None is the whole photo, `size` its (width, height).

    Entries are our JSON, ``{"format": "coco" | "rle", ...}``, or the error that another dialect found. RequestError for
    none, or more than are allowed, by number or by the pixels of their masks.
    """
    if entries is None:
        return [WholeImage()]
    if not entries:
        raise bad_request("'regions' is empty: leave it out for the whole photo")
    most, room = settings.max_regions, _MOST_MASK_PIXELS
    if len(entries) > most:
        raise too_large(f"{len(entries)} regions: give at most {most}")
    found: list[Region | PatchionerError] = []
    for entry in entries:
        pixels = _attempt(_mask_pixels, entry, size)
        room -= pixels if isinstance(pixels, int) else 0
        if room < 0:
            raise too_large(f"masks of over {_MOST_MASK_PIXELS:,} pixels in all: send fewer")
        found.append(_attempt(_region, entry, size) if isinstance(pixels, int) else pixels)
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
    form = entry.get("format") if isinstance(entry, Mapping) else None
    if form not in (None, "coco", "rle"):
        raise RegionError(f"format {form!r:.40} is unknown: use coco, rle, or leave it out")
    if isinstance(entry, Mapping):
        entry = {key: entry[key] for key in entry if key not in ("format", "label", "id")}
    if form is None:
        region = Region.from_json(entry)
    else:
        region = from_coco(entry, size) if form == "coco" else Mask.from_rle(entry, size)
    region.require_fit(size)
    return region


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
