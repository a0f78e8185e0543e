"""`patchioner calibrate`: fit, on photos with people's captions, how sure a model's captions of regions are.

Random boxes are captioned; a caption counts as right where all things it names are in people's captions of the photo.
Nothing else is known of a box, so a caption of the photo's main thing for a box beside it counts as right.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchioner.base.errors import OptionError
from patchioner.base.files import replace_folder, write_json
from patchioner.base.progress import progress
from patchioner.cli.output import write_line
from patchioner.cli.spelling import positive_int

if TYPE_CHECKING:
    from torch import Tensor

    from patchioner.checkpoints.folder import Parts
    from patchioner.checkpoints.settings import KindSettings
    from patchioner.geometry import ImageGeometry
    from patchioner.regions import Region

_AT_ONCE = 256  # regions
_BOXES, _SHARES = 8, (0.02, 0.5)  # of a photo, and shares of its area


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner calibrate` takes."""
    parser.description = (
        "Fit the confidence of a model's captions, and count how near regions are to nouns, on photos with captions. "
        "Use photos that nothing is later measured on."
    )
    add = parser.add_argument
    add("--model", default="patchioner-mini", metavar="ID|DIR", help="with a text tower")
    pairs = 'JSON: [{"file_name", "captions"}, ...]'
    add("--pairs", type=Path, required=True, metavar="FILE", help=pairs)
    add("--photos", type=Path, required=True, metavar="DIR", help="folder of those photos")
    drawn = "photos, drawn by the seed (default: %(default)s)"
    add("--limit", type=positive_int, default=300, metavar="N", help=drawn)
    add("--seed", type=int, default=0)
    add("--device")
    add("--write", action="store_true", help="into the model's folder; else only print")
    parser.set_defaults(run=calibrate)


def calibrate(options: argparse.Namespace) -> int:
    """Fit, print the calibration as JSON, and write it where that is asked."""
    from patchioner.calibration import read_pairs
    from patchioner.checkpoints.folder import read_checkpoint
    from patchioner.checkpoints.hub import find_model
    from patchioner.model import usable_device

    folder = Path(options.model)
    if options.write and not (folder / "config.json").is_file():
        raise OptionError(f"--write needs the folder of a checkpoint; {options.model!r} is none")
    pairs = read_pairs(options.pairs, options.photos, limit=10**9, seed=options.seed)
    parts = read_checkpoint(find_model(options.model))
    fitted, measured = fit(parts, usable_device(options.device), pairs, options.limit, options.seed)
    write_line(json.dumps(measured, indent=2))
    if options.write:
        _write(folder, fitted)
    return 0


def fit(
    parts: Parts, device: Any, pairs: Sequence[tuple[Any, Sequence[str]]], limit: int, seed: int
) -> tuple[Parts, dict[str, Any]]:
    """The parts with a table of nouns, settings that use it, and calibrated captions; and that calibration.

    A table or settings that are there stay.

    Args:
        parts: with a text tower.
        device: where to run them.
        pairs: (photo, people's captions), all of which the nouns are counted in, as in the bank's texts.
        limit: the first so many photos are captioned.
        seed: of the boxes.

    Raises:
        OptionError: no text tower, or captions that are all right or all wrong.
    """
    import torch

    from patchioner.calibration import fit_logistic
    from patchioner.embedding import project
    from patchioner.guidance import FEATURES, KEY, Asked, features, write
    from patchioner.nouns import NounTable, named

    tower, settings = parts.text_tower, parts.settings
    if tower is None:
        raise OptionError(f"{settings.name!r} has no text tower to compare captions with")
    placed = parts.to(device, torch.float32)
    regions, embeddings, wholes, owners = _regions(placed, [p for p, _ in pairs[:limit]], seed)
    nouns = parts.nouns
    if nouns is None:
        texts = None if parts.bank is None else parts.bank.texts
        said = chain(texts or (), *(captions for _, captions in pairs))
        boxes = [place for place, region in enumerate(regions) if region.kind == "box"]
        nouns = NounTable.build(map(str.lower, said), embeddings[boxes], tower)
    if not settings.adapts:
        settings = replace(settings, kinds=_adapting(settings.kinds, parts.decoder.can_be_guided))
    placed = replace(placed, settings=settings, nouns=nouns.to(device))
    rows, truth = [], []
    for start in progress(range(0, len(regions), _AT_ONCE), description="captioning"):
        part = slice(start, start + _AT_ONCE)
        projected = project(embeddings[part], settings, placed.bank)
        asked = Asked(regions[part], embeddings[part], wholes[part], projected)
        texts = [one.text for one in write(asked, None, placed)]
        measures = features(asked, texts, nouns.to(device))
        for owner, text, row in zip(owners[part], texts, measures, strict=True):
            if things := named(text):
                rows.append(row)
                truth.append(things <= {x for said in pairs[owner][1] for x in named(said.lower())})
    fitted = fit_logistic(FEATURES, rows, truth)
    # It was fitted with as much weight on the right as on the wrong: back to how often each is.
    fitted = replace(fitted, bias=fitted.bias + math.log(sum(truth) / (len(truth) - sum(truth))))
    measured = {
        **fitted.to_json(),
        "measured": _measures(fitted(rows).tolist(), truth, len(pairs[:limit])),
    }
    calibration = {**settings.calibration, KEY: measured}
    settings = replace(settings, calibration=calibration)
    return replace(parts, settings=settings, nouns=nouns), measured


