"""How photos, regions, numbers and texts are named on the command line, and what it writes: lines, and pictures."""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from patchioner.base.errors import ImageError, OptionError, PatchionerError, TextError, UnknownNameError
from patchioner.base.files import atomic_path, check, walk
from patchioner.base.optional import require
from patchioner.base.progress import complain, printable, wipe_progress
from patchioner.regions import Box, Mask, Point, Polygon, RegionFile, RegionSet, Trace, read_trace

if TYPE_CHECKING:
    from PIL import Image

    from patchioner.images import ImageSource

T = TypeVar("T")
Run: TypeAlias = Callable[[argparse.Namespace], int]
# These lie inside scikit-image's own wheel; its other pictures would be downloaded.
SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")
WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_PREFIX = "scikit-image:"


def write_line(text: str) -> None:
    """One line on standard output; what its encoding lacks becomes a question mark."""
    if sys.stdout is None:
        raise OptionError("standard output is closed: send it to a file, or to /dev/null")
    if sys.stdout.isatty():
        wipe_progress()
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(printable(text).encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def report_error(message: str) -> None:
    """One line on standard error about an error."""
    report(f"error: {message}")


def report(message: str) -> None:
    """One line on standard error that begins with the command's name."""
    complain(message, "patchioner: ")


def declare(parser: argparse.ArgumentParser, run: Run, about: str, examples: str = "") -> Callable[..., Any]:
    """Say what a command is for and what it runs; its `add_argument`."""
    parser.description, parser.epilog = about, examples
    if examples:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run, error=parser.error)
    return parser.add_argument


def attach_negative_values(argv: Sequence[str]) -> list[str]:
    """Write `--box -5,0,9,9` as `--box=-5,0,9,9`, which argparse would take for two options."""
    result: list[str] = []
    for word in argv:
        if re.match(r"-[\d.]", word) and result and re.fullmatch(r"--[a-z-]+", result[-1]):
            result[-1] += f"={word}"
        else:
            result.append(word)
    return result


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let our messages through: argparse replaces those of a plain ValueError by its own."""

    @functools.wraps(parse)
    def checked(text: str) -> T:
        try:
            return parse(text)
        except PatchionerError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {form}")
    return values


def _points(text: str) -> list[list[float]]:
    return [_numbers(pair, 2, '"X,Y X,Y ..."') for pair in text.split()]


def _parts(text: str) -> list[str]:
    return [part for part in text.split(";") if part.strip()]


parse_mask = argument(Mask.from_file)
parse_box = argument(lambda text: Box(*_numbers(text, 4, "X1,Y1,X2,Y2")))
parse_point = argument(lambda text: Point(*_numbers(text, 2, "X,Y")))
parse_polygon = argument(lambda text: Polygon([_points(ring) for ring in _parts(text)]))
parse_region_set = argument(lambda text: RegionSet([parse_box(box) for box in _parts(text)]))


@argument
def parse_trace(text: str) -> Trace:
    """`X,Y X,Y` in pixels, or the path of a file with a trace."""
    path = Path(text)
    if "," in text and not path.suffix[1:].isalpha() and not os.path.isfile(text):
        return Trace(_points(text))
    return read_trace(path)


def add_model(add: Callable[..., Any]) -> None:
    """`--model`, and where it runs."""
    add("--model", default="patchioner-mini", metavar="ID|DIR|YAML", help="shipped or hub id (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")


def add_region_file(add: Callable[..., Any]) -> None:
    """`--regions`, and what its numbers mean where they cannot say it."""
    add("--regions", metavar="FILE|DIR", dest="region_file", help="in our JSON, COCO, SAM's or another known format")
    add("--box-format", choices=["xyxy", "xywh", "cxcywh"], help="of --regions, where their format leaves it open")
    add("--normalized", action="store_true", default=None, help="numbers of --regions are 0..1 of the photo")
    add("--exif", choices=["apply", "ignore"], help="ignore: --regions are of the pixels as stored, not turned by EXIF")


def numbers_of_regions(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers of `--regions` mean, where that is told."""
    told = {name: getattr(options, name, None) for name in ("box_format", "normalized", "exif")}
    return {name: value for name, value in told.items() if value is not None}


def without_region_file(options: argparse.Namespace) -> str | None:
    """What is wrong where `--regions` is missing; None when nothing is."""
    if options.region_file is None and (given := next(iter(numbers_of_regions(options)), None)):
        return f"--{given.replace('_', '-')} belongs to --regions: add it"
    return None


def region_file(options: argparse.Namespace) -> RegionFile | None:
    """The file of `--regions`, read."""
    return None if options.region_file is None else RegionFile(options.region_file, **numbers_of_regions(options))


@argument
def parse_texts(text: str) -> tuple[str, ...]:
    """Texts separated by semicolons, or those of a file: .txt with one per line, or what `read_captions` reads."""
    if os.path.isfile(text):
        from memory_bank import read_captions

        texts = read_captions(text)
    else:
        texts = text.split(";")
    found = tuple(dict.fromkeys(stripped for one in texts if (stripped := one.strip())))
    if len(found) == 1 and Path(text).suffix[1:].isalpha() and not os.path.isfile(text):
        raise TextError(f'no file {text!r}: check the path, or write texts as "a cat;a dog"')
    if len(found) < 2:
        raise TextError(f'{text!r} holds no two texts: write "a cat;a dog", or name a file')
    return found


