"""Charts: marks lie where they should, and everything is in words too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.report.charts import (
    Mark,
    Scale,
    bin_counts,
    difference_chart,
    histogram,
    interval_chart,
)
from benchmarks.report.markup import Markup, element, escape, table


def test_counts_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).uniform(0, 10, 500).round(1).tolist()
    edges = list(np.arange(0, 10.5, 0.5))
    assert bin_counts(values, edges) == np.histogram(values, edges)[0].tolist()


def test_a_histogram_says_what_it_shows(page: Any) -> None:
    found = page(histogram("mine", [0.0, 0.0, 4.0, 8.0], [0.0, 4.0, 8.0]))
    assert [a["height"] for a in found.all("rect")] == ["64.0", "64.0"]
    assert "n = 4; median 2.0, half of all between 0.0 and 5.0; 50 % at zero" in found.words()
    (label,) = [a["aria-label"] for a in found.all("svg")]
    assert label.startswith("mine: n = 4")


@pytest.mark.parametrize(
    "values", [[0.0], [1.0, 2.0], [-3.0, 250.0], [-8.0, -2.0], [0.003], [None]]
)
def test_scales_hold_zero_and_all_values(values: list[float | None]) -> None:
    scale = Scale.around(values)
    there = [value for value in values if value is not None]
    assert scale.low <= min([0.0, *there]) <= max([0.0, *there]) <= scale.high
    for value in [0.0, *there]:
        assert 0 < float(scale.percent(value).rstrip("%")) < 100


def test_marks_lie_on_one_scale(page: Any) -> None:
    marks = [Mark("a", 10.0, 0.0, 20.0), Mark("b", 20.0, kind="baseline", note="n = 3")]
    found = page(interval_chart("what", [("few", marks)]))
    places = [a["x"] for a in found.all("svg") if "x" in a]
    assert places == ["50.00%", "96.00%"]
    assert "10.0 (0.0 to 20.0)" in found.words("td") and "n = 3" in found.words("span")
    assert {a["class"] for a in found.all("path")} == {"run", "baseline"}
    assert len({a["d"] for a in found.all("path")}) == 2, "told apart by shape, not by colour alone"


def test_differences_have_zero_in_the_middle(page: Any) -> None:
    found = page(difference_chart("what", [Mark("a", 1.0, -1.0, 2.0), Mark("b", -50.0), Mark("c", 0.0)]))  # fmt: skip
    assert {a["x1"] for a in found.all("line") if a["class"] == "zero"} == {"50.00%"}
    assert [a["x"] for a in found.all("svg") if "x" in a] == ["73.00%", "4.00%", "50.00%"]
    assert "+1.0 (-1.0 to 2.0)" in found.words()


def test_elements() -> None:
    assert element("p", "<", [Markup("<br>"), None, 1, 2.50001], class_="x", data_a="&") == (
        '<p class="x" data-a="&amp;">&lt;<br>12.5</p>'
    )
    assert element("meta", name="viewport", content=None, hidden=False) == '<meta name="viewport">'
    assert escape("\ud800\x07\r\n") == "\ufffd\ufffd\r\n"
    assert 'scope="row"' in table("c", ["a"], [["x"]])
