"""Command: how well the regions that a photo is divided into cover the objects in it.

    python -m benchmarks.detail.regions --data ../shared/data --out build/detail [--limit 10] [--json]

The default divider with the loaded model, on the dev photos that have COCO boxes, beside two plain ways to cut a photo
up that see nothing of it. No caption is scored: a box is covered where some region is enough like it. The whole photo,
which is a region of every way, is left out of all. It takes a second or two per photo, so that nothing is kept of a run
that is stopped.

Knows: dividers, boxes, the counting. Does NOT know: how a photo is divided (`patchioner.detail.divide`), captions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import natural, positive
from benchmarks.bootstrap import Difference, Interval, bootstrap_difference, bootstrap_mean
from benchmarks.detail.part import LoadModel, figure, markdown_table, percent, plain
from benchmarks.metrics.boxes import as_boxes, pairwise_iou
from benchmarks.readers import ClassBoxSample, DevSets
from patchioner import Patchioner
from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.files import atomic_path, write_json
from patchioner.base.progress import progress
from patchioner.detail import DetailRegion, open_photo, preset
from patchioner.detail.divide import PhotoDivider, grid, quadrants
from patchioner.detail.stages import Divider

DEFAULT, THINGS, GRID, QUADRANTS = (
    "default divider",
    "its things alone",
    "3 x 3 grid",
    "quadrants",
)
LIMITS: Final = (0.3, 0.5)
"""IoU from which a region covers a box."""
SIZES: Final[Mapping[str, float]] = MappingProxyType(
    {"small": 32.0**2, "medium": 96.0**2, "large": math.inf}
)
"""COCO's sizes by the area below which they end, in pixels of a photo whose long side is `LONG_SIDE`."""
LONG_SIDE: Final = 640
REPORT, VALUES = "regions.md", "regions.json"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Coverage:
    """What the regions of one way to divide are worth.

    Attributes:
        best: IoU of each box with the region most like it, (boxes,); 0 where a photo has no region.
        counts: regions of each photo, (photos,).
        areas: share (0..1) of each photo's area that some region covers, (photos,).
    """

    best: Floats
    counts: Floats
    areas: Floats


@dataclass(frozen=True, eq=False)
class Covered:
    """All ways to divide, on the same boxes.

    Attributes:
        photos: file names, in file order.
        owners: photo of each box, (boxes,).
        sizes: key of `SIZES` of each box, (boxes,).
        ways: name -> coverage.
    """

    photos: tuple[str, ...]
    owners: tuple[str, ...]
    sizes: tuple[str, ...]
    ways: Mapping[str, Coverage]

    def share(self, way: str, limit: float, size: str | None = None, *, seed: int = 0) -> Interval:
        """Share of the boxes (of a size) covered at an IoU of `limit` or more, with an interval over photos.

        Returns:
            NaN three times where there is no box of that size.
        """
        of_size = self._of(size)
        if not of_size:
            return Interval(math.nan, math.nan, math.nan)
        covered = self.ways[way].best[of_size] >= limit
        return bootstrap_mean(covered, [self.owners[place] for place in of_size], seed=seed)

    def gain(self, way: str, other: str, limit: float, *, seed: int = 0) -> Difference:
        """By how much the share of all boxes that `way` covers exceeds that of `other`; paired."""
        first, second = (self.ways[name].best >= limit for name in (other, way))
        return bootstrap_difference(first, second, self.owners, seed=seed)

    def mean(self, way: str, measure: str, *, seed: int = 0) -> Interval:
        """Mean over photos of "counts" or "areas"."""
        values: Floats = getattr(self.ways[way], measure)
        return bootstrap_mean(values, self.photos, seed=seed)

    def _of(self, size: str | None) -> list[int]:
        return [place for place, one in enumerate(self.sizes) if size in (None, one)]


