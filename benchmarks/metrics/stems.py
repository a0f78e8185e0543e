"""Strips the inflection of an English word: plural, -ed, -ing, final y.

Knows: step 1 of Porter's algorithm, which is all that plurals and verb forms need.
Does NOT know: derivations (-ation, -ness), irregular forms, or any dictionary.

Source: Porter, "An algorithm for suffix stripping" (1980), steps 1a, 1b and 1c.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_VOWEL: Final = r"(?:[aeiou]|(?<=[^aeiou])y)"
_HAS_VOWEL: Final = re.compile(_VOWEL)
# Porter's measure m: how many times vowels are followed by consonants.
_MEASURE: Final = re.compile(rf"{_VOWEL}+(?!{_VOWEL})[a-z]")
_SHORT: Final = re.compile(r"^(?:.*[^aeiou])?[aeiouy][^aeiouwxy]$")


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Return the stem of a lower-case word; equal stems mean forms of one word.

    A word that holds anything but the letters a to z, or is shorter than three, is its own stem.

    Example:
        >>> [stem(word) for word in ("dogs", "riding", "stopped", "berries", "grass")]
        ['dog', 'ride', 'stop', 'berri', 'grass']
    """
    if len(word) < 3 or not (word.isascii() and word.isalpha()):
        return word
    return _final_y(_verb_form(_plural(word)))


def _plural(word: str) -> str:
    """Step 1a."""
    if word.endswith("sses") or word.endswith("ies"):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def _verb_form(word: str) -> str:
    """Step 1b."""
    if word.endswith("eed"):
        return word[:-1] if _MEASURE.search(word[:-3]) else word
    for ending in ("ed", "ing"):
        rest = word.removesuffix(ending)
        if rest != word and _HAS_VOWEL.search(rest):
            return _restored(rest)
    return word


def _restored(rest: str) -> str:
    """The stem of a verb form as the verb itself spells it."""
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and rest[-1] not in "aeioulsz":
        return rest[:-1]
    if len(_MEASURE.findall(rest)) == 1 and _SHORT.match(rest) and len(rest) > 2:
        return rest + "e"
    return rest


def _final_y(word: str) -> str:
    """Step 1c."""
    return f"{word[:-1]}i" if word.endswith("y") and _HAS_VOWEL.search(word[:-1]) else word
