"""Long, faithful descriptions: divide a photo, describe its parts, keep what is supported, fuse it into a paragraph.

A client of the public interface of `patchioner`. After Patch Matters (Peng et al., CVPR 2025, arXiv 2504.06666).

Example:
    >>> from patchioner.detail import DetailCaptioner
    >>> DetailCaptioner("patchioner-mini").describe("photo.jpg").text  # doctest: +SKIP
    'A train is parked at the station. ...'

Photo -> `DetailRegion`s -> `Statement`s (raw texts) -> `Claim`s (sentences) -> `Verdict`s -> `DetailedCaption`: these
values are here, with the protocols of the stages that make them. As JSON (`to_json`) a description is::

    {"format": "patchioner-detail", "version": 1, "photo": "bus.jpg", "sha256": "9f0c..." or null, "size": [640, 480],
     "text": "...", "reason": null or why the text is empty,
     "sentences": [{"text", "claims": ["c1"], "regions": ["global"], "agreement": 3, "support": 0.94}],
     "regions": [{"id", "kind", "box": XYXY pixels, "mask": uncompressed run lengths or null, "name"}],
     "kept": [verdict, ...], "dropped": [verdict, ...], "settings": names and numbers of every stage, and the seed}

and a verdict is ``{"id": "c7", "text", "region", "sample", "place", "log_prob", "agreement", "regions", "support":
{"score", "objects": [["bus", 0.97]], "unverifiable": ["number: two"]} or null, "reason", "note", "merged": ["c9"]}``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from patchioner.base.errors import DetailError, RegionError
from patchioner.images import ImageSource, load_image
from patchioner.regions import Box, Mask, Region, WholeImage, encode_rle

if TYPE_CHECKING:
    from patchioner.backbones import PatchFeatures
    from patchioner.detail.batch import DetailCaptioner, DetailSettings, preset
    from patchioner.detail.client import read_reply
    from patchioner.detail.models import clean_answer
    from patchioner.model import Patchioner

__all__ = [
    "Claim", "DetailCaptioner", "DetailRegion", "DetailSettings", "DetailedCaption", "FusedSentence", "Photo",
    "Statement", "Support", "Verdict", "clean_answer", "open_photo", "preset", "read_reply",
]  # fmt: skip
_HOMES = dict.fromkeys(("DetailCaptioner", "DetailSettings", "preset"), "batch")
_HOMES |= {"read_reply": "client", "clean_answer": "models"}
Rectangle = tuple[float, float, float, float]
RegionKind = Literal["global", "spatial", "semantic", "grid", "user"]
FORMAT, VERSION = "patchioner-detail", 1


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo: name, upright RGB in original size (not to be changed), sha256 of its size and pixels, and its one
    backbone pass where a `Patchioner` is at work."""

    name: str
    image: Image.Image
    sha256: str
    features: PatchFeatures | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.size


def open_photo(source: ImageSource, model: Patchioner | None = None, *, name: str | None = None) -> Photo:
    """Read a photo for the stages, and encode it where a model is given; `ImageError` where it cannot be read."""
    image = load_image(source)
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode())
    digest.update(image.tobytes())
    called = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "photo"
    return Photo(name or called, image, digest.hexdigest(), None if model is None else model.encode(image))


@dataclass(frozen=True, eq=False)
class DetailRegion:
    """A part of a photo that is described on its own. `id` is unique within the photo ("global", "spatial-1"); `kind`
    "spatial" is a quadrant, "grid" a cell, "semantic" a thing that was found, "user" one that was given; `box` (left,
    top, right, bottom) in float pixels and `mask` (height, width) bool are of the original photo."""

    id: str
    kind: RegionKind
    box: Rectangle
    mask: npt.NDArray[np.bool_] | None = None
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

    @property
    def text_id(self) -> tuple[str, int]:
        """Of the statement: its region and sample."""
        return self.region_id, self.sample


