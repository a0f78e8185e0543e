"""The numbers of fusion without a language model.

Knows: which there are and what they may be. Does NOT know: how they are used.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from patchioner.base.errors import OptionError

LONGEST = 10_000


@dataclass(frozen=True)
class FuseSettings:
    """How sentences become a paragraph.

    Attributes:
        max_words: the paragraph never has more words (split at white space) than this.
        duplicate: similarity (0..1, `patchioner.detail.text.similarity_matrix`) from which two sentences say the same,
            within a region, between overlapping regions, and of the global text.
        duplicate_apart: the same for regions that do not overlap: two dogs may look alike.
        overlap_iou: regions whose boxes have a larger intersection over union are fused before the rest (published:
            0.4, Peng et al., "Patch Matters", CVPR 2025).
        new_share: a sentence must bring at least this share of content that is not in the paragraph yet.
        global_bonus: how much more a sentence about the whole photo counts: 0.5 is half again as much.
        locations: whether sentences about a part of the photo say where it is.

    Raises:
        OptionError: a number outside its range.

    Example:
        >>> FuseSettings(max_words=60).overlap_iou
        0.4
    """

    max_words: int = 120
    duplicate: float = 0.6
    duplicate_apart: float = 0.75
    overlap_iou: float = 0.4
    new_share: float = 0.5
    global_bonus: float = 0.5
    locations: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.max_words <= LONGEST:
            raise OptionError(f"max_words is {self.max_words}; give a number from 1 to {LONGEST}")
        for name in ("duplicate", "duplicate_apart", "overlap_iou", "new_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise OptionError(f"{name} is {value}; give a number from 0 to 1")
        if not 0 <= self.global_bonus <= LONGEST:
            raise OptionError(f"global_bonus is {self.global_bonus}; give 0 or more")

    def as_json(self) -> dict[str, object]:
        """All of them, ready for JSON."""
        return dataclasses.asdict(self)
