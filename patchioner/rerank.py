"""Captions chosen among candidates by what the region shows and its surroundings do not, and how sure each is.

The likeliest caption of a region is often one of the whole photo. Of the usual caption and some samples the one is
taken that tells the region from the photo (after the rational speech acts of Cohn-Gordon et al., arXiv 1804.05417):

    likelihood * mean log-probability + cos(text, region) - photo * cos(text, photo) + nouns * z(best noun, region)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from decoders import Decoded, DecodeOptions
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import read_json, write_json
from patchioner.base.weights import load_weights, save_weights
from patchioner.calibration import Logistic
from patchioner.checkpoints.settings import ModelSettings, Rerank
from patchioner.results import Caption

if TYPE_CHECKING:
    from patchioner.checkpoints.folder import Parts
    from patchioner.pipeline import Embedded
    from patchioner.regions import Region
    from patchioner.text import TextTower

KEY = "captions"
"""Under which a model's settings hold the calibration of its captions."""
FEATURES = ("cosine", "margin", "agreement", "noun")
"""What confidence rests on: cosine of caption and region; by how much it is above that with the whole photo; share of
the candidates that name its most common thing; z-score of its best noun."""
_TEMPLATES = ("a photo of a {}", "there is a {}")
_PEOPLE = frozenset({
    "person", "people", "man", "men", "woman", "women", "child", "children", "kid", "boy", "girl", "baby",
    "lady", "guy", "player", "someone", "adult", "male", "female",
})  # fmt: skip
_NO_THINGS = frozenset({
    "view", "front", "side", "top", "area", "background", "picture", "image", "photo", "group", "couple",
    "bunch",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class NounTable:
    """Nouns, and how near regions usually are to each.

    Attributes:
        names: k nouns, lower case.
        embeddings: (k, dim) float32, unit.
        mean, deviation: (k,) float32, of the cosines between a noun and regions of many photos.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    @torch.inference_mode()
    def build(
        cls, captions: Iterable[str], regions: Tensor, tower: TextTower, count: int = 1500
    ) -> Self:
        """The `count` commonest nouns of captions that name things other than people.

        Args:
            captions: many.
            regions: (n, dim) embeddings of regions of many photos, before the projection.
            tower: of the same model.

        Raises:
            OptionError: the captions name nothing.
        """
        found = Counter(noun for caption in captions for noun in named(caption))
        names = tuple(
            noun
            for noun, _ in found.most_common()
            if noun != "person" and re.fullmatch("[a-z][a-z-]+", noun)
        )[:count]
        if not names:
            raise OptionError("the captions name no things: give more of them")
        each = [tower.encode([form.format(name) for name in names]) for form in _TEMPLATES]
        embeddings = F.normalize(
            torch.stack([F.normalize(one, dim=1) for one in each]).sum(0), dim=1
        )
        cosines = embeddings @ F.normalize(regions.cpu(), dim=1).T
        return cls(names, embeddings, cosines.mean(1), cosines.std(1).clamp_min(1e-6))

    def scores(self, regions: Tensor) -> Tensor:
        """(n, dim) unit region embeddings -> (n, k) z-scores of their cosines with each noun."""
        return (regions @ self.embeddings.T - self.mean) / self.deviation

    def to(self, device: torch.device | str) -> Self:
        """The same table there."""
        tensors = (self.embeddings, self.mean, self.deviation)
        return type(self)(self.names, *(one.to(device) for one in tensors))

    def save(self, folder: Path) -> None:
        """Write names.json and weights.safetensors, the embeddings in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(
            {"embeddings": self.embeddings}, folder / "embeddings.safetensors", storage="fp16"
        )
        spread = {"mean": self.mean, "deviation": self.deviation}
        save_weights(spread, folder / "spread.safetensors", storage="fp32")
        write_json(folder / "names.json", self.names)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; CheckpointError where the files do not fit together."""
        names = read_json(folder / "names.json")
        held = load_weights(folder / "embeddings.safetensors")
        held |= load_weights(folder / "spread.safetensors")
        shapes = [tuple(held[key].shape) for key in ("mean", "deviation") if key in held]
        rows = held.get("embeddings")
        fit = rows is not None and rows.dim() == 2 and isinstance(names, list)
        if not fit or rows is None or shapes != [(len(names),)] * 2 or len(rows) != len(names):
            raise CheckpointError(f"{folder}: names and tensors of the nouns do not fit together")
        unit = F.normalize(rows.float(), dim=1)
        return cls(tuple(map(str, names)), unit, held["mean"].float(), held["deviation"].float())


@lru_cache(maxsize=16384)
def named(text: str) -> tuple[str, ...]:
    """Head nouns of the things that a caption names, each once; all people are "person".

    Example:
        >>> named("a man with a red umbrella")
        ('person', 'umbrella')
    """
    from decoders.scene_graph.phrases import noun_phrases

    heads = [phrase.head for phrase in noun_phrases(text) if phrase.head not in _NO_THINGS]
    return tuple(dict.fromkeys("person" if head in _PEOPLE else head for head in heads))


class Chosen(NamedTuple):
    """The caption that was taken, and its `FEATURES`; None where there was nothing to choose among."""

    decoded: Decoded
    features: tuple[float, ...] | None


@torch.inference_mode()
def choose(
    regions: Sequence[Region],
    embeddings: Tensor,
    wholes: Tensor,
    projected: Tensor,
    options: DecodeOptions,
    parts: Parts,
) -> list[Chosen]:
    """Choose a caption for each of n regions of any photos; it does not depend on the others.

    Args:
        regions: n.
        embeddings: (n, dim) of the regions.
        wholes: (n, dim) of the whole photo of each.
        projected: (n, dim) `embeddings` as the decoder takes them.
        options: of the usual caption; samples have its limits and bans.
        parts: on one device; with a text tower.
    """
    rules = [parts.settings.rerank_of(region) for region in regions]
    pools = _candidates(rules, projected, options, parts)
    texts = list(dict.fromkeys(one.text for pool in pools if len(pool) > 1 for one in pool))
    if not texts:
        return [Chosen(pool[0], None) for pool in pools]
    places = {text: place for place, text in enumerate(texts)}
    sure = _Cosines(texts, pools, places, embeddings, wholes, parts)
    return [
        sure.best(row, pool, rule) if len(pool) > 1 else Chosen(pool[0], None)
        for row, (pool, rule) in enumerate(zip(pools, rules, strict=True))
    ]


def _candidates(
    rules: Sequence[Rerank], projected: Tensor, options: DecodeOptions, parts: Parts
) -> list[list[Decoded]]:
    """The usual caption of each row and its samples; those of all rows that are drawn alike in one batch."""
    usual = replace(options, scores=True)
    pools = [[one] for one in parts.decoder.generate(projected, usual, parts.bank)]
    alike: dict[tuple[int, float], list[int]] = {}
    for row, rule in enumerate(rules):
        if pools[row][0].text.strip():
            alike.setdefault((rule.samples, rule.temperature), []).append(row)
    for (samples, temperature), rows in alike.items():
        if not samples:
            continue
        how: Any = {"temperature": temperature, "top_p": 1.0, "seed": 0, "samples": samples}
        drawing = replace(usual, strategy="sample", **how)
        drawn = parts.decoder.generate(projected[rows], drawing, parts.bank)
        for place, row in enumerate(rows):
            some = drawn[place * samples : (place + 1) * samples]
            pools[row] += [one for one in some if one.text.strip()]
    return pools


class _Cosines:
    """Candidates of a batch against their regions and photos; each text is embedded once."""

    def __init__(
        self,
        texts: Sequence[str],
        pools: Sequence[Sequence[Decoded]],
        places: dict[str, int],
        embeddings: Tensor,
        wholes: Tensor,
        parts: Parts,
    ) -> None:
        assert parts.text_tower is not None, "settings that rerank were checked"
        vectors = F.normalize(parts.text_tower.encode(texts), dim=1).to(embeddings.device)
        pairs = [
            (row, places[one.text])
            for row, pool in enumerate(pools)
            for one in pool
            if len(pool) > 1
        ]
        rows, which = torch.tensor(pairs, device=embeddings.device).unbind(1)
        units = F.normalize(embeddings, dim=1)
        said = vectors[which]
        region: Tensor = torch.linalg.vecdot(said, units[rows])
        photo: Tensor = torch.linalg.vecdot(said, F.normalize(wholes, dim=1)[rows])
        self._cosines = dict(
            zip(pairs, zip(region.tolist(), photo.tolist(), strict=True), strict=True)
        )
        self._places = places
        self._nouns: dict[str, int] = {}
        self._scores: list[list[float]] = []
        if parts.nouns is not None:
            self._nouns = {name: place for place, name in enumerate(parts.nouns.names)}
            self._scores = parts.nouns.scores(units).tolist()

    def best(self, row: int, pool: Sequence[Decoded], rule: Rerank) -> Chosen:
        """The candidate of the highest score; of equals the first."""
        distinct = list({one.text: one for one in reversed(pool)}.values())[::-1]
        ranked = []
        for one in distinct:
            region, photo = self._cosines[row, self._places[one.text]]
            noun = self._noun(row, one.text)
            value = rule.likelihood * one.score + region - rule.photo * photo + rule.nouns * noun
            ranked.append((value, one, (region, region - photo, _agreement(one.text, pool), noun)))
        _, taken, features = max(ranked, key=lambda entry: entry[0])
        return Chosen(taken, features)

    def _noun(self, row: int, text: str) -> float:
        """The highest z-score of a noun of the text, 0 where it has none of the table."""
        known = [self._nouns[noun] for noun in named(text) if noun in self._nouns]
        return max((self._scores[row][place] for place in known), default=0.0)


def _agreement(text: str, pool: Sequence[Decoded]) -> float:
    others = [named(one.text) for one in pool]
    return max(
        (sum(noun in other for other in others) / len(others) for noun in named(text)), default=0.0
    )


def confidence_of(settings: ModelSettings) -> Logistic | None:
    """What turns `FEATURES` into a confidence, where the checkpoint is calibrated.

    Raises:
        CheckpointError: what is stored is no calibration of captions.
    """
    if KEY not in settings.calibration:
        return None
    found = Logistic.from_json(
        settings.calibration[KEY], f"{settings.name}: calibration of captions"
    )
    if found.inputs != FEATURES:
        raise CheckpointError(
            f"{settings.name}: captions are calibrated on {found.inputs}, not {FEATURES}"
        )
    return found


def check_choice(
    settings: ModelSettings, options: DecodeOptions, rerank: bool, min_confidence: float | None
) -> None:
    """OptionError for what cannot be asked of a checkpoint, or makes no sense."""
    if options.samples > 1:
        raise OptionError(f"samples is {options.samples}; a caption is one: see rerank")
    if rerank and not settings.reranks:
        raise OptionError(
            f"{settings.name!r} has no settings for reranking: patchioner calibrate gives it some"
        )
    if min_confidence is None:
        return
    if not 0 <= min_confidence <= 1:
        raise OptionError(f"min_confidence {min_confidence} must lie in 0..1")
    if not rerank or confidence_of(settings) is None:
        raise OptionError(
            f"{settings.name!r} gives no confidence here: it needs reranking and patchioner calibrate"
        )


def rerank_captions(
    batch: Sequence[Embedded],
    projected: Tensor,
    options: DecodeOptions,
    parts: Parts,
    least: float,
) -> list[list[Caption]]:
    """One caption for each region of these photos, chosen among candidates; without text below a confidence.

    Args:
        batch: of photos, with their `whole` embeddings.
        projected: (n, dim) embeddings of all regions, as the decoder takes them.
        options, parts: see `choose`.
        least: confidence below which a caption has no text.
    """
    regions = [region for one in batch for region in one.regions]
    wholes = [one.whole.expand(len(one.regions), -1) for one in batch if one.whole is not None]
    embeddings = torch.cat([one.embeddings for one in batch])
    chosen = iter(choose(regions, embeddings, torch.cat(wholes), projected, options, parts))
    sure = confidence_of(parts.settings)
    return [
        [_answer(next(chosen), region, sure, one.blank, least) for region in one.regions]
        for one in batch
    ]


def _answer(
    chosen: Chosen, region: Region, sure: Logistic | None, blank: str | None, least: float
) -> Caption:
    text, score = chosen.decoded.text, chosen.decoded.score
    if sure is None:
        return Caption(text, score, region)
    if blank is not None:
        return Caption(None, score, region, 0.0, blank)
    if chosen.features is None:
        return Caption(text, score, region)
    confidence = float(sure([chosen.features])[0])
    if confidence < least:
        return Caption(
            None, score, region, confidence, f"confidence {confidence:.2f} is below {least:g}"
        )
    return Caption(text, score, region, confidence)
