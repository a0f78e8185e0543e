"""Any picture a caller has -> an upright RGB Pillow image.

Knows: files, Pillow modes (palette, alpha, CMYK, 16 bit, animations), EXIF rotation, numpy and torch layouts.
Does not know: preprocessing, backbones, regions.
"""

from __future__ import annotations

import logging
import math
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from patchioner.base.errors import ImageError
from patchioner.base.quiet import Quiet

Decoded = TypeVar("Decoded")
ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Any"

# Pillow's own limit for files; 540 MB as RGB. Beyond it we refuse by name.
MAX_PIXELS = 178_956_970
# Rows converted at a time where a conversion needs much more room than its result.
_STRIP = 64
ORIENTATION = 0x0112  # the EXIF tag
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")

# One for the module: photos are read by several threads, and filters of warnings belong to the process.
_PILLOW_QUIET = Quiet()

logger = logging.getLogger(__name__)


def load_image(source: ImageSource) -> Image.Image:
    """Read a picture and return it upright, as 8-bit RGB.

    Args:
        source: a path; a Pillow image of any mode; a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4),
            uint8, uint16 or float in 0..1; or a torch tensor, channels first, (3, H, W), uint8 or float in 0..1.

    Returns:
        A Pillow image of mode RGB. EXIF rotation is applied, transparency is laid over white, 16-bit values are
        scaled, and of an animated file the first frame is taken. The source is not changed. Beside the result
        (3 bytes a pixel) at most one copy of the picture in its own mode is held.

    Raises:
        ImageError: the file is missing, empty, truncated, not a picture, or too large; the array has another
            shape, NaN, or values out of range.

    Example:
        >>> load_image(np.zeros((4, 6, 3), np.uint8)).size
        (6, 4)
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the given Pillow image", own=False)
    if isinstance(source, (str, os.PathLike)):
        return read_file(Path(source), decode_file)
    return _from_array(source)


def read_file(path: Path, decode: Callable[[Image.Image, str], Decoded]) -> Decoded:
    """Open a picture and let `decode` make something of it.

    Args:
        path: the file.
        decode: takes the opened, not yet decoded image, which is its own to use up, and its name for messages.

    Raises:
        ImageError: the file is missing, empty, truncated, not a picture, or too large.

    Example:
        >>> read_file(Path("photo.jpg"), lambda image, name: image.size)  # doctest: +SKIP
        (640, 480)
    """
    if not os.path.isfile(path):
        raise ImageError(f"no photo at {str(path)!r}: check the path")
    if path.stat().st_size == 0:
        raise ImageError(f"{str(path)!r} is empty (0 bytes): copy or download the photo again")
    try:
        # Pillow warns of what it copes with; size and damage are ours to judge.
        with _PILLOW_QUIET, Image.open(path) as image:
            return decode(image, repr(str(path)))
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{str(path)!r} is not a picture that Pillow can read: convert it to JPEG or PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{str(path)!r} is too large ({error}): make it smaller first") from error
    except PermissionError as error:
        raise ImageError(f"{str(path)!r} may not be read: check its permissions") from error
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise _damaged(repr(str(path)), error) from error


def decode_file(image: Image.Image, name: str) -> Image.Image:
    """Upright RGB of an opened file; see `read_file` and `load_image`."""
    return _decode(image, name, own=True)


def _decode(image: Image.Image, name: str, *, own: bool) -> Image.Image:
    """Pixels are read here at the latest: Pillow opens lazily, whoever opened the image."""
    try:
        return _to_rgb(image, name, own=own)
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, IndexError, struct.error) as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name} cannot be decoded ({error}): the file is truncated or damaged")


def _to_rgb(image: Image.Image, name: str, *, own: bool) -> Image.Image:
    """Upright RGB; an image that is our `own` is used up rather than copied."""
    check_size(image, name)
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


def check_size(image: Image.Image, name: str) -> None:
    """Refuse more pixels than `MAX_PIXELS`, before they are decoded; ImageError."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: make it smaller first"
        )


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Apply the EXIF rotation; without one, the image itself rather than Pillow's copy of it."""
    try:
        with _PILLOW_QUIET:  # Pillow warns of corrupt EXIF; we log it
            rotated = image.getexif().get(ORIENTATION, 1) != 1
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
            f"cannot read a picture from {type(source).__name__} ({error}): give a path, a Pillow image, "
            "an array or a tensor"
        ) from error
    if channels_first and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if (
        array.size == 0
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (3, 4))
    ):
        layout = (
            "a tensor (3, H, W)" if channels_first else "an array (H, W), (H, W, 3) or (H, W, 4)"
        )
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
