"""Part "planted": how well the filter tells true statements from planted false ones, as tables and curves.

Knows: which sentences are true, the bar, the wording. Does NOT know: how falsehoods are planted (`planting`) or judged
(`planted`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.bootstrap import Interval
from benchmarks.detail.curves import precision_recall
from benchmarks.detail.part import PartResult, Setup, markdown_table, percent, plain
from benchmarks.detail.planted import KEPT, RECALLS, KindResult, measure
from benchmarks.readers import DevSets
from patchioner.detail.score import DenseScorer

DROPPED, AIM = 0.5, 0.7
CURVES_FILE = "planted.svg"


def run_planted(setup: Setup) -> PartResult:
    """Judge people's captions of the dev photos and the falsehoods planted in them.

    Raises:
        BenchmarkDataError: a file is missing or not in its form.
        OptionError: the model is not calibrated; the message names the command.

    Example:
        >>> run_planted(setup).missed  # doctest: +SKIP
        ()
    """
    sets = DevSets(setup.data)
    sentences, present = true_captions(sets, setup.limit)
    kept, rows = measure(
        DenseScorer(setup.model),
        setup.model,
        sentences,
        present,
        sets.root / "photos",
        seed=setup.seed,
    )
    return PartResult(
        "The filter against planted falsehoods",
        planted_text(kept, rows, sentences),
        {
            "photos": len(sentences),
            "sentences": sum(map(len, sentences.values())),
            "kept": plain(kept),
            "recalls": list(RECALLS),
            "kinds": [asdict(row) for row in rows],
        },
        missed_bars(kept, rows),
        {CURVES_FILE: precision_recall({row.kind: row.precision for row in rows}, RECALLS)},
    )


def true_captions(
    sets: DevSets, limit: int | None
) -> tuple[dict[str, Sequence[str]], dict[str, frozenset[str]]]:
    """People's captions of the dev photos, and the COCO classes of their boxes, by photo."""
    samples = sets.images()[:limit]
    present: dict[str, set[str]] = {sample.photo: set() for sample in samples}
    for box in sets.class_boxes():
        if box.photo in present:
            present[box.photo].add(box.name)
    classes = {photo: frozenset(names) for photo, names in present.items()}
    return {sample.photo: sample.references for sample in samples}, classes


def missed_bars(kept: Interval, rows: Sequence[KindResult]) -> tuple[str, ...]:
    """What the stored thresholds do not reach: 90 % of the true kept, half of the exchanged objects dropped."""
    missed = []
    if kept.value < KEPT:
        missed.append(f"{kept.value:.1%} of the true sentences are kept, not {KEPT:.0%}")
    missed += [
        f"{row.dropped.value:.1%} of the exchanged objects are dropped, not {DROPPED:.0%}"
        for row in rows
        if row.kind == "object" and row.dropped.value < DROPPED
    ]
    return tuple(missed)


def planted_text(
    kept: Interval, rows: Sequence[KindResult], sentences: Mapping[str, Sequence[str]]
) -> str:
    """The tables with what must be known to read them."""
    count = sum(map(len, sentences.values()))
    table = markdown_table(
        ["planted", "n", "dropped, %", "dropped at 90 % kept, %", "average precision"],
        [
            [
                row.kind,
                str(row.count),
                percent(row.dropped),
                f"{100 * row.dropped_at:.1f}",
                f"{100 * row.average_precision:.1f}",
            ]
            for row in rows
        ],
    )
    shown = [place for place, recall in enumerate(RECALLS) if round(100 * recall) % 10 == 0]
    curve = markdown_table(
        ["precision at true kept, %", *(f"{100 * RECALLS[place]:.0f}" for place in shown)],
        [[row.kind, *(f"{100 * row.precision[place]:.1f}" for place in shown)] for row in rows],
    )
    return (
        f"{count} captions of {len(sentences)} dev photos, written by people: true. Thresholds are those stored with "
        "the model, calibrated on training photos. "
        f"**True sentences kept: {percent(kept)} %.** An \"object\" is exchanged for one that is not in the photo's "
        "annotations, a \"likely object\" for one of those that often go with what is there.\n\n"
        + table
        + f"\nThe bar: at least {100 * DROPPED:.0f} % of exchanged objects dropped (aim {100 * AIM:.0f}), "
        f"{100 * KEPT:.0f} % of true sentences kept. Each false sentence is judged beside the true one that it was "
        "made of, so that keeping all has a precision of 50.\n\n"
        f"![Precision over recall]({CURVES_FILE})\n\n" + curve
    )  # fmt: skip
