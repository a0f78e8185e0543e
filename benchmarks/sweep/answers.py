"""Asks a model under any setting, and keeps every answer on disk.

Knows: embeddings, bridge, decoder, the file of answers. Does NOT know: which settings are tried or chosen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.answers import embed_names
from benchmarks.captioner import Captioner, parts_of, unit_rows, with_settings
from benchmarks.runner.provenance import model_fingerprint
from benchmarks.sweep.embeddings import Embeddings, crop_size
from benchmarks.sweep.measures import (
    Floats,
    Measured,
    measure_captions,
    name_regions,
    retrieve_photos,
)
from benchmarks.sweep.samples import KindSamples
from benchmarks.sweep.space import Choice
from patchioner.aggregate import Weighting
from patchioner.base.errors import OptionError
from patchioner.regions import WholeImage

ANSWERS_FILE, FEATURES_FOLDER = "answers.jsonl", "features"
PROMPT = "a photo of a {name}"
CAPTIONS_AT_ONCE = 128


class Sweeper:
    """Measures settings; each is asked once, ever: answers are appended to a file as they come.

    Args:
        model: the model.
        kinds: all samples.
        photos: folder of the photos.
        folder: keeps features and answers.
        start: the weightings of these settings are pooled besides those of the ladder.

    Raises:
        OptionError: the model has no parts whose settings could be changed.

    Example:
        >>> Sweeper(model, kinds, photos, folder, starts).measure(kinds[0], choice)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Captioner,
        kinds: Sequence[KindSamples],
        photos: Path,
        folder: Path,
        start: Sequence[Choice],
    ) -> None:
        if parts_of(model) is None:
            raise OptionError(f"the settings of a {type(model).__name__} cannot be changed")
        self._model: Any = model
        self._embeddings = Embeddings(
            model, kinds, photos, folder / FEATURES_FOLDER, [choice.weighting for choice in start]
        )
        self._identities = {kind.kind: _identity(self._model, kind) for kind in kinds}
        self._path = folder / ANSWERS_FILE
        self._known = _read(self._path)
        self._texts: dict[str, Floats] = {}
        self.asked = 0

    def measure(self, kind: KindSamples, choice: Choice) -> Measured:
        """Captions and values of one kind of region under one setting."""
        key = f"{self._identities[kind.kind]} {kind.kind} {choice.key}"
        if choice.crop_share:  # a crop is embedded as the model embeds whole photos
            whole = self._model.settings.for_region(WholeImage())
            key += f" {crop_size(self._model)} px {whole}"
        if key not in self._known:
            self._known[key] = found = self._ask(kind, choice)
            line = json.dumps({"key": key, **found.to_json()})
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
            self.asked += 1
        return self._known[key]

    @torch.inference_mode()
    def _ask(self, kind: KindSamples, choice: Choice) -> Measured:
        rows = self._embeddings.of(kind, choice)
        count = len(kind.samples)
        model: Any = with_settings(self._model, temperature=choice.temperature)
        decoded = []
        for start in range(0, count, CAPTIONS_AT_ONCE):
            block = rows[start : min(count, start + CAPTIONS_AT_ONCE)].to(model.device)
            decoded += model.parts.decoder.generate(model.bridge(block), model.settings.decode)
        said = [answer.text for answer in decoded], [float(answer.score) for answer in decoded]
        found = measure_captions(kind, *said) if count else Measured((), (), {})
        values = dict(found.values)
        unit = unit_rows(rows, f"{kind.kind}: region")
        if kind.named:
            values |= name_regions(kind, unit[count:], self._embedded(kind))
        if kind.kind == "whole_image":
            values["r1"] = retrieve_photos(kind, unit, self._embedded(kind))
        return replace(found, values=values)

    def _embedded(self, kind: KindSamples) -> Floats:
        """Unit rows of the class names, or of the references."""
        if kind.kind not in self._texts:
            references = [text for group in kind.references for text in group]
            self._texts[kind.kind] = (
                embed_names(self._model, kind.names, [PROMPT])
                if kind.named
                else unit_rows(self._model.embed_text(references), "caption")
            )
        return self._texts[kind.kind]


def _identity(model: Any, kind: KindSamples) -> str:
    """Digest of all that answers depend on besides the setting: the weights, the decoding, the samples."""
    plain = {"weighting": Weighting(), "context": 0.0, "kinds": {}, "temperature": 1.0}
    settings = replace(model.settings, **plain)
    what = [model_fingerprint(model), settings.to_json(), repr(kind)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Measured]:
    """The answers so far; a line cut off by a kill is dropped from the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return {}
    known, end = {}, 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            found = json.loads(line)
            known[found["key"]] = Measured.from_json(found)
            end += len(line)
    with path.open("rb+") as file:
        file.truncate(end)
    return known
