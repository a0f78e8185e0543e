"""`patchioner calibrate`: fit how sure captions of regions are, on boxes with names, or on photos with captions.

With `--detail`, how far photos support the sentences of long descriptions.

A caption of a box counts as right where it says the box's name. Without such boxes random ones are captioned, and right
is a caption whose things are all in people's captions of the photo: the photo's main thing for a box beside it, too.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from patchioner.base.errors import OptionError, TextError
from patchioner.base.files import read_json, replace_folder, write_json
from patchioner.base.progress import progress
from patchioner.cli.spelling import declare, positive_int, write_line
from patchioner.images import load_image
from patchioner.regions import Box, Region, WholeImage

if TYPE_CHECKING:
    from torch import Tensor

    from patchioner.checkpoints.folder import KindSettings, Parts
    from patchioner.geometry import ImageGeometry
    from patchioner.guidance import Captioned
    from patchioner.nouns import NounTable
    from patchioner.pipeline import Embedded

    NamedBoxes: TypeAlias = tuple[Any, Sequence[tuple[Region, str]]]
    Told: TypeAlias = tuple[int, int, str, tuple[float, ...], int | None]
    Regions: TypeAlias = Callable[[ImageGeometry], list[Region]] | list[Region]

_AT_ONCE = 32  # photos
_SEED = 0
_KIND_PENALTY, _FOLDS = 500.0, 5
_BOXES, _SHARES = 8, (0.02, 0.5)  # of a photo, and shares of its area


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner calibrate` takes."""
    add = declare(parser, calibrate, "Fit how sure captions are, on photos that nothing is later measured on.")
    add("--model", default="patchioner-mini", metavar="ID|DIR", help="with a text tower")
    add("--pairs", type=Path, required=True, metavar="FILE", help='JSON: [{"file_name", "captions"}, ...]')
    add("--boxes", type=Path, metavar="FILE", help='JSON: [{"file_name", "boxes": [{"xyxy", "name"}, ...]}, ...]')
    add("--photos", type=Path, required=True, metavar="DIR", help="folder of all those photos")
    add("--limit", type=positive_int, default=300, metavar="N", help="photos, always the same (default: %(default)s)")
    add("--detail", action="store_true", help="fit instead the support of sentences, for `patchioner detail`")
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add("--write", action="store_true", help="into the model's folder; else only print")


def calibrate(options: argparse.Namespace) -> int:
    """Fit, print the calibration as JSON, and write it where that is asked."""
    from patchioner.base.weights import usable_device
    from patchioner.checkpoints.folder import find_model, read_checkpoint
    from patchioner.guidance import read_pairs

    folder = Path(options.model)
    if options.write and not (folder / "config.json").is_file():
        raise OptionError(f"--write needs a checkpoint's folder, {options.model!r} is none: see patchioner convert")
    if options.detail and options.boxes is not None:
        options.error("--boxes tell of captions, not of --detail: leave one of them out")
    pairs = read_pairs(options.pairs, options.photos, limit=10**9, seed=_SEED)
    boxes = None if options.boxes is None else _read_boxes(options.boxes, options.photos)
    device, parts = usable_device(options.device), read_checkpoint(find_model(options.model))
    if options.detail:
        fitted, measured = fit_detail(parts, device, pairs[: options.limit])
    else:
        fitted, measured = fit(parts, device, pairs, options.limit, boxes)
    write_line(json.dumps(measured, indent=2))
    if options.write:
        _write(folder, fitted, parts)
    return 0


def fit_detail(parts: Parts, device: Any, pairs: Sequence[Captioned]) -> tuple[Parts, dict[str, Any]]:
    """The parts with calibrated support of sentences (`patchioner.detail.score.calibrate_model`); and that."""
    from patchioner.detail.score import KEY, calibrate_model
    from patchioner.model import Patchioner

    found = calibrate_model(Patchioner(parts, device=device), pairs).to_json()
    settings = replace(parts.settings, calibration={**parts.settings.calibration, KEY: found})
    return replace(parts, settings=settings), found


