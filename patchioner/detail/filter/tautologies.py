"""Sentences that say of a thing that it is on, in, with or of itself, or on a part of its own body.

Knows: words, and which of them place one thing by another. Does NOT know: photos, scores, other sentences.

A small captioner that lost the thread writes "a cat laying on top of a cat". The second cat is no news, and no second
cat is meant where none is told apart: "another", a number or an attribute of its own speak for one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from patchioner.detail.text import NounPhrase, canonical, noun_phrases, word_set

_PARTITIVE: Final = r"an? (?:\w+ )?\w+ of|lots of"
_WHICHEVER: Final = rf"(?:{_PARTITIVE}|an?|the|its|his|her|their|some)\s+"
_DOING: Final = (
    r"(?:(?:topped|covered|filled|lined|loaded|decorated|surrounded|made|full|made up)\s+)"
)
_WITHIN: Final = re.compile(
    rf"(?P<verb>\b[a-z]+ing\s+)?{_DOING}?\b(?P<joint>on top of|on|in|inside of|inside|with|of|out of|into|onto|atop)"
    rf"\s+(?P<lead>{_WHICHEVER})?$",
    re.IGNORECASE,
)
_BESIDE: Final = re.compile(
    rf"(?P<verb>\b[a-z]+ing\s+)?\b(?:next to|beside|near|by)\s+(?P<lead>{_WHICHEVER})?$",
    re.IGNORECASE,
)
# "a man standing" can stand; "a man riding" cannot.
_POSTURES: Final = word_set(
    "sitting standing lying laying walking running sleeping resting flying swimming kneeling grazing jumping"
)
_BODY: Final = word_set(
    "head face neck ear eye nose mouth tail snout muzzle chin cheek forehead beak"
)
_PEOPLE: Final = word_set(
    "man woman person boy girl child baby lady player people skier surfer snowboarder skateboarder rider"
)
_ANIMALS: Final = word_set(
    "cat dog kitten puppy horse cow sheep goat elephant giraffe zebra bear lion tiger pig rabbit"
)
_TELLS_APART: Final = re.compile(
    r"^\s+(?:in (?!it\b|the back|the fore|the dist)|on (?!it\b|top|the side)|wearing|holding|who|that|which|with)\b"
    r"|^(?:'s|\u2019s?)(?!\w)",
    re.IGNORECASE,
)
_ENDS: Final = re.compile(r"[,;.!?]|\s(?:while|as|and (?:an?|the|is|are|there))\b", re.IGNORECASE)
_APART: Final = re.compile(r"[,;.!?]|\s(?:while|as|and|or|but|that|(?<!next )to)\s", re.IGNORECASE)
_OTHER: Final = re.compile(
    r"\b(?:another|other|others|second|each other|different|same|one)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Tautology:
    """What a sentence says of a thing and itself.

    Attributes:
        rest: the sentence without that part; "" where nothing whole is left.
        note: why, in words.
    """

    rest: str
    note: str


def tautology(sentence: str) -> Tautology | None:
    """The first part of a sentence that joins a thing to itself or to a part of its own body; None if there is none.

    "On", "in", "with", "of" and their like join a thing to itself where nothing tells the second from the first;
    "next to" and its like only in one statement without attributes, and never of people and animals, of which there may
    well be two. A body part ("on a head") counts behind an animal or a person, without a word between them but a verb.

    Example:
        >>> tautology("a cat laying on top of a cat").rest
        'a cat laying'
        >>> tautology("A bed with a white bed in it.").rest, tautology("A man with another man.")
        ('A bed.', None)
    """
    phrases = noun_phrases(sentence)
    for place, phrase in enumerate(phrases):
        for first in phrases[:place]:
            found = _part(sentence, first, phrase, near=first is phrases[place - 1])
            if found is not None:
                return _without(sentence, first, phrase, found)
    return None


def _part(
    sentence: str, first: NounPhrase, second: NounPhrase, *, near: bool
) -> re.Match[str] | None:
    """The words that join the two, where they make no sense."""
    name = second.text.split()[0].lower()
    start = second.start + (
        len(name) + 1 if name in ("a", "an", "the", "its", "his", "her", "their") else 0
    )
    lead = sentence[first.end : start]
    if (
        near
        and lead.lower() in (" and ", " and a ", " and an ")
        and _listed_twice(sentence, first, second)
    ):
        return re.search(r"(?P<verb>)\sand\s(?:an?\s)?$", lead, re.IGNORECASE)
    if _APART.search(lead) or _OTHER.search(f"{first.text} {lead} {second.text}"):
        return None
    within = _WITHIN.search(lead)
    if within is not None and re.search(
        rf"\b(?:{_PARTITIVE})\s+$", lead[: within.end("joint") + 1]
    ):
        within = (
            None  # "a row of cars next to a row of cars": the second "of" joins a row to its cars
        )
    if near and within is not None and _own_part(sentence, first, second, within.group("joint")):
        return within
    if not _same(first, second) or _told_apart(sentence, first, second):
        return None
    if not near and name in ("its", "his", "her", "their"):
        return None
    if within is not None and _number(first) != _number(second) and lead[: within.start()].strip():
        return None  # "a fruit stand with fruits"
    if within is not None and not re.search(r"\bthe\s+$", lead, re.IGNORECASE):
        return within
    beside = _BESIDE.search(lead)
    living = canonical(first.head) in _PEOPLE | _ANIMALS
    return beside if not living and not second.attributes and name in ("a", "an") else None


def _listed_twice(sentence: str, first: NounPhrase, second: NounPhrase) -> bool:
    """Whether a list names one thing twice, "bags and bags", where no verb wants there to be two."""
    bare = not first.attributes and not second.attributes and _same(first, second)
    verb = re.match(r"\s+(?:are|were|have|\w+ing\b)", sentence[second.end :])
    return bare and verb is None and canonical(first.head) not in _PEOPLE | _ANIMALS


def _own_part(sentence: str, first: NounPhrase, second: NounPhrase, joint: str) -> bool:
    """Whether "on a head" or a bare "with a head" follows on an animal or a person."""
    words = second.text.lower().split()
    if second.name not in _BODY or len(words) != 2 or first.name not in _ANIMALS | _PEOPLE:
        return False
    if joint.lower() in ("on", "on top of", "atop"):
        return words[0] in ("a", "an", "its")
    closed = re.match(r"\s*(?:[,;.!?]|$)", sentence[second.end :])
    return joint.lower() == "with" and words[0] in ("a", "an") and closed is not None


def _same(first: NounPhrase, second: NounPhrase) -> bool:
    """Whether both have one name: "surf board" and "surfboard" too."""
    names = [canonical(one.name.replace(" ", "").replace("-", "")) for one in (first, second)]
    owns = first.text.endswith(("'s", "s'")) or second.text.endswith(("'s", "s'"))
    return names[0] == names[1] and not owns and len(first.head) > 1


def _number(phrase: NounPhrase) -> str:
    return "one" if phrase.text.split()[-1].lower() == phrase.head else "many"


def _told_apart(sentence: str, first: NounPhrase, second: NounPhrase) -> bool:
    """Whether something speaks for a second thing of that name."""
    people = canonical(second.head) in _PEOPLE | _ANIMALS
    new = set(second.attributes) - set(first.attributes)
    if people and _number(second) == "many" and second.head != "people":
        return True
    if bool(first.attributes) and bool(new):
        return True
    return people and (bool(new) or bool(_TELLS_APART.match(sentence[second.end :])))


def _without(
    sentence: str, first: NounPhrase, second: NounPhrase, joint: re.Match[str]
) -> Tautology:
    begin = first.end + joint.start()
    verb = (joint.group("verb") or "").strip()
    if verb.lower() in _POSTURES or re.search(r"\b(?:is|are|was|were)\s*$", sentence[:begin]):
        begin += len(joint.group("verb") or "")
    end = _ENDS.search(sentence, second.end)
    stop = end.start() if end else len(sentence)
    if " and " in joint.group():
        stop = second.end
    after, part = sentence[stop:], sentence[begin:stop].strip()
    rest = f"{sentence[:begin].rstrip(' ,')}{after}"
    note = f"joins {first.text!r} to itself or to its own part: {part!r}"
    return Tautology(rest if any(map(str.isalnum, rest)) else "", note)
