"""The words that caption metrics count: a tokenizer without Java, n-grams, and stems.

The tokenizer follows the Penn Treebank conventions that reach COCO-style corpora, and drops the punctuation that the
COCO caption evaluation drops. Against the official one (`benchmarks.metrics.official`) it differs in none of the 1,265
captions of our development sets and in 28 of 72,349 of training corpora (smileys, the pound sign, "A&M").
Stems: step 1 of Porter, "An algorithm for suffix stripping" (1980), which is all that plurals and verb forms need.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from patchioner.base.errors import OptionError

PUNCTUATION: Final = frozenset(
    ("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"')
)
"""Tokens that are dropped: the list of the COCO caption evaluation, and the plain double quote."""

# The official list names the brackets in upper case ("-LRB-") although its text is lower-cased by
# then, so brackets survive there. They survive here too: figures compare only if oddities do.
_BRACKETS: Final = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip

_SPLIT_WORDS: Final = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"),
    "wanna": ("wan", "na"), "gimme": ("gim", "me"), "lemme": ("lem", "me"),
}  # fmt: skip

_STRAIGHT_QUOTES: Final = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")

# The full stop belongs to these words, at the end of a caption too.
_ABBREVIATIONS: Final = "mr|mrs|ms|dr|st|jr|sr|prof|vs|ave|blvd|rd|mt|ft|etc|corp|dept|inc|ltd"

_TOKEN: Final = re.compile(
    rf"""
      (?:[a-z]\.){{2,}}                        # u.s.  p.m.
    | (?:{_ABBREVIATIONS})\.                    # mr. smith
    | [a-z]\.(?=\s+[a-z])                      # an initial: j. smith
    | o'clock\b | ma'am\b | 'n'
    | [+-]?\d+(?:[.,:]\d+)+                    # 1,000  10:30  2.5
    | [^\W_]+?(?=n't\b) | n't\b                # do n't
    | '(?:s|m|d|re|ve|ll)\b                    # man 's
    | '\d\ds?\b                                # '80s
    | [^\W_]+(?:[-_/.@][^\W_]+)*               # t-shirt  black/white
    | \.{{2,}} | -{{2,}} | [?!]{{2,}} | \S
    """,
    re.VERBOSE,
)


def tokenize(caption: str) -> list[str]:
    """Words of a caption, lower-cased and without punctuation: "don't" gives do, n't; "t-shirt" stays whole."""
    text = caption.lower().replace("&amp;", "&").translate(_STRAIGHT_QUOTES)
    words: list[str] = []
    for token in _TOKEN.findall(text):
        if token in PUNCTUATION or token.strip(".") == "" or token.strip("-") == "":
            continue
        words.extend(_SPLIT_WORDS.get(token, (_BRACKETS.get(token, token),)))
    return words


NGram = tuple[str, ...]


def count_ngrams(words: Sequence[str], max_order: int) -> list[Counter[NGram]]:
    """One counter per order: entry n - 1 counts the n-grams of `words`."""
    return [
        Counter(zip(*(words[start:] for start in range(order)), strict=False))
        for order in range(1, max_order + 1)
    ]


def check_pairs(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise OptionError for lists that cannot be scored together: lengths, an empty list, a bare string."""
    if len(predictions) != len(references):
        raise OptionError(
            f"{len(predictions)} predictions for {len(references)} reference lists: give one list"
            " of references per prediction"
        )
    if not predictions:
        raise OptionError("nothing to score: give at least one prediction with its references")
    for index, group in enumerate(references):
        if isinstance(group, str):
            raise OptionError(
                f"references[{index}] is the string {group[:40]!r}: put it in a list, [[...], ...]"
            )
        if not group:
            raise OptionError(f"references[{index}] is empty: every sample needs a reference")


_VOWEL: Final = r"(?:[aeiou]|(?<=[^aeiou])y)"
_HAS_VOWEL: Final = re.compile(_VOWEL)
# Porter's measure m: how many times vowels are followed by consonants.
_MEASURE: Final = re.compile(rf"{_VOWEL}+(?!{_VOWEL})[a-z]")
_SHORT: Final = re.compile(r"^(?:.*[^aeiou])?[aeiouy][^aeiouwxy]$")


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Stem of a lower-case word; one with other characters than a to z, or shorter than three, is its own."""
    if len(word) < 3 or not (word.isascii() and word.isalpha()):
        return word
    return _final_y(_verb_form(_plural(word)))


def _plural(word: str) -> str:
    if word.endswith("sses") or word.endswith("ies"):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def _verb_form(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _MEASURE.search(word[:-3]) else word
    for ending in ("ed", "ing"):
        rest = word.removesuffix(ending)
        if rest != word and _HAS_VOWEL.search(rest):
            return _restored(rest)
    return word


def _restored(rest: str) -> str:
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and rest[-1] not in "aeioulsz":
        return rest[:-1]
    if len(_MEASURE.findall(rest)) == 1 and _SHORT.match(rest) and len(rest) > 2:
        return rest + "e"
    return rest


def _final_y(word: str) -> str:
    return f"{word[:-1]}i" if word.endswith("y") and _HAS_VOWEL.search(word[:-1]) else word
