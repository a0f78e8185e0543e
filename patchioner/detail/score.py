"""Support of sentences by a photo: the loaded checkpoint's own dense alignment, calibrated; or BLIP, or CLIP.

Text encoders trained by contrast are nearly blind to numbers above one, left and right, who does what to whom, negation
and most colours: `Support.unverifiable` names them. A captioner finds its own captions well supported.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from decoders.scene_graph import noun_phrases
from patchioner import Patchioner
from patchioner.backbones import PatchFeatures
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.optional import read_pretrained, require
from patchioner.base.progress import progress
from patchioner.detail import DetailRegion, Photo, Support, prose
from patchioner.guidance import Captioned, FloatArray, Logistic, fit_logistic
from patchioner.images import cut_out
from patchioner.regions import Region, WholeImage, feature_weights

KEY = "detail"  # under which a model's settings hold its calibration
SENTENCE_INPUTS: Final = ("pooled", "peak", "worst thing", "mean thing", "log things")
COMMAND: Final = "patchioner calibrate --detail"
SENTENCE_RATE, OBJECT_RATE = 0.50, 0.10  # shares that pass: of sentences with a thing exchanged, of absent things
_SIDE = 5  # patches, of a window whose mean is compared: one patch alone is noisy, more lose small things
_TEMPERATURE = 0.02  # of the weights of the memory texts near a region
_TEXTS_KEPT = 20_000
_DAMPING = 2e-4  # share of the texts below which absence says little
_BLIP_THRESHOLD = 0.3  # published, of (ITM + ITC) / 2 of BLIP; it means nothing for other scores

# Things that photos show: what the name of a thing is compared with, so that its score means something.
NOUNS: Final = tuple(" ".join(noun.split()) for noun in prose.LISTS["nouns"].split(","))
_UNSEEN: Final = {kind: prose.any_of(kind) for kind in ("number", "colour", "place", "negation")}


def unverifiable(sentence: str) -> tuple[str, ...]:
    """What of a sentence no contrastive score can support, in words."""
    said = sentence.lower()
    parts = (f"{kind}: {found.group()}" for kind, pattern in _UNSEEN.items() for found in pattern.finditer(said))
    return tuple(dict.fromkeys(parts))


@dataclass(frozen=True)
class Calibration:
    """What a checkpoint's measures of sentences (`SENTENCE_INPUTS`) and of things ("pooled", "peak", "memory") mean.
    `measured`: shares of true and false sentences that pass, number of photos; for people."""

    sentences: Logistic
    objects: Logistic
    measured: Mapping[str, float] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """What `ModelSettings.calibration["detail"]` holds."""
        parts = {"sentences": self.sentences.to_json(), "objects": self.objects.to_json()}
        return {"version": 1, **parts, "measured": {**self.measured}}

    @classmethod
    def from_json(cls, values: Any, source: str) -> Self:
        """Read what `to_json` gave; `CheckpointError`: it is damaged, or of another version."""
        if not isinstance(values, Mapping) or values.get("version") != 1:
            raise CheckpointError(f"{source}: no calibration of version 1; make one with {COMMAND}")
        sentences = Logistic.from_json(values.get("sentences"), f"{source}: sentences")
        objects = Logistic.from_json(values.get("objects"), f"{source}: objects")
        return cls(sentences, objects, dict(values.get("measured", {})))

    @classmethod
    def of(cls, model: Patchioner) -> Self:
        """That of a model; `OptionError`, with the command that makes one, where it has none."""
        stored = model.settings.calibration.get(KEY)
        if stored is None:
            remedy = f"run {COMMAND} --model FOLDER --pairs pairs.json --photos PHOTOS --write"
            raise OptionError(f"{model.settings.name!r} has no calibration, so its cosines mean nothing: {remedy}")
        return cls.from_json(stored, f"calibration of {model.settings.name!r}")


class View(NamedTuple):
    """A region: its (dim,) unit embedding, (n, dim) unit means of windows inside it; (mean, deviation) of the
    vocabulary's cosines with the one, and of its best with the others; (memory rows,) shares: how near each text is."""

    pooled: Tensor
    windows: Tensor
    pooled_scale: tuple[float, float]
    peak_scale: tuple[float, float]
    weights: FloatArray | None


