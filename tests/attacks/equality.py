"""Captions of random regions with every optimisation off and on are the same: python -m tests.attacks.equality

Off: weights unpacked, every token's logit computed, the bank read whole, regions one by one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from memory_bank import MemoryBank
from patchioner import Box, Mask, Patchioner, Point, Polygon, Region, RegionSet, Trace
from patchioner.checkpoints.folder import Parts, find_model, read_checkpoint
from tests.support.tiny import noise_photo

Captioned = Callable[[Sequence[Region]], list[str]]


def random_regions(count: int, size: tuple[int, int], seed: int) -> list[Region]:
    """Of all kinds, anywhere on the photo."""
    draw, found = np.random.default_rng(seed), list[Region]()
    for number in range(count):
        points = draw.uniform(0.02, 0.98, (4, 2)) * size
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        mask = np.zeros(size[::-1], dtype=bool)
        mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = True
        box = Box(x1, y1, x2 + 1, y2 + 1)
        kinds: tuple[Region, ...] = (
            box, Point(*points[0]), Trace(points), Polygon(points), Mask(mask), RegionSet([box, Point(*points[1])]),
        )  # fmt: skip
        found.append(kinds[number % len(kinds)])
    return found


def ways(parts: Parts, photo: Image.Image, folder: Path) -> dict[str, Captioned]:
    """What captions regions of a photo, by what is on; "off" is first."""
    fast, plain = Patchioner(parts, device="cpu"), Patchioner(parts, device="cpu")
    plain._placed = parts.to("cpu", torch.float32, optimize=False)
    network: Any = plain._placed.decoder.network  # type: ignore[attr-defined]
    network.candidates = network.tables = None
    assert parts.bank is not None
    parts.bank.save(folder / "bank", dtype=parts.bank.dtype)
    mapped = replace(parts, bank=MemoryBank.load(folder / "bank", memory_map=True))

    def texts(model: Patchioner, regions: Sequence[Region]) -> list[str]:
        return [one.text for one in model.caption(photo, regions)]

    def alone(regions: Sequence[Region]) -> list[str]:
        features = plain.encode(photo)
        return [plain.caption(features, [one])[0].text for one in regions]

    return {
        "off": alone,
        "one batch": lambda regions: texts(plain, regions),
        "packed": lambda regions: texts(fast, regions),
        "mapped bank": lambda regions: texts(Patchioner(mapped, device="cpu"), regions),
    }


def differing(parts: Parts, photo: Image.Image, count: int, seed: int = 0) -> dict[str, int]:
    """How many captions of random regions differ from those with everything off, by what is on."""
    regions = random_regions(count, photo.size, seed)
    with tempfile.TemporaryDirectory() as folder:
        known = ways(parts, photo, Path(folder))
        plain = known.pop("off")(regions)
        return {
            name: sum(a != b for a, b in zip(plain, caption(regions), strict=True))
            for name, caption in known.items()
        }


def main() -> int:
    """Compare on the shipped model; exit status 1 where a caption differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--photo", help="a picture (default: noise)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    photo = Image.open(options.photo).convert("RGB") if options.photo else noise_photo(320, 240)
    found = differing(read_checkpoint(find_model("patchioner-mini")), photo, options.regions)
    for name, count in found.items():
        sys.stdout.write(f"{name}: {count} of {options.regions} captions differ\n")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
