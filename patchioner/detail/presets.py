"""All numbers of a detailed description in one value, and two sets of them: `published` and `default`.

Knows: the settings of every stage. Does not know: what the stages do with them.

``published``: the constants in the code of Patch Matters (Peng et al., CVPR 2025, arXiv 2504.06666), each with the
meaning that it was meant to have. They were chosen for a detector (BARON), a language model that sees (LLaVA-1.6, 7 B),
one that reads (Llama-3.1-8B) and BLIP; with our own parts in their place they are a comparison, no reproduction.

=======================================  =======================================  ======================================
what                                     published constant                       what its code does instead
=======================================  =======================================  ======================================
detections used                          score above 0.3, else the first 2        as meant
boxes united before quadrants grow       IoU above 0.3, until none is left        looks again at the first box only; in
                                                                                  3.7 % of random trials a pair is left
quadrants                                split at W // 2, H // 2; a box joins     as meant; the parameter for the share
                                         where more than 0.3 of it lies inside    exists, but is ignored
semantic patch                           union of the boxes that the caption      without one, the last stage stops with
                                         names; left out above IoU 0.4 with       an error, and the loop over quadrants
                                         the photo                                loses one
samples                                  3 of each patch at 0.7, 1 of the         region i gets samples i to i + 2, not
                                         whole at 0.2                             3i to 3i + 2: other regions' texts
sentence kept                            (ITM + ITC) / 2 of BLIP above 0.3;       scores BLIP v1 though said to be
                                         sentences that two samples agree on are  BLIP-2; errors become None
                                         not scored
contradictions                           the best one, above 0.3                  as meant
patches fused with one another           adjacent quadrants, IoU above 0.4        one of three regions is dropped; with
                                                                                  one pair fused, the rest comes
                                                                                  unfiltered
length                                   longer than the caption of the whole     no limit at all
=======================================  =======================================  ======================================

Equal boxes are shifted by a pixel there so that their keys differ; here regions have ids. The 0.3 of the scorer belongs
to BLIP's scale alone: with the dense scorer, the threshold is the one that it was calibrated to. Our captioner takes as
many samples of the whole photo as of a part.

``default``: ours. Things found in the captioner's own features are regions of their own; quadrants grow by small things
only (one that fills half of the photo would make all of them the photo); several looks at every region, since a caption
of ours is one short sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.detail.describe.own import OwnSettings
from patchioner.detail.divide import DivideSettings
from patchioner.detail.filter import FilterSettings
from patchioner.detail.fuse import FuseSettings


@dataclass(frozen=True)
class DetailSettings:
    """The settings of all stages.

    Attributes:
        divide: which regions.
        describe: how our own captioner is asked; other describers have settings of their own.
        filter: what is kept.
        fuse: how the paragraph is made.
    """

    divide: DivideSettings = field(default_factory=DivideSettings)
    describe: OwnSettings = field(default_factory=OwnSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    fuse: FuseSettings = field(default_factory=FuseSettings)

    def to_json(self) -> dict[str, Any]:
        """Stage -> name -> value, ready for JSON."""
        return asdict(self)

    def changed(self, changes: Mapping[str, object]) -> DetailSettings:
        """The same settings but for some, named by stage and field.

        Args:
            changes: such as ``{"fuse.max_words": 60, "divide.discovery.limit": 4}``.

        Raises:
            UnknownNameError: no such setting; the message has the close ones.
            OptionError: a value that makes no sense.

        Example:
            >>> DetailSettings().changed({"fuse.max_words": 60}).fuse.max_words
            60
        """
        settings = self
        for name, value in changes.items():
            settings = _with(settings, name.split("."), value, name)
        return settings


def preset(name: str, changes: Mapping[str, object] | None = None) -> DetailSettings:
    """The settings of a preset: "default" or "published".

    Args:
        name: of the preset.
        changes: what to have otherwise, see `DetailSettings.changed`.

    Raises:
        UnknownNameError: no such preset or setting.

    Example:
        >>> preset("published").divide.union_coverage
        0.4
    """
    presets = {"default": DetailSettings, "published": _published}
    if name not in presets:
        raise UnknownNameError.among("preset", name, presets)
    return presets[name]().changed(changes or {})


PRESETS = ("default", "published")


def _published() -> DetailSettings:
    return DetailSettings(
        divide=DivideSettings(
            spatial="quadrants",
            grow=0.3,
            growing_area=1.0,
            merge_iou=0.3,
            objects="union",
            union_coverage=0.4,
            least_score=0.3,
            fallback=2,
        ),
        describe=OwnSettings(samples=3, jitter=0.0, sampled="all", temperature=0.7, top_p=1.0),
        filter=FilterSettings(
            rules=False,
            trusted_agreement=2,
            whole_sentences="always",
            lone_support=0.0,
            lone_caption=0.0,
            attributes=False,
        ),
        fuse=FuseSettings(overlap_iou=0.4),
    )


def _with(settings: Any, path: list[str], value: object, name: str) -> Any:
    known = {entry.name for entry in fields(settings)}
    if path[0] not in known:
        raise UnknownNameError.among("setting", name, _names(DetailSettings()))
    old = getattr(settings, path[0])
    if len(path) > 1 and not is_dataclass(old):
        raise UnknownNameError.among("setting", name, _names(DetailSettings()))
    if len(path) == 1 and is_dataclass(old):
        raise OptionError(f"{name!r} is a group of settings: name one of {_names(old, f'{name}.')}")
    new = _with(old, path[1:], value, name) if len(path) > 1 else value
    return replace(settings, **{path[0]: new})


def _names(settings: Any, start: str = "") -> list[str]:
    found: list[str] = []
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        inside = is_dataclass(value)
        found += _names(value, f"{start}{entry.name}.") if inside else [f"{start}{entry.name}"]
    return found