@dataclass(frozen=True)
class Support:
    """How well the photo supports a sentence: its calibrated score, 0 to 1, and (name, score) of each thing in it.
    `unverifiable` is what of it no score can tell: counts, colours, left and right, relations, negation."""

    score: float
    objects: tuple[tuple[str, float], ...] = ()
    unverifiable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a claim may be used, and why not. `agreement`: in how many samples something like it was said; `regions`:
    in whose texts, its own first; `support`: of the photo, None where nothing scored it; `reason`: None when kept, else
    "preamble", "hedge", "fragment", "unsupported", "object", "duplicate", "length" or "no source"; `note`: the reason
    in words; `merged`: ids of the claims that say the same."""

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
    """One sentence of the paragraph: the kept claims that it says, where they were said, the largest agreement of them
    and the smallest support; None where nothing scored them."""

    text: str
    claim_ids: tuple[str, ...]
    region_ids: tuple[str, ...]
    agreement: int = 1
    support: float | None = None


Regions: TypeAlias = Sequence[DetailRegion]
Fused: TypeAlias = tuple[list[FusedSentence], list[Verdict]]


@dataclass(frozen=True, eq=False)
class DetailedCaption:
    """A paragraph with its provenance: verdicts on what was `dropped`, by the fuser too, and `kept`; all `regions`;
    `image_size` (width, height) in pixels; `settings` that made it, ready for JSON. `reason`: why `text` is ""."""

    text: str
    sentences: tuple[FusedSentence, ...]
    dropped: tuple[Verdict, ...]
    kept: tuple[Verdict, ...]
    regions: tuple[DetailRegion, ...]
    image_size: tuple[int, int]
    reason: str | None = None
    settings: dict[str, object] = field(default_factory=dict)


class Describer(Protocol):
    """Photo and regions -> statements; `settings`, as of all stages, decide its result: JSON values, no secrets."""

    settings: dict[str, object]

    def describe(self, photo: Photo, regions: Regions, *, seed: int = 0) -> list[Statement]:
        """All samples of all regions, ordered by region, then sample."""


class Scorer(Protocol):
    """How far a photo supports sentences; from `threshold`, a calibrated score, a sentence counts as supported."""

    settings: dict[str, object]
    threshold: float

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        """One `Support` per (region, sentence), in order."""


class Fuser(Protocol):
    """Verdicts -> sentences of a paragraph."""

    settings: dict[str, object]

    def fuse(self, photo: Photo, regions: Regions, kept: Sequence[Verdict]) -> Fused:
        """The sentences in order, and verdicts (kept=False, with a reason) on kept claims that it left out."""


def to_json(caption: DetailedCaption, photo: str, *, sha256: str | None = None) -> dict[str, Any]:
    """The object described above, of plain JSON values; `DetailError` for what JSON cannot express."""
    head = {"format": FORMAT, "version": VERSION, "photo": photo, "sha256": sha256}
    # Through the text and back: what is handed out is what a file would hold.
    return dict(json.loads(dumps({**head, **_plain(caption)})))


def dumps(values: Mapping[str, Any]) -> str:
    """One line of JSON, the same for the same values; `DetailError` for what JSON cannot express."""
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DetailError(f"{values.get('photo')!r} cannot be written as JSON: {error}") from error


def from_json(values: object) -> tuple[str, DetailedCaption]:
    """(name of the photo, its description) from what `to_json` gave. `DetailError`: another format or version, or a
    field is missing or malformed; the message names it."""
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise DetailError(f"no detailed caption ({FORMAT!r}): give a line of --json or --out")
    if values.get("version") != VERSION:
        raise DetailError(f"the caption has version {values.get('version')!r}, not {VERSION}: describe the photo again")
    try:
        plain = {**values}
        for name in ("kept", "dropped"):
            plain[name] = [{**one, "claim": one, "kept": name == "kept"} for one in values[name]]
        return str(values["photo"]), read(DetailedCaption, plain)
    except (KeyError, TypeError, ValueError, RegionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise DetailError(f"the detailed caption of {values.get('photo')!r} is damaged: {what}") from error


_JSON_NAMES = {"image_size": "size", "claim_ids": "claims", "region_ids": "regions", "region_id": "region"}


def _plain(value: Any) -> Any:
    """As JSON has it: a verdict is flat with its claim, and the list that it is in tells whether it is kept."""
    if is_dataclass(value):
        found = {_JSON_NAMES.get(name, name): _plain(one) for name, one in vars(value).items()}
        if isinstance(value, Verdict):
            del found["kept"]
        return {**found.pop("claim", {}), **found}
    if isinstance(value, np.ndarray):
        return encode_rle(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


_hints: Callable[[Any], dict[str, Any]] = cache(typing.get_type_hints)


def read(kind: Any, value: Any) -> Any:
    """A value of the annotated kind from JSON; TypeError, ValueError or KeyError where it is of another."""
    kinds, origin = typing.get_args(kind), typing.get_origin(kind)
    if is_dataclass(kind):
        own = {name: read(hint, value[_JSON_NAMES.get(name, name)]) for name, hint in _hints(kind).items()}
        return cast(Any, kind)(**own)
    if type(None) in kinds:
        return None if value is None else read(kinds[0], value)
    if origin is tuple and isinstance(value, list):
        several = [kinds[0]] * len(value) if kinds[-1] is ... else kinds
        return tuple(read(one, part) for one, part in zip(several, value, strict=True))
    if origin is np.ndarray:
        return Mask.from_rle(value).array
    if kind is float and type(value) is int:
        return float(value)
    good = value in kinds if origin is Literal else type(value) is (origin or kind)
    if not good:
        raise TypeError(f"{value!r:.40} stands where {kind} should")
    return value