def coco_size(box: Sequence[float], image_size: tuple[int, int]) -> str:
    """COCO's name for the size of a box: "small" below 32 x 32 pixels, "medium" below 96 x 96, or "large".

    COCO goes by the area of the outline in the photo as it was published; here it is the area of the box, which is
    larger, scaled as if the photo's long side had 640 pixels, which those of COCO have.

    Args:
        box: XYXY pixels.
        image_size: (width, height) in pixels.

    Example:
        >>> coco_size((0, 0, 20, 20), (640, 480)), coco_size((0, 0, 20, 20), (320, 240))
        ('small', 'medium')
    """
    scale = LONG_SIDE / max(image_size)
    area = (box[2] - box[0]) * (box[3] - box[1]) * scale**2
    return next(name for name, end in SIZES.items() if area < end)


def union_share(boxes: Floats, image_size: tuple[int, int]) -> float:
    """Share (0..1) of a photo's area that lies in some box, exactly.

    Args:
        boxes: (n, 4) XYXY pixels, inside the photo or not.
        image_size: (width, height) in pixels.

    Example:
        >>> union_share(np.array([[0.0, 0, 5, 10], [2.5, 0, 7.5, 10]]), (10, 10))
        0.75
    """
    width, height = image_size
    inside = np.clip(boxes, 0.0, [width, height, width, height])
    # Between neighbouring edges a cell lies in a box or outside of it, never across.
    across, down = (
        np.unique([0.0, side, *inside[:, axis::2].ravel()])
        for axis, side in ((0, width), (1, height))
    )
    covered = np.zeros((len(down) - 1, len(across) - 1), dtype=bool)
    for left, top, right, bottom in inside:
        covered[(down[:-1] >= top)[:, None] & (down[1:] <= bottom)[:, None]
                & (across[:-1] >= left) & (across[1:] <= right)] = True  # fmt: skip
    area = covered * np.diff(down)[:, None] * np.diff(across)
    return float(area.sum() / (width * height))


def covered_boxes(
    sets: DevSets, model: Patchioner, divider: Divider, limit: int | None = None
) -> Covered:
    """Divide the dev photos that have boxes, and count which boxes are covered.

    Args:
        sets: the development sets.
        model: encodes the photos.
        divider: measured under `DEFAULT`, and the things that it finds under `THINGS`.
        limit: photos, the first ones; None: all.

    Raises:
        BenchmarkDataError: the annotations are missing or damaged.
        OptionError: no photo has a box.

    Example:
        >>> covered_boxes(DevSets(data), model, PhotoDivider(model=model)).share(GRID, 0.5)  # doctest: +SKIP
    """
    by_photo: dict[str, list[ClassBoxSample]] = {}
    for box in sets.class_boxes():
        by_photo.setdefault(box.photo, []).append(box)
    photos = tuple(by_photo)[:limit]
    if not photos:
        raise OptionError("no dev photo has a box: give the folder with all annotations")
    found: dict[str, list[tuple[Floats, int, float]]] = {}
    owners: list[str] = []
    sizes: list[str] = []
    for name in progress(photos, description="dividing", unit="photo"):
        photo = open_photo(sets.photo_path(name), model)
        boxes = as_boxes([box.box for box in by_photo[name]])
        owners += [name] * len(boxes)
        sizes += [coco_size(box, photo.size) for box in boxes.tolist()]
        for way, regions in _ways(divider.divide(photo), photo.size).items():
            best = pairwise_iou(boxes, regions).max(axis=1, initial=0.0)
            share = union_share(regions, photo.size)
            found.setdefault(way, []).append((best, len(regions), share))
    ways = {
        way: Coverage(
            np.concatenate([best for best, _, _ in rows]),
            np.array([count for _, count, _ in rows], dtype=np.float64),
            np.array([share for _, _, share in rows]),
        )
        for way, rows in found.items()
    }
    return Covered(photos, tuple(owners), tuple(sizes), ways)


def _ways(regions: Sequence[DetailRegion], image_size: tuple[int, int]) -> dict[str, Floats]:
    parts = [region for region in regions if region.kind != "global"]
    return {
        DEFAULT: as_boxes([region.box for region in parts]),
        THINGS: as_boxes([region.box for region in parts if region.kind == "semantic"]),
        GRID: as_boxes(grid(image_size, 3, 3)),
        QUADRANTS: as_boxes(quadrants(image_size)),
    }


