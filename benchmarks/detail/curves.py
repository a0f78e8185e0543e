"""Precision-recall curves as one SVG file.

Knows: shares and lines. Does NOT know: what was judged.

Lines differ by colour and by dashes, and the name of each stands at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from benchmarks.report.markup import Markup, element

_WIDTH, _HEIGHT = 720, 400
_LEFT, _TOP, _RIGHT, _BOTTOM = 60, 20, 540, 345.0
_COLOURS = ("#0b5cad", "#a04a00", "#2b7a3d", "#8a2be2", "#b3005e")
_DASHES = ("", "8 4", "2 4", "12 4 2 4", "4 4")
_LEAST = 0.5
_APART = 17.0


def precision_recall(curves: Mapping[str, Sequence[float]], recalls: Sequence[float]) -> str:
    """Draw the precision of what is kept over the share of true sentences kept.

    Args:
        curves: name -> precision at each of `recalls`, 0 to 1. Below one half it is drawn at one half: as many false
            sentences as true ones are judged, so that keeping everything has one half.
        recalls: rising, 0 to 1.

    Returns:
        An SVG file.

    Example:
        >>> precision_recall({"object": [1.0, 0.8]}, [0.5, 1.0]).startswith("<svg")
        True
    """
    low, high = recalls[0], recalls[-1]

    def at(recall: float, precision: float) -> tuple[float, float]:
        x = _LEFT + (recall - low) / (high - low or 1) * (_RIGHT - _LEFT)
        return x, _BOTTOM - (max(precision, _LEAST) - _LEAST) / (1 - _LEAST) * (_BOTTOM - _TOP)

    parts = [element("title", "Precision of the kept sentences over the share of true ones kept")]
    parts.append(element("rect", width="100%", height="100%", fill="#fff"))
    parts += _axes(at, low, high)
    ends = _spread([at(high, values[-1])[1] for values in curves.values()])
    for place, (name, values) in enumerate(curves.items()):
        points = " ".join(
            "{:.1f},{:.1f}".format(*at(*pair)) for pair in zip(recalls, values, strict=True)
        )
        colour = _COLOURS[place % len(_COLOURS)]
        dashes = _DASHES[place % len(_DASHES)] or None
        parts.append(
            element("polyline", points=points, fill="none", stroke=colour, stroke_width=2.5,
                    stroke_dasharray=dashes)
        )  # fmt: skip
        parts.append(_label(name, _RIGHT + 10, ends[place] + 4, fill=colour))
    size = f"0 0 {_WIDTH} {_HEIGHT}"
    return str(
        element("svg", parts, xmlns="http://www.w3.org/2000/svg", viewBox=size, width=_WIDTH,
                height=_HEIGHT, role="img", font_family="system-ui, sans-serif", font_size=14)
    )  # fmt: skip


def _axes(
    at: Callable[[float, float], tuple[float, float]], low: float, high: float
) -> list[Markup]:
    parts: list[Markup] = []
    for step in range(6):
        share = _LEAST + step * (1 - _LEAST) / 5
        y = at(low, share)[1]
        parts.append(element("line", x1=_LEFT, x2=_RIGHT, y1=y, y2=y, stroke="#ddd"))
        parts.append(_label(f"{100 * share:.0f}", _LEFT - 8, y + 5, anchor="end"))
        recall = low + step * (high - low) / 5
        parts.append(_label(f"{100 * recall:.0f}", at(recall, 1)[0], _BOTTOM + 20, anchor="middle"))
    middle = (_LEFT + _RIGHT) / 2
    parts.append(_label("true sentences kept, %", middle, _HEIGHT - 10, anchor="middle"))
    turned = element("text", "precision of the kept, %", transform=f"translate(16 {(_TOP + _BOTTOM) / 2}) rotate(-90)",
                     fill="#333", text_anchor="middle")  # fmt: skip
    return [*parts, turned]


def _label(text: str, x: float, y: float, *, fill: str = "#333", anchor: str = "start") -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", fill=fill, text_anchor=anchor)


def _spread(heights: Sequence[float]) -> list[float]:
    """The same heights, moved apart where labels would lie on one another, and none below the lower axis."""
    found = list(heights)
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    for before, place in pairwise(order):
        found[place] = max(found[place], found[before] + _APART)
    floor = _BOTTOM
    for place in reversed(order):
        found[place] = min(found[place], floor)
        floor = found[place] - _APART
    return found
