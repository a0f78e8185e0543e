"""Plain values come back, all else is one kind of error that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.files import read_yaml

pytest.importorskip("yaml")


def test_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: [1, 2.5, null]\nb: {c: caf\u00e9}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": [1, 2.5, None], "b": {"c": "caf\u00e9"}}


@pytest.mark.parametrize(
    "held",
    [
        b"a: [",
        b"\xff\xfe\x00",
        b"a: !!python/object/apply:os.mkdir ['executed']",
        b"? [a, b]\n: 1",
        b"[" * 3000,
        b"a: " + b"9" * 5000,
        b"a: 2000-13-45",
    ],
)
def test_what_is_no_plain_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(held)
    with pytest.raises(CheckpointError, match="a.yaml: not a plain YAML file"):
        read_yaml(tmp_path / "a.yaml")
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_yaml(path)
