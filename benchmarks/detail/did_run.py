"""DID-Bench on the words of a 7-billion-parameter model: filter and fusion against controls of equal length.

Knows: which texts are compared. Does NOT know: how they are made (`patchioner.detail`, `controls`) or scored (`did`).

    python -m benchmarks.detail.did_run --folder ../shared/data/did [--words 240] [--shifts 8] [--no-meteor]

No photo is looked at and no language model is asked: this measures sorting and choosing what was said. The budget is
one number for all photos, declared beforehand, since the length of a reference is unknown to whoever captions: 240
words, near the mean of the published references (248 and 239). Every control is as long as our text of the same photo.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.arguments import natural, positive
from benchmarks.detail import controls
from benchmarks.detail.did import DidPhoto, DidScores, did_scores, read_did
from benchmarks.metrics import Meteor
from patchioner.base.files import write_json
from patchioner.base.progress import progress
from patchioner.detail.fuse import FuseSettings, GreedyFuser
from patchioner.detail.judge import FilterSettings, filter_statements
from patchioner.detail.values import Photo, Verdict

WORDS = 240
METRICS = ("meteor", "cider", "rouge_l", "bleu4")


@dataclass(frozen=True, eq=False)
class Row:
    """One kind of text, scored: ours, or a control as long as `of`."""

    name: str
    of: str
    scores: DidScores


def kept_claims(photo: DidPhoto, *, rules: bool) -> list[Verdict]:
    """Verdicts on all that was said of a photo; without `rules` hedges and mood stay in."""
    settings = FilterSettings(rules=rules)
    return filter_statements(_unseen(photo), photo.regions, photo.statements, settings=settings)


def _unseen(photo: DidPhoto) -> Photo:
    """A photo of which only the size is known: no scorer is at work here."""
    return Photo(photo.name, Image.new("RGB", photo.size), "")


def fused_text(photo: DidPhoto, verdicts: Sequence[Verdict], settings: FuseSettings) -> str:
    """The paragraph made of the kept claims."""
    sentences, _ = GreedyFuser(settings).fuse(_unseen(photo), photo.regions, verdicts)
    return " ".join(sentence.text for sentence in sentences)


def kept_by_variant(photo: DidPhoto) -> dict[str, list[Verdict]]:
    """What is fused: all that was said; without hedges; without hedges and mood, as `FilterSettings()` has it."""
    filtered = kept_claims(photo, rules=True)
    mood = [
        replace(one, kept=True, reason=None) if one.reason == "mood" else one for one in filtered
    ]
    return {
        "fused": kept_claims(photo, rules=False),
        "filtered but mood, fused": mood,
        "filtered, fused": filtered,
    }


def control_texts(
    photos: Sequence[DidPhoto],
    kept: Sequence[Sequence[Verdict]],
    lengths: Sequence[int],
    shifts: Sequence[int],
) -> dict[str, list[str]]:
    """The controls, each as long as asked for its photo; of the wrong photos those of `shifts`."""
    same = [
        controls.extractive_of(verdicts, length)
        for verdicts, length in zip(kept, lengths, strict=True)
    ]
    return {"extractive, same sentences": same, **raw_controls(photos, lengths, shifts)}


def raw_controls(
    photos: Sequence[DidPhoto], lengths: Sequence[int], shifts: Sequence[int]
) -> dict[str, list[str]]:
    """Of the controls those that no filter has touched."""
    pairs = list(zip(photos, lengths, strict=True))
    wrong = {
        f"another photo's, shift {shift}": controls.wrong_texts(photos, shift, lengths)
        for shift in shifts
    }
    return {
        "extractive": [controls.extractive(photo, length) for photo, length in pairs],
        "global again": [controls.global_again(photo, length) for photo, length in pairs],
        "global alone": [controls.global_alone(photo) for photo in photos],
        **wrong,
    }


def compare(
    photos: Sequence[DidPhoto],
    words: int,
    meteor: Meteor | None,
    *,
    shifts: Sequence[int] = controls.SHIFTS,
) -> list[Row]:
    """Score our texts and, at the length of each, the controls.

    Args:
        photos: with references.
        words: the budget of our texts.
        meteor: a running METEOR; None leaves it out.
        shifts: by how many photos the wrong texts are off.
    """
    references = [photo.references for photo in photos]
    settings = FuseSettings(max_words=words, new_share=0.0)
    kept = [kept_by_variant(photo) for photo in progress(photos, description="filtering")]
    rows: list[Row] = []
    for name in kept[0]:
        own = [one[name] for one in kept]
        texts = [fused_text(photo, one, settings) for photo, one in zip(photos, own, strict=True)]
        rows.append(Row(name, name, did_scores(texts, references, meteor=meteor)))
        lengths = [max(len(text.split()), 1) for text in texts]
        for control, other in control_texts(photos, own, lengths, shifts).items():
            rows.append(Row(control, name, did_scores(other, references, meteor=meteor)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The scores as text, with paired differences (ours - control, 95 % of bootstrap rounds)."""
    lines: list[str] = []
    ours = {row.name: row.scores for row in rows if row.name == row.of}
    for name, own in ours.items():
        lines.append(_line(name, own, None))
        controls_of = [row for row in rows if row.of == name != row.name]
        wrong = [row for row in controls_of if row.name.startswith("another")]
        lines += [
            _line(f"  {row.name}", row.scores, own) for row in controls_of if row not in wrong
        ]
        if wrong:
            lines.append(
                _mean_line("  another photo's text, mean of shifts", [row.scores for row in wrong])
            )
    return "\n".join(lines)


def _line(name: str, scores: DidScores, own: DidScores | None) -> str:
    text = f"{name:38s} {scores.words.mean():6.1f} words"
    for metric in METRICS:
        if metric not in scores.values:
            continue
        text += f"  {metric} {scores.values[metric]:6.2f}"
        if own is not None and metric in ("meteor", "cider"):
            gain = own.gain_over(scores, metric)
            text += f" (ours {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}])"
    return text


def _mean_line(name: str, several: Sequence[DidScores]) -> str:
    text = f"{name:38s} {np.mean([one.words.mean() for one in several]):6.1f} words"
    for metric in METRICS:
        if metric in several[0].values:
            values = [one.values[metric] for one in several]
            text += f"  {metric} {np.mean(values):6.2f} ({min(values):.2f} to {max(values):.2f})"
    return text


def as_json(rows: Sequence[Row]) -> list[Mapping[str, object]]:
    """The scores, ready for JSON."""
    return [
        {
            "text": row.name,
            "as long as": row.of,
            "words": float(row.scores.words.mean()),
            **{name: round(value, 4) for name, value in row.scores.values.items()},
        }
        for row in rows
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detail.did_run", description=__doc__
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="holds describe_run.json and references_dev.json"
    )
    parser.add_argument("--words", type=positive, default=WORDS, help="length of our texts (240)")
    parser.add_argument(
        "--no-meteor", action="store_true", help="leave out METEOR, which needs Java"
    )
    parser.add_argument(
        "--shifts", type=natural, default=8, help="how many wrong photos per photo (8)"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the scores")
    given = parser.parse_args(arguments)
    photos = [photo for photo in read_did(given.folder) if photo.references]
    with nullcontext() if given.no_meteor else Meteor() as meteor:
        rows = compare(photos, given.words, meteor, shifts=range(1, given.shifts + 1))
    sys.stdout.write(table(rows) + "\n")
    if given.out:
        write_json(given.out, as_json(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
