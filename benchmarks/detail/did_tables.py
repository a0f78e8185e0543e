"""Texts of DID-Bench with all that was measured of them, as tables and as JSON.

Knows: scores, the order of columns. Does NOT know: which texts are compared, and what is demanded of them (`did_bar`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.detail.did import DidPhoto, DidScores, did_scores
from benchmarks.detail.objects import ObjectScores, object_scores
from benchmarks.detail.part import figure, markdown_table, percent, plain
from benchmarks.metrics import Meteor
from benchmarks.metrics.class_names import named_classes

BAR = ("meteor", "cider")
"""The metrics that texts are held to."""
WRONG = "another photo's, shift"
NAMES = {
    "meteor": "METEOR",
    "cider": "CIDEr",
    "rouge_l": "ROUGE-L",
    **{f"bleu{order}": f"BLEU-{order}" for order in range(1, 5)},
}
_METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider")


@dataclass(frozen=True, eq=False)
class Scored:
    """Texts of all photos with what was measured of them.

    Attributes:
        texts: one per photo.
        did: scores of DID-Bench.
        objects: against the objects that the references name.
    """

    texts: Sequence[str]
    did: DidScores
    objects: ObjectScores


Block = Mapping[str, Scored]
"""One of our texts, first, and what it is compared with, each as long as it."""


def score_texts(photos: Sequence[DidPhoto], texts: Sequence[str], meteor: Meteor | None) -> Scored:
    """Score one text per photo; METEOR is left out where there is none."""
    references = [photo.references for photo in photos]
    named = [frozenset().union(*map(named_classes, photo.references)) for photo in photos]
    return Scored(texts, did_scores(texts, references, meteor=meteor), object_scores(texts, named))


def did_table(scored: Block) -> str:
    """All metrics of all texts; the wrong texts' as their mean."""
    metrics = [name for name in _METRICS if name in next(iter(scored.values())).did.values]
    wrong = [one.did for name, one in scored.items() if name.startswith(WRONG)]
    rows = [
        [name, f"{one.did.words.mean():.0f}", *(f"{one.did.values[m]:.2f}" for m in metrics)]
        for name, one in scored.items()
        if not name.startswith(WRONG)
    ]
    if wrong:
        means = [f"{np.mean([one.values[metric] for one in wrong]):.2f}" for metric in metrics]
        words = f"{np.mean([one.words.mean() for one in wrong]):.0f}"
        rows.append([f"another photo's text, mean of {len(wrong)}", words, *means])
    return markdown_table(["text", "words", *(NAMES[metric] for metric in metrics)], rows)


def gains_table(scored: Block, *, seed: int = 0) -> str:
    """Paired differences of the single texts' scores: the first minus each other."""
    ours = next(iter(scored))
    own = scored[ours].did
    metrics = [name for name in (*BAR, "rouge_l", "bleu4") if name in own.values]
    rows = []
    for name, other in scored.items():
        if name != ours and (not name.startswith(WRONG) or name.endswith("shift 1")):
            gains = [own.gain_over(other.did, metric, seed=seed) for metric in metrics]
            ratio = f"{100 * (other.did.words.mean() / max(own.words.mean(), 1) - 1):+.1f} %"
            cells = [figure(g.value, g.low, g.high, signed=True, digits=2) for g in gains]
            rows.append([name, ratio, *cells])
    head = [f'"{ours}" minus', "its words", *(NAMES[metric] for metric in metrics)]
    return markdown_table(head, rows)


def objects_table(scored: Block, *, seed: int = 0) -> str:
    """Objects named, precision, recall and clean texts, with intervals."""
    rows = [
        [
            name,
            f"{one.objects.words.mean():.0f}",
            f"{one.objects.named.mean():.1f}",
            *(percent(one.objects.interval(metric, seed=seed)) for metric in ("precision", "recall", "clean")),
        ]
        for name, one in scored.items()
        if not name.startswith(WRONG) or name.endswith("shift 1")
    ]  # fmt: skip
    return markdown_table(["text", "words", "objects", "precision", "recall", "clean"], rows)


def as_json(scored: Block, *, seed: int = 0) -> list[dict[str, object]]:
    """All figures, ready for JSON."""
    ours = next(iter(scored))
    own = scored[ours].did
    return [
        {
            "text": name,
            "words": float(one.did.words.mean()),
            "scores": {metric: round(value, 4) for metric, value in one.did.values.items()},
            "ours minus this": {
                metric: plain(own.gain_over(one.did, metric, seed=seed))
                for metric in BAR
                if metric in own.values and name != ours
            },
            "objects": {
                metric: plain(one.objects.interval(metric, seed=seed))
                for metric in ("precision", "recall", "clean")
            },
        }
        for name, one in scored.items()
    ]
