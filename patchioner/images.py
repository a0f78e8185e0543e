"""Any picture a caller has -> an upright RGB Pillow image, whole or at the scale that is looked at.

A large JPEG can be decoded at a half, a quarter or an eighth of its size: it holds 8 x 8 blocks of
frequencies, and leaving out the high ones gives a smaller picture at a fraction of the time and
memory. The result is not bit for bit that of decoding everything and shrinking it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib
import io
import logging
import math
import os
import struct
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from patchioner.base.errors import ImageError

Decoded = TypeVar("Decoded")
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | Any"
Size = tuple[int, int]
FloatBox = tuple[float, float, float, float]

# Pillow's own limit for files; 540 MB as RGB. Beyond it we refuse by name.
MAX_PIXELS = 178_956_970
# Rows converted at a time where a conversion needs much more room than its result.
_STRIP = 64
_ORIENTATION = 0x0112  # the EXIF tag
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, IndexError, struct.error)

logger = logging.getLogger(__name__)


class Quiet:
    """A context in which warnings are ignored; reusable and safe among threads.

    With `warnings.catch_warnings` alone, of two threads whose blocks overlap, the one that leaves last puts back the
    filters of the other's block, and the process stays silent for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._caught.__exit__(None, None, None)


# One for the module: photos are read by several threads, and filters of warnings belong to the process.
PILLOW_QUIET = Quiet()


@dataclass(frozen=True, eq=False)
class ReducedPhoto:
    """A photo at reduced scale that still knows its original.

    Attributes:
        image: the smaller picture, upright RGB.
        size: (width, height) of the original, upright: the pixels that regions are given in.
        box: XYXY of `image`, float pixels, where the original lies: sides that are no multiple of
            the scale leave a part of the last column or row empty.
    """

    image: Image.Image
    size: Size
    box: FloatBox


Photo = Image.Image | ReducedPhoto
"""What a backbone encodes; both have the `size` of the original."""


def readable_formats() -> dict[str, str]:
    """Suffix -> format of all files that Pillow opens here; with pillow-heif installed, HEIC and HEIF too."""
    _register_heif()
    known = Image.registered_extensions()
    return {suffix: kind for suffix, kind in known.items() if kind in Image.OPEN}


@functools.cache
def _register_heif() -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def load_image(source: ImageSource) -> Image.Image:
    """Read a picture and return it upright, as 8-bit RGB.

    Args:
        source: a path; the bytes of a file, or one opened for reading in binary; a Pillow image of
            any mode; a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, uint16 or
            float in 0..1; or a torch tensor, channels first, (3, H, W), uint8 or float in 0..1.

    Returns:
        A Pillow image of mode RGB. EXIF rotation is applied, transparency is laid over white,
        16-bit values are scaled, and of an animated file the first frame is taken. The source is
        not changed. Beside the result (3 bytes a pixel) at most one copy of the picture in its own
        mode is held.

    Raises:
        ImageError: the file is missing, empty, truncated, not a picture, or too large; the array
            has another shape, NaN, or values out of range.

    Example:
        >>> load_image(np.zeros((4, 6, 3), np.uint8)).size
        (6, 4)
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the given Pillow image", own=False)
    return read_picture(source, _decode) if _is_file(source) else _from_array(source)


def load_reduced(
    source: ImageSource, needed: Callable[[Size], Size], *, margin: float = 2.0
) -> Photo:
    """Read a picture, decoding a JPEG at the smallest scale that still has enough pixels.

    Args:
        source: as `load_image`. What is no JPEG file is read as it is.
        needed: (width, height) of the upright original -> (width, height) that will be looked at,
            such as `Backbone.needed_size`.
        margin: at least this many pixels for each one needed, along both sides.

    Returns:
        A plain image where nothing was to be gained, else a `ReducedPhoto`.

    Raises:
        ImageError: as `load_image`; the limit on size is that of the original.

    Example:
        >>> load_reduced("24-megapixels.jpg", backbone.needed_size).image.size  # doctest: +SKIP
        (1500, 1000)
    """
    if _is_file(source):
        return read_picture(
            source, lambda image, name: _decode_reduced(image, name, needed, margin)
        )
    return load_image(source)


def _decode_reduced(
    image: Image.Image, name: str, needed: Callable[[Size], Size], margin: float
) -> Photo:
    _check_size(image, name)
    if not isinstance(image, JpegImageFile) or 0 in image.size:
        return _decode(image, name)
    # Asked for before decoding, which takes the tag away.
    orientation, original = _orientation(image), image.size
    turned = orientation >= 5  # rows become columns
    upright = (original[1], original[0]) if turned else original
    across, down = (max(1, math.ceil(side * margin)) for side in needed(upright))
    drafted = image.draft(None, (down, across) if turned else (across, down))
    if drafted is None or image.size == original:
        return _decode(image, name)
    stored, (_, _, width, height) = image.size, drafted[1]
    box = _upright_box(orientation, stored, width, height)
    return ReducedPhoto(_decode(image, name), upright, box)


def orientation(source: ImageSource) -> int:
    """EXIF's 1 to 8 of a picture file: how its stored pixels lie; errors as `load_image`."""
    return read_picture(source, lambda image, name: _orientation(image))


