"""What a sentence takes for known although the paragraph has not said it: "also", "The dog" of a dog not met before.

Knows: which nouns can be counted and which there is one of in a photo, and the sentences before. Does NOT know: photos,
regions, where a sentence comes from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from patchioner.detail.filter.vocabulary import NOUNS
from patchioner.detail.fuse.pronouns import FEMALE, MALE, PERSON
from patchioner.detail.fuse.sentences import articles
from patchioner.detail.text import NounPhrase, canonical, noun_phrases, word_set

# One of a photo, or not to be counted: "the" stays.
_UNIQUE: Final = word_set("""
    sky cloud sun moon rain rainbow fog snow ice fire smoke ground floor ceiling background foreground image picture
    grass sand ocean sea beach water street road highway sidewalk parking-lot field court room kitchen bathroom bedroom
    hallway living-room forest desert garden park hill river lake mountain airport runway market stadium playground
    classroom office library restaurant shop roof family crowd bread rice pasta soup meat corn coffee wine beer juice
    glass hair top bottom left right side front middle center corner rest scene view photo
    """)
_COUNTABLE: Final = (
    frozenset(noun.rpartition(" ")[2] for noun in NOUNS)
    | word_set(
        "person lady guy kid player rider jet plane couch sofa bike pole sign tree stand bowl animal group pair"
    )
) - _UNIQUE
_SELECTED: Final = word_set(
    "first second third fourth last other same only main next remaining former latter whole entire left right upper"
    " lower top bottom middle two-story"
)
_ALSO: Final = re.compile(
    r"\s*,?\s*(?<!but )\b(?:also|additionally|furthermore|moreover)\b,?(?=\s)", re.IGNORECASE
)
_AT_THE_END: Final = re.compile(r",?\s+(?:as well|also|too)(?=\s*[.!]?\s*$)", re.IGNORECASE)


def without_ties(sentence: str) -> str:
    """The sentence without words inside it that tie it to the one before: "also", "additionally", "as well".

    Example:
        >>> without_ties("There is also a cup on the table."), without_ties("A dog is there as well.")
        ('There is a cup on the table.', 'A dog is there.')
    """
    plain = _AT_THE_END.sub("", sentence) if " " in sentence.strip() else sentence
    plain = _ALSO.sub("", plain).lstrip(" ,")
    return plain[:1].upper() + plain[1:] if plain != sentence else sentence


def introduced(sentence: str, before: Sequence[str]) -> str:
    """The sentence with "A" for the "The" that opens it, where nothing before names the thing.

    Only where it is one thing of those that can be counted; several lose their article ("The dogs" -> "Dogs"). Never
    where there is but one in a photo ("The sky"), or words pick it out ("The largest dog", "The other man", "The top of
    the table", "The dog's collar"). Of people any that may be the same count as named: "a skier ... The man".

    Args:
        sentence: of the paragraph, without its place.
        before: the sentences of the paragraph before it.

    Returns:
        It or another that is not longer in words.

    Example:
        >>> introduced("The dog has a red collar.", []), introduced("The dogs sleep.", ["A cat."])
        ('A dog has a red collar.', 'Dogs sleep.')
        >>> introduced("The dog has a red collar.", ["A dog sits."])
        'The dog has a red collar.'
    """
    if not sentence.startswith("The "):
        return sentence
    phrases = noun_phrases(sentence)
    if not phrases or phrases[0].start != 0 or not _free(phrases[0], sentence):
        return sentence
    first = phrases[0]
    if any(_may_be(first, other) for text in before for other in noun_phrases(text)):
        return sentence
    rest = sentence[4:]
    if _is_plural(first):
        return rest[:1].upper() + rest[1:]
    return articles(f"A {rest}")


def _free(phrase: NounPhrase, sentence: str) -> bool:
    """Whether a name is of a thing that can be counted, and nothing picks it out."""
    words = phrase.text.lower().split()[1:]
    whole = "-".join(phrase.name.split())
    if not words or phrase.head in _UNIQUE or whole in _UNIQUE:
        return False
    if phrase.head not in _COUNTABLE and phrase.head != "people":
        return False
    picked = any(word in _SELECTED or word.endswith("est") for word in words[:-1])
    return not picked and not re.match(
        r"['\u2019]|\s+(?:of|itself|themselves)\b|\s*,", sentence[phrase.end :]
    ) and not phrase.text.endswith(("'s", "\u2019s", "'"))  # fmt: skip


def _is_plural(phrase: NounPhrase) -> bool:
    last = phrase.text.lower().split()[-1]
    return last != phrase.head or last == "people" or "two" in phrase.attributes


def _may_be(one: NounPhrase, other: NounPhrase) -> bool:
    """Whether two names may be of the same thing."""
    heads = [canonical(phrase.head) for phrase in (one, other)]
    if heads[0] == heads[1]:
        return True
    people = MALE | FEMALE | PERSON | {"people", "crowd", "group"}
    if not set(heads) <= people:
        return False
    return not (
        (heads[0] in MALE and heads[1] in FEMALE) or (heads[0] in FEMALE and heads[1] in MALE)
    )
