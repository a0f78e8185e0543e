"""Sentences: where they end, which words say something, what things they name, how alike they are.

English, by the tagger and parser of `decoders.scene_graph`. Knows nothing of photos or of what is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from decoders.scene_graph import Entity, RuleParser, lexicon
from decoders.scene_graph.lexicon import word_set
from decoders.scene_graph.tagging import Token, singular, tag
from patchioner.base.errors import OptionError

FloatArray = npt.NDArray[np.float64]
Embed = Callable[[Sequence[str]], npt.ArrayLike]
"""Texts -> (n, dim) vectors; compared by cosine."""

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
    """The sentences of a text, in order, stripped and with single spaces.

    Items of a list ("1. A bench. 2. A tree", bullets, one below the other or glued into a line) become sentences of
    their own, without their marks and with a full stop; so does a title ("A bench: It is made of wood"). What leads in
    to a list stays a sentence that ends in a colon. Quoted stops, abbreviations, initials and decimals end nothing.
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
        first, *rest = (part.strip() for part in _BULLET.split(line))
        if first:
            yield first, listed
        yield from ((part, True) for part in rest if part)
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
    end, stop = match.end(), match.group()
    follows = text[end:].lstrip()[0]
    straight = text.count('"', start, end) % 2 == 1 and '"' in text[end:]
    curly = text.count("\u201c", start, end) > text.count("\u201d", start, end)
    if straight or (curly and "\u201d" in text[end:]):
        return False  # within a quotation
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


_SYNONYMS = """
person individual human; man gentleman guy male; woman lady female; child kid; couch sofa; bicycle bike;
motorcycle motorbike; airplane plane aeroplane; car automobile; tv television; phone cellphone smartphone telephone;
refrigerator fridge; grey gray; large big; small little tiny; sidewalk pavement; road street; rock stone; ocean sea;
racket racquet; sunglasses shades; purse handbag; donut doughnut; forest woods; wooden wood; metallic metal;
two 2 pair; three 3; four 4; five 5; six 6; seven 7; eight 8; nine 9; ten 10; one 1; cloudy overcast
"""
_SAME = {word: group.split()[0] for group in _SYNONYMS.split(";") for word in group.split()}
# What is said of every photo, or of how it was taken, tells no two sentences apart.
_EMPTY_NOUNS = word_set(
    "image picture photo photograph snapshot scene view element shot frame thing detail part"
)
_EMPTY_VERBS = word_set(
    """
    be have do see show capture depict feature include contain appear seem suggest add present display observe visible
    look make give create indicate
    """
)
_EMPTY_ADJECTIVES = word_set("visible key such own same other various several many possible")
# Words of long descriptions that the tagger, made for captions, takes for nouns.
_VERBS = word_set(
    """
    suggest show convey indicate depict cater pass contrast contribute evoke imply enhance frame complement appear
    accentuate emphasize highlight reflect capture seem present feature read portray showcase blend line fill dominate
    resemble reveal belong remain
    """
)
_ADJECTIVES = word_set(
    """
    damp overcast harsh casual peaceful serene recent well-prepared everyday cross-country out-of-focus well-lit
    well-maintained monochromatic inviting vibrant lively bustling predominantly tranquil muted subdued grassy
    sandy rocky paved unpaved multicolored multi-colored beige wooden metallic asphalt
    """
)
# Words for nothing that can be pointed at: no score supports them.
_NOT_THINGS = (
    lexicon.UNSEEN
    | lexicon.PICTURES
    | word_set(
        """
        atmosphere ambience ambiance sense feeling feel mood presence appearance impression vibe touch depth warmth
        contrast focus attention moment perspective angle composition overall area setting environment activity
        something anything nothing everything lot side edge corner half center centre surface surroundings variety
        day time event occasion position posture expression detail element theme character style design pattern
        type form shape size addition air game arm hand foot leg finger eye face lap knee shoulder head back hair stripe
        accent logo text number letter word graphic label source progress further known natural
        devoid darker reflection
        """
    )
)
_WEIGHTS = {"noun": 1.0, "num": 0.7, "adj": 0.7, "verb": 0.6}
_WORD = re.compile(r"[A-Za-z0-9]+(?:[-'\u2019][A-Za-z0-9]+)*")
_LEADS = word_set("a an the his her their its this that these those some many several")


