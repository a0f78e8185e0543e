"""Words of a caption, what each is (determiner, adjective, noun, verb ...), its singular or base form.

A rule-based tagger of our own, by the lists of lexicon.txt, endings and neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Tag = Literal[
    "det", "adj", "num", "noun", "verb", "aux", "prep", "adv", "conj", "own", "pron", "clause", "stop"
]  # fmt: skip
VerbForm = Literal["base", "s", "ing", "ed"]


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as text."""
    return frozenset(text.split())


def _lists() -> dict[str, str]:
    lines = Path(__file__).with_name("lexicon.txt").read_text(encoding="utf-8").split("\n")
    text = "\n".join(line for line in lines if not line.startswith("#"))
    _, *parts = re.split(r"^\[(.+)\]$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def entries(name: str) -> list[list[str]]:
    """The words of each entry of a list whose entries ";" parts."""
    return [entry.replace(":", " ").split() for entry in _LISTS[name].split(";")]


def _bases(name: str) -> dict[str, str]:
    """Form -> base, of a list of "base: its forms"."""
    return {form: base for base, *forms in entries(name) for form in forms}


_LISTS = _lists()
WORDS = {name: word_set(text) for name, text in _LISTS.items()}
"""Lists of the lexicon, by name."""
_ADJECTIVES = WORDS["adjectives"] | WORDS["colours"]
_ADJECTIVE_ENDINGS = ("ful", "ous", "less", "able", "ible", "ical", "esque", "-like", "-style")
_PLURALS, _IRREGULAR_VERBS = _bases("irregular plurals"), _bases("irregular verbs")
_GERUNDS = {(verb, noun) for verb, *nouns in entries("gerund pairs") for noun in nouns}
# An adverb stands for what names nothing, so that its neighbours stay apart.
_PHRASES = {tuple(phrase): " ".join(phrase) for phrase in entries("preposition phrases")}
_PHRASES |= {tuple(phrase): "there" for phrase in entries("empty phrases")}
_LONGEST_PHRASE = max(map(len, _PHRASES))
_CLOSED: list[tuple[str, Tag]] = [
    ("determiners", "det"),
    ("numbers", "num"),
    ("conjunctions", "conj"),
    ("clause words", "clause"),
    ("auxiliaries", "aux"),
    ("prepositions", "prep"),
    ("pronouns", "pron"),
    ("adverbs", "adv"),
]
_TAGS = {word: kind for name, kind in reversed(_CLOSED) for word in WORDS[name]}
_VOWELS = "aeiou"
_VERBS = WORDS["verbs only"] | WORDS["noun verbs"]
_FORMS: tuple[VerbForm, ...] = ("ing", "ed", "s")
_TOKEN = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*|[,.;:!?&+]")
_SPACED = re.compile(
    r"\b(?:(close|t|v|polka|double|semi|multi) - (?=\w)|(close) (?=up )|(double) (?=decker))"
)
_STANDING_ALONE = word_set("one another other others both all some each")


@dataclass(frozen=True)
class Token:
    """A word, or several that act as one: lower case, what it is here, and its base form if it is a verb."""

    text: str
    tag: Tag
    lemma: str


@cache
def singular(noun: str) -> str:
    """The singular of a lower-case noun; a noun that has no plural ending comes back as it is.

    Example:
        >>> [singular(word) for word in ("dogs", "men", "buses", "glass", "puppies")]
        ['dog', 'man', 'bus', 'glass', 'puppy']
    """
    if noun in _PLURALS:
        return _PLURALS[noun]
    if "-" in noun:
        stem, _, last = noun.rpartition("-")
        return f"{stem}-{singular(last)}"
    if noun in WORDS["no singular"] or len(noun) < 3 or not noun.endswith("s"):
        return noun
    if noun.endswith(("ss", "us", "is")) and noun not in {"skis", "taxis", "menus", "gnus"}:
        return noun
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("ches", "shes", "sses", "xes", "zzes", "oes", "buses")):
        return noun[:-2]
    return noun[:-1]


