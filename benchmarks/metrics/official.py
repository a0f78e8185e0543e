"""The official caption metrics, for whoever has Java: the scorers of pycocoevalcap after the Stanford tokenizer.

All take plain captions, or with `tokenized=True` words joined by single spaces (BLEU, ROUGE-L and CIDEr then need no
Java), and give the value of the set and the scores of the samples, x 100. All raise OptionError for lists that cannot
be paired, JavaError without Java, MissingExtraError without pycocoevalcap.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.java import (
    JavaError,
    Meteor,
    find_java,
    jar_of,
    one_line,
    ptb_tokenize,
    run_java,
)
from benchmarks.metrics.words import check_pairs
from patchioner.base.errors import OptionError
from patchioner.base.optional import require

Texts = Sequence[str]
Groups = Sequence[Sequence[str]]
Floats = NDArray[np.float64]

SPICE_JAR: Final = "spice-1.0.jar"
SPICE_MODELS: Final = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SPICE_SOURCE: Final = "https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
_OPENS: Final = (
    "java.lang", "java.math", "java.net", "java.text", "java.util", "java.util.concurrent",
)  # fmt: skip


class MissingModelError(OptionError):
    """SPICE's parser has not been put in place; the message says what to fetch and where it goes."""


def ptb_pairs(predictions: Texts, references: Groups) -> tuple[list[str], list[list[str]]]:
    """Predictions and references through one run of the Stanford tokenizer, each as words joined by spaces."""
    check_pairs(predictions, references)
    everything = [*predictions, *(text for group in references for text in group)]
    words = iter([" ".join(found) for found in ptb_tokenize(everything)])
    said = list(islice(words, len(predictions)))
    return said, [list(islice(words, len(group))) for group in references]


def official_cider(
    predictions: Texts, references: Groups, *, tokenized: bool = False
) -> tuple[float, Floats]:
    """The published CIDEr-D code: mean, and the n scores."""
    said, groups = _prepared(predictions, references, tokenized)
    if not any(text for group in groups.values() for text in group):
        # The published code takes the maximum over all n-grams, and there are none.
        return 0.0, np.zeros(len(said))
    mean, scores = (
        require("pycocoevalcap.cider.cider", "metrics").Cider().compute_score(groups, said)
    )
    return 100.0 * float(mean), 100.0 * np.asarray(scores, dtype=np.float64)


def official_bleu(
    predictions: Texts, references: Groups, *, tokenized: bool = False
) -> tuple[Floats, Floats]:
    """The published BLEU-1..4 code: of the set (pooled counts), (4,), and of the samples, (n, 4)."""
    said, groups = _prepared(predictions, references, tokenized)
    scorer = require("pycocoevalcap.bleu.bleu", "metrics").Bleu(4)
    corpus, samples = scorer.compute_score(groups, said, verbose=0)
    return 100.0 * np.asarray(corpus, np.float64), 100.0 * np.asarray(samples, np.float64).T


def official_rouge_l(
    predictions: Texts, references: Groups, *, tokenized: bool = False
) -> tuple[float, Floats]:
    """The published ROUGE-L code: mean, and the n scores. An empty caption against an empty reference is 100."""
    said, groups = _prepared(predictions, references, tokenized)
    mean, scores = (
        require("pycocoevalcap.rouge.rouge", "metrics").Rouge().compute_score(groups, said)
    )
    return 100.0 * float(mean), 100.0 * np.asarray(scores, dtype=np.float64)


def official_meteor(
    predictions: Texts,
    references: Groups,
    *,
    tokenized: bool = False,
    meteor: Meteor | None = None,
) -> tuple[float, Floats]:
    """METEOR 1.5 after the Stanford tokenizer, of the set (pooled) and the samples; a given one is left running."""
    check_pairs(predictions, references)
    if not tokenized:
        predictions, references = ptb_pairs(predictions, references)
    if meteor is not None:
        return meteor.score(predictions, references)
    with Meteor() as own:
        return own.score(predictions, references)


def official_spice(
    predictions: Texts, references: Groups, *, heap: str = "8G"
) -> tuple[float, Floats]:
    """SPICE (Anderson et al., 2016): mean, and the n F-scores; a sample without any proposition scores 0.

    The package fetches its parser (400 MB) over plain HTTP whenever its object is made, and fails on Java 17 and later.
    Nothing is fetched here, and the packages that its serializer looks into are opened.

    Raises:
        MissingModelError: the parser is not in place.
    """
    check_pairs(predictions, references)
    java = find_java("SPICE")
    check_spice()
    rows = [
        {"image_id": index, "test": one_line(text), "refs": [one_line(other) for other in group]}
        for index, (text, group) in enumerate(zip(predictions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="spice-") as folder:
        asked, answered = Path(folder) / "in.json", Path(folder) / "out.json"
        asked.write_text(json.dumps(rows), encoding="utf-8")
        # No -cache: the cache's native library is for Intel only, and a stale cache is a wrong score.
        command = [
            *java.arguments(heap=heap, opens=_OPENS),
            *("-jar", SPICE_JAR, str(asked), "-out", str(answered), "-subset", "-silent"),
        ]
        run_java(command, folder=jar_of("spice", SPICE_JAR).parent, purpose="SPICE")
        scores = read_spice(answered, len(rows))
    return float(scores.mean()), scores


def spice_available() -> bool:
    """Whether SPICE could run: pycocoevalcap, a usable Java and the parser's files are all there."""
    try:
        find_java("SPICE")
        check_spice()
    except (OptionError, ImportError):
        return False
    return True


def check_spice() -> Path:
    """Folder of SPICE's parser; MissingModelError while a file is missing."""
    folder = jar_of("spice", SPICE_JAR).parent / "lib"
    missing = [name for name in SPICE_MODELS if not (folder / name).is_file()]
    if missing:
        raise MissingModelError(
            f"SPICE needs {' and '.join(missing)}, which pycocoevalcap does not ship: fetch {SPICE_SOURCE} (400 MB),"
            f" take {' and '.join(SPICE_MODELS)} out of it and put them into {folder}; nothing is downloaded on its own"
        )
    return folder


def read_spice(path: Path, count: int) -> Floats:
    """F-scores x 100 from SPICE's output for `count` samples, in their order; JavaError if one is missing."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        found = {int(row["image_id"]): float(row["scores"]["All"]["f"]) for row in rows}
        scores = np.array([found[index] for index in range(count)], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JavaError(
            f"SPICE's answer cannot be read ({type(error).__name__}: {error}): run it with more memory or fewer samples"
        ) from error
    return 100.0 * np.nan_to_num(scores, nan=0.0)


def _prepared(
    predictions: Texts, references: Groups, tokenized: bool
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """In the package's form: sample -> list of tokenised texts."""
    check_pairs(predictions, references)
    require("pycocoevalcap", "metrics")
    if not tokenized:
        find_java("the official metrics")
        predictions, references = ptb_pairs(predictions, references)
    said = {index: [text] for index, text in enumerate(predictions)}
    return said, {index: list(group) for index, group in enumerate(references)}
