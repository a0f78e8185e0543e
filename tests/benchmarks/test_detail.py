import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import detail_texts
from benchmarks.data import BenchmarkDataError
from benchmarks.detail import main
from benchmarks.detail_texts import AGAIN, ALONE, EXTRACTIVE, object_scores, plant, read_did
from benchmarks.metrics import cider
from benchmarks.metrics.regions import named_classes
from patchioner import Patchioner
from patchioner.base.errors import OptionError
from tests.benchmarks.conftest import CASES, cases
from tests.support import Capture, MonkeyPatch


def test_objects_by_hand() -> None:
    """A dog there, a cat not; "glass" is the cup that is there, not a wine glass besides; a text without objects."""
    texts = ["A dog and a cat.", "a glass on a table", "nothing"]
    found = object_scores(texts, [{"dog", "chair"}, {"cup", "dining table"}, {"bus"}])
    due = {"precision": 3 / 4, "recall": 3 / 5, "clean": 2 / 3}
    assert {name: found.interval(name).value for name in due} == pytest.approx(due)
    assert found.words.tolist() == [5, 5, 1]
    other = object_scores(["a dog", *texts[1:]], [{"dog"}, {"cup"}, {"bus"}])
    gain = other.gain_over(found, "clean")
    assert gain.value == pytest.approx(0.0) and gain.low <= 0 <= gain.high
    alone = object_scores(["a man with a dog"], [{"person", "dog"}], people=False)
    assert (alone.named.tolist(), alone.there.tolist()) == ([1], [1])
    with pytest.raises(OptionError, match="2 texts for 1"):
        object_scores(["a", "b"], [set()])


SENTENCES = {"a": ["Two red buses near a man.", "A hot dog."], "b": ["A cat on a bed."], "c": ["A tree."]}  # fmt: skip
PRESENT = {"a": frozenset({"bus", "person"}), "b": frozenset({"cat"}), "c": frozenset()}


def test_what_is_planted_is_false() -> None:
    """One thing is exchanged for a class that is not there; colours and numbers for others; seeded, photo by photo."""
    assert [vars(one) for one in plant(SENTENCES, PRESENT, seed=1)] == cases("planted")
    assert plant(SENTENCES, PRESENT, seed=1) != plant(SENTENCES, PRESENT, seed=2)


def test_average_precision_by_hand() -> None:
    """At 0.9: 1 of 1; at 0.8: 2 of 3."""
    for true, false, due in (([0.9, 0.8], [0.85], 5 / 6), ([0.9], [0.1, 0.2], 1.0)):
        assert detail_texts.average_precision(*map(np.array, (true, false))) == pytest.approx(due)


@pytest.fixture
def did(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CASES / "did", tmp_path / "did"))


def test_did_bench_is_read_and_its_controls_are_as_long_as_ours(did: Path) -> None:
    photos = read_did(did)
    assert [region.id for region in photos[0].regions] == ["global", "spatial-1", "semantic-1"]
    assert len(photos[0].statements) == 7 and photos[1].references == ("Two kites.",)
    found = detail_texts.controls(photos, [14, 10])
    assert found[EXTRACTIVE][0].startswith("A dog sits on a bench. The sky is blue. A wooden")
    assert found[AGAIN][1] == found[ALONE][1] == photos[1].statements[0].text
    assert all(len(text.split()) <= 14 for text in found[EXTRACTIVE] + found[AGAIN])
    (did / "describe_run.json").write_text('[{"file_name": "a.jpg"}]')
    for folder, file in ((did, "describe_run"), (did / "none", "references_dev")):
        with pytest.raises(BenchmarkDataError, match=rf"{file}\.json"):
            read_did(folder)


def test_scores_are_on_raw_strings() -> None:
    """Capitals and stops glued to words count; a tie with a rival is no win."""
    said, due = ["A dog. It sleeps.", "Two red kites."], [["A dog. It sleeps."], ["a bus stops"]]
    found = detail_texts.score_texts(said, due)
    mean, _ = cider(said, due, tokenizer=str.split)
    assert found.values["cider"] == pytest.approx(mean) and found.samples["rouge_l"][0] == 100.0
    alone = detail_texts.score_texts(["a", "b"], due)
    scored = {"ours": found, EXTRACTIVE: found, AGAIN: found, ALONE: alone}
    assert len(detail_texts.missed_rivals(scored)) == 2
    assert found.gain_over(scored[ALONE], "cider").value > 0


def test_one_thing_in_every_other_sample_is_exchanged(did: Path) -> None:
    photo = read_did(did)[0]
    statements, false = detail_texts.planted_among(photo, seed=3)
    changed = [new for new, old in zip(statements, photo.statements, strict=True) if new != old]
    assert 1 <= len(changed) == len(false) <= 4
    texts = [one.text for one in photo.statements] + list(photo.references)
    here = frozenset().union(*map(named_classes, texts))
    assert all(named_classes(text) - here for text in false)


def test_the_command(calibrated: Patchioner, tmp_path: Path, capsys: Capture, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.detail_texts.load_pretrained", lambda *_: calibrated)
    words = ["--out", str(tmp_path), "--limit", "2", "--parts", "objects", "planted"]
    assert main(words) == main(words) == 0
    printed = capsys.readouterr().out
    assert printed == 2 * (tmp_path / "report.md").read_text()
    assert "| our paragraph |" in printed and "| other photo |" in printed
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert parts["objects"]["photos"] == 2
    assert 0 <= parts["planted"]["kept"]["value"] <= 1
    assert main([*words, "--check"]) == int(bool(parts["planted"]["missed"]))
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    assert main([*words[:2], "--limit", "1", "--parts", "objects"]) == 1
    assert capsys.readouterr().err.count("error: ") == 2