def number(interval: str) -> Callable[[str], Any]:
    """A parser of the numbers in an interval, such as "(0, inf)" or, of whole numbers, "int [1, 9]"."""
    is_whole = interval.startswith("int ")
    wanted = f"a {'whole ' * is_whole}number in {interval.removeprefix('int ')}"

    def parse(text: str) -> Any:
        try:
            value = int(text) if is_whole else float(text)
            check(interval, value=value)
        except ValueError:  # OptionError is one
            raise argparse.ArgumentTypeError(f"{text!r:.80} is not {wanted}") from None
        return value

    return parse


# Nothing here needs more than eighteen digits.
positive_int, natural = number("int [1, 1e18)"), number("int [0, 1e18)")
positive, not_negative = number("(0, inf)"), number("[0, inf)")


@dataclass(frozen=True)
class PhotoSource:
    """A photo that is still to be read; `name` is as the user wrote it, or folder/name for a photo of a folder."""

    name: str

    @property
    def _sample(self) -> str | None:
        return self.name.removeprefix(_PREFIX) if self.name.startswith(_PREFIX) else None

    @property
    def file_name(self) -> str:
        """The path by which files of regions know the photo."""
        return self.name if self._sample is None else f"{self._sample}.png"

    def check(self) -> None:
        """ImageError, UnknownNameError or MissingExtraError for a photo that is not there."""
        if self._sample is not None:
            if self._sample not in SAMPLES:
                raise UnknownNameError.among("photo of scikit-image", self._sample, SAMPLES)
            require("skimage.data", "demo")
        elif not os.path.isfile(self.name):
            raise ImageError(f"no photo at {self.name!r}: check the path")

    def source(self) -> ImageSource:
        """What `Patchioner` takes: the path, or a sample's pixels."""
        if self._sample is None:
            return self.name
        self.check()
        return getattr(require("skimage.data", "demo"), self._sample)()

    def load(self) -> Image.Image:
        """Read the photo, upright and RGB; errors of `check` and `load_image`."""
        from patchioner.images import load_image

        return load_image(self.source())


def find_photos(arguments: Sequence[str]) -> list[PhotoSource]:
    """Photos in the order given; a folder stands for all pictures below it, sorted by path, and has some: ImageError.

    A path or link that leads nowhere is kept: `PhotoSource.check` gives the error, and the other photos go on. What is
    no picture in a folder is reported, by its suffix.
    """
    from patchioner.images import is_picture

    found: list[PhotoSource] = []
    for argument in arguments:
        if argument.startswith(_PREFIX) or not os.path.isdir(argument):
            found.append(PhotoSource(argument))
            continue
        files = sorted(Path(argument, name) for name, _ in walk(Path(argument)))
        pictures = [PhotoSource(str(file)) for file in files if is_picture(file)]
        others = Counter(file.suffix.lower() or "without an ending" for file in files if not is_picture(file))
        report_left_out(argument, others)
        if not pictures:
            raise ImageError(f"no pictures in the folder {argument!r}")
        found += pictures
    return found


def report_left_out(where: str, kinds: Mapping[str, int]) -> None:
    """Say what was found there and is no photo, by kind."""
    if kinds:
        report(f"left out of {where}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))


def picture_name(text: str) -> Path:
    """The path of a picture, or of a folder; OptionError where its suffix names no format that we write."""
    path = Path(text)
    if path.suffix and path.suffix.lower() not in WRITTEN and not path.is_dir():
        raise OptionError(f"cannot write a picture {text!r}: end its name in {', '.join(WRITTEN)}")
    return path


def plan_pictures(out: Path | None, photos: Sequence[PhotoSource]) -> list[Path | None]:
    """The picture's path for each photo, `<out>/<photo>.overlay.png`, or `out` itself; no two are the same.

    OptionError for several photos and one file; None for no pictures.
    """
    if out is None:
        return [None] * len(photos)
    if out.suffix and not out.is_dir():
        if len(photos) != 1:
            raise OptionError(f"--out {str(out)!r} is one file for {len(photos)} photos: give a folder")
        return [out]
    seen, paths = Counter[str](), list[Path | None]()
    for photo in photos:
        name = stem = Path(photo.file_name).stem
        while seen[name]:  # as a name, or as one with a number
            seen[stem] += 1
            name = f"{stem}-{seen[stem]}"
        seen[name] += 1
        paths.append(out / f"{name}.overlay.png")
    return paths


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, making its folder where it is missing; OptionError where that cannot be."""
    try:
        with atomic_path(path) as fresh:
            picture.save(fresh, format=WRITTEN[path.suffix.lower()])
    except OSError as error:
        raise OptionError(f"cannot write {str(path)!r} ({error}): choose another --out") from error
