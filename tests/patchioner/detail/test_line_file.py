"""A file of lines that is good after any stop, and never somebody else's."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from patchioner.base.errors import OptionError
from patchioner.detail.line_file import LineFile, Name

OPENING = '{"format": "mine"'


def line(name: Name) -> str:
    return json.dumps({"format": "mine", "key": name[0], "photo": name[1]})


def opened(path: Path) -> LineFile:
    return LineFile(path, OPENING)


NAMES = [("k1", "a"), ("k2", "b"), ("k2", "c")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "sub" / "out.jsonl"
    lines = opened(file)
    for name in NAMES:
        lines.append(name, line(name))
    return file


def test_lines_are_found_again(path: Path) -> None:
    lines = opened(path)
    assert lines.names == NAMES
    assert lines.values(("k2", "c"))["photo"] == "c"
    assert (lines.under("k2") or {})["photo"] == "b"
    assert lines.under("k3") is None
    assert ("k1", "a") in lines
    assert ("k1", "b") not in lines


def test_one_name_has_one_line(path: Path) -> None:
    before = path.read_bytes()
    opened(path).append(NAMES[0], line(NAMES[0]))
    assert path.read_bytes() == before


def test_cut_anywhere_whole_lines_stay(path: Path) -> None:
    """As a kill may leave it: every possible length of the file."""
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = sum(end <= length for end in ends)
        assert opened(path).names == NAMES[:kept]
        assert path.read_bytes() == whole[: ([0, *ends])[kept]]


def test_after_a_cut_the_next_line_is_whole(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    opened(path).append(NAMES[2], line(NAMES[2]))
    assert path.read_bytes() == whole


def test_zeros_at_the_end_are_cut_off(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 100)
    assert len(opened(path)) == 3
    assert path.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_left_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:30] + "\n" + lines[2])
    with caplog.at_level(logging.WARNING):
        assert opened(path).names == [NAMES[0], NAMES[2]]
    assert "line 2" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "dear diary\n",
        "dear diary",
        '{"a": 1}\n',
        "[]\n",
        '{"format": "mine"}\n',
        "\x89PNG\r\n\x1a\n",
    ],
)
def test_somebody_elses_file_is_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(text.encode())
    with pytest.raises(OptionError, match="left as it is"):
        opened(path)
    assert path.read_bytes() == text.encode()


def test_sorting_puts_unnamed_lines_first(path: Path) -> None:
    lines = opened(path)
    lines.sort([NAMES[2], ("k9", "z"), NAMES[0], NAMES[2]])
    assert lines.names == [NAMES[1], NAMES[2], NAMES[0]] == opened(path).names
    assert lines.values(NAMES[0])["photo"] == "a"
    before = path.stat().st_ino
    lines.sort([NAMES[2], NAMES[0]])
    assert path.stat().st_ino == before, "nothing to change, but written anew"


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.touch()
    assert len(opened(path)) == 0


def test_sorting_keeps_what_another_process_appended(path: Path) -> None:
    lines, others = opened(path), opened(path)
    others.append(("k9", "z"), line(("k9", "z")))
    lines.sort(NAMES[::-1])
    assert opened(path).names == [("k9", "z"), *NAMES[::-1]] == lines.names
    assert lines.values(("k9", "z"))["photo"] == "z"
