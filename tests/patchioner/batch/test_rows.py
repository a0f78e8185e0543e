from __future__ import annotations

import csv
import io
import json

import pytest

from patchioner.base.errors import OptionError
from patchioner.batch import rows
from patchioner.batch.rows import Row

ROWS = [
    Row("a.jpg", 0, "7", "cat", "box", (0.0, 1.5, 20.0, 30.0), 80, 60, "a cat", -0.5, 0.25),
    Row("ü/b\n.jpg", 1, embedding=(0.5, -1.0), model="m", source='{"id": 7}'),
    Row("c.jpg", error="ImageError", message="no photo at 'c.jpg'"),
]


def test_a_table_gives_the_rows_back() -> None:
    pytest.importorskip("pyarrow")
    table = rows.to_table(ROWS)
    rows.check_schema(table.schema, "here")
    assert [Row.from_dict(one) for one in table.to_pylist()] == ROWS


def test_a_line_of_json_gives_the_row_back() -> None:
    lines = [rows.to_json_line(row) for row in ROWS]
    assert [Row.from_dict(json.loads(line)) for line in lines] == ROWS
    assert not any("\n" in line for line in lines)


def test_csv_has_a_record_per_row_and_json_for_lists() -> None:
    found = list(csv.DictReader(io.StringIO(rows.to_csv(ROWS, header=True), newline="")))
    assert [one["photo"] for one in found] == [row.photo for row in ROWS]
    assert json.loads(found[0]["bbox"]) == list(ROWS[0].bbox or ())
    assert found[1]["bbox"] == ""


@pytest.mark.parametrize("values", [{}, {"photo": "a", "caption": "b"}])
def test_other_columns_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(OptionError):
        Row.from_dict(values)


@pytest.mark.parametrize("metadata", [None, {b"patchioner.rows": b"99"}])
def test_a_table_of_another_version_is_refused(metadata: dict[bytes, bytes] | None) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(OptionError, match="99" if metadata else "no rows"):
        rows.check_schema(rows.schema().with_metadata(metadata), "here")
