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
    rf"\b({'|'.join(FAMILIES['weather'])}),?\s+(?:(?:and\s+)?(?:\w+,?\s+)?)(?:day|sky|weather|skies|conditions)\b",
    re.I,
)
_SKY = re.compile(
    rf"\b(?:sky|skies|weather)\s+(?:(?:above|overhead|outside|in the background)\s+)?(?:is|are|seems|looks)\s+"
    rf"(?:\w+\s+(?:and\s+)?)?({'|'.join(FAMILIES['weather'])})\b",
    re.I,
)
_BLUE_SKY = re.compile(
    r"\bblue\s+(?:sky|skies)\b|\b(?:sky|skies)\s+(?:is|are)\s+(?:\w+\s+(?:and\s+)?)?blue\b", re.I
)
_CLOUDS = re.compile(r"\bclouds?\b|\bmostly\b", re.I)
_PARTLY = re.compile(r"\bpart(?:ly|ially)\b|\bmostly\b", re.I)
_CLOCK = re.compile(r"\b(?:clocks?|watch|time|alarm)\b", re.I)
_READING = re.compile(r"(?<![\d:.])(\d{1,2}):(\d{2})(?![\d:])")
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
    found += _blue_sky(sentence)
    if _CLOUDS.search(sentence) and any(one.value == "sunny" for one in found):
        found.append(Stated("sky", "sky", "weather", "cloudy"))  # with clouds in it, it is both
    if any(one.value == "cloudy" for one in found) and _PARTLY.search(sentence):
        found.append(Stated("sky", "sky", "weather", "sunny"))
    found += _readings(sentence)
    found += [
        Stated("time", "time", "time", FAMILIES["time"][match.group(1).lower()])
        for match in _TIME.finditer(sentence)
    ]
    return found + [Stated(name, name, "presence", "none") for name in _absent(sentence)]


def _blue_sky(sentence: str) -> list[Stated]:
    """A blue sky is a clear one."""
    if not _BLUE_SKY.search(sentence):
        return []
    return [Stated("sky", "sky", "weather", "sunny", word="blue")]


def _readings(sentence: str) -> list[Stated]:
    """What clocks show: "3:45" and "03:45" are one time."""
    if not _CLOCK.search(sentence):
        return []
    return [
        Stated("clock", "clock", "clock", f"{int(match.group(1))}:{match.group(2)}", word=match.group())
        for match in _READING.finditer(sentence)
    ]  # fmt: skip


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
