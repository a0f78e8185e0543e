"""Sentences: where they end, which words say something, what things they name, how alike they are.

English, by the tagger and parser of `decoders.scene_graph`. Knows nothing of photos or of what is true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from decoders.scene_graph import lexicon
from decoders.scene_graph.lexicon import word_set
from decoders.scene_graph.phrases import ADJECTIVES, VERBS, WORD, noun_phrases
from decoders.scene_graph.tagging import Token, singular, tag

FloatArray = npt.NDArray[np.float64]

_ABBREVIATIONS = word_set("""
    mr mrs ms dr st jr sr prof rev gen capt lt col sgt mt ave blvd rd no vs approx ca fig inc ltd co corp dept est
    e.g i.e u.s u.k a.m p.m ft in. lb lbs oz
""")
# These may end a sentence as well: then a capital follows.
_MAY_END = frozenset({"etc", "a.m", "p.m", "u.s", "u.k", "inc", "co", "ltd", "no", "st", "in."})
_NUMBERED = re.compile(r"(?:^|(?<=\s))\(?(\d{1,2})[.)]\s+(?=\S)")
_BULLET = re.compile(r"(?m)(?:^[ \t]*|(?<=[.:;!?]\s))[-*\u2022\u2013][ \t]+(?=\S)")
_STOP = re.compile(r"(?:[.!?]+|\u2026)[\"'\u201d\u2019)\]]*(?=\s+\S)")
_TITLE = re.compile(r"^([^.:;!?\"]{1,80}):\s+(?=[A-Z])")
_HEADING = re.compile(r"(?m)^[ \t]*#{1,6}[ \t]+")
_BOLD = re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1")
_ITEM = "\n\0"


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, stripped and with single spaces.

    Items of a list ("1. A bench. 2. A tree", bullets, one below the other or glued into a line) become sentences of
    their own, without their marks and with a full stop; so does a title ("A bench: It is made of wood"). What leads in
    to a list stays a sentence that ends in a colon. Quoted stops, abbreviations, initials and decimals end nothing.
    """
    plain = _BOLD.sub(r"\2", text.replace("\r", "\n").replace("\0", " ")).strip()
    for start, end in reversed(_list_marks(plain)):
        plain = f"{plain[:start]}{_ITEM}{plain[end:]}"
    found: list[str] = []
    for line in _BULLET.sub(_ITEM, _HEADING.sub("", plain)).split("\n"):
        found += _item(line[1:].strip()) if line.startswith("\0") else _prose(line)
    return found


def _list_marks(text: str) -> list[tuple[int, int]]:
    """(start, end) of the marks 1., 2., 3., ...: a lone number, or one out of turn, is part of a sentence."""
    marks: list[tuple[int, int]] = []
    for match in _NUMBERED.finditer(text):
        number = int(match.group(1))
        if number == len(marks) + 1 or (number == 1 and len(marks) == 1):
            marks = [*marks, match.span()] if number > 1 else [match.span()]
    return marks if len(marks) > 1 or (marks and marks[0][0] == 0) else []


def _item(text: str) -> list[str]:
    title = _TITLE.match(text)
    if title:
        return [_stopped(title.group(1)), *_item(text[title.end() :])]
    sentences = _prose(text)
    return [*sentences[:-1], *map(_stopped, sentences[-1:])]


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
    said, rest, stop = text[start : match.end()], text[match.end() :].lstrip(), match.group()
    straight = said.count('"') % 2 == 1 and '"' in rest
    curly = said.count("\u201c") > said.count("\u201d") and "\u201d" in rest
    if straight or curly:
        return False  # within a quotation
    if rest[0].islower() and (len(stop) > 1 or stop == "\u2026"):
        return False  # "well ... a dog"; '"Go!" is written on it'
    if not stop.startswith("."):
        return True
    word = text[start : match.start()].rpartition(" ")[2].lower().lstrip("(\"'\u201c")
    if len(word) == 1 and word.isalpha() and word not in "ia":
        return False  # an initial
    if word in _MAY_END:
        return rest[0].isupper()
    return word not in _ABBREVIATIONS


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
_EMPTY_VERBS = word_set("""
    be have do see show capture depict feature include contain appear seem suggest add present display observe visible
    look make give create indicate
""")
_EMPTY_ADJECTIVES = word_set("visible key such own same other various several many possible")
# Words for nothing that can be pointed at: no score supports them.
_NOT_THINGS = lexicon.UNSEEN | lexicon.PICTURES | word_set("""
    atmosphere ambience ambiance sense feeling feel mood presence appearance impression vibe touch depth warmth
    contrast focus attention perspective angle composition overall area setting environment activity something anything
    nothing everything edge corner half center centre surface surroundings variety event occasion position posture
    expression element theme character design pattern type form shape size addition air game arm hand foot leg finger
    eye face lap knee shoulder head hair stripe accent logo text letter word graphic label source progress further known
    natural devoid darker reflection day
""")  # fmt: skip
_WEIGHTS = {"noun": 1.0, "num": 0.7, "adj": 0.7, "verb": 0.6}


