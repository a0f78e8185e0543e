"""What the stages hand to one another, the contracts of the stages, and a description as JSON.

photo -> `DetailRegion`s -> `Statement`s (raw texts) -> `Claim`s (sentences) -> `Verdict`s -> `DetailedCaption`

`to_json` gives one object per photo::

    {"format": "patchioner-detail", "version": 1, "photo": "bus.jpg", "sha256": "9f0c..." or null, "size": [640, 480],
     "text": "...", "reason": null or why the text is empty,
     "sentences": [{"text", "claims": ["c1"], "regions": ["global"], "agreement": 3, "support": 0.94}],
     "regions": [{"id", "kind", "box": XYXY pixels, "mask": uncompressed run lengths or null, "parents", "name"}],
     "kept": [verdict, ...], "dropped": [verdict, ...], "settings": names and numbers of every stage, and the seed}

and a verdict is ``{"id": "c7", "text", "region", "sample", "place", "log_prob", "agreement", "regions", "support":
{"score", "objects": [["bus", 0.97]], "unverifiable": ["number: two"]} or null, "reason", "note", "merged": ["c9"]}``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner.backbones import PatchFeatures
from patchioner.base.errors import DetailError, OptionError, RegionError
from patchioner.images import ImageSource, load_image
from patchioner.regions import Box, Mask, Region, WholeImage, encode_rle

if TYPE_CHECKING:
    from patchioner.model import Patchioner

RegionKind = Literal["global", "spatial", "semantic", "grid", "user"]
REGION_KINDS: tuple[RegionKind, ...] = ("global", "semantic", "user", "spatial", "grid")
"""In the order in which a paragraph speaks of them."""
FORMAT, VERSION = "patchioner-detail", 1


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo on its way through the stages.

    Attributes:
        name: its path, or what it is called in messages and results.
        image: upright RGB, original size. Not to be changed.
        sha256: hex digest of its size and pixels: the same photo from another file has the same.
        features: its one backbone pass, where a `Patchioner` is at work.
    """

    name: str
    image: Image.Image
    sha256: str
    features: PatchFeatures | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size


def open_photo(
    source: ImageSource, model: Patchioner | None = None, *, name: str | None = None
) -> Photo:
    """Read a photo for the stages, and encode it where a model is given.

    `ImageError`: it cannot be read.
    """
    image = load_image(source)
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    called = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "photo"
    features = None if model is None else model.encode(image)
    return Photo(name or called, image, digest.hexdigest(), features)


@dataclass(frozen=True, eq=False)
class DetailRegion:
    """A part of a photo that is described on its own.

    Attributes:
        id: unique within the photo, e.g. "global", "spatial-1", "semantic-2".
        kind: "global" is the whole photo; "spatial" a quadrant; "semantic" a thing that was found; "grid" a cell;
            "user" a box or mask that was given.
        box: (left, top, right, bottom), float pixels of the original photo.
        mask: (height, width) bool of the original photo, or None where the box is all there is.
        parents: ids of the regions that it was made of or lies in.
        name: what it is called, where that is known.
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
    """A raw text about a region: which region, which of its texts (from 0), mean log-probability per token."""

    region_id: str
    sample: int
    text: str
    log_prob: float | None = None


@dataclass(frozen=True)
class Claim:
    """One sentence of a statement; `id` is "c1", "c2", ... in reading order, `place` its number in the statement."""

    id: str
    text: str
    region_id: str
    sample: int
    place: int
    log_prob: float | None = None


@dataclass(frozen=True)
class Support:
    """How well the photo supports a sentence.

    Attributes:
        score: calibrated, 0 to 1; the scorer's `threshold` is where it is kept.
        objects: (name, calibrated score) of each thing in it.
        unverifiable: what of it no score can tell: counts, left and right, relations, negation.
    """

    score: float
    objects: tuple[tuple[str, float], ...] = ()
    unverifiable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a claim may be used, and why not.

    Attributes:
        claim: which.
        kept: whether it may be used.
        agreement: in how many samples something like it was said, itself included.
        regions: ids of the regions in whose texts it was said, its own first.
        support: of the photo; None where nothing scored it.
        reason: "preamble", "hedge", "mood", "fragment", "unsupported", "object", "duplicate", "length",
            "contradiction" or "no source"; None when kept.
        note: the reason in words.
        merged: ids of the claims that say the same.
    """

    claim: Claim
    kept: bool
    agreement: int = 1
    regions: tuple[str, ...] = ()
    support: Support | None = None
    reason: str | None = None
    note: str = ""
    merged: tuple[str, ...] = ()


