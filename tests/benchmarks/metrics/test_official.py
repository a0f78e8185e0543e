import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.metrics import Meteor, bleu, cider, official, official_score, rouge_l, tokenize
from benchmarks.metrics.official import JavaError, find_java, ptb_tokenize, tokenize_pairs
from patchioner.base.errors import OptionError
from tests.benchmarks.conftest import CASES
from tests.support import MonkeyPatch

pytest.importorskip("pycocoevalcap")
FakeJava = Callable[..., Path]
needs_java = pytest.mark.skipif(not official.java_available(), reason="there is no Java")
TOLERANCE = 1e-9 * 100  # of scores times 100


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: MonkeyPatch) -> FakeJava:
    """Put a `java` on the PATH that answers -version as Java 17 does and then runs some Python."""

    def install(body: str, version: str = 'openjdk version "17.0.1"') -> Path:
        script, told = tmp_path / "java", f"sys.exit(sys.stderr.write({version!r} + '\\n') and 0)"
        head = f"#!{sys.executable}\nimport sys\nif sys.argv[1:] == ['-version']: {told}\n"
        script.write_text(head + body, encoding="utf-8")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return script

    return install


def test_java_is_found_or_the_remedy_told(fake_java: FakeJava, monkeypatch: MonkeyPatch) -> None:
    command = fake_java("")
    assert find_java() == official.Java(str(command), "17.0.1")
    (command.parent / "bin").mkdir()
    command.rename(command.parent / "bin" / "java")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("JAVA_HOME", str(command.parent))
    assert find_java().release == 17, "JAVA_HOME is the second choice"
    monkeypatch.delenv("JAVA_HOME")
    assert not official.java_available()
    with pytest.raises(JavaError, match="default-jre-headless.*java='no'"):
        find_java()
    assert ptb_tokenize(["", " \n"]) == [[], []], "nothing to do needs no Java"
    with pytest.raises(OptionError, match="java='no'"):
        ptb_tokenize(["a"])


def test_releases_flags_and_programs_that_fail(fake_java: FakeJava, tmp_path: Path) -> None:
    for said in ('java version "1.7.0_80"', "No Java here"):
        official._ask_version.cache_clear()
        fake_java("", said)
        with pytest.raises(JavaError, match=r"1\.7\.0_80|No Java here"):
            find_java("SPICE")
    for version, release in {"1.8.0_312": 8, "9": 9, "11.0.2": 11, "25-ea": 25}.items():
        java = official.Java("java", version)
        opened = any("java.util" in flag for flag in java.arguments(heap="1G", opens=["java.util"]))
        assert (java.release, opened) == (release, release >= 9), "Java 8 refuses the flag"
    dying = ["/bin/sh", "-c", "echo out of memory >&2; exit 1"]
    for command, message in ((dying, "status 1.: out of memory"), (["none"], "cannot be started")):
        with pytest.raises(JavaError, match=message):
            official.run_java(command, folder=tmp_path, purpose="a test")


@needs_java
def test_words_are_the_packages_and_no_line_shifts_another(dev_captions: list[list[str]]) -> None:
    """And ours: none of 605 captions differ; the bound leaves room for new data."""
    module = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    captions = [text for group in dev_captions for text in group]
    theirs = module.PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(captions)})
    hostile = ["a\u2028red\rbus", "", "caf\u00e9 \u2603 \ud83d", "x\x0by\x85z", "", ""]
    found, ours = tokenize_pairs(captions, [hostile], ptb_tokenize)
    assert found == [theirs[i][0] for i in range(len(captions))]
    assert ours[0][:2] == ["a red bus", ""] and ours[0][2].startswith("caf\u00e9 ")
    assert ours[0][3:] == ["x y z", "", ""]
    differ = sum(a != " ".join(tokenize(b)) for a, b in zip(found, captions, strict=True))
    assert differ <= 0.002 * len(captions)


vocabulary = st.sampled_from(["a", "red", "bus", "dog", "on", "the", "'s", "-lrb-", "t-shirt"])
texts = st.lists(vocabulary, max_size=8).map(" ".join)
# Both sides empty is the one case in which the official ROUGE-L differs: it gives full marks.
references = st.lists(texts.filter(bool), min_size=1, max_size=4)


@settings(max_examples=60)
@given(st.lists(st.tuples(texts, references), min_size=1, max_size=6))
def test_equal_on_any_words(pairs: list[tuple[str, list[str]]]) -> None:
    said, due = [text for text, _ in pairs], [group for _, group in pairs]
    for metric, name in ((bleu, "bleu"), (rouge_l, "rouge_l"), (cider, "cider")):
        ours: Any = metric(said, due, tokenizer=str.split)
        for one, theirs in zip(ours, official_score(name, said, due), strict=True):
            np.testing.assert_allclose(one, theirs, rtol=0, atol=TOLERANCE)


