"""Command: what decoding large JPEGs at reduced scale saves, and how many captions it changes.

    python -m benchmarks.reduced_scale ../shared/data/did/photos --mosaics 6 --tiles 8

Photos with real detail at many megapixels are made of small ones, laid side by side: 8 x 8 of 640 x 480 pixels are 20
megapixels. Each mosaic is captioned in sixteen boxes and whole, from the whole photo and from the reduced one.

Knows: mosaics, clocks, what is compared. Does NOT know: how a JPEG is reduced.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from benchmarks.arguments import positive, positive_number
from patchioner import Box, Patchioner, WholeImage
from patchioner.base.errors import PatchionerError
from patchioner.images import load_image
from patchioner.reduced_photos import ReducedPhoto, load_reduced
from patchioner.regions import Region

_TILE = (640, 480)
_BOXES_ACROSS = 4


@dataclass(frozen=True)
class ScaleRow:
    """One margin.

    Attributes:
        margin: pixels kept for each one that the network needs, at least.
        scale: of the decoded photo; 1 where nothing was reduced.
        whole, reduced: median seconds of reading a photo.
        cosine: mean cosine of patch tokens.
        changed, captions: captions that differ, and of how many.
    """

    margin: float
    scale: float
    whole: float
    reduced: float
    cosine: float
    changed: int
    captions: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 after an error.

    Example:
        >>> main(["photos", "--mosaics", "2"])  # doctest: +SKIP
    """
    options = _parser().parse_args(argv)
    try:
        model = Patchioner.from_pretrained(options.model, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            mosaics = make_mosaics(
                options.photos, Path(folder), count=options.mosaics, tiles=options.tiles
            )
            rows = [compare(model, mosaics, margin) for margin in options.margins]
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(table(rows))
    return 0


def make_mosaics(photos: Path, folder: Path, *, count: int, tiles: int) -> list[Path]:
    """Lay photos of a folder side by side, `tiles` x `tiles`, as JPEGs of quality 90; photos repeat where they run out.

    Example:
        >>> make_mosaics(Path("photos"), Path("out"), count=2, tiles=8)  # doctest: +SKIP
    """
    sources = sorted(photos.glob("*.jpg"))
    if not sources:
        raise PatchionerError(f"no .jpg in {photos}: give a folder of photos")
    written = []
    for number in range(count):
        mosaic = Image.new("RGB", (_TILE[0] * tiles, _TILE[1] * tiles))
        for place in range(tiles * tiles):
            source = sources[(number * tiles * tiles + place) % len(sources)]
            tile = load_image(source).resize(_TILE, Image.Resampling.LANCZOS)
            mosaic.paste(tile, (place % tiles * _TILE[0], place // tiles * _TILE[1]))
        path = folder / f"{number}.jpg"
        mosaic.save(path, quality=90)
        written.append(path)
    return written


def compare(model: Patchioner, photos: Sequence[Path], margin: float) -> ScaleRow:
    """Read and caption photos whole and reduced.

    Example:
        >>> compare(model, [Path("large.jpg")], 2.0).changed  # doctest: +SKIP
        0
    """
    backbone = model.parts.backbone
    whole_seconds, reduced_seconds, cosines = [], [], []
    scale, changed, captions = 1.0, 0, 0
    for path in photos:
        started = time.perf_counter()
        whole = load_image(path)
        between = time.perf_counter()
        reduced = load_reduced(path, backbone.needed_size, margin=margin)
        reduced_seconds.append(time.perf_counter() - between)
        whole_seconds.append(between - started)
        if isinstance(reduced, ReducedPhoto):
            scale = reduced.image.width / reduced.size[0]
        one, two = (backbone.encode([photo])[0] for photo in (whole, reduced))
        cosines.append(float(torch.cosine_similarity(one.tokens, two.tokens, dim=2).mean()))
        regions = boxes(whole.size)
        texts = [[c.text for c in model.caption(features, regions)] for features in (one, two)]
        changed += sum(mine != theirs for mine, theirs in zip(*texts, strict=True))
        captions += len(regions)
    return ScaleRow(
        margin,
        scale,
        statistics.median(whole_seconds),
        statistics.median(reduced_seconds),
        statistics.mean(cosines),
        changed,
        captions,
    )


def boxes(size: tuple[int, int]) -> list[Region]:
    """The whole photo, and the boxes of a 4 x 4 grid.

    Example:
        >>> len(boxes((640, 480)))
        17
    """
    width, height = size[0] / _BOXES_ACROSS, size[1] / _BOXES_ACROSS
    steps = range(_BOXES_ACROSS)
    cells = [
        Box(x * width, y * height, (x + 1) * width, (y + 1) * height) for y in steps for x in steps
    ]
    return [WholeImage(), *cells]


def table(rows: Sequence[ScaleRow]) -> str:
    """Return the rows as a Markdown table.

    Example:
        >>> table([ScaleRow(2.0, 0.25, 0.2, 0.05, 0.999, 1, 100)]).splitlines()[-1]
        '| 2 | 0.25 | 0.200 s | 0.050 s | 4.0 | 0.99900 | 1 of 100 (1.0%) |'
    """
    lines = [
        "| margin | scale | read whole | read reduced | times as fast | cosine of tokens | captions changed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = f"{row.changed} of {row.captions} ({row.changed / row.captions:.1%})"
        lines.append(
            f"| {row.margin:g} | {row.scale:g} | {row.whole:.3f} s | {row.reduced:.3f} s "
            f"| {row.whole / row.reduced:.1f} | {row.cosine:.5f} | {share} |"
        )
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reduced_scale",
        description="What decoding large JPEGs at reduced scale saves and changes.",
    )
    add = parser.add_argument
    add("photos", type=Path, help="folder of .jpg photos to make mosaics of")
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--mosaics", type=positive, default=6, help="how many")
    add("--tiles", type=positive, default=8, help="photos along each side of a mosaic")
    add("--margins", type=positive_number, nargs="+", default=[1.0, 2.0, 4.0], metavar="FACTOR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
