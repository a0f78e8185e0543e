"""Command: how well the whole filter finds one false thing among all that a large model said of a photo.

    python -m benchmarks.detail.planted_among --data ../shared/data [--limit 30] [--references]

In every other sample one sentence has one thing exchanged for a COCO class that no text about the photo names; then the
whole filter runs. The sentences left alone count as true, though not all of them are; that nobody else names the
planted thing is so by the way it is planted: a mistake that a model makes every time is not measured here.

Knows: where sentences come from, the counting. Does NOT know: how statements are judged (`patchioner.detail.filter`).
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.arguments import natural, positive
from benchmarks.bootstrap import Interval, bootstrap_mean
from benchmarks.detail.did import DidPhoto, read_did
from benchmarks.detail.planting import swapped_object
from benchmarks.metrics.class_names import SYNONYMS, named_classes
from patchioner import Patchioner
from patchioner.base.progress import progress
from patchioner.detail import Photo, Statement, open_photo
from patchioner.detail.filter import DenseScorer, FilterSettings, clean, filter_statements
from patchioner.detail.stages import Scorer
from patchioner.detail.text import split_sentences


def planted_statements(photo: DidPhoto, seed: int = 0) -> tuple[list[Statement], set[str]]:
    """The statements of a photo with a false sentence in every other one, and the false sentences."""
    generator = random.Random(f"{seed} {photo.name}")
    here = frozenset().union(
        *map(named_classes, [*(one.text for one in photo.statements), *photo.references])
    )
    absent = sorted(set(SYNONYMS) - here)
    statements, false = [], set()
    for place, statement in enumerate(photo.statements):
        sentences = split_sentences(statement.text)
        fitting = [
            at
            for at, text in enumerate(sentences)
            if clean(text).text == text and named_classes(text)
        ]
        if place % 2 == 0 and fitting and absent:
            at = generator.choice(fitting)
            swap = swapped_object(photo.name, sentences[at], absent, generator)
            if swap is not None and split_sentences(swap) == [swap]:
                sentences[at] = swap
                false.add(swap)
        statements.append(replace(statement, text=" ".join(sentences)))
    return statements, false


def judged(
    photo: DidPhoto, opened: Photo, scorer: Scorer, settings: FilterSettings, seed: int = 0
) -> tuple[list[bool], list[bool]]:
    """Whether each true sentence that the rules leave is kept, and whether each false one is dropped.

    What is folded into another as its like counts as kept.
    """
    statements, false = planted_statements(photo, seed)
    true_kept, false_dropped = [], []
    for verdict in filter_statements(
        opened, photo.regions, statements, scorer=scorer, settings=settings
    ):
        kept = verdict.kept or verdict.reason == "duplicate"
        if verdict.claim.text in false:
            false_dropped.append(not kept)
        elif verdict.support is not None:
            true_kept.append(kept)
    return true_kept, false_dropped


def measure(
    photos: Sequence[DidPhoto],
    folder: Path,
    model: Patchioner,
    settings: FilterSettings,
    seed: int = 0,
) -> tuple[Interval, Interval]:
    """Share of the true sentences kept, and of the planted ones dropped, with intervals over photos."""
    scorer = DenseScorer(model)
    kept: list[tuple[bool, str]] = []
    dropped: list[tuple[bool, str]] = []
    for photo in progress(photos, description="judging", unit="photo"):
        opened = open_photo(folder / photo.name, model)
        of_true, of_false = judged(photo, opened, scorer, settings, seed)
        kept += [(one, photo.name) for one in of_true]
        dropped += [(one, photo.name) for one in of_false]
    return (
        bootstrap_mean([one for one, _ in kept], [name for _, name in kept]),
        bootstrap_mean([one for one, _ in dropped], [name for _, name in dropped]),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detail.planted_among")
    parser.add_argument("--model", default="patchioner-mini")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=positive, help="photos, the first ones")
    parser.add_argument(
        "--references", action="store_true", help="photos that have references; else the others"
    )
    parser.add_argument("--seed", type=natural, default=0)
    given = parser.parse_args(argv)
    folder = given.data / "did"
    photos = [one for one in read_did(folder) if bool(one.references) == given.references]
    model = Patchioner.from_pretrained(given.model)
    kept, dropped = measure(
        photos[: given.limit], folder / "photos", model, FilterSettings(), given.seed
    )
    for name, share in (("true kept", kept), ("planted dropped", dropped)):
        sys.stdout.write(f"{name}: {share.value:.3f} [{share.low:.3f}, {share.high:.3f}]\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
