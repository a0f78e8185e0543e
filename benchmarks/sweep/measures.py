"""What a setting scores, and how much more than another.

Knows: captions, embeddings, references, the measures of each kind. Does NOT know: models, files.

Per sample: CIDEr-D with the idf of the whole set and stem-F. Beside them what they miss: for traces and sets of boxes
the grounding win rate (does the caption fit its own region better than another one of the photo? One and the same
caption for all of them wins exactly half); for boxes naming (is the nearest of 80 class names the right one?), small
boxes (2 % of the photo or less) apart, and over the set the dense mAP with stem-F; for whole images R@1 (is the photo
the nearest of all to its caption?).

The `index` that settings are chosen by is the mean gain over all these but the mAP, each in hundredths of the standard
deviation that it has between samples: one measure moves by luck more easily than three or four together, and none
outweighs the others because it is noisier.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.answers import MIN_AREA_SHARE
from benchmarks.bootstrap import Difference, bootstrap_difference, bootstrap_statistic
from benchmarks.measures import retrieval_ranks
from benchmarks.metrics import DensePhoto, cider, fixed_cider, grounding, stem_f
from benchmarks.metrics.dense_map import DenseMatches, match, summarize
from benchmarks.sweep.samples import KindSamples
from patchioner.regions import Box

Floats = NDArray[np.float32]
MAP_ROUNDS = 200  # a resample of the mAP sorts thirty times, one of a mean once
LABELS = {
    "cider": "CIDEr",
    "stem_f": "stem-F",
    "wins": "wins %",
    "map": "mAP (stem-F)",
    "naming": "naming %",
    "naming_small": "naming, small %",
    "r1": "R@1 %",
}


@dataclass(frozen=True)
class Measured:
    """What one setting said and scored on one kind of region.

    Attributes:
        captions: one per sample.
        scores: log-probability of each caption.
        values: measure -> one value per sample (naming: per box; r1: per reference).
    """

    captions: tuple[str, ...]
    scores: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]

    def mean(self, measure: str) -> float:
        """Mean of a measure."""
        return float(np.mean(self.values[measure]))

    def to_json(self) -> dict[str, Any]:
        """As JSON; `from_json` reads it back exactly."""
        return {
            "captions": list(self.captions),
            "scores": list(self.scores),
            "values": {name: list(values) for name, values in self.values.items()},
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Measured:
        """The inverse of `to_json`."""
        values = {name: tuple(numbers) for name, numbers in found["values"].items()}
        return cls(tuple(found["captions"]), tuple(found["scores"]), values)


def measure_captions(
    kind: KindSamples, captions: Sequence[str], scores: Sequence[float]
) -> Measured:
    """CIDEr and stem-F of each caption, and the win rate of those that have a rival."""
    values = {
        "cider": tuple(cider(captions, kind.references)[1].tolist()),
        "stem_f": tuple(stem_f(captions, kind.references)[1].tolist()),
    }
    if kind.rivalled:
        found = grounding(
            captions, kind.references, [sample.photo for sample in kind.samples],
            fixed_cider(kind.references), regions=[repr(sample.region) for sample in kind.samples],
            rounds=1,
        )  # fmt: skip
        values["wins"] = tuple(100.0 * win for win in found.wins)
    return Measured(tuple(captions), tuple(scores), values)


def name_regions(kind: KindSamples, regions: Floats, names: Floats) -> dict[str, tuple[float, ...]]:
    """100 for each named region whose nearest class name is its own, else 0; large and small ones apart.

    Args:
        kind: has the regions.
        regions: (named regions, dim) unit rows.
        names: (names, dim) unit rows.
    """
    due = [kind.names.index(one.name) for one in kind.named]
    right = 100.0 * ((regions @ names.T).argmax(axis=1) == due)
    small = np.array([one.area_share <= MIN_AREA_SHARE for one in kind.named])
    found = {"naming": right[~small], "naming_small": right[small]}
    return {name: tuple(values.tolist()) for name, values in found.items() if len(values)}


def retrieve_photos(kind: KindSamples, photos: Floats, texts: Floats) -> tuple[float, ...]:
    """100 for each reference whose own photo is the nearest of all, else 0.

    Args:
        kind: has the samples.
        photos: (samples, dim) unit rows.
        texts: (references, dim) unit rows, sample by sample.
    """
    owner = np.repeat(np.arange(len(kind.samples)), [len(s.references) for s in kind.samples])
    ranks = retrieval_ranks(texts @ photos.T, owner)
    return tuple((100.0 * (ranks == 1)).tolist())


def index(
    kind: KindSamples, found: Measured, start: Measured, photos: Collection[str] | None = None
) -> float:
    """Mean gain over `start` in hundredths of a standard deviation; on these photos only, if given.

    Example:
        >>> index(kind, found, found)  # doctest: +SKIP
        0.0
    """
    gains = []
    for name, values in found.values.items():
        before, after = np.array(start.values[name]), np.array(values)
        kept = np.array([photos is None or photo in photos for photo in kind.photos(name)])
        spread = before.std()
        if spread > 0 and kept.any():
            gains.append(100.0 * float((after - before)[kept].mean() / spread))
    return float(np.mean(gains)) if gains else 0.0


def differences(
    kind: KindSamples, found: Measured, start: Measured, *, rounds: int, seed: int
) -> dict[str, Difference]:
    """Paired bootstrap difference to `start` of every measure, the mAP of boxes included."""
    compared = {
        name: bootstrap_difference(
            start.values[name], values, kind.photos(name), rounds=rounds, seed=seed
        )
        for name, values in found.values.items()
    }
    if kind.kind == "box":
        compared["map"] = _map_difference(kind, found, start, min(rounds, MAP_ROUNDS), seed)
    return compared


def dense_map_of(kind: KindSamples, found: Measured) -> float:
    """Dense-captioning mAP with stem-F, boxes given."""
    return summarize(_matches(kind, found), name="stem-F").value


def _map_difference(
    kind: KindSamples, found: Measured, start: Measured, rounds: int, seed: int
) -> Difference:
    after, before = _matches(kind, found), _matches(kind, start)

    def gain(often: NDArray[np.int64]) -> float:
        values = [summarize(m, name="stem-F", weights=often).value for m in (after, before)]
        return values[0] - values[1]

    photos = list(dict.fromkeys(sample.photo for sample in kind.samples))
    return bootstrap_statistic(gain, photos, rounds=rounds, seed=seed)


def _matches(kind: KindSamples, found: Measured) -> DenseMatches:
    groups: dict[str, list[int]] = {}
    for place, sample in enumerate(kind.samples):
        groups.setdefault(sample.photo, []).append(place)

    def text(said: Sequence[str], due: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        return stem_f(said, due)[1] / 100.0

    return match([_dense_photo(kind, found, places) for places in groups.values()], text)


def _dense_photo(kind: KindSamples, found: Measured, places: Sequence[int]) -> DensePhoto:
    boxes = []
    for place in places:
        region = kind.samples[place].region
        assert isinstance(region, Box), "dense captioning asks about boxes"
        boxes.append([region.x1, region.y1, region.x2, region.y2])
    return DensePhoto(
        boxes=boxes,
        scores=[found.scores[place] for place in places],
        captions=[found.captions[place] for place in places],
        truth_boxes=boxes,
        truth_captions=[kind.samples[place].references for place in places],
    )
