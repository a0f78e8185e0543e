"""Captions of random regions with every optimisation off and on are the same: python -m tests.attacks.equality

Off: weights unpacked, every token's logit computed, the bank read whole, regions one by one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
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


def random_regions(count: int, size: tuple[int, int], seed: int) -> list[Region]:
    """Of all kinds, anywhere on the photo."""
    draw, found = np.random.default_rng(seed), list[Region]()
    for number in range(count):
        points = draw.uniform(0.02, 0.98, (4, 2)) * size
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        mask = np.zeros(size[::-1], dtype=bool)
        mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = True
        box, dot = Box(x1, y1, x2 + 1, y2 + 1), Point(*points[0])
        kinds = box, dot, Trace(points), Polygon(points), Mask(mask), RegionSet([box, dot])
        found.append(kinds[number % len(kinds)])
    return found


def differing(parts: Parts, photo: Image.Image, count: int, seed: int = 0) -> dict[str, int]:
    """How many captions of random regions differ from those with everything off, by what is on."""
    regions = random_regions(count, photo.size, seed)
    plain = Patchioner(parts, device="cpu")
    plain._placed = parts.to("cpu", torch.float32, optimize=False)
    network: Any = plain._placed.decoder.network  # type: ignore[attr-defined]
    network.candidates = network.tables = None
    features = plain.encode(photo)
    expected = [plain.caption(features, [one])[0].text for one in regions]
    with tempfile.TemporaryDirectory() as folder:
        assert parts.bank is not None
        parts.bank.save(Path(folder) / "bank", dtype=parts.bank.dtype)
        mapped = replace(parts, bank=MemoryBank.load(Path(folder) / "bank", memory_map=True))
        models = {
            "one batch": plain,
            "packed": Patchioner(parts, device="cpu"),
            "mapped bank": Patchioner(mapped, device="cpu"),
        }
        captions = {name: model.caption(photo, regions) for name, model in models.items()}
    return {
        name: sum(one.text != text for one, text in zip(told, expected, strict=True))
        for name, told in captions.items()
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
