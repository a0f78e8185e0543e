"""Falsehoods planted in true sentences: does the filter of `patchioner.detail` drop them?"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import (
    bootstrap_mean,
)
from benchmarks.data import (
    read_folder,
)
from benchmarks.detail_texts import (
    DidPhoto,
    Part,
    Setup,
    annotated,
    markdown_table,
    percent,
    read_did,
)
from benchmarks.metrics.class_names import SYNONYMS, named_classes, plural
from benchmarks.scoring import finite
from patchioner.base.progress import progress
from patchioner.detail import (
    DetailRegion,
    Photo,
    Statement,
    open_photo,
)
from patchioner.detail.judge import FilterSettings, clean, filter_statements
from patchioner.detail.score import DenseScorer
from patchioner.detail.text import split_sentences
from patchioner.detail.values import Scorer

Floats = NDArray[np.float64]
KEPT, DROPPED = 0.90, 0.5  # of true sentences kept, of exchanged objects dropped
COLOURS: Final = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey",
)  # fmt: skip
NUMBERS: Final = ("one", "two", "three", "four", "five", "six")
KINDS: Final = ("other photo", "object", "likely object", "colour", "number")
"""A "likely object" is one that is often in photos with what else is there."""


@dataclass(frozen=True)
class Planted:
    """A false statement, the true one that it was made of, and what was exchanged."""

    photo: str
    kind: str
    true: str
    false: str
    was: str = ""
    now: str = ""


def plant(
    sentences: Mapping[str, Sequence[str]],
    present: Mapping[str, frozenset[str]],
    *,
    seed: int = 0,
) -> list[Planted]:
    """Make up to one false statement of each of `KINDS` of each true sentence.

    `present` are COCO classes in each photo, by annotation; those that a true sentence names count too. A photo's
    statements do not depend on which other photos come before it.
    """
    photos = sorted(sentences)
    planted: list[Planted] = []
    for photo in sentences:
        generator = random.Random(f"{seed} {photo}")
        here = present[photo] | frozenset().union(*map(named_classes, sentences[photo]))
        absent = sorted(set(SYNONYMS) - here)
        counts = dict.fromkeys(absent, 0)
        for classes in present.values():
            for name in classes & counts.keys():
                counts[name] += len(classes & here)
        likely = sorted(counts, key=lambda name: -counts[name])[:5]
        others = [name for name in photos if name != photo and sentences[name]]
        for sentence in sentences[photo]:
            if others:
                foreign = generator.choice(sentences[generator.choice(others)])
                planted.append(Planted(photo, "other photo", sentence, foreign))
            for kind, names in (("object", absent), ("likely object", likely)):
                planted += _swap(photo, kind, sentence, _of_classes(sentence), names, generator)
            for kind, words in (("colour", COLOURS), ("number", NUMBERS)):
                pattern = rf"\b(?:{'|'.join(words)})\b(?!-)"
                spans = [(*m.span(), False) for m in re.finditer(pattern, sentence, re.I)]
                planted += _swap(photo, kind, sentence, spans, words, generator)
    return planted


def _swap(
    photo: str,
    kind: str,
    sentence: str,
    spans: Sequence[tuple[int, int, bool]],
    names: Sequence[str],
    generator: random.Random,
) -> list[Planted]:
    """At most one: a (start, end, plural) and what comes in its place are drawn."""
    if not spans or not names:
        return []
    start, end, several = generator.choice(spans)
    was = sentence[start:end]
    name = generator.choice([name for name in names if name != was.lower()])
    now = plural(name) if several else name
    article = "n" if now[0] in "aeiou" else ""
    before = re.sub(r"\b(a)n?(\s+)$", rf"\1{article}\2", sentence[:start], flags=re.I)
    if before.strip() == "" and was[:1].isupper():
        now = now.capitalize()
    return [Planted(photo, kind, sentence, f"{before}{now}{sentence[end:]}", was, now)]


def _of_classes(sentence: str) -> list[tuple[int, int, bool]]:
    """Where COCO classes are named, the longest where they overlap: "hot dog" is no dog."""
    found: list[tuple[int, int, bool]] = []
    for name in sorted(named_classes(sentence)):
        for word in SYNONYMS[name]:
            for form in dict.fromkeys((word, plural(word))):
                matches = re.finditer(rf"\b{re.escape(form)}\b", sentence, re.I)
                found += [(*match.span(), form != word) for match in matches]
    chosen: list[tuple[int, int, bool]] = []
    for span in sorted(set(found), key=lambda span: (span[0] - span[1], span[0])):
        if all(span[1] <= other[0] or span[0] >= other[1] for other in chosen):
            chosen.append(span)
    return sorted(chosen)


def run_planted(setup: Setup) -> Part:
    """People's captions, and the falsehoods planted in them, each judged alone on the whole photo."""
    samples = read_folder(setup.data, "image")[: setup.limit]
    sentences = {sample.photo: sample.references for sample in samples}
    boxes = annotated(replace(setup, limit=None))
    planted: dict[str, list[Planted]] = {}
    present = {photo: boxes.get(photo, frozenset()) for photo in sentences}
    for one in plant(sentences, present, seed=setup.seed):
        planted.setdefault(one.photo, []).append(one)
    scorer = DenseScorer(setup.model)
    kept: dict[tuple[str, str], bool] = {}
    scores: dict[tuple[str, str], float] = {}
    for photo in progress(list(sentences), description="judging", unit="photo"):
        opened = open_photo(setup.data / "photos" / photo, setup.model)
        texts = [*sentences[photo], *(one.false for one in planted.get(photo, ()))]
        for text in dict.fromkeys(texts):
            kept[photo, text], scores[photo, text] = _judged(opened, text, scorer)
    true = [(photo, text) for photo, texts in sentences.items() for text in texts]
    every = [one for ones in planted.values() for one in ones]
    share = bootstrap_mean([kept[key] for key in true], [photo for photo, _ in true])
    level = float(np.quantile([scores[key] for key in true], 1 - KEPT))
    rows: list[list[str]] = []
    values: dict[str, Any] = {}
    objects = 1.0
    for kind in KINDS:
        ones = [one for one in every if one.kind == kind]
        if not ones:
            continue
        false = [(one.photo, one.false) for one in ones]
        dropped = bootstrap_mean([not kept[key] for key in false], [photo for photo, _ in false])
        objects = dropped.value if kind == "object" else objects
        of_false = np.array([scores[key] for key in false])
        of_true = np.array([scores[one.photo, one.true] for one in ones])
        at, precision = float((of_false < level).mean()), average_precision(of_true, of_false)
        rows.append(
            [kind, str(len(ones)), percent(dropped), f"{100 * at:.1f}", f"{100 * precision:.1f}"]
        )
        values[kind] = {
            "count": len(ones), "dropped": finite(dropped), "dropped_at": at, "average_precision": precision
        }  # fmt: skip
    missed = []
    if share.value < KEPT:
        missed.append(f"{share.value:.1%} of the true sentences are kept, not {KEPT:.0%}")
    if objects < DROPPED:
        missed.append(f"{objects:.1%} of the exchanged objects are dropped, not {DROPPED:.0%}")
    head = ["planted", "n", "dropped, %", "dropped at 90 % kept, %", "average precision"]
    text = f"{len(true)} captions of {len(sentences)} photos, written by people. Kept: {percent(share)} %.\n\n"
    text += markdown_table(head, rows)
    found = {"photos": len(sentences), "kept": finite(share), "kinds": values}
    return Part("The scorer against planted falsehoods", text, found, tuple(missed))