def canonical(word: str) -> str:
    """One word for all that mean the same, as far as a short list goes."""
    return _SAME.get(word, word)


def content_words(sentence: str) -> frozenset[str]:
    """Lower-case lemmas of the nouns, adjectives, verbs and numbers, synonyms made one; none about the picture."""
    return frozenset(word_weights(sentence))


@lru_cache(maxsize=8192)
def word_weights(sentence: str) -> Mapping[str, float]:
    """`content_words` with how much each tells: nouns 1, numbers and adjectives 0.7, verbs 0.6."""
    found: dict[str, float] = {}
    for token in map(_retagged, tag(sentence)):
        word = _lemma(token)
        if word is not None:
            found[word] = max(found.get(word, 0.0), _WEIGHTS[token.tag])
    return MappingProxyType(found)


def _retagged(token: Token) -> Token:
    lemma = singular(token.text)
    if token.tag == "noun" and lemma in VERBS and token.text != lemma:
        return Token(token.text, "verb", lemma)
    if token.tag == "noun" and token.text in ADJECTIVES:
        return Token(token.text, "adj", token.text)
    return token


def _lemma(token: Token) -> str | None:
    if token.tag == "noun":
        word = singular(token.text)
        return None if word in _EMPTY_NOUNS else canonical(word)
    if token.tag == "verb":
        return None if token.lemma in _EMPTY_VERBS else token.lemma
    told = token.tag == "num" or (token.tag == "adj" and token.text not in _EMPTY_ADJECTIVES)
    return canonical(token.text) if told else None


def things(sentence: str) -> list[str]:
    """Names of the things in a sentence that can be pointed at, each once, in order."""
    names = [phrase.name for phrase in noun_phrases(sentence) if phrase.head not in _NOT_THINGS]
    return list(dict.fromkeys(names))


# One text's man is another's person, pedestrian or player.
_PEOPLE = word_set("""
    person people man woman child boy girl baby lady adult teenager pedestrian player rider worker passenger spectator
    skier surfer skateboarder snowboarder bystander guy group crowd family couple audience
""")


def kind_of(name: str) -> str:
    """What a thing is: the last word of its name, synonyms made one, people all alike."""
    word = canonical(name.rpartition(" ")[2])
    return "person" if word in _PEOPLE else word


def similarity_matrix(sentences: Sequence[str]) -> FloatArray:
    """How alike n sentences are: (n, n) float64, 0 to 1.

    The mean of two shares of the weighted content words: of those that both have among all of the two (Jaccard), and
    among those of the poorer one (containment). Equal sentences are 1 alike even without such words.
    """
    weights = [word_weights(sentence) for sentence in sentences]
    shared = np.zeros((len(weights), len(weights)))
    for row, own in enumerate(weights):
        for column, other in enumerate(weights):
            both = (word for word in own if word in other)  # in order: sums must not differ
            shared[row, column] = sum(min(own[word], other[word]) for word in both)
    total = np.array([sum(own.values()) for own in weights])
    either = np.maximum(total[:, None] + total - shared, 1e-12)
    poorer = np.maximum(np.minimum(total[:, None], total), 1e-12)
    found: FloatArray = np.clip((shared / either + shared / poorer) / 2, 0.0, 1.0)
    plain = np.array([sentence.casefold().strip(" .") for sentence in sentences], dtype=object)
    found[np.asarray(plain[:, None] == plain, dtype=np.bool_)] = 1.0
    return found


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, in order, without marks."""
    return WORD.findall(text.lower().replace("\u2019", "'"))


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
