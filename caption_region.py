"""Caption one region of a photo: image and box, mask or trace in, caption out.

python caption_region.py photo.jpg --box 10 20 200 220
python caption_region.py photo.jpg --mask mask.png
python caption_region.py photo.jpg --trace 30,40 60,80 90,85
"""

from __future__ import annotations

import argparse
import sys

from patchioner import Box, Mask, Patchioner, Trace, WholeImage
from patchioner.base.progress import guarded, printable


def point(text: str) -> tuple[float, float]:
    """`X,Y` in pixels."""
    x, y = text.split(",")
    return float(x), float(y)


def region_from(arguments: argparse.Namespace) -> Box | Mask | Trace | WholeImage:
    """The region that was asked for; the whole image when none was."""
    if arguments.box:
        return Box(*arguments.box)
    if arguments.mask:
        return Mask.from_file(arguments.mask)
    if arguments.trace:
        return Trace(arguments.trace)
    return WholeImage()


def main() -> int:
    """Read the arguments, caption, print."""
    parser = argparse.ArgumentParser(description="Caption one region of a photo.")
    parser.add_argument("image")
    region = parser.add_mutually_exclusive_group()
    region.add_argument("--box", nargs=4, type=float, metavar=("X1", "Y1", "X2", "Y2"))
    region.add_argument("--mask", metavar="PNG", help="of the photo's size, not black inside")
    region.add_argument("--trace", nargs="+", type=point, metavar="X,Y")
    parser.add_argument("--model", default="patchioner-mini", help="name, hub id or folder")
    arguments = parser.parse_args()

    def work() -> None:
        region = region_from(arguments)  # what is wrong with it is said before the model is loaded
        model = Patchioner.from_pretrained(arguments.model)
        features = model.encode(arguments.image)  # once; then any number of regions
        for caption in model.caption(features, [region]):
            sys.stdout.write(f"{printable(str(caption.text))}\n")

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
