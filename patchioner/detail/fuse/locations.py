"""Where things are in the photo: words that were true of a crop, made true of the whole photo.

Knows: the closed list of words that place a thing in a picture, and boxes. Does NOT know: what the things are.

"On the left" in a text about the right half of a photo is wrong for the photo. Such words are rewritten from the
region's box where that says enough, taken out where it does not, and the sentence is given up where what stays would
be ambiguous ("the man on the left ... the man on the right", both in one corner of the photo). Words that place one
thing by another ("to the left of the cow", "on the right side of the table") hold for any crop and stay.
"""

from __future__ import annotations

import re
from typing import Final

from patchioner.detail.fuse.forms import IN_PICTURE, PICTURE

Box = tuple[float, float, float, float]
Size = tuple[int, int]

_SIDE = r"(?:\s+(?:hand\s+)?(?:side|half|part|corner|portion|area|edge))"
# What may follow a place, so that "on the left wrist", "on the top shelf" and "on the left side of the road" are none.
_CLOSED = (
    "is|are|was|were|has|have|had|and|or|but|with|while|there|a|an|the|one|two|who|which|that|in|on|at|by|near|behind"
    "|appears?|seems?|we|you|where|as|to|from"
)
_AFTER = rf"(?=\s*(?:[,.;:!?)]|$)|\s+(?:{_CLOSED}|\w+ing|(?!sides?\b|hands?\b)\w+s)\b)"
_CROP_WORD: Final = re.compile(
    rf"""
    (?P<lead>,?\s*\b(?:(?:positioned|located|situated|placed|visible|seen)\s+)?)
    (?:\b(?:on|in|at|near)|(?:^|(?<=,\s))\b(?:to|towards?))\s+the\s+(?:far\s+|very\s+)?
    (?:(?P<vertical>top|upper|bottom|lower)(?:[\s-]+(?P<horizontal>left|right))?
       |(?P<across>left|right)|(?P<middle>center|centre|middle)|(?P<depth>background|foreground|distance))
    (?:-hand)?{_SIDE}?(?:\s+of\s+the\s+{PICTURE}\b|{_AFTER})
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CLOSE_UP = re.compile(
    r"\ba\s+(?:close-?\s?up|zoomed-in|detailed|cropped|partial)"
    r"(?:\s+(?:view|shot|photo|photograph|image|picture))?\s+of\s+",
    re.IGNORECASE,
)
_IN_PICTURE = re.compile(rf"\s+{IN_PICTURE}", re.IGNORECASE)
_ABOUT_THE_CROP = re.compile(
    r"\b(?:this|the)\s+(?:overall\s+)?(?:image|picture|photo|photograph|frame|shot|camera\s+angle)\b"
    r"|\bclose-?\s?up\b|\bthe\s+(?:\w+\s+)?(?:focus|perspective|composition|style|width|height)\b"
    r"|\b(?:cropped|out of frame|edge of the frame)\b",
    re.IGNORECASE,
)
_ENDS_IN_BE = re.compile(r"\b(?:is|are|was|were|be|been|being|'s)\s*$", re.IGNORECASE)
_WHOLE_SHARE = 0.8
_MIDDLE = (0.25, 0.75)


def place_of(box: Box, size: Size) -> str | None:
    """Where a box is, in words: "on the left", "at the top", "in the lower right", "in the middle"; None: all over.

    A side is named only where the whole box lies in that half of the photo (a tenth of the photo may stand out).

    Args:
        box: (left, top, right, bottom) in pixels.
        size: (width, height) of the photo in pixels.

    Example:
        >>> place_of((0, 0, 50, 50), (100, 100)), place_of((60, 0, 100, 90), (100, 100))
        ('in the upper left', 'on the right')
    """
    across = _side((box[0] / size[0], box[2] / size[0]), ("left", "right"))
    along = _side((box[1] / size[1], box[3] / size[1]), ("upper", "lower"))
    if across in ("left", "right") and along in ("upper", "lower"):
        return f"in the {along} {across}"
    if across in ("left", "right"):
        return f"on the {across}"
    if along in ("upper", "lower"):
        return "at the top" if along == "upper" else "at the bottom"
    return "in the middle" if across == along == "middle" else None


def names_a_place(sentence: str) -> bool:
    """Whether a sentence says where in the picture something is.

    Example:
        >>> names_a_place("There is a dog in the background."), names_a_place("A dog on a mat.")
        (True, False)
    """
    return _CROP_WORD.search(sentence) is not None


def without_place(sentence: str) -> str:
    """The sentence without a place of the picture that opens it.

    Example:
        >>> without_place("At the top, there is a kite."), without_place("A kite at the top.")
        ('There is a kite.', 'A kite at the top.')
    """
    match = _CROP_WORD.match(sentence)
    rest = sentence[match.end() :].lstrip(" ,") if match else ""
    if match is None or not sentence[match.end() :].lstrip().startswith(",") or not rest:
        return sentence
    return rest[:1].upper() + rest[1:]


def _side(span: tuple[float, float], names: tuple[str, str]) -> str | None:
    slack = 0.1
    if span[1] <= 0.5 + slack and (span[0] + span[1]) / 2 < 0.5 - slack:
        return names[0]
    if span[0] >= 0.5 - slack and (span[0] + span[1]) / 2 > 0.5 + slack:
        return names[1]
    inside = span[0] >= _MIDDLE[0] - slack / 2 and span[1] <= _MIDDLE[1] + slack / 2
    return "middle" if inside else None


def for_whole_photo(sentence: str, box: Box, size: Size) -> str | None:
    """A sentence about a crop, with its places in terms of the whole photo.

    Args:
        sentence: about what is inside `box`.
        box: (left, top, right, bottom) in pixels of the photo.
        size: (width, height) of the photo in pixels.

    Returns:
        The sentence, unchanged where the box is (nearly) the photo; None where it cannot be said of the photo.

    Example:
        >>> for_whole_photo("On the left, a dog sleeps.", (50, 0, 100, 100), (100, 100))
        'On the right, a dog sleeps.'
        >>> for_whole_photo("A dog to the left of a cat.", (50, 0, 100, 100), (100, 100))
        'A dog to the left of a cat.'
    """
    share = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
    if share >= _WHOLE_SHARE:
        return sentence
    plain = _CLOSE_UP.sub("", sentence)
    found = list(_CROP_WORD.finditer(plain))
    new = [_rewritten(match, box, size) for match in found]
    if not _tells_apart(found, new):
        return None
    for match, words in reversed(list(zip(found, new, strict=True))):
        told = _replaced(plain, match, words)
        if told is None:
            return None
        plain = told
    plain = _tidy(_IN_PICTURE.sub("", plain))
    if _ABOUT_THE_CROP.search(plain) or not any(map(str.isalnum, plain)):
        return None
    return plain


def _tells_apart(found: list[re.Match[str]], new: list[str | None]) -> bool:
    """Whether places that differed in the crop still differ, or there was only one."""
    old = {_direction(match) for match in found if not match.group("depth")}
    kept = {
        words
        for match, words in zip(found, new, strict=True)
        if words is not None and not match.group("depth")
    }
    return len(old) < 2 or len(kept) == len(old)


def _direction(match: re.Match[str]) -> str:
    parts = match.group("vertical", "horizontal", "across", "middle")
    return " ".join(part.lower() for part in parts if part)


def _rewritten(match: re.Match[str], box: Box, size: Size) -> str | None:
    """What stands in its place: words without a comma; None to take it out."""
    depth = match.group("depth")
    if depth:
        return _depth(depth.lower(), box, size)
    left, top, right, bottom = box
    across, along = (left + right) / 2, (top + bottom) / 2
    horizontal = (match.group("horizontal") or match.group("across") or "").lower()
    vertical = (match.group("vertical") or "").lower()
    if match.group("middle"):
        left, right = left + (right - left) / 4, right - (right - left) / 4
        top, bottom = top + (bottom - top) / 4, bottom - (bottom - top) / 4
    left, right = {"left": (left, across), "right": (across, right)}.get(horizontal, (left, right))
    if vertical:
        top, bottom = (top, along) if vertical in ("top", "upper") else (along, bottom)
    where = place_of((left, top, right, bottom), size)
    if where is None or vertical or match.group("middle"):
        return where
    # A crop's "left" says nothing of up and down: no more than the side is claimed.
    return place_of((left, 0.0, right, float(size[1])), size)


def _depth(word: str, box: Box, size: Size) -> str | None:
    """Near is low in a photo, and far is high: a crop's own front and back hold only where they are the photo's."""
    top, bottom = box[1] / size[1], box[3] / size[1]
    holds = bottom >= 0.9 if word == "foreground" else top <= 0.25
    return f"in the {word}" if holds else None


def _replaced(text: str, match: re.Match[str], words: str | None) -> str | None:
    """The text with other words in the place of a match; None where it cannot do without."""
    before, after = text[: match.start()], text[match.end() :]
    if words is not None:
        return f"{before}{match.group('lead')}{words}{after}"
    if not before.strip():
        return _without_opening(after.lstrip(" ,"))
    lead = match.group("lead").strip(" ,").lower()
    if _ENDS_IN_BE.search(before):
        # "A tree is visible [here]" still says something; "A tree is [here]" does not.
        return f"{before} {lead}{after}" if lead in ("visible", "seen") else None
    return (before + after).strip()


def _without_opening(rest: str) -> str | None:
    """What followed a place that opened the sentence, as a sentence: "is a fence" -> "There is a fence"."""
    verb = re.match(r"(is|are)\s+", rest)
    if verb:
        return f"There {rest}"
    return None if re.match(r"[a-z]+(?:s|ing|ed)\s+(?:a|an|the)\s", rest) else rest


def _tidy(text: str) -> str:
    plain = re.sub(r"\s+", " ", text)
    plain = re.sub(r"\s+([,.;:!?])", r"\1", plain)
    plain = re.sub(r",\s*(?=[,.;!?])", "", plain)
    plain = plain.strip(" ,;")
    return plain[:1].upper() + plain[1:]