def fit(
    parts: Parts, device: Any, pairs: Sequence[Captioned], limit: int, named_boxes: Sequence[NamedBoxes] | None = None
) -> tuple[Parts, dict[str, Any]]:
    """The parts with a table of nouns, settings that use it, and calibrated captions; and that calibration.

    A table or settings that are there stay. `pairs` are (photo, people's captions), all of which the nouns are counted
    in, as in the bank's texts; captions are judged by the first `limit`, or by so many of `named_boxes`. OptionError:
    no text tower, or captions that are all right or all wrong.
    """
    import torch

    from patchioner.guidance import FEATURES, KEY, fit_logistic
    from patchioner.nouns import NounTable

    settings = parts.settings
    if parts.text_tower is None:
        raise OptionError(f"{settings.name!r} has no text tower to compare captions with")
    placed = parts.to(device, torch.float32)
    nouns = parts.nouns
    photos: list[Embedded] = []
    if nouns is None or named_boxes is None:
        draw = partial(_boxes, random.Random(_SEED))
        photos = _embedded(placed, [(photo, draw) for photo, _ in pairs[:limit]])
    if nouns is None:
        texts = None if parts.bank is None else parts.bank.texts
        said = chain(texts or (), *(captions for _, captions in pairs))
        rows = torch.cat([one.embeddings for one in photos])
        nouns = NounTable.build(map(str.lower, said), rows, parts.text_tower)
    if not settings.guides:
        settings = replace(settings, kinds=adapting(settings.kinds, parts.decoder.can_be_guided))
    if named_boxes is not None:
        photos = _embedded(placed, [(photo, [box for box, _ in boxes]) for photo, boxes in named_boxes[:limit]])
        nouns = nouns.of_asked(torch.cat([one.embeddings for one in photos]))
    placed = replace(placed, settings=settings, nouns=nouns.to(device))
    told = list(_captioned(photos, placed))
    truth = [
        _all_told(text, pairs[owner][1]) if named_boxes is None else _says(text, named_boxes[owner][1][place][1])
        for owner, place, text, *_ in told
    ]
    measures, odds = _with_odds(nouns, told, truth)
    fitted = fit_logistic(FEATURES, measures, truth)
    # It was fitted with as much weight on the right as on the wrong: back to how often each is.
    fitted = replace(fitted, bias=fitted.bias + math.log(sum(truth) / (len(truth) - sum(truth))))
    calibrated = {**fitted.to_json(), "measured": _measures(fitted(measures).tolist(), truth, len(photos))}
    settings = replace(settings, calibration={**settings.calibration, KEY: calibrated})
    return replace(parts, settings=settings, nouns=replace(nouns, odds=odds)), calibrated


def _with_odds(nouns: NounTable, told: Sequence[Told], truth: Sequence[bool]) -> tuple[list[list[float]], Tensor]:
    """The measures of captions, with odds of nouns that those of other photos give; and the odds that all give."""
    kinds, folds = nouns.kinds(), [owner % _FOLDS for owner, *_ in told]
    measures, best = [list(measured) for *_, measured, _ in told], [noun for *_, noun in told]
    for fold in range(_FOLDS):
        rest = [row for row, own in enumerate(folds) if own != fold]
        given = [best[row] for row in rest], [measures[row] for row in rest]
        odds = fitted_odds(kinds, *given, [truth[row] for row in rest])
        for row in set(range(len(told))).difference(rest):
            noun = best[row]
            measures[row][-1] = 0.0 if noun is None else float(odds[noun])
    return measures, fitted_odds(kinds, best, measures, truth)


def fitted_odds(
    kinds: Tensor, best: Sequence[int | None], measures: Sequence[Sequence[float]], truth: Sequence[bool]
) -> Tensor:
    """(k,) what the kind of noun adds to the log odds that a caption is right, beside the other measures.

    `kinds` are those of `NounTable`: kinds, not nouns, as most nouns are in too few captions. 0 where too few captions
    are right, or wrong.
    """
    import torch

    from patchioner.guidance import fit_logistic

    if min(truth.count(True), truth.count(False)) < 2:  # `fit_logistic` takes no fewer
        return torch.zeros(len(kinds))
    rows = torch.stack([torch.zeros(kinds.shape[1]) if one is None else kinds[one] for one in best])
    values = torch.cat([torch.tensor(measures)[:, :-1], rows], dim=1).double()
    names = [str(place) for place in range(values.shape[1])]
    fitted = fit_logistic(names, values.numpy(), truth, penalty=_KIND_PENALTY)
    slopes = torch.tensor(fitted.weights) / torch.tensor(fitted.deviation)
    return kinds @ slopes[-kinds.shape[1] :].float()


def adapting(kinds: Mapping[str, KindSettings], guided: bool) -> dict[str, KindSettings]:
    """Captions of places are guided; those of sets and traces gain nothing from it."""
    from patchioner.checkpoints.folder import Guidance, KindSettings

    found = dict(kinds)
    for kind in ("point", "patch", "box", "mask", "polygon") if guided else ():
        found[kind] = replace(found.get(kind, KindSettings()), guidance=Guidance(neutral=True, several=1.0))
    return found