@dataclass(frozen=True)
class FusedSentence:
    """One sentence of the paragraph.

    Attributes:
        text: as it stands in the paragraph.
        claim_ids, region_ids: of the kept claims that it says, and where they were said.
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
        text: the paragraph; "" when nothing was supported, and then `reason` says why.
        sentences: of which it consists, in order.
        dropped, kept: verdicts on what was left out, by the fuser too, and on what was used.
        regions: all that were described.
        image_size: (width, height) in pixels.
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


class Stage(Protocol):
    """What all stages have: names and numbers that decide their result, ready for JSON; no secrets."""

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers."""


class Describer(Stage, Protocol):
    """Photo and regions -> statements."""

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample."""


class Scorer(Stage, Protocol):
    """How far a photo supports sentences."""

    @property
    def threshold(self) -> float:
        """Calibrated score from which a sentence counts as supported."""

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        """One `Support` per (region, sentence), in order."""


class Fuser(Stage, Protocol):
    """Verdicts -> sentences of a paragraph."""

    def fuse(
        self, photo: Photo, regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        """The sentences in order, and verdicts (kept=False, with a reason) on kept claims that it left out."""


class TextModel(Stage, Protocol):
    """A language model that answers a prompt."""

    def ask(
        self, system: str, user: str, *, temperature: float, max_tokens: int, seed: int = 0
    ) -> str:
        """The answer's text. `DetailError` when none can be had."""


def to_json(caption: DetailedCaption, photo: str, *, sha256: str | None = None) -> dict[str, Any]:
    """The object described above, of plain JSON values.

    Raises:
        DetailError: a value that JSON cannot express, or a number that is not finite.
    """
    values = {
        "format": FORMAT,
        "version": VERSION,
        "photo": photo,
        "sha256": sha256,
        "size": caption.image_size,
        "text": caption.text,
        "reason": caption.reason,
        "sentences": [_named(_SENTENCE, one) for one in caption.sentences],
        "regions": [
            _named(_REGION, one) | {"mask": None if one.mask is None else encode_rle(one.mask)}
            for one in caption.regions
        ],
        "kept": [_verdict_to_json(verdict) for verdict in caption.kept],
        "dropped": [_verdict_to_json(verdict) for verdict in caption.dropped],
        "settings": caption.settings,
    }
    # Through the text and back: what is handed out is what a file would hold.
    plain: dict[str, Any] = json.loads(dumps(values))
    return plain


def dumps(values: Mapping[str, Any]) -> str:
    """One line of JSON, the same for the same values; `DetailError` for what JSON cannot express."""
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DetailError(
            f"the description of {values.get('photo')!r} cannot be written as JSON: {error}"
        ) from error


