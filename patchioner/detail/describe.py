"""Photo and regions -> statements: by our own captioner, or by a vision-language model of other people."""

from __future__ import annotations

import functools
import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from patchioner.base.errors import DetailError, OptionError, PatchionerError
from patchioner.detail.cache import Answer, Asked, AskedModel, Question, mask_digest
from patchioner.detail.values import DetailRegion, Photo, Rectangle, Statement, check
from patchioner.images import cut_out
from patchioner.regions import Box, Mask, Region

if TYPE_CHECKING:
    from decoders import DecodeOptions
    from patchioner.model import Patchioner
    from patchioner.results import Caption

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnSettings:
    """How our captioner is asked: its caption is one short sentence, so that several of a region must come from several
    sub-regions.

    Attributes:
        samples: captions of a region, 1 or more.
        jitter: how far a sub-region is moved, as a share of its region's width and height; 0 asks about the region
            itself every time.
        scales: sizes of sub-regions, taken in turn; above 1 shows an object in its surroundings.
        sampled: "alternate": every second further sample is drawn from the decoder, the others are decoded as the
            checkpoint does; "all": every sample is drawn, as published for language models; "none".
        temperature, top_p: of what is drawn.
    """

    samples: int = 5
    jitter: float = 0.1
    scales: tuple[float, ...] = (0.8, 1.25, 0.6, 1.0)
    sampled: Literal["alternate", "all", "none"] = "alternate"
    temperature: float = 0.3
    top_p: float = 0.9

    def __post_init__(self) -> None:
        check(self, samples=(1, 1000), jitter=(0, 0.49), sampled=("alternate", "all", "none"))
        check(self, temperature=(1e-6, 100), top_p=(1e-6, 1))
        if not self.scales or not all(0.05 <= scale <= 4 for scale in self.scales):
            raise OptionError(f"scales {self.scales} must hold numbers from 0.05 to 4")


class PatchionerDescriber:
    """Describe regions with our own captioner (a `Describer`).

    Sample 0 is the caption that `Patchioner.caption` gives of the region; the others are of sub-regions, moved and
    scaled at random about it, or drawn from the decoder. Nothing is encoded again.
    """

    def __init__(self, model: Patchioner, settings: OwnSettings | None = None) -> None:
        self._model, self._settings = model, settings or OwnSettings()

    @property
    def settings(self) -> dict[str, object]:
        """Those of `OwnSettings`, and the model's name."""
        name = self._model.settings.name
        return {"describer": "patchioner", "model": name, **asdict(self._settings)}

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All captions of all regions, ordered by region, then sample.

        A text depends on the photo, its region, the sample's number and the seed; not on the other regions.
        """
        features = self._model.encode(photo.image) if photo.features is None else photo.features
        visible = features.geometry.visible
        asked: dict[tuple[int, int], Region] = {}
        batches: dict[DecodeOptions | None, list[tuple[int, int]]] = {}
        for place, region in enumerate(regions):
            for sample in range(self._settings.samples):
                asked[place, sample] = self._sub_region(photo, region, sample, seed, visible)
                batches.setdefault(self._decoding(sample, seed), []).append((place, sample))
        captions: dict[tuple[int, int], Caption] = {}
        for options, keys in batches.items():
            found = self._model.caption(features, [asked[key] for key in keys], options=options)
            captions.update(zip(keys, found, strict=True))
        return [
            Statement(regions[key[0]].id, key[1], captions[key].text or "", captions[key].score)
            for key in asked
        ]

    def _decoding(self, sample: int, seed: int) -> DecodeOptions | None:
        settings = self._settings
        alternate = settings.sampled == "alternate" and sample > 0 and sample % 2 == 0
        if settings.sampled != "all" and not alternate:
            return None
        # A draw depends on seed and embedding: the same region twice needs a seed of its own.
        return replace(
            self._model.settings.decode,
            strategy="sample",
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed + (sample if settings.jitter == 0 else 0),
        )

    def _sub_region(
        self, photo: Photo, region: DetailRegion, sample: int, seed: int, visible: Rectangle
    ) -> Region:
        settings = self._settings
        if sample == 0 or settings.jitter == 0:
            return region.region
        scale = settings.scales[(sample - 1) % len(settings.scales)]
        names = (zlib.crc32(name.encode()) for name in (photo.sha256, region.id))
        source = np.random.default_rng([seed, sample, *names])
        right, down = source.uniform(-settings.jitter, settings.jitter, 2).tolist()
        return sub_region(region, scale, (right, down), visible)


def sub_region(
    region: DetailRegion, scale: float, moved: tuple[float, float], visible: Rectangle
) -> Region:
    """A region's box, scaled about its centre and moved by shares of its sides, within what the model sees.

    Of a mask, its pixels in that box where the scale is at most 1, so that a part of an object does not take in what is
    around it. The region itself where nothing would be left.
    """
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


_LARGEST, _LEAST = (
    1024,
    32,
)  # pixels: of a picture's longer side; what vision encoders can be given at all
_SLIMMEST = 10.0  # aspect ratio: several refuse, or squash, what is longer
PROMPT = (
    "Describe what can be seen in this picture, for somebody who has to draw it without seeing it. Say which "
    "people, animals and things there are and how many, what colour and material they have, what they do, and "
    "where each of them is. Quote any writing that you can read. Use plain, complete sentences, and let each one state "
    "something that is visible. Do not guess, do not speak of moods, and begin directly with the description."
)


def shown(image: Image.Image, region: DetailRegion) -> Image.Image:
    """The picture of a region's box, RGB: sides of 32 to 1024 pixels, no aspect ratio over 10 where that can be."""
    picture = image.convert("RGB")
    if region.kind != "global":
        spans: list[tuple[float, float]] = []
        for low, high, extent in zip(region.box[:2], region.box[2:], image.size, strict=True):
            low = min(max(low, 0.0), extent - 1.0)
            spans.append((low, min(max(high, low + 1.0), float(extent))))
        sides = [high - low for low, high in spans]
        for axis, (low, high) in enumerate(spans):  # with what is around what is too small or thin
            more = max(0.0, max(_LEAST, sides[1 - axis] / _SLIMMEST) - sides[axis]) / 2
            spans[axis] = (max(0.0, low - more), min(float(image.size[axis]), high + more))
        (left, right), (top, bottom) = spans
        picture = cut_out(picture, (left, top, right, bottom))
    picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    shortest = max(_LEAST, math.ceil(max(picture.size) / _SLIMMEST))
    size = (max(picture.width, shortest), max(picture.height, shortest))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class VisionSettings:
    """How a vision-language model is asked; numbers of samples and temperatures are those of Patch Matters.

    Attributes:
        samples, temperature: of every region but the global one.
        global_samples, global_temperature: of the global one.
        max_tokens: longest answer.
    """

    samples: int = 3
    temperature: float = 0.7
    global_samples: int = 1
    global_temperature: float = 0.2
    max_tokens: int = 512

    def __post_init__(self) -> None:
        check(self, samples=(1, 1000), global_samples=(1, 1000), max_tokens=(1, 10**6))
        check(self, temperature=(0, 10), global_temperature=(0, 10))


