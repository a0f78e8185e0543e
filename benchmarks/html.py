"""Tables, charts and photos of a report, on the builder of HTML of `patchioner.detail.report`.

Charts are tables: every mark, an inline SVG with lengths in percent, stands beside the number that it shows. A photo is
stored once as a small JPEG, however many samples show it; its region is drawn over it in pixels of the original, and
what lies outside boxes is darkened.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from patchioner.base.errors import ImageError
from patchioner.detail.report import Child, Markup, element
from patchioner.images import load_image

LONG_SIDE, QUALITY, HEIGHT = 448, 78, 18
_MARKS = {
    "run": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z",
    "baseline": "M0 -6L6 0L0 6L-6 0Z",
}
"""A disc for a run, a diamond for a baseline."""


def table(
    caption: Child,
    head: Iterable[Child],
    rows: Iterable[Iterable[Child]],
    class_: str | None = None,
) -> Markup:
    """A table whose first column names its rows, in a frame that scrolls sideways where it is too wide."""
    body = [
        element(
            "tr",
            [element("td", cell) if at else element("th", cell, scope="row") for at, cell in enumerate(row)],
        )
        for row in rows
    ]  # fmt: skip
    return _framed(caption, [element("th", cell, scope="col") for cell in head], body, class_)


def _framed(caption: Child, head: Child, body: Child, class_: str | None) -> Markup:
    whole = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", head)),
        element("tbody", body),
        class_=class_,
    )
    return element("div", whole, class_="scroll", tabindex="0")


@dataclass(frozen=True)
class Mark:
    """One line of a chart: a value with its bounds, drawn as a "run" or a "baseline"; `text` stands beside it."""

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    kind: str = "run"


def chart(
    caption: Child,
    marks: Sequence[Mark],
    *,
    heads: Mapping[int, str] | None = None,
    each: bool = False,
) -> Markup:
    """Marks with intervals, a row each: on one common scale, or `each` on its own with zero in the middle.

    `heads` are headings before the rows of these indices.
    """
    scale = round_scale([end for mark in marks for end in (mark.value, mark.low, mark.high)])
    rows: list[Markup] = []
    for index, mark in enumerate(marks):
        if heads and index in heads:
            rows.append(element("tr", element("th", heads[index], colspan=3), class_="group"))
        ends = [abs(end) for end in (mark.value, mark.low, mark.high) if end is not None]
        reach = max(ends) or 1.0
        rows.append(
            element(
                "tr",
                element("th", mark.label, scope="row"),
                element("td", _plot(mark, (-reach, reach) if each else scale), class_="plotted"),
                element("td", mark.text),
            )
        )
    words = ["less", "0", "more"] if each else [f"{end:z.1f}" for end in scale]
    ends_ = element("span", [element("span", word) for word in words], class_="ends")
    head = [element("th", ""), element("th", ends_, class_="plotted"), element("th", "value")]
    return _framed(caption, head, rows, "chart")


def round_scale(values: Iterable[float | None]) -> tuple[float, float]:
    """Round ends of a scale that holds zero and all values."""
    there = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min([0.0, *there]), max([0.0, *there])
    if high == low:
        return 0.0, 1.0
    step = 10.0 ** math.floor(math.log10(high - low)) / 2
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _plot(mark: Mark, scale: tuple[float, float]) -> Markup:
    """Zero line, interval, mark. Said in words in the next cell, so hidden from screen readers."""

    def at(value: float) -> str:  # leaves room for half a mark at both ends
        return f"{4 + 92 * (value - scale[0]) / (scale[1] - scale[0]):.2f}%"

    middle = HEIGHT // 2
    parts = [element("line", x1=at(0.0), x2=at(0.0), y1=0, y2=HEIGHT, class_="zero")]
    if mark.low is not None and mark.high is not None:
        ends = {"x1": at(mark.low), "x2": at(mark.high)}
        parts.append(element("line", **ends, y1=middle, y2=middle, class_="span"))
    sign = element("path", d=_MARKS[mark.kind], class_=mark.kind)
    parts.append(element("svg", sign, x=at(mark.value), y=middle, overflow="visible"))
    return element("svg", parts, width="100%", height=HEIGHT, class_="plot", aria_hidden="true")


class Gallery:
    """The photos of a page: each is opened at its first use.

    Args:
        override: folder of the photos, in place of those that the runs name.

    Attributes:
        missing: names of the photos that could not be opened, with the reason.
    """

    def __init__(self, override: Path | None = None) -> None:
        self._override = override
        self._found: dict[Path, tuple[str, tuple[int, int]] | None] = {}
        self._stored: list[Markup] = []
        self._clips = 0
        self.missing: dict[str, str] = {}

    def picture(self, folder: str, photo: str, region: Mapping[str, Any], words: str) -> Markup:
        """A photo with its region (as JSON); a note in its place where it cannot be opened. `words` describe it."""
        found = self._open((self._override or Path(folder)) / photo, photo)
        if found is None:
            reason = self.missing[photo]
            return element("p", f"{photo}: photo not shown, {reason}", class_="missing")
        name, (width, height) = found
        self._clips += 1
        shapes = drawing(region, (width, height), f"#{name}", f"region-{self._clips}")
        box = f"0 0 {width} {height}"
        return element(
            "svg", element("title", words), shapes, viewBox=box, role="img", class_="photo"
        )

    def definitions(self) -> Markup:
        """The photos themselves, once each."""
        stored = element("defs", self._stored)
        return element("svg", stored, width=0, height=0, class_="store", aria_hidden="true")

    def _open(self, path: Path, photo: str) -> tuple[str, tuple[int, int]] | None:
        if path not in self._found:
            try:
                image = load_image(path)
            except ImageError as error:
                self._found[path] = None
                # Without the path: the page says the same wherever it was made.
                broken = f"it cannot be opened ({type(error).__name__})"
                self.missing[photo] = broken if path.is_file() else "no such file"
                return None
            name = f"photo-{len(self._stored) + 1}"
            self._found[path] = name, image.size
            place = {"width": image.width, "height": image.height}
            fit = {"preserveAspectRatio": "none", "href": _jpeg(image)}
            self._stored.append(element("image", id=name, **place, **fit))
        return self._found[path]


def _jpeg(image: Image.Image) -> str:
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def drawing(
    region: Mapping[str, Any], size: tuple[int, int], photo: str, name: str
) -> list[Markup]:
    """The photo (a reference, "#photo-1") and a region on it, in pixels of the original of (width, height).

    Boxes are cut out of a shade under the id `name`; a trace runs from an open circle to a full one.
    """
    members = region.get("set", [region])
    boxes = [
        {"x": _short(x1), "y": _short(y1), "width": _short(x2 - x1), "height": _short(y2 - y1)}
        for x1, y1, x2, y2 in (member["box"] for member in members if "box" in member)
    ]
    parts = [element("use", href=photo)]
    if boxes:
        parts += [
            element("rect", width=size[0], height=size[1], class_="shade"),
            element("clipPath", [element("rect", **box) for box in boxes], id=name),
            element("use", href=photo, clip_path=f"url(#{name})"),
        ]
    parts += [edge for box in boxes for edge in _cased("rect", box)]
    for trace in (member for member in members if "trace" in member):
        scale = size if trace.get("normalized") else (1.0, 1.0)
        points = [(x * scale[0], y * scale[1]) for x, y in trace["trace"]]
        line = " ".join(f"{_short(x)},{_short(y)}" for x, y in points)
        radius = _short(max(size) / 60)
        (x1, y1), (x2, y2) = points[0], points[-1]
        if len(points) > 1:
            parts += _cased("polyline", {"points": line})
            parts += _cased("circle", {"cx": _short(x1), "cy": _short(y1), "r": radius})
        parts.append(element("circle", cx=_short(x2), cy=_short(y2), r=radius, class_="end"))
    return parts


def _cased(tag: str, shape: Mapping[str, str]) -> list[Markup]:
    """Drawn twice, broad and black, then narrow and yellow, to show on any photo."""
    return [element(tag, **shape, class_=class_) for class_ in ("casing", "edge")]


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --quiet: #5b6168; --line: #d5d9de;
  --panel: #f5f6f8; --mark: #0b5cad; --second: #a04a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e8eaed; --quiet: #a4abb3; --line: #3a3f46;
  --panel: #1f2226; --mark: #7cb8ff; --second: #ffb070; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.35rem; border-bottom: 2px solid var(--line); margin: 2.5rem 0 .8rem; }
h3, h4, h5 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
a { color: var(--mark); }
.quiet { color: var(--quiet); font-size: .88rem; font-weight: normal; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%; }
caption { text-align: left; color: var(--quiet); font-size: .88rem; }
caption span { display: inline-block; max-width: calc(100vw - 2.5rem); }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; }
.numbers td, .numbers thead th { white-space: nowrap; font-variant-numeric: tabular-nums; }
.pairs { table-layout: fixed; width: 100%; } .pairs th { width: 40%; }
.chart th:first-child { width: 26%; } .chart .plotted { width: 40%; min-width: 6rem; padding-right: 1rem; }
.chart tr.group th { padding-top: .8rem; color: var(--quiet); font-weight: normal; }
.ends { display: flex; justify-content: space-between; color: var(--quiet); font-size: .8rem; font-weight: normal; }
.plot { display: block; overflow: visible; } .zero { stroke: var(--quiet); stroke-dasharray: 2 2; }
.span { stroke: var(--ink); stroke-width: 1.5; } path.run { fill: var(--mark); }
path.baseline { fill: var(--paper); stroke: var(--second); stroke-width: 2; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
.card p, .card ul, .card dl { margin: .3rem 0; } .card ul { padding-left: 1.2rem; font-size: .9rem; }
.card .score { font-weight: 600; } dt { color: var(--quiet); font-size: .8rem; } dd { margin: 0 0 .35rem; }
.photo { display: block; width: 100%; max-height: 20rem; background: #000; }
.photo .shade { fill: #000; fill-opacity: .35; }
.photo .casing, .photo .edge { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.photo .casing { stroke: #000; stroke-width: 5; } .photo .edge { stroke: #ffd100; stroke-width: 2; }
.photo .end { fill: #ffd100; stroke: #000; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.store { position: absolute; } .missing { border: 1px dashed var(--quiet); padding: .6rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: .3rem .7rem; }
summary { cursor: pointer; font-weight: 600; }
"""
