"""One HTML file that says everything about finished runs, and needs no network: `python -m benchmarks.report RUNS`.

The same runs and photos give the same bytes: it holds no date, and no path but those of the runs' settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from benchmarks import compare
from benchmarks.answerers import Prediction
from benchmarks.command import CIDER_WARNING, command_parser, run_command, with_interval
from benchmarks.compare import DIFFERENCES, NAMES, MeasuredRun, changes, read_runs
from benchmarks.data import TASK_NAMES, task_named
from benchmarks.run import in_order
from benchmarks.scoring import ONE_REFERENCE, draw_region
from patchioner.base.errors import ImageError
from patchioner.base.files import atomic_path
from patchioner.images import data_url, load_image
from patchioner.markup import Child, Markup, element, folded, page, table

REPORT_FILE = "report.html"
SHOWN_SAMPLES, SHOWN_REFERENCES, SHOWN_ROWS, SHOWN_NOTES = 6, 5, 200, 5
CSS = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
_OF_SAME = "is what the same caption for all regions gets"
MEANINGS = {
    "repeated_pairs": "how often two regions of one photo get the same caption; low is good",
    "grounding_wins": "how often a caption fits its own region's references better than those of another region of the"
    f" photo; 50 {_OF_SAME}",
    "grounding_margin": f"CIDEr against the own references minus that against the other regions'; 0 {_OF_SAME}",
    "object_wins": f"share of the photo's other classes that the caption names less than the box's own; 50 {_OF_SAME}",
    "object_margin": "how often the own class is named, minus how often those of the photo's other boxes are",
}
"""What the regional scores say, none of which a published table has."""
LONG_SIDE, QUALITY = 448, 78
Runs = Sequence[MeasuredRun]


class Gallery:
    """The photos of a page, each with each region once; of the folder `override`, in place of those that runs name."""

    def __init__(self, override: Path | None = None) -> None:
        self._override = override
        self._names: dict[str, tuple[str, str]] = {}
        self._stored: list[Markup] = []
        self.missing: dict[str, str] = {}  # photos that could not be opened, with the reason

    def picture(self, folder: str, photo: str, region: Mapping[str, Any], words: str) -> Markup:
        """A photo with its region (as JSON) in red; a note in its place where it cannot be opened."""
        path = (self._override or Path(folder)) / photo
        key = json.dumps([str(path), region])
        if key not in self._names and photo not in self.missing:
            try:
                self._store(key, draw_region(load_image(path), region))
            except ImageError as error:
                # Without the path: the page says the same wherever it was made.
                broken = f"it cannot be opened ({type(error).__name__})"
                self.missing[photo] = broken if path.is_file() else "no such file"
        if key not in self._names:
            reason = f"{photo}: photo not shown, {self.missing[photo]}"
            return element("p", reason, class_="missing")
        name, box = self._names[key]
        inside = element("title", words), element("use", href=f"#{name}")
        return element("svg", *inside, viewBox=box, role="img", class_="photo")

    def definitions(self) -> Markup:
        """The pictures themselves."""
        stored = element("defs", self._stored)
        return element("svg", stored, width=0, height=0, class_="store", aria_hidden="true")

    def _store(self, key: str, image: Image.Image) -> None:
        image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
        name = f"photo-{len(self._names) + 1}"
        data = data_url(image, quality=QUALITY)
        self._names[key] = name, f"0 0 {image.width} {image.height}"
        sides = {"width": image.width, "height": image.height}
        self._stored.append(element("image", id=name, **sides, href=data))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 1 after an error."""
    parser = command_parser("report", "One HTML file about finished runs.")
    add = parser.add_argument
    add("run", type=Path, nargs="+", metavar="RUN", help="folder of a run, or one that holds them")
    add("--out", type=Path, default=Path(REPORT_FILE), help="the HTML file (default: %(default)s)")
    add("--images", type=Path, help="folder of the photos, if no longer where the runs found it")
    return run_command(parser, _work, argv)


def _work(arguments: argparse.Namespace) -> None:
    notes = write_report(arguments.run, arguments.out, images=arguments.images)
    for note in notes[:SHOWN_NOTES]:
        sys.stderr.write(f"{note}\n")
    if len(notes) > SHOWN_NOTES:
        sys.stderr.write(f"and {len(notes) - SHOWN_NOTES} more photos\n")
    sys.stdout.write(f"The report is in {arguments.out}\n")


