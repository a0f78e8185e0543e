"""Photo -> regions (the whole, what is given, parts by place) -> statements, by our captioner or a model of others.

Boxes are (left, top, right, bottom), float pixels of the original photo.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from decoders import DecodeOptions
from decoders.scene_graph import noun_phrases
from patchioner.base.errors import DetailError, OptionError, PatchionerError, RegionError
from patchioner.base.files import check
from patchioner.detail import DetailRegion, Photo, Rectangle, Regions, Statement, prose
from patchioner.detail.models import Answer, Asked, AskedModel, Question, mask_digest
from patchioner.images import cut_out
from patchioner.model import Patchioner
from patchioner.regions import Box, Mask, NamedRegion, Polygon, Region
from patchioner.results import Caption

_LOG = logging.getLogger(__name__)
Size = tuple[int, int]
_GROW = 0.3  # published: quadrants grow by boxes of which more than this lies in them
_UNION_COVERAGE = 0.4  # published: the union is left out where its IoU with the photo is above this


def area(box: Rectangle) -> float:
    """Pixels inside; 0 of one that is empty or inverted."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def shared_area(one: Rectangle, two: Rectangle) -> float:
    """Pixels inside both."""
    left, top, right, bottom = *map(max, one[:2], two[:2]), *map(min, one[2:], two[2:])
    return area((left, top, right, bottom))


def iou(one: Rectangle, two: Rectangle) -> float:
    """Intersection over union, 0 to 1; 0 where both are empty."""
    shared = shared_area(one, two)
    return shared / max(area(one) + area(two) - shared, 1e-300)


def share_inside(box: Rectangle, other: Rectangle) -> float:
    """Part of `box` that lies inside `other`, 0 to 1: intersection over the area of `box`, no IoU."""
    return shared_area(box, other) / max(area(box), 1e-300)


def overlap_share(one: DetailRegion, other: DetailRegion) -> float:
    """Share of the smaller region's box that the two have in common; 1 for a region and itself."""
    return share_inside(*sorted((one.box, other.box), key=area))