def _embedded(placed: Parts, asked: Sequence[tuple[Any, Regions]]) -> list[Embedded]:
    """Photos and their regions as embeddings, each with the photo's own."""
    import torch

    from patchioner.embedding import embed_pooled, shares
    from patchioner.pipeline import Embedded

    found = []
    with torch.inference_mode():
        for photo, regions in progress(asked, description="encoding", unit="photo"):
            features = placed.backbone.encode([placed.backbone.prepare(load_image(photo))])[0]
            regions = regions(features.geometry) if callable(regions) else regions
            rows = embed_pooled(features, [*regions, WholeImage()], placed.settings)
            found.append(Embedded(regions, rows[:-1], {}, shares(regions, features.geometry), rows[-1]))
    return found


def _captioned(photos: Sequence[Embedded], placed: Parts) -> Iterator[Told]:
    """(Photo, place in it, caption, `FEATURES`, place of its best noun) of all regions."""
    from patchioner.guidance import best_nouns, features, gathered, write

    assert placed.nouns is not None, "it was made"
    for start in progress(range(0, len(photos), _AT_ONCE), description="captioning"):
        part = photos[start : start + _AT_ONCE]
        asked = gathered(part, placed)
        texts = [one.text for one in write(asked, None, placed)]
        best = best_nouns(placed.nouns.scores(asked.embeddings, asked=True), texts, placed.nouns)
        rows = iter(zip(texts, features(asked, texts, placed.nouns), best, strict=True))
        for owner, one in enumerate(part, start=start):
            for place in range(len(one.regions)):
                yield owner, place, *next(rows)


def _all_told(text: str, captions: Sequence[str]) -> bool:
    """Whether a caption names things, all of which people's captions name."""
    from patchioner.nouns import named

    things = named(text)
    return bool(things) and things <= {thing for one in captions for thing in named(one.lower())}


def _says(text: str, name: str) -> bool:
    """Whether a caption says a name, or the last word of it."""
    from decoders.guidance import Words
    from patchioner.nouns import named

    head = name.lower().split()[-1]
    return head in named(text) or bool(Words([head]).in_text(text))


def _read_boxes(path: Path, photos: Path) -> list[NamedBoxes]:
    """(Photo, (box, name)) of a JSON file, in an order drawn always alike; TextError says where it is not one."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found: list[NamedBoxes] = []
        for row in rows:
            boxes = [(Box(*map(float, one["xyxy"])), str(one["name"]).strip()) for one in row["boxes"]]
            named = [(box, name) for box, name in boxes if name]
            found += [(photos / str(row["file_name"]), named)] if named else []
    except (ValueError, KeyError, TypeError) as error:
        raise TextError(f"{path} is no list of photos with boxes and names: {error!r}") from error
    if not found:
        raise TextError(f"{path} has no boxes with names: give some, or leave --boxes out")
    random.Random(_SEED).shuffle(found)
    return found


def _boxes(generator: random.Random, geometry: ImageGeometry) -> list[Region]:
    """Boxes of all sizes and shapes anywhere on a photo."""
    found: list[Region] = []
    for _ in range(_BOXES):
        area = math.exp(generator.uniform(*map(math.log, _SHARES)))
        shape = math.exp(generator.uniform(-math.log(2), math.log(2)))
        sides = min(1.0, math.sqrt(area * shape)), min(1.0, math.sqrt(area / shape))
        corner = [generator.uniform(0, 1 - side) for side in sides]
        width, height = geometry.image_size
        left, top = corner[0] * width, corner[1] * height
        found.append(Box(left, top, left + sides[0] * width, top + sides[1] * height))
    return found


def _measures(sure: Sequence[float], truth: Sequence[bool], photos: int) -> dict[str, float]:
    """How many, how often right, and the calibration error over ten equally filled bins, on the photos of the fit."""
    pairs = sorted(zip(sure, truth, strict=True))
    size = math.ceil(len(pairs) / 10)
    bins = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    error = sum(abs(sum(right - p for p, right in one)) for one in bins) / len(pairs)
    right = round(sum(truth) / len(pairs), 4)
    return {"photos": photos, "captions": len(pairs), "right": right, "calibration error": round(error, 4)}


def _write(folder: Path, fitted: Parts, before: Parts) -> None:
    """Settings, and nouns if they are other ones, into a checkpoint's folder; the rest of its config.json stays."""
    config = folder / "config.json"
    values = read_json(config)
    values["calibration"] = dict(fitted.settings.calibration)
    if fitted.nouns is not None and fitted.nouns is not before.nouns:
        with replace_folder(folder / "nouns") as fresh:
            fitted.nouns.save(fresh)
        values["kinds"] = asdict(fitted.settings)["kinds"]
    write_json(config, values)
