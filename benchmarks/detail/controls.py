"""Texts without which DID-Bench figures mean nothing: what length alone is worth, and what copying is.

Knows: sentences of photos' statements, and numbers of words. Does NOT know: scores, filters, fusers.

All fill up to a number of words with whole sentences: a sentence that does not fit is passed over for the next that
does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from benchmarks.detail.did import DidPhoto
from patchioner.base.errors import OptionError
from patchioner.detail.text import split_sentences
from patchioner.detail.values import Verdict

SHIFTS: Final = tuple(range(1, 9))
"""By how many places the photo is off whose text is the wrong one."""

_STOP_TEXT: Final = """
    a an the and or of in on at to with is are be as that this it its there which by for from has have can also some
    what their his her they he she into while being been was were not no but than then them these those such other
    another more very may might image picture scene photo photograph
    """
_STOP = frozenset(_STOP_TEXT.split())


def filled(sentences: Iterable[str], max_words: int, *, new_below: float | None = None) -> str:
    """Sentences in order, as far as they fit.

    Args:
        sentences: in order of preference and of the text.
        max_words: of the text, split at white space.
        new_below: pass over a sentence whose words (Jaccard, without stop words) are so alike to one taken; None:
        never.

    Raises:
        OptionError: `max_words` below 1.

    Example:
        >>> filled(["A dog.", "A very long sentence.", "A cat."], 4)
        'A dog. A cat.'
    """
    if max_words < 1:
        raise OptionError(f"max_words is {max_words}; give a number of at least 1")
    taken: list[str] = []
    seen: list[frozenset[str]] = []
    room = max_words
    for sentence in sentences:
        size = len(sentence.split())
        words = _words(sentence)
        if size > room or (
            new_below is not None and any(_jaccard(words, one) >= new_below for one in seen)
        ):
            continue
        taken.append(sentence)
        seen.append(words)
        room -= size
    return " ".join(taken)


def global_alone(photo: DidPhoto) -> str:
    """What was said of the whole photo, as it is."""
    return photo.global_text


def global_again(photo: DidPhoto, max_words: int) -> str:
    """The global text, told over and over until the number of words is reached."""
    return filled(split_sentences(photo.global_text) * 12, max_words)


def wrong_text(photo: DidPhoto, other: DidPhoto, max_words: int) -> str:
    """The global text, filled up with what was said of another photo's regions."""
    own = split_sentences(photo.global_text)
    return filled([*own, *_region_sentences(other)], max_words)


def extractive(photo: DidPhoto, max_words: int, *, new_below: float = 0.5) -> str:
    """The global text, filled up with sentences of its regions that are not alike to one taken: the strong baseline.

    No filter, no language model: the first samples (semantic region, then quadrants), then the second, then the third.
    """
    own = split_sentences(photo.global_text)
    return filled([*own, *_region_sentences(photo)], max_words, new_below=new_below)


def extractive_of(verdicts: Sequence[Verdict], max_words: int, *, new_below: float = 0.5) -> str:
    """As `extractive`, of the kept claims alone: what a filter is worth without a fuser.

    Args:
        verdicts: of one photo.
        max_words: of the text.
        new_below: see `filled`.
    """
    order = sorted(
        (one.claim for one in verdicts if one.kept),
        key=lambda claim: (
            claim.region_id != "global",
            claim.sample,
            not claim.region_id.startswith("semantic"),
            claim.region_id,
            claim.place,
        ),
    )
    return filled((claim.text for claim in order), max_words, new_below=new_below)


def wrong_texts(photos: Sequence[DidPhoto], shift: int, lengths: Sequence[int]) -> list[str]:
    """`wrong_text` of every photo, with the photo `shift` places on; as long as `lengths`.

    Raises:
        OptionError: a shift that pairs photos with themselves, or another number of lengths than of photos.
    """
    if len(lengths) != len(photos) or shift % len(photos) == 0:
        raise OptionError(
            f"shift {shift} and {len(lengths)} lengths for {len(photos)} photos: give one length each, and a shift that"
            " is no multiple of their number"
        )
    return [
        wrong_text(photo, photos[(place + shift) % len(photos)], lengths[place])
        for place, photo in enumerate(photos)
    ]


def _region_sentences(photo: DidPhoto) -> Iterator[str]:
    """Of every sample in turn: the semantic regions, then the others."""
    parts = sorted(photo.regions[1:], key=lambda region: region.kind != "semantic")
    most = max((len(photo.texts_of(region.id)) for region in parts), default=0)
    for sample in range(most):
        for region in parts:
            texts = photo.texts_of(region.id)
            if sample < len(texts):
                yield from split_sentences(texts[sample])


def _words(sentence: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9'-]+", sentence.lower())) - _STOP


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    either = len(first | second)
    return len(first & second) / either if either else 1.0