class Evidence:
    """What a model's features say of texts. Threads may share one; each distinct text is embedded once. `OptionError`:
    the model has no text tower."""

    def __init__(self, model: Patchioner) -> None:
        if model.parts.text_tower is None:
            raise OptionError(f"{model.settings.name!r} has no text tower to score with: give another model or scorer")
        self.model = model
        self._known: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        self._vocabulary = self.embed([prose.with_article(noun) for noun in NOUNS])
        bank = model.parts.bank
        self._memory: Tensor | None = None
        self.object_inputs: tuple[str, ...] = ("pooled", "peak")
        if bank is not None and bank.texts is not None:
            self.object_inputs = ("pooled", "peak", "memory")
            self._memory = _unit(bank.embeddings())
            self._rows = {text: row for row, text in enumerate(bank.texts)}
            places: dict[str, list[int]] = {}
            for place, text in enumerate(bank.texts):
                for word in prose.content_words(text):
                    places.setdefault(word, []).append(place)
            self._places = {word: np.array(rows) for word, rows in places.items()}

    def embed(self, texts: Sequence[str]) -> Tensor:
        """(n, dim) float32 unit vectors on the CPU, in the order of the texts, one at least."""
        with self._lock:
            if len(self._known) > _TEXTS_KEPT:
                self._known.clear()
            if unknown := [text for text in dict.fromkeys(texts) if text not in self._known]:
                self._known.update(zip(unknown, _unit(self.model.embed_text(unknown)), strict=True))
            return torch.stack([self._known[text] for text in texts])

    def view(self, features: PatchFeatures, region: Region, without: Collection[str] = ()) -> View:
        """A region of an encoded photo, ready to be compared; memory texts in `without` are left aside."""
        pooled = _unit(self.model.embed_regions(features, [region], crop=False)[0])
        windows = _windows(features, region)
        peaks = (windows @ self._vocabulary.T).amax(0)
        weights = None
        if self._memory is not None:
            logits = (self._memory @ pooled) / _TEMPERATURE
            logits[[self._rows[text] for text in without if text in self._rows]] = -torch.inf
            weights = np.asarray(logits.softmax(0).double().numpy())
        return View(pooled, windows, _scale(self._vocabulary @ pooled), _scale(peaks), weights)

    def compare(self, view: View, texts: Sequence[str]) -> FloatArray:
        """(n, 2) float64: how far above any name of a thing each text's cosine lies, pooled and at its best window."""
        if not texts:
            return np.zeros((0, 2))
        embedded = self.embed(texts)
        pooled = (embedded @ view.pooled - view.pooled_scale[0]) / view.pooled_scale[1]
        peaks = ((view.windows @ embedded.T).amax(0) - view.peak_scale[0]) / view.peak_scale[1]
        return np.asarray(torch.stack([pooled, peaks], dim=1).double().numpy())

    def object_rows(self, view: View, names: Sequence[str]) -> FloatArray:
        """(n, `object_inputs`) float64 measures of things."""
        compared = self.compare(view, [prose.with_article(name) for name in names])
        if view.weights is None:
            return compared
        return np.column_stack([compared, [self._log_odds(view.weights, name) for name in names]])

    def _log_odds(self, weights: FloatArray, name: str) -> float:
        """How much more often memory texts near a region name a thing than all do; 0 for what no text names."""
        rows = self._places.get(prose.canonical(name.rpartition(" ")[2]))
        if rows is None:
            return 0.0
        base, near = len(rows) / len(weights), float(weights[rows].sum())
        return float(np.log((near + 0.02 * base + _DAMPING) / (base + _DAMPING)))

    def sentence_row(self, view: View, text: str, rows: FloatArray, objects: Logistic) -> FloatArray:
        """(`SENTENCE_INPUTS`,) float64 of a sentence, given the measures of its things."""
        logits = objects.logits(rows) if len(rows) else np.zeros(1)
        whole = self.compare(view, [text])[0]
        return np.array([*whole, logits.min(), logits.mean(), np.log(len(rows) + 1)])


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.float().cpu(), dim=-1)


def _scale(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), max(float(values.std()), 1e-6)


def _windows(features: PatchFeatures, region: Region) -> Tensor:
    """(n, dim) unit means of the windows of patches in the bounding rectangle of what the region covers."""
    weights = feature_weights(features, [region])[0]
    rows, columns = np.nonzero(weights > 0)
    part = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    tokens = features.tokens.float().cpu()[part]
    inside = torch.from_numpy(weights > 0)[part].float()
    size = (min(_SIDE, tokens.shape[0]), min(_SIDE, tokens.shape[1]))
    sums = F.avg_pool2d((tokens * inside[..., None]).permute(2, 0, 1)[None], size, stride=1)
    covered = F.avg_pool2d(inside[None, None], size, stride=1).flatten()
    chosen = covered >= min(0.5, float(covered.max()))
    return F.normalize(sums.flatten(2)[0].T[chosen], dim=1)


