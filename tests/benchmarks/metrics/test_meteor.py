"""METEOR: numbers by hand, hostile captions, a program that dies."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.metrics import Meteor, java_available
from benchmarks.metrics.java import JavaError
from benchmarks.metrics.meteor import clean
from patchioner.base.errors import OptionError

pytest.importorskip("pycocoevalcap")


def test_by_hand(meteor: Meteor) -> None:
    """Prediction "a red bus stops here", reference "a bus": by the formula.

    Content words weigh 3/4, function words ("a") 1/4. Precision (3/4 + 1/4) / (4 * 3/4 + 1/4) = 4/13, recall 1;
    2 chunks of 2 matches: penalty 0.6 * 1^0.2.
    """
    precision = 4 / 13
    mean = precision / (0.85 * precision + 0.15)
    corpus, samples = meteor.score(["a red bus stops here"], [["a bus"]])
    assert samples == pytest.approx([100 * 0.4 * mean])
    assert corpus == pytest.approx(samples[0])


def test_best_reference_counts(meteor: Meteor) -> None:
    _, samples = meteor.score(["a red bus", "a red bus"], [["two dogs", "a red bus"], ["two dogs"]])
    assert samples.tolist() == [100.0, 0.0]


def test_corpus_pools_statistics(meteor: Meteor) -> None:
    corpus, samples = meteor.score(["a red bus stops here", "dog"], [["a bus"], ["dog"]])
    assert corpus != pytest.approx(samples.mean())
    assert 0 < corpus < 100


def test_sums_of_statistics_are_the_statistics_of_a_set(meteor: Meteor) -> None:
    """So an interval can be made without asking about any caption twice."""
    said, due = ["a red bus stops here", "dog", "two men"], [["a bus"], ["dog"], ["men"]]
    counts = meteor.statistics(said, due)
    repeated, _ = meteor.score([said[0], said[0], said[2]], [due[0], due[0], due[2]])
    _, (pooled,) = meteor.evaluate((2 * counts[0] + counts[2])[None])
    assert pooled == repeated


def test_order_and_company_do_not_matter(meteor: Meteor) -> None:
    draw = random.Random(4)
    words = ["a", "red", "bus", "two", "dogs", "run", "on", "the", "street", "by", "some", "men"]
    said = [" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in range(300)]
    due = [[" ".join(draw.choices(words, k=5)) for _ in range(draw.randint(1, 3))] for _ in said]
    _, together = meteor.score(said, due)
    assert len(together) == 300
    for index in (0, 150, 299):
        assert meteor.score([said[index]], [due[index]])[1][0] == together[index]


def test_captions_that_could_break_the_protocol(meteor: Meteor) -> None:
    """Line ends, separators and commands inside captions change no other sample's score."""
    hostile = [
        "a ||| dog",
        "a\ndog",
        "EVAL ||| 1.0",
        "|||",
        "",
        "||||||a",
        "\ud83d",
        "x" * 20_000,
        "SCORE",
    ]
    said = [*hostile, "a red bus"]
    due = [[text, "two\r\ncats ||| here"] for text in hostile] + [["a red bus"]]
    _, samples = meteor.score(said, due)
    assert len(samples) == len(said)
    assert samples[-1] == 100.0
    assert samples[0] == samples[1] == meteor.score(["a dog"], [["a dog"]])[1][0]


def test_clean() -> None:
    assert clean("a |||b\u2029c") == "a b c"


def test_lists_that_do_not_pair(meteor: Meteor) -> None:
    with pytest.raises(OptionError, match="1 predictions for 2"):
        meteor.score(["a"], [["a"], ["b"]])


@pytest.mark.parametrize(
    "body",
    [
        "sys.exit('no memory left')",
        "sys.stdin.readline(); sys.exit('no memory left')",
        "sys.stdin.readline(); print('half', end=''); sys.exit('no memory left')",
    ],
)
def test_a_program_that_dies(fake_java: Callable[[str], Path], body: str) -> None:
    """The error quotes it; the object is closed, and says so when used again."""
    fake_java(body)
    with Meteor() as dying:
        with pytest.raises(JavaError, match="METEOR died .*no memory left"):
            dying.score(["a"] * 2000, [["a"]] * 2000)
        with pytest.raises(JavaError, match="closed: make a new one"):
            dying.score(["a"], [["a"]])


def test_an_answer_that_is_no_number(fake_java: Callable[[str], Path]) -> None:
    fake_java("print('1 2'); print('NaN?', flush=True); sys.stdin.read()")
    with Meteor() as odd, pytest.raises(JavaError, match="'NaN.' where a score was due"):
        odd.score(["a"], [["a"]])


def test_closing_twice(fake_java: Callable[[str], Path]) -> None:
    fake_java("sys.stdin.read()")
    running = Meteor()
    running.close()
    running.close()
    with pytest.raises(JavaError, match="closed"):
        running.score(["a"], [["a"]])


@pytest.mark.slow
@pytest.mark.skipif(not java_available(), reason="METEOR needs Java")
def test_same_as_the_package(meteor: Meteor, dev_captions: list[list[str]]) -> None:
    theirs = pytest.importorskip("pycocoevalcap.meteor.meteor").Meteor()
    try:
        said = {i: [group[0]] for i, group in enumerate(dev_captions)}
        due = {i: group[1:] for i, group in enumerate(dev_captions)}
        corpus, samples = theirs.compute_score(due, said)
    finally:
        for stream in (theirs.meteor_p.stdout, theirs.meteor_p.stderr):
            stream.close()
        theirs.__del__()
    ours = meteor.score([text for (text,) in said.values()], list(due.values()))
    assert ours[0] == pytest.approx(100 * corpus, abs=1e-9)
    assert ours[1] == pytest.approx([100 * score for score in samples], abs=1e-9)
