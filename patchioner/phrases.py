"""Phrases in place of sentences: the thing that a region shows, without what a sentence makes up around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from decoders import Decoded
from decoders.scene_graph import NounPhrase, noun_phrases
from decoders.tagging import tag
from patchioner.nouns import NO_THINGS, PEOPLE, NounTable

SAMPLES, TEMPERATURE = 8, 0.7  # sentences that are drawn beside the caption, to take phrases from
_OWN = 4  # how many samples the caption itself counts for
_AROUND = 0.3  # weight of a noun's z-score with the whole photo, against that with the region
_SUBJECT = 0.5  # what a phrase gains at the beginning of its sentence
_MOST = 3  # things in a phrase
_UNKNOWN = -1.0  # z-score of a noun that the table does not have


def best_phrases(
    listed: Sequence[Sequence[Decoded]], nouns: NounTable | None, here: Tensor, around: Tensor
) -> list[Decoded]:
    """The phrase of each region: a noun phrase, and those that prepositions and "and" join to it.

    Of all phrases of all sentences it is that of the highest sum over its things of log(share of the sentences that
    name the first, or this and the first) + z-score of the noun with the region, less a part of that with the whole
    photo; subjects of sentences gain a little.

    Args:
        listed: sentences of each of n regions, its caption first.
        nouns: None counts the sentences alone.
        here, around: (n, dim) embeddings of regions and of their whole photos, before the projection.

    Returns:
        For each region the sentence that the phrase is from, its text cut to it; the caption where none names a thing.
    """
    if nouns is None:
        return [_best(each, None) for each in listed]
    scores = (nouns.scores(here) - _AROUND * nouns.scores(around)).tolist()
    return [
        _best(each, dict(zip(nouns.names, row, strict=True)))
        for each, row in zip(listed, scores, strict=True)
    ]


def _best(sentences: Sequence[Decoded], shown: Mapping[str, float] | None) -> Decoded:
    weights = [_OWN, *(1 for _ in sentences[1:])]
    listed = [noun_phrases(one.text) for one in sentences]
    named = [{_one(phrase.head) for phrase in phrases} for phrases in listed]

    def value(noun: str, *others: str) -> float:
        together = {_one(noun), *others}
        said = sum(w for w, nouns in zip(weights, named, strict=True) if together <= nouns)
        known = 0.0 if shown is None else shown.get(noun, _UNKNOWN)
        return math.log(said / sum(weights)) + known

    best, most = sentences[0], -math.inf
    for one, phrases in zip(sentences, listed, strict=True):
        for joined in _joined(one.text, phrases):
            first, *others = (phrase.head for phrase in joined if phrase.head not in NO_THINGS)
            found = value(first) + sum(value(other, _one(first)) for other in others)
            found += _SUBJECT if joined[0].start == 0 else 0.0
            if found > most:
                text = one.text[joined[0].start : joined[-1].end]
                best, most = replace(one, text=text), found
    return best


def _joined(sentence: str, phrases: Sequence[NounPhrase]) -> Iterator[Sequence[NounPhrase]]:
    """Its noun phrases, alone and with those that prepositions and "and" join to them; no thing twice, no "a man's"."""
    for first in range(len(phrases)):
        for last in range(first, min(first + _MOST, len(phrases))):
            if last > first:
                between = tag(sentence[phrases[last - 1].end : phrases[last].start])
                if {token.tag for token in between} - {"prep", "conj"}:
                    break
            if sentence[: phrases[last].end].endswith(("'s", "\u2019s")):
                continue
            found = phrases[first : last + 1]
            things = [_one(phrase.head) for phrase in found if phrase.head not in NO_THINGS]
            if things and len({*things}) == len(things):
                yield found


def _one(noun: str) -> str:
    return "person" if noun in PEOPLE else noun
