"""DID-Bench: reading, scoring, controls."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detail import controls
from benchmarks.detail.did import DidPhoto, did_scores, read_did
from benchmarks.detail.did_run import compare, main, table
from benchmarks.readers import BenchmarkDataError
from patchioner.base.errors import OptionError
from patchioner.detail.values import Claim, Verdict

GLOBAL = "The image shows a {0} dog on a couch. A lamp stands near the {0} dog. It looks serene."
PART = "There is a {0} lamp. The lamp is tall and {0}. It appears to be old."
COLOURS = ("red", "green", "blue")


def row(place: int, colour: str) -> dict[str, object]:
    parts = [
        {
            "xyxy": [0, 0, 50, 50],
            "kind": "quadrant",
            "descriptions": [PART.format(colour), "A tall lamp.", "A lamp."],
        },
        {
            "xyxy": [10, 10, 50, 50],
            "kind": "semantic",
            "descriptions": [f"A {colour} dog sleeps."] * 3,
        },
    ]
    return {
        "file_name": f"{place}.jpg", "width": 100, "height": 100,
        "global_description": GLOBAL.format(colour), "regions": parts,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [row(place, colour) for place, colour in enumerate(COLOURS)]
    (tmp_path / "describe_run.json").write_text(json.dumps(rows))
    references = {
        f"{place}.jpg": [f"A {colour} dog lies on a couch by a tall lamp."]
        for place, colour in enumerate(COLOURS)
    }
    (tmp_path / "references_dev.json").write_text(json.dumps(references))
    return tmp_path


@pytest.fixture
def photos(folder: Path) -> tuple[DidPhoto, ...]:
    return read_did(folder)


def test_the_files_are_read(photos: tuple[DidPhoto, ...]) -> None:
    first = photos[0]
    assert [region.id for region in first.regions] == ["global", "spatial-1", "semantic-1"]
    assert first.regions[0].box == (0, 0, 100, 100)
    assert first.global_text == GLOBAL.format("red")
    assert first.texts_of("spatial-1")[1:] == ("A tall lamp.", "A lamp.")
    assert len(first.references) == 1


def test_bad_files_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="cannot be read"):
        read_did(tmp_path / "nowhere")
    (folder / "describe_run.json").write_text('[{"file_name": "a.jpg"}]')
    with pytest.raises(BenchmarkDataError, match="documented form"):
        read_did(folder)


def plain_rouge_l(said: str, due: str) -> float:
    """Longest common subsequence, F with beta 1.2 (Lin, 2004), on raw words."""
    first, second = said.split(), due.split()
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
            )
    precision, recall = table[-1, -1] / len(first), table[-1, -1] / len(second)
    return float(100 * (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision))


def grams(text: str, size: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[at : at + size]) for at in range(len(words) - size + 1))


def plain_cider(said: list[str], due: list[str]) -> list[float]:
    """CIDEr-D (Vedantam et al., 2015) of one reference each, on raw words, written out."""

    def weighed(text: str, size: int) -> dict[tuple[str, ...], float]:
        return {
            gram: often * math.log(len(due) / max(sum(gram in grams(one, size) for one in due), 1))
            for gram, often in grams(text, size).items()
        }

    scores = []
    for text, reference in zip(said, due, strict=True):
        total = 0.0
        gap = len(text.split()) - len(reference.split())
        for size in range(1, 5):
            ours, theirs = weighed(text, size), weighed(reference, size)
            norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
            shared = ours.keys() & theirs.keys()
            dot = sum(min(ours[gram], theirs[gram]) * theirs[gram] for gram in shared)
            total += (dot / norms if norms else 0.0) * math.exp(-(gap**2) / 72)
        scores.append(1000 * total / 4)
    return scores


def test_scores_against_plain_twins_on_raw_words() -> None:
    said = ["A red dog. It lies", "a dog sits on a big Couch", "The cat is on the mat."]
    due = ["A red dog lies down.", "a dog sits on the Couch", "A cat lies on the mat."]
    found = did_scores(said, [[one] for one in due])
    assert found.samples["cider"] == pytest.approx(plain_cider(said, due))
    assert found.samples["rouge_l"] == pytest.approx(
        [plain_rouge_l(*pair) for pair in zip(said, due, strict=True)]
    )
    assert found.values["cider"] == pytest.approx(found.samples["cider"].mean())
    assert "meteor" not in found.values
    assert found.words.tolist() == [5, 7, 6]


def test_capitals_and_stops_count() -> None:
    assert did_scores(["a Dog."], [["a dog"]]).values["bleu1"] == pytest.approx(50.0)


def test_intervals_and_paired_gains() -> None:
    better, worse = (
        did_scores(["a b c d"] * 3, [["a b c d"]] * 3),
        did_scores(["a b"] * 3, [["a b c d"]] * 3),
    )
    assert better.interval("rouge_l").low == pytest.approx(100.0)
    assert better.gain_over(worse, "rouge_l").beyond_noise


def test_filling_passes_over_what_does_not_fit() -> None:
    assert controls.filled(["A dog.", "A very long sentence.", "A cat."], 4) == "A dog. A cat."
    assert (
        controls.filled(["A red dog.", "A red dog!", "A cat."], 9, new_below=0.5)
        == "A red dog. A cat."
    )
    with pytest.raises(OptionError, match="max_words is 0"):
        controls.filled([], 0)


def test_controls_are_as_long_as_asked(photos: tuple[DidPhoto, ...]) -> None:
    first, second = photos[0], photos[1]
    assert controls.global_alone(first) == first.global_text
    assert controls.global_again(first, 30).count("serene") == 1 + (30 - 18 >= 18)
    assert len(controls.global_again(first, 40).split()) <= 40
    wrong = controls.wrong_text(first, second, 40)
    assert wrong.startswith(first.global_text) and "green" in wrong
    strong = controls.extractive(first, 60)
    assert strong.startswith(first.global_text) and "green" not in strong
    assert strong.count("A red dog sleeps.") == 1


def test_wrong_photos_are_others(photos: tuple[DidPhoto, ...]) -> None:
    assert "blue" in controls.wrong_texts(photos, 2, [60] * 3)[0]
    for shift, lengths in ((3, [60] * 3), (1, [60])):
        with pytest.raises(OptionError, match="shift"):
            controls.wrong_texts(photos, shift, lengths)


def test_extractive_of_kept_claims_puts_the_global_text_first() -> None:
    verdicts = [
        Verdict(Claim("c1", "A lamp.", "spatial-1", 0, 0), True),
        Verdict(Claim("c2", "A dog.", "global", 0, 0), True),
        Verdict(Claim("c3", "A cat.", "semantic-1", 0, 0), True),
        Verdict(Claim("c4", "A bus.", "semantic-1", 0, 1), False),
    ]
    assert controls.extractive_of(verdicts, 20) == "A dog. A cat. A lamp."


def test_the_comparison_runs(
    photos: tuple[DidPhoto, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = compare(photos, 30, None, shifts=(1,))
    ours = {row.name: row.scores for row in rows if row.name == row.of}
    assert set(ours) == {"fused", "filtered but mood, fused", "filtered, fused"}
    assert all(scores.words.max() <= 30 for scores in ours.values())
    for row in rows:
        if row.name not in ("global alone", row.of):
            assert (row.scores.words <= ours[row.of].words).all()
    assert "another photo's text" in table(rows)
    out = folder / "scores.json"
    assert (
        main(
            [
                "--folder",
                str(folder),
                "--words",
                "30",
                "--shifts",
                "1",
                "--no-meteor",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert "filtered, fused" in capsys.readouterr().out
    assert {"text", "words", "cider"} <= set(json.loads(out.read_text())[0])
