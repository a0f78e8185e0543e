"""Where sentences end, in the text that describers write: prose, numbered lists, bullets, quotes, abbreviations.

Knows: marks and capitals. Does NOT know: grammar, or which sentences are worth keeping (`patchioner.detail.filter`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from decoders.scene_graph.lexicon import word_set

_ABBREVIATIONS = word_set(
    """
    mr mrs ms dr st jr sr prof rev gen capt lt col sgt mt ave blvd rd no vs approx ca fig inc ltd co corp dept est
    e.g i.e u.s u.k a.m p.m ft in. lb lbs oz
    """
)
# These may end a sentence as well: then a capital follows.
_MAY_END = frozenset({"etc", "a.m", "p.m", "u.s", "u.k", "inc", "co", "ltd", "no", "st", "in."})
_NUMBERED = re.compile(r"(?:^|(?<=\s))\(?(\d{1,2})[.)]\s+(?=\S)")
_BULLET = re.compile(r"(?:^|(?<=[.:;!?]\s))[-*\u2022\u2013]\s+(?=\S)")
_STOP = re.compile(r"(?:[.!?]+|\u2026)[\"'\u201d\u2019)\]]*(?=\s+\S)")
_TITLE = re.compile(r"^([^.:;!?\"]{1,80}):\s+(?=[A-Z])")
_HEADING = re.compile(r"^\s*#{1,6}\s+")
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order.

    Items of a list ("1. A bench. 2. A tree", bullets, one below the other or glued into a line) become sentences of
    their own, without their marks and with a full stop; so does a title ("A bench: It is made of wood"). What leads in
    to a list stays a sentence that ends in a colon. Quoted stops, abbreviations, initials and decimals end nothing.

    Args:
        text: any; may be empty.

    Returns:
        Stripped, non-empty sentences with single spaces; prose keeps the stop that it had, or none.

    Example:
        >>> split_sentences("You see: 1. A cat. 2. Two dogs (4.5 kg each)\\nA sign says \\"Stop. Go.\\" It is red")
        ['You see:', 'A cat.', 'Two dogs (4.5 kg each).', 'A sign says "Stop. Go."', 'It is red']
    """
    plain = _BOLD.sub(r"\2", text.replace("\r", "\n")).strip()
    found: list[str] = []
    for piece, listed in _pieces(plain):
        found += _item(piece) if listed else _prose(piece)
    return found


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """(part of the text, whether it is an item of a list)."""
    marks = _list_marks(text)
    before = text[: marks[0][0]] if marks else text
    yield from _lines(before, listed=False)
    for place, (_, start) in enumerate(marks):
        end = marks[place + 1][0] if place + 1 < len(marks) else len(text)
        yield from _lines(text[start:end], listed=True)


def _list_marks(text: str) -> list[tuple[int, int]]:
    """(start, end) of the marks 1., 2., 3., ...: a lone number, or one out of turn, is part of a sentence."""
    marks: list[tuple[int, int]] = []
    for match in _NUMBERED.finditer(text):
        number = int(match.group(1))
        if number == len(marks) + 1 or (number == 1 and len(marks) == 1):
            marks = [*marks, match.span()] if number > 1 else [match.span()]
    return marks if len(marks) > 1 or (marks and marks[0][0] == 0) else []


def _lines(text: str, *, listed: bool) -> Iterator[tuple[str, bool]]:
    """Lines and bullets; only the first line of a numbered item belongs to it."""
    for line in filter(None, (_HEADING.sub("", line).strip() for line in text.split("\n"))):
        parts = _BULLET.split(line)
        if parts[0].strip():
            yield parts[0].strip(), listed
        for part in filter(None, (part.strip() for part in parts[1:])):
            yield part, True
        listed = False


def _item(text: str) -> list[str]:
    title = _TITLE.match(text)
    if title:
        return [_stopped(title.group(1)), *_item(text[title.end() :])]
    sentences = _prose(text)
    return [*sentences[:-1], _stopped(sentences[-1])] if sentences else []


def _stopped(sentence: str) -> str:
    bare = sentence.rstrip(" ,;")
    return bare if bare.endswith((".", "!", "?", ":", '."', ".\u201d", "\u2026")) else f"{bare}."


def _prose(text: str) -> list[str]:
    found: list[str] = []
    start = 0
    for match in _STOP.finditer(text):
        if _ends(text, start, match):
            found.append(text[start : match.end()])
            start = match.end()
    found.append(text[start:])
    return [" ".join(sentence.split()) for sentence in found if any(map(str.isalnum, sentence))]


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    follows = text[match.end() :].lstrip()[0]
    stop = match.group()
    if _open_quote(text, start, match.end()):
        return False
    if follows.islower() and (len(stop) > 1 or stop == "\u2026"):
        return False  # "well ... a dog"; '"Go!" is written on it'
    if not stop.startswith("."):
        return True
    word = text[start : match.start()].rpartition(" ")[2].lower().lstrip("(\"'\u201c")
    if len(word) == 1 and word.isalpha() and word not in "ia":
        return False  # an initial
    if word in _ABBREVIATIONS or word in _MAY_END:
        return word in _MAY_END and follows.isupper()
    return True


def _open_quote(text: str, start: int, end: int) -> bool:
    """Whether a quotation that has begun since `start` goes on behind `end`."""
    straight = text.count('"', start, end) % 2 == 1 and '"' in text[end:]
    curly = text.count("\u201c", start, end) > text.count("\u201d", start, end)
    return straight or (curly and "\u201d" in text[end:])
