"""Which photos are meant, and where pictures of them go: paths, folders, the sample photos of scikit-image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from patchioner.base.errors import ImageError, OptionError, UnknownNameError
from patchioner.base.optional import require

if TYPE_CHECKING:
    from PIL import Image

    from patchioner.images import ImageSource

# These lie inside scikit-image's own wheel; its other pictures would be downloaded.
SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
WRITTEN = (".png", ".jpg", ".jpeg", ".webp")
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

    def check(self) -> None:
        """Refuse a photo that is not there, before a model is loaded for it.

        Raises:
            ImageError: no such file.
            UnknownNameError: scikit-image ships no such photo.
            MissingExtraError: scikit-image is not installed.
        """
        if not self._is_sample:
            if not os.path.isfile(self.name):
                raise ImageError(f"no photo at {self.name!r}: check the path")
            return
        if self.name.removeprefix(_PREFIX) not in SAMPLES:
            raise UnknownNameError.among(
                "photo of scikit-image", self.name.removeprefix(_PREFIX), SAMPLES
            )
        require("skimage.data", "demo")

    def source(self) -> ImageSource:
        """What `Patchioner` takes: the path, or a sample's pixels."""
        if not self._is_sample:
            return self.name
        self.check()
        return getattr(require("skimage.data", "demo"), self.name.removeprefix(_PREFIX))()

    def load(self) -> Image.Image:
        """Read the photo, upright and RGB; errors of `check` and `load_image`."""
        from patchioner.images import load_image

        return load_image(self.source())


def find_photos(arguments: Sequence[str]) -> list[PhotoSource]:
    """Photos in the order given; a folder stands for all pictures below it, sorted by path.

    A path that does not exist is kept: `PhotoSource.check` gives the error, and the other photos go on.

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
            file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if not pictures:
            raise ImageError(
                f"no pictures in the folder {argument!r}: looked for {', '.join(sorted(SUFFIXES))}"
            )
        found.extend(PhotoSource(str(picture)) for picture in pictures)
    return found


def picture_name(text: str) -> Path:
    """The path of a picture, or of a folder; OptionError where its suffix names no format that we write."""
    path = Path(text)
    if path.suffix and path.suffix.lower() not in WRITTEN and not path.is_dir():
        raise OptionError(f"cannot write a picture {text!r}: end its name in {', '.join(WRITTEN)}")
    return path


def plan_pictures(out: Path | None, photos: Sequence[PhotoSource]) -> list[Path | None]:
    """The picture's path for each photo, `<out>/<photo>.overlay.png`, or `out` itself; no two are the same.

    Args:
        out: a file for a single photo, else a folder; None for no pictures.
        photos: in order.

    Raises:
        OptionError: several photos and one file.
    """
    if out is None:
        return [None] * len(photos)
    is_file = bool(out.suffix) and not out.is_dir()
    if is_file and len(photos) == 1:
        return [out]
    if is_file:
        raise OptionError(
            f"--out {str(out)!r} is one file, but there are {len(photos)} photos: give a folder"
        )
    paths: list[Path | None] = []
    taken: set[str] = set()
    for photo in photos:
        stem, number = photo.stem, 1
        while stem in taken:
            number += 1
            stem = f"{photo.stem}-{number}"
        taken.add(stem)
        paths.append(out / f"{stem}.overlay.png")
    return paths


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, making its folder where it is missing; OptionError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise OptionError(f"cannot write {str(path)!r} ({error}): choose another --out") from error
