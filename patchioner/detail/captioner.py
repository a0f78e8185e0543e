"""`DetailCaptioner`: one photo in, one faithful paragraph with its provenance out.

Knows: the order of the stages - divide, describe, filter, fuse, check - and their contracts. Does not know: how any of
them works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from patchioner.base.errors import DetailError, OptionError, RegionError
from patchioner.checkpoints.hub import SHIPPED
from patchioner.detail.describe.own import PatchionerDescriber
from patchioner.detail.divide import Given, PhotoDivider, whole_photo
from patchioner.detail.filter import DenseScorer, filter_statements, why_blank
from patchioner.detail.fuse import DeterministicFuser, without_source
from patchioner.detail.photos import open_photo
from patchioner.detail.presets import DetailSettings, preset
from patchioner.detail.stages import Describer, Divider, Fuser, Photo, Scorer
from patchioner.detail.values import (
    DetailedCaption,
    DetailRegion,
    FusedSentence,
    Verdict,
)
from patchioner.images import ImageSource
from patchioner.model import Patchioner


class DetailCaptioner:
    """Describe a photo at length, saying only what it bears out.

    Args:
        model: a loaded `Patchioner`, or the name of one; None where no stage needs one.
        divider: photo -> regions; by the settings if None (see `PhotoDivider`).
        describer: regions -> statements; the model itself if None (see `PatchionerDescriber`).
        scorer: how far the photo bears a sentence out; "dense" is the model's own alignment, calibrated
            (see `DenseScorer`); None scores nothing: then only rules, agreement and contradictions filter.
        fuser: kept claims -> paragraph; without a language model if None (see `DeterministicFuser`).
        settings: numbers of all stages, or the name of a preset: "default" or "published". Stages that are given
            have their own.

    Raises:
        OptionError: a stage needs a model and there is none, or the model is not calibrated for the "dense" scorer; the
            message has the remedy.
        UnknownNameError: no such model or preset.

    Example:
        >>> captioner = DetailCaptioner("patchioner-mini")
        >>> captioner.describe("photo.jpg").text  # doctest: +SKIP
        'There is a train on the tracks. On the left ...'
    """

    def __init__(
        self,
        model: Patchioner | str | Path | None = SHIPPED,
        *,
        divider: Divider | None = None,
        describer: Describer | None = None,
        scorer: Scorer | Literal["dense"] | None = "dense",
        fuser: Fuser | None = None,
        settings: DetailSettings | str = "default",
    ) -> None:
        self._settings = preset(settings) if isinstance(settings, str) else settings
        self._model = Patchioner.from_pretrained(model) if isinstance(model, (str, Path)) else model
        self._divider = divider or PhotoDivider(self._settings.divide, model=self._model)
        self._describer = describer or PatchionerDescriber(
            _needed(self._model, "describer"), self._settings.describe
        )
        self._scorer: Scorer | None = (
            DenseScorer(_needed(self._model, "scorer")) if scorer == "dense" else scorer
        )
        self._fuser = fuser or DeterministicFuser(self._settings.fuse)

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers of every stage, ready for JSON; no secrets."""
        return {
            "model": None if self._model is None else self._model.settings.name,
            "divider": self._divider.settings,
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
        regions: Sequence[Given] | Sequence[DetailRegion] | None = None,
        *,
        seed: int = 0,
    ) -> DetailedCaption:
        """Describe one photo.

        Args:
            photo: a path, Pillow image, array or tensor, or a `Photo` of `open`.
            regions: what to describe besides the whole photo, in place of what the divider would find: boxes, masks,
                entries of `patchioner.region_files.read_regions`, or `DetailRegion`s, which are taken as they are.
            seed: of everything that is drawn. The same photo, settings and seed give the same paragraph.

        Returns:
            The paragraph with its provenance. Where nothing is supported, ``text`` is "" and ``reason`` says why; of a
            photo that shows nothing (`patchioner.detail.filter.why_blank`) nothing is asked.

        Raises:
            ImageError, RegionError: the photo or a region cannot be used.
            DetailError: a stage cannot give an answer, or broke its contract.
        """
        opened = photo if isinstance(photo, Photo) else self.open(photo)
        if opened.features is None and self._model is not None:
            opened = replace(opened, features=self._model.encode(opened.image))
        chosen = self._regions(opened, regions)
        blank = why_blank(opened.image)
        if blank is not None:
            return self._nothing(opened, chosen, blank, seed)
        statements = self._describer.describe(opened, chosen, seed=seed)
        verdicts = filter_statements(
            opened, chosen, statements, scorer=self._scorer, settings=self._settings.filter
        )
        kept = [verdict for verdict in verdicts if verdict.kept]
        sentences, left_out = self._fuser.fuse(opened, chosen, kept) if kept else ([], [])
        sound, unfounded = checked(sentences, kept)
        used, passed_over = _sorted_out(kept, sound, [*left_out, *unfounded])
        dropped = (*(verdict for verdict in verdicts if not verdict.kept), *passed_over)
        return DetailedCaption(
            text=" ".join(sentence.text for sentence in sound),
            sentences=tuple(sound),
            dropped=dropped,
            kept=used,
            regions=tuple(chosen),
            image_size=opened.size,
            reason=None if sound else _why_empty(dropped),
            settings={**self.settings, "seed": seed},
        )

    def _nothing(
        self, photo: Photo, regions: Sequence[DetailRegion], reason: str, seed: int
    ) -> DetailedCaption:
        settings = {**self.settings, "seed": seed}
        return DetailedCaption("", (), (), (), tuple(regions), photo.size, reason, settings)

    def _regions(
        self, photo: Photo, given: Sequence[Given] | Sequence[DetailRegion] | None
    ) -> list[DetailRegion]:
        if given is None:
            return _unique(self._divider.divide(photo))
        ready = [region for region in given if isinstance(region, DetailRegion)]
        others = [region for region in given if not isinstance(region, DetailRegion)]
        if ready and others:
            raise RegionError("give all regions as DetailRegion, or none of them")
        if ready:
            whole = [region for region in ready if region.kind == "global"]
            rest = [region for region in ready if region.kind != "global"]
            return _unique([*(whole or [whole_photo(photo.size)]), *rest])
        return PhotoDivider(self._settings.divide, model=self._model, given=others).divide(photo)


