"""The arguments of `patchioner caption`, and how their text becomes regions.

Knows: argparse and the spelling of regions. Does not know: models, photos, output.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from patchioner.cli.photos import SAMPLES
from patchioner.cli.pictures import check_picture_name
from patchioner.regions import Box, Mask, Point, Polygon, Region, RegionSet, Trace, WholeImage
from patchioner_base.errors import PatchionerError, RegionFileError

T = TypeVar("T")

_SAMPLES = " ".join(f"scikit-image:{name}" for name in SAMPLES)
_EXAMPLES = f"""\
A PHOTO is a picture, a folder of pictures, or one that scikit-image ships:
{_SAMPLES}.
Regions are in pixels of the photo, x to the right, y down. No region means the whole image.

examples:
  patchioner caption photo.jpg
  patchioner caption photo.jpg --box 10,20,200,220 --trace "30,40 60,80 90,85" --out overlay.png
  patchioner caption photos/ --regions regions.json --json > captions.jsonl
  patchioner caption photo.jpg --patches --out map.png

exit status: 0 all captioned; 1 a photo or the model failed (see standard error); 2 wrong usage.
"""


def add_caption_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare everything that `patchioner caption` takes."""
    parser.description = "Print a caption for every region of every photo."
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="picture, folder, or scikit-image:NAME"
    )
    _add_regions(
        parser.add_argument_group("regions, any number of each, captioned in the order given")
    )
    _add_model(parser.add_argument_group("model"))
    _add_output(parser.add_argument_group("output"))


def _add_regions(group: argparse._ArgumentGroup) -> None:
    def add(flag: str, metavar: str, parse: Callable[[str], Region], help_: str) -> None:
        # One list for all kinds: the order on the command line is the order of the captions.
        group.add_argument(
            flag,
            metavar=metavar,
            type=parse,
            action="append",
            dest="regions",
            default=[],
            help=help_,
        )

    add("--box", "X1,Y1,X2,Y2", parse_box, "left, top, right, bottom")
    add("--point", "X,Y", parse_point, "the patch under a point")
    add("--mask", "PNG", parse_mask, "picture of the photo's size, not black where the region is")
    add("--polygon", '"X,Y X,Y ..."', parse_polygon, 'several outlines separated by ";"')
    add("--trace", '"X,Y X,Y ..."|FILE', parse_trace, "path of a pointer, or a JSON file with one")
    add("--region-set", '"BOX;BOX;..."', parse_region_set, "several boxes, one caption")
    group.add_argument(
        "--whole",
        action="append_const",
        const=WholeImage(),
        dest="regions",
        help="the whole image, beside other regions (alone, it is the default)",
    )
    group.add_argument(
        "--regions",
        metavar="FILE",
        dest="region_file",
        type=Path,
        help="JSON of regions, COCO annotations, or SAM masks (.json, .npz, .npy)",
    )
    group.add_argument("--patches", action="store_true", help="caption every patch; draws a map")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        default="patchioner-mini",
        metavar="ID|DIR",
        help="shipped name, hub id or checkpoint folder (default: %(default)s)",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the model's choice)")
    group.add_argument(
        "--weighting",
        choices=["uniform", "gaussian", "attention"],
        help="how patches of a region count (default: the model's)",
    )
    group.add_argument("--variance", type=_not_negative, help="width of --weighting gaussian")
    group.add_argument(
        "--rounding",
        choices=["coverage", "reference"],
        help="exact shares of patches, or the published integer arithmetic (default: coverage)",
    )
    group.add_argument("--beam", type=_positive_int, metavar="N", help="beam search of width N")
    group.add_argument(
        "--max-tokens", type=_positive_int, metavar="N", help="longest caption, in tokens"
    )
    group.add_argument(
        "--temperature",
        type=_positive,
        metavar="T",
        help="draw words at random at this temperature",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="of --temperature (default: %(default)s)"
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out",
        type=_picture_name,
        metavar="PICTURE|DIR",
        help="draw the regions and captions; a folder when there are several photos",
    )
    group.add_argument("--json", action="store_true", help="one JSON object per photo and line")


def check_combinations(options: argparse.Namespace) -> str | None:
    """What is wrong about arguments that are right one by one; None when nothing is."""
    if options.patches and (options.regions or options.region_file):
        return "--patches captions every patch: leave the other regions out"
    if options.variance is not None and options.weighting != "gaussian":
        return "--variance belongs to --weighting gaussian: add it or leave --variance out"
    if options.beam is not None and options.temperature is not None:
        return "--beam and --temperature exclude each other: give one"
    return None


def attach_negative_values(argv: Sequence[str]) -> list[str]:
    """Write `--box -5,0,9,9` as `--box=-5,0,9,9`, which argparse would take for two options."""
    result: list[str] = []
    for word in argv:
        if re.match(r"-[\d.]", word) and result and re.fullmatch(r"--[a-z-]+", result[-1]):
            result[-1] += f"={word}"
        else:
            result.append(word)
    return result


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
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


@_argument
def parse_box(text: str) -> Box:
    """`X1,Y1,X2,Y2` in pixels."""
    return Box(*_numbers(text, 4, "X1,Y1,X2,Y2"))


@_argument
def parse_point(text: str) -> Point:
    """`X,Y` in pixels."""
    return Point(*_numbers(text, 2, "X,Y"))


@_argument
def parse_mask(text: str) -> Mask:
    """The path of a mask picture."""
    return Mask.from_file(text)


@_argument
def parse_polygon(text: str) -> Polygon:
    """`X,Y X,Y X,Y`, in pixels; several outlines are separated by semicolons."""
    rings = [_points(ring) for ring in text.split(";") if ring.strip()]
    return Polygon(rings)


@_argument
def parse_region_set(text: str) -> RegionSet:
    """Boxes separated by semicolons."""
    return RegionSet([parse_box(box) for box in text.split(";") if box.strip()])


@_argument
def parse_trace(text: str) -> Trace:
    """`X,Y X,Y` in pixels, or the path of a file with a trace."""
    path = Path(text)
    if "," in text and not path.suffix.isalpha() and not _is_file(path):
        return Trace(_points(text))
    return read_trace(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a long list of points is no possible file name
        return False


def read_trace(path: Path) -> Trace:
    """Read one trace from a JSON file.

    Takes `[[x, y], ...]` in pixels; `[{"x": .., "y": .., "t": ..}, ...]` in 0..1, as the traces of
    Localized Narratives are published; or `{"trace": either of them, "normalized": bool}`, which
    says so itself.

    Raises:
        RegionFileError: no such file, no JSON, or no trace in it.
        RegionError: the points make no trace.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegionFileError(f"cannot read a trace from {str(path)!r} ({error})") from error
    points, normalized = content, None
    if isinstance(content, dict):
        points, normalized = content.get("trace"), content.get("normalized")
    if not isinstance(points, list) or not points:
        raise RegionFileError(
            f"{str(path)!r} holds no trace: write [[x, y], ...] in pixels or "
            '{"trace": [[x, y], ...], "normalized": true}'
        )
    if isinstance(points[0], dict):
        return Trace.from_points_xyt(points, normalized=normalized is not False)
    return Trace(points, normalized=bool(normalized))


@_argument
def _picture_name(text: str) -> Path:
    return check_picture_name(Path(text))


def _positive_int(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _positive(text: str) -> float:
    value = _numbers(text, 1, "a number above 0")[0]
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _not_negative(text: str) -> float:
    value = _numbers(text, 1, "a number from 0 on")[0]
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return value
