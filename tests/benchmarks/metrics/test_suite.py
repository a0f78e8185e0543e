"""All metrics at once: one tokenisation, where each number comes from, metrics of one's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.metrics import (
    METRICS,
    Meteor,
    MetricResult,
    Provenance,
    bleu,
    cider,
    java_available,
    rouge_l,
    score_captions,
    stem_f,
    suite,
    text_measure,
)
from patchioner.base.errors import MissingExtraError, OptionError, UnknownNameError

SAID = ["A red bus, isn't it?", "two dogs"]
DUE = [["The red bus.", "a bus"], ["Two dogs run"]]


def words(said: Sequence[str], due: Sequence[Sequence[str]], rows: Sequence[Any]) -> list[int]:
    """A metric of one's own."""
    return [len(text.split()) for text in said]


def test_java_free_equals_the_single_functions() -> None:
    found = score_captions(SAID, DUE, ["bleu1", "bleu4", "rouge_l", "cider", "stem_f"], java="no")
    assert list(found) == ["bleu1", "bleu4", "rouge_l", "cider", "stem_f"]
    corpus, samples = bleu(SAID, DUE)
    assert found["bleu1"].corpus == pytest.approx(corpus[0])
    assert found["bleu4"].samples == pytest.approx(samples[:, 3])
    for name, metric in (("rouge_l", rouge_l), ("cider", cider), ("stem_f", stem_f)):
        mean, scores = metric(SAID, DUE)
        assert found[name].corpus == pytest.approx(mean)
        assert found[name].samples == pytest.approx(scores)
    assert all(
        not result.made.java and result.made.library == "patchioner" for result in found.values()
    )


def test_no_java_starts_no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("started a program"))
    assert "meteor" not in score_captions(SAID, DUE, java="no")


def test_one_tokenisation_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(suite, "tokenize", lambda text: (asked.append(text), text.split())[1])
    score_captions(SAID, DUE, java="no")
    assert sorted(asked) == sorted([*SAID, *DUE[0], *DUE[1]])


@pytest.mark.skipif(not java_available(), reason="needs Java")
def test_official(meteor: Meteor) -> None:
    """The same figures by the official programs, METEOR besides, and every result says so."""
    names = [name for name in METRICS if name != "spice"]
    found = score_captions(SAID, DUE, names, java="yes", meteor=meteor)
    ours = score_captions(SAID, DUE, [name for name in names if name != "meteor"], java="no")
    for name, result in ours.items():
        assert found[name].corpus == pytest.approx(result.corpus, abs=1e-7), name
        assert found[name].samples == pytest.approx(result.samples, abs=1e-7), name
    made = found["meteor"].made
    assert made.java and made.library == "pycocoevalcap" and ("meteor", "1.5") in made.versions
    assert found["stem_f"].made.library == "patchioner"
    assert "Stanford" in str(found["bleu1"].made)
    assert 0 < found["meteor"].corpus < 100
    again = score_captions(SAID, DUE, java="auto", meteor=meteor)
    assert list(again)[-1] == "meteor"


def test_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto falls back; a wish that needs Java is refused, and offered the nearest."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert not score_captions(SAID, DUE, ["cider"])["cider"].made.java
    with pytest.raises(OptionError, match="'stem_f' is the nearest"):
        score_captions(SAID, DUE, ["meteor"])
    with pytest.raises(OptionError, match="no `java` is on the PATH"):
        score_captions(SAID, DUE, ["cider"], java="yes")


def test_without_pycocoevalcap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "find_java", lambda: None)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    assert not score_captions(SAID, DUE, ["cider"])["cider"].made.java
    with pytest.raises(MissingExtraError, match="metrics"):
        score_captions(SAID, DUE, ["cider"], java="yes")


@pytest.mark.parametrize("metric", [words, "tests.benchmarks.metrics.test_suite:words"])
def test_a_metric_of_ones_own(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests.benchmarks.metrics.test_suite", sys.modules[__name__])
    found = score_captions(SAID, DUE, ["cider"], java="no", extra={"words": metric})
    assert list(found) == ["cider", "words"]
    assert found["words"].samples == (5.0, 2.0)
    assert found["words"].corpus == 3.5
    assert found["words"].made.library.endswith(":words")


def test_a_metric_with_a_corpus_score_and_the_samples() -> None:
    def metric(said: Sequence[str], due: Any, rows: Sequence[Any]) -> dict[str, Any]:
        return {"samples": [row["size"] for row in rows], "corpus": 7}

    rows = [{"size": 1}, {"size": 2}]
    found = score_captions(SAID, DUE, [], java="no", extra={"size": metric}, samples=rows)
    assert (found["size"].samples, found["size"].corpus) == ((1.0, 2.0), 7.0)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda s, d, r: [1.0], r"shape \(1,\) for 2 predictions"),
        (lambda s, d, r: [1.0, float("nan")], "sample 1 is nan"),
        (lambda s, d, r: ["a", "b"], "give numbers"),
        (lambda s, d, r: None, r"shape|not finite|give numbers"),
        (lambda s, d, r: {"scores": [1, 2]}, "give 'samples'"),
        (lambda s, d, r: {"samples": [1, 2], "corpus": float("inf")}, "corpus score is inf"),
        ("words", "'module:function'"),
        ("no_such_module:words", "cannot be imported"),
        ("math:no_such_function", "cannot be imported"),
        ("math:pi", "not a function"),
        (3, "'module:function'"),
    ],
)
def test_bad_metrics_of_ones_own(metric: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        score_captions(SAID, DUE, [], java="no", extra={"mine": metric})


def test_bad_calls() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cider'"):
        score_captions(SAID, DUE, ["cidre"], java="no")
    with pytest.raises(OptionError, match="give a list of names"):
        score_captions(SAID, DUE, "cider", java="no")
    with pytest.raises(OptionError, match="choose 'auto', 'yes' or 'no'"):
        score_captions(SAID, DUE, java="maybe")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="rename it"):
        score_captions(SAID, DUE, ["cider"], java="no", extra={"cider": words})
    with pytest.raises(OptionError, match="1 samples for 2"):
        score_captions(SAID, DUE, [], java="no", extra={"words": words}, samples=[1])


def test_text_measures(meteor: Meteor) -> None:
    for name in suite.TEXT_MEASURES:
        with text_measure(name, meteor=meteor) as measure:
            assert measure(["a red bus", "x"], [["a red bus"], ["two dogs"]]).tolist() == [1.0, 0.0]
    with pytest.raises(UnknownNameError, match="did you mean 'METEOR'"), text_measure("METEORS"):
        pass


def test_result_provenance_reads_well() -> None:
    made = Provenance(
        "pycocoevalcap", (("pycocoevalcap", "1.2"), ("java", "17")), "Stanford", "a note"
    )
    assert str(made) == "pycocoevalcap; pycocoevalcap 1.2, java 17; tokenizer: Stanford; a note"
    assert made.java
    assert not Provenance("patchioner").java


@pytest.mark.parametrize(("corpus", "samples"), [(math.nan, (1.0,)), (1.0, (1.0, math.inf))])
def test_result_not_finite(corpus: float, samples: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="not finite"):
        MetricResult("x", corpus, samples, Provenance("patchioner"))
