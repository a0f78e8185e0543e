"""Inflection: the singular of a noun, the base form of a verb.

Knows: English endings and the exceptions of `lexicon`. Does NOT know: context.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from decoders.scene_graph.lexicon import (
    ED_NOUNS,
    ING_NOUNS,
    IRREGULAR_PLURALS,
    IRREGULAR_VERBS,
    NO_SINGULAR,
    NOUN_VERBS,
    VERBS_ONLY,
)

VerbForm = Literal["base", "s", "ing", "ed"]

_VOWELS = "aeiou"


@cache
def singular(noun: str) -> str:
    """The singular of a lower-case noun; a noun that has no plural ending comes back as it is.

    Example:
        >>> [singular(word) for word in ("dogs", "men", "buses", "glass", "puppies")]
        ['dog', 'man', 'bus', 'glass', 'puppy']
    """
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if "-" in noun:
        stem, _, last = noun.rpartition("-")
        return f"{stem}-{singular(last)}"
    if noun in NO_SINGULAR or len(noun) < 3 or not noun.endswith("s"):
        return noun
    if noun.endswith(("ss", "us", "is")) and noun not in {"skis", "taxis", "menus", "gnus"}:
        return noun
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("ches", "shes", "sses", "xes", "zzes", "oes", "buses")):
        return noun[:-2]
    return noun[:-1]


@cache
def verb_forms() -> dict[str, tuple[str, VerbForm]]:
    """Every form of every listed verb: form -> (base form, which form it is)."""
    forms: dict[str, tuple[str, VerbForm]] = {}
    for verb in sorted(VERBS_ONLY | NOUN_VERBS):
        forms[verb] = (verb, "base")
    for verb in sorted(VERBS_ONLY | NOUN_VERBS):
        for form, kind in _inflected(verb):
            forms.setdefault(form, (verb, kind))
    for form, verb in IRREGULAR_VERBS.items():
        forms.setdefault(form, (verb, "ed"))
    return forms


def verb_form(word: str) -> tuple[str, VerbForm] | None:
    """The base form of a lower-case verb form and which form it is; None for other words.

    A word in no list is a verb form only by its ending -ing or -ed.

    Example:
        >>> verb_form("riding"), verb_form("stood"), verb_form("ceiling")
        (('ride', 'ing'), ('stand', 'ed'), None)
    """
    if word in ING_NOUNS or word in ED_NOUNS:
        return None
    known = verb_forms().get(word)
    if known is not None:
        return known
    if (
        len(word) > 5
        and word.endswith("ing")
        and any(letter in _VOWELS + "y" for letter in word[:-3])
    ):
        return _stem(word[:-3]), "ing"
    if len(word) > 4 and word.endswith("ed") and not word.endswith("eed"):
        return _stem(word[:-2]), "ed"
    return None


def _inflected(verb: str) -> list[tuple[str, VerbForm]]:
    if verb.endswith("ie"):
        return [(verb + "s", "s"), (verb[:-2] + "ying", "ing"), (verb + "d", "ed")]
    if verb.endswith("e") and not verb.endswith("ee"):
        return [(verb + "s", "s"), (verb[:-1] + "ing", "ing"), (verb + "d", "ed")]
    forms: list[tuple[str, VerbForm]] = [(verb + "ing", "ing")]
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return [*forms, (verb[:-1] + "ies", "s"), (verb[:-1] + "ied", "ed")]
    sibilant = verb.endswith(("s", "x", "z", "ch", "sh")) or verb == "go"
    forms += [(verb + ("es" if sibilant else "s"), "s"), (verb + "ed", "ed")]
    short = len(verb) > 2 and verb[-1] not in _VOWELS + "wxy" and verb[-2] in _VOWELS
    if short and verb[-3] not in _VOWELS:
        forms += [(verb + verb[-1] + "ing", "ing"), (verb + verb[-1] + "ed", "ed")]
    return forms


def _stem(stem: str) -> str:
    """A likely base form of an unlisted verb from what stands before -ing or -ed."""
    if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "lsz":
        return stem[:-1]
    if stem.endswith(("at", "iz", "v", "uc", "dg", "ang", "ur")):
        return stem + "e"
    if len(stem) > 3 and stem.endswith("l") and stem[-2] in "bcdfgkptz":
        return stem + "e"
    return stem
