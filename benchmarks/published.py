"""Figures that the authors published, to stand beside measured ones.

Each is of the authors' data, splits and metric programs, so it is a mark to aim at and no result of this repository.
The four sources are pictures on the project page of Patch-ioner (branch gh-pages, static/images/); a second-hand source
of the specification is left out, since nobody has checked it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MARK = "published, not measured here; other data"

SOURCES = {
    "A": "main comparison table (results-table.webp)",
    "B": "dense captioning table (dense-captioning/dense-table.webp); data not printed, agrees with VG v1.2 of A",
    "C": "trace captioning table (trace-captioning/trace-table.webp); agrees with the COCO traces of A",
    "D": "radar charts, best setting (radar-charts.webp); data not printed",
}

P = "P"
"""The mean best text cosine in the space of PAC-S, which the tables call RefPAC-S: ours is `pac_text_cosine`."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table (key of `SOURCES`), on one data set, with what is printed beside it.

    `values` are by metric, times 100, by the names of results.json; "P" is the text cosine of the tables.
    """

    source: str
    model: str
    task: str
    data: str
    values: dict[str, float]
    note: str = ""


def published_rows(task: str | None = None) -> tuple[PublishedRow, ...]:
    """All published rows of a task, or of all tasks."""
    return tuple(row for row in _rows() if task is None or row.task == task)


# Columns of source A: (task, data set, metrics of a cell).
_MAIN_COLUMNS = (
    ("trace", "COCO traces", ("cider", P)),
    ("trace", "Flickr30k traces", ("cider", P)),
    ("dense", "VG v1.2", ("mAP", "cider", P)),
    ("dense", "VG-COCO", ("mAP", "cider", P)),
    ("region_set", "COCO Entities", ("cider", P)),
    ("region_set", "Flickr30k Entities", ("cider", P)),
    ("image", "COCO", ("cider", P, "clip_s")),
    ("image", "Flickr30k", ("cider", P, "clip_s")),
)

# As printed, cells between bars; "att." is the attention-based weighting that the table marks on these rows.
_MAIN_TABLE = """
ZeroCap  | | | | | | | 14.6 |
MAGIC    | | | | | | | 49.3 | 17.5
CLOSE    | | | | | | | 81.2 |
CapDec   | | | | | | | 91.8 | 35.7
EntroCap | | | | | | | 94.3 | 41.5
MERCap   | | | | | | | 96.0 | 45.6
ViECap (reproduced by them) | 24.3 / 74.4 | 12.0 / 68.8 | 14.90 / 26.4 / 74.3 | 15.2 / 26.6 / 74.3 | 102.7 / 85.0 | 31.8 / 74.9 | 89.7 / 88.5 / 75.6 | 29.8 / 80.6 / 70.5
MeaCap (reproduced by them) | 22.5 / 74.4 | 12.6 / 69.8 | 15.01 / 28.6 / 75.1 | 16.0 / 28.9 / 75.1 | 97.9 / 85.2 | 38.6 / 76.4 | 86.0 / 88.6 / 77.8 | 40.1 / 82.8 / 73.9
DeCap (reproduced by them) | 20.5 / 75.3 | 11.2 / 71.0 | 17.75 / 24.6 / 77.8 | 17.8 / 24.9 / 77.7 | 95.1 / 87.4 | 39.4 / 78.8 | 87.4 / 90.6 / 79.3 | 40.0 / 84.8 / 76.3
RegionCLIP + memory | | | 15.85 / 21.7 / 76.7 | 16.01 / 21.0 / 75.4 | | | 93.4 / 91.2 / 77.5 | 38.8 / 84.5 / 73.6
AlphaCLIP + memory | 21.3 / 75.4 | 11.8 / 71.0 | 14.63 / 19.1 / 73.9 | 14.82 / 19.4 / 73.8 | 95.1 / 87.4 | 39.5 / 78.8 | 89.7 / 91.1 / 78.2 | 40.9 / 85.4 / 75.0
T2D + memory | 27.9 / 78.7 | 18.8 / 77.0 | 21.31 / 31.9 / 78.8 | 21.53 / 32.3 / 78.7 | 109.1 / 87.5 | 44.1 / 79.1 | 88.5 / 90.2 / 76.0 att. | 39.3 / 84.2 / 71.8 att.
T2D + noise | 29.3 / 78.1 | 19.3 / 75.6 | 20.26 / 26.3 / 77.0 | 20.33 / 26.4 / 76.9 | 97.5 / 85.6 | 37.1 / 76.5 | 65.5 / 86.2 / 70.9 | 27.8 / 80.8 / 67.0
T2D + noise + ext. knowledge | 28.2 / 78.2 | 18.5 / 76.2 | 18.43 / 30.3 / 77.8 | 18.43 / 30.7 / 77.7 | 109.3 / 86.7 | 37.8 / 77.8 | 88.5 / 89.2 / 73.7 att. | 34.1 / 82.8 / 69.9 att.
T2D + noise + filtered knowledge | 27.4 / 78.8 | 20.3 / 77.3 | 18.66 / 31.9 / 78.9 | 19.43 / 32.3 / 78.7 | 104.4 / 86.9 | 42.3 / 78.6 | 83.0 / 89.6 / 74.8 att. | 39.4 / 84.4 / 71.4 att.
"""  # noqa: E501

# Model, patches a side, backbone, input | mAP (a fraction there) | METEOR | BLEU-4 | ROUGE-L | CIDEr | SPICE | P
_DENSE_COLUMNS = ("mAP", "meteor", "bleu4", "rouge_l", "cider", "spice", P)
_DENSE_TABLE = """
DeCap@224, 7 patches, CLIP B32, CLS                | 0.15 | 8.40 | 0.94 | 15.61 | 19.38 | 9.38 | 73.71
DeCap@224, 7 patches, CLIP B32, patches, uniform   | 0.09 | 4.44 | 0.19 | 11.03 | 5.39 | 2.29 | 72.03
DeCap@224, 7 patches, CLIP B32, patches, gaussian  | 0.09 | 4.44 | 0.19 | 11.06 | 5.41 | 2.27 | 71.90
DeCap@224, 7 patches, CLIP B32, patches, attention | 0.10 | 4.54 | 0.20 | 11.32 | 5.70 | 2.43 | 71.71
DeCap@224, 14 patches, CLIP B16, CLS                | 0.14 | 8.48 | 0.95 | 15.70 | 19.11 | 9.40 | 73.94
DeCap@224, 14 patches, CLIP B16, patches, uniform   | 0.12 | 6.01 | 0.44 | 13.07 | 10.69 | 5.00 | 74.07
DeCap@224, 14 patches, CLIP B16, patches, gaussian  | 0.12 | 5.97 | 0.45 | 13.06 | 10.58 | 4.89 | 73.91
DeCap@224, 14 patches, CLIP B16, patches, attention | 0.13 | 5.91 | 0.43 | 12.95 | 10.33 | 4.84 | 73.73
DeCap@592, 37 patches, CLIP B16, CLS                | 0.15 | 8.37 | 0.92 | 15.67 | 18.53 | 9.26 | 73.91
DeCap@592, 37 patches, CLIP B16, patches, uniform   | 0.12 | 5.97 | 0.45 | 13.15 | 10.89 | 4.87 | 74.15
DeCap@592, 37 patches, CLIP B16, patches, gaussian  | 0.12 | 5.93 | 0.44 | 13.14 | 10.74 | 4.76 | 73.99
DeCap@592, 37 patches, CLIP B16, patches, attention | 0.12 | 5.80 | 0.42 | 12.89 | 10.22 | 4.66 | 73.89
DeCap@224 crop, 7 patches, CLIP B32, CLS            | 0.17 | 10.03 | 1.35 | 18.20 | 23.61 | 10.90 | 77.09
DeCap@224 crop, 14 patches, CLIP B16, CLS           | 0.18 | 10.33 | 1.40 | 18.44 | 24.56 | 11.28 | 77.76
Patch-ioner@518, 37 patches, DINOv2 B14, patches, uniform   | 0.21 | 10.63 | 1.36 | 18.59 | 31.94 | 15.03 | 78.82
Patch-ioner@518, 37 patches, DINOv2 B14, patches, gaussian  | 0.22 | 10.82 | 1.43 | 18.82 | 32.80 | 15.48 | 79.14
Patch-ioner@518, 37 patches, DINOv2 B14, patches, attention | 0.21 | 10.31 | 1.27 | 18.17 | 30.58 | 14.72 | 78.69
"""

_TRACE_COLUMNS = ("bleu4", "meteor", "rouge_l", "cider", "spice", P)
_TRACE_TABLE = """
DeCap@592, CLIP B16, CLS                          | 2.0 | 9.6 | 21.5 | 20.5 | 8.7 | 75.3
DeCap@592, CLIP B16, patches, uniform             | 0.9 | 7.0 | 17.0 | 10.9 | 5.8 | 75.0
DeCap@592, CLIP B16, patches, attention           | 0.8 | 6.5 | 15.1 | 9.4 | 5.6 | 74.9
Patch-ioner@518, DINOv2 B14, CLS                  | 1.8 | 8.7 | 20.6 | 20.5 | 8.7 | 75.0
Patch-ioner@518, DINOv2 B14, patches, uniform     | 2.5 | 10.7 | 23.2 | 27.9 | 12.6 | 78.7
Patch-ioner@518, DINOv2 B14, patches, attention   | 2.4 | 10.4 | 22.7 | 27.6 | 12.0 | 78.1
"""

_RADAR_COLUMNS = ("mAP", "bleu4", "meteor", "rouge_l", "cider", "spice", P)
_RADAR_CHARTS = """
trace, Patch-ioner      |      | 2.5 | 10.7 | 23.2 | 27.9 | 12.6 | 78.7
trace, baseline         |      | 2.0 | 9.6 | 21.5 | 20.5 | 8.7 | 75.3
dense, Patch-ioner      | 22.0 | 1.4 | 10.9 | 18.9 | 33.2 | 15.6 | 79.0
dense, baseline         | 18.0 | 1.4 | 10.3 | 18.5 | 24.9 | 11.3 | 77.7
region_set, Patch-ioner |      | 11.6 | 19.6 | 39.3 | 111.6 | 30.1 | 87.7
region_set, baseline    |      | 10.0 | 19.4 | 38.3 | 95.1 | 26.8 | 87.4
image, Patch-ioner      |      | 23.6 | 23.9 | 48.5 | 88.5 | 18.2 | 90.2
image, baseline         |      | 23.5 | 25.1 | 50.1 | 87.4 | 19.1 | 90.6
"""


def published_table(task: str) -> list[list[str]]:
    """Head and rows of a table of `published_rows`; empty where there are none."""
    rows = published_rows(task)
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    body = []
    for row in rows:
        values = [f"{row.values[name]:z.1f}" if name in row.values else "" for name in names]
        body.append([row.model, row.data, *values, row.source, row.note])
    return [["model", "data", *names, "source", "note"], *body] if body else []


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.strip().splitlines():
        yield [cell.strip() for cell in line.split("|")]


def _values(metrics: tuple[str, ...], cells: list[str]) -> dict[str, float]:
    """The cells that are filled; a bare CIDEr has no other metric beside it."""
    return {name: float(cell) for name, cell in zip(metrics, cells, strict=False) if cell}


def _rows() -> Iterator[PublishedRow]:
    for model, *cells in _lines(_MAIN_TABLE):
        for (task, data, metrics), cell in zip(_MAIN_COLUMNS, cells, strict=True):
            parts = cell.removesuffix("att.").split("/")
            note = "attention-based weighting" if cell.endswith("att.") else ""
            if values := _values(metrics, [part.strip() for part in parts]):
                yield PublishedRow("A", model, task, data, values, note)
    for model, *cells in _lines(_DENSE_TABLE):
        values = _values(_DENSE_COLUMNS, cells)
        values["mAP"] = round(100 * values["mAP"], 1)
        yield PublishedRow("B", model, "dense", "not printed", values, "mAP printed as a fraction")
    for model, *cells in _lines(_TRACE_TABLE):
        yield PublishedRow("C", model, "trace", "COCO traces", _values(_TRACE_COLUMNS, cells))
    for name, *cells in _lines(_RADAR_CHARTS):
        task, model = name.split(", ")
        found = _values(_RADAR_COLUMNS, cells)
        yield PublishedRow("D", f"{model}, best setting", task, "not printed", found)
