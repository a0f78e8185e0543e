"""Finds the photo that a data file speaks of.

Knows: the ways in which COCO, Flickr30k, Visual Genome and video frames name their files. Does NOT know: annotations.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from benchmarks.readers import BenchmarkDataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".JPG")
COCO_PREFIXES = ("", "COCO_val2014_", "COCO_train2014_", "COCO_test2014_")

_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class PhotoFolder:
    """A folder of photos, looked up by image id or file name.

    An id is tried as it is ("1000092795", "frame_07", a name with its extension), then as a COCO id (12 digits, with
    and without the COCO_val2014_ prefix and its likes); in the folder, then in the folders directly inside it
    (VG_100K/, val2014/). A name that climbs out of the folder counts by its last part only.

    Args:
        root: the folder.

    Raises:
        BenchmarkDataError: there is no such folder.

    Example:
        >>> PhotoFolder(Path("../shared/data/photos")).find("359")  # doctest: +SKIP
        '000000000359.jpg'
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise BenchmarkDataError(f"{root} is no folder: give the one that holds the photos")
        self.root = root
        inside = sorted(path.name for path in root.iterdir() if path.is_dir())
        self._folders = (PurePosixPath(), *map(PurePosixPath, inside))
        self._found: dict[str, str | None] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def find(self, *keys: object) -> str:
        """Name, relative to the folder, of the photo that one of `keys` (ids, file names) leads to.

        Raises:
            BenchmarkDataError: there is none; the message says what was tried.
        """
        names = [str(key) for key in keys if isinstance(key, (str, int)) and str(key).strip()]
        for name in names:
            if name not in self._found:
                self._found[name] = self._look_up(name)
            found = self._found[name]
            if found is not None:
                return found
        # One spelling of the extension is enough to show which names were thought of.
        likely = [n for name in names for n in candidates(name) if n.endswith(".jpg")]
        tried = ", ".join(dict.fromkeys(likely or names))
        called = " / ".join(names) or "without a name"
        raise BenchmarkDataError(
            f"image {called:.80} is missing in {self.root} (tried {tried:.200})"
        )

    def path(self, photo: str) -> Path:
        """Where a photo that `find` named lies."""
        return self.root / photo

    def size(self, photo: str) -> tuple[int, int]:
        """(width, height) of the upright photo, read from the head of its file.

        Raises:
            BenchmarkDataError: the file is no image.
        """
        if photo not in self._sizes:
            self._sizes[photo] = _upright_size(self.path(photo))
        return self._sizes[photo]

    def _look_up(self, name: str) -> str | None:
        for candidate in candidates(name):
            for folder in self._folders:
                relative = folder / candidate
                try:
                    if (self.root / relative).is_file():
                        return str(relative)
                except OSError:  # a name that no file system takes
                    continue
        return None


def candidates(key: str) -> list[str]:
    """File names that an image id or file name may stand for, likeliest first.

    Example:
        >>> candidates("359")[0], "COCO_val2014_000000000359.jpg" in candidates("359")
        ('359.jpg', True)
    """
    path = PurePosixPath(key.replace("\\", "/"))
    stays = not path.is_absolute() and ".." not in path.parts
    names = [str(path)] if stays else []
    if path.suffix.lower() in EXTENSIONS:
        return list(dict.fromkeys([*names, path.name]))
    names = [f"{path.name}{extension}" for extension in EXTENSIONS]
    if path.name.isascii() and path.name.isdigit() and len(path.name) <= 12:
        names += [f"{prefix}{int(path.name):012d}.jpg" for prefix in COCO_PREFIXES]
    return names


def _upright_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            lying = image.getexif().get(_ORIENTATION, 1) in _LYING
            return (image.height, image.width) if lying else (image.width, image.height)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise BenchmarkDataError(f"photo {path.name} cannot be opened: {error}") from error
