"""Captions out of every kind of file (`caption_files.json`), and every kind of damage by its row or place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from memory_bank import read_captions
from patchioner.base.errors import TextError
from tests.support import MonkeyPatch

CASES: dict[str, Any] = json.loads(Path(__file__).with_name("caption_files.json").read_bytes())
CAPTIONS: list[str] = CASES["captions"]


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as stream:
            stream.write(data)
        return path
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


EXCEL = {"excel.txt": "image\tcaption\r\n1.jpg\ta dog\r\n2.jpg\ta cat\r\n".encode("utf-16")}


@pytest.mark.parametrize(
    ("name", "content", "column", "captions"),
    [
        *((name + packed, content, None, CAPTIONS)
          for name, content in CASES["whole"].items() for packed in ("", ".gz", ".zst")),
        # What others write is read as they mean it.
        *((name, content, None, ["a dog", "a cat"]) for name, content in (CASES["read"] | EXCEL).items()),
        *CASES["as asked"],
    ],
)  # fmt: skip
def test_captions_out_of_every_file(
    tmp_path: Path, name: str, content: Any, column: str | None, captions: list[str]
) -> None:
    assert read_captions(str(write(tmp_path / name, content)), column) == captions


@pytest.mark.parametrize("cells", [{"n": [1, 2, 3], "text": CAPTIONS}, {"captions": [CAPTIONS[:2], CAPTIONS[2:]]}])
def test_parquet_with_one_or_several_captions_in_a_cell(tmp_path: Path, cells: Any) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table(cells), path)
    assert read_captions(path) == CAPTIONS
    assert read_captions(write(tmp_path / "a.parquet.gz", path.read_bytes())) == CAPTIONS


@pytest.mark.parametrize(
    ("name", "content", "column", "said"),
    [
        *CASES["refused"],
        ("a.txt", b"\xff\xfe\x00", None, "not UTF-8"),
        ("a.txt", "a dog".encode("utf-16-le"), None, "NUL characters"),
        ("a.txt", "a dog\n" + "x" * 10_001, None, r"line 2 is 'x+.*10,001 characters"),
        ("a.json", "[" * 100_000, None, "no JSON"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path: Path, name: str, content: Any, column: str | None, said: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(TextError, match=said) as caught:
        read_captions(path, column)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_what_unpacks_to_too_much(tmp_path: Path, monkeypatch: MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("memory_bank.text_files.MAX_BYTES", 1000)
    with pytest.raises(TextError, match=name):
        read_captions(write(tmp_path / name, "a cat\n" * 1000))


def test_damaged_archives_and_missing_files(tmp_path: Path) -> None:
    whole = gzip.compress(CASES["whole"]["captions.txt"].encode())
    for name, data in {
        "cut.txt.gz": whole[:-9],
        "no.txt.gz": b"no archive",
        "bits.txt.gz": whole[:12] + b"\xff\xff\xff" + whole[15:],
        "cut.txt.zst": write(tmp_path / "a.txt.zst", "a cat\n" * 9).read_bytes()[:-9],
        "no.txt.zst": b"no archive",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TextError, match=name):
            read_captions(tmp_path / name)
    (tmp_path / "folder.json").mkdir()
    for name in ("nowhere.txt", "folder.json"):
        with pytest.raises(TextError, match="cannot be read"):
            read_captions(tmp_path / name)