def from_json(values: object) -> tuple[str, DetailedCaption]:
    """(name of the photo, its description) from what `to_json` gave.

    Raises:
        DetailError: another format or version, or a field is missing or malformed; the message names it.
    """
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise DetailError(
            f"no detailed caption (format {FORMAT!r}): give a line of --json or --out"
        )
    if values.get("version") != VERSION:
        raise DetailError(
            f"the detailed caption has version {values.get('version')!r}, known is {VERSION}: describe the photo again"
        )
    try:
        width, height = values["size"]
        if not isinstance(values["settings"], dict):
            raise TypeError(f"settings are {values['settings']!r:.40}, no object")
        return str(values["photo"]), DetailedCaption(
            _text(values["text"]),
            tuple(FusedSentence(*_read(_SENTENCE, one)) for one in values["sentences"]),
            tuple(_verdict(one, kept=False) for one in values["dropped"]),
            tuple(_verdict(one, kept=True) for one in values["kept"]),
            tuple(DetailRegion(*_read(_REGION, one)) for one in values["regions"]),
            (int(width), int(height)),
            _maybe(_text)(values["reason"]),
            values["settings"],
        )
    except (KeyError, TypeError, ValueError, RegionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DetailError(
            f"the detailed caption of {values.get('photo')!r} is damaged: {what}"
        ) from error


def _verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    support = None if verdict.support is None else vars(verdict.support)
    rest = {name: getattr(verdict, name) for name in _VERDICT}
    return _named(_CLAIM, verdict.claim) | rest | {"support": support}


def _verdict(values: Mapping[str, Any], *, kept: bool) -> Verdict:
    return Verdict(Claim(*_read(_CLAIM, values)), kept, *_read(_VERDICT, values))


def _named(names: Iterable[str], value: object) -> dict[str, Any]:
    """A dataclass's values, in their order, under their names in JSON."""
    return dict(zip(names, vars(value).values(), strict=True))


def _read(readers: Mapping[str, Callable[[Any], Any]], values: Mapping[str, Any]) -> list[Any]:
    return [read(values[name]) for name, read in readers.items()]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} stands where a text should")
    return value


def _texts(values: Sequence[object]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"{values!r:.40} stands where a list of texts should")
    return tuple(map(_text, values))


def _maybe(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _kind(value: Any) -> RegionKind:
    if value not in REGION_KINDS:
        raise ValueError(f"kind {value!r} is none of {', '.join(REGION_KINDS)}")
    kind: RegionKind = value
    return kind


def _box(values: Sequence[Any]) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, values)
    return left, top, right, bottom


def _support(values: Mapping[str, Any]) -> Support:
    objects = tuple((_text(name), float(score)) for name, score in values["objects"])
    return Support(float(values["score"]), objects, _texts(values["unverifiable"]))


_Readers = dict[str, Callable[[Any], Any]]
# Name in JSON -> how it is read, in the order of the dataclass's fields.
_SENTENCE: _Readers = {
    "text": _text, "claims": _texts, "regions": _texts, "agreement": int, "support": _maybe(float)
}  # fmt: skip
_REGION: _Readers = {
    "id": _text, "kind": _kind, "box": _box, "mask": _maybe(lambda runs: Mask.from_rle(runs).array),
    "parents": _texts, "name": _maybe(_text),
}  # fmt: skip
_CLAIM: _Readers = {
    "id": _text, "text": _text, "region": _text, "sample": int, "place": int, "log_prob": _maybe(float)
}  # fmt: skip
_VERDICT: _Readers = {
    "agreement": int, "regions": _texts, "support": _maybe(_support), "reason": _maybe(_text), "note": _text,
    "merged": _texts,
}  # fmt: skip


def check(settings: object, **ranges: tuple[float, float] | tuple[str, ...]) -> None:
    """Refuse (`OptionError`) a setting outside of its range, (least, most), or not among its words; None passes.

    What is annotated as a whole number must be one.
    """
    for name, allowed in ranges.items():
        value = getattr(settings, name)
        if value is None:
            continue
        words = all(isinstance(one, str) for one in allowed)
        whole = str(type(settings).__annotations__.get(name)) == "int"
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if words:
            good, wanted = value in allowed, f"use one of {', '.join(map(str, allowed))}"
        else:
            least, most = allowed
            kind = "a whole number" if whole else "a number"
            wanted = f"give {kind} from {least} to {most}"
            good = number and least <= value <= most
        if not good:
            raise OptionError(f"{name} is {value!r}: {wanted}")