def _orientation(image: Image.Image) -> int:
    """EXIF's 1..8, and 1 where it says nothing that can be read, as `load_image` takes it."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF fails in any way; decoding reports it
        return 1
    return value if value in range(1, 9) else 1


def _upright_box(orientation: int, stored: Size, width: float, height: float) -> FloatBox:
    """Where (0, 0, width, height) of the picture as stored lies after EXIF's rotation."""
    right, bottom = stored[0] - width, stored[1] - height  # what is left empty there
    if orientation >= 5:  # rows become columns
        left_gap = bottom if orientation in (6, 7) else 0.0
        top_gap = right if orientation in (7, 8) else 0.0
        return left_gap, top_gap, left_gap + height, top_gap + width
    left_gap = right if orientation in (2, 3) else 0.0
    top_gap = bottom if orientation in (3, 4) else 0.0
    return left_gap, top_gap, left_gap + width, top_gap + height


def _is_file(source: object) -> bool:
    files = (str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(source, files) or hasattr(source, "read")


def read_picture(source: Any, decode: Callable[[Image.Image, str], Decoded]) -> Decoded:
    """What `decode` makes of a file's image, not yet decoded, and its name; ImageError, and no warning, from Pillow."""
    name = "the given file"
    try:
        if isinstance(source, (str, os.PathLike)):
            name = repr(str(source))
            if not os.path.isfile(source):
                raise ImageError(f"no photo at {name}: check the path")
            if os.path.getsize(source) == 0:
                raise ImageError(f"{name} is empty (0 bytes): copy or download the photo again")
            stream: Any = Path(source)
        else:
            data = source if isinstance(source, (bytes, bytearray, memoryview)) else source.read()
            if isinstance(data, str):
                raise ImageError(f"{name} is opened as text: open it with mode 'rb'")
            stream = io.BytesIO(data)
        # Pillow warns of what it copes with; size and damage are ours to judge.
        _register_heif()
        with PILLOW_QUIET, Image.open(stream) as image:
            return decode(image, name)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture that Pillow can read: convert it to JPEG or PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large ({error}): make it smaller first") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be read: check its permissions") from error
    except ImageError:
        raise
    except _DECODING_ERRORS as error:
        raise _damaged(name, error) from error


def _decode(image: Image.Image, name: str, *, own: bool = True) -> Image.Image:
    """Pixels are read here at the latest: Pillow opens lazily, whoever opened the image."""
    try:
        return _to_rgb(image, name, own=own)
    except ImageError:
        raise
    except _DECODING_ERRORS as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name} cannot be decoded ({error}): the file is truncated or damaged")


def _to_rgb(image: Image.Image, name: str, *, own: bool) -> Image.Image:
    """Upright RGB; an image that is our `own` is used up rather than copied."""
    _check_size(image, name)
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} has {image.width} x {image.height} pixels: it shows nothing")
    image.load()
    upright = _upright(image, name)
    if upright.mode in _DEEP_MODES:
        return _from_levels(np.asarray(upright), name, _top(upright)).convert("RGB")
    if upright.has_transparency_data:
        return _on_white(upright)
    if upright.mode == "RGB" and (own or upright is not image):
        return upright
    return upright.convert("RGB")


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: make it smaller first"
        )


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Apply the EXIF rotation; without one, the image itself rather than Pillow's copy of it."""
    try:
        with PILLOW_QUIET:  # Pillow warns of corrupt EXIF; we log it
            rotated = image.getexif().get(_ORIENTATION, 1) != 1
            return ImageOps.exif_transpose(image) if rotated else image
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error) as error:
        logger.warning("%s has corrupt EXIF data (%s): taken as upright", name, error)
        return image


def _on_white(image: Image.Image) -> Image.Image:
    """Lay transparency over white, strip by strip."""
    result = Image.new("RGB", image.size, "white")
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        layered = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        result.paste(Image.alpha_composite(white, layered).convert("RGB"), box[:2])
    return result


def _top(image: Image.Image) -> float:
    """The value that means white in an image of more than 8 bits a channel."""
    if image.mode.startswith("I;16"):
        return 65535.0
    extrema = image.getextrema()
    highest = float(extrema[1])  # type: ignore[arg-type]
    if image.mode == "F" and highest <= 1.0:
        return 1.0
    return 255.0 if highest <= 255.0 else 65535.0


