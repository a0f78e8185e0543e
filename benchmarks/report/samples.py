"""The best and the worst samples: photo, region, caption, references, and what others said.

Knows: runs and their samples. Does NOT know: how a photo gets into the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.markup import Markup, element
from benchmarks.report.names import metric_name, number
from benchmarks.report.photos import Gallery
from benchmarks.report.runs import MeasuredRun
from benchmarks.runner.predictions import Prediction

SHOWN_REFERENCES = 5


def extremes(
    run: MeasuredRun, metric: str, others: Sequence[MeasuredRun], gallery: Gallery, shown: int
) -> Markup:
    """The samples of a run with the highest and the lowest scores; equal scores keep the order of the file.

    Args:
        run: the run.
        metric: its samples are ranked by it.
        others: runs whose captions of the same samples stand beside.
        gallery: has the photos.
        shown: how many of either; of a small run, no sample comes twice.
    """
    best, worst = ranked(run, metric, shown)
    name = metric_name(metric)
    parts = []
    for title, ids in ((f"Best by {name}", best), (f"Worst by {name}", worst)):
        cards = [_card(run, id_, metric, others, gallery) for id_ in ids]
        if cards:
            parts += [element("h5", title), element("div", cards, class_="cards")]
    return element("div", parts)


def ranked(run: MeasuredRun, metric: str, shown: int) -> tuple[list[str], list[str]]:
    """Ids of the best and of the worst samples, the most extreme first.

    Example:
        >>> ranked(run, "cider", 6)  # doctest: +SKIP
        (['359/0', ...], ['1000/1', ...])
    """
    scores = run.scores(metric)
    best = sorted(scores, key=lambda id_: -scores[id_])[:shown]
    rest = [id_ for id_ in scores if id_ not in set(best)]
    return best, sorted(rest, key=lambda id_: scores[id_])[:shown]


def _card(
    run: MeasuredRun, id_: str, metric: str, others: Sequence[MeasuredRun], gallery: Gallery
) -> Markup:
    prediction = run.by_id[id_]
    words = f"Photo {prediction.photo} with {describe(prediction)} marked"
    picture = gallery.picture(
        str(run.settings["images"]), prediction.photo, prediction.region, words
    )
    score = run.scores(metric)[id_]
    said: list[tuple[str, str | None, float | None]] = [("this run", prediction.caption, score)]
    for other in others:
        found = other.by_id.get(id_)
        if found is not None:
            said.append((other.label, found.caption, other.scores(metric).get(id_)))
    captions = [
        [element("dt", who), element("dd", caption, _score(value))] for who, caption, value in said
    ]
    references = prediction.references[:SHOWN_REFERENCES]
    more = len(prediction.references) - len(references)
    listed = [element("li", reference) for reference in references]
    return element(
        "article",
        picture,
        element("p", f"{metric_name(metric)} {number(score)}", class_="score"),
        element("p", f"{id_}: {describe(prediction)}", class_="quiet"),
        element("dl", captions),
        element("p", "References", class_="label"),
        element("ul", listed),
        element("p", f"and {more} more", class_="quiet") if more > 0 else None,
        class_="card",
    )


def _score(value: float | None) -> Markup | None:
    return None if value is None else element("span", f" {number(value)}", class_="quiet")


def describe(prediction: Prediction) -> str:
    """A region in words.

    Example:
        >>> describe(prediction)  # doctest: +SKIP
        'a box, 7.9 % of the photo'
    """
    kind = _kind(prediction.region)
    if kind == "the whole photo":
        return kind
    return f"{kind}, {100 * prediction.area_share:.1f} % of the photo"


def _kind(region: Mapping[str, Any]) -> str:
    if "set" in region:
        members = region["set"]
        return f"{len(members)} regions" if len(members) > 1 else _kind(members[0])
    if "trace" in region:
        return f"a trace of {len(region['trace'])} points, from the open circle to the full one"
    if "whole" in region:
        return "the whole photo"
    return f"a {next((key for key in ('box', 'mask', 'polygon', 'point', 'patch') if key in region), 'region')}"
