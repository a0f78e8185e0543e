"""The page: one HTML file that needs nothing beside it.

Knows: the order of the sections. Does NOT know: what stands in them. The same runs and photos give the same bytes:
there is no date in it, and no path but those that the runs' settings hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.about import about
from benchmarks.report.breakdown import by_boxes, by_size, histograms, sample_metrics
from benchmarks.report.markup import Child, Markup, element
from benchmarks.report.names import in_order, metric_name
from benchmarks.report.photos import Gallery
from benchmarks.report.runs import MeasuredRun, read_runs
from benchmarks.report.samples import extremes
from benchmarks.report.scores import REGIONAL, differences, forest, published, regional, score_table
from benchmarks.report.style import CSS, SCRIPT
from benchmarks.tasks import TASKS, task_named
from patchioner.base.files import atomic_path

REPORT_FILE = "report.html"
SHOWN_SAMPLES = 6
# The page itself forbids every request; what it shows is inside it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(
    folders: Sequence[Path], out: Path, *, images: Path | None = None, shown: int = SHOWN_SAMPLES
) -> list[str]:
    """Write the report of finished runs.

    Args:
        folders: folders of runs, or folders that hold them.
        out: the HTML file; its folder is made.
        images: folder of the photos, in place of those that the runs name.
        shown: how many of the best and of the worst samples each run shows.

    Returns:
        What a reader should know, a line each: photos that were not found.

    Raises:
        BenchmarkDataError: a folder holds no run, or files that do not belong together.

    Example:
        >>> write_report([Path("build/benchmarks")], Path("report.html"))  # doctest: +SKIP
        []
    """
    gallery = Gallery(images)
    text = report_html(read_runs(folders), gallery, shown=shown)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return [
        f"photo {photo} is not in the report: {reason}" for photo, reason in gallery.missing.items()
    ]


def report_html(
    runs: Sequence[MeasuredRun], gallery: Gallery, *, shown: int = SHOWN_SAMPLES
) -> str:
    """The whole page.

    Args:
        runs: at least one.
        gallery: has the photos.
        shown: as in `write_report`.

    Example:
        >>> report_html(runs, Gallery()).startswith("<!DOCTYPE html>")  # doctest: +SKIP
        True
    """
    tasks = [name for name in TASKS if any(run.task == name for run in runs)]
    title = f"Benchmark report: {', '.join(task_named(name).title for name in tasks)}"
    sections = [
        _task(name, [run for run in runs if run.task == name], gallery, shown) for name in tasks
    ]
    links = [("about", "What was measured"), *((name, task_named(name).title) for name in tasks)]
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("title", title),
            element("style", Markup(CSS)),
        ),
        element(
            "body",
            gallery.definitions(),
            element(
                "header",
                element("h1", "Benchmark report"),
                element(
                    "nav",
                    element(
                        "ul", [element("li", element("a", t, href=f"#{key}")) for key, t in links]
                    ),
                    aria_label="Sections",
                ),
            ),
            element("main", about(runs), sections),
            element("script", Markup(SCRIPT)),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _task(name: str, runs: Sequence[MeasuredRun], gallery: Gallery, shown: int) -> Markup:
    everything = _with_baselines(runs)
    parts: list[Child] = [
        element("h2", task_named(name).title, id=name),
        element("h3", "Scores"),
        score_table(everything),
        _forests(everything),
        element("h3", "Differences"),
        differences(runs),
        _section("Distinctness and grounding", regional(everything)),
    ]
    metrics = sample_metrics(runs)
    if metrics:
        parts.append(_chooser(name, metrics))
        blocks = [_by_metric(metric, runs, everything, gallery, shown) for metric in metrics]
        parts += [element("div", b, data_metric=m) for m, b in zip(metrics, blocks, strict=True)]
    parts.append(_section("Published figures", published(name)))
    return element("section", parts, data_task=name)


def _forests(runs: Sequence[MeasuredRun]) -> list[Markup | None]:
    """The metrics that have an interval, each over all runs."""
    names = in_order(
        name for run in runs for name, score in run.metrics.items() if score["interval"] is not None
    )
    return [forest(name, runs) for name in names if name not in REGIONAL]


def _chooser(task: str, metrics: Sequence[str]) -> Markup:
    """Chooses the metric of all that follows; shown by the script, without which everything is there to see."""
    options = [element("option", metric_name(metric), value=metric) for metric in metrics]
    key = f"{task}-metric"
    select = element("select", options, id=key)
    label = element("label", "Samples, sizes and histograms by: ", for_=key)
    return element("p", label, select, class_="chooser", hidden=True)


def _by_metric(
    metric: str,
    runs: Sequence[MeasuredRun],
    everything: Sequence[MeasuredRun],
    gallery: Gallery,
    shown: int,
) -> list[Markup | None]:
    name = metric_name(metric)
    parts: list[Markup | None] = [
        _section(f"{name} against the size of the region", by_size(metric, everything)),
        _section(f"{name} against the number of boxes", by_boxes(metric, everything)),
        _section(f"{name} of single samples", histograms(metric, everything)),
        element("h3", f"Best and worst samples by {name}"),
    ]
    for run in runs:
        others = [*run.baselines, *(other for other in runs if other is not run)]
        parts.append(element("h4", run.label))
        parts.append(extremes(run, metric, others, gallery, shown))
    return parts


def _section(title: str, content: Markup | None) -> Markup | None:
    return None if content is None else element("div", element("h3", title), content)


def _with_baselines(runs: Sequence[MeasuredRun]) -> list[MeasuredRun]:
    """Every run, followed by its baselines."""
    found: list[MeasuredRun] = []
    for run in runs:
        found.append(run)
        found += run.baselines
    return found
