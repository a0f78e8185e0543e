"""Files are whole or absent, and JSON errors name the file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from patchioner.base import CheckpointError, atomic_path, read_json, write_json
from patchioner.base.files import file_sha256


def test_json_round_trip_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.json"
    value = {"name": "é", "list": [1, 2.5, None, True]}
    write_json(path, value)
    assert read_json(path) == value
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_failed_write_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(CheckpointError, match="config.json: cannot be written as JSON"):
        write_json(path, {"a": math.nan})
    with pytest.raises(CheckpointError, match="config.json"):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}


def test_interrupted_writer_leaves_earlier_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"earlier"
        raise KeyboardInterrupt
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"{'a': 1}", b"\xff\xfe\x00", b"[" * 100_000])
def test_corrupt_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json: not valid JSON"):
        read_json(path)


def test_missing_file_and_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path)


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"abc")
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(path) == file_sha256(str(path)) == wanted
