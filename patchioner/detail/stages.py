"""The contracts of the stages: what divides, describes, scores and fuses.

Knows: the protocols and `Photo`. Does not know: any stage that fulfils them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from patchioner.backbones import PatchFeatures
from patchioner.detail.values import DetailRegion, FusedSentence, Statement, Support, Verdict


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo on its way through the stages.

    Attributes:
        name: what it is called in messages and results: its path, or a name.
        image: upright RGB, original size. Not to be changed.
        sha256: hex digest of its pixels and size: the same photo from another file has the same.
        features: its one backbone pass, where a `Patchioner` is at work; None where none was needed.
    """

    name: str
    image: Image.Image
    sha256: str
    features: PatchFeatures | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size


class Divider(Protocol):
    """Photo -> regions. The same photo gives the same regions."""

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON."""

    def divide(self, photo: Photo) -> list[DetailRegion]:
        """Regions with unique ids, the global one first."""


class Describer(Protocol):
    """Photo and regions -> statements."""

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers that decide what is said, ready for JSON; no secrets."""

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample."""


class Scorer(Protocol):
    """How far a photo bears sentences out."""

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON; "threshold" among them."""

    @property
    def threshold(self) -> float:
        """Calibrated score from which a sentence counts as supported."""

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        """One `Support` per (region, sentence), in order; each text is embedded once."""


class Fuser(Protocol):
    """Verdicts -> sentences of a paragraph."""

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON; no secrets."""

    def fuse(
        self, photo: Photo, regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        """The sentences in order, and verdicts on kept claims that it left out (kept=False, with a reason)."""


class TextModel(Protocol):
    """A language model that answers a prompt: what a fuser with a language model asks of a client."""

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON; no secrets."""

    def ask(
        self, system: str, user: str, *, temperature: float, max_tokens: int, seed: int = 0
    ) -> str:
        """The answer's text. `patchioner.base.errors.DetailError` when none can be had."""
