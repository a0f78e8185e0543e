"""Which photos are meant, and their pixels.

Knows: paths, folders, the sample photos of scikit-image. Does not know: models, regions, output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from patchioner.base.errors import ImageError, UnknownNameError
from patchioner.base.optional import require
from patchioner.images import load_image

# These lie inside scikit-image's own wheel; its other pictures would be downloaded.
SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_PREFIX = "scikit-image:"


@dataclass(frozen=True)
class PhotoSource:
    """A photo that is still to be read.

    Attributes:
        name: as the user wrote it, or folder/name for a photo of a folder.
    """

    name: str

    @property
    def file_name(self) -> str:
        """The name by which files of regions know the photo."""
        return f"{self.name.removeprefix(_PREFIX)}.png" if self._is_sample else Path(self.name).name

    @property
    def stem(self) -> str:
        """The file name without its suffix."""
        return Path(self.file_name).stem

    @property
    def _is_sample(self) -> bool:
        return self.name.startswith(_PREFIX)

    def load(self) -> Image.Image:
        """Read the photo, upright and RGB.

        Raises:
            ImageError: it cannot be read.
            UnknownNameError: scikit-image ships no such photo.
            MissingExtraError: scikit-image is not installed.
        """
        return (
            _load_sample(self.name.removeprefix(_PREFIX))
            if self._is_sample
            else load_image(self.name)
        )


def find_photos(arguments: Sequence[str]) -> list[PhotoSource]:
    """Photos in the order given; a folder stands for the pictures in it, sorted by name.

    A path that does not exist is kept: reading it gives the error, and the other photos go on.

    Raises:
        ImageError: a folder without pictures.
    """
    found: list[PhotoSource] = []
    for argument in arguments:
        path = Path(argument)
        if argument.startswith(_PREFIX) or not path.is_dir():
            found.append(PhotoSource(argument))
            continue
        pictures = sorted(
            file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if not pictures:
            raise ImageError(
                f"no pictures in the folder {argument!r}: looked for {', '.join(sorted(SUFFIXES))}"
            )
        found.extend(PhotoSource(str(picture)) for picture in pictures)
    return found


def _load_sample(name: str) -> Image.Image:
    if name not in SAMPLES:
        raise UnknownNameError.among("photo of scikit-image", name, SAMPLES)
    data = require("skimage.data", "demo")
    return load_image(getattr(data, name)())
