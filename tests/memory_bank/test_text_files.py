"""Captions out of every kind of file, and every kind of damage by its row or place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from memory_bank import read_captions
from patchioner.base.errors import TextError

CAPTIONS = ["a café, at night", 'a sign that says "stop"', "two dogs\x0cplay"]


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as stream:
            stream.write(data)
        return path
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(delimiter: str = ",") -> str:
    quoted = ['"' + text.replace('"', '""') + '"' for text in CAPTIONS]
    rows = [f"{i}{delimiter}{text}" for i, text in enumerate(quoted)]
    return "\r\n".join([f"id{delimiter}caption", *rows]) + "\r\n"


COCO = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": c} for c in CAPTIONS]}

KARPATHY = {
    "images": [
        {"sentences": [{"raw": CAPTIONS[0], "tokens": []}, {"raw": CAPTIONS[1]}]},
        {"sentences": [{"raw": CAPTIONS[2]}]},
        {"filename": "nothing said.jpg"},
    ]
}

FILES: dict[str, str] = {
    "captions.txt": "\n".join(CAPTIONS[:2]) + "\n\n  \n" + CAPTIONS[2],
    "captions.csv": table(),
    "captions.tsv": table("\t"),
    "list.json": json.dumps(CAPTIONS),
    "coco.json": json.dumps(COCO),
    "karpathy.json": json.dumps(KARPATHY),
    "objects.json": json.dumps([{"sentence": CAPTIONS[:2]}, {"sentence": CAPTIONS[2]}]),
}


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FILES)
def test_the_same_captions_from_every_file(tmp_path: Path, name: str, packed: str) -> None:
    path = write(tmp_path / (name + packed), FILES[name])
    assert read_captions(str(path)) == CAPTIONS


@pytest.mark.parametrize(
    "cells", [{"n": [1, 2, 3], "text": CAPTIONS}, {"captions": [CAPTIONS[:2], CAPTIONS[2:]]}]
)
def test_parquet_with_one_or_several_captions_in_a_cell(tmp_path: Path, cells: Any) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table(cells), path)
    assert read_captions(path) == CAPTIONS
    assert read_captions(write(tmp_path / "a.parquet.gz", path.read_bytes())) == CAPTIONS


def test_a_column_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "caption,alt\nwrong,right\n")
    assert read_captions(path, "alt") == ["right"]
    assert read_captions(path) == ["wrong"]
    rows = write(tmp_path / "a.json", json.dumps([{"caption": "wrong", "alt": "right"}]))
    assert read_captions(rows, "alt") == ["right"]


@pytest.mark.parametrize(
    ("name", "content", "column", "said"),
    [
        ("a.doc", "x", None, r"not read from '.doc'; give one of .txt, .text"),
        ("a.txt", "\n \n", None, "no caption in it"),
        ("a.txt", "x", "caption", "has no column 'caption'; leave it out"),
        ("a.txt", b"\xff\xfe\x00", None, "not UTF-8"),
        ("a.txt", "a dog".encode("utf-16-le"), None, "NUL characters"),
        ("a.txt", "<html><p>a dog</p></html>", None, "a page of HTML"),
        ("a.txt", "a dog\n" + "x" * 10_001, None, r"line 2 is 'x+.*10,001 characters"),
        ("a.txt", "a dog\thttp://a.b/1\na cat\thttp://a.b/2", None, "a table without names"),
        ("a.csv", "text,caption\na,1\nb,2\n", None, "2 of 2 captions are numbers.*--column"),
        ("a.txt", "http://a.b/1\na cat", None, "1 of 2 captions are .* addresses"),
        ("a.json", '[["1.jpg", "a dog"], ["2.jpg", "a cat"]]', None, "2 of 4 captions are .*'1.jpg'"),
        ("a.json", r'["a cat", "a \ud83d dog"]', None, "item 1 .*half a character"),
        ("a.tsv", "1.jpg\ta dog\n", None, "put a line of names on top"),
        ("a.csv", "caption\n", None, "no caption in it"),
        ("a.csv", "", None, "none of its columns"),
        ("a.csv", "id,words\n1,x\n", None, r"columns \(id, words\).*--column"),
        ("a.csv", "id,caption\n1,x\n", "captoin", "did you mean caption"),
        ("a.csv", "id,caption\n1,a dog, a cat\n", None, "row 1 has 3 cells"),
        ("a.csv", 'id,caption\n1,"a dog\n2,a cat\n', None, "after nothing"),
        ("a.csv", 'id,caption\n1,a\n2,"b\n3,c\n4,"d" e\n', None, "after row 1"),
        ("a.csv", 'id,caption\n1,a\n2,"b\n3,c"\n4,d\n', None, "row 2 has the next"),
        ("a.csv", 'caption,image\n"a dog,1.jpg\na cat",2.jpg\n', None, "row 1 has the next"),
        ("a.csv", "caption,split\na dog,test\n", None, "it has test"),
        ("a.csv", 'caption\n"{""en"": ""a dog""}"\n', None, r"columns \(en\)"),
        ("a.json", "{", None, "no JSON"),
        ("a.json", "3", None, "holds int"),
        ("a.json", "[" * 100_000, None, "no JSON"),
        ("a.json", '{"images": [3, {}], "info": 1}', None, "\"annotations\".*'images', 'info'"),
        ("a.json", '{"images": [{"sentences": 3}]}', None, "annotations"),
        ("a.json", '["a cat", 3]', None, "item 1 is 3"),
        ("a.jsonl", '"a cat"\n{', None, "line 2: no JSON"),
        ("a.json", '{"images": [{"split": "val", "sentences": [{"raw": "a"}]}]}', None, "it has val"),
        ("a.json", '[{"caption": "a"}, {"caption": ["b", 3]}]', None, "item 1 is 3"),
        ("a.json", '[{"caption": "a"}, {"id": 3}]', None, r"columns \(id\)"),
        ("a.parquet", "PAR1", None, "not a readable Parquet file"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_where(
    tmp_path: Path, name: str, content: Any, column: str | None, said: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(TextError, match=said) as caught:
        read_captions(path, column)
    assert str(path) in str(caught.value)


NEIGHBOURS: dict[str, str | bytes] = {
    "token.txt": "1.jpg#0\ta dog\n1.jpg#1\ta cat\n",
    "captions.txt": "image,caption\n1.jpg,a dog\n1.jpg,a cat\n",
    "semicolon.csv": "image;Caption\n1.jpg;a dog\n2.jpg;a cat\n",
    "bar.csv": "image_name| comment_number| comment\n1.jpg| 0| a dog\n1.jpg| 1| a cat\n",
    "lines.jsonl": '{"text": "a dog"}\n{"text": "a cat"}\n',
    "lines.json": '{"text": "a dog"}\n{"text": "a cat"}\n',
    "one column.txt": "caption\na dog\na cat\n",
    "excel.txt": "image\tcaption\r\n1.jpg\ta dog\r\n2.jpg\ta cat\r\n".encode("utf-16"),
    "excel.csv": "\ufeffsep=;\r\nimage;caption\r\n1.jpg;a dog\r\n2.jpg;a cat\r\n",
    "blank.csv": "\r\n\r\nimage;caption\r\n1.jpg;a dog\r\n2.jpg;a cat\r\n",
    "three ends.txt": "a dog\ra cat\r\n\u200b\n...\n",
    "no ending": "a dog\na cat",
    "numbered.txt": "1. a dog\n2. a cat\n",
    "classes.txt": "0: a dog\n1: a cat\n",
    "bullets.txt": "- a dog\n- a cat\n",
    "quoted.txt": '"a dog",\n"a cat"\n',
    "coco names.txt": "COCO_val2014_000000391895 a dog\nCOCO_val2014_000000060623 a cat\n",
    "json.txt": '["a dog", "a cat"]',
    "jsonl.txt": '{"caption": "a dog"}\n{"caption": "a cat"}\n',
    "photos.json": '{"1.jpg": ["a dog"], "2.jpg": "a cat"}',
    "columns.json": '{"urls": ["u", "v"], "captions": ["a dog", "a cat"]}',
    "data.json": '{"data": [{"caption": "a dog"}, {"caption": "a cat"}], "version": 1}',
    "old mac.txt": "a dog\ra cat\r",
    "numbers.txt": "391895\ta dog\n60623\ta cat\n",
    "names.txt": "d/a.jpg: a dog\nb.png a cat\n",
    "lists.csv": 'raw,split\n"[""a dog"", ""a cat""]",train\n',
    "pandas.csv": "raw\n\"['a dog', 'a cat']\"\n",
    "split.csv": "caption,Split\na dog,train\na cow,test\na cat,\n",
    "split.jsonl": '{"text": "a dog"}\n{"text": "no", "Split": "val"}\n{"text": "a cat"}\n',
    "numpy.csv": "captions\n\"['a dog' 'a cat']\"\n",
    "null.csv": "id,caption\n1,a dog\n2,NaN\n3,a cat\n4,null\n",
    "missing.json": '{"annotations": [{"caption": "a dog"}, {"caption": null}, {"caption": "a cat"}]}',
    "short.csv": "id,caption\n1,a dog\n2\n3,a cat\n4,\n",
    "splits.json": json.dumps(
        {
            "images": [
                {"split": split, "sentences": [{"raw": text}]}
                for split, text in (("train", "a dog"), ("val", "a cow"), ("restval", "a cat"))
            ]
        }
    ),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_others_write_is_read_as_they_mean_it(tmp_path: Path, name: str) -> None:
    assert read_captions(write(tmp_path / name, NEIGHBOURS[name])) == ["a dog", "a cat"]


def test_thousands_are_no_numbers_of_photos(tmp_path: Path) -> None:
    texts = ["2,000 dogs", "3,000 cats", "\U0003fffd"]  # an emoji that Python does not know yet
    assert read_captions(write(tmp_path / "a.txt", "\n".join(texts))) == texts


def test_quotes_in_a_tsv_are_text(tmp_path: Path) -> None:
    said = ['"no entry" sign', '"the end', 'a kite"']
    path = write(tmp_path / "a.tsv", "\n".join(["url\tcaption", *(f"u\t{text}" for text in said)]))
    assert read_captions(path) == said


@pytest.mark.parametrize("listed", [repr, json.dumps])
def test_quotes_inside_a_listed_caption_are_text(tmp_path: Path, listed: Any) -> None:
    said = ['signs say "stop" "go"', "a kite"]
    path = write(tmp_path / "a.tsv", f"caption\n{listed(said)}\n")
    assert read_captions(path) == said


def test_what_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memory_bank.text_files.MAX_BYTES", 1000)
    for name in ("a.txt.gz", "a.txt.zst"):
        with pytest.raises(TextError, match=name):
            read_captions(write(tmp_path / name, "a cat\n" * 1000))


def test_damaged_archives_and_missing_files(tmp_path: Path) -> None:
    whole = gzip.compress(FILES["captions.txt"].encode())
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
