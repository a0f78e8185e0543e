"""The arguments of `patchioner caption`, and which of them go together.

Knows: argparse. Does not know: how regions are spelled, models, photos, output.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from patchioner.cli import spelling
from patchioner.cli.photos import SAMPLES
from patchioner.cli.pictures import check_picture_name
from patchioner.regions import Region, WholeImage

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
  patchioner caption photo.jpg --box 10,20,200,220 --labels "a cat;a dog;a chair"

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

    add("--box", "X1,Y1,X2,Y2", spelling.parse_box, "left, top, right, bottom")
    add("--point", "X,Y", spelling.parse_point, "the patch under a point")
    add(
        "--mask",
        "PNG",
        spelling.parse_mask,
        "picture of the photo's size, not black where the region is",
    )
    add("--polygon", '"X,Y X,Y ..."', spelling.parse_polygon, 'several outlines separated by ";"')
    add(
        "--trace",
        '"X,Y X,Y ..."|FILE',
        spelling.parse_trace,
        "path of a pointer, or a JSON file with one",
    )
    add("--region-set", '"BOX;BOX;..."', spelling.parse_region_set, "several boxes, one caption")
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
        help="shipped name, hub id, checkpoint folder or YAML file (default: %(default)s)",
    )
    group.add_argument(
        "--bank", metavar="DIR", help="memory bank in place of the model's (patchioner bank build)"
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the model's choice)")
    group.add_argument(
        "--weighting",
        choices=["uniform", "gaussian", "attention", "cls"],
        help="how patches of a region count; cls: the whole photo's CLS token (default: the model's)",
    )
    group.add_argument(
        "--variance", type=spelling.not_negative, help="width of --weighting gaussian"
    )
    group.add_argument(
        "--rounding",
        choices=["coverage", "reference"],
        help="exact shares of patches, or the published integer arithmetic (default: coverage)",
    )
    group.add_argument(
        "--crop",
        action="store_true",
        default=None,
        help="cut each region out and encode it alone: slow, for models whose patches say little",
    )
    group.add_argument(
        "--labels",
        metavar='FILE|"A;B;C"',
        type=spelling.parse_texts,
        help="choose among these texts instead of writing a caption",
    )
    group.add_argument(
        "--beam", type=spelling.positive_int, metavar="N", help="beam search of width N"
    )
    group.add_argument(
        "--max-tokens", type=spelling.positive_int, metavar="N", help="longest caption, in tokens"
    )
    group.add_argument(
        "--temperature",
        type=spelling.positive,
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
    decoding = (options.beam, options.temperature, options.max_tokens)
    if options.labels is not None and any(value is not None for value in decoding):
        return "--labels writes no caption: leave --beam, --temperature, --max-tokens out"
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


@spelling.argument
def _picture_name(text: str) -> Path:
    return check_picture_name(Path(text))
