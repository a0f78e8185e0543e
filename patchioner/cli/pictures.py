"""Where pictures go on disk.

Knows: file names. Does not know: what is in the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from patchioner.base.errors import OptionError
from patchioner.cli.photos import PhotoSource

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def check_picture_name(path: Path) -> Path:
    """Refuse a file type that cannot be written; a name without a suffix is a folder.

    Raises:
        OptionError: the suffix is none of .png, .jpg, .jpeg, .webp.
    """
    if path.suffix and path.suffix.lower() not in FORMATS and not path.is_dir():
        raise OptionError(
            f"cannot write a picture {str(path)!r}: end its name in {', '.join(FORMATS)}"
        )
    return path


def plan_pictures(out: Path | None, photos: Sequence[PhotoSource]) -> list[Path | None]:
    """The picture's path for each photo; no two are the same.

    Args:
        out: a file for a single photo, else a folder; None for no pictures.
        photos: in order.

    Returns:
        One path per photo, `<folder>/<photo>.overlay.png`, or `out` itself; None where `out` is.

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
    """Write a picture, making its folder where it is missing.

    Raises:
        OptionError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise OptionError(f"cannot write {str(path)!r} ({error}): choose another --out") from error