class VisionDescriber:
    """Describe regions with a vision-language model of other people (a `Describer`). Threads may share it.

    Of a `ChatClient`, the samples of a region are one request where it takes `n`, and regions go side by side; of a
    `LocalModel` that sees, regions and samples are one batch. What has been answered is in its cache at once.
    """

    def __init__(self, model: AskedModel, settings: VisionSettings | None = None) -> None:
        self.model, self._settings = model, settings or VisionSettings()

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers that decide what is said, ready for JSON; no secrets."""
        own = self.model.settings
        return {"describer": own["text_model"], **own, **vars(self._settings)}

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample; single failures are left out, with a warning.

        Raises:
            DetailError: a region without any answer; `FutileError` where no other photo would fare better: a spent
                budget, a refused key, no such model.
        """
        asked = {region.id: self._asked(photo, region, seed) for region in regions}
        answers = self.model.answers([one for several in asked.values() for one in several])
        found: list[Statement] = []
        for region in regions:
            failed: list[PatchionerError] = []
            for question, _ in asked[region.id]:
                answer = answers[question.key]
                if isinstance(answer, Answer):
                    found.append(
                        Statement(region.id, question.sample, answer.text, answer.log_prob)
                    )
                else:
                    failed.append(answer)
            if len(failed) == len(asked[region.id]):
                raise DetailError(
                    f"{photo.name}, region {region.id!r}: no description; {failed[0]}"
                )
            if failed:
                text = "%s, region %r: %d samples failed; %s"
                _LOG.warning(text, photo.name, region.id, len(failed), failed[0])
        return found

    def _asked(self, photo: Photo, region: DetailRegion, seed: int) -> list[Asked]:
        """Regions are told apart by what is seen of them, not by their ids."""
        settings, whole = self._settings, region.kind == "global"
        sampling = {
            "temperature": settings.global_temperature if whole else settings.temperature,
            "max_tokens": settings.max_tokens,
            **self.model.sampling,
        }
        seen = {
            "photo": photo.sha256,
            "box": None if whole else [float(edge) for edge in region.box],
            "mask": mask_digest(region.mask),
        }
        one = Question("describe", self.model.identity, PROMPT, "", sampling, seed, shown=seen)
        picture = functools.partial(shown, photo.image, region)
        samples = range(settings.global_samples if whole else settings.samples)
        return [(replace(one, sample=sample), picture) for sample in samples]
