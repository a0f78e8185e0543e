"""A photo at the door: read, hashed, and sent through the backbone once.

Knows: `stages.Photo`, how photos are read. Does not know: what the stages do with it.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from PIL import Image

from patchioner.detail.stages import Photo
from patchioner.images import ImageSource, load_image

if TYPE_CHECKING:
    from patchioner.model import Patchioner


def open_photo(
    source: ImageSource, model: Patchioner | None = None, *, name: str | None = None
) -> Photo:
    """Read a photo for the stages.

    Args:
        source: what `patchioner.images.load_image` takes: a path, a Pillow image, an array or a tensor.
        model: encodes it, one backbone pass; None leaves it without features.
        name: what it is called in messages and results; its path, or "photo", if None.

    Raises:
        ImageError: it cannot be read.

    Example:
        >>> open_photo("photo.jpg", model).size  # doctest: +SKIP
        (640, 480)
    """
    image = load_image(source)
    features = None if model is None else model.encode(image)
    return Photo(name or _called(source), image, pixel_digest(image), features)


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of the size and the pixels of an RGB image, as hex digits: the same photo from any file or name."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _called(source: ImageSource) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "photo"