def test_where_the_published_code_has_no_answer() -> None:
    assert official_score("rouge_l", [""], [[""]])[0] == 100.0
    assert rouge_l([""], [[""]])[0] == 0.0
    assert official_score("cider", ["a", ""], [[""], [""]])[1].tolist() == [0.0, 0.0]
    assert cider(["a", ""], [[""], [""]])[1].tolist() == [0.0, 0.0]


def test_meteor_pools_and_no_caption_changes_the_score_of_another(meteor: Meteor) -> None:
    """Line ends, separators and commands inside captions; sums of statistics are the statistics of a set."""
    said, due = ["a red bus stops here", "dog", "a red bus"], [["a bus"], ["dog"], ["two dogs"]]
    corpus, samples = meteor.score(said, due)
    assert 0 < corpus < 100 and corpus != pytest.approx(samples.mean()), "counts are pooled"
    counts = meteor.statistics(said, due)
    repeated, _ = meteor.score([said[0], said[0], said[2]], [due[0], due[0], due[2]])
    assert meteor.evaluate((2 * counts[0] + counts[2])[None])[1][0] == repeated
    hostile = ["a ||| dog", "a\ndog", "EVAL ||| 1.0", "|||", "", "||||||a", "\ud83d", "x" * 20_000]
    rest = [[text, "two\r\ncats ||| here"] for text in hostile]
    _, together = meteor.score([*hostile, *said], [*rest, *due])
    assert together[len(hostile) :] == pytest.approx(samples)
    assert together[0] == together[1] == meteor.score(["a dog"], [["a dog"]])[1][0]


@pytest.mark.parametrize("read", ["", "sys.stdin.readline(); ", "print(input()[:4], end=''); "])
def test_a_meteor_that_dies_is_quoted_and_closed(fake_java: FakeJava, read: str) -> None:
    fake_java(f"{read}sys.exit('no memory left')")
    with Meteor() as dying:
        with pytest.raises(JavaError, match="METEOR died .*no memory left"):
            dying.score(["a"] * 2000, [["a"]] * 2000)
        with pytest.raises(JavaError, match="closed"):
            dying.score(["a"], [["a"]])
    dying.close()


@needs_java
def test_meteor_of_the_package(meteor: Meteor, dev_captions: list[list[str]], monkeypatch: MonkeyPatch) -> None:
    """The package's side of the protocol, with its command, talking to the program that runs already."""
    module = pytest.importorskip("pycocoevalcap.meteor.meteor")
    start = Mock(return_value=meteor._process)
    monkeypatch.setattr(module.subprocess, "Popen", start)
    monkeypatch.setattr(module.Meteor, "__del__", lambda _: None)
    said = {i: [group[0]] for i, group in enumerate(dev_captions)}
    due = {i: group[1:] for i, group in enumerate(dev_captions)}
    corpus, samples = module.Meteor().compute_score(due, said)
    running: Any = meteor._process.args
    assert set(start.call_args.args[0]) - {"java"} <= set(map(str, running))
    ours = meteor.score([text for (text,) in said.values()], list(due.values()))
    assert ours[0] == pytest.approx(100 * corpus, abs=1e-9)
    assert ours[1] == pytest.approx([100 * score for score in samples], abs=1e-9)


def test_spice(fake_java: FakeJava, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Nothing is fetched; scores in the order of the samples, 0 without propositions; opened for Java 17, no cache."""
    home = tmp_path / "spice"
    (home / "lib").mkdir(parents=True)
    for name in ("../spice-1.0.jar", official.SPICE_MODELS[0]):
        (home / "lib" / name).touch()
    monkeypatch.setattr(official, "jar_of", lambda package, name: home / name)
    with pytest.raises(JavaError, match=rf"fetch https://.*zip.*{home}/lib"):
        official.check_spice()
    (home / "lib" / official.SPICE_MODELS[1]).touch()
    fake_java((CASES / "spice_program.txt").read_text())
    mean, scores = official.official_spice(["", "a\ndog"], [["a"], ["b", "c"]])
    assert (mean, scores.tolist()) == (25.0, [0.0, 50.0])
    fake_java("sys.exit(' '.join(sys.argv[1:]))")
    opened = "--add-opens=java.base/java.math=ALL"
    with pytest.raises(JavaError, match=f"^(?!.*-cache)(?s:.)*SPICE failed.*{opened}"):
        official.official_spice(["a"], [["a"]])
    path = tmp_path / "out.json"
    for content in ("", "[]", '[{"image_id": 0}]', '{"a": 1}'):
        path.write_text(content)
        with pytest.raises(JavaError, match="cannot be read"):
            official.read_spice(path, 1)
