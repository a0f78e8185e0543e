"""Parts "objects" and "end-to-end": paragraphs of the loaded model itself, from photo to text.

Knows: which photos, what their texts are measured by. Does NOT know: how texts are made (`paragraphs`) or scored
(`objects`, `did`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.detail.did import DidPhoto, read_did
from benchmarks.detail.did_tables import (
    as_json,
    did_table,
    gains_table,
    objects_table,
    score_texts,
)
from benchmarks.detail.objects import METRICS, ObjectScores, object_scores
from benchmarks.detail.paragraphs import PARAGRAPH, Described, described, reasons, texts_of
from benchmarks.detail.part import PartResult, Setup, markdown_table, percent, plain
from benchmarks.readers import DevSets
from patchioner.base.errors import OptionError


def run_objects(setup: Setup) -> PartResult:
    """Objects that the paragraphs of the dev photos name, against COCO's boxes of these photos.

    Raises:
        BenchmarkDataError, OptionError, DetailError: see `described`; fewer than two photos.

    Example:
        >>> print(run_objects(setup).text)  # doctest: +SKIP
    """
    present = annotated(setup)
    sets = DevSets(setup.data)
    photos = described(setup, [sets.photo_path(name) for name in present], "dev")
    texts = texts_of(_several(photos), seed=setup.seed)
    classes = list(present.values())
    every = {name: object_scores(found, classes) for name, found in texts.items()}
    others = {name: object_scores(found, classes, people=False) for name, found in texts.items()}
    return PartResult(
        "Objects named, against COCO's boxes",
        _objects_text(every, others, photos, setup),
        {
            "photos": len(photos),
            "objects": _objects_json(every, setup.seed),
            "but people": _objects_json(others, setup.seed),
            "reasons": dict(reasons(photos)),
        },
    )


def run_end_to_end(setup: Setup) -> PartResult:
    """DID-Bench with the loaded model's own paragraphs.

    Raises:
        As `run_objects`.

    Example:
        >>> print(run_end_to_end(setup).text)  # doctest: +SKIP
    """
    folder = setup.data / "did"
    photos = [photo for photo in read_did(folder) if photo.references][: setup.limit]
    found = described(setup, [folder / "photos" / photo.name for photo in photos], "did")
    texts = texts_of(_several(found), seed=setup.seed)
    scored = {name: score_texts(photos, text, setup.meteor) for name, text in texts.items()}
    text = (
        f"{len(photos)} photos. The references have {_reference_words(photos):.0f} words; our paragraphs are as long "
        "as what there is to say, so that CIDEr, which pays for equal length, is next to nothing for all.\n\n"
        + did_table(scored)
        + "\nPaired differences:\n\n"
        + gains_table(scored, seed=setup.seed)
        + "\nObjects against those that the reference names (a proxy):\n\n"
        + objects_table(scored, seed=setup.seed)
        + "\n" + _reasons_table(found)
    )  # fmt: skip
    values = {
        "photos": len(photos),
        "texts": as_json(scored, seed=setup.seed),
        "reasons": dict(reasons(found)),
    }
    return PartResult("DID-Bench end to end", text, values)


def annotated(setup: Setup) -> dict[str, frozenset[str]]:
    """Photo -> COCO classes of its boxes, of the dev photos that have any, in file order.

    Raises:
        BenchmarkDataError: the file is missing or not in its form.
    """
    present: dict[str, set[str]] = {}
    for box in DevSets(setup.data).class_boxes():
        present.setdefault(box.photo, set()).add(box.name)
    return {name: frozenset(found) for name, found in list(present.items())[: setup.limit]}


def _several(photos: list[Described]) -> list[Described]:
    if len(photos) < 2:
        raise OptionError(
            f"{len(photos)} photos: give at least 2, since texts of other photos are a control"
        )
    return photos


def _objects_text(
    every: Mapping[str, ObjectScores],
    others: Mapping[str, ObjectScores],
    photos: Sequence[Described],
    setup: Setup,
) -> str:
    return (
        f"{len(photos)} dev photos with boxes, {every[PARAGRAPH].there.mean():.1f} classes in each; times 100, with "
        "95 % of bootstrap rounds over photos. \"Clean\": texts that name nothing that is not there.\n\n"
        + _table(every, setup.seed)
        + "\nThe same without the class \"person\", which is in most photos:\n\n"
        + _table(others, setup.seed)
        + "\nPaired differences, all classes:\n\n"
        + _gains(every, setup.seed)
        + "\n" + _reasons_table(photos)
    )  # fmt: skip


def _table(scores: Mapping[str, ObjectScores], seed: int) -> str:
    rows = [
        [
            name,
            f"{one.words.mean():.0f}",
            f"{one.named.mean():.1f}",
            *(percent(one.interval(metric, seed=seed)) for metric in METRICS),
        ]
        for name, one in scores.items()
    ]
    return markdown_table(["text", "words", "objects", *METRICS], rows)


def _gains(scores: Mapping[str, ObjectScores], seed: int) -> str:
    own = scores[PARAGRAPH]
    rows = [
        [name, *(percent(own.gain_over(one, metric, seed=seed), signed=True) for metric in METRICS)]
        for name, one in scores.items()
        if name != PARAGRAPH
    ]
    return markdown_table([f'"{PARAGRAPH}" minus', *METRICS], rows)


def _reasons_table(photos: Sequence[Described]) -> str:
    rows = [[reason, f"{100 * share:.1f}"] for reason, share in reasons(photos).items()]
    empty = sum(not one.filtered.text for one in photos)
    note = f"\nEmpty paragraphs: {empty} of {len(photos)}.\n"
    return markdown_table(["what became of the captions of regions", "%"], rows) + note


def _objects_json(scores: Mapping[str, ObjectScores], seed: int) -> dict[str, object]:
    return {
        name: {
            "words": float(one.words.mean()),
            "objects": float(one.named.mean()),
            **{metric: plain(one.interval(metric, seed=seed)) for metric in METRICS},
        }
        for name, one in scores.items()
    }


def _reference_words(photos: Sequence[DidPhoto]) -> float:
    lengths = [len(text.split()) for photo in photos for text in photo.references]
    return sum(lengths) / len(lengths)