def _adapting(kinds: Mapping[str, KindSettings], guided: bool) -> dict[str, KindSettings]:
    """Places are guided; sets, of which a photo has few, are chosen among samples."""
    from patchioner.checkpoints.settings import Guidance, KindSettings, Rerank

    found = dict(kinds)
    for kind in ("point", "patch", "box", "mask", "polygon") if guided else ():
        found[kind] = replace(found.get(kind, KindSettings()), guidance=Guidance())
    return found | {"region_set": replace(found.get("region_set", KindSettings()), rerank=Rerank())}


def _regions(
    placed: Parts, photos: Sequence[Any], seed: int
) -> tuple[list[Region], Tensor, Tensor, list[int]]:
    """Random boxes of photos and the photos whole, the embeddings of each and of its photo, and whose they are."""
    import torch

    from patchioner.embedding import embed_pooled
    from patchioner.images import load_image
    from patchioner.regions import WholeImage

    generator = random.Random(seed)
    regions: list[Region] = []
    rows, wholes, owners = [], [], []
    with torch.inference_mode():
        for owner, photo in enumerate(progress(photos, description="encoding", unit="photo")):
            features = placed.backbone.encode([placed.backbone.prepare(load_image(photo))])[0]
            own = [*(_box(features.geometry, generator) for _ in range(_BOXES)), WholeImage()]
            rows.append(embed_pooled(features, own, placed.settings))
            wholes.append(rows[-1][-1:].expand(len(own), -1))
            regions += own
            owners += [owner] * len(own)
    return regions, torch.cat(rows), torch.cat(wholes), owners


def _box(geometry: ImageGeometry, generator: random.Random) -> Region:
    from patchioner.regions import Box

    area = math.exp(generator.uniform(*map(math.log, _SHARES)))
    shape = math.exp(generator.uniform(-math.log(2), math.log(2)))
    sides = min(1.0, math.sqrt(area * shape)), min(1.0, math.sqrt(area / shape))
    corner = [generator.uniform(0, 1 - side) for side in sides]
    width, height = geometry.image_size
    left, top = corner[0] * width, corner[1] * height
    return Box(left, top, left + sides[0] * width, top + sides[1] * height)


def _measures(sure: Sequence[float], truth: Sequence[bool], photos: int) -> dict[str, float]:
    """How many, how often right, and the calibration error over ten equally filled bins, on the photos of the fit."""
    pairs = sorted(zip(sure, truth, strict=True))
    size = math.ceil(len(pairs) / 10)
    bins = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    error = sum(abs(sum(right - p for p, right in one)) for one in bins) / len(pairs)
    return {
        "photos": photos,
        "captions": len(pairs),
        "right": round(sum(truth) / len(pairs), 4),
        "calibration error": round(error, 4),
    }


def _write(folder: Path, fitted: Parts) -> None:
    """Settings and nouns into a checkpoint's folder; what else its config.json says stays as it is."""
    assert fitted.nouns is not None, "fit gives a table"
    with replace_folder(folder / "nouns") as fresh:
        fitted.nouns.save(fresh)
    config = folder / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values["calibration"] = dict(fitted.settings.calibration)
    values["kinds"] = asdict(fitted.settings)["kinds"]
    write_json(config, values)
