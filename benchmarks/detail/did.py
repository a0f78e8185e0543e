"""DID-Bench: long captions against one long reference each, scored on raw strings as published.

Knows: the three files of the set and its scoring. Does NOT know: which text is scored (`controls`, `did_run`).

The published evaluation (sterzhang/image-textualization, `benchmark/DenseCap_Metrics`) hands captions to the scorers
as they are, split at white space, with capitals and with stops glued to the words, so its numbers compare with no other
caption benchmark. It mostly pays for length: CIDEr-D falls off with exp(-d^2 / 72) in the difference d of the numbers
of words, so that a text 20 words off its reference scores next to nothing. Read a score only beside its word count and
the controls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import Difference, Interval, bootstrap_difference, bootstrap_mean
from benchmarks.metrics import Meteor, bleu, cider, rouge_l
from benchmarks.readers import BenchmarkDataError
from patchioner.detail.values import DetailRegion, RegionKind, Statement

DESCRIBE_RUN = "describe_run.json"
REFERENCES = "references_dev.json"
KINDS: Mapping[str, RegionKind] = {
    "quadrant": "spatial",
    "semantic": "semantic",
    "other": "semantic",
}
"""Kinds of regions in the file -> ours. "other" is a semantic region whose box was altered in the published run."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class DidPhoto:
    """A photo of DID-Bench, what a 7-billion-parameter model said of it, and its reference.

    Attributes:
        name: file name.
        size: (width, height) in pixels.
        regions: the whole photo ("global"), then four quadrants ("spatial-1" ...) and what was found ("semantic-1").
        statements: one of the whole photo, three of each other region.
        references: long descriptions; empty for photos that have none.
    """

    name: str
    size: tuple[int, int]
    regions: tuple[DetailRegion, ...]
    statements: tuple[Statement, ...]
    references: tuple[str, ...]

    @property
    def global_text(self) -> str:
        """What was said of the whole photo."""
        return self.statements[0].text

    def texts_of(self, region_id: str) -> tuple[str, ...]:
        """The samples of one region."""
        return tuple(one.text for one in self.statements if one.region_id == region_id)


def read_did(folder: Path) -> tuple[DidPhoto, ...]:
    """Read the photos of DID-Bench with all that was said of them.

    Args:
        folder: holds `describe_run.json` and `references_dev.json`.

    Returns:
        The photos in file order, those without reference too.

    Raises:
        BenchmarkDataError: a file that is missing or not in its documented form.

    Example:
        >>> len(read_did(Path("../shared/data/did")))  # doctest: +SKIP
        202
    """
    references = _json(folder / REFERENCES)
    run = _json(folder / DESCRIBE_RUN)
    try:
        return tuple(_photo(row, references) for row in run)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BenchmarkDataError(
            f"{folder / DESCRIBE_RUN} is not in its documented form ({type(error).__name__}: {error}): fetch it again"
        ) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkDataError(
            f"{path} cannot be read ({error}): give the folder of DID-Bench"
        ) from error


def _photo(row: Mapping[str, Any], references: Mapping[str, Sequence[str]]) -> DidPhoto:
    size = (int(row["width"]), int(row["height"]))
    regions = [DetailRegion("global", "global", (0.0, 0.0, float(size[0]), float(size[1])))]
    statements = [Statement("global", 0, str(row["global_description"]))]
    counts: dict[str, int] = {}
    for given in row["regions"]:
        kind = KINDS[given["kind"]]
        counts[kind] = counts.get(kind, 0) + 1
        left, top, right, bottom = map(float, given["xyxy"])
        region = DetailRegion(f"{kind}-{counts[kind]}", kind, (left, top, right, bottom))
        regions.append(region)
        statements += [
            Statement(region.id, sample, str(text))
            for sample, text in enumerate(given["descriptions"])
        ]
    name = str(row["file_name"])
    return DidPhoto(name, size, tuple(regions), tuple(statements), tuple(references.get(name, ())))


@dataclass(frozen=True, eq=False)
class DidScores:
    """Scores of n texts, times 100.

    Attributes:
        words: number of words of each text, (n,).
        values: metric -> value of the set: "bleu1".."bleu4", "rouge_l", "cider", and "meteor" where Java was used.
        samples: metric -> scores of the single texts, (n,). BLEU and METEOR pool their counts, so that their value is
            not the mean of these.
    """

    words: NDArray[np.float64]
    values: Mapping[str, float]
    samples: Mapping[str, NDArray[np.float64]]

    def interval(self, metric: str, *, seed: int = 0) -> Interval:
        """The mean of the single texts' scores with a bootstrap interval."""
        return bootstrap_mean(self.samples[metric], range(len(self.words)), seed=seed)

    def gain_over(self, other: DidScores, metric: str, *, seed: int = 0) -> Difference:
        """How much the single texts' scores exceed those of another set over the same photos; paired bootstrap."""
        return bootstrap_difference(
            other.samples[metric], self.samples[metric], range(len(self.words)), seed=seed
        )


def did_scores(
    texts: Sequence[str], references: Sequence[Sequence[str]], *, meteor: Meteor | None = None
) -> DidScores:
    """Score long captions as DID-Bench does: raw strings, split at white space.

    Args:
        texts: n captions.
        references: n lists of at least one reference each.
        meteor: a running METEOR, which is used and left running; None leaves METEOR out (it needs Java).

    Raises:
        OptionError: the lists cannot be paired.
        JavaError: METEOR died.

    Example:
        >>> found = did_scores(["A dog. It sleeps."], [["A dog. It sleeps."]])
        >>> found.values["rouge_l"], found.words.tolist()
        (100.0, [4.0])
    """
    pooled, single = bleu(texts, references, tokenizer=str.split)
    values = {f"bleu{order + 1}": float(pooled[order]) for order in range(4)}
    samples = {f"bleu{order + 1}": single[:, order] for order in range(4)}
    values["rouge_l"], samples["rouge_l"] = rouge_l(texts, references, tokenizer=str.split)
    values["cider"], samples["cider"] = cider(texts, references, tokenizer=str.split)
    if meteor is not None:
        values["meteor"], samples["meteor"] = meteor.score(texts, references)
    words = np.array([len(text.split()) for text in texts], dtype=np.float64)
    return DidScores(words, values, samples)
