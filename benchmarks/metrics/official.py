"""The official caption metrics, for whoever has Java: the scorers of pycocoevalcap after the Stanford tokenizer.

Knows: how each scorer of `pycocoevalcap` is called and on what scale it answers. Does NOT know: our own metrics, which
give the same BLEU, ROUGE-L and CIDEr on the same words without Java (`tests/benchmarks/metrics/test_official.py`).

Every function takes plain captions, or with `tokenized=True` captions that are words joined by single spaces already;
BLEU, ROUGE-L and CIDEr then need no Java. Every function returns the value of the set and the scores of the samples,
times 100. SPICE lives in `benchmarks.metrics.spice`, METEOR's process in `benchmarks.metrics.meteor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.java import find_java, java_available, java_version
from benchmarks.metrics.meteor import Meteor
from benchmarks.metrics.ngrams import check_pairs
from benchmarks.metrics.ptb import ptb_tokenize
from benchmarks.metrics.spice import official_spice, spice_available
from patchioner.base.optional import require

__all__ = [
    "java_available",
    "java_version",
    "official_bleu",
    "official_cider",
    "official_meteor",
    "official_rouge_l",
    "official_spice",
    "ptb_pairs",
    "spice_available",
]

Texts = Sequence[str]
Groups = Sequence[Sequence[str]]
Scores = tuple[float, NDArray[np.float64]]


def ptb_pairs(predictions: Texts, references: Groups) -> tuple[list[str], list[list[str]]]:
    """Tokenise predictions and references in one run of the Stanford tokenizer.

    Returns:
        The n predictions and the n lists of references, each text as its words joined by single spaces.

    Raises:
        OptionError: the lists cannot be paired, or there is no usable Java.
        MissingExtraError: `pycocoevalcap` is not installed.

    Example:
        >>> ptb_pairs(["A dog."], [["The dog!"]])  # doctest: +SKIP
        (['a dog'], [['the dog']])
    """
    check_pairs(predictions, references)
    everything = [*predictions, *(text for group in references for text in group)]
    words = iter([" ".join(found) for found in ptb_tokenize(everything)])
    said = list(islice(words, len(predictions)))
    return said, [list(islice(words, len(group))) for group in references]


def official_cider(predictions: Texts, references: Groups, *, tokenized: bool = False) -> Scores:
    """Score captions by the published CIDEr-D code, times 100.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.
        tokenized: the captions are words joined by single spaces already.

    Returns:
        The mean, and the n scores as a float64 array of shape (n,).

    Raises:
        OptionError: the lists cannot be paired, or there is no Java.
        MissingExtraError: `pycocoevalcap` is not installed.

    Example:
        >>> mean, scores = official_cider(["a dog"], [["a dog"]])  # doctest: +SKIP
    """
    said, groups = _prepared(predictions, references, tokenized)
    if not any(text for group in groups.values() for text in group):
        # The published code takes the maximum over all n-grams, and there are none.
        return 0.0, np.zeros(len(said))
    scorer = require("pycocoevalcap.cider.cider", "metrics").Cider()
    mean, scores = scorer.compute_score(groups, said)
    return 100.0 * float(mean), 100.0 * np.asarray(scores, dtype=np.float64)


def official_bleu(
    predictions: Texts, references: Groups, *, tokenized: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score captions by the published BLEU-1..4 code, times 100.

    Args, errors: as `official_cider`.

    Returns:
        The four scores of the set (pooled counts), shape (4,), and of the samples, shape (n, 4); float64.

    Example:
        >>> corpus, samples = official_bleu(["a dog"], [["a dog"]], tokenized=True)  # doctest: +SKIP
    """
    said, groups = _prepared(predictions, references, tokenized)
    scorer = require("pycocoevalcap.bleu.bleu", "metrics").Bleu(4)
    corpus, samples = scorer.compute_score(groups, said, verbose=0)
    return 100.0 * np.asarray(corpus, np.float64), 100.0 * np.asarray(samples, np.float64).T


def official_rouge_l(predictions: Texts, references: Groups, *, tokenized: bool = False) -> Scores:
    """Score captions by the published ROUGE-L code, times 100.

    One quirk of it: an empty caption against an empty reference scores 100 (ours: 0).

    Args, errors: as `official_cider`.

    Returns:
        The mean, and the n scores as a float64 array of shape (n,).

    Example:
        >>> official_rouge_l(["a dog"], [["a dog"]], tokenized=True)[0]  # doctest: +SKIP
        100.0
    """
    said, groups = _prepared(predictions, references, tokenized)
    scorer = require("pycocoevalcap.rouge.rouge", "metrics").Rouge()
    mean, scores = scorer.compute_score(groups, said)
    return 100.0 * float(mean), 100.0 * np.asarray(scores, dtype=np.float64)


def official_meteor(
    predictions: Texts,
    references: Groups,
    *,
    tokenized: bool = False,
    meteor: Meteor | None = None,
) -> Scores:
    """Score captions by METEOR 1.5 after the Stanford tokenizer, times 100.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.
        tokenized: the captions are words joined by single spaces already.
        meteor: a running program to use and leave running; None starts one and ends it.

    Returns:
        The score of the set (pooled statistics) and the n scores of the samples, a float64 array of shape (n,).

    Raises:
        OptionError: the lists cannot be paired, there is no Java, or the program died.
        MissingExtraError: `pycocoevalcap` is not installed.

    Example:
        >>> official_meteor(["a dog"], [["a dog"]])[0]  # doctest: +SKIP
        100.0
    """
    check_pairs(predictions, references)
    if not tokenized:
        predictions, references = ptb_pairs(predictions, references)
    if meteor is not None:
        return meteor.score(predictions, references)
    with Meteor() as own:
        return own.score(predictions, references)


def _prepared(
    predictions: Texts, references: Groups, tokenized: bool
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Captions and references in the package's form: sample -> list of tokenised texts."""
    check_pairs(predictions, references)
    require("pycocoevalcap", "metrics")
    if not tokenized:
        find_java("the official metrics")
        predictions, references = ptb_pairs(predictions, references)
    said: dict[int, Any] = {index: [text] for index, text in enumerate(predictions)}
    return said, {index: list(group) for index, group in enumerate(references)}
