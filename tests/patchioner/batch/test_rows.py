import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from patchioner.base.errors import OptionError
from patchioner.batch.rows import Row, read_rows, schema, write_rows

ROWS = [
    Row("a.jpg", 0, "7", "cat", "box", (0.0, 1.5, 20.0, 30.0), 80, 60, "a cat", -0.5, 0.25),
    Row("ü/b\n.jpg", 1, embedding=(0.5, -1.0), model="m", source='{"id": 7}', origin="t#0:5"),
    Row("c.jpg", error="ImageError", message="no photo at 'c.jpg'"),
]


READERS: dict[str, Callable[[Any, str], Any]] = {
    "pyarrow.parquet": lambda library, path: library.read_table(path)["photo"].to_pylist(),
    "pandas": lambda library, path: library.read_parquet(path)["photo"],
    "duckdb": lambda library, path: library.sql(f"from '{path}'").df()["photo"],
    "datasets": lambda library, path: library.Dataset.from_parquet(path, cache_dir=f"{path}.cache")["photo"],
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_others_read_the_rows(reader: str, tmp_path: Path) -> None:
    library = pytest.importorskip(reader)
    write_rows(tmp_path / "rows.parquet", ROWS)
    found = READERS[reader](library, str(tmp_path / "rows.parquet"))
    assert list(found) == [row.photo for row in ROWS]


def test_a_file_gives_the_rows_back(tmp_path: Path) -> None:
    for suffix in (".parquet", ".jsonl", ".csv"):
        write_rows(tmp_path / f"rows{suffix}", ROWS)
    for suffix in (".parquet", ".jsonl"):
        shard = (tmp_path / f"rows{suffix}").rename(tmp_path / f"000001{suffix}")
        assert list(read_rows(shard)) == ROWS
    assert list(read_rows(tmp_path)) == 2 * ROWS
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [one["photo"] for one in found] == [row.photo for row in ROWS]
    assert json.loads(found[0]["bbox"]) == list(ROWS[0].bbox or ()) and found[1]["bbox"] == ""


def test_what_holds_no_rows_is_refused(tmp_path: Path) -> None:
    for line in ("{}", '{"photo": "a", "caption": "b"}', "[", "5"):
        (tmp_path / "rows.jsonl").write_text(line)
        with pytest.raises(OptionError):
            list(read_rows(tmp_path / "rows.jsonl"))
    for name in ("rows.csv", "none.jsonl"):
        with pytest.raises(OptionError):
            list(read_rows(tmp_path / name))
    for metadata, says in ((None, "no rows"), ({b"patchioner.rows": b"99"}, "99")):
        table = schema().with_metadata(metadata).empty_table()
        parquet.write_table(table, tmp_path / "rows.parquet")
        with pytest.raises(OptionError, match=says):
            list(read_rows(tmp_path / "rows.parquet"))