def _from_levels(levels: npt.NDArray[Any], name: str, top: float) -> Image.Image:
    """Single-channel values (H, W), 0 black and `top` white -> mode L; what lies outside is clipped."""
    result = np.empty(levels.shape, np.uint8)
    for start in range(0, len(levels), _STRIP):
        values = levels[start : start + _STRIP].astype(np.float64)
        if not np.isfinite(values).all():
            raise ImageError(f"{name} holds NaN or infinite values")
        result[start : start + _STRIP] = np.clip(np.rint(values * (255.0 / top)), 0, 255)
    return Image.fromarray(result)


def _from_array(source: Any) -> Image.Image:
    channels_first = hasattr(source, "detach")
    try:
        array = _tensor_array(source) if channels_first else np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ImageError(
            f"cannot read a picture from {type(source).__name__} ({error}): give a path, bytes, an "
            "open file, a Pillow image, an array or a tensor"
        ) from error
    if channels_first and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        layout = "an array (H, W), (H, W, 3) or (H, W, 4)"
        layout = "a tensor (3, H, W)" if channels_first else layout
        raise ImageError(
            f"cannot read a picture from {type(source).__name__} of shape {array.shape}: give {layout}"
        )
    return _to_rgb(Image.fromarray(_to_bytes(array)), "the given array", own=True)


def _tensor_array(tensor: Any) -> npt.NDArray[Any]:
    # numpy has no bfloat16, and 8 bits of colour need no more than float32.
    wide = tensor.float() if tensor.is_floating_point() else tensor
    return np.asarray(wide.detach().cpu().numpy())


def _to_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.rint(array / 257.0).astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ImageError("the given array holds NaN or infinite values")
        if array.min() < 0.0 or array.max() > 1.0:
            raise ImageError(
                f"float pixels must lie in 0..1, found {array.min():.4g}..{array.max():.4g}: "
                "divide by 255, or give uint8"
            )
        return np.rint(array * 255.0).astype(np.uint8)
    raise ImageError(
        f"pixels of type {array.dtype} are not supported: use uint8, uint16 or float in 0..1"
    )


def cut_out(image: Image.Image, bounds: Sequence[float]) -> Image.Image:
    """The pixels that a box (XYXY, float) touches, at least one in each direction."""
    # Corners that came by way of the patch grid are off by rounding errors, which must not add a pixel.
    left, top = (math.floor(value + 1e-6) for value in bounds[:2])
    right, bottom = (math.ceil(value - 1e-6) for value in bounds[2:])
    left, top = min(left, image.width - 1), min(top, image.height - 1)
    right, bottom = max(left + 1, right), max(top + 1, bottom)
    return image.crop((left, top, min(right, image.width), min(bottom, image.height)))


def data_url(image: Image.Image, form: str = "JPEG", **options: int) -> str:
    """A picture as a data URL, in a format and with options that Pillow saves it with."""
    buffer = io.BytesIO()
    image.save(buffer, form, optimize=True, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# Of 3,371 photos of COCO the flattest has 49 levels, and the noisiest 21 times the spread of noise (noise itself: 1).
_BLOCK, _FEWEST_BLOCKS, _LEVELS, _TIMES = 8, 16, 8, 6.0


def why_blank(image: Image.Image) -> str | None:
    """Why an RGB photo shows nothing (whatever is said of it is invented), in words; None where it may show something.

    **One colour**: in no channel do two means of blocks of 8 x 8 pixels differ by more than 8 of 255 levels. **Noise**:
    pixels that have nothing to do with their neighbours have means that vary 64 times less than they do; in photos they
    vary many times more than that; below 6 times it is noise.
    """
    # Of small photos smaller blocks: an eighth of the shorter side.
    block = min(max(min(image.size) // _BLOCK, 1), _BLOCK)
    means = np.asarray(image.convert("RGB").reduce(block), dtype=np.int64).reshape(-1, 3)
    levels = int(np.ptp(means, axis=0).max())
    if levels <= _LEVELS:
        return f"the photo is of one colour: its parts differ by {levels} of 255 levels"
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    rows, columns = grey.shape[0] // _BLOCK, grey.shape[1] // _BLOCK
    whole = grey[: rows * _BLOCK, : columns * _BLOCK]
    spread = float(whole.var()) if rows * columns >= _FEWEST_BLOCKS else 0.0
    if spread == 0:
        return None
    blocks = whole.reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3))
    times = float(blocks.var()) * _BLOCK**2 / spread
    if times > _TIMES:
        return None
    return (
        "the photo is noise: its pixels have nothing to do with their neighbours "
        f"(structure {times:.1f}; noise has 1, photos have 20 and more)"
    )