def write_report(folders: Sequence[Path], out: Path, *, images: Path | None = None) -> list[str]:
    """Write the report of finished runs (of folders, or of folders that hold them) into an HTML file; a line for each
    photo that was not found comes back. `images` is the folder of the photos, in place of those that the runs name.
    """
    gallery = Gallery(images)
    text = report_html(read_runs(folders), gallery)
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return [f"photo {one} is not in the report: {why}" for one, why in gallery.missing.items()]


def report_html(runs: Runs, gallery: Gallery) -> str:
    """The whole page."""
    tasks = [name for name in TASK_NAMES if any(run.task == name for run in runs)]
    titles = {"about": "What was measured"} | {name: task_named(name).title for name in tasks}
    sections = [_task(n, [run for run in runs if run.task == n], gallery) for n in tasks]
    links = [element("li", element("a", title, href=f"#{key}")) for key, title in titles.items()]
    title = f"Benchmark report: {', '.join(titles[name] for name in tasks)}"
    nav = element("nav", element("ul", links))
    header = element("header", element("h1", "Benchmark report"), nav)
    return page(title, CSS, gallery.definitions(), header, element("main", _about(runs), sections))


def _about(runs: Runs) -> Markup:
    rows: list[list[Child]] = []
    details = []
    for run in runs:
        results, data = run.results, run.results["data"]
        left = [*results["skipped"]["malformed"], *results["skipped"]["unanswered"]]
        where = f"{PurePath(str(run.settings['data'])).name} ({str(run.data['data'])[:12]}\u2026)"
        model = PurePath(str(run.settings["model"])).name
        title = task_named(run.task).title
        rows.append([run.label, title, model, where, data["samples"], data["photos"], len(left)])
        listed = [[row["row"], row["where"], row["reason"]] for row in left[:SHOWN_ROWS]]
        kept = {key: results[key] for key in ("model", "data", "settings", "versions", "machine")}
        kept["made"] = {name: score["made"] for name, score in results["metrics"].items()}
        everything = json.dumps(kept, indent=1, ensure_ascii=False)
        rows_left = table(f"{len(left)} rows left out", ["row", "where", "reason"], listed)
        told = f"Everything about {run.label} ({run.task})"
        details.append(folded(told, element("pre", everything), rows_left if left else None))
    head = ["run", "task", "model", "data (sha256)", "samples", "photos", "rows left out"]
    overview = table("Runs of this page", head, rows)
    return element("section", element("h2", "What was measured", id="about"), overview, details)


def _task(name: str, runs: Runs, gallery: Gallery) -> Markup:
    everything = [one for run in runs for one in (run, *run.baselines)]
    names = in_order(metric for run in everything for metric in run.metrics)
    meanings = [element("li", f"{NAMES[n]}: {MEANINGS[n]}") for n in names if n in MEANINGS]
    parts: list[Child] = [
        element("h2", task_named(name).title, id=name), element("h3", "Scores"), _score_table(everything, names),
        element("p", CIDER_WARNING) if "cider" in names else None, element("ul", meanings),
        element("h3", "Differences"), _differences(runs),
    ]  # fmt: skip
    for index, metric in enumerate(sample_metrics(runs)):
        block: list[Child] = []
        for run in runs:
            others = [*run.baselines, *(other for other in runs if other is not run)]
            block += [element("h4", run.label), _extremes(run, metric, others, gallery)]
        title = f"Samples by {NAMES.get(metric, metric)}"
        parts.append(folded(title, block, open=index == 0))
    parts.append(_published(name))
    return element("section", parts)


def _score_table(runs: Runs, names: Sequence[str]) -> Markup:
    rows: list[list[Child]] = []
    for run in runs:
        cells = (with_interval(run.metrics.get(name)) for name in names)
        rows.append([run.label, run.results["data"]["samples"], *cells])
    caption = "Scores (x 100) with 95 % bootstrap intervals over photos"
    head = ["run", "samples", *(NAMES.get(name, name) for name in names)]
    return table(caption, head, rows, class_="numbers")


def pairs_of(runs: Runs) -> list[tuple[MeasuredRun, MeasuredRun]]:
    """What is compared: each run with its own baselines, and with the first run of the same data."""
    found: list[tuple[MeasuredRun, MeasuredRun]] = []
    for index, run in enumerate(runs):
        earlier = [first for first in runs[:index] if first.data == run.data]
        found += [(first, run) for first in earlier[:1]]
        found += [(baseline, run) for baseline in run.baselines]
    return found


