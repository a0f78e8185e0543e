"""Which words of a sentence say something, and what it names: content words and noun phrases.

Knows: the tagger and parser of `decoders.scene_graph`, and words that mean the same. Does NOT know: photos, or what
is alike beyond words (`similarity`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from decoders.scene_graph import Entity, RuleParser
from decoders.scene_graph.lexicon import word_set
from decoders.scene_graph.morphology import singular
from decoders.scene_graph.tagging import Token, tag

_SAME = {
    word: words[0]
    for words in (
        line.split()
        for line in """
        person individual human
        man gentleman guy male
        woman lady female
        child kid
        couch sofa
        bicycle bike
        motorcycle motorbike
        airplane plane aeroplane
        car automobile
        tv television
        phone cellphone smartphone telephone
        refrigerator fridge
        grey gray
        large big
        small little tiny
        sidewalk pavement
        road street
        rock stone
        ocean sea
        racket racquet
        sunglasses shades
        purse handbag
        donut doughnut
        forest woods
        wooden wood
        metallic metal
        two 2 pair
        three 3
        four 4
        five 5
        six 6
        seven 7
        eight 8
        nine 9
        ten 10
        one 1
        cloudy overcast
        """.strip().splitlines()
    )
    for word in words
}
# What is said of every photo, or of how it was taken, tells no two sentences apart.
_EMPTY_NOUNS = word_set(
    "image picture photo photograph snapshot scene view element shot frame thing detail part"
)
_EMPTY_VERBS = word_set(
    """
    be have do see show capture depict feature include contain appear seem suggest add present display observe visible
    look make give create indicate
    """
)
_EMPTY_ADJECTIVES = word_set("visible key such own same other various several many possible")
# Words of long descriptions that the tagger, made for captions, takes for nouns.
_VERBS = word_set(
    """
    suggest show convey indicate depict cater pass contrast contribute evoke imply enhance frame complement appear
    accentuate emphasize highlight reflect capture seem present feature read portray showcase blend line fill dominate
    resemble reveal belong remain
    """
)
_ADJECTIVES = word_set(
    """
    damp overcast harsh casual peaceful serene recent well-prepared everyday cross-country out-of-focus well-lit
    well-maintained monochromatic inviting vibrant lively bustling predominantly tranquil muted subdued grassy
    sandy rocky paved unpaved multicolored multi-colored beige wooden metallic asphalt
    """
)
_WEIGHTS = {"noun": 1.0, "num": 0.7, "adj": 0.7, "verb": 0.6}
_FINITE_AUXILIARIES = word_set(
    """
    is are was were has have had does do did can could will would may might must should isn't aren't doesn't don't
    that's it's there's seems seem appears appear becomes become
    """
)
_WORD = re.compile(r"[A-Za-z0-9]+(?:[-'\u2019][A-Za-z0-9]+)*")
_LEADS = word_set("a an the his her their its this that these those some many several")


@dataclass(frozen=True)
class NounPhrase:
    """One thing that a sentence names.

    Attributes:
        head: lemma of its last word, lower case: "racket".
        name: all words of the name, the last in the singular: "tennis racket".
        attributes: what is said of it, in order, before it or by "is": ("two", "red").
        start, end: where it stands in the sentence, its determiner and attributes before it included.
        text: that part of the sentence.
    """

    head: str
    name: str
    attributes: tuple[str, ...]
    start: int
    end: int
    text: str


def canonical(word: str) -> str:
    """One word for all that mean the same, as far as a short list goes; others as they are.

    Example:
        >>> canonical("sofa"), canonical("2"), canonical("zebra")
        ('couch', 'two', 'zebra')
    """
    return _SAME.get(word, word)


def content_words(sentence: str) -> frozenset[str]:
    """Lower-case lemmas of the nouns, adjectives, verbs and numbers; no stop words, and none about the picture.

    Words that mean the same become one (`canonical`).

    Example:
        >>> sorted(content_words("The image shows two red buses parked on the street."))
        ['bus', 'park', 'red', 'road', 'two']
    """
    return frozenset(word_weights(sentence))


def word_weights(sentence: str) -> dict[str, float]:
    """`content_words` with how much each tells: nouns 1, numbers and adjectives 0.7, verbs 0.6.

    Example:
        >>> word_weights("A red bus.")
        {'red': 0.7, 'bus': 1.0}
    """
    return dict(_weights(sentence))


@lru_cache(maxsize=8192)
def _weights(sentence: str) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for token in _tagged(sentence):
        for word in _lemmas(token):
            found[word] = max(found.get(word, 0.0), _WEIGHTS[token.tag])
    return tuple(found.items())


def _tagged(sentence: str) -> Iterator[Token]:
    for token in tag(sentence):
        lemma = singular(token.text)
        if token.tag == "noun" and lemma in _VERBS and token.text != lemma:
            yield Token(token.text, "verb", lemma)
        elif token.tag == "noun" and token.text in _ADJECTIVES:
            yield Token(token.text, "adj", token.text)
        else:
            yield token


def _lemmas(token: Token) -> Iterator[str]:
    if token.tag == "noun":
        word = singular(token.text)
        if word not in _EMPTY_NOUNS:
            yield canonical(word)
    elif token.tag == "verb" and token.lemma not in _EMPTY_VERBS:
        yield token.lemma
    elif token.tag == "num" or (token.tag == "adj" and token.text not in _EMPTY_ADJECTIVES):
        yield canonical(token.text)


def has_finite_verb(sentence: str) -> bool:
    """Whether a sentence has a verb that a subject can have: "sits", "is"; not "sitting".

    Example:
        >>> has_finite_verb("A woman sits on a bench"), has_finite_verb("A woman sitting on a bench")
        (True, False)
    """
    return any(_finite(token) for token in _tagged(sentence))


def _finite(token: Token) -> bool:
    if token.tag == "aux":
        return token.text in _FINITE_AUXILIARIES
    return token.tag == "verb" and not token.text.endswith("ing")


def noun_phrases(sentence: str) -> list[NounPhrase]:
    """What a sentence names, in order, and where; nothing for words such as "background" that name no thing.

    Example:
        >>> [(one.head, one.attributes, one.text) for one in noun_phrases("Two red buses pass a tall tower.")]
        [('bus', ('two', 'red'), 'Two red buses'), ('tower', ('tall',), 'a tall tower')]
    """
    return list(_noun_phrases(sentence))


@lru_cache(maxsize=8192)
def _noun_phrases(sentence: str) -> tuple[NounPhrase, ...]:
    words = list(_WORD.finditer(sentence))
    found: list[NounPhrase] = []
    begin = 0
    for parsed in RuleParser().parse([sentence])[0].entities:
        place = _find(words, begin, parsed)
        if place is None:
            continue
        entity = _named(parsed, words[place + len(parsed.name.split()) - 1].group().lower())
        if entity is None:
            continue
        size = len(entity.name.split())
        first = _first(words, begin, place, entity)
        start, end = words[first].start(), words[place + size - 1].end()
        head = entity.name.rpartition(" ")[2]
        text = sentence[start:end]
        found.append(NounPhrase(head, entity.name, entity.attributes, start, end, text))
        begin = place + size
    return tuple(found)


def _named(entity: Entity, last: str) -> Entity | None:
    """The entity without a verb that was taken for its last word ("red buses pass"); None where nothing is left."""
    *before, head = entity.name.split()
    if head in _VERBS and last != head or (before and head in _VERBS):
        return (
            Entity(" ".join([*before[:-1], singular(before[-1])]), entity.attributes)
            if before
            else None
        )
    return None if head in _ADJECTIVES else entity


def _find(words: list[re.Match[str]], begin: int, entity: Entity) -> int | None:
    """Place of the first word of the entity's name."""
    *before, head = entity.name.split()
    size = len(before) + 1
    for place in range(begin, len(words) - size + 1):
        texts = [
            word.group().lower().replace("\u2019", "'") for word in words[place : place + size]
        ]
        last = texts[-1].removesuffix("'s")
        vessel = last == "glasses" and head == "glass"
        if texts[:-1] == before and (singular(last) == head or last == head or vessel):
            return place
    return None


def _first(words: list[re.Match[str]], begin: int, place: int, entity: Entity) -> int:
    """Place where the phrase starts: its attributes and determiner stand before the name."""
    said = {part for attribute in entity.attributes for part in re.split(r"[\s-]", attribute)}
    while place > begin:
        before = words[place - 1].group().lower()
        if before in _LEADS:
            return place - 1
        if not ({before, *before.split("-")} & said) and before != "and":
            break
        if before == "and" and not (place > begin + 1 and words[place - 2].group().lower() in said):
            break
        place -= 1
    return place
