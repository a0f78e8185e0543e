"""From a file of sentences to the ones a decoder learns from, and the ones it is judged by.

Knows: text files, cleaning, what is held out; whatever is left out is logged. Does not know: embeddings, decoders.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchioner.adaptation.options import MOST_HELD_OUT
from patchioner.adaptation.sentences import normalise
from patchioner.base.errors import TextError

logger = logging.getLogger(__name__)

FEWEST = 20


@dataclass(frozen=True)
class Corpus:
    """Distinct normalised sentences, how often each occurred, and which of them are held out.

    Attributes:
        texts: N sentences.
        counts: N positive numbers.
        held_out: sorted indices of the sentences that validate.
        foreign: the held-out sentences are no part of the corpus proper, and so never enter the memory bank.
    """

    texts: tuple[str, ...]
    counts: tuple[int, ...]
    held_out: tuple[int, ...] = ()
    foreign: bool = False

    @property
    def training(self) -> list[int]:
        """Indices of the sentences that are not held out."""
        held_out = set(self.held_out)
        return [row for row in range(len(self.texts)) if row not in held_out]


def read_texts(path: str | os.PathLike[str]) -> list[str]:
    """Lines of a UTF-8 text file, blank ones included.

    Raises:
        TextError: the file cannot be read, or is no UTF-8 text.
    """
    try:
        # Not splitlines(), which also splits at form feeds and other marks inside a sentence.
        content = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TextError(
            f"cannot read the corpus {os.fspath(path)!r} ({error.strerror}): give a text file "
            "with one sentence per line"
        ) from error
    except UnicodeDecodeError as error:
        raise TextError(
            f"{os.fspath(path)!r} is not UTF-8 text ({error}): convert it, one sentence per line"
        ) from error
    lines = content.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def clean(texts: Iterable[str], name: str) -> Corpus:
    """Normalised distinct sentences with their counts; `name` is what the log calls them.

    Raises:
        TextError: something is not a string.
    """
    counts: Counter[str] = Counter()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextError(f"{name}: item {row} is {text!r}, not a string")
        counts[normalise(text)] += 1
    if blank := counts.pop("", 0):
        logger.warning("%s: left out %d blank lines", name, blank)
    repeats = counts.total() - len(counts)
    logger.info("%s: %d distinct sentences, %d repeats merged", name, len(counts), repeats)
    return Corpus(tuple(counts), tuple(counts.values()))


def gather(
    corpus: Corpus,
    validation: Corpus | None,
    *,
    fits: Callable[[Sequence[str]], Sequence[bool]],
    share: float,
    seed: int,
) -> Corpus:
    """Leave out what is too long, and hold some sentences out.

    Args:
        corpus: of `clean`.
        validation: sentences to validate on; None holds out a `share` of the corpus.
        fits: which of some texts are short enough for the decoder.
        share: of the distinct sentences, at least one of them and at most `MOST_HELD_OUT`; 0 holds none out.
        seed: of the choice.

    Raises:
        TextError: fewer than `FEWEST` distinct sentences, or no usable validation sentence.
    """
    own = _fitting(corpus, fits, "corpus")
    if len(own.texts) < FEWEST:
        raise TextError(
            f"the corpus has {len(own.texts)} distinct usable sentences: give at least {FEWEST}, "
            "better 1,000 or more, one per line"
        )
    if validation is None:
        return Corpus(own.texts, own.counts, _chosen(len(own.texts), share, seed))
    known, offered = set(own.texts), _fitting(validation, fits, "validation").texts
    others = [text for text in offered if text not in known]
    if len(others) < len(offered):
        logger.warning(
            "validation: left out %d sentences of the corpus itself", len(offered) - len(others)
        )
    if not others:
        raise TextError("no validation sentence is left: give sentences that the corpus lacks")
    others = [others[row] for row in _chosen(len(others), 1.0, seed)]
    first = len(own.texts)
    rows = tuple(range(first, first + len(others)))
    return Corpus((*own.texts, *others), (*own.counts, *[1] * len(others)), rows, foreign=True)


def _chosen(count: int, share: float, seed: int) -> tuple[int, ...]:
    if share == 0:
        return ()
    chosen = min(max(1, int(count * share)), MOST_HELD_OUT)
    return tuple(sorted(np.random.default_rng(seed).permutation(count)[:chosen].tolist()))


def _fitting(corpus: Corpus, fits: Callable[[Sequence[str]], Sequence[bool]], name: str) -> Corpus:
    rows = [row for row, fit in enumerate(fits(corpus.texts)) if fit]
    if len(rows) == len(corpus.texts):
        return corpus
    long = sorted(set(range(len(corpus.texts))) - set(rows))
    logger.warning(
        "%s: left out %d sentences longer than the decoder can write, such as %r",
        name,
        len(long),
        corpus.texts[long[0]][:80],
    )
    return Corpus(
        tuple(corpus.texts[row] for row in rows), tuple(corpus.counts[row] for row in rows)
    )
