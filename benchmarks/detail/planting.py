"""Plants false statements: true captions with one thing, colour or number exchanged, and captions of other photos.

Knows: COCO class names and their synonyms, colour and number words, chance by a seed. Does NOT know: models,
scores, files.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.metrics.class_names import SYNONYMS, named_classes, plural

COLOURS: Final = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
)
NUMBERS: Final = ("one", "two", "three", "four", "five", "six")
KINDS: Final = ("other photo", "object", "likely object", "colour", "number")
"""In the order of the table. A "likely object" is one that is often in photos with what else is there."""


@dataclass(frozen=True)
class Planted:
    """A false statement and the true one that it was made of.

    Attributes:
        photo: file name.
        kind: one of `KINDS`.
        true, false: the sentences.
        was, now: what was exchanged; empty for a sentence of another photo.
    """

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
    """Make up to one false statement of each kind of each true sentence.

    Args:
        sentences: true ones, by photo.
        present: COCO classes that are in each photo, by annotation or because a true sentence names them.
        seed: of every choice. A photo's statements do not depend on which other photos come before it.

    Returns:
        In the order of the photos and sentences; a sentence without a class, colour or number gives none of that kind.

    Example:
        >>> found = plant({"a": ["A red bus."], "b": ["A cat."]}, {"a": frozenset({"bus"}), "b": frozenset({"cat"})})
        >>> sorted({one.kind for one in found if one.photo == "a"})
        ['colour', 'likely object', 'object', 'other photo']
    """
    photos = sorted(sentences)
    planted: list[Planted] = []
    for photo in sentences:
        generator = random.Random(f"{seed} {photo}")
        here = present[photo] | frozenset().union(*map(named_classes, sentences[photo]))
        absent = sorted(set(SYNONYMS) - here)
        likely = _likely(here, present)
        others = [name for name in photos if name != photo and sentences[name]]
        for sentence in sentences[photo]:
            if others:
                foreign = generator.choice(sentences[generator.choice(others)])
                planted.append(Planted(photo, "other photo", sentence, foreign))
            for kind, names in (("object", absent), ("likely object", likely)):
                planted += _swaps(photo, kind, sentence, _of_classes(sentence), names, generator)
            for kind, words in (("colour", COLOURS), ("number", NUMBERS)):
                found = [(*span, False) for span in _of_words(sentence, words)]
                planted += _swaps(photo, kind, sentence, found, words, generator)
    return planted


def swapped_object(
    photo: str, sentence: str, names: Sequence[str], generator: random.Random
) -> str | None:
    """A sentence with one COCO class exchanged for one of `names`, as `plant` does; None where it names none."""
    found = next(_swaps(photo, "object", sentence, _of_classes(sentence), names, generator), None)
    return None if found is None else found.false


def _likely(here: frozenset[str], present: Mapping[str, frozenset[str]]) -> list[str]:
    """The five absent classes that most often share a photo with what is here."""
    counts = dict.fromkeys(sorted(set(SYNONYMS) - here), 0)
    for classes in present.values():
        shared = len(classes & here)
        for name in classes & counts.keys():
            counts[name] += shared
    return sorted(counts, key=lambda name: -counts[name])[:5]


Span = tuple[int, int, bool]
"""(start, end, whether it is a plural) of a word in a sentence."""


def _swaps(
    photo: str,
    kind: str,
    sentence: str,
    spans: Sequence[Span],
    names: Sequence[str],
    generator: random.Random,
) -> Iterator[Planted]:
    """At most one: a span and what comes in its place are drawn."""
    if not spans or not names:
        return
    start, end, several = generator.choice(spans)
    was = sentence[start:end]
    name = generator.choice([name for name in names if name != was.lower()])
    now = plural(name) if several else name
    before = re.sub(
        r"\b(a)n?(\s+)$", rf"\1{'n' if now[0] in 'aeiou' else ''}\2", sentence[:start], flags=re.I
    )
    if before.strip() == "" and was[:1].isupper():
        now = now.capitalize()
    yield Planted(photo, kind, sentence, f"{before}{now}{sentence[end:]}", was, now)


def _of_classes(sentence: str) -> list[Span]:
    """Words that name a COCO class, the longest where they overlap: "hot dog" is no dog."""
    found: list[Span] = []
    for name in sorted(named_classes(sentence)):
        for word in SYNONYMS[name]:
            for form in dict.fromkeys((word, plural(word))):
                found += [
                    (match.start(), match.end(), form != word)
                    for match in re.finditer(rf"\b{re.escape(form)}\b", sentence, re.I)
                ]
    longest = sorted(set(found), key=lambda span: (span[0] - span[1], span[0]))
    chosen: list[Span] = []
    for span in longest:
        if all(span[1] <= other[0] or span[0] >= other[1] for other in chosen):
            chosen.append(span)
    return sorted(chosen)


def _of_words(sentence: str, words: Sequence[str]) -> list[tuple[int, int]]:
    pattern = rf"\b(?:{'|'.join(words)})\b(?!-)"
    return [match.span() for match in re.finditer(pattern, sentence, re.I)]
