"""The official caption metrics, for whoever has Java.

Knows: how to call `pycocoevalcap` and what it needs. Does NOT know: our own metrics, which give
the same CIDEr without Java but for a few rare tokens.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.ngrams import check_pairs
from patchioner_base.errors import OptionError
from patchioner_base.optional import require


def java_available() -> bool:
    """Tell whether a `java` command is on the PATH."""
    return shutil.which("java") is not None


def official_cider(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, NDArray[np.float64]]:
    """Score captions by the published CIDEr code after the Stanford tokenizer, times 100.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.

    Returns:
        The mean, and the n scores as a float64 array of shape (n,).

    Raises:
        OptionError: the lists cannot be paired, or there is no Java.
        MissingExtraError: `pycocoevalcap` is not installed.

    Example:
        >>> mean, scores = official_cider(["a dog"], [["a dog"]])  # doctest: +SKIP
    """
    check_pairs(predictions, references)
    tokenizer = require("pycocoevalcap.tokenizer.ptbtokenizer", "metrics").PTBTokenizer()
    scorer = require("pycocoevalcap.cider.cider", "metrics").Cider()
    if not java_available():
        raise OptionError(
            "the official CIDEr tokenises with Java and no `java` is on the PATH: install a Java"
            " runtime, or use the Java-free metric (official=False)"
        )
    candidates = tokenizer.tokenize(
        {index: [{"caption": text}] for index, text in enumerate(predictions)}
    )
    groups = tokenizer.tokenize(
        {index: [{"caption": text} for text in group] for index, group in enumerate(references)}
    )
    mean, scores = scorer.compute_score(groups, candidates)
    return 100.0 * float(mean), 100.0 * np.asarray(scores, dtype=np.float64)
