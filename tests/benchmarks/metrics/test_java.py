"""Java: found, its version read, its failures reported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.metrics.java import (
    Java,
    JavaError,
    feature_release,
    find_java,
    java_available,
    java_version,
    last_lines,
    one_line,
    run_java,
)

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


def test_last_lines() -> None:
    assert last_lines("a\n b\nc\n", 2) == "b | c"