def bounding_union(boxes: Iterable[Rectangle]) -> Rectangle:
    """The smallest rectangle that holds all, of which there is at least one."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def merge_overlapping(boxes: Sequence[Rectangle], limit: float) -> list[Rectangle]:
    """Unite boxes with IoU above `limit`, the closest pair first, until no such pair is left."""
    left = list(boxes)
    while True:
        pairs = [(iou(left[i], left[j]), -i, -j) for j in range(len(left)) for i in range(j)]
        closest, first, second = max(pairs, default=(0.0, 0, 0))
        if closest <= limit:
            return left
        left[-first] = bounding_union((left[-first], left.pop(-second)))


def _cells(x: Iterable[float], y: Iterable[float]) -> list[Rectangle]:
    """What lines at x and y divide a photo into, row by row."""
    across, down = (list(pairwise(map(float, edges))) for edges in (x, y))
    return [(left, top, right, bottom) for top, bottom in down for left, right in across]


Given = NamedRegion | Region  # what a user may give as a region: a value of ours, or an entry of a region file


def as_region(given: Given, image_size: Size) -> DetailRegion:
    """A region as it was given, "user", cut to the photo of (width, height), with its name where it has one.
    `RegionError`: a region without an inside, nothing of it in the photo, or a mask of another size."""
    match given:
        case NamedRegion():
            return replace(as_region(given.region, image_size), name=given.label)
        case Mask():
            given.require_fit(image_size)
            left, top, right, bottom = map(float, given.bounds)
            return DetailRegion("user", "user", (left, top, right, bottom), given.array)
        case Polygon():
            canvas = Image.new("L", image_size)
            for ring in given.rings:  # their union; pixels that the outline touches count
                ImageDraw.Draw(canvas).polygon(ring, fill=1)
            return as_region(Mask(np.asarray(canvas) > 0), image_size)
        case Box(left, top, right, bottom):
            width, height = map(float, image_size)
            box = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
            if area(box) <= 0.0:
                raise RegionError(f"{given} has nothing inside the {width:.0f}x{height:.0f} image: give its pixels")
            return DetailRegion("user", "user", box)
    raise RegionError(f"{given!r:.80} is no region with an inside: give a Box, Mask, Polygon or entry of read_regions")


def union_of_named(things: Sequence[DetailRegion], caption: str, size: Size) -> Rectangle | None:
    """The published semantic patch: the box around all things that the photo's caption names, by word and synonym. None
    where nothing is named, or its IoU with the photo is above 0.4."""
    said = {prose.canonical(phrase.head) for phrase in noun_phrases(caption)}
    boxes = []
    for one in things:
        words = (one.name or "").replace("_", " ").lower().split()
        if said & {prose.canonical(word) for word in (*words[-1:], " ".join(words))}:
            boxes.append(one.box)
    whole = whole_photo(size).box
    union = bounding_union(boxes or [whole])
    return union if iou(union, whole) <= _UNION_COVERAGE else None


@dataclass(frozen=True)
class DivideSettings:
    """Which regions a photo is divided into, besides the whole of it and the things that are given."""

    spatial: Literal["quadrants", "grid", "both", "none"] = "both"
    rows: int = 3  # of the grid
    columns: int = 3
    growing_area: float = 0.25  # share of the photo: quadrants grow by given boxes that are no larger
    merge_iou: float = 0.5  # given boxes with a greater IoU are united for that
    # Regions are "each" given thing; or, as published, the box around those that the caption of the whole photo names.
    objects: Literal["each", "union"] = "each"

    def __post_init__(self) -> None:
        check(("quadrants", "grid", "both", "none"), self, "spatial")
        check(("each", "union"), self, "objects")
        check("int [1, 1000]", self, "rows columns")
        check("[0, 1]", self, "growing_area merge_iou")


def divide(
    photo: Photo, given: Sequence[Given] = (), settings: DivideSettings | None = None, model: Patchioner | None = None
) -> list[DetailRegion]:
    """The whole photo first, then things that are given, then quadrants and cells in reading order. Parts that the
    model sees nothing of (where its preprocessing crops) are left out. Nothing is random. `OptionError`: a "union" of
    things without a model, which captions the whole photo."""
    chosen = settings or DivideSettings()
    regions = (as_region(one, photo.size) for one in given)
    things = found = [replace(one, id=f"user-{n}") for n, one in enumerate(regions, 1)]
    if chosen.objects == "union" and model is None:
        raise OptionError("objects='union' goes by a caption: give a model, or objects='each'")
    if chosen.objects == "union" and model is not None and found:
        (told,) = model.caption(photo.features or photo.image, style="sentence")
        box = union_of_named(found, told.text or "", photo.size)
        things = [DetailRegion("semantic-1", "semantic", box)] if box else []
    parts = [whole_photo(photo.size), *things]
    if chosen.spatial in ("quadrants", "both"):
        parts += _grown_quadrants([one.box for one in found], photo.size, chosen)
    if chosen.spatial in ("grid", "both"):
        width, height = photo.size
        cells = _cells(np.linspace(0, width, chosen.columns + 1), np.linspace(0, height, chosen.rows + 1))
        parts += [DetailRegion(f"grid-{n}", "grid", box) for n, box in enumerate(cells, 1)]
    if photo.features is None:
        return parts
    return [one for one in parts if shared_area(one.box, photo.features.geometry.visible) > 0]


def _grown_quadrants(things: Sequence[Rectangle], size: Size, settings: DivideSettings) -> list[DetailRegion]:
    largest = settings.growing_area * size[0] * size[1]
    merged = merge_overlapping([box for box in things if area(box) <= largest], settings.merge_iou)
    # Split as published; a photo one pixel wide or high at one half.
    cells = _cells(*([0, side // 2 or 0.5, side] for side in size))
    grown = (bounding_union([part, *(box for box in merged if share_inside(box, part) > _GROW)]) for part in cells)
    return [DetailRegion(f"spatial-{n}", "spatial", box) for n, box in enumerate(grown, 1)]


def whole_photo(image_size: Size) -> DetailRegion:
    """The region that is the whole photo, "global"."""
    return DetailRegion("global", "global", (0.0, 0.0, float(image_size[0]), float(image_size[1])))


@dataclass(frozen=True)
class OwnSettings:
    """How our captioner is asked: its caption is one short sentence, so that several come from several sub-regions."""

    samples: int = 5  # captions of a region
    jitter: float = 0.1  # how far a sub-region is moved, as a share of its region's sides; 0: it is the region itself
    scales: tuple[float, ...] = (0.8, 1.25, 0.6, 1.0)  # of sub-regions, in turn; above 1 with what is around
    # Which samples are drawn from the decoder, not decoded as the checkpoint does: every second further one, or all, as
    # published for language models.
    sampled: Literal["alternate", "all", "none"] = "alternate"
    temperature: float = 0.3  # of what is drawn
    top_p: float = 0.9

    def __post_init__(self) -> None:
        check("int [1, 1000]", self, "samples")
        check("[0, 0.49]", self, "jitter")
        check(("alternate", "all", "none"), self, "sampled")
        check("[1e-6, 100]", self, "temperature")
        check("[1e-6, 1]", self, "top_p")
        if not self.scales or not all(0.05 <= scale <= 4 for scale in self.scales):
            raise OptionError(f"scales {self.scales} must hold numbers from 0.05 to 4")


class PatchionerDescriber:
    """Describe regions with our own captioner (a `Describer`): sample 0 is the sentence that it gives of a region,
    others are of sub-regions, moved and scaled at random, or drawn from the decoder. Nothing is encoded again."""

    def __init__(self, model: Patchioner, settings: OwnSettings | None = None) -> None:
        self._model, self._settings = model, settings or OwnSettings()
        self.settings: dict[str, object] = {"describer": "patchioner", "model": model.settings.name}
        self.settings |= asdict(self._settings)

    def describe(self, photo: Photo, regions: Regions, *, seed: int = 0) -> list[Statement]:
        """All captions of all regions, ordered by region, then sample. A text depends on the photo, its region, the
        sample's number and the seed; not on the other regions."""
        features = self._model.encode(photo.image) if photo.features is None else photo.features
        visible, samples = features.geometry.visible, range(self._settings.samples)
        asked = {(one.id, n): self._sub_region(photo, one, n, seed, visible) for one, n in product(regions, samples)}
        captions: dict[tuple[str, int], Caption] = {}
        decodings = {sample: self._decoding(sample, seed) for sample in samples}
        for options in dict.fromkeys(decodings.values()):
            keys = [key for key in asked if decodings[key[1]] == options]
            found = self._model.caption(features, [asked[key] for key in keys], options=options, style="sentence")
            captions.update(zip(keys, found, strict=True))
        return [Statement(*key, captions[key].text or "", captions[key].score) for key in asked]

    def _decoding(self, sample: int, seed: int) -> DecodeOptions | None:
        settings = self._settings
        alternate = settings.sampled == "alternate" and sample > 0 and sample % 2 == 0
        if settings.sampled != "all" and not alternate:
            return None
        # A draw depends on seed and embedding: the same region twice needs a seed of its own.
        own = seed + (sample if settings.jitter == 0 else 0)
        plain = self._model.settings.decode
        return replace(plain, strategy="sample", temperature=settings.temperature, top_p=settings.top_p, seed=own)

    def _sub_region(self, photo: Photo, region: DetailRegion, sample: int, seed: int, visible: Rectangle) -> Region:
        scales, jitter = self._settings.scales, self._settings.jitter
        if sample == 0 or jitter == 0:
            return region.region
        source = np.random.default_rng([seed, sample, *(zlib.crc32(one.encode()) for one in (photo.sha256, region.id))])
        right, down = source.uniform(-jitter, jitter, 2).tolist()
        return sub_region(region, scales[(sample - 1) % len(scales)], (right, down), visible)


