"""The root config.json: how regions are embedded, projected and decoded by default."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, TypeAlias

from decoders import DecodeOptions
from decoders.base import check_whole
from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError
from patchioner.regions import Region, Weighting, region_kinds

FORMAT = "patchioner"
VERSION = 1
PROJECTIONS = ("memory", "none", "raw")
KINDS = tuple(region_kinds())
Crop: TypeAlias = 'bool | Literal["add"]'
"""Whether a region is cut out and encoded alone; "add" adds that to what is pooled."""


@dataclass(frozen=True)
class Guidance:
    """How the captions of a region are kept to what it shows and its surroundings do not (`decoders.guidance`).

    Attributes:
        contrast: weight of the log-probability given the region less that given the whole photo.
        nouns: weight of the z-score of a noun with the region, less 1 and within 3 of it, for its first mention.
        beam_width: of such captions, where no options of decoding are given.

    Raises:
        OptionError: a number outside its range.
    """

    contrast: float = 0.3
    nouns: float = 1.5
    beam_width: int = 2

    def __post_init__(self) -> None:
        for name in ("contrast", "nouns"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise OptionError(f"Guidance({name}={value}): give a finite number, 0 or more")
        check_whole(beam_width=self.beam_width)


@dataclass(frozen=True)
class KindSettings:
    """What differs for one kind of region; None leaves what the model does with all.

    Attributes:
        weighting: of patches inside such a region.
        context: see `ModelSettings.context`.
        guidance: how captions are kept to such a region while they are decoded; needs a table of nouns.

    Raises:
        OptionError: a context that is not a finite number, 0 or more.
    """

    weighting: Weighting | None = None
    context: float | None = None
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        if self.context is not None:
            _check_context(self.context)


@dataclass(frozen=True)
class ModelSettings:
    """How a checkpoint is used by default.

    Attributes:
        name: what the model is called.
        weighting: default weighting of patches inside a region.
        context: share of the photo's unit CLS token added to the unit embedding of a region; 0 leaves the pooled
            tokens as they are.
        kinds: what differs for a kind of region: "point", "patch", "box", "mask", "polygon", "trace", "region_set",
            "whole_image". Not to be changed once it is here.
        projection: "memory" sends embeddings through the memory bank, "none" as unit vectors straight to the decoder,
            "raw" straight to it at the length they have. The last is how the published CapDec model was run, though
            its decoder was trained on unit vectors; it is there for the published numbers alone.
        temperature: of the memory projection's softmax.
        normalize: whether the memory projection gives unit vectors.
        top_k: project onto so many nearest rows of the memory bank alone: approximate, by the bank's index where it has
            one (`patchioner bank index`). None, the default, is exact.
        crop: each region is cut out of the photo by its bounding box, encoded alone, and captioned as a whole image:
            one backbone pass per region. For CLIP and others whose patches say little. "add" adds that to what is
            pooled.
        decode: default decoding.
        calibration: what cosines between texts and regions mean with these weights, by the name of what measured them
            ("detail", "label", "captions"); empty where nobody has. Not to be changed once it is here.
        licence: of the weights.

    Raises:
        OptionError: a value outside of these.
    """

    name: str = "custom"
    weighting: Weighting = field(default_factory=Weighting)
    context: float = 0.0
    kinds: Mapping[str, KindSettings] = field(default_factory=dict, hash=False)
    projection: str = "memory"
    temperature: float = 0.01
    normalize: bool = True
    top_k: int | None = None
    crop: Crop = False
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    calibration: Mapping[str, Any] = field(default_factory=dict, hash=False)
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if self.projection not in PROJECTIONS:
            raise OptionError(
                f"projection {self.projection!r} is unknown: use one of {PROJECTIONS}"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise OptionError(f"temperature {self.temperature} must be a positive number")
        _check_context(self.context)
        if self.crop not in (True, False, "add"):
            raise OptionError(f'crop {self.crop!r} is unknown: use true, false or "add"')
        if self.top_k is not None and self.top_k < 1:
            raise OptionError(
                f"top_k {self.top_k} must be 1 or more, or None for the exact projection"
            )
        object.__setattr__(self, "kinds", dict(self.kinds))  # the caller's own may change
        object.__setattr__(self, "calibration", copy.deepcopy(dict(self.calibration)))
        for kind in self.kinds:
            if kind not in KINDS:
                raise OptionError(str(UnknownNameError.among("kind of region", kind, KINDS)))

    def for_region(self, region: Region) -> tuple[Weighting, float]:
        """Weighting and context of a region, by its kind."""
        kind = self.kinds.get(region.kind, KindSettings())
        return (
            self.weighting if kind.weighting is None else kind.weighting,
            self.context if kind.context is None else kind.context,
        )

    @property
    def guides(self) -> bool:
        """Whether captions of some kind of region are guided."""
        return any(kind.guidance for kind in self.kinds.values())

    def to_json(self) -> dict[str, Any]:
        """The root config.json."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: Any, source: str) -> Self:
        """Read the root config.json; unknown keys are refused with the close ones."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CheckpointError(
                f'{source} is not the config of a Patchioner checkpoint (no "format": "{FORMAT}")'
            )
        if values.get("version") != VERSION:
            raise CheckpointError(
                f"{source} has version {values.get('version')!r}, this release reads {VERSION}: upgrade"
            )
        known = [entry.name for entry in fields(cls)]
        given = {key: value for key, value in values.items() if key not in ("format", "version")}
        if "bridge" in given and "projection" not in given:  # its name before the redesign
            given["projection"] = given.pop("bridge")
        for key in given:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=3) or known
                raise CheckpointError(
                    f"{source}: unknown key {key!r}; did you mean {', '.join(close)}?"
                )
        try:
            kinds, decode = dict(given.get("kinds", {})), dict(given.get("decode", {}))
            given["weighting"] = Weighting(**given.get("weighting", {}))
            given["kinds"] = {kind: _kind(**values) for kind, values in kinds.items()}
            tuples = {key: tuple(one) for key, one in decode.items() if isinstance(one, list)}
            given["decode"] = DecodeOptions(**{**decode, **tuples})
            return cls(**given)
        except (TypeError, ValueError, ArithmeticError) as error:  # OptionError is a ValueError
            raise CheckpointError(f"{source}: {error}") from error


_PARTS = {"weighting": Weighting, "guidance": Guidance}


def _kind(**values: Any) -> KindSettings:
    made = {key: kind(**values[key]) for key, kind in _PARTS.items() if values.get(key) is not None}
    return KindSettings(**{**values, **made})


def _check_context(context: float) -> None:
    if not (math.isfinite(context) and context >= 0):
        raise OptionError(f"context {context} must be a finite number, 0 or more")
