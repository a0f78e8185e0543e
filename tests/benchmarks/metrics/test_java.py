"""Java: found, its failures reported; the Stanford tokenizer and METEOR against the package and hostile captions."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.metrics import Meteor, java_available, tokenize
from benchmarks.metrics.java import (
    Java,
    JavaError,
    feature_release,
    find_java,
    java_version,
    one_line,
    ptb_tokenize,
    run_java,
)
from patchioner.base.errors import OptionError

FakeJava = Callable[..., Path]


def test_version_of_the_java_on_the_path(fake_java: FakeJava) -> None:
    command = fake_java("")
    assert java_version() == "17.0.1"
    assert find_java() == Java(str(command), "17.0.1", 17)


def test_java_home_is_the_second_choice(
    fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = fake_java("")
    (command.parent / "bin").mkdir()
    command.rename(command.parent / "bin" / "java")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("JAVA_HOME", str(command.parent))
    assert find_java().release == 17


def test_no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert not java_available()
    assert java_version() is None
    with pytest.raises(JavaError, match="apt-get install default-jre-headless.*Java-free"):
        find_java()


def test_too_old(fake_java: FakeJava) -> None:
    fake_java("", 'java version "1.7.0_80"')
    with pytest.raises(JavaError, match=r"Java 1\.7\.0_80.*Java 8 or later"):
        find_java("SPICE")


def test_a_java_that_says_something_else(fake_java: FakeJava) -> None:
    fake_java("", "No Java runtime present")
    assert java_version() is None
    with pytest.raises(JavaError, match="No Java runtime present"):
        find_java()


@pytest.mark.parametrize(
    ("version", "release"), [("1.8.0_312", 8), ("9", 9), ("11.0.2", 11), ("25-ea", 25)]
)
def test_feature_release(version: str, release: int) -> None:
    assert feature_release(version) == release


def test_arguments_open_packages_only_where_java_knows_the_flag() -> None:
    assert Java("java", "17", 17).arguments(heap="1G", opens=["java.util"])[-1] == (
        "--add-opens=java.base/java.util=ALL-UNNAMED"
    )
    assert not any(
        "opens" in a for a in Java("java", "8", 8).arguments(heap="1G", opens=["java.util"])
    )


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('out of memory')"]
    with pytest.raises(JavaError, match="a test failed .exit status 1.: out of memory"):
        run_java(command, folder=tmp_path, purpose="a test")


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JavaError, match="cannot be started"):
        run_java([str(tmp_path / "java")], folder=tmp_path, purpose="a test")


def test_one_line_takes_every_kind_of_line_end() -> None:
    assert one_line(" a\r\nb\u2028c\x85d\x0be\x00f\tg ") == "a b c d e f g"


needs_java = pytest.mark.skipif(not java_available(), reason="the official tokenizer needs Java")


@needs_java
def test_ptb_same_words_as_the_package(dev_captions: list[list[str]]) -> None:
    module = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    captions = [text for group in dev_captions for text in group]
    theirs = module.PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(captions)})
    assert [" ".join(words) for words in ptb_tokenize(captions)] == [
        theirs[i][0] for i in range(len(captions))
    ]


@needs_java
def test_ptb_difference_to_our_tokenizer_on_real_captions(dev_captions: list[list[str]]) -> None:
    """Measured: none of 605 differ here, 28 of 72,349 training captions; the bound leaves room for new data."""
    captions = [text for group in dev_captions for text in group]
    official = ptb_tokenize(captions)
    differ = sum(words != tokenize(text) for words, text in zip(official, captions, strict=True))
    assert differ <= 0.002 * len(captions)


@needs_java
def test_ptb_line_ends_and_empty_captions_shift_nothing() -> None:
    captions = ["a\u2028red\rbus", "", "caf\u00e9 \u2603 \ud83d", "x\x0by\x85z", "", ""]
    words = ptb_tokenize(captions)
    assert len(words) == len(captions)
    assert words[0] == ["a", "red", "bus"]
    assert words[2][0] == "caf\u00e9"
    assert words[3:] == [["x", "y", "z"], [], []]


def test_ptb_nothing_to_do_needs_no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert ptb_tokenize(["", " \n"]) == [[], []]
    assert ptb_tokenize([]) == []


def test_ptb_too_few_lines(fake_java: Callable[[str], Path]) -> None:
    fake_java("print('a dog')")
    with pytest.raises(JavaError, match="1 lines for 2 captions"):
        ptb_tokenize(["a dog", "a cat"])


def test_meteor_by_hand(meteor: Meteor) -> None:
    """Prediction "a red bus stops here", reference "a bus": by the formula.

    Content words weigh 3/4, function words ("a") 1/4. Precision (3/4 + 1/4) / (4 * 3/4 + 1/4) = 4/13, recall 1;
    2 chunks of 2 matches: penalty 0.6 * 1^0.2.
    """
    precision = 4 / 13
    mean = precision / (0.85 * precision + 0.15)
    corpus, samples = meteor.score(["a red bus stops here"], [["a bus"]])
    assert samples == pytest.approx([100 * 0.4 * mean])
    assert corpus == pytest.approx(samples[0])


def test_meteor_best_reference_counts(meteor: Meteor) -> None:
    _, samples = meteor.score(["a red bus", "a red bus"], [["two dogs", "a red bus"], ["two dogs"]])
    assert samples.tolist() == [100.0, 0.0]


def test_meteor_corpus_pools_statistics(meteor: Meteor) -> None:
    corpus, samples = meteor.score(["a red bus stops here", "dog"], [["a bus"], ["dog"]])
    assert corpus != pytest.approx(samples.mean())
    assert 0 < corpus < 100


def test_meteor_sums_of_statistics_are_the_statistics_of_a_set(meteor: Meteor) -> None:
    """So an interval can be made without asking about any caption twice."""
    said, due = ["a red bus stops here", "dog", "two men"], [["a bus"], ["dog"], ["men"]]
    counts = meteor.statistics(said, due)
    repeated, _ = meteor.score([said[0], said[0], said[2]], [due[0], due[0], due[2]])
    _, (pooled,) = meteor.evaluate((2 * counts[0] + counts[2])[None])
    assert pooled == repeated


def test_meteor_order_and_company_do_not_matter(meteor: Meteor) -> None:
    draw = random.Random(4)
    words = ["a", "red", "bus", "two", "dogs", "run", "on", "the", "street", "by", "some", "men"]
    said = [" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in range(300)]
    due = [[" ".join(draw.choices(words, k=5)) for _ in range(draw.randint(1, 3))] for _ in said]
    _, together = meteor.score(said, due)
    assert len(together) == 300
    for index in (0, 150, 299):
        assert meteor.score([said[index]], [due[index]])[1][0] == together[index]


def test_meteor_captions_that_could_break_the_protocol(meteor: Meteor) -> None:
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


def test_meteor_lists_that_do_not_pair(meteor: Meteor) -> None:
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
def test_meteor_a_program_that_dies(fake_java: Callable[[str], Path], body: str) -> None:
    """The error quotes it; the object is closed, and says so when used again."""
    fake_java(body)
    with Meteor() as dying:
        with pytest.raises(JavaError, match="METEOR died .*no memory left"):
            dying.score(["a"] * 2000, [["a"]] * 2000)
        with pytest.raises(JavaError, match="closed: make a new one"):
            dying.score(["a"], [["a"]])


def test_meteor_an_answer_that_is_no_number(fake_java: Callable[[str], Path]) -> None:
    fake_java("print('1 2'); print('NaN?', flush=True); sys.stdin.read()")
    with Meteor() as odd, pytest.raises(JavaError, match="'NaN.' where a score was due"):
        odd.score(["a"], [["a"]])


def test_meteor_closing_twice(fake_java: Callable[[str], Path]) -> None:
    fake_java("sys.stdin.read()")
    running = Meteor()
    running.close()
    running.close()
    with pytest.raises(JavaError, match="closed"):
        running.score(["a"], [["a"]])


@pytest.mark.slow
@pytest.mark.skipif(not java_available(), reason="METEOR needs Java")
def test_meteor_same_as_the_package(meteor: Meteor, dev_captions: list[list[str]]) -> None:
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
