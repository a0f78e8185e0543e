"""Command: how well the filter tells true statements from planted false ones.

    python -m benchmarks.detail.planted --model patchioner-mini --data ../shared/data --out planted.json
    python -m benchmarks.detail.planted --statements did --limit 60     # sentences of a 7-billion-parameter model

Knows: where true sentences come from, the measures, the table. Does NOT know: how a statement is planted (`planting`)
or scored. "captions" are people's captions of the dev photos: true. "did" are the sentences that the rules leave of a
large model's text on photos of DID-Bench: NOT all true, so that what is "kept of true" there is too low a figure, and
which classes are absent is known only from what that text does not name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import natural, positive
from benchmarks.bootstrap import Interval, bootstrap_mean
from benchmarks.detail.did import read_did
from benchmarks.detail.planting import KINDS, Planted, plant
from benchmarks.metrics.class_names import named_classes
from benchmarks.readers import DevSets
from patchioner import Patchioner
from patchioner.base.errors import PatchionerError
from patchioner.base.files import write_json
from patchioner.base.progress import progress
from patchioner.detail import DetailRegion, Photo, Statement, open_photo
from patchioner.detail.judge import FilterSettings, clean, filter_statements
from patchioner.detail.score import DenseScorer
from patchioner.detail.text import split_sentences
from patchioner.detail.values import Scorer

Floats = NDArray[np.float64]
RECALLS = tuple(round(share, 2) for share in np.arange(0.5, 1.0001, 0.05))
KEPT = 0.90  # of true sentences, at which kinds and models are compared


@dataclass(frozen=True)
class KindResult:
    """What the filter does with one kind of planted statement.

    Attributes:
        kind: of `benchmarks.detail.planting.KINDS`.
        count: of planted statements.
        dropped: share of them dropped at the stored thresholds, with its interval over photos.
        dropped_at: the same at the score that keeps `KEPT` of the true sentences.
        average_precision: of the score, true sentences against the false ones made of them.
        precision: of the kept at each of `RECALLS`.
    """

    kind: str
    count: int
    dropped: Interval
    dropped_at: float
    average_precision: float
    precision: tuple[float, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 1 after an error, or with `--check` where a bar is missed.

    Example:
        >>> main(["--limit", "20"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        sentences, present, folder = _source(arguments)
        model = Patchioner.from_pretrained(arguments.model)
        kept, rows = measure(
            DenseScorer(model), model, sentences, present, folder, seed=arguments.seed
        )
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(table(kept, rows))
    if arguments.out is not None:
        report: dict[str, object] = {
            "arguments": {key: str(value) for key, value in vars(arguments).items()}
        }
        report |= {
            "kept": asdict(kept),
            "recalls": list(RECALLS),
            "kinds": [asdict(row) for row in rows],
        }
        write_json(arguments.out, report)
    objects = next(row for row in rows if row.kind == "object")
    return int(arguments.check and (kept.value < KEPT or objects.dropped.value < 0.5))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detail.planted", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default="patchioner-mini")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--statements", choices=("captions", "did"), default="captions")
    parser.add_argument("--limit", type=positive, help="photos, the first ones")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--out", type=Path, help="JSON report")
    parser.add_argument(
        "--check",
        action="store_true",
        help="fail unless 90%% of true sentences are kept and 50%% of object swaps dropped",
    )
    return parser


Sentences = Mapping[str, Sequence[str]]
Present = Mapping[str, frozenset[str]]


def _source(arguments: argparse.Namespace) -> tuple[Sentences, Present, Path]:
    """True sentences and the classes there, by photo, and the folder of the photos."""
    if arguments.statements == "did":
        return (
            *_of_large_model(arguments.data / "did", arguments.limit),
            arguments.data / "did" / "photos",
        )
    sets = DevSets(arguments.data)
    samples = sets.images()[: arguments.limit]
    boxes: dict[str, set[str]] = {sample.photo: set() for sample in samples}
    for box in sets.class_boxes():
        if box.photo in boxes:
            boxes[box.photo].add(box.name)
    present = {photo: frozenset(names) for photo, names in boxes.items()}
    return {sample.photo: sample.references for sample in samples}, present, sets.root / "photos"


def _of_large_model(folder: Path, limit: int | None) -> tuple[Sentences, Present]:
    sentences: dict[str, list[str]] = {}
    present: dict[str, frozenset[str]] = {}
    for photo in read_did(folder)[:limit]:
        sentences[photo.name] = [
            one for one in split_sentences(photo.global_text) if clean(one) is None
        ]
        texts = [*(statement.text for statement in photo.statements), *photo.references]
        present[photo.name] = frozenset().union(*map(named_classes, texts))
    return sentences, present


def measure(
    scorer: Scorer,
    model: Patchioner | None,
    sentences: Sentences,
    present: Present,
    folder: Path,
    *,
    seed: int = 0,
) -> tuple[Interval, list[KindResult]]:
    """Judge true sentences and those planted in their place, each on the whole photo.

    Args:
        scorer: with its stored thresholds.
        model: encodes each photo once; None for scorers that read the photo itself.
        sentences: true ones, by file name of the photo.
        present: see `plant`.
        folder: of the photos.
        seed: of the planting.

    Returns:
        Share of the true sentences that are kept, with its interval over photos; one result per kind that was planted.
    """
    planted: dict[str, list[Planted]] = {}
    for one in plant(sentences, present, seed=seed):
        planted.setdefault(one.photo, []).append(one)
    kept: dict[tuple[str, str], bool] = {}
    scores: dict[tuple[str, str], float] = {}
    for photo in progress(list(sentences), description="judging", unit="photo"):
        texts = [*sentences[photo], *(one.false for one in planted.get(photo, ()))]
        opened = open_photo(folder / photo, model)
        for text, (keep, score) in _judged(opened, list(dict.fromkeys(texts)), scorer).items():
            kept[photo, text], scores[photo, text] = keep, score
    true = [(photo, text) for photo, texts in sentences.items() for text in texts]
    every = [one for ones in planted.values() for one in ones]
    level = float(np.quantile([scores[key] for key in true], 1 - KEPT))
    rows = [
        _result(kind, [one for one in every if one.kind == kind], kept, scores, level)
        for kind in KINDS
        if any(one.kind == kind for one in every)
    ]
    return bootstrap_mean([kept[key] for key in true], [photo for photo, _ in true]), rows


def _judged(photo: Photo, texts: Sequence[str], scorer: Scorer) -> dict[str, tuple[bool, float]]:
    """Text -> (whether it is kept, its score); each text stands alone, as a sample of its own."""
    width, height = photo.size
    whole = DetailRegion("global", "global", (0.0, 0.0, float(width), float(height)))
    alone = FilterSettings(rules=False, alike=1.0, merge=False)
    found: dict[str, tuple[bool, float]] = {}
    for text in texts:
        statements = [Statement("global", 0, text)]
        verdicts = filter_statements(photo, [whole], statements, scorer=scorer, settings=alone)
        scores = [verdict.support.score for verdict in verdicts if verdict.support is not None]
        found[text] = (all(verdict.kept for verdict in verdicts), min(scores, default=0.0))
    return found


def _result(
    kind: str,
    planted: Sequence[Planted],
    kept: Mapping[tuple[str, str], bool],
    scores: Mapping[tuple[str, str], float],
    level: float,
) -> KindResult:
    false = [(one.photo, one.false) for one in planted]
    dropped = bootstrap_mean([not kept[key] for key in false], [photo for photo, _ in false])
    of_false = np.array([scores[key] for key in false])
    of_true = np.array([scores[one.photo, one.true] for one in planted])
    precision = precision_at(of_true, of_false, RECALLS)
    return KindResult(
        kind,
        len(planted),
        dropped,
        float((of_false < level).mean()),
        average_precision(of_true, of_false),
        precision,
    )


def precision_at(of_true: Floats, of_false: Floats, recalls: Sequence[float]) -> tuple[float, ...]:
    """Precision of what is kept at the highest score that keeps each share of the true ones.

    Example:
        >>> precision_at(np.array([0.9, 0.8]), np.array([0.85, 0.1]), [0.5, 1.0])
        (1.0, 0.6666666666666666)
    """
    ordered = np.sort(of_true)[::-1]
    found = []
    for recall in recalls:
        level = ordered[max(0, int(np.ceil(recall * len(ordered) - 1e-9)) - 1)]
        right, wrong = int((of_true >= level).sum()), int((of_false >= level).sum())
        found.append(right / (right + wrong))
    return tuple(found)


def average_precision(of_true: Floats, of_false: Floats) -> float:
    """Mean over the true ones of the precision at each one's score.

    Example:
        >>> average_precision(np.array([0.9, 0.8]), np.array([0.85]))
        0.8333333333333333
    """
    at = [
        (of_true >= score).sum() / ((of_true >= score).sum() + (of_false >= score).sum())
        for score in of_true
    ]
    return float(np.mean(at))


def table(kept: Interval, rows: Sequence[KindResult]) -> str:
    """A table for people."""
    lines = [f"true sentences kept: {_percent(kept)}", ""]
    lines.append(
        f"{'planted':<14}{'n':>6}  {'dropped at the threshold':<26}{'at 90 % kept':>14}{'AP':>8}"
    )
    for row in rows:
        lines.append(
            f"{row.kind:<14}{row.count:>6}  {_percent(row.dropped):<26}{100 * row.dropped_at:>12.1f} %"
            f"{row.average_precision:>8.3f}"
        )
    return "\n".join(lines) + "\n"


def _percent(share: Interval) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


if __name__ == "__main__":
    sys.exit(main())
