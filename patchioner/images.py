"""Any picture a caller has -> an upright RGB Pillow image.

Knows: files, Pillow modes (palette, alpha, CMYK, 16 bit, animations), EXIF rotation, numpy and torch layouts.
Does not know: preprocessing, backbones, regions.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from patchioner_base.errors import ImageError

ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Any"

MAX_PIXELS = (
    178_956_970  # Pillow's own limit for files; 540 MB as RGB. Beyond it we refuse by name.
)


def load_image(source: ImageSource) -> Image.Image:
    """Read a picture and return it upright, as 8-bit RGB.

    Args:
        source: a path; a Pillow image of any mode; a numpy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4),
            uint8, uint16 or float in 0..1; or a torch tensor, channels first, (3, H, W), uint8 or float in 0..1.

    Returns:
        A Pillow image of mode RGB. EXIF rotation is applied, transparency is laid over white, 16-bit values are
        scaled, and of an animation the first frame is taken. The source is not changed.

    Raises:
        ImageError: the file is missing, empty, truncated, not a picture, or too large; the array has another
            shape, NaN, or values out of range.

    Example:
        >>> load_image(np.zeros((4, 6, 3), np.uint8)).size
        (6, 4)
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the given Pillow image")
    if isinstance(source, (str, os.PathLike)):
        return _read_file(Path(source))
    return _from_array(source)


def _read_file(path: Path) -> Image.Image:
    if not path.is_file():
        raise ImageError(f"no photo at {str(path)!r}: check the path")
    if path.stat().st_size == 0:
        raise ImageError(f"{str(path)!r} is empty (0 bytes): copy or download the photo again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _to_rgb(image, repr(str(path)))
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{str(path)!r} is not a picture that Pillow can read: convert it to JPEG or PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{str(path)!r} is too large ({error}): make it smaller first") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{str(path)!r} cannot be decoded ({error}): the file is truncated or damaged"
        ) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}: make it smaller first"
        )
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{name} has {image.width} x {image.height} pixels: it shows nothing")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return _from_levels(np.asarray(upright), name).convert("RGB")
    if upright.has_transparency_data:
        layered = upright.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return upright.convert("RGB")


def _from_levels(levels: npt.NDArray[Any], name: str) -> Image.Image:
    """Single-channel values of more than 8 bits -> mode L: 16-bit range, or 0..1 for floats up to 1."""
    values = levels.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError(f"{name} holds NaN or infinite values")
    top = (
        1.0
        if levels.dtype.kind == "f" and values.max() <= 1.0
        else 255.0
        if values.max() <= 255
        else 65535.0
    )
    return Image.fromarray(np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8))


def _from_array(source: Any) -> Image.Image:
    channels_first = hasattr(source, "detach")
    array = np.asarray(source.detach().cpu().numpy() if channels_first else source)
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
    return _to_rgb(Image.fromarray(_to_bytes(array)), "the given array")


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
                f"float pixels must lie in 0..1, found {array.min():.4g}..{array.max():.4g}: divide by 255, or give uint8"
            )
        return np.rint(array * 255.0).astype(np.uint8)
    raise ImageError(
        f"pixels of type {array.dtype} are not supported: use uint8, uint16 or float in 0..1"
    )
