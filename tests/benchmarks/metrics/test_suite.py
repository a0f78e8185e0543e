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


def test_without_java_the_single_functions_over_one_tokenisation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("started a program"))
    asked: list[str] = []
    plain = suite.tokenize

    def watch(text: str) -> list[str]:
        asked.append(text)
        return plain(text)

    monkeypatch.setattr(suite, "tokenize", watch)
    found = score_captions(SAID, DUE, ["bleu1", "bleu4", "rouge_l", "cider", "stem_f"], java="no")
    assert sorted(asked) == sorted([*SAID, *DUE[0], *DUE[1]])
    assert list(found) == ["bleu1", "bleu4", "rouge_l", "cider", "stem_f"]
    corpus, samples = bleu(SAID, DUE)
    assert found["bleu1"].corpus == pytest.approx(corpus[0])
    assert found["bleu4"].samples == pytest.approx(samples[:, 3])
    for name, metric in (("rouge_l", rouge_l), ("cider", cider), ("stem_f", stem_f)):
        mean, scores = metric(SAID, DUE)
        assert found[name].corpus == pytest.approx(mean)
        assert found[name].samples == pytest.approx(scores)
    assert {(one.made.java, one.made.library) for one in found.values()} == {(False, "patchioner")}
    assert "meteor" not in score_captions(SAID, DUE, java="no")


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
    assert 0 < found["meteor"].corpus < 100
    assert list(score_captions(SAID, DUE, java="auto", meteor=meteor))[-1] == "meteor"
    for name in suite.TEXT_MEASURES:
        with text_measure(name, meteor=meteor) as measure:
            assert measure(["a red bus", "x"], [["a red bus"], ["two dogs"]]).tolist() == [1.0, 0.0]


def test_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto falls back; a wish that needs Java is refused, and offered the nearest."""
    monkeypatch.setattr(suite, "find_java", lambda: None)
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    assert not score_captions(SAID, DUE, ["cider"])["cider"].made.java
    with pytest.raises(MissingExtraError, match="metrics"):
        score_captions(SAID, DUE, ["cider"], java="yes")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert not score_captions(SAID, DUE, ["cider"])["cider"].made.java
    with pytest.raises(OptionError, match="'stem_f'"):
        score_captions(SAID, DUE, ["meteor"])
    with pytest.raises(OptionError, match="java"):
        score_captions(SAID, DUE, ["cider"], java="yes")


@pytest.mark.parametrize("metric", [words, "tests.benchmarks.metrics.test_suite:words"])
def test_a_metric_of_ones_own(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests.benchmarks.metrics.test_suite", sys.modules[__name__])
    found = score_captions(SAID, DUE, ["cider"], java="no", extra={"words": metric})
    assert list(found) == ["cider", "words"]
    assert (found["words"].samples, found["words"].corpus) == ((5.0, 2.0), 3.5)
    assert found["words"].made.library.endswith(":words")
    own = lambda said, due, rows: {"samples": [row["size"] for row in rows], "corpus": 7}  # noqa: E731
    rows = [{"size": 1}, {"size": 2}]
    found = score_captions(SAID, DUE, [], java="no", extra={"size": own}, samples=rows)
    assert (found["size"].samples, found["size"].corpus) == ((1.0, 2.0), 7.0)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda s, d, r: [1.0], r"shape \(1,\) for 2 predictions"),
        (lambda s, d, r: [1.0, float("nan")], "sample 1 is nan"),
        (lambda s, d, r: ["a", "b"], "give numbers"),
        (lambda s, d, r: {"scores": [1, 2]}, "scores"),
        (lambda s, d, r: {"samples": [1, 2], "corpus": float("inf")}, "inf"),
        ("words", "'module:function'"),
        ("no_such_module:words", "no_such_module"),
        ("math:no_such_function", "no_such_function"),
        ("math:pi", "float"),
        (3, "'module:function'"),
    ],
)
def test_bad_metrics_of_ones_own(metric: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        score_captions(SAID, DUE, [], java="no", extra={"mine": metric})


@pytest.mark.parametrize(
    ("metrics", "more", "message"),
    [
        (["cidre"], {}, "did you mean 'cider'"),
        ("cider", {}, r"\['cider'\]"),
        (None, {"java": "maybe"}, "'maybe'"),
        (["cider"], {"extra": {"cider": words}}, "'cider'"),
        ([], {"extra": {"words": words}, "samples": [1]}, "1 samples for 2"),
    ],
)
def test_bad_calls(metrics: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises((OptionError, UnknownNameError), match=message):
        score_captions(SAID, DUE, metrics, **{"java": "no", **more})


def test_results_are_finite_and_say_how_they_were_made() -> None:
    made = Provenance("lib", (("lib", "1.2"), ("java", "17")), "Stanford", "a note")
    assert str(made) == "lib; lib 1.2, java 17; tokenizer: Stanford; a note"
    assert made.java and not Provenance("patchioner").java
    for corpus, samples in ((math.nan, (1.0,)), (1.0, (1.0, math.inf))):
        with pytest.raises(OptionError, match="not finite"):
            MetricResult("x", corpus, samples, made)
    with pytest.raises(UnknownNameError, match="did you mean 'METEOR'"), text_measure("METEORS"):
        pass
