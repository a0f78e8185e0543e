"""The noun phrases of a sentence, and where in it they stand."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from decoders.scene_graph.lexicon import word_set
from decoders.scene_graph.parsers import RuleParser
from decoders.scene_graph.tagging import singular

# Words of long descriptions that the tagger, made for captions, takes for nouns.
VERBS = word_set("""
    suggest show convey indicate depict cater pass contrast contribute evoke imply enhance frame complement appear
    accentuate emphasize highlight reflect capture seem present feature read portray showcase blend line fill dominate
    resemble reveal belong remain
""")
ADJECTIVES = word_set("""
    damp overcast harsh casual peaceful serene recent well-prepared everyday cross-country out-of-focus well-lit
    well-maintained monochromatic inviting vibrant lively bustling predominantly tranquil muted subdued grassy
    sandy rocky paved unpaved multicolored multi-colored beige wooden metallic asphalt
""")
WORD = re.compile(r"[A-Za-z0-9]+(?:[-'\u2019][A-Za-z0-9]+)*")
_LEADS = word_set("a an the his her their its this that these those some many several")


class NounPhrase(NamedTuple):
    """One thing that a sentence names: "tennis racket", and where, its determiner and attributes included."""

    name: str
    start: int
    end: int

    @property
    def head(self) -> str:
        """The last word of the name."""
        return self.name.rpartition(" ")[2]


@lru_cache(maxsize=8192)
def noun_phrases(sentence: str) -> tuple[NounPhrase, ...]:
    """What a sentence names, in order, and where; nothing for words such as "background" that name no thing."""
    words = list(WORD.finditer(sentence))
    said = [word.group().lower().replace("\u2019", "'") for word in words]
    found: list[NounPhrase] = []
    begin = 0
    for entity in RuleParser().parse([sentence])[0].entities:
        place = _find(said, begin, entity.name.split())
        if place is None:
            continue
        name = _named(entity.name, said[place + entity.name.count(" ")])
        if name is None:
            continue
        end = place + len(name.split())
        first = _first(said, begin, place, entity.attributes)
        found.append(NounPhrase(name, words[first].start(), words[end - 1].end()))
        begin = end
    return tuple(found)


def _named(name: str, last: str) -> str | None:
    """The name without a verb that was taken for its last word ("red buses pass"); None where nothing is left."""
    *before, head = name.split()
    if head in VERBS and (before or last != head):
        return " ".join([*before[:-1], singular(before[-1])]) if before else None
    return None if head in ADJECTIVES else name


def _find(said: list[str], begin: int, name: list[str]) -> int | None:
    """Place of the first word of a name."""
    *before, head = name
    for place in range(begin, len(said) - len(before)):
        last = said[place + len(before)].removesuffix("'s")
        same = head in (last, singular(last)) or (last == "glasses" and head == "glass")
        if same and said[place : place + len(before)] == before:
            return place
    return None


def _first(said: list[str], begin: int, place: int, attributes: tuple[str, ...]) -> int:
    """Place where the phrase starts: its attributes and determiner stand before the name."""
    own = {*attributes, *(part for one in attributes for part in re.split(r"[\s-]", one))}
    own |= {"and"} if len(attributes) > 1 else set()
    while place > begin and said[place - 1] in own:
        place -= 1
    return place - 1 if place > begin and said[place - 1] in _LEADS else place