@cache
def verb_form(word: str) -> tuple[str, VerbForm] | None:
    """The base form of a lower-case verb form and which form it is; None for other words.

    A word in no list is a verb form only by its ending -ing or -ed.

    Example:
        >>> verb_form("riding"), verb_form("stood"), verb_form("ceiling")
        (('ride', 'ing'), ('stand', 'ed'), None)
    """
    if word in WORDS["ing nouns"] or word in WORDS["ed nouns"]:
        return None
    if word in _VERBS:
        return word, "base"
    if word in _IRREGULAR_VERBS:
        return _IRREGULAR_VERBS[word], "ed"
    for form in _FORMS:
        listed = [base for base in _bases_of(word, form) if base in _VERBS]
        if listed and word.endswith(form):
            return listed[0], form
    voiced = any(letter in _VOWELS + "y" for letter in word[:-3])
    if len(word) > 5 and word.endswith("ing") and voiced:
        return _stem(word[:-3]), "ing"
    if len(word) > 4 and word.endswith("ed") and not word.endswith("eed"):
        return _stem(word[:-2]), "ed"
    return None


def _bases_of(word: str, form: VerbForm) -> tuple[str, ...]:
    """What a verb may be that has this word for a form."""
    stem = word.removesuffix(form)
    if form == "s":
        return stem, re.sub("(s|x|z|ch|sh|^go)e$", r"\1", stem), re.sub("ie$", "y", stem)
    doubled = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else ""
    return stem, f"{stem}e", doubled, re.sub("i$", "y", stem), re.sub("y$", "ie", stem)


def _stem(stem: str) -> str:
    """A likely base form of an unlisted verb from what stands before -ing or -ed."""
    if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "lsz":
        return stem[:-1]
    if stem.endswith(("at", "iz", "v", "uc", "dg", "ang", "ur")):
        return stem + "e"
    if len(stem) > 3 and stem.endswith("l") and stem[-2] in "bcdfgkptz":
        return stem + "e"
    return stem


def tag(caption: str) -> list[Token]:
    """The tagged tokens of one caption, in order.

    Example:
        >>> [(token.text, token.tag) for token in tag("A red bus on it.")]
        [('a', 'det'), ('red', 'adj'), ('bus', 'noun'), ('on', 'prep'), ('it', 'pron'), ('.', 'stop')]
    """
    words = _join_participles(_join_phrases(_tokens(caption)))
    tokens: list[Token] = []
    for place, word in enumerate(words):
        tokens.append(_Context(words, tokens, place).token(word))
    return tokens


def _tokens(caption: str) -> list[str]:
    text = caption.lower().replace("\u2019", "'").replace("' ", " ")
    text = _SPACED.sub(r"\1\2\3-", text)
    found: list[str] = []
    for token in _TOKEN.findall(text):
        if token.endswith("'s") and token not in WORDS["auxiliaries"] and len(token) > 3:
            found += [token[:-2], "'s"]
        else:
            found.append(token)
    return found


def _join_phrases(words: Sequence[str]) -> list[str]:
    """Prepositions of several words become one; so do phrases that name nothing."""
    joined: list[str] = []
    place = 0
    while place < len(words):
        for size in range(min(_LONGEST_PHRASE, len(words) - place), 0, -1):
            kind = _PHRASES.get(tuple(words[place : place + size]))
            if kind or size == 1:
                joined.append(kind or words[place])
                place += size
                break
    return joined


def _join_participles(words: Sequence[str]) -> list[str]:
    """ "a snow covered hill" -> "a snow-covered hill"."""
    joined: list[str] = []
    for place, word in enumerate(words):
        binds = word in WORDS["compound participles"] and _closed_tag(_at(words, place + 1)) is None
        if binds and joined and _closed_tag(joined[-1]) is None and not joined[-1].endswith("ly"):
            joined[-1] = f"{joined[-1]}-{word}"
        else:
            joined.append(word)
    return joined


