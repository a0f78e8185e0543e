"""English as far as `detail` reads it: the ends of sentences, content words, things, likeness; lists of words.txt."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from decoders.scene_graph import WORD, WORDS, Token, noun_phrases, singular, tag, word_set
from patchioner.nouns import PEOPLE

FloatArray = npt.NDArray[np.float64]
_TEXT = Path(__file__).with_name("words.txt").read_text(encoding="utf-8")
_, *_PARTS = re.split(r"^\[(.+)\]\n", re.sub("(?m)^#.*\n", "", _TEXT), flags=re.MULTILINE)
LISTS = dict(zip(_PARTS[::2], _PARTS[1::2], strict=True))  # word lists and prompts by name, as they are written there
_SETS = {name: word_set(text) for name, text in LISTS.items()}


def any_of(name: str) -> re.Pattern[str]:
    """Matches each of a list's alternatives, which are separated by white space; "_" is a space."""
    alternatives = "|".join(LISTS[name].split()).replace("_", " ")
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)


def prompt(name: str) -> str:
    """What a model is asked, a paragraph a line."""
    return "\n".join(" ".join(one.split()) for one in LISTS[name].strip().split("\n\n"))


_NUMBERED = re.compile(r"(?:^|(?<=\s))\(?(\d{1,2})[.)]\s+(?=\S)")
_BULLET = re.compile(r"(?m)(?:^[ \t]*|(?<=[.:;!?]\s))[-*+•–●▪‣][ \t]+(?=\S)")
_STOP = re.compile(r"(?:(?<![.!?])[.!?]+|\u2026)[\"'\u201d\u2019)\]]*(?=\s+\S)")
_TITLE = re.compile(r"^([^.:;!?\"]{1,80}):\s+(?=[A-Z])")
_ITEM = "\n\0"
# Of Markdown and HTML: links, tags, rules, headings and quotations, cells of tables, what stands between marks.
_MARKS = (
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"!?\[([^]\n]{0,200})\]\([^)\s]*\)"), r"\1"),
    (re.compile(r"(?i)</(?:p|li|tr|h\d)>|<br ?/?>"), "\n"),
    (re.compile(r"(?i)</?(?:[biup]|em|strong|code|span|[ou]l|li|h\d|t\w+)(?: [^<>\n]*)?>"), ""),
    (re.compile(r"(?m)^[ \t]*(?:[-*_=| :]{3,}|```\w*)[ \t]*$"), ""),
    (re.compile(r"(?m)^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|\|[ \t]*)|[ \t]*\|[ \t]*$"), ""),
    (re.compile(r"[ \t]+\|[ \t]+"), ", "),
    (re.compile(r"([*_]{2,3}|~~|`|(?<![\w*])\*|(?<![\w_])_)(?=[^\s*_])(.{1,200}?)(?<=\S)\1(?!\w)"), r"\2"),
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, stripped and with single spaces.

    Items of a list ("1. A bench. 2. A tree", bullets, one below the other or glued into a line) become sentences of
    their own, without their marks and with a full stop; so does a title ("A bench: It is made of wood"). What leads in
    to a list stays a sentence that ends in a colon. Quoted stops, abbreviations, initials and decimals end nothing."""
    plain = html.unescape(text.replace("\r", "\n").replace("\0", " "))
    for pattern, left in _MARKS:
        plain = pattern.sub(left, plain)
    plain = plain.strip()
    for start, end in reversed(_list_marks(plain)):
        plain = f"{plain[:start]}{_ITEM}{plain[end:]}"
    found: list[str] = []
    for line in _BULLET.sub(_ITEM, plain).split("\n"):
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
    if title := _TITLE.match(text):
        return [stopped(title.group(1)), *_item(text[title.end() :])]
    sentences = _prose(text)
    return [*sentences[:-1], *map(stopped, sentences[-1:])]


def stopped(sentence: str) -> str:
    """A sentence with a stop, inside its quotation marks or bracket as well."""
    bare = sentence.rstrip(" ,;")
    said = bare.rstrip("\"'\u201d\u2019)")
    return bare if said.endswith((".", "!", "?", ":", "\u2026")) else f"{bare}."


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
    if word in _SETS["may end"]:
        return rest[0].isupper()
    return word not in _SETS["abbreviations"]


_SAME = {word: group.split()[0] for group in LISTS["synonyms"].split(";") for word in group.split()}
_NOT_THINGS = WORDS["unseen"] | WORDS["pictures"] | _SETS["no things"]
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
        if word := _lemma(token):
            found[word] = max(found.get(word, 0.0), _WEIGHTS[token.tag])
    return MappingProxyType(found)


def _retagged(token: Token) -> Token:
    lemma = singular(token.text)
    if token.tag == "noun" and lemma in WORDS["prose verbs"] and token.text != lemma:
        return Token(token.text, "verb", lemma)
    if token.tag == "noun" and token.text in WORDS["prose adjectives"]:
        return Token(token.text, "adj", token.text)
    return token


def _lemma(token: Token) -> str | None:
    if token.tag == "noun":
        word = singular(token.text)
        return None if word in _SETS["empty nouns"] else canonical(word)
    if token.tag == "verb":
        return None if token.lemma in _SETS["empty verbs"] else token.lemma
    told = token.tag == "adj" and token.text not in _SETS["empty adjectives"]
    return canonical(token.text) if told or token.tag == "num" else None


def things(sentence: str) -> list[str]:
    """Names of the things in a sentence that can be pointed at, each once, in order."""
    return list(dict.fromkeys(one.name for one in noun_phrases(sentence) if one.head not in _NOT_THINGS))


_PEOPLE = PEOPLE | _SETS["people"]


def kind_of(name: str) -> str:
    """What a thing is: the last word of its name, synonyms made one, people all alike."""
    word = canonical(name.rpartition(" ")[2])
    return "person" if word in _PEOPLE else word


def similarity_matrix(sentences: Sequence[str]) -> FloatArray:
    """How alike n sentences are: (n, n) float64, 0 to 1. The mean of two shares of the weighted content words: of those
    that both have among all of the two (Jaccard), and among those of the poorer one (containment). Equal sentences are
    1 alike even without such words."""
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
    plain = re.sub(r"(?<=...)(?:ing|ed|es|s|d)\Z", "", plain)
    if len(plain) > 3 and plain[-1] == plain[-2]:
        plain = plain[:-1]  # sitting -> sit
    return plain.removesuffix("e")


def with_article(name: str) -> str:
    """A name as captions have it."""
    if name.endswith("s") and not name.endswith(("ss", "us")):
        return name
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"
