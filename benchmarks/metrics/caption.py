"""BLEU, CIDEr-D, ROUGE-L and stem-F of captions, without Java; all x 100. On the same words the first three equal the
official programs (`benchmarks.metrics.official`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from patchioner.base.errors import OptionError

Floats = NDArray[np.float64]
Texts = Sequence[str]
Groups = Sequence[Sequence[str]]
Tokenizer = Callable[[str], list[str]]
Scores = tuple[float, Floats]
"""The mean, and the n scores."""
NGram = tuple[str, ...]
MAX_ORDER = 4

PUNCTUATION: Final = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'])
"""Tokens that are dropped: the list of the COCO caption evaluation, and the plain double quote."""

# The official list names the brackets in upper case ("-LRB-") although its text is lower-cased by
# then, so brackets survive there. They survive here too: figures compare only if oddities do.
_WRITTEN: Final = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "cannot": "can not",
    "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me", "lemme": "lem me",
}  # fmt: skip
_STRAIGHT_QUOTES: Final = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")

# The full stop belongs to these words, at the end of a caption too.
_ABBREVIATIONS: Final = "mr|mrs|ms|dr|st|jr|sr|prof|vs|ave|blvd|rd|mt|ft|etc|corp|dept|inc|ltd"

_TOKEN: Final = re.compile(
    rf"""
      (?:[a-z]\.){{2,}}                        # u.s.  p.m.
    | (?:{_ABBREVIATIONS})\.                    # mr. smith
    | [a-z]\.(?=\s+[a-z])                      # an initial: j. smith
    | o'clock\b | ma'am\b | 'n'
    | [+-]?\d+(?:[.,:]\d+)+                    # 1,000  10:30  2.5
    | [^\W_]+?(?=n't\b) | n't\b                # do n't
    | '(?:s|m|d|re|ve|ll)\b                    # man 's
    | '\d\ds?\b                                # '80s
    | [^\W_]+(?:[-_/.@][^\W_]+)*               # t-shirt  black/white
    | \.{{2,}} | -{{2,}} | [?!]{{2,}} | \S
    """,
    re.VERBOSE,
)


def tokenize(caption: str) -> list[str]:
    """Words of a caption, lower-cased and without punctuation: "don't" gives do, n't; "t-shirt" stays whole."""
    text = caption.lower().replace("&amp;", "&").translate(_STRAIGHT_QUOTES)
    words: list[str] = []
    for token in _TOKEN.findall(text):
        if token in PUNCTUATION or token.strip(".") == "" or token.strip("-") == "":
            continue
        words += _WRITTEN.get(token, token).split()
    return words


def count_ngrams(words: Sequence[str]) -> list[Counter[NGram]]:
    """One counter per order: entry n - 1 counts the n-grams of `words`."""
    parts = [[words[start:] for start in range(order)] for order in range(1, MAX_ORDER + 1)]
    return [Counter(zip(*shifted, strict=False)) for shifted in parts]


def check_pairs(predictions: Texts, references: Groups) -> None:
    """Raise OptionError for lists that cannot be scored together: lengths, an empty list, a bare string."""
    if len(predictions) != len(references):
        counts = f"{len(predictions)} predictions for {len(references)} reference lists"
        raise OptionError(f"{counts}: give one list of references per prediction")
    if not predictions:
        raise OptionError("nothing to score: give at least one prediction with its references")
    for index, group in enumerate(references):
        if isinstance(group, str):
            told = f"references[{index}] is the string {group[:40]!r}"
            raise OptionError(f"{told}: put it in a list, [[...], ...]")
        if not group:
            raise OptionError(f"references[{index}] is empty: every sample needs a reference")


_VOWEL: Final = r"(?:[aeiou]|(?<=[^aeiou])y)"
_HAS_VOWEL: Final = re.compile(_VOWEL)
# Porter's measure m: how many times vowels are followed by consonants.
_MEASURE: Final = re.compile(rf"{_VOWEL}+(?!{_VOWEL})[a-z]")
_SHORT: Final = re.compile(r"^(?:.*[^aeiou])?[aeiouy][^aeiouwxy]$")


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Stem of a lower-case word; one with other characters than a to z, or shorter than three, is its own."""
    if len(word) < 3 or not (word.isascii() and word.isalpha()):
        return word
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    word = _verb_form(word)
    return f"{word[:-1]}i" if word.endswith("y") and _HAS_VOWEL.search(word[:-1]) else word


def _verb_form(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _MEASURE.search(word[:-3]) else word
    for ending in ("ed", "ing"):
        rest = word.removesuffix(ending)
        if rest != word and _HAS_VOWEL.search(rest):
            return _restored(rest)
    return word


def _restored(rest: str) -> str:
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and rest[-1] not in "aeioulsz":
        return rest[:-1]
    if len(_MEASURE.findall(rest)) == 1 and _SHORT.match(rest) and len(rest) > 2:
        return rest + "e"
    return rest


# They keep a precision of 0/0 finite without moving any other score visibly.
_TINY, _SMALL = 1e-15, 1e-9
SIGMA, ROUGE_BETA = 6.0, 1.2
# METEOR 1.5 for English: weights of the mean, the penalty, and content against function words.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STEM_WEIGHT: Final = 0.6

# No places ("near", "under", "between"): in captions they carry content.
_CLOSED_CLASS: Final = """
a an the this that these those some any each every all both no not n't 's of in on at by to from with into over as for
about after and or but if so than then there it its he she they them his her their him i you we our your my me us who
which what when where be is am are was were been being has have had do does did will would can could may might should
must
"""
FUNCTION_WORDS: Final = frozenset(_CLOSED_CLASS.split())
"""Closed-class words; in stem-F they weigh a quarter of a whole (1 - delta), content words three quarters."""


def bleu(said: Texts, due: Groups, *, tokenizer: Tokenizer = tokenize) -> tuple[Floats, Floats]:
    """BLEU-1 .. BLEU-4 (Papineni et al., 2002; closest reference length, as the COCO caption evaluation).

    Of the set (pooled counts, so not the mean of the samples), (4,); of the samples, (n, 4).
    """
    statistics = bleu_statistics(said, due, tokenizer=tokenizer)
    return bleu_of(statistics.sum(axis=0, keepdims=True))[0], bleu_of(statistics)


def bleu_statistics(predictions: Texts, references: Groups, *, tokenizer: Tokenizer) -> Floats:
    """(n, 10): clipped matches and guesses by order, own length, closest reference length."""
    check_pairs(predictions, references)
    rows = []
    for text, group in zip(predictions, references, strict=True):
        words, due = tokenizer(text), [tokenizer(other) for other in group]
        allowed: list[Counter[NGram]] = [Counter() for _ in range(MAX_ORDER)]
        for reference in due:
            for most, found in zip(allowed, count_ngrams(reference), strict=True):
                most |= found  # the largest count in any one reference
        pairs = zip(count_ngrams(words), allowed, strict=True)
        matches = [(mine & most).total() for mine, most in pairs]
        guesses = [max(0, len(words) - order) for order in range(MAX_ORDER)]
        closest = min((abs(len(other) - len(words)), len(other)) for other in due)[1]
        rows.append([*matches, *guesses, len(words), closest])
    return np.array(rows, dtype=np.float64)


def bleu_of(statistics: Floats) -> Floats:
    """BLEU-1 .. BLEU-4 of rows, or sums of rows, of `bleu_statistics`: (rows, 4)."""
    precision = (statistics[:, :4] + _TINY) / (statistics[:, 4:8] + _SMALL)
    means = np.exp(np.cumsum(np.log(precision), axis=1) / np.arange(1, MAX_ORDER + 1))
    ratio = (statistics[:, -2] + _TINY) / (statistics[:, -1] + _SMALL)
    penalty = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return np.asarray(100.0 * means * penalty[:, None], dtype=np.float64)


@dataclass(frozen=True)
class _Vector:
    """Tf-idf weights of one caption by n-gram order, their norms, and its length in bigrams."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    length: int


def cider(
    predictions: Texts, references: Groups, *, tokenizer: Tokenizer = tokenize, idf_from: Groups | None = None
) -> Scores:  # fmt: skip
    """CIDEr-D (Vedantam, Zitnick, Parikh, 2015; constants of the COCO caption evaluation): the mean, and the n scores.

    The rarity of an n-gram (idf) is counted over the references given here, or over those of `idf_from` (of the full
    set), so a score belongs to its set: the same caption scores otherwise in a subset, and a set of one scores 0.
    """
    check_pairs(predictions, references)
    documents = references if idf_from is None else idf_from
    # Each different text is weighed once: whoever compares regions asks about the same ones many times.
    asked = [*predictions, *(text for group in (*references, *documents) for text in group)]
    counts = {text: count_ngrams(tokenizer(text)) for text in dict.fromkeys(asked)}
    seen: Counter[NGram] = Counter()
    for group in documents:
        seen.update({ngram for text in group for order in counts[text] for ngram in order})
    rarest = math.log(len(documents))
    idf = {ngram: rarest - math.log(count) for ngram, count in seen.items()}
    vectors = {text: _vector(found, idf, rarest) for text, found in counts.items()}
    pairs = zip(predictions, references, strict=True)
    found = [sum(_similarity(vectors[t], vectors[due]) for due in g) / len(g) for t, g in pairs]
    scores = 1000.0 * np.array(found)  # CIDEr-D's own factor of 10, times 100
    return float(scores.mean()), scores


def _vector(counts: list[Counter[NGram]], idf: dict[NGram, float], rarest: float) -> _Vector:
    # An n-gram that no reference has is as rare as can be.
    weights = [{gram: n * idf.get(gram, rarest) for gram, n in order.items()} for order in counts]
    norms = [math.sqrt(sum(w * w for w in order.values())) for order in weights]
    return _Vector(weights, norms, length=counts[1].total())


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Mean over the orders of the clipped cosine, damped by the difference in length."""
    damping = math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for order in range(MAX_ORDER):
        norms = candidate.norms[order] * reference.norms[order]
        if norms == 0.0:
            continue
        other = reference.weights[order]
        # Clipping at the reference's weight keeps a repeated word from paying twice.
        both = ((w, other[gram]) for gram, w in candidate.weights[order].items() if gram in other)
        total += sum(min(weight, due) * due for weight, due in both) / norms
    return damping * total / MAX_ORDER


def rouge_l(predictions: Texts, references: Groups, *, tokenizer: Tokenizer = tokenize) -> Scores:
    """ROUGE-L (Lin, 2004; beta 1.2, best precision and recall over the references, as COCO): mean, and the n scores."""
    check_pairs(predictions, references)
    pairs = zip(predictions, references, strict=True)
    found = [_rouge(tokenizer(text), list(map(tokenizer, group))) for text, group in pairs]
    scores = 100.0 * np.array(found)
    return float(scores.mean()), scores


def _rouge(words: list[str], group: list[list[str]]) -> float:
    if not words:
        return 0.0
    shared = [longest_common_subsequence(words, due) for due in group]
    precision = max(shared) / len(words)
    recall = max(n / len(due) if due else 0.0 for n, due in zip(shared, group, strict=True))
    if precision == 0.0 or recall == 0.0:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence of two word lists."""
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for column, other in enumerate(right, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]


@dataclass(frozen=True)
class _Words:
    words: tuple[str, ...]
    stems: tuple[str, ...]
    weights: tuple[float, ...]


def stem_f(predictions: Texts, references: Groups, *, tokenizer: Tokenizer = tokenize) -> Scores:
    """METEOR's formula (Denkowski, Lavie, 2014, section 2.1) over exact and stem matches, best of the references.

    Without synonyms and paraphrases it is not METEOR; where only equal words match, both are the same number.
    """
    check_pairs(predictions, references)

    @cache
    def words_of(text: str) -> _Words:
        words = tuple(tokenizer(text))
        weights = tuple(1 - DELTA if word in FUNCTION_WORDS else DELTA for word in words)
        return _Words(words, tuple(map(stem, words)), weights)

    pairs = zip(map(words_of, predictions), references, strict=True)
    found = [max(_stem_f(said, words_of(other)) for other in group) for said, group in pairs]
    scores = 100.0 * np.array(found)
    return float(scores.mean()), scores


def _stem_f(said: _Words, due: _Words) -> float:
    pairs = align(said.stems, due.stems)
    if not pairs:
        return 0.0
    kinds = [1.0 if said.words[i] == due.words[j] else STEM_WEIGHT for i, j in pairs]
    matched = list(zip(pairs, kinds, strict=True))
    precision = sum(kind * said.weights[i] for (i, _), kind in matched) / sum(said.weights)
    recall = sum(kind * due.weights[j] for (_, j), kind in matched) / sum(due.weights)
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    chunks = 1 + sum((i + 1, j + 1) != following for (i, j), following in pairwise(pairs))
    if chunks == 1 and len(pairs) == len(said.words) == len(due.words):
        return mean  # nothing out of order and nothing left over: METEOR takes no penalty
    return float((1 - GAMMA * (chunks / len(pairs)) ** BETA) * mean)


def align(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Match equal items of two lists one to one, in few runs: sorted (index in left, index in right) pairs.

    Takes the longest run of items that are neighbours on both sides, again and again; of equally long ones that which
    starts first on the left, then on the right.
    """
    said, due = list[object](left), list[object](right)
    pairs: list[tuple[int, int]] = []
    while True:
        left_at, right_at, size = SequenceMatcher(None, said, due, False).find_longest_match()
        if not size:
            return sorted(pairs)
        for step in range(size):
            pairs.append((left_at + step, right_at + step))
            said[left_at + step], due[right_at + step] = object(), object()  # equal to nothing
