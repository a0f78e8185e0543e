"""Distinctness: does a model say something of its own about each region of a photo?

Knows: captions and the photo (and region) that each belongs to. Does NOT know: references, models.

A captioner that describes the whole photo whatever the region scores well on some tasks and is of no use. None of the
published tables measures it, so the definitions are ours:

* repeated pairs: of all pairs of different regions of one photo, the share whose captions are the same words;
* unique captions: the mean over photos of (different captions / regions), for photos with at least two regions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.metrics.tokenize import tokenize
from patchioner.base.errors import OptionError


@dataclass(frozen=True)
class Distinctness:
    """How often regions of one photo share a caption.

    Attributes:
        repeated_pairs: share of pairs of different regions of one photo with the same caption, 0..1; 0 is best. 0 when
            there is no pair.
        unique_captions: mean share of different captions per photo, 0..1; 1 is best. 1 when no photo has two regions.
        repeats: (photos,) pairs with the same caption, for intervals: `bootstrap_ratio(repeats, pairs, photos)`.
        pairs: (photos,) pairs of each photo.
        photos: the photos with at least two regions, in order of first mention.
    """

    repeated_pairs: float
    unique_captions: float
    repeats: tuple[int, ...]
    pairs: tuple[int, ...]
    photos: tuple[Hashable, ...]


def distinctness(
    captions: Sequence[str],
    photos: Sequence[Hashable],
    regions: Sequence[Hashable] | None = None,
) -> Distinctness:
    """Measure how distinct the captions of the regions of each photo are.

    Captions count as the same when their words are (case and punctuation do not matter).

    Args:
        captions: n captions.
        photos: the photo of each.
        regions: the region of each (any hashable, a box as a tuple). A region that comes twice in a photo, as it does
            where each reference is a sample, counts once. None: every caption has a region of its own.

    Raises:
        OptionError: lengths differ, or one region of a photo has two different captions.

    Example:
        >>> distinctness(["a dog", "A dog.", "a cat"], ["x", "x", "x"]).repeated_pairs  # 1 of 3 pairs
        0.3333333333333333
    """
    names = range(len(captions)) if regions is None else regions
    if not len(captions) == len(photos) == len(names):
        raise OptionError(
            f"{len(captions)} captions, {len(photos)} photos, {len(names)} regions: give one of each per sample"
        )
    said: dict[Hashable, dict[Hashable, tuple[str, ...]]] = {}
    for caption, photo, region in zip(captions, photos, names, strict=True):
        words = tuple(tokenize(caption))
        if said.setdefault(photo, {}).setdefault(region, words) != words:
            raise OptionError(
                f"region {region!r} of photo {photo!r} has two different captions, {caption!r} is one: give each region"
                " a name of its own"
            )
    return _measured(
        {photo: Counter(found.values()) for photo, found in said.items() if len(found) > 1}
    )


def _measured(counts: Mapping[Hashable, Counter[tuple[str, ...]]]) -> Distinctness:
    """From how often each caption was said of each photo."""
    repeats = tuple(sum(n * (n - 1) // 2 for n in found.values()) for found in counts.values())
    pairs = tuple(n * (n - 1) // 2 for n in (found.total() for found in counts.values()))
    unique = [len(found) / found.total() for found in counts.values()]
    return Distinctness(
        repeated_pairs=sum(repeats) / sum(pairs) if pairs else 0.0,
        unique_captions=sum(unique) / len(unique) if unique else 1.0,
        repeats=repeats,
        pairs=pairs,
        photos=tuple(counts),
    )
