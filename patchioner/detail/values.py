"""What the stages of a detailed description hand to one another. Frozen values only; nothing here computes.

photo -> `DetailRegion`s -> `Statement`s (raw texts) -> `Claim`s (single sentences) -> `Verdict`s -> `DetailedCaption`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from patchioner.regions import Box, Mask, Region, WholeImage

RegionKind = Literal["global", "spatial", "semantic", "grid", "user"]
REGION_KINDS: tuple[RegionKind, ...] = ("global", "semantic", "user", "spatial", "grid")
"""In the order in which a paragraph speaks of them."""


@dataclass(frozen=True, eq=False)
class DetailRegion:
    """A part of a photo that is described on its own.

    Attributes:
        id: unique within the photo, e.g. "global", "spatial-1", "semantic-2".
        kind: "global" is the whole photo; "spatial" a quadrant or its like; "semantic" an object or a group of them
            that was found; "grid" a cell; "user" a box or mask that was given.
        box: (left, top, right, bottom), float pixels of the original photo.
        mask: (height, width) bool of the original photo, or None where the box is all there is.
        parents: ids of the regions that it was made of or lies in.
        name: what it is called, where that is known: a class name.
    """

    id: str
    kind: RegionKind
    box: tuple[float, float, float, float]
    mask: npt.NDArray[np.bool_] | None = None
    parents: tuple[str, ...] = ()
    name: str | None = None

    @property
    def region(self) -> Region:
        """The region as `Patchioner.caption` takes it."""
        if self.kind == "global":
            return WholeImage()
        return Box(*self.box) if self.mask is None else Mask(self.mask)


@dataclass(frozen=True)
class Statement:
    """A raw text that a describer gave of a region: one sentence or twenty.

    Attributes:
        region_id: of which region.
        sample: which of the texts about that region, from 0.
        text: as it came.
        log_prob: mean log-probability per token, where the describer knows it.
    """

    region_id: str
    sample: int
    text: str
    log_prob: float | None = None


@dataclass(frozen=True)
class Claim:
    """One sentence of a statement, after splitting.

    Attributes:
        id: unique within the photo, in reading order: "c1", "c2", ...
        text: the sentence, cleaned of preamble and list marks.
        region_id, sample, log_prob: of its statement.
        place: which sentence of its statement, from 0.
    """

    id: str
    text: str
    region_id: str
    sample: int
    place: int
    log_prob: float | None = None


@dataclass(frozen=True)
class Support:
    """How well the photo bears a sentence out.

    Attributes:
        score: calibrated, 0 to 1; `threshold` of the scorer is where it is kept.
        objects: (word or phrase, calibrated score) of each thing it names.
        attributes: (phrase, calibrated score) of each attribute with its thing.
        unverifiable: what of it no score can bear out: counts, left and right, relations.
    """

    score: float
    objects: tuple[tuple[str, float], ...] = ()
    attributes: tuple[tuple[str, float], ...] = ()
    unverifiable: tuple[str, ...] = ()


DropReason = Literal[
    "hedge", "mood", "preamble", "fragment", "tautology", "contradiction", "unsupported", "object", "attribute",
    "duplicate", "length", "no source",
]  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What the filter says of a claim.

    Attributes:
        claim: which; its text may be shorter than it came, where a hedged part was cut off.
        kept: whether it may be used.
        agreement: in how many samples something like it was said, itself included.
        regions: ids of the regions in whose texts it was said, its own first.
        support: of the photo; None where nothing scored it.
        reason: why it was dropped; None when kept.
        note: the reason in words, e.g. 'contradicts "a blue bus" (3 samples)'.
        merged: ids of the claims that say the same and were folded into this one.
    """

    claim: Claim
    kept: bool
    agreement: int = 1
    regions: tuple[str, ...] = ()
    support: Support | None = None
    reason: DropReason | None = None
    note: str = ""
    merged: tuple[str, ...] = ()


@dataclass(frozen=True)
class FusedSentence:
    """One sentence of the paragraph, and where it comes from.

    Attributes:
        text: as it stands in the paragraph.
        claim_ids: of the kept claims that it says.
        region_ids: of the regions that they came from.
        agreement: the largest of its claims.
        support: the smallest score of its claims; None where nothing scored them.
    """

    text: str
    claim_ids: tuple[str, ...]
    region_ids: tuple[str, ...]
    agreement: int = 1
    support: float | None = None


@dataclass(frozen=True, eq=False)
class DetailedCaption:
    """A paragraph with its provenance.

    Attributes:
        text: the paragraph; "" when nothing was supported.
        sentences: of which it consists, in order.
        dropped: verdicts on what was left out, the fuser's ("duplicate", "length", "no source") included.
        kept: verdicts on what was used.
        regions: all that were described.
        image_size: (width, height) in pixels of the original photo.
        reason: why `text` is empty; None when it is not.
        settings: the names and numbers that made it, ready for JSON.
    """

    text: str
    sentences: tuple[FusedSentence, ...]
    dropped: tuple[Verdict, ...]
    kept: tuple[Verdict, ...]
    regions: tuple[DetailRegion, ...]
    image_size: tuple[int, int]
    reason: str | None = None
    settings: dict[str, object] = field(default_factory=dict)