class DenseScorer:
    """Scores sentences by the model's own alignment with the region that they speak of (a `Scorer`).

    Cosines of a sentence and of its things are compared with those of the names of 350 other things, in the region as a
    whole and at its best window of patches; memory texts near the region name a thing, or do not. The model's logistic
    regressions make probabilities of that: from `threshold` (None: as calibrated) on a sentence is supported, below
    `object_threshold` a thing is not there.

    `OptionError`: no text tower, no calibration, or one that was made with other measures."""

    def __init__(self, model: Patchioner, *, threshold: float | None = None) -> None:
        self.calibration = Calibration.of(model)
        self.threshold = self.calibration.sentences.threshold if threshold is None else threshold
        self.object_threshold = self.calibration.objects.threshold
        self._model, self._evidence = model, Evidence(model)
        name, expected, given = model.settings.name, self._evidence.object_inputs, self.calibration.objects.inputs
        if expected != given:
            wrong = f"the calibration of {name!r} measures {given}, the model {expected} (was its memory exchanged?)"
            raise OptionError(f"{wrong}: calibrate it again with {COMMAND}")
        told = {"type": "dense", "model": name, "threshold": self.threshold}
        self.settings = {**told, "calibration": self.calibration.to_json()}

    @torch.inference_mode()
    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        """One `Support` per (region, sentence), in order; a photo without features is encoded here."""
        if not sentences:
            return []
        features = photo.features or self._model.encode(photo.image)
        regions = {region.id: region.region for region, _ in sentences}
        views = {name: self._evidence.view(features, one) for name, one in regions.items()}
        self._evidence.embed([text for _, text in sentences])  # one batch, not one each
        return [self._support(views[region.id], text) for region, text in sentences]

    def _support(self, view: View, sentence: str) -> Support:
        names, fitted = prose.things(sentence), self.calibration
        rows = self._evidence.object_rows(view, names)
        row = self._evidence.sentence_row(view, sentence, rows, fitted.objects)
        scores = [round(float(score), 4) for score in fitted.objects(rows)]
        return Support(float(fitted.sentences(row)[0]), tuple(zip(names, scores, strict=True)), unverifiable(sentence))

    @torch.inference_mode()
    def heat_map(self, photo: Photo, sentence: str) -> npt.NDArray[np.float32]:
        """Where in the photo a sentence is supported: (rows, columns) float32 cosines of its patches, -1 to 1."""
        features = photo.features or self._model.encode(photo.image)
        return np.asarray((_unit(features.tokens) @ self._evidence.embed([sentence])[0]).numpy(), dtype=np.float32)


def calibrate_model(model: Patchioner, pairs: Sequence[Captioned], *, seed: int = 0) -> Calibration:
    """Fit the measures of a model with a text tower on (photo, true captions): 100 at least, a few hundred are better.

    For every true caption a caption of another photo, and the caption with one thing exchanged for one that no caption
    of the photo names, are the distractors. Measures are fitted by logistic regression; a threshold is where the chosen
    share of distractors passes. The same pairs and seed give the same. `OptionError`: too few photos, no text tower."""
    if len(pairs) < 2:
        raise OptionError(f"{len(pairs)} photos are too few: give a hundred or more with captions")
    evidence, generator = Evidence(model), random.Random(seed)
    said: list[tuple[str, View, str, FloatArray]] = []  # kind, view, text, measures of its things
    rows: list[FloatArray] = []
    truth: list[bool] = []
    for place, (photo, captions) in enumerate(progress(pairs, description="calibrating", unit="photo")):
        others = [one for at, (_, one) in enumerate(pairs) if at != place]
        # The memory may hold these very captions; of another photo it would not.
        view = evidence.view(model.encode(photo), WholeImage(), without=captions)
        for caption in captions:
            texts = {"true": caption, "other": generator.choice(generator.choice(others))}
            if swapped := swap_thing(caption, _names(others, captions, generator), generator):
                texts["swap"] = swapped[0]
            for kind, text in texts.items():
                said.append((kind, view, text, evidence.object_rows(view, prose.things(text))))
            true = said[-len(texts)][3]
            false = evidence.object_rows(view, [swapped[1]] if swapped else [])
            rows += [*true, *false]
            truth += [True] * len(true) + [False] * len(false)
    objects = fit_logistic(evidence.object_inputs, rows, truth)
    absent = objects(rows)[~np.array(truth)]
    objects = replace(objects, threshold=float(np.quantile(absent, 1 - OBJECT_RATE)))
    measures = np.array([evidence.sentence_row(view, text, rows, objects) for _, view, text, rows in said])
    kinds = np.array([kind for kind, *_ in said])
    sentences = fit_logistic(SENTENCE_INPUTS, measures, kinds == "true")
    scores = sentences(measures)
    threshold = float(np.quantile(scores[kinds == "swap"], 1 - SENTENCE_RATE))
    passed = scores >= threshold
    measured = {f"accepted {kind}": round(float(passed[kinds == kind].mean()), 4) for kind in ("true", "other", "swap")}
    return Calibration(replace(sentences, threshold=threshold), objects, {"photos": len(pairs), **measured})


