"""SPICE: never a download; parser missing, answer read, program failing; the real program where it can run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.metrics import spice
from benchmarks.metrics.java import JavaError, jar_of
from benchmarks.metrics.spice import (
    MODELS,
    MissingModelError,
    check_models,
    official_spice,
    read_scores,
    spice_available,
)

pytest.importorskip("pycocoevalcap")
needs_parser = pytest.mark.skipif(not spice_available(), reason="SPICE's parser is not in place")


@pytest.fixture
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of the parser's names."""
    home = tmp_path / "spice"
    (home / "lib").mkdir(parents=True)
    for name in ("../spice-1.0.jar", *MODELS):
        (home / "lib" / name).touch()
    monkeypatch.setattr(spice, "jar_of", lambda package, name: home / name)
    return home


def test_without_the_parser(monkeypatch: pytest.MonkeyPatch, parser: Path) -> None:
    """The message says what to fetch and where it goes, and nothing is fetched."""
    (parser / "lib" / MODELS[1]).unlink()
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *a, **k: pytest.fail("went to the network")
    )
    with pytest.raises(
        MissingModelError, match=rf"fetch https://.*zip.*put them into {parser}/lib"
    ):
        check_models()
    assert not spice_available()


def test_answer(fake_java: Callable[[str], Path], parser: Path) -> None:
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


def test_command_line(fake_java: Callable[[str], Path], parser: Path) -> None:
    """Opened for Java 17, and no cache."""
    fake_java("sys.exit(' '.join(sys.argv[1:]))")
    with pytest.raises(JavaError, match="SPICE failed") as error:
        official_spice(["a"], [["a"]])
    assert "--add-opens=java.base/java.math=ALL-UNNAMED" in str(error.value)
    assert "-cache" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '[{"image_id": 0}]', '{"a": 1}'])
def test_answer_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(content)
    with pytest.raises(JavaError, match="cannot be read"):
        read_scores(path, 1)


def test_scores_are_read_times_100(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text(json.dumps([{"image_id": 0, "scores": {"All": {"f": 0.25}}}]))
    assert read_scores(path, 1).tolist() == [25.0]


@needs_parser
@pytest.mark.slow
def test_the_real_program() -> None:
    assert jar_of("spice", "spice-1.0.jar").is_file()
    _, scores = official_spice(
        ["a red bus", "a red bus"], [["a red bus"], ["two dogs run"]], heap="2G"
    )
    assert scores.tolist() == [100.0, 0.0]
