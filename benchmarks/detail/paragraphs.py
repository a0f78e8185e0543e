"""Paragraphs of photos end to end, with and without the filter, kept in files so that a stopped run goes on.

Knows: `DetailCaptioner`, the batch file of `patchioner.detail`, and texts of equal length to compare with.
Does NOT know: references, annotations, scores.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from benchmarks.detail.controls import filled
from benchmarks.detail.part import Setup
from patchioner.base.errors import DetailError
from patchioner.base.progress import progress
from patchioner.detail import (
    DetailCaptioner,
    DetailedCaption,
    DetailRegion,
    Photo,
    Statement,
    open_photo,
    preset,
)
from patchioner.detail.batch import LineFile, describe_many
from patchioner.detail.describe import PatchionerDescriber
from patchioner.detail.values import FORMAT, Describer, from_json

PARAGRAPH = "our paragraph"
UNFILTERED = "without the filter"
WHOLE = "caption of the whole photo"
RANDOM = "random captions, as long"
OTHERS = "another photo's paragraph"
_UNFILTERED = {"filter.rules": False}
_OPENING = '{"format": "patchioner-benchmark-statements"'


@dataclass(frozen=True)
class Described:
    """A photo, what was said of its regions, and two paragraphs made of that.

    Attributes:
        name: path of the photo.
        said: all captions, ordered by region, then sample.
        filtered: the paragraph by rules, contradictions and the photo.
        plain: the paragraph of everything that was said.
    """

    name: str
    said: tuple[Statement, ...]
    filtered: DetailedCaption
    plain: DetailedCaption


class Recorded:
    """A describer that writes down what it said of a photo, and says that again when it is asked again.

    Args:
        describer: asked the first time; its settings and the seed belong into the file's name.
        path: of the file, a line per photo.
    """

    def __init__(self, describer: Describer, path: Path) -> None:
        self._describer = describer
        self._lines = LineFile(path, _OPENING)

    @property
    def settings(self) -> dict[str, object]:
        """Those of the describer."""
        return self._describer.settings

    def describe(
        self, photo: Photo, regions: Sequence[DetailRegion], *, seed: int = 0
    ) -> list[Statement]:
        """As `patchioner.detail.values.Describer`."""
        known = self._lines.under(photo.sha256)
        if known is not None:
            return [Statement(*values) for values in known["statements"]]
        said = self._describer.describe(photo, regions, seed=seed)
        rest = {"key": photo.sha256, "photo": photo.name, "statements": [astuple(s) for s in said]}
        line = f"{_OPENING}, {json.dumps(rest, ensure_ascii=False)[1:]}"
        self._lines.append((photo.sha256, photo.name), line)
        return said


def described(setup: Setup, photos: Sequence[Path], name: str) -> list[Described]:
    """Describe photos, or read from the files of a former run what was finished.

    Args:
        setup: model, folder, seed.
        photos: paths.
        name: of the set; part of the files' names.

    Returns:
        One per photo, in order.

    Raises:
        OptionError: the model is not calibrated; the message names the command.
        DetailError: a photo could not be described.
    """
    settings = preset("default")
    own = PatchionerDescriber(setup.model, settings.describe)
    unrecorded = DetailCaptioner(setup.model, describer=own, settings=settings)
    asked, whole = _digest(unrecorded, "model", "divider", "describer"), _digest(unrecorded)
    files = [
        setup.out / "photos" / f"{name}-said-{asked}-{setup.seed}.jsonl",
        setup.out / "photos" / f"{name}-finished-{whole}-{setup.seed}.jsonl",
    ]
    for path in files if setup.fresh else ():
        path.unlink(missing_ok=True)
    recorded = Recorded(own, files[0])
    captioner = DetailCaptioner(setup.model, describer=recorded, settings=settings)
    finished = _finished(setup, captioner, photos, files[1])
    # Without a model: what was found and said is taken as it is.
    unfiltered = DetailCaptioner(
        None, describer=recorded, scorer=None, settings=settings.changed(_UNFILTERED)
    )
    found = []
    for path in progress(photos, description="fusing", unit="photo"):
        photo, caption = open_photo(path), finished[str(path)]
        said = tuple(recorded.describe(photo, caption.regions, seed=setup.seed))
        plain = unfiltered.describe(photo, caption.regions, seed=setup.seed)
        found.append(Described(str(path), said, caption, plain))
    return found


def _digest(captioner: DetailCaptioner, *stages: str) -> str:
    """Eight digits of the settings of some stages, or of all: files of other settings have other names."""
    settings = captioner.settings
    chosen = {stage: settings[stage] for stage in stages or settings}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]


def _finished(
    setup: Setup, captioner: DetailCaptioner, photos: Sequence[Path], out: Path
) -> dict[str, DetailedCaption]:
    result = describe_many(captioner, photos, out, seed=setup.seed)
    if not result.complete:
        problems = [*(f"{one}: {error}" for one, error in result.failed), str(result.stopped or "")]
        raise DetailError(f"not all photos could be described: {'; '.join(filter(None, problems))}")
    lines = LineFile(out, f'{{"format": "{FORMAT}"')
    return dict(from_json(lines.values(line)) for line in result.names)


def texts_of(photos: Sequence[Described], *, seed: int = 0) -> dict[str, list[str]]:
    """Our paragraphs and what they are compared with, by kind of text.

    Args:
        photos: at least two.
        seed: of the random captions.

    Returns:
        Kind -> a text per photo. Random captions are of regions of the same photo, drawn until they have as many words
        as the paragraph; the other photo is the next one.
    """
    paragraphs = [one.filtered.text for one in photos]
    return {
        PARAGRAPH: paragraphs,
        UNFILTERED: [one.plain.text for one in photos],
        WHOLE: [_as_sentence(one.said[0].text) for one in photos],
        RANDOM: [_random_captions(one, seed) for one in photos],
        OTHERS: [*paragraphs[1:], *paragraphs[:1]],
    }


def reasons(photos: Sequence[Described]) -> Mapping[str, float]:
    """What became of the captions of regions: share of all, by the reason for which they were dropped.

    "in the paragraph" are those that its sentences are made of, "said by another" those that say the same.
    """
    counts: Counter[str] = Counter()
    for one in photos:
        used = {name for sentence in one.filtered.sentences for name in sentence.claim_ids}
        merged = {name for verdict in one.filtered.kept for name in verdict.merged}
        counts["in the paragraph"] += len(used)
        for verdict in one.filtered.dropped:
            same = verdict.claim.id in merged and verdict.reason == "duplicate"
            counts["said by another" if same else verdict.reason or "unknown"] += (
                verdict.claim.id not in used
            )
    total = sum(counts.values()) or 1
    return {reason: count / total for reason, count in counts.most_common()}


def _random_captions(photo: Described, seed: int) -> str:
    words = len(photo.filtered.text.split())
    texts = list(dict.fromkeys(statement.text for statement in photo.said))
    random.Random(f"{seed} {Path(photo.name).name}").shuffle(texts)
    return filled(map(_as_sentence, texts), words) if words else ""


def _as_sentence(caption: str) -> str:
    text = caption.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