def _judged(photo: Photo, text: str, scorer: Scorer) -> tuple[bool, float]:
    """Whether a text that stands alone is kept, and its score."""
    width, height = photo.size
    whole = DetailRegion("global", "global", (0.0, 0.0, float(width), float(height)))
    alone = FilterSettings(rules=False, alike=1.0, lone_support=0.0, lone_caption=0.0)
    statements = [Statement("global", 0, text)]
    verdicts = filter_statements(photo, [whole], statements, scorer=scorer, settings=alone)
    scores = [verdict.support.score for verdict in verdicts if verdict.support is not None]
    kept = all(verdict.kept or verdict.reason == "duplicate" for verdict in verdicts)
    return kept, min(scores, default=0.0)


def average_precision(of_true: Floats, of_false: Floats) -> float:
    """Mean over the true ones of the precision at each one's score."""
    right = (of_true[None] >= of_true[:, None]).sum(axis=1)
    wrong = (of_false[None] >= of_true[:, None]).sum(axis=1)
    return float(np.mean(right / (right + wrong)))


def run_among(setup: Setup) -> Part:
    """In every other sample one sentence has one thing exchanged for a class that no text about the photo names.

    Then the whole filter runs. The sentences left alone count as true, though not all of them are. What is folded into
    another as its like counts as kept.
    """
    folder = setup.data / "did"
    photos = [photo for photo in read_did(folder) if photo.references][: setup.limit]
    scorer = DenseScorer(setup.model)
    shares: dict[bool, list[tuple[bool, str]]] = {True: [], False: []}
    for photo in progress(photos, description="judging", unit="photo"):
        statements, false = planted_among(photo, setup.seed)
        opened = open_photo(folder / "photos" / photo.name, setup.model)
        for verdict in filter_statements(opened, photo.regions, statements, scorer=scorer):
            kept = verdict.kept or verdict.reason == "duplicate"
            if verdict.claim.text in false:
                shares[False].append((not kept, photo.name))
            elif verdict.support is not None:
                shares[True].append((kept, photo.name))
    kept_, dropped = (
        bootstrap_mean([one for one, _ in found], [name for _, name in found])
        for found in (shares[True], shares[False])
    )
    text = f"{len(photos)} photos. Kept of the rest: {percent(kept_)} %; planted dropped: {percent(dropped)} %.\n"
    values = {"photos": len(photos), "kept": finite(kept_), "dropped": finite(dropped)}
    return Part("One false thing among all that was said", text, values)


def planted_among(photo: DidPhoto, seed: int = 0) -> tuple[list[Statement], set[str]]:
    """The statements of a photo with a false sentence in every other one, and the false sentences."""
    generator = random.Random(f"{seed} {photo.name}")
    texts = [*(one.text for one in photo.statements), *photo.references]
    absent = sorted(set(SYNONYMS) - frozenset().union(*map(named_classes, texts)))
    statements, false = [], set()
    for place, statement in enumerate(photo.statements):
        sentences = split_sentences(statement.text)
        fitting = [at for at, s in enumerate(sentences) if clean(s) is None and named_classes(s)]
        if place % 2 == 0 and fitting and absent:
            at = generator.choice(fitting)
            spans = _of_classes(sentences[at])
            for one in _swap(photo.name, "object", sentences[at], spans, absent, generator):
                if split_sentences(one.false) == [one.false]:
                    sentences[at] = one.false
                    false.add(one.false)
        statements.append(replace(statement, text=" ".join(sentences)))
    return statements, false