def report(covered: Covered, *, model_name: str, seed: int = 0) -> str:
    """The tables as Markdown; the same figures give the same text."""
    head = ["regions", "per photo", "area, %", *(f"IoU >= {limit}, %" for limit in LIMITS)]
    every = [
        [
            way,
            _mean(covered.mean(way, "counts", seed=seed)),
            percent(covered.mean(way, "areas", seed=seed)),
            *(percent(covered.share(way, limit, seed=seed)) for limit in LIMITS),
        ]
        for way in covered.ways
    ]
    by_size = [
        [way, *(percent(covered.share(way, limit, size, seed=seed)) for size in SIZES for limit in LIMITS)]
        for way in covered.ways
    ]  # fmt: skip
    gains = [
        [
            f"{way} minus {other}",
            *(percent(covered.gain(way, other, limit, seed=seed), signed=True) for limit in LIMITS),
        ]
        for way in (DEFAULT, THINGS)
        for other in (GRID, QUADRANTS)
    ]
    counts = {size: covered.sizes.count(size) for size in SIZES}
    sizes = [f"{size} ({counts[size]}), IoU >= {limit}" for size in SIZES for limit in LIMITS]
    return "\n".join(
        [
            "# Divide: objects covered",
            "",
            f"Model {model_name}, seed {seed}: {len(covered.owners)} COCO boxes of {len(covered.photos)} dev photos. A "
            "box is covered where the region most like it reaches the IoU; the whole photo counts for none. 95 % of "
            "bootstrap rounds over photos. \"Its things alone\": what was found in the features, no quadrants.",
            "",
            markdown_table(head, every),
            "Differences, paired, in points:",
            "",
            markdown_table(["", *(f"IoU >= {limit}" for limit in LIMITS)], gains),
            "By COCO's sizes (number of boxes), by the area of the box as if the long side had 640 pixels, %:",
            "",
            markdown_table(["regions", *sizes], by_size),
        ]
    )  # fmt: skip


def as_json(covered: Covered, *, model_name: str, seed: int = 0) -> dict[str, object]:
    """All figures, ready for JSON."""
    return {
        "settings": {"model": model_name, "seed": seed, "limits": list(LIMITS)},
        "photos": len(covered.photos),
        "boxes": {"all": len(covered.owners), **{s: covered.sizes.count(s) for s in SIZES}},
        "ways": {
            way: {
                "per photo": plain(covered.mean(way, "counts", seed=seed)),
                "area": plain(covered.mean(way, "areas", seed=seed)),
                "covered": {
                    size or "all": {
                        str(limit): plain(covered.share(way, limit, size, seed=seed))
                        for limit in LIMITS
                    }
                    for size in (None, *SIZES)
                },
                "minus": {
                    other: {
                        str(limit): plain(covered.gain(way, other, limit, seed=seed))
                        for limit in LIMITS
                    }
                    for other in (GRID, QUADRANTS)
                    if other != way
                },
            }
            for way in covered.ways
        },
    }


def main(
    argv: Sequence[str] | None = None, *, load_model: LoadModel = Patchioner.from_pretrained
) -> int:
    """The command; see the module.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model; tests put a tiny one in.

    Returns:
        0, or 1 after an error.
    """
    given = _parser().parse_args(argv)
    try:
        model = load_model(given.model)
        divider = PhotoDivider(preset("default").divide, model=model)
        covered = covered_boxes(DevSets(given.data), model, divider, given.limit)
        text = report(covered, model_name=given.model, seed=given.seed)
        values = as_json(covered, model_name=given.model, seed=given.seed)
        with atomic_path(given.out / REPORT) as temporary:
            temporary.write_text(text, encoding="utf-8")
        write_json(given.out / VALUES, values)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{json.dumps(values)}\n" if given.json else text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detail.regions",
        description="Measure how well the regions of divided photos cover COCO's boxes.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"), help="holds annotations/ and photos/")
    add("--out", type=Path, default=Path("build/detail"), help="folder of the reports")
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--limit", type=positive, help="photos, the first ones")
    add("--seed", type=natural, default=0)
    add("--json", action="store_true", help="figures instead of tables")
    return parser


def _mean(interval: Interval) -> str:
    return figure(interval.value, interval.low, interval.high)


if __name__ == "__main__":
    sys.exit(main())