@dataclass(frozen=True)
class NounPhrase:
    """One thing that a sentence names.

    Attributes:
        head: lemma of its last word, lower case: "racket".
        name: all words of the name, the last in the singular: "tennis racket".
        attributes: what is said of it, in order: ("two", "red").
        start, end, text: where it stands, its determiner and attributes before it included, and that part of it.
    """

    head: str
    name: str
    attributes: tuple[str, ...]
    start: int
    end: int
    text: str


def canonical(word: str) -> str:
    """One word for all that mean the same, as far as a short list goes."""
    return _SAME.get(word, word)


def content_words(sentence: str) -> frozenset[str]:
    """Lower-case lemmas of the nouns, adjectives, verbs and numbers, synonyms made one; none about the picture."""
    return frozenset(word_weights(sentence))


def word_weights(sentence: str) -> dict[str, float]:
    """`content_words` with how much each tells: nouns 1, numbers and adjectives 0.7, verbs 0.6."""
    return dict(_weights(sentence))


@lru_cache(maxsize=8192)
def _weights(sentence: str) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for token in map(_retagged, tag(sentence)):
        for word in _lemmas(token):
            found[word] = max(found.get(word, 0.0), _WEIGHTS[token.tag])
    return tuple(found.items())


def _retagged(token: Token) -> Token:
    lemma = singular(token.text)
    if token.tag == "noun" and lemma in _VERBS and token.text != lemma:
        return Token(token.text, "verb", lemma)
    if token.tag == "noun" and token.text in _ADJECTIVES:
        return Token(token.text, "adj", token.text)
    return token


def _lemmas(token: Token) -> Iterator[str]:
    if token.tag == "noun":
        word = singular(token.text)
        if word not in _EMPTY_NOUNS:
            yield canonical(word)
    elif token.tag == "verb" and token.lemma not in _EMPTY_VERBS:
        yield token.lemma
    elif token.tag == "num" or (token.tag == "adj" and token.text not in _EMPTY_ADJECTIVES):
        yield canonical(token.text)


@lru_cache(maxsize=8192)
def noun_phrases(sentence: str) -> tuple[NounPhrase, ...]:
    """What a sentence names, in order, and where; nothing for words such as "background" that name no thing."""
    words = list(_WORD.finditer(sentence))
    found: list[NounPhrase] = []
    begin = 0
    for parsed in RuleParser().parse([sentence])[0].entities:
        place = _find(words, begin, parsed)
        if place is None:
            continue
        entity = _named(parsed, words[place + len(parsed.name.split()) - 1].group().lower())
        if entity is None:
            continue
        size = len(entity.name.split())
        start = words[_first(words, begin, place, entity)].start()
        end = words[place + size - 1].end()
        head = entity.name.rpartition(" ")[2]
        text = sentence[start:end]
        found.append(NounPhrase(head, entity.name, entity.attributes, start, end, text))
        begin = place + size
    return tuple(found)


def _named(entity: Entity, last: str) -> Entity | None:
    """The entity without a verb that was taken for its last word ("red buses pass"); None where nothing is left."""
    *before, head = entity.name.split()
    if head in _VERBS and last != head or (before and head in _VERBS):
        if not before:
            return None
        return Entity(" ".join([*before[:-1], singular(before[-1])]), entity.attributes)
    return None if head in _ADJECTIVES else entity


def _find(words: list[re.Match[str]], begin: int, entity: Entity) -> int | None:
    """Place of the first word of the entity's name."""
    *before, head = entity.name.split()
    size = len(before) + 1
    for place in range(begin, len(words) - size + 1):
        said = [one.group().lower().replace("\u2019", "'") for one in words[place : place + size]]
        last = said[-1].removesuffix("'s")
        vessel = last == "glasses" and head == "glass"
        if said[:-1] == before and (singular(last) == head or last == head or vessel):
            return place
    return None


