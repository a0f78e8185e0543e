"""`DetailCaptioner`: one photo in, one faithful paragraph with its provenance out; and the presets of its numbers.

"careful" says less and is right more often, "full" says more: one rule, two thresholds (`FilterSettings.share`; figures
in docs/detail.md). "published": the constants in the code of Patch Matters (Peng et al., CVPR 2025, arXiv 2504.06666),
each with the meaning that it was meant to have; `trusted` and `union_of_named` of `divide` hold the others. They were
chosen for a detector (BARON), two language models (LLaVA-1.6, 7 B; Llama-3.1-8B) and BLIP; with our own parts in their
place they are a comparison, no reproduction. Not repeated: its code looks for overlaps with the first box only, gives a
region other regions' texts (samples i to i + 2, not 3i to 3i + 2), loses a quadrant where there is no union, and has no
limit of length. Its support of 0.3 belongs to BLIP's scale; the dense scorer has its own threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.checkpoints.folder import SHIPPED
from patchioner.detail.describe import OwnSettings, PatchionerDescriber
from patchioner.detail.divide import DivideSettings, Given, divide
from patchioner.detail.fuse import FuseSettings, GreedyFuser, dropped
from patchioner.detail.judge import FilterSettings, filter_statements
from patchioner.detail.score import DenseScorer
from patchioner.detail.values import (
    Describer,
    DetailedCaption,
    Fuser,
    Photo,
    Scorer,
    Verdict,
    open_photo,
)
from patchioner.images import ImageSource, why_blank
from patchioner.model import Patchioner


@dataclass(frozen=True)
class DetailSettings:
    """All numbers: which regions, how our own captioner is asked, what is kept, how the paragraph is made."""

    divide: DivideSettings = field(default_factory=DivideSettings)
    describe: OwnSettings = field(default_factory=OwnSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    fuse: FuseSettings = field(default_factory=FuseSettings)


_PRESETS: dict[str, dict[str, object]] = {
    "careful": {},
    "full": {"filter.share": 0.07, "filter.alike": 0.7, "fuse.new_share": 0.3},
    "published": {
        "divide.merge_iou": 0.3,
        "divide.growing_area": 1.0,
        "divide.objects": "union",
        "describe.samples": 3,
        "describe.jitter": 0.0,
        "describe.sampled": "all",
        "describe.temperature": 0.7,
        "describe.top_p": 1.0,
        "filter.rules": False,
        "filter.trusted_agreement": 2,
        "filter.whole_sentences": "always",
        "filter.lone_support": 0.0,
        "filter.share": 0.0,
        "divide.spatial": "quadrants",
    },
}


def preset(name: str, changes: Mapping[str, object] | None = None) -> DetailSettings:
    """The settings of a preset, "careful", "full" or "published", but for `changes`, named by stage and field.

    Raises:
        UnknownNameError: no such preset or setting; the message has the close ones.
        OptionError: a value that makes no sense.
    """
    if name not in _PRESETS:
        raise UnknownNameError.among("preset", name, _PRESETS)
    settings = DetailSettings()
    known = [f"{stage}.{one.name}" for stage, own in vars(settings).items() for one in fields(own)]
    for path, value in {**_PRESETS[name], **(changes or {})}.items():
        if path not in known:
            raise UnknownNameError.among("setting", path, known)
        stage, one = path.split(".")
        changed = replace(getattr(settings, stage), **{one: value})
        settings = replace(settings, **{stage: changed})
    return settings


class DetailCaptioner:
    """Describe a photo at length, saying only what it supports.

    Args:
        model: a loaded `Patchioner`, or the name of one; None where no stage needs one.
        describer, fuser: photo and regions -> statements; kept claims -> paragraph. If None: the model itself, and no
            language model.
        scorer: how far the photo supports a sentence; "dense" is the model's own alignment, calibrated; None scores
            nothing: then only words and agreement decide.
        settings: numbers of all stages, or the name of a preset. Stages that are given have their own.

    Raises:
        OptionError: a stage needs a model and there is none, or the model is not calibrated for the "dense" scorer; the
            message has the remedy.
        UnknownNameError: no such model or preset.
    """

    def __init__(
        self,
        model: Patchioner | str | Path | None = SHIPPED,
        *,
        describer: Describer | None = None,
        scorer: Scorer | Literal["dense"] | None = "dense",
        fuser: Fuser | None = None,
        settings: DetailSettings | str = "careful",
    ) -> None:
        self._settings = preset(settings) if isinstance(settings, str) else settings
        self._model = Patchioner.from_pretrained(model) if isinstance(model, (str, Path)) else model
        self._describer = describer or PatchionerDescriber(
            self._needed("describer"), self._settings.describe
        )
        self._scorer = DenseScorer(self._needed("scorer")) if scorer == "dense" else scorer
        self._fuser = fuser or GreedyFuser(self._settings.fuse)

    def _needed(self, stage: str) -> Patchioner:
        if self._model is None:
            raise OptionError(f"without a model there is no {stage}: give a model, or {stage}=")
        return self._model

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers of every stage, ready for JSON; no secrets."""
        return {
            "model": None if self._model is None else self._model.settings.name,
            "divider": asdict(self._settings.divide),
            "describer": self._describer.settings,
            "filter": asdict(self._settings.filter),
            "scorer": None if self._scorer is None else self._scorer.settings,
            "fuser": self._fuser.settings,
        }

    def open(self, source: ImageSource) -> Photo:
        """Read a photo, and encode it where there is a model: see `open_photo`."""
        return open_photo(source, self._model)

    def describe(
        self,
        photo: Photo | ImageSource,
        regions: Sequence[Given] | None = None,
        *,
        seed: int = 0,
    ) -> DetailedCaption:
        """Describe one photo: the paragraph with its provenance. The same photo, settings and seed give the same.

        Where nothing is supported, ``text`` is "" and ``reason`` says why; of a photo that shows nothing
        (`patchioner.images.why_blank`) nothing is asked.

        Args:
            photo: a path, Pillow image, array or tensor, or a `Photo` of `open`.
            regions: things to describe besides the whole photo and its parts: boxes, masks, entries of `read_regions`.
            seed: of everything that is drawn.

        Raises:
            ImageError, RegionError: the photo or a region cannot be used.
            DetailError: a stage cannot give an answer.
        """
        opened = photo if isinstance(photo, Photo) else self.open(photo)
        if opened.features is None and self._model is not None:
            opened = replace(opened, features=self._model.encode(opened.image))
        chosen = tuple(divide(opened, regions or (), self._settings.divide, self._model))
        settings = {**self.settings, "seed": seed}
        blank = why_blank(opened.image)
        if blank is not None:
            return DetailedCaption("", (), (), (), chosen, opened.size, blank, settings)
        statements = self._describer.describe(opened, chosen, seed=seed)
        verdicts = filter_statements(
            opened, chosen, statements, scorer=self._scorer, settings=self._settings.filter
        )
        kept = [verdict for verdict in verdicts if verdict.kept]
        sentences, left_out = self._fuser.fuse(opened, chosen, kept) if kept else ([], [])
        said = {name for sentence in sentences for name in sentence.claim_ids}
        reasons = {verdict.claim.id: verdict for verdict in reversed(left_out)}
        unused = [verdict for verdict in verdicts if not verdict.kept]
        unused += [
            reasons.get(one.claim.id) or dropped(one, "duplicate", "the fuser passed it over")
            for one in kept
            if one.claim.id not in said
        ]
        return DetailedCaption(
            " ".join(sentence.text for sentence in sentences),
            tuple(sentences),
            tuple(unused),
            tuple(verdict for verdict in kept if verdict.claim.id in said),
            chosen,
            opened.size,
            None if sentences else _why_empty(unused),
            settings,
        )


def _why_empty(unused: Sequence[Verdict]) -> str:
    if not unused:
        return "nothing was said of the photo"
    counts = Counter(verdict.reason or "unknown" for verdict in unused)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return f"none of {len(unused)} sentences could be kept: {reasons}"