def _at(words: Sequence[str], place: int) -> str:
    """The word at `place`; past the end, a full stop."""
    return words[place] if place < len(words) else "."


@dataclass(frozen=True)
class _Context:
    """One place in a sentence: all its words, and the tokens before the place."""

    words: Sequence[str]
    done: Sequence[Token]
    place: int

    def token(self, word: str) -> Token:
        """What `word`, which stands here, is."""
        closed = _closed_tag(word)
        if word == "can" and self._before() in ("det", "noun") and self._closes():
            closed = None  # a trash can
        if closed is not None:
            return Token(word, closed, word)
        if _is_adjective(word):
            return Token(word, self._adjective(word), word)
        form = None if word in WORDS["no singular"] else verb_form(word)
        if form is not None:
            return Token(word, *self._verb_like(word, *form))
        if self._unlisted_verb(word):
            base = word[:-3] + "y" if word.endswith("ies") else word.removesuffix("s")
            return Token(word, "verb", base)
        is_adverb = word.endswith("ly") and len(word) > 4 and word not in WORDS["ly nouns"]
        return Token(word, "adv" if is_adverb else "noun", word)

    @property
    def _after(self) -> str:
        return _at(self.words, self.place + 1)

    def _closes(self) -> bool:
        return _closed_tag(self._after) not in (None, "adv")

    def _before(self) -> Tag:
        return self.done[-1].tag if self.done else "stop"

    def _unlisted_verb(self, word: str) -> bool:
        """ "A man debones a fish", "people trudge up a hill": only a verb fits between the two."""
        follows = _closed_tag(self._after)
        if self._before() == "prep" and self.done[-1].text == "to":
            return follows in ("det", "pron")
        if self._before() != "noun" or is_animate(word):
            return False
        if not is_animate(self.done[-1].text) and not self._subject_waits(one=True):
            return False
        if word.endswith("s"):
            unlike = word in WORDS["no singular"] or word in _PLURALS
            return follows == "det" and not unlike and not word.endswith("ss")
        subject = self.done[-1].text
        plural = subject == "people" or singular(subject) != subject
        return plural and (follows == "det" or (follows == "prep" and self._after != "of"))

    def _adjective(self, word: str) -> Tag:
        if _name_goes_on(self.words, self.place + 1):
            return "adj"
        if word in WORDS["noun adjectives"] and self._before() in ("det", "adj", "num", "noun"):
            return "noun"
        # "the young": nobody named it otherwise. A colour alone ("in blue") names nothing.
        if self._before() == "det" and word not in WORDS["colours"]:
            return "noun"
        return "adj"

    def _verb_like(self, word: str, lemma: str, form: VerbForm) -> tuple[Tag, str]:
        before = self._before()
        after = self._after
        if form == "ing" and (word, singular(after)) in _GERUNDS:
            return "noun", word
        if form in ("ing", "ed"):
            return self._participle(word, lemma, form)
        if before == "aux" or (before == "prep" and self.done[-1].text == "to"):
            return ("verb", lemma) if form == "base" else ("noun", word)
        acts = lemma in WORDS["verbs only"] and self._worn_colour()
        if before in ("det", "adj", "num", "own", "prep") and not acts:
            return "noun", word
        only = lemma in WORDS["verbs only"] and not (
            form == "base" and lemma in WORDS["noun verbs"]
        )
        if only and word not in _PLURALS:
            return "verb", lemma
        return ("verb", lemma) if self._acts(after, form) else ("noun", word)

    def _subject_waits(self, *, one: bool) -> bool:
        """ "A man in a red shirt jumps over": a living subject, one or several, without a verb so far."""
        subject = next((token.text for token in self.done if token.tag == "noun"), "")
        finite = any(
            token.tag in ("verb", "aux", "clause") and not token.text.endswith("ing")
            for token in self.done
        )
        alone = singular(subject) == subject != "people"
        return alone == one and is_animate(subject) and not finite

    def _worn_colour(self) -> bool:
        """ "a player in white tries": the colour has no noun of its own to describe."""
        *_, one, other = (None, None, *self.done)
        return bool(one and other and one.tag == "prep" and other.text in WORDS["colours"])

    def _participle(self, word: str, lemma: str, form: VerbForm) -> tuple[Tag, str]:
        before = self._before()
        goes_on = _name_goes_on(self.words, self.place + 1)
        if before in ("det", "adj", "num", "own"):
            alone = self._worn_colour() or before == "num" or self.done[-1].text in _STANDING_ALONE
            if form == "ing" and alone and lemma not in WORDS["describing verbs"]:
                return "verb", lemma  # "a man in black wearing glasses", "one wearing glasses"
            if goes_on or form == "ed":
                return "adj", word
            named = before in ("det", "own") and self.done[-1].text not in _STANDING_ALONE
            return ("noun", word) if named or before == "adj" else ("verb", lemma)
        describes = form == "ed" or lemma in WORDS["describing verbs"]
        if describes and goes_on and before in ("prep", "conj", "stop", "adv"):
            return "adj", word
        return "verb", lemma

    def _acts(self, after: str, form: VerbForm) -> bool:
        """Whether a word that may be a noun or a finite verb is a verb here."""
        before = self._before()
        if before in ("clause", "pron"):
            return form == "s" or before == "clause"
        if before == "conj":  # "sits and watches TV": a second verb needs a first
            has_verb = any(token.tag == "verb" for token in self.done)
            return has_verb and _closed_tag(after) in ("det", "prep", "pron", "adv")
        if before != "noun":
            return False
        subject = next(token.text for token in reversed(self.done) if token.tag == "noun")
        if is_animate(subject):
            plural = singular(subject) != subject or subject == "people"
            return form == "s" or plural or _closed_tag(after) in ("det", "prep", "pron", "adv")
        if self._subject_waits(one=form == "s") and _closed_tag(after) in ("det", "prep", "pron"):
            return True
        if _closed_tag(after) not in ("det", "pron"):
            return False
        return form == "s" or singular(subject) != subject


