"""Our own captioner as a describer: several short captions of every region, all from one backbone pass.

Knows: `Patchioner.caption`, and how a region may be looked at in several ways. Does not know: where regions come from,
what becomes of the captions.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from patchioner.base.errors import OptionError
from patchioner.detail.divide import Rectangle
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailRegion, Statement
from patchioner.regions import Box, Mask, Region

if TYPE_CHECKING:
    from decoders import DecodeOptions
    from patchioner.model import Patchioner
    from patchioner.results import Caption


@dataclass(frozen=True)
class OwnSettings:
    """How our captioner is asked.

    A caption of ours is one short sentence, so that several of a region must come from looking at it in several ways.

    Attributes:
        samples: captions of a region, 1 or more.
        jitter: how far a sub-region is moved, as a share of its region's width and height; 0 asks about the region
            itself every time.
        scales: sizes of sub-regions, taken in turn; above 1 shows an object in its surroundings.
        sampled: "alternate": every second further sample is drawn from the decoder, the others are decoded as the
            checkpoint does; "all": every sample is drawn, the first too, as published for language models; "none".
        temperature, top_p: of what is drawn.

    Raises:
        OptionError: a value outside of its range.
    """

    samples: int = 5
    jitter: float = 0.1
    scales: tuple[float, ...] = (0.8, 1.25, 0.6, 1.0)
    sampled: str = "alternate"
    temperature: float = 0.3
    top_p: float = 0.9

    def __post_init__(self) -> None:
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise OptionError(f"samples is {self.samples!r}; it must be a whole number, at least 1")
        if not 0 <= self.jitter < 0.5:
            raise OptionError(f"jitter {self.jitter} must be 0 or more, and below 0.5")
        if not self.scales or not all(0.05 <= scale <= 4 for scale in self.scales):
            raise OptionError(
                f"scales {self.scales} must hold numbers from 0.05 to 4, at least one"
            )
        if self.sampled not in ("alternate", "all", "none"):
            raise OptionError(f"sampled {self.sampled!r} is unknown: use alternate, all or none")
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise OptionError(
                f"temperature {self.temperature} must be above 0 and top_p {self.top_p} above 0, at most 1"
            )

    def drawn(self, sample: int) -> bool:
        """Whether a sample is drawn from the decoder."""
        if self.sampled == "all":
            return True
        return self.sampled == "alternate" and sample > 0 and sample % 2 == 0


class PatchionerDescriber:
    """Describe regions with our own captioner (`stages.Describer`).

    Sample 0 is the caption that `Patchioner.caption` gives of the region. The others are of sub-regions, moved and
    scaled at random about it, or drawn from the decoder. All regions and samples go through bank and decoder as two
    batches: what is decoded as the checkpoint does, and what is drawn. Nothing is encoded again.

    Args:
        model: the captioner.
        settings: how it is asked; in their place:
        samples: how many captions of each region.

    Example:
        >>> describer = PatchionerDescriber(model, samples=3)
        >>> [statement.text for statement in describer.describe(photo, regions, seed=0)]  # doctest: +SKIP
        ['a cat on a chair', 'a cat', 'a grey cat sitting on a wooden chair']
    """

    def __init__(
        self,
        model: Patchioner,
        settings: OwnSettings | None = None,
        *,
        samples: int | None = None,
    ) -> None:
        chosen = settings or OwnSettings()
        self._model = model
        self._settings = chosen if samples is None else replace(chosen, samples=samples)

    @property
    def settings(self) -> dict[str, object]:
        """Those of `OwnSettings`, and the model's name."""
        return {
            "describer": "patchioner",
            "model": self._model.settings.name,
            **asdict(self._settings),
        }

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All captions of all regions, ordered by region, then sample.

        A text depends on the photo, its region, the sample's number and the seed; not on the other regions.

        Args:
            photo: with features of the same model (`open_photo`); without, it is encoded here.
            regions: any number.
            seed: of sub-regions and of drawing, 0 or more.

        Raises:
            RegionError: the model sees nothing of a region.
        """
        features = self._model.encode(photo.image) if photo.features is None else photo.features
        visible = features.geometry.visible
        asked: dict[tuple[int, int], Region] = {
            (place, sample): self._look(photo, region, sample, seed, visible)
            for place, region in enumerate(regions)
            for sample in range(self._settings.samples)
        }
        batches: dict[DecodeOptions | None, list[tuple[int, int]]] = {}
        for key in asked:
            batches.setdefault(self._decoding(key[1], seed), []).append(key)
        captions: dict[tuple[int, int], Caption] = {}
        for options, keys in batches.items():
            looks = [asked[key] for key in keys]
            answers = self._model.caption(features, looks, options=options)
            captions.update(zip(keys, answers, strict=True))
        return [
            Statement(
                regions[place].id,
                sample,
                captions[place, sample].text,
                captions[place, sample].score,
            )
            for place, sample in asked
        ]

    def _decoding(self, sample: int, seed: int) -> DecodeOptions | None:
        settings = self._settings
        if not settings.drawn(sample):
            return None
        # A draw depends on seed and embedding: the same region twice needs a seed of its own.
        own = sample if settings.jitter == 0 else 0
        return replace(
            self._model.settings.decode,
            strategy="sample",
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed + own,
        )

    def _look(
        self,
        photo: Photo,
        region: DetailRegion,
        sample: int,
        seed: int,
        visible: Rectangle,
    ) -> Region:
        settings = self._settings
        if sample == 0 or settings.jitter == 0:
            return region.region
        scale = settings.scales[(sample - 1) % len(settings.scales)]
        names = (photo.sha256, region.id)
        source = [seed, sample, *(zlib.crc32(name.encode()) for name in names)]
        moved = np.random.default_rng(source).uniform(-settings.jitter, settings.jitter, 2)
        return sub_region(region, scale, (float(moved[0]), float(moved[1])), visible)


def sub_region(
    region: DetailRegion, scale: float, moved: tuple[float, float], visible: Rectangle
) -> Region:
    """A part of a region, or the region in its surroundings.

    Args:
        region: of a photo.
        scale: of the box about its centre.
        moved: (right, down), shares of the region's width and height.
        visible: what the model sees of the photo; the answer lies within.

    Returns:
        The scaled and moved box. Of a mask, its pixels in that box where the scale is at most 1, so that a part of an
        object does not take in what is around it. The region itself where nothing would be left.

    Example:
        >>> sub_region(DetailRegion("a", "user", (0, 0, 10, 20)), 0.5, (0.1, 0.0), (0, 0, 100, 100))
        Box(x1=3.5, y1=5.0, x2=8.5, y2=15.0)
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
