"""Curves are well-formed SVG with a line and a label each, and labels do not lie on one another."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

from benchmarks.detail.curves import precision_recall

NAME = "{http://www.w3.org/2000/svg}"


def test_each_curve_has_a_line_and_a_label_of_its_own() -> None:
    curves = {"object": [1.0, 0.9, 0.7], "a < b": [0.9, 0.8, 0.7], "number": [0.5, 0.4, 0.3]}
    root = ElementTree.fromstring(precision_recall(curves, [0.5, 0.75, 1.0]))
    lines = root.findall(f"{NAME}polyline")
    labels = {text.text: float(text.get("y", "nan")) for text in root.iter(f"{NAME}text")}
    assert len(lines) == 3
    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}) == 3
    heights = sorted(labels[name] for name in curves)
    assert all(after - before >= 16 for before, after in pairwise(heights))
    assert heights[-1] <= 350


def test_better_is_higher_and_what_is_below_one_half_stays_in_the_picture() -> None:
    root = ElementTree.fromstring(precision_recall({"a": [1.0, 0.1]}, [0.5, 1.0]))
    (line,) = root.findall(f"{NAME}polyline")
    (_, first), (_, last) = (
        tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()
    )
    assert first < last <= 400
