"""Whole sentences from what describers write: lead-ins cleaned, phrases such as "a dog on a couch" made sentences.

Knows: how English sentences open and agree. Does NOT know: photos, regions, which sentence is true. Nothing is added
but the words in `TEMPLATE_WORDS`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from decoders.scene_graph.lexicon import NUMBERS
from decoders.scene_graph.morphology import singular
from decoders.scene_graph.tagging import tag
from patchioner.detail.filter.tautologies import tautology
from patchioner.detail.fuse.forms import IN_PICTURE, PICTURE
from patchioner.detail.text import has_finite_verb, noun_phrases, word_set

TEMPLATE_WORDS: Final = word_set("""
    there is are image shows and in on at the a an with left right upper lower top bottom middle background foreground
    distance
    """)
"""All words that templates and locations may add to those of the claims."""

_IN_PICTURE = re.compile(rf"^(?:certainly[!,.]?\s*)?{IN_PICTURE},?\s+", re.IGNORECASE)
_SEE = re.compile(r"^(?:you|we|one)\s+(?:can\s+)?(?:see|observe)\s+", re.IGNORECASE)
_SHOWS = re.compile(
    rf"^(?:this|the)\s+{PICTURE}\s+(?:prominently\s+|clearly\s+)?"
    r"(?:shows?|depicts?|features?|presents?|displays?|showcases?|portrays?|captures?|contains?|includes?)\s+",
    re.IGNORECASE,
)
_KEY = re.compile(
    rf"^the\s+(?:key|main)\s+elements?\s+(?:in|of)\s+(?:this|the)\s+{PICTURE}\s+(?:include|are|is)\s+",
    re.IGNORECASE,
)
_PICTURE_OF = re.compile(
    rf"^(?:an?\s+)?(?:(?:[\w-]+\s+){{0,3}}(?:photo|photograph|picture|image)|(?:close-?\s?up\s+)?{PICTURE}|close-?\s?up)"
    r"\s+of\s+",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\b([Aa])(n?)(\s+)(?=([A-Za-z][\w-]*))")
_SOUNDS_LIKE_A_VOWEL = re.compile(
    r"(?:[aeio]|u(?!ni(?!n)|s[eu]|r[io]|t[ie])|hour|honest|heir)", re.IGNORECASE
)
_PARTICIPLES = word_set(
    "made seen worn shown hung cut built held broken written drawn lit torn being been"
)
_MASS = word_set("""
    grass water snow sand food furniture luggage traffic greenery foliage clothing equipment glass vegetation baggage
    graffiti writing text rice bread meat cheese fruit smoke sunlight light lighting ice mud dirt rain fog wood
    """)
_PLURAL_ONLY = word_set(
    "jeans scissors pants shorts sunglasses eyeglasses binoculars clothes stairs sheep"
)
_MANY = word_set("several many some various multiple numerous few both 2 3 4 5 6 7 8 9")
_SEVERAL = re.compile(r"^(?:a (?:lot|couple|number|variety|few|handful|bunch)(?: of)?|lots of) ")
_THERE = re.compile(
    r"^(?P<lead>(?:[A-Z][^,]{0,40}, )?there)\s*(?P<verb>\bis|\bare|'s)\s+", re.IGNORECASE
)


@lru_cache(maxsize=4096)
def whole_sentence(text: str) -> str:
    """A claim as a sentence that stands in a paragraph: a verb, a capital, a stop, "a" and "an" as they sound.

    Args:
        text: one sentence or phrase; not empty.

    Example:
        >>> whole_sentence("a dog on a couch"), whole_sentence("two old apple sitting on table")
        ('There is a dog on a couch.', 'There are two old apple sitting on table.')
        >>> whole_sentence("The image shows a umbrella")
        'There is an umbrella.'
    """
    plain = without_lead_in(" ".join(text.split()))
    if not plain:
        return ""
    if not has_finite_verb(plain) or _is_phrase(text) or _is_caption(plain):
        plain = f"There {be(plain)} {lower_first(plain)}"
    return finished(articles(agreed(plain)))


def without_lead_in(text: str) -> str:
    """The text without words that only say that there is a picture.

    Example:
        >>> without_lead_in("In this image, you can see two cows."), without_lead_in("A close up of a cat")
        ('Two cows.', 'A cat')
    """
    plain = _IN_PICTURE.sub("", text.strip(), count=1)
    for pattern in (_SEE, _SHOWS, _KEY, _PICTURE_OF):
        plain = pattern.sub("", plain, count=1)
    return plain[:1].upper() + plain[1:]


def _is_caption(plain: str) -> bool:
    """Whether a text without a stop only names a thing and its state: "a dog seated on a couch"."""
    if plain.endswith((".", "!", "?", '"')):
        return False
    verbs = [token for token in tag(plain) if token.tag in ("verb", "aux")]
    return all(token.text.endswith(("ing", "ed")) or token.text in _PARTICIPLES for token in verbs)


def _is_phrase(text: str) -> bool:
    """Whether a lead-in held the verb ("The image shows two cows that graze"): what stays is a phrase."""
    stripped = _IN_PICTURE.sub("", text.strip(), count=1)
    return any(pattern.match(stripped) for pattern in (_SEE, _SHOWS, _KEY, _PICTURE_OF))


def be(phrase: str) -> str:
    """ "is" or "are", as what a phrase names first needs.

    Example:
        >>> be("a dog and two cats"), be("people on a beach"), be("grass"), be("a couple of dogs")
        ('is', 'are', 'is', 'are')
    """
    return _number(phrase) or "is"


def agreed(sentence: str) -> str:
    """The sentence with the "is" or "are" behind "there" that what it names needs; as it is where that is not clear.

    Example:
        >>> agreed("There is two dogs."), agreed("On the left, there are a cat."), agreed("There is traffic.")
        ('There are two dogs.', 'On the left, there is a cat.', 'There is traffic.')
    """
    match = _THERE.match(sentence)
    if match is None:
        return sentence
    verb = _number(sentence[match.end() :])
    if verb is None or verb == match.group("verb") or (verb, match.group("verb")) == ("is", "'s"):
        return sentence
    return f"{match.group('lead')} {verb} {sentence[match.end() :]}"


def _number(phrase: str) -> str | None:
    """ "is" or "are"; None where the words do not tell."""
    words = [word.strip(".,;") for word in phrase.lower().split()]
    if words[:1] == ["no"]:
        words, phrase = words[1:], phrase[3:]
    several = _SEVERAL.match(" ".join(words))
    if several is not None:
        rest = " ".join(words)[several.end() :]
        return "is" if not rest or rest.split()[0] in _MASS else _number(rest) or "are"
    if words and words[0] in ("a", "an", "one", "another", "this"):
        return "is"
    if words and (words[0] in NUMBERS or words[0] in _MANY):
        return "is" if words[0] == "some" and words[-1:] and _first_noun(words) else "are"
    named = noun_phrases(phrase)
    if not named:
        return None
    last = named[0].text.lower().split()[-1]
    if last in _MASS:
        return "is"
    return "are" if singular(last) != last or last in ("people", *_PLURAL_ONLY) else None


def _first_noun(words: list[str]) -> bool:
    """Whether what follows on "some" cannot be counted, or is one: "some grass", "some kind of dog"."""
    named = noun_phrases(" ".join(words[1:]))
    last = named[0].text.lower().split()[-1] if named else words[-1]
    return last in _MASS or (singular(last) == last and last not in ("people", *_PLURAL_ONLY))


def articles(text: str) -> str:
    """ "a" and "an" as the next word sounds.

    Example:
        >>> articles("A old man with an unicorn and a umbrella")
        'An old man with a unicorn and an umbrella'
    """

    def fitted(match: re.Match[str]) -> str:
        word = match.group(4)
        if word.isupper() or (
            not match.group(2) and word.lower() in ("and", "is", "or", "in", "on", "are")
        ):
            return match.group()
        return f"{match.group(1)}{'n' if _SOUNDS_LIKE_A_VOWEL.match(word) else ''}{match.group(3)}"

    return _ARTICLE.sub(fitted, text)


def lower_first(text: str) -> str:
    """The text with a small first letter, unless the word is a name or all capitals.

    Example:
        >>> lower_first("A dog"), lower_first("Adidas shoes"), lower_first("AIR is on it")
        ('a dog', 'Adidas shoes', 'AIR is on it')
    """
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first.lower().strip(",.") in _OPENERS else text


_OPENERS = word_set("""
    a an the there this that these those it he she they his her their its one two three four five six seven eight nine
    ten several many some various both all another other each most part behind above below beside next on in at to under
    near around people person man woman men women boy girl child children trees cars grass someone
    """)


def finished(text: str) -> str:
    """The text with a capital and a stop.

    Example:
        >>> finished("a dog, ")
        'A dog.'
    """
    plain = text.strip().rstrip(",;:").strip()
    if not plain:
        return ""
    plain = plain[0].upper() + plain[1:]
    return plain if plain.rstrip("\"'\u201d\u2019)").endswith((".", "!", "?")) else f"{plain}."


def opening(sentence: str) -> str:
    """The first sentence of a paragraph about the whole photo: "The image shows ..." for "There is ...".

    Example:
        >>> opening("There is a dog on a couch."), opening("Two dogs sleep.")
        ('The image shows a dog on a couch.', 'Two dogs sleep.')
    """
    return re.sub(r"^There(?:'s| is| are) (?!no\b|not\b)", "The image shows ", sentence, count=1)


def placed(sentence: str, place: str) -> str:
    """A sentence that opens with where it is; unchanged where its first word cannot lose its capital.

    Example:
        >>> placed("There is a dog.", "on the left"), placed("Adidas is written on it.", "on the left")
        ('On the left, there is a dog.', 'Adidas is written on it.')
    """
    lowered = lower_first(sentence)
    return sentence if lowered == sentence else f"{place[0].upper()}{place[1:]}, {lowered}"


def joined(first: str, second: str) -> str | None:
    """Two short "There is ..." sentences as one; None where they cannot be joined.

    Example:
        >>> joined("There is a dog on a couch.", "There are two cats.")
        'There is a dog on a couch and two cats.'
    """
    opening = re.compile(r"^(?P<place>[A-Z][^,]{0,24}, )?[Tt]here (?:is|are) (?P<what>[^,;:]+)\.$")
    ours, theirs = opening.match(first), opening.match(second)
    if ours is None or theirs is None or theirs.group("place") or " and " in ours.group("what"):
        return None
    text = f"{first[:-1]} and {theirs.group('what')}."
    return text if tautology(text) is None else None