def _first(words: list[re.Match[str]], begin: int, place: int, entity: Entity) -> int:
    """Place where the phrase starts: its attributes and determiner stand before the name."""
    said = {part for attribute in entity.attributes for part in re.split(r"[\s-]", attribute)}
    while place > begin:
        before = words[place - 1].group().lower()
        if before in _LEADS:
            return place - 1
        if not ({before, *before.split("-")} & said) and before != "and":
            break
        if before == "and" and not (place > begin + 1 and words[place - 2].group().lower() in said):
            break
        place -= 1
    return place


def things(sentence: str) -> list[str]:
    """Names of the things in a sentence that can be pointed at, each once, in order."""
    names = [phrase.name for phrase in noun_phrases(sentence) if phrase.head not in _NOT_THINGS]
    return list(dict.fromkeys(names))


def similarity_matrix(
    sentences: Sequence[str],
    others: Sequence[str] | None = None,
    *,
    embed: Embed | None = None,
    share: float = 0.5,
) -> FloatArray:
    """How alike n sentences and m others (None: the same n) are: (n, m) float64, 0 to 1.

    The mean of two shares of the weighted content words: of those that both have among all of the two (Jaccard), and
    among those of the poorer one (containment). Equal sentences are 1 alike even without such words. `embed` gives
    vectors whose cosine is blended in with that `share`.

    `OptionError`: a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise OptionError(f"share of the embeddings is {share}; it must be from 0 to 1")
    others = sentences if others is None else others
    left, right = [word_weights(one) for one in sentences], [word_weights(one) for one in others]
    shared = np.zeros((len(left), len(right)))
    for row, weights in enumerate(left):
        for column, other in enumerate(right):
            both = (word for word in weights if word in other)  # in order: sums must not differ
            shared[row, column] = sum(min(weights[word], other[word]) for word in both)
    of_left = np.array([sum(row.values()) for row in left]).reshape(-1, 1)
    of_right = np.array([sum(row.values()) for row in right]).reshape(1, -1)
    either = np.maximum(of_left + of_right - shared, 1e-12)
    poorer = np.maximum(np.minimum(of_left, of_right), 1e-12)
    found: FloatArray = np.clip((shared / either + shared / poorer) / 2, 0.0, 1.0)
    if embed is not None and found.size:
        cosines = _units(embed(sentences)) @ _units(embed(others)).T
        found = (1 - share) * found + share * np.clip(cosines, 0.0, 1.0)
    plain, other_plain = (
        np.array([one.casefold().strip(" .") for one in several], dtype=object)
        for several in (sentences, others)
    )
    found[np.asarray(plain[:, None] == other_plain[None, :], dtype=np.bool_)] = 1.0
    return found


def _units(vectors: npt.ArrayLike) -> FloatArray:
    rows = np.asarray(vectors, dtype=np.float64)
    units: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return units


STOP_WORDS = (
    lexicon.DETERMINERS
    | lexicon.PRONOUNS
    | lexicon.CONJUNCTIONS
    | lexicon.CLAUSE_WORDS
    | lexicon.AUXILIARIES
    | lexicon.PREPOSITIONS
    | word_set("also there very image picture photo photograph scene")
)
"""Words that tell no two sentences about photos apart."""


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, in order, without marks."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


@lru_cache(maxsize=8192)
def root(word: str) -> str:
    """What forms of a lower-case word, and words that mean the same, share; not a word itself."""
    plain = canonical(singular(word.removesuffix("'s").removesuffix("'")))
    for ending in ("ing", "ed", "es", "s", "d"):
        if plain.endswith(ending) and len(plain) - len(ending) >= 3:
            plain = plain[: -len(ending)]
            break
    if len(plain) > 3 and plain[-1] == plain[-2]:
        plain = plain[:-1]  # sitting -> sit
    return plain.removesuffix("e")


def with_article(name: str) -> str:
    """A name as captions have it."""
    if name.endswith("s") and not name.endswith(("ss", "us")):
        return name
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"
