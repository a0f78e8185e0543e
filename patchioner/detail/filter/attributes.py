"""Closed attributes: those of whose values a thing can have but one, and which of them a sentence states.

Knows: the families of values and where a sentence states them. Does NOT know: photos, scores, which value is right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from patchioner.detail.text import NounPhrase, canonical, noun_phrases


def _family(text: str) -> Mapping[str, str]:
    """ "grey gray silver, red" -> {"grey": "grey", "gray": "grey", "silver": "grey", "red": "red"}."""
    groups = [group.split() for group in text.replace("\n", " ").split(",")]
    return MappingProxyType({word: group[0] for group in groups for word in group})


FAMILIES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "colour": _family(
            """red crimson scarlet maroon, orange, yellow golden, green, blue navy turquoise teal, purple violet,
            pink, brown tan beige, black, white, grey gray silver"""
        ),
        "number": _family(
            """one 1 single, two 2, three 3, four 4, five 5, six 6, seven 7, eight 8, nine 9, ten 10, eleven 11,
            twelve 12"""
        ),
        "material": _family(
            "wooden wood, metal metallic steel iron, plastic, stone, brick, concrete, leather, ceramic"
        ),
        "openness": _family("open opened, closed shut"),
        "fill": _family("empty, full filled"),
        "weather": _family("sunny sunlit clear, cloudy overcast, rainy, snowy, foggy misty hazy"),
        "posture": _family(
            """sitting seated sits sit, standing stands stand, lying lies lie reclining, walking walks walk,
            running runs, kneeling kneels, crouching squatting, jumping jumps leaping, swimming swims, flying flies"""
        ),
        "time": _family("night nighttime, day daytime daylight"),
    }
)
"""Family -> word -> the value that it stands for. Values of one family exclude one another, but see `conflict`."""

SEEN: Final = ("colour", "material")
"""Families that a contrastive model sees at all; the others it cannot tell apart."""

_POSTURE = re.compile(
    r"\s*,?\s*(?:who|which|that)?\s*(?:is|are|was|were)?\s*(?:also |seen |now |already )?"
    rf"({'|'.join(FAMILIES['posture'])})\b"
)
_NONE = re.compile(
    r"\b(?:no|without(?: any| a| an)?|not any|there (?:is|are) no(?: other)?)\s+(?:visible\s+)?([a-z]+(?:\s[a-z]+)?)",
    re.I,
)
_WEATHER = re.compile(
    rf"\b({'|'.join(FAMILIES['weather'])})\s+(?:day|sky|weather|skies|conditions)\b", re.I
)
_SKY = re.compile(
    rf"\b(?:sky|weather)\s+(?:is|seems|looks)\s+(?:\w+\s+)?({'|'.join(FAMILIES['weather'])})\b",
    re.I,
)
_TIME = re.compile(rf"\b(?:at|during(?: the)?|by)\s+({'|'.join(FAMILIES['time'])})\b", re.I)


@dataclass(frozen=True)
class Stated:
    """One value of a closed attribute that a sentence gives a thing.

    Attributes:
        head: lemma of the thing's name, synonyms made one: "bus".
        name: the whole name: "tour bus".
        family: of `FAMILIES`, or "presence" where the sentence says that there is none.
        value: "red"; "none" for presence.
        phrase: where there is one, the noun phrase that says it.
        word: as it stands in the sentence.
    """

    head: str
    name: str
    family: str
    value: str
    phrase: NounPhrase | None = None
    word: str = ""


def stated(sentence: str) -> list[Stated]:
    """All that a sentence states of closed attributes.

    Example:
        >>> [(one.head, one.family, one.value) for one in stated("Two red buses are parked; a man is sitting.")]
        [('bus', 'number', 'two'), ('bus', 'colour', 'red'), ('man', 'posture', 'sitting')]
    """
    found: list[Stated] = []
    for phrase in noun_phrases(sentence):
        for attribute in phrase.attributes:
            for family in ("colour", "number", "material", "openness", "fill"):
                value = FAMILIES[family].get(attribute)
                if value is not None:
                    found.append(_of(phrase, family, value, attribute))
        posture = _POSTURE.match(sentence, phrase.end)
        if posture:
            found.append(
                _of(phrase, "posture", FAMILIES["posture"][posture.group(1)], posture.group(1))
            )
    found += [
        Stated("sky", "sky", "weather", FAMILIES["weather"][match.group(1).lower()])
        for pattern in (_WEATHER, _SKY)
        for match in pattern.finditer(sentence)
    ]
    found += [
        Stated("time", "time", "time", FAMILIES["time"][match.group(1).lower()])
        for match in _TIME.finditer(sentence)
    ]
    return found + [Stated(name, name, "presence", "none") for name in _absent(sentence)]


def _of(phrase: NounPhrase, family: str, value: str, word: str) -> Stated:
    return Stated(canonical(phrase.head), phrase.name, family, value, phrase, word)


def _absent(sentence: str) -> list[str]:
    """Lemmas of what the sentence says there is none of."""
    names = []
    for match in _NONE.finditer(sentence):
        for phrase in noun_phrases(f"There is a {match.group(1).lower()}.")[:1]:
            names.append(canonical(phrase.head))
    return names


Facts = Mapping[tuple[str, str], frozenset[str]]


@lru_cache(maxsize=8192)
def facts(sentence: str) -> Facts:
    """(Name, family) -> the values that a sentence gives it; (name, "presence") -> "some" or "none" for all it names.

    Colours and the like of several things at once ("red flowers") are left out: others of them may be different.

    Example:
        >>> facts("A black and white dog, no cat.")["dog", "colour"] == {"black", "white"}
        True
    """
    found: dict[tuple[str, str], frozenset[str]] = {}
    absent = set(_absent(sentence))
    for phrase in noun_phrases(sentence):
        head = canonical(phrase.head)
        found[head, "presence"] = frozenset({"none" if head in absent else "some"})
    for one in stated(sentence):
        if one.family != "presence" and (one.family == "number" or not _several(one.phrase)):
            key = (one.name, one.family)
            found[key] = found.get(key, frozenset()) | {one.value}
    return MappingProxyType(found)


def conflict(one: str, other: str) -> tuple[str, str] | None:
    """(Name, family) of the first thing of which two sentences say what cannot both be true; None where there is none.

    The thing must be the same by its whole name: "a tour bus" and "a bus" may be two; a missing attribute is no
    conflict, nor is one value in common ("black and white", "black"). Whether the two speak of the same place in the
    photo, or of two things of one name, is the caller's to say.

    Example:
        >>> conflict("A red bus.", "The bus is blue."), conflict("A red bus.", "A bus on a street.")
        (('bus', 'colour'), None)
    """
    left, right = facts(one), facts(other)
    return next((key for key in left if key in right and not left[key] & right[key]), None)


def _several(phrase: NounPhrase | None) -> bool:
    return phrase is not None and phrase.text.split()[-1].lower() not in (
        phrase.head,
        f"{phrase.head}'s",
    )