def _differences(runs: Runs) -> Markup:
    pairs = pairs_of(runs)
    if not pairs:
        return element("p", "There is one run and no baseline: nothing to compare.")
    parts = [element("p", DIFFERENCES)]
    for index, (first, second) in enumerate(pairs):
        found = changes(first, second)
        counts = Counter(change.verdict for change in found)
        outcome = ", ".join(f"{verdict}: {count}" for verdict, count in sorted(counts.items()))
        rows = [[NAMES.get(c.metric, c.metric), c.figure, c.signed_verdict, c.note] for c in found]
        title = f"{second.label} minus {first.label}, 95 % intervals"
        head = ["metric", "difference", "verdict", "note"]
        shown = table(title, head, rows, class_="numbers")
        told = f"{second.label} against {first.label}: {outcome}"
        parts.append(folded(told, shown, open=index == 0))
    return element("div", parts)


def sample_metrics(runs: Runs) -> list[str]:
    """Metrics that single samples are ranked by: not BLEU, which a sentence cannot carry, nor one reference each."""
    there = in_order(name for run in runs for name in run.results["samples"]["scores"])
    unfit = (ONE_REFERENCE, "_margin", "_wins")
    return [name for name in there if not name.startswith("bleu") and not name.endswith(unfit)]


def ranked(run: MeasuredRun, metric: str) -> tuple[list[str], list[str]]:
    """Ids of the best and of the worst samples, the most extreme first; of a small run, no sample comes twice."""
    scores = run.scores(metric)
    best = sorted(scores, key=lambda id_: -scores[id_])[:SHOWN_SAMPLES]
    rest = [id_ for id_ in scores if id_ not in set(best)]
    return best, sorted(rest, key=lambda id_: scores[id_])[:SHOWN_SAMPLES]


def _extremes(run: MeasuredRun, metric: str, others: Runs, gallery: Gallery) -> Markup:
    parts = []
    for title, ids in zip(("Best", "Worst"), ranked(run, metric), strict=True):
        cards = [_card(run, id_, metric, others, gallery) for id_ in ids]
        if cards:
            label = f"{title} by {NAMES.get(metric, metric)}"
            parts += [element("h5", label), element("div", cards, class_="cards")]
    return element("div", parts)


def _card(run: MeasuredRun, id_: str, metric: str, others: Runs, gallery: Gallery) -> Markup:
    """Photo, region, caption, references, and what others said of the same sample."""
    prediction = run.by_id[id_]
    told = describe(prediction)
    words = f"Photo {prediction.photo} with {told} marked"
    images = str(run.settings["images"])
    said = []
    for who, other in (("this run", run), *((other.label, other) for other in others)):
        found, score = other.by_id.get(id_), other.scores(metric).get(id_)
        if found is not None:
            value = None if score is None else element("span", f" {score:z.1f}", class_="quiet")
            said += [element("dt", who), element("dd", found.caption, value)]
    more = len(prediction.references) - SHOWN_REFERENCES
    listed = [element("li", reference) for reference in prediction.references[:SHOWN_REFERENCES]]
    return element(
        "article",
        gallery.picture(images, prediction.photo, prediction.region, words),
        element("p", f"{NAMES.get(metric, metric)} {run.scores(metric)[id_]:z.1f}", class_="score"),
        element("p", f"{id_}: {told}", class_="quiet"),
        element("dl", said),
        element("ul", listed),
        element("p", f"and {more} more references", class_="quiet") if more > 0 else None,
        class_="card",
    )


def describe(prediction: Prediction) -> str:
    """A region in words: "a box, 7.9 % of the photo"."""
    region = prediction.region
    members = region.get("set", [region])
    if "whole" in members[0]:
        return "the whole photo"
    share = f"{100 * prediction.area_share:.1f} % of the photo"
    if len(members) > 1:
        return f"{len(members)} regions, {share}"
    if "trace" in members[0]:
        count = len(members[0]["trace"])
        return f"a trace of {count} points, {share}"
    return f"a box, {share}"


def _published(task: str) -> Markup | None:
    found, mark = compare.published_table(task), compare.MARK
    if found is None:
        return None
    head, body, sources = found
    shown = table(mark.capitalize(), head, body, class_="numbers")
    listed = element("ul", [element("li", source) for source in sources])
    return folded(f"Published figures ({mark})", shown, listed)


if __name__ == "__main__":
    sys.exit(main())
