"""Captions that are about their region, as a checkpoint's settings say; and how sure each is.

The likeliest caption of a region is often one of the whole photo. Guided decoding (`decoders.guidance`) contrasts the
two and counts the nouns that the region shows; so does the choice among samples (`Candidates`). Measures of a model
become probabilities by a logistic function.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import Decoded, DecodeOptions, TrainableDecoder
from decoders.guidance import Guide
from patchioner.base.errors import CheckpointError, OptionError, TextError
from patchioner.base.files import check
from patchioner.checkpoints.folder import Candidates, KindSettings, ModelSettings, Parts, Style
from patchioner.embedding import project
from patchioner.images import Doubt, ImageSource
from patchioner.nouns import COLOURS, NounTable, cut_to_shown, keep_shown_colours
from patchioner.pipeline import Embedded
from patchioner.regions import Region, WholeImage
from patchioner.results import Caption

KEY = "captions"  # under which a model's settings hold the calibration of its captions
FEATURES = ("noun", "noun in photo", "likeness", "size", "kind")
"""What confidence rests on: z-scores, among regions that people ask about, of the caption's best noun with the region
and with the whole photo; the cosine of these two; the logarithm of the region's share of the photo; the noun's odds."""
FloatArray = npt.NDArray[np.float64]
Captioned = tuple[ImageSource, Sequence[str]]  # a photo and its true captions
_USUAL, _MOST = 1.5, 3.0  # z-score that speaks neither for nor against, and how far from it counts


@dataclass(frozen=True, eq=False)
class Asked:
    """n regions of any photos."""

    regions: Sequence[Region]
    embeddings: Tensor  # (n, dim) of the regions, before the projection
    photos: Tensor  # (p, dim) of the whole photos
    owners: Tensor  # (n,) int64: which of the photos each region is of
    shares: Tensor  # (n,) of the photo that each takes
    projected: Tensor  # (n, dim) `embeddings` as the decoder takes them

    def rows(self, at: list[int]) -> Asked:
        """Some of them."""
        regions = [self.regions[place] for place in at]
        return Asked(regions, self.embeddings[at], self.photos, self.owners[at], self.shares[at], self.projected[at])


@torch.inference_mode()
def write(
    asked: Asked,
    options: DecodeOptions | None,
    parts: Parts,
    *,
    plain: bool = False,
    gendered: bool = False,
    crops: bool = False,
    style: Style = "auto",
) -> list[Decoded]:
    """One caption for each region; it does not depend on the others.

    Args:
        options: None is the checkpoint's, with the width of beams of its guidance.
        parts: on one device.
        plain: the likeliest captions.
        gendered: people may be men and women where the checkpoint would call them persons.
        crops: whether the embeddings have crops added, but those of whole photos.
        style: of captions; plain ones are sentences unless phrases are asked for.
    """
    near = parts.settings.crop_candidates if crops else None
    alike: dict[KindSettings, list[int]] = {}
    for place, region in enumerate(asked.regions):
        kind = KindSettings() if plain else parts.settings.kinds.get(region.kind, KindSettings())
        guidance = replace(kind.guidance, neutral=False) if kind.guidance and gendered else kind.guidance
        own = kind.candidates if isinstance(region, WholeImage) else near or kind.candidates
        candidates = None if plain or options else own
        how = KindSettings(guidance=guidance, candidates=candidates, style=kind.style if style == "auto" else style)
        alike.setdefault(how, []).append(place)
    found: dict[int, Decoded] = {}
    for how, places in alike.items():
        found.update(zip(places, _written(asked.rows(places), options, how, parts), strict=True))
    return [found[place] for place in range(len(asked.regions))]


def _written(asked: Asked, options: DecodeOptions | None, how: KindSettings, parts: Parts) -> list[Decoded]:
    decode, guide, guidance = options or parts.settings.decode, None, how.guidance
    if guidance is not None and parts.nouns is not None:
        width = guidance.beam_width
        decode = options or replace(decode, strategy="beam" if width > 1 else "greedy", beam_width=width)
        evidence = guidance.nouns * (parts.nouns.scores(asked.embeddings) - _USUAL).clamp(-_MOST, _MOST)
        around = project(asked.photos, parts.settings, parts.bank)[asked.owners]
        guide = Guide(around, parts.nouns.words, evidence, guidance.contrast, guidance.neutral, guidance.several)
    written = parts.decoder.generate(asked.projected, decode, parts.bank, guide)
    if how.candidates is not None and isinstance(parts.decoder, TrainableDecoder):
        drawing = replace(decode, temperature=how.candidates.temperature, top_p=1.0, seed=0)
        drawn = parts.decoder.draw(asked.projected, drawing, parts.bank, guide, how.candidates.samples)
        listed = [[one, *others] for one, others in zip(written, drawn, strict=True)]
        written = _shown_best(asked, listed, how.candidates, parts)
    if how.style == "sentence":
        return written
    texts, around = [one.text for one in written], asked.photos[asked.owners]
    phrases = cut_to_shown(texts, parts.nouns, asked.embeddings, around, asked.shares)
    if any(word in COLOURS for text in phrases for word in text.split()) and parts.text_tower:
        phrases = keep_shown_colours(phrases, asked.embeddings, parts.text_tower.encode)
    return [replace(one, text=text) for one, text in zip(written, phrases, strict=True)]


def _shown_best(asked: Asked, listed: Sequence[Sequence[Decoded]], how: Candidates, parts: Parts) -> list[Decoded]:
    """Of some captions of each region the one of the highest score of `Candidates`; the first of equal ones."""
    texts = list(dict.fromkeys(one.text for each in listed for one in each if one.text.strip()))
    rows = parts.text_tower.encode(texts) if texts and parts.text_tower else torch.empty(0, 0)
    embedded = dict(zip(texts, F.normalize(rows, dim=1), strict=True))
    around = F.normalize(asked.photos, dim=1)[asked.owners]
    sides = (F.normalize(asked.embeddings, dim=1) - how.photo * around).cpu()
    evidence = parts.nouns.scores(asked.embeddings).cpu() if parts.nouns and how.nouns else None

    def score(row: int, one: Decoded) -> float:
        shown = float(embedded[one.text] @ sides[row]) if one.text in embedded else -1.0
        if evidence is not None and parts.nouns is not None:
            known = parts.nouns.words.in_text(one.text)
            shown += how.nouns * float(evidence[row, known].mean() if known else -1.0)
        return how.likelihood * one.score + shown

    return [max(each, key=partial(score, row)) for row, each in enumerate(listed)]


def gathered(batch: Sequence[Embedded], parts: Parts) -> Asked:
    """All regions of some photos; where these were not embedded (plain captions) `photos` and `shares` say nothing."""
    embeddings = torch.cat([one.embeddings for one in batch])
    photos = torch.stack([embeddings[0] if one.whole is None else one.whole for one in batch])
    counts = torch.tensor([len(one.regions) for one in batch], device=embeddings.device)
    owners = torch.arange(len(batch), device=embeddings.device).repeat_interleave(counts)
    regions = [region for one in batch for region in one.regions]
    projected = project(embeddings, parts.settings, parts.bank)
    shares = torch.cat([torch.ones(len(one.regions)) if one.shares is None else one.shares for one in batch])
    return Asked(regions, embeddings, photos, owners, shares, projected)


def features(asked: Asked, texts: Sequence[str], nouns: NounTable) -> list[tuple[float, ...]]:
    """The `FEATURES` of a caption of each region; those of the nouns that a caption does not have are 0."""
    here, there = (nouns.scores(rows, asked=True).cpu() for rows in (asked.embeddings, asked.photos))
    likeness = F.cosine_similarity(asked.embeddings, asked.photos[asked.owners], dim=1).tolist()
    sizes, odds = asked.shares.log().tolist(), nouns.odds.tolist()
    best = best_nouns(here, texts, nouns)
    found: list[tuple[float, ...]] = []
    for row, (noun, owner) in enumerate(zip(best, asked.owners.tolist(), strict=True)):
        scores = (0.0, 0.0) if noun is None else (float(here[row, noun]), float(there[owner, noun]))
        kind = 0.0 if noun is None else odds[noun]
        found.append((*scores, likeness[row], sizes[row], kind))
    return found


def best_nouns(here: Tensor, texts: Sequence[str], nouns: NounTable) -> list[int | None]:
    """Of the nouns of each caption the place of that with the highest of (n, k) scores; None without any."""
    known = [nouns.words.in_text(text) for text in texts]
    return [some[int(here[row, some].argmax())] if some else None for row, some in enumerate(known)]


def confidence_of(settings: ModelSettings) -> Logistic | None:
    """`FEATURES` -> confidence, where a checkpoint is calibrated; CheckpointError: that is none or of others."""
    if KEY not in settings.calibration:
        return None
    source = f"{settings.name}: calibration of captions"
    found = Logistic.from_json(settings.calibration[KEY], source)
    if found.inputs != FEATURES:
        raise CheckpointError(f"{source}: it rests on {found.inputs}, not {FEATURES}")
    return found


def check_least(settings: ModelSettings, min_confidence: float | None) -> None:
    """OptionError for a confidence that cannot be asked of a checkpoint, or makes no sense."""
    check("[0, 1] or None", min_confidence=min_confidence)
    if min_confidence is not None and confidence_of(settings) is None:
        raise OptionError(f"{settings.name!r} gives no confidence: patchioner calibrate makes it do so")


def captions(
    batch: Sequence[Embedded],
    options: DecodeOptions | None,
    parts: Parts,
    *,
    plain: bool,
    gendered: bool,
    crops: bool,
    style: Style,
    least: float,
) -> list[list[Caption]]:
    """One caption for each region of these photos, all through bank and decoder as one matrix; see `write`.

    Those of a confidence below `least` have no text.
    """
    if not any(one.regions for one in batch):
        return [[] for _ in batch]
    asked = gathered(batch, parts)
    found = write(asked, options, parts, plain=plain, gendered=gendered, crops=crops, style=style)
    sure: list[float | None] = [None] * len(found)
    calibrated = confidence_of(parts.settings)
    if calibrated is not None and parts.nouns is not None:
        sure = calibrated(features(asked, [one.text for one in found], parts.nouns)).tolist()
    answers = iter(zip(found, sure, strict=True))
    return [[_answer(*next(answers), region, one.doubt, least) for region in one.regions] for one in batch]


def _answer(one: Decoded, sure: float | None, region: Region, doubt: Doubt | None, least: float) -> Caption:
    if sure is None:
        return Caption(one.text, one.score, region)
    if doubt is not None:  # of a drawing people may want a caption all the same
        silent = doubt.blank or least > 0
        text, reason = (None, doubt.reason) if silent else (one.text, None)
        return Caption(text, one.score, region, 0.0, reason)
    low = f"confidence {sure:.2f} is below {least:g}" if sure < least else None
    return Caption(None if low else one.text, one.score, region, sure, low)


@dataclass(frozen=True)
class Logistic:
    """p = 1 / (1 + exp(-(bias + sum of weight * (value - mean) / deviation))); yes from `threshold` on.

    `inputs` are the names of the k measures; `mean`, `deviation` and `weights` have k numbers each.
    """

    inputs: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float = 0.5

    def __call__(self, values: npt.ArrayLike) -> FloatArray:
        """(n, k) measures -> (n,) float64 probabilities."""
        rows = np.asarray(values, dtype=np.float64).reshape(-1, len(self.inputs))
        found: FloatArray = 1 / (1 + np.exp(-np.clip(self.logits(rows), -60, 60)))
        return found

    def logits(self, rows: FloatArray) -> FloatArray:
        """(n, k) measures -> (n,) float64, the logarithms of the odds."""
        standard = (rows - np.array(self.mean)) / np.array(self.deviation)
        found: FloatArray = standard @ np.array(self.weights) + self.bias
        return found

    def to_json(self) -> dict[str, Any]:
        """Names and numbers, rounded to six digits."""
        return {name: _short(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Any, source: str) -> Self:
        """Read what `to_json` wrote; `CheckpointError` where it is not finite numbers that fit together."""
        try:
            names = tuple(map(str, values["inputs"]))
            rows = np.array([values[key] for key in ("mean", "deviation", "weights")], dtype=float)
            bias, threshold = float(values["bias"]), float(values["threshold"])
            finite = np.isfinite([*rows.ravel(), bias, threshold]).all()
            if rows.shape != (3, len(names)) or not finite or (rows[1] <= 0).any():
                raise ValueError("its numbers do not fit together")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{source}: not a stored calibration ({error!r})") from error
        mean, deviation, weights = map(tuple, rows.tolist())
        return cls(names, mean, deviation, weights, bias, threshold)


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_short(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def fit_logistic(
    inputs: Sequence[str], values: npt.ArrayLike, answers: npt.ArrayLike, *, penalty: float = 1.0
) -> Logistic:
    """Fit by Newton's method; both answers weigh the same, however many there are of each.

    `OptionError`: fewer than two samples of an answer.
    """
    rows = np.asarray(values, dtype=np.float64).reshape(-1, len(inputs))
    yes = np.asarray(answers, dtype=bool)
    counts = int(yes.sum()), int((~yes).sum())
    if min(counts) < 2:
        raise OptionError(f"{counts[0]} true and {counts[1]} false samples are too few: give more photos and captions")
    mean, deviation = rows.mean(0), np.maximum(rows.std(0), 1e-6)
    standard = np.column_stack([(rows - mean) / deviation, np.ones(len(rows))])
    share = np.where(yes, 0.5 / counts[0], 0.5 / counts[1]) * len(rows)
    ridge = np.diag([penalty] * len(inputs) + [1e-9])
    weights = np.zeros(len(inputs) + 1)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(standard @ weights, -60, 60)))
        slope = standard.T @ (share * (p - yes)) + ridge @ weights
        curve = (standard * (share * p * (1 - p))[:, None]).T @ standard + ridge
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-8:
            break
    means, spreads, slopes = (tuple(one.tolist()) for one in (mean, deviation, weights[:-1]))
    return Logistic(tuple(inputs), means, spreads, slopes, float(weights[-1]))


def read_pairs(path: Path, photos: Path, *, limit: int, seed: int = 0) -> list[Captioned]:
    """(Photo, captions) of a JSON list of {"file_name", "captions"}, `limit` of them drawn by the seed.

    `TextError`: the file is not such a list, or a photo of it has no caption.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        pairs: list[Captioned] = [(photos / str(row["file_name"]), tuple(map(str, row["captions"]))) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise TextError(f'{path} is not a JSON list [{{"file_name", "captions"}}, ...]: {error!r}') from error
    if any(not captions for _, captions in pairs):
        raise TextError(f"{path} has a photo without captions: leave it out")
    random.Random(seed).shuffle(pairs)
    return pairs[:limit]