def is_animate(noun: str) -> bool:
    """Whether a noun names a person or an animal, as far as the lists and -er, -or, -ist tell."""
    word = singular(noun.split()[-1])
    if word in WORDS["animate"]:
        return True
    return word.endswith(("er", "or", "ist")) and word not in WORDS["not animate"] and len(word) > 4


def _closed_tag(word: str) -> Tag | None:
    if not word[0].isalnum():
        return "own" if word == "'s" else "conj" if word in "&+" else "stop"
    if " " in word:
        return "prep"
    if word[0].isdigit():
        return "num" if word.isdigit() else "adj"
    return _TAGS.get(word)


def _is_adjective(word: str) -> bool:
    if word in _ADJECTIVES:
        return True
    if "-" in word:
        last = word.rpartition("-")[2]
        return last in _ADJECTIVES or (
            last.endswith("ed") and len(last) > 3 and last not in WORDS["ed nouns"]
        )
    return word.endswith(_ADJECTIVE_ENDINGS) and len(word) > 5


def _name_goes_on(words: Sequence[str], place: int) -> bool:
    """Whether the words from `place` on belong to a name that has begun before it."""
    if place >= len(words):
        return False
    word = words[place]
    closed = _closed_tag(word)
    if closed == "num":
        return True
    if closed == "conj" or word == ",":
        if word == "," and _closed_tag(_at(words, place + 1)) == "conj":
            place += 1
        return _is_adjective(_at(words, place + 1)) and _name_goes_on(words, place + 2)
    if closed is not None:
        return False
    if _is_adjective(word):
        return word in WORDS["noun adjectives"] or _name_goes_on(words, place + 1)
    form = None if word in WORDS["no singular"] else verb_form(word)
    if form is None:
        return not (word.endswith("ly") and word not in WORDS["ly nouns"])
    lemma, kind = form
    if kind in ("ing", "ed"):
        return _name_goes_on(words, place + 1)
    return lemma in WORDS["noun verbs"] or word in _PLURALS
