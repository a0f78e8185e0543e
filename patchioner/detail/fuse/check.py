"""The final check: every sentence of the paragraph says what its claims say, and nothing else.

Knows: content words of sentences and claims, negations, and the words that templates may add. Does NOT know: photos; a
sentence that puts the words of its claims together in another sense passes, and so does a false claim.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from patchioner.detail.fuse.forms import root, words_of
from patchioner.detail.fuse.sentences import TEMPLATE_WORDS
from patchioner.detail.text import content_words, word_set
from patchioner.detail.values import Claim, FusedSentence

NEGATIONS: Final = word_set("no not none never without nothing nobody neither nor cannot n't")


def unsourced_words(
    text: str, claims: Sequence[str], *, allowed: Collection[str] = TEMPLATE_WORDS
) -> list[str]:
    """Words of a sentence that none of its claims has: content words, and negations.

    Words count as the same when they are forms of one another ("sits", "sitting") or mean the same ("sofa", "couch").

    Args:
        text: the sentence.
        claims: the texts that it is said to come from.
        allowed: further words that it may have.

    Returns:
        Those words, sorted; none where all has a source.

    Example:
        >>> unsourced_words("On the left, a brown dog sits.", ["A dog sitting"])
        ['brown']
    """
    said = " ".join(claims)
    known = {root(word) for word in [*words_of(said), *content_words(said), *allowed]}
    known |= {root(word) for one in claims for word in content_words(one)}
    new = {
        word
        for word in content_words(text)
        if not {root(part) for part in (word, *_parts(word))} & known
    }
    return sorted(new | (_negations(text) - _negations(said)))


def _parts(word: str) -> list[str]:
    return word.split("-") if "-" in word else []


def _negations(text: str) -> set[str]:
    return {
        "not" if word.endswith("n't") else word
        for word in words_of(text)
        if word in NEGATIONS or word.endswith("n't")
    }


def without_source(
    sentences: Sequence[FusedSentence],
    claims: Mapping[str, Claim],
    *,
    allowed: Collection[str] = TEMPLATE_WORDS,
) -> dict[int, str]:
    """Place of each sentence that has no source -> why, in words.

    Args:
        sentences: of the paragraph.
        claims: the kept ones, by id.
        allowed: words that templates may add.

    Example:
        >>> without_source([FusedSentence("A cat.", ("c9",), ())], {})
        {0: 'it names no kept statement'}
    """
    bad: dict[int, str] = {}
    for place, sentence in enumerate(sentences):
        if not sentence.claim_ids or any(name not in claims for name in sentence.claim_ids):
            bad[place] = "it names no kept statement"
            continue
        texts = [claims[name].text for name in sentence.claim_ids]
        words = unsourced_words(sentence.text, texts, allowed=allowed)
        if words:
            bad[place] = f"its statements do not say {', '.join(map(repr, words))}"
    return bad