def checked(
    sentences: Sequence[FusedSentence], kept: Sequence[Verdict]
) -> tuple[list[FusedSentence], list[Verdict]]:
    """The final check: every sentence names claims that were kept, and says nothing that they do not.

    Args:
        sentences: of a fuser.
        kept: verdicts of the filter.

    Returns:
        The sentences that pass, in order, and a verdict "no source" on each claim of the others.
    """
    by_id = {verdict.claim.id: verdict for verdict in kept}
    claims = {name: verdict.claim for name, verdict in by_id.items()}
    bad = without_source(sentences, claims)
    sound = [sentence for place, sentence in enumerate(sentences) if place not in bad]
    unfounded = [
        replace(by_id[name], kept=False, reason="no source", note=f"left out at the end: {why}")
        for place, why in bad.items()
        for name in sentences[place].claim_ids
        if name in by_id
    ]
    return sound, unfounded


def _sorted_out(
    kept: Sequence[Verdict], sentences: Sequence[FusedSentence], left_out: Iterable[Verdict]
) -> tuple[tuple[Verdict, ...], tuple[Verdict, ...]]:
    """Which kept verdicts the sentences use, and one verdict on each of the others."""
    said = {name for sentence in sentences for name in sentence.claim_ids}
    reasons: dict[str, Verdict] = {}
    for verdict in left_out:
        reasons.setdefault(verdict.claim.id, verdict)
    used = tuple(verdict for verdict in kept if verdict.claim.id in said)
    passed_over = tuple(
        reasons.get(verdict.claim.id)
        or replace(verdict, kept=False, reason="duplicate", note="the fuser passed it over")
        for verdict in kept
        if verdict.claim.id not in said
    )
    return used, passed_over


def _why_empty(dropped: Sequence[Verdict]) -> str:
    if not dropped:
        return "nothing was said of the photo"
    counts = Counter(verdict.reason or "unknown" for verdict in dropped)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return f"none of {len(dropped)} sentences could be kept: {reasons}"


def _needed(model: Patchioner | None, stage: str) -> Patchioner:
    if model is None:
        raise OptionError(f"without a model there is no {stage}: give a model, or {stage}=")
    return model


def _unique(regions: list[DetailRegion]) -> list[DetailRegion]:
    twice = [name for name, count in Counter(region.id for region in regions).items() if count > 1]
    if twice:
        raise DetailError(
            f"region ids {twice} occur twice in one photo: the divider must make them unique"
        )
    return regions
