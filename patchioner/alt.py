"""A caption as the alt text of a picture: one plain sentence for people who do not see it."""

from __future__ import annotations

import re

from decoders.guidance import NEUTRAL
from patchioner.results import Caption

LONGEST = 125
"""Characters; screen readers cut or hurry through what is longer."""
NOTICE = "Machine-made: "
"""Begins a text that the model is not sure of."""
_SURE = 0.5
# A photo does not say what somebody is.
_NEUTRAL = {
    "person": "gal male female", "people": "gentlemen", "child": "son daughter",
    "children": "sons daughters", "parent": "mother father mom dad", "partner": "husband wife",
    "sibling": "brother sister", "actor": "actress", "waiter": "waitress", "themself": "himself herself",
}  # fmt: skip
_WORDS = {
    old: new for table in (NEUTRAL, _NEUTRAL) for new, olds in table.items() for old in olds.split()
}
_GENDERED = re.compile(rf"\b(?:{'|'.join([*_WORDS, 'her'])})\b(?!-)", re.IGNORECASE)
_TWO = re.compile(r"\ban? ((?:\w+ )?)(person|child) and an? \1\2\b", re.IGNORECASE)
_MANY = re.compile(r"\b(people|children) and \1\b", re.IGNORECASE)
# What a sentence that was cut cannot end with.
_LOOSE = re.compile(
    r"(?:[\s,;:-]+(?:an?|the|with|of|on|in|and|or|at|to|by|for|from|next|near|that|is|are|their|its|while))+[\s,]*$"
)


def alt_text(caption: Caption | str) -> str | None:
    """One sentence of at most 125 characters, in sentence case, that names nobody's gender.

    Args:
        caption: of the whole photo; one of a low `confidence` begins with a notice that a machine made it.

    Returns:
        The sentence; None where the caption has no text.

    Example:
        >>> alt_text("a man and a woman riding on  his horse")
        'Two people riding on their horse.'
    """
    text, confidence = (caption, None) if isinstance(caption, str) else (caption.text, caption.confidence)  # fmt: skip
    sentence = re.split(r"[.!?](?:\s|$)", " ".join((text or "").split()), maxsplit=1)[0].strip()
    if not sentence:
        return None
    sentence = _GENDERED.sub(lambda found: _neutral(found[0], sentence[found.end() :]), sentence)
    many = {"person": "people", "child": "children"}
    sentence = _TWO.sub(lambda found: f"two {found[1]}{many[found[2].lower()]}", sentence)
    sentence = _MANY.sub(r"\1", sentence)
    notice = NOTICE if confidence is not None and confidence < _SURE else ""
    sentence = notice + _cut(sentence, LONGEST - len(notice) - 1) + "."
    return sentence[0].upper() + sentence[1:]


def _neutral(word: str, after: str) -> str:
    if word.lower() == "her":
        return "their" if re.match(r"\s+\w", after) else "them"
    return _WORDS[word.lower()]


def _cut(sentence: str, longest: int) -> str:
    """The words that fit, without those that lead nowhere."""
    if len(sentence) <= longest:
        return sentence
    whole = sentence[: longest + 1].rpartition(" ")[0] or sentence[:longest]
    return _LOOSE.sub("", whole)