def sub_region(region: DetailRegion, scale: float, moved: tuple[float, float], visible: Rectangle) -> Region:
    """A region's box, scaled about its centre and moved by shares of its sides, within what the model sees. Of a mask,
    its pixels in that box where the scale is at most 1, so that a part of an object does not take in what is around it.
    The region itself where nothing would be left."""
    left, top, right, bottom = region.box
    width, height = right - left, bottom - top
    x, y = (left + right) / 2 + moved[0] * width, (top + bottom) / 2 + moved[1] * height
    x1, x2 = max(x - scale * width / 2, visible[0]), min(x + scale * width / 2, visible[2])
    y1, y2 = max(y - scale * height / 2, visible[1]), min(y + scale * height / 2, visible[3])
    if x2 <= x1 or y2 <= y1:
        return region.region
    if region.mask is None or scale > 1:
        return Box(x1, y1, x2, y2)
    part = np.zeros_like(region.mask)
    rows, columns = slice(round(y1), round(y2)), slice(round(x1), round(x2))
    part[rows, columns] = region.mask[rows, columns]
    return Mask(part) if part.any() else region.region


_LARGEST, _LEAST = 1024, 32  # pixels: of a picture's longer side; what encoders can be given at all
_SLIMMEST = 10.0  # aspect ratio: several refuse, or squash, what is longer
PROMPT = prose.prompt("describe prompt")


