"""Sentences that lean on the one before: which do, and how they are made to stand alone.

Knows: pronouns, and the nouns that they can stand for. Does NOT know: photos, regions, order of the paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from decoders.scene_graph.morphology import singular
from decoders.scene_graph.tagging import tag
from patchioner.detail.text import NounPhrase, noun_phrases, word_set

Number = Literal["one", "many"]

MALE: Final = word_set("man boy gentleman guy male father son husband he")
FEMALE: Final = word_set("woman girl lady female mother daughter wife bride she")
PERSON: Final = word_set("""
    person individual child kid baby toddler player skateboarder surfer skier snowboarder rider driver chef cook officer
    batter pitcher catcher tennis-player cyclist pedestrian worker vendor athlete rower passenger umpire teenager adult
    human student performer musician singer speaker conductor
    """)
_GROUP = word_set("people crowd group couple pair team family")
_SUBJECT: Final = re.compile(
    r"^(?P<word>he|she|it|they|his|her|its|their)(?P<rest>(?:['\u2019](?:s|re|ve))?\s+.*)$",
    re.IGNORECASE | re.DOTALL,
)
_CONTRACTED: Final = re.compile(r"^['\u2019](s|re|ve)\b")
_POINTING: Final = re.compile(r"^(?:this|that|these|those)\s+(?=(?P<next>[\w-]+))", re.IGNORECASE)
_LEANS: Final = re.compile(
    r"^(?:this|that|these|those|another|others\b|the\s+(?:other|others|former|latter|second|same|rest)"
    r"|(?:both|each|some|none|neither|one)\s+(?:is|are|has|have|of\s+(?:them|these|the\s+two)|\w+ing\b)"
    r"|he|she|it|they|him|her|his|its|their|them|such|similarly|additionally|also|furthermore|moreover|however"
    r"|instead|here|then|therefore|thus)\b",
    re.IGNORECASE,
)
_ADVERB = re.compile(
    r"^(?:additionally|also|furthermore|moreover|in addition|besides|notably|finally|lastly|overall),\s+",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(
    r"\b(?:the (?:latter|former)|the other (?:one|ones)?\b(?= (?:is|has|are)))", re.IGNORECASE
)
_NO_SUBJECT = word_set(
    "background foreground setting lighting overall atmosphere distance expression side"
)


def leans(sentence: str) -> bool:
    """Whether a sentence means nothing without the one before it: it opens with a pronoun or its like.

    Example:
        >>> leans("She wears a hat."), leans("It is raining."), leans("A woman wears a hat.")
        (True, False, False)
    """
    if re.match(
        r"^it\s+(?:is|was)\s+(?:raining|snowing|sunny|night|day|cloudy|daytime)\b",
        sentence,
        re.IGNORECASE,
    ):
        return False
    return bool(_LEANS.match(sentence) or _ANYWHERE.search(sentence))


def without_adverb(sentence: str) -> str:
    """The sentence without a word that only ties it to the one before ("Additionally, ...").

    Example:
        >>> without_adverb("Additionally, there is a cup.")
        'There is a cup.'
    """
    plain = _ADVERB.sub("", sentence, count=1)
    return plain[:1].upper() + plain[1:]


def pointed(sentence: str) -> str:
    """The sentence with "The" for a "This" or "These" that stands before a noun.

    Example:
        >>> pointed("These clocks are round."), pointed("This suggests rain.")
        ('The clocks are round.', 'This suggests rain.')
    """
    match = _POINTING.match(sentence)
    if match is None:
        return sentence
    rest = sentence[match.end() :]
    following = match.group("next").lower()
    if match.group().lower().startswith("thi") and singular(following) != following:
        return sentence  # "This suggests": no noun in the singular
    phrases = noun_phrases(f"The {rest}")
    named = bool(phrases) and phrases[0].start == 0 and len(phrases[0].text.split()) > 1
    return (
        f"The {rest}" if named and tag(f"the {rest}")[1].tag in ("noun", "adj", "num") else sentence
    )


def restored(sentence: str, before: Sequence[str]) -> tuple[str, int] | None:
    """The sentence with the noun in place of the pronoun that opens it.

    Args:
        sentence: that `leans`.
        before: the sentences before it in its text, in order, as they were kept.

    Returns:
        The sentence, and the place in `before` where its noun was found: in the last sentence whose first name agrees.
        None where no name agrees, more than one person could be meant, or it opens otherwise than with a pronoun.

    Example:
        >>> restored("She wears a hat.", ["A woman sits on a red bench."])
        ('The woman wears a hat.', 0)
        >>> restored("Its wheels are black.", ["Two men stand by a small red car."]) is None
        True
    """
    match = _SUBJECT.match(_spelled_out(sentence))
    if match is None:
        return None
    word = match.group("word").lower()
    if word == "it" and re.match(
        r"\s+(?:appears|seems|looks)\s+(?:that|as)\b|\s+is\s+\w+\s+that\b", match.group("rest")
    ):
        return None
    for place in range(len(before) - 1, -1, -1):
        found = _named(word, before[place])
        if found is None:
            continue
        noun, number = found
        return _with_noun(word, noun, number, match.group("rest")), place
    return None


def _spelled_out(sentence: str) -> str:
    """ "It's red" -> "It is red"; sentences that open otherwise as they are."""
    match = _SUBJECT.match(sentence)
    short = _CONTRACTED.match(match.group("rest")) if match else None
    if match is None or short is None:
        return sentence
    # "it's got", "it's been" are "has".
    rest = match.group("rest")[short.end() :]
    has = re.match(r"\s+(?:got|been|had)\b", rest)
    verb = {"re": "are", "ve": "have"}.get(short.group(1), "has" if has else "is")
    return f"{match.group('word')} {verb}{rest}"


def person_for(pronoun_sentence: str, claims: Sequence[str]) -> tuple[str, int] | None:
    """The sentence with the one person in place of "He" or "She", where all texts speak of one such person alone.

    Args:
        pronoun_sentence: opens with "He", "She", "His" or "Her".
        claims: everything that is said of the same part of the photo.

    Returns:
        As `restored`, with the place in `claims` of a text that names the person; None where several or none are named.

    Example:
        >>> person_for("She smiles.", ["A woman sits.", "The woman reads a book."])
        ('The woman smiles.', 0)
        >>> person_for("She smiles.", ["Two women sit."]) is None
        True
    """
    match = _SUBJECT.match(_spelled_out(pronoun_sentence))
    word = match.group("word").lower() if match else ""
    wanted = {"he": MALE, "his": MALE, "she": FEMALE, "her": FEMALE}.get(word)
    if match is None or wanted is None:
        return None
    named = [
        (one, place)
        for place, text in enumerate(claims)
        for one in noun_phrases(text)
        if one.head in wanted
    ]
    alone = {one.head for one, _ in named if _number(one) == "one"}
    several = any(
        _number(one) == "many" or {"another", "two", "other"} & set(one.text.lower().split())
        for one, _ in named
    )
    if len(alone) != 1 or several:
        return None
    return _with_noun(word, alone.pop(), "one", match.group("rest")), named[0][1]


def _named(word: str, sentence: str) -> tuple[str, Number] | None:
    """The noun of a sentence that a pronoun stands for, with its number."""
    phrases = [one for one in noun_phrases(sentence) if one.head not in _NO_SUBJECT]
    if not phrases:
        return None
    if word in ("he", "she", "his", "her"):
        wanted = MALE if word in ("he", "his") else FEMALE
        people = [one for one in phrases if one.head in wanted]
        if not people:
            people = [one for one in phrases if one.head in PERSON]
        return (people[0].name, "one") if len(people) == 1 and _number(people[0]) == "one" else None
    subject = phrases[0]
    number = _number(subject)
    living = subject.head in MALE | FEMALE | PERSON
    if word in ("it", "its"):
        return (subject.name, "one") if number == "one" and not living else None
    if number == "many":
        return _plural(subject), "many"
    return (subject.name, "one") if living else None  # singular "they"


def _number(phrase: NounPhrase) -> Number:
    last = phrase.text.lower().split()[-1]
    return (
        "many"
        if singular(last) != last or last in _GROUP - {"crowd", "group", "team", "family"}
        else "one"
    )


def _plural(phrase: NounPhrase) -> str:
    """The name as it was written, without what leads in to it: "Two red buses" -> "buses"."""
    return " ".join(phrase.text.split()[-len(phrase.name.split()) :]).lower()


def _with_noun(word: str, noun: str, number: Number, rest: str) -> str:
    if word in ("his", "her", "its", "their"):
        owner = f"{noun}'" if number == "many" and noun.endswith("s") else f"{noun}'s"
        return f"The {owner}{rest}"
    return f"The {noun}{_agreeing(rest) if word == 'they' and number == 'one' else rest}"


def _agreeing(rest: str) -> str:
    """What follows a "they" that means one person: "are sitting" -> "is sitting"."""
    for many, one in (
        ("are", "is"),
        ("have", "has"),
        ("were", "was"),
        ("do", "does"),
        ("seem", "seems"),
        ("appear", "appears"),
        ("wear", "wears"),
        ("hold", "holds"),
    ):
        if re.match(rf"\s+{many}\b", rest):
            return re.sub(rf"^(\s+){many}\b", rf"\g<1>{one}", rest)
    return rest
