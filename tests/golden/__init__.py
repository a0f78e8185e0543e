"""Golden captions of the shipped model: token ids of every kind of region, decoded in four ways.

`python -m tests.golden` checks all photos and ends with status 1 if one differs; `--write` freezes anew.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from patchioner import DecodeOptions, Patchioner, Point, Trace, Weighting, WholeImage
from patchioner.regions import Box, Mask, Patch, Polygon, Region, RegionSet

FILE = Path(__file__).parent / "captions.json"
_BESIDE = [parent / "shared" / "data" for parent in Path(__file__).resolve().parents]
SHARED = next((folder for folder in _BESIDE if (folder / "photos").is_dir()), _BESIDE[-1])
PHOTOS = 60
PLAIN: dict[str, Any] = {"plain": True, "weighting": Weighting("attention")}
MODES: dict[str, dict[str, Any]] = {
    "default": PLAIN,
    "greedy": {**PLAIN, "options": DecodeOptions()},
    "beam": {**PLAIN, "options": DecodeOptions(strategy="beam", beam_width=5, max_tokens=20)},
    "regional": {"style": "sentence"},
    "phrases": {},
}
"""Three ways of decoding as they were frozen before captions were kept to their regions; whole sentences as they were
before the model's own style was phrases; and as captions are now."""
Ids = list[list[int]]
Frozen = dict[str, dict[str, Ids | list[str]]]


def photos(count: int = PHOTOS) -> list[Path]:
    """The first photos of the development set of image captioning."""
    listed = json.loads((SHARED / "annotations" / "image_captions_dev.json").read_text())["images"]
    return [SHARED / "photos" / one["file_name"] for one in listed[:count]]


def regions(photo: Path) -> list[Region]:
    """One region of every kind, drawn from the photo's name alone."""
    with Image.open(photo) as image:
        return regions_of(image.size, int(photo.stem))


def regions_of(size: tuple[int, int], seed: int) -> list[Region]:
    """One region of every kind on a photo of (width, height)."""
    (width, height), draw = size, np.random.default_rng(seed).uniform
    x1, y1 = draw(0, 0.5) * width, draw(0, 0.5) * height
    x2, y2 = x1 + draw(0.2, 0.5) * width, y1 + draw(0.2, 0.5) * height
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    rows, columns = np.mgrid[:height, :width] + 0.5
    ellipse = ((columns - middle[0]) / (x2 - x1)) ** 2 + ((rows - middle[1]) / (y2 - y1)) ** 2
    return [
        WholeImage(),
        Box(x1, y1, x2, y2),
        Mask(ellipse < 0.25),
        Polygon([(x1, y2), (x2, y2), (middle[0], y1)]),
        Point(*middle),
        Patch(10, 12),
        Trace([(x1, y1), middle, (x2, y1), (x2, y2)]),
        RegionSet([Box(x1, y1, *middle), Box(*middle, x2, y2)]),
    ]


@contextmanager
def recorded(model: Patchioner) -> Iterator[Ids]:
    """The token ids that decoders of the model's kind write meanwhile, in the order of the rows that they are given."""
    kind, found = type(model.parts.decoder), list[list[int]]()
    write = kind.generate

    def generate(*args: Any, **options: Any) -> Any:
        decoded = write(*args, **options)
        found.extend(list(one.token_ids) for one in decoded)
        return decoded

    kind.generate = generate  # type: ignore[method-assign]
    try:
        yield found
    finally:
        kind.generate = write  # type: ignore[method-assign]


def captioned(model: Patchioner, paths: Sequence[Path]) -> Frozen:
    """Token ids by mode and photo, as `caption` writes them; of captions kept to their regions the texts."""
    found: Frozen = {mode: {} for mode in MODES}
    for path in paths:
        features, asked = model.encode(str(path)), regions(path)
        for mode, how in MODES.items():
            with recorded(model) as ids:
                captions = model.caption(features, asked, **how)
            chosen = mode in ("regional", "phrases")  # among candidates, perhaps, or cut
            found[mode][path.name] = [one.text or "" for one in captions] if chosen else ids
    return found


def frozen() -> Frozen:
    """What was frozen, by mode and photo."""
    stored: Frozen = json.loads(FILE.read_text())
    return stored


def main() -> int:
    """Check, or freeze, the captions of all photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="freeze what the model says now")
    write, found = parser.parse_args().write, captioned(Patchioner.from_pretrained(), photos())
    if write:
        FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")
        return 0
    known = [(mode, *one) for mode, by_photo in frozen().items() for one in by_photo.items()]
    differ = [f"differs: {mode} {photo}\n" for mode, photo, ids in known if found[mode][photo] != ids]
    sys.stdout.write(f"{len(known) - len(differ)} of {len(known)} photos as frozen\n")
    sys.stdout.writelines(differ)
    return int(bool(differ))