def shown(image: Image.Image, region: DetailRegion) -> Image.Image:
    """The picture of a region's box, RGB: sides of 32 to 1024 pixels, no aspect ratio over 10 where that can be."""
    picture = image.convert("RGB")
    if region.kind != "global":
        extent = np.array(image.size, dtype=np.float64)
        low = np.clip(region.box[:2], 0, extent - 1)
        high = np.clip(region.box[2:], low + 1, extent)
        sides = high - low
        # With what is around what is too small or thin.
        more = np.maximum(np.maximum(_LEAST, sides[::-1] / _SLIMMEST) - sides, 0) / 2
        picture = cut_out(picture, (*np.maximum(low - more, 0), *np.minimum(high + more, extent)))
    picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    shortest = max(_LEAST, math.ceil(max(picture.size) / _SLIMMEST))
    size = (max(picture.width, shortest), max(picture.height, shortest))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)


class VisionDescriber:
    """Describe regions with a vision-language model of other people (a `Describer`). Threads may share it. `samples`:
    answers about each part, of which Patch Matters took 3, and one about the whole photo; `temperatures`: of that about
    the whole photo, and of those about its parts."""

    def __init__(
        self,
        model: AskedModel,
        *,
        samples: int = 3,
        max_tokens: int = 512,
        temperatures: tuple[float, float] = (0.2, 0.7),
    ) -> None:
        check("int [1, inf)", samples=samples)
        self.model, self.samples = model, samples
        self._temperatures, self._sampling = temperatures, {"max_tokens": max_tokens}
        asked = {"samples": samples, "temperatures": list(temperatures), **self._sampling}
        self.settings = {"describer": model.settings["text_model"], **model.settings, **asked}

    def describe(self, photo: Photo, regions: Regions, *, seed: int = 0) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample; single failures are left out, with a warning.
        `DetailError`: a region without any answer; `FutileError`: no other photo would fare better."""
        asked = {region.id: self._asked(photo, region, seed) for region in regions}
        answers = self.model.answers([one for several in asked.values() for one in several])
        found: list[Statement] = []
        for name, several in asked.items():
            said = [(question.sample, answers[question.key]) for question, _ in several]
            found += [Statement(name, n, plain_text(a.text), a.log_prob) for n, a in said if isinstance(a, Answer)]
            failed = [one for _, one in said if isinstance(one, PatchionerError)]
            where = f"{photo.name}, region {name!r}"
            if len(failed) == len(several):
                raise DetailError(f"{where}: no description; {failed[0]}")
            if failed:
                _LOG.warning("%s: %d samples failed; %s", where, len(failed), failed[0])
        return found

    def _asked(self, photo: Photo, region: DetailRegion, seed: int) -> list[Asked]:
        """Regions are told apart by what is seen of them, not by their ids."""
        whole = region.kind == "global"
        sampling = {"temperature": self._temperatures[0 if whole else 1], **self._sampling, **self.model.sampling}
        box = None if whole else [float(edge) for edge in region.box]
        seen = {"photo": photo.sha256, "box": box, "mask": mask_digest(region.mask)}
        one = Question("describe", self.model.identity, PROMPT, "", sampling, seed, shown=seen)
        picture = functools.partial(shown, photo.image, region)
        return [(replace(one, sample=n), picture) for n in range(1 if whole else self.samples)]


def plain_text(answer: str) -> str:
    """An answer; of one that is JSON, whole or cut off, its texts, one a line."""
    if not answer.startswith(("{", "[")):
        return answer
    found = re.findall(r'"((?:[^"\\]|\\.)*)(?:"(\s*:)?|\Z)', answer)
    texts = [text for text, is_name in found if text and not is_name]
    with suppress(ValueError):
        texts = [json.loads(f'"{text}"', strict=False) for text in texts]
    return "\n".join(texts) or answer
