"""What a batch job writes: one row per region of a photo; the Arrow schema of rows has a version."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from patchioner.base.errors import OptionError, PatchionerError
from patchioner.base.optional import require

if TYPE_CHECKING:
    import pyarrow

VERSION = 1
"""Of the schema; it grows when a column is renamed, removed or means something else."""
_KEY = b"patchioner.rows"


@dataclass(frozen=True)
class Row:
    """What became of one region of one photo. A photo that fails has a row for each region that is known of, or one.

    Attributes:
        photo: its name as the source has it: relative to the folder, or as a list or annotation file spells it.
        index: the region's place among those of the photo, from 0.
        annotation_id: of the region in its file, as text.
        category: what the file calls the region.
        kind: of region: "whole_image", "box", "mask", "polygon", "point", "trace", ...
        bbox: XYXY float pixels of the original photo.
        width, height: of the original photo, pixels.
        text: the caption, label or alt text; None where there is none.
        score: of a caption, its mean log-probability per token; of a label, the cosine.
        confidence: that the text is right, 0 to 1, where the model is calibrated.
        reason: why there is no text, though nothing failed.
        embedding: (dim,) of the region, with the task "embed".
        model: fingerprint of the model.
        error, message: class and text of what went wrong; None where nothing did.
        source: what the source carried for it, as JSON text: an annotation with all its keys, the columns of a table.
    """

    photo: str
    index: int = 0
    annotation_id: str | None = None
    category: str | None = None
    kind: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    width: int | None = None
    height: int | None = None
    text: str | None = None
    score: float | None = None
    confidence: float | None = None
    reason: str | None = None
    embedding: tuple[float, ...] | None = None
    model: str = ""
    error: str | None = None
    message: str | None = None
    source: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What a row is known by, and sorted by."""
        return self.photo, self.index

    def to_dict(self) -> dict[str, Any]:
        """The columns in their order; bbox and embedding as lists."""
        values = {name: getattr(self, name) for name in COLUMNS}
        return {key: list(one) if isinstance(one, tuple) else one for key, one in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From `to_dict`, a line of JSON or a row of Arrow.

        Raises:
            OptionError: columns that rows of this version do not have, or lack.
        """
        if "photo" not in values or not values.keys() <= set(COLUMNS):
            raise OptionError(
                f"columns {sorted(map(str, values))} are no rows of version {VERSION}: {COLUMNS}"
            )
        given = dict(values)
        for name in ("bbox", "embedding"):
            given[name] = None if given.get(name) is None else tuple(given[name])
        return cls(**given)


COLUMNS = tuple(one.name for one in fields(Row))


def failed(error: PatchionerError) -> dict[str, Any]:
    """The columns `error` and `message` of a row that an error stands in."""
    return {"error": type(error).__name__, "message": " ".join(str(error).split())}


def schema() -> pyarrow.Schema:
    """The Arrow schema of rows; its metadata has their version.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    arrow = require("pyarrow", "batch")
    text, whole, real = arrow.string(), arrow.int32(), arrow.float64()
    kinds = {"index": whole, "width": whole, "height": whole, "score": real, "confidence": real}
    kinds |= {"bbox": arrow.list_(real, 4), "embedding": arrow.list_(arrow.float32())}
    required = ("photo", "index", "model")
    columns = [
        arrow.field(name, kinds.get(name, text), nullable=name not in required) for name in COLUMNS
    ]
    return arrow.schema(columns, metadata={_KEY: str(VERSION)})


def to_table(rows: Sequence[Row]) -> pyarrow.Table:
    """Rows as an Arrow table of `schema`."""
    return require("pyarrow", "batch").Table.from_pylist(
        [row.to_dict() for row in rows], schema=schema()
    )


def check_schema(found: pyarrow.Schema, where: str) -> None:
    """Refuse a table that does not hold rows of this version.

    Raises:
        OptionError: another version, or no rows at all.
    """
    version = (found.metadata or {}).get(_KEY)
    if version is None:
        raise OptionError(f"{where} holds no rows of `patchioner batch`: its columns {found.names}")
    if version != str(VERSION).encode():
        raise OptionError(
            f"{where} holds rows of version {version.decode()}, this release reads {VERSION}: "
            "use the release that wrote them, or another --out"
        )


def to_json_line(row: Row) -> str:
    """A line of JSON, without its line feed."""
    return json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False)


def to_csv(rows: Iterable[Row], *, header: bool) -> str:
    """Lines of CSV (RFC 4180, "\\n"); lists are JSON, nothing is an empty field."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    for row in rows:
        values = row.to_dict().values()
        writer.writerow([json.dumps(one) if isinstance(one, list) else one for one in values])
    return stream.getvalue()