def swap_thing(caption: str, names: Iterator[str], draw: random.Random) -> tuple[str, str] | None:
    """(The caption with one of its things exchanged for the next of `names`, that name); None where it has none."""
    phrases = [phrase for phrase in noun_phrases(caption) if phrase.name in prose.things(caption)]
    name = next(names, None)
    if not phrases or name is None:
        return None
    phrase = draw.choice(phrases)
    return f"{caption[: phrase.start]}{prose.with_article(name)}{caption[phrase.end :]}", name


def _names(others: Sequence[Sequence[str]], own: Sequence[str], generator: random.Random) -> Iterator[str]:
    """Things in captions of other photos that no own caption names, at random."""
    named = frozenset().union(*map(prose.content_words, own))
    for _ in range(50):
        for name in prose.things(generator.choice(generator.choice(others))):
            if prose.canonical(name.rpartition(" ")[2]) not in named:
                yield name


Matcher = Callable[[Image.Image, Sequence[str]], npt.ArrayLike]
"""(picture, n sentences) -> (n,) numbers, higher where a sentence fits better; on a scale of its own."""


class IndependentScorer:
    """A `Scorer` that is not the captioner: any matcher, on the crop of each region, its numbers cut to 0..1.
    `threshold`: instead of 0.3, published for BLIP alone."""

    def __init__(self, match: Matcher, *, name: str = "independent", threshold: float | None = None) -> None:
        self._match = match
        self.threshold = _BLIP_THRESHOLD if threshold is None else threshold
        self.settings = {"type": name, "threshold": self.threshold}

    def score(self, photo: Photo, sentences: Sequence[tuple[DetailRegion, str]]) -> list[Support]:
        """One `Support` per (region, sentence), in order; each crop is encoded once."""
        scores = np.zeros(len(sentences))
        for name, box in {region.id: region.box for region, _ in sentences}.items():
            asked = [place for place, (region, _) in enumerate(sentences) if region.id == name]
            scores[asked] = self._match(cut_out(photo.image, box), [sentences[place][1] for place in asked])
        shares = np.clip(scores, 0.0, 1.0).tolist()
        return [Support(share, (), unverifiable(text)) for share, (_, text) in zip(shares, sentences, strict=True)]


def load_blip(checkpoint: str) -> Matcher:
    """(Matching probability + cosine) / 2 of BLIP, as published, from a hub id or folder."""
    processor, model = read_pretrained(checkpoint, "AutoProcessor", "BlipForImageTextRetrieval", dtype=torch.float32)
    model.eval()

    @torch.inference_mode()
    def match(picture: Image.Image, sentences: Sequence[str]) -> FloatArray:
        pixels = processor.image_processor(images=picture, return_tensors="pt")["pixel_values"]
        seen = model.vision_model(pixel_values=pixels).last_hidden_state
        # The published system reads 35 tokens: the tail of a long sentence is never seen.
        texts = processor.tokenizer(list(sentences), padding=True, truncation=True, max_length=64, return_tensors="pt")
        words = {"input_ids": texts["input_ids"], "attention_mask": texts["attention_mask"]}
        patches = seen.expand(len(sentences), -1, -1)
        seen_all = torch.ones(patches.shape[:2], dtype=torch.long)
        pictured = {"encoder_hidden_states": patches, "encoder_attention_mask": seen_all}
        joint = model.text_encoder(**words, **pictured).last_hidden_state
        alone = model.text_encoder(**words).last_hidden_state
        matching = model.itm_head(joint[:, 0]).softmax(dim=1)[:, 1]
        cosine = _unit(model.text_proj(alone[:, 0])) @ _unit(model.vision_proj(seen[:, 0]))[0]
        return np.asarray(((matching + cosine) / 2).double().numpy())

    return match


def load_clip(checkpoint: str) -> Matcher:
    """Cosine of CLIP by open_clip's spelling: "ViT-B-32@laion2b_s34b_b79k" or "hf-hub:owner/name"."""
    open_clip = require("open_clip", "clip")
    name, _, weights = checkpoint.partition("@")
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=weights or None)
    tokenize = open_clip.get_tokenizer(name)
    model.eval()

    @torch.inference_mode()
    def match(picture: Image.Image, sentences: Sequence[str]) -> FloatArray:
        seen = _unit(model.encode_image(preprocess(picture)[None]))
        said = _unit(model.encode_text(tokenize(list(sentences))))
        return np.asarray((said @ seen[0]).double().numpy())

    return match


SCORERS: Final[Mapping[str, Callable[[str], Matcher]]] = {"blip": load_blip, "clip": load_clip}
"""Name -> makes a matcher from the name or folder of a checkpoint."""
