"""SPICE through its Java program, without its download and without its cache.

Knows: the program inside pycocoevalcap, the parser's model that has to be fetched by hand, and the flags that let the
program of 2016 run on today's Java. Does NOT know: other metrics.

Source: Anderson, Fernando, Johnson, Gould, "SPICE: Semantic Propositional Image Caption Evaluation" (2016).

pycocoevalcap fetches the parser (400 MB) from the network whenever a `Spice` object is made, over plain HTTP. Nothing
is fetched here: without the two files, the error says what to fetch and where it goes. On Java 17 and later the
package's own call ends in InaccessibleObjectException; here the packages that its serializer looks into are opened
(checked on Java 17 and 25: the serializer starts and works; a whole run needs the parser's files).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.java import JavaError, find_java, jar_of, one_line, run_java
from benchmarks.metrics.ngrams import check_pairs
from patchioner.base.errors import OptionError

JAR: Final = "spice-1.0.jar"
MODELS: Final = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SOURCE: Final = "https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"

_OPENS: Final = (
    "java.lang",
    "java.math",
    "java.net",
    "java.text",
    "java.util",
    "java.util.concurrent",
)


class MissingModelError(OptionError):
    """SPICE's parser has not been put in place; the message says what to fetch and where it goes."""


def spice_available() -> bool:
    """Tell whether SPICE could run: pycocoevalcap, a usable Java and the parser's files are all there.

    Example:
        >>> spice_available()  # doctest: +SKIP
        False
    """
    try:
        find_java("SPICE")
        check_models()
    except (OptionError, ImportError):
        return False
    return True


def check_models() -> Path:
    """Return the folder of the parser's files, once they are there.

    Raises:
        MissingModelError: a file is missing.
        MissingExtraError: pycocoevalcap is not installed.

    Example:
        >>> check_models()  # doctest: +SKIP
    """
    folder = jar_of("spice", JAR).parent / "lib"
    missing = [name for name in MODELS if not (folder / name).is_file()]
    if missing:
        raise MissingModelError(
            f"SPICE needs {' and '.join(missing)}, which pycocoevalcap does not ship: fetch {SOURCE} (400 MB), take"
            f" {' and '.join(MODELS)} out of it and put them into {folder}; nothing is downloaded on its own"
        )
    return folder


def official_spice(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, heap: str = "8G"
) -> tuple[float, NDArray[np.float64]]:
    """Score captions by SPICE, times 100.

    Args:
        predictions: n captions, as text.
        references: n lists of at least one reference each.
        heap: largest Java heap (the evaluation's own 8 GB).

    Returns:
        The mean, and the n F-scores as a float64 array of shape (n,). A sample without a single proposition on either
        side, for which the program says NaN, scores 0.

    Raises:
        OptionError: the lists cannot be paired.
        MissingModelError: the parser is not in place.
        JavaError: no usable Java, or the program failed.
        MissingExtraError: pycocoevalcap is not installed.

    Example:
        >>> official_spice(["a red bus"], [["the bus is red"]])  # doctest: +SKIP
    """
    check_pairs(predictions, references)
    java = find_java("SPICE")
    check_models()
    rows = [
        {"image_id": index, "test": one_line(text), "refs": [one_line(other) for other in group]}
        for index, (text, group) in enumerate(zip(predictions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="spice-") as folder:
        asked, answered = Path(folder) / "in.json", Path(folder) / "out.json"
        asked.write_text(json.dumps(rows), encoding="utf-8")
        head = java.arguments(heap=heap, opens=_OPENS)
        # No -cache: the cache's native library is for Intel only, and a stale cache is a wrong score.
        command = [*head, "-jar", JAR, str(asked), "-out", str(answered), "-subset", "-silent"]
        run_java(command, folder=jar_of("spice", JAR).parent, purpose="SPICE")
        scores = read_scores(answered, len(rows))
    return float(scores.mean()), scores


def read_scores(path: Path, count: int) -> NDArray[np.float64]:
    """Read the F-scores, times 100, from the program's output for `count` samples, in the samples' order.

    Raises:
        JavaError: the file is missing or not in the program's form, or a sample is missing.
    """
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        found = {int(row["image_id"]): float(row["scores"]["All"]["f"]) for row in rows}
        scores = np.array([found[index] for index in range(count)], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JavaError(
            f"SPICE's answer cannot be read ({type(error).__name__}: {error}): run it with more memory or fewer samples"
        ) from error
    return 100.0 * np.nan_to_num(scores, nan=0.0)
