"""Our BLEU, ROUGE-L and CIDEr are the official ones to 1e-9; SPICE never downloads, and is read right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.metrics import Meteor, bleu, cider, java_available, official, rouge_l
from benchmarks.metrics.java import JavaError, jar_of
from benchmarks.metrics.official import (
    SPICE_MODELS,
    MissingModelError,
    check_spice,
    official_bleu,
    official_cider,
    official_meteor,
    official_rouge_l,
    official_spice,
    ptb_pairs,
    read_spice,
    spice_available,
)
from patchioner.base.errors import OptionError

pytest.importorskip("pycocoevalcap")
needs_java = pytest.mark.skipif(not java_available(), reason="the official tokenizer needs Java")

TOLERANCE = 1e-9 * 100
"""1e-9 on the scale of the formulas; scores are times 100."""

words = st.lists(
    st.sampled_from(["a", "red", "bus", "dog", "on", "the", "'s", "-lrb-", "t-shirt"]), max_size=8
)
captions = words.map(" ".join)
# Both sides empty is the one case in which the official ROUGE-L differs: see its docstring.
references = st.lists(words.filter(bool).map(" ".join), min_size=1, max_size=4)
corpora = st.lists(st.tuples(captions, references), min_size=1, max_size=6)


def check_equal(said: list[str], due: list[list[str]]) -> None:
    ours, theirs = (
        bleu(said, due, tokenizer=str.split),
        official_bleu(said, due, tokenized=True),
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=TOLERANCE)
    for metric, published in ((rouge_l, official_rouge_l), (cider, official_cider)):
        mean, scores = metric(said, due, tokenizer=str.split)
        official_mean, official_scores = published(said, due, tokenized=True)
        np.testing.assert_allclose(scores, official_scores, rtol=0, atol=TOLERANCE)
        assert mean == pytest.approx(official_mean, rel=0, abs=TOLERANCE)


@settings(max_examples=150, deadline=None)
@given(corpora)
def test_equal_on_any_words(pairs: list[tuple[str, list[str]]]) -> None:
    check_equal([said for said, _ in pairs], [due for _, due in pairs])


@needs_java
def test_equal_on_real_captions(dev_captions: list[list[str]]) -> None:
    """Own references held out, and those of the next photo: near and far captions."""
    for said in ([g[0] for g in dev_captions], [g[0] for g in dev_captions[1:] + dev_captions[:1]]):
        check_equal(*ptb_pairs(said, [group[1:] for group in dev_captions]))


@needs_java
def test_whole_chain_without_java_gives_the_official_figures(dev_captions: list[list[str]]) -> None:
    """Tokenizers included: the stated bound is 0.05 of a point on the scale of papers; measured, 0."""
    said, due = [g[0] for g in dev_captions], [g[1:] for g in dev_captions]
    assert bleu(said, due)[0] == pytest.approx(official_bleu(said, due)[0], abs=0.05)
    assert rouge_l(said, due)[0] == pytest.approx(official_rouge_l(said, due)[0], abs=0.05)
    assert cider(said, due)[0] == pytest.approx(official_cider(said, due)[0], abs=0.05)


def test_the_one_known_difference() -> None:
    """Nothing said where nothing is due: the official ROUGE-L gives full marks."""
    assert official_rouge_l([""], [[""]], tokenized=True)[0] == 100.0
    assert rouge_l([""], [[""]])[0] == 0.0


def test_no_word_in_any_reference() -> None:
    """The published CIDEr code fails there; ours says 0 on both sides."""
    assert official_cider(["a", ""], [[""], [""]], tokenized=True)[1].tolist() == [0.0, 0.0]
    assert cider(["a", ""], [[""], [""]])[1].tolist() == [0.0, 0.0]


@needs_java
def test_meteor_after_the_tokenizer(meteor: Meteor) -> None:
    corpus, samples = official_meteor(["A red bus!"], [["a red bus"]], meteor=meteor)
    assert corpus == samples[0] == 100.0


@needs_java
def test_pairs_come_back_in_order() -> None:
    said, due = ptb_pairs(["A dog.", ""], [["The dog!", ""], ["a cat", "b", "c"]])
    assert said == ["a dog", ""]
    assert due == [["the dog", ""], ["a cat", "b", "c"]]


@pytest.mark.parametrize("metric", [official_bleu, official_cider, official_rouge_l])
def test_without_java(metric: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain captions need it, and the error says what else there is; words do not."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert callable(metric)
    with pytest.raises(OptionError, match="Java-free"):
        metric(["a"], [["a"]])
    metric(["a"], [["a"]], tokenized=True)


needs_parser = pytest.mark.skipif(not spice_available(), reason="SPICE's parser is not in place")


@pytest.fixture
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of the parser's names."""
    home = tmp_path / "spice"
    (home / "lib").mkdir(parents=True)
    for name in ("../spice-1.0.jar", *SPICE_MODELS):
        (home / "lib" / name).touch()
    monkeypatch.setattr(official, "jar_of", lambda package, name: home / name)
    return home


def test_spice_without_the_parser(monkeypatch: pytest.MonkeyPatch, parser: Path) -> None:
    """The message says what to fetch and where it goes, and nothing is fetched."""
    (parser / "lib" / SPICE_MODELS[1]).unlink()
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *a, **k: pytest.fail("went to the network")
    )
    with pytest.raises(
        MissingModelError, match=rf"fetch https://.*zip.*put them into {parser}/lib"
    ):
        check_spice()
    assert not spice_available()


def test_spice_answer(fake_java: Callable[[str], Path], parser: Path) -> None:
    """The program's F-scores, back in the samples' order; a sample without propositions (NaN) is 0."""
    fake_java(
        "import json\n"
        "rows = json.load(open(sys.argv[sys.argv.index('-jar') + 2], encoding='utf-8'))\n"
        "f = lambda row: 0.5 if row['test'] == 'a dog' else float('nan')\n"
        "out = [{'image_id': r['image_id'], 'scores': {'All': {'f': f(r)}}} for r in rows][::-1]\n"
        "json.dump(out, open(sys.argv[sys.argv.index('-out') + 1], 'w'))"
    )
    mean, scores = official_spice(["", "a\ndog"], [["a"], ["b", "c"]])
    assert scores.tolist() == [0.0, 50.0]
    assert mean == 25.0


def test_spice_command_line(fake_java: Callable[[str], Path], parser: Path) -> None:
    """Opened for Java 17, and no cache."""
    fake_java("sys.exit(' '.join(sys.argv[1:]))")
    with pytest.raises(JavaError, match="SPICE failed") as error:
        official_spice(["a"], [["a"]])
    assert "--add-opens=java.base/java.math=ALL-UNNAMED" in str(error.value)
    assert "-cache" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '[{"image_id": 0}]', '{"a": 1}'])
def test_spice_answer_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(content)
    with pytest.raises(JavaError, match="cannot be read"):
        read_spice(path, 1)


def test_spice_scores_are_read_times_100(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text(json.dumps([{"image_id": 0, "scores": {"All": {"f": 0.25}}}]))
    assert read_spice(path, 1).tolist() == [25.0]


@needs_parser
@pytest.mark.slow
def test_spice_the_real_program() -> None:
    assert jar_of("spice", "spice-1.0.jar").is_file()
    _, scores = official_spice(
        ["a red bus", "a red bus"], [["a red bus"], ["two dogs run"]], heap="2G"
    )
    assert scores.tolist() == [100.0, 0.0]
