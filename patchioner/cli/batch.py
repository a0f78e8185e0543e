"""`patchioner batch` and `patchioner alt`: many photos into rows, resumable."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.base.files import require_other
from patchioner.base.optional import asked_workers, bound_memory
from patchioner.batch import Job, Report, run, stage_seconds
from patchioner.batch.exports import BESIDE, EXPORTS, export
from patchioner.batch.rows import read_rows, run_folder
from patchioner.batch.sources import Reading, open_source
from patchioner.batch.tasks import TASKS, Task
from patchioner.cli import spelling
from patchioner.cli.spelling import report, write_line

_KERNELS = 256  # of as many shapes as photos and groups of captions have
_EXAMPLES = """\
A SOURCE is a folder (with those below it), a glob, a list of photos (.txt, one a line), a file of regions with
the photos beside it (COCO, LVIS, labelme, ...), WebDataset tars, tables (Parquet, Arrow, CSV, TSV), a folder of
datasets, or a URL of them (s3://, gs://, memory://).

examples:
  patchioner batch photos/ --out captions.parquet
  patchioner batch photos/ --regions instances.json --out captions.jsonl    (stop it, start it again: it goes on)
  patchioner batch "shards/*.tar" --out captions/ --engine ray
  patchioner batch photos/ --out captions.parquet --export coco=captioned.json --gallery captions.html

exit status: 0 all well; 3 some rows failed (their error is in the row); 1 nothing could be done; 2 wrong usage;
130 stopped with Ctrl-C.
"""


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner batch` takes."""
    about = "Caption the regions of many photos: one row each, none lost, none doubled."
    add = spelling.declare(parser, run_batch, about, _EXAMPLES)
    _add_common(add, ".parquet, .jsonl or .csv; or a FOLDER/ of Parquet shards")
    spelling.add_region_file(add)
    add("--task", choices=TASKS, default="caption", help="what is asked (default: %(default)s)")
    add("--labels", metavar='FILE|"A;B;C"', type=spelling.parse_texts, default=(), help="texts for --task label")
    add("--retry", choices=["failed"], help="ask again about the photos of which rows failed")
    add("--max-failures", type=spelling.natural, metavar="N", help="stop when more rows have failed")
    add("--engine", metavar="local|ray|ray:N", default="local", help="who works: this process, or (N) workers of Ray")
    add("--shards", type=spelling.positive_int, metavar="N", help="pieces of a new run")
    add("--bank", metavar="DIR", help="memory bank in place of the model's")
    add("--min-confidence", type=spelling.number("[0, 1]"), metavar="P", help="leave out texts that are less sure")
    cost = "rate, and seconds of each stage alone; with the price of an hour, what photos cost"
    add("--profile", nargs="?", metavar="PRICE", type=spelling.not_negative, const=0.0, help=cost)
    add = parser.add_argument_group("other forms of the rows, once all are there").add_argument
    forms = f"{', '.join(EXPORTS)}; of {', '.join(BESIDE)} a file for each photo, in the folder PATH"
    add("--export", action="append", type=_export, metavar="FORM=PATH", default=[], help=forms)
    add("--prefix", default="", metavar="TEXT", help="in front of the photos' names in --export")
    add("--gallery", metavar="FILE.html", help="photos, regions and captions on a page, sorted by confidence")
    add = parser.add_argument_group("tables").add_argument
    add("--image-column", metavar="NAME", help="pictures or paths")
    add("--region-column", metavar="NAME", help="regions or boxes")


def _export(text: str) -> tuple[str, str]:
    form, _, path = text.partition("=")
    if form not in EXPORTS or not path:
        raise argparse.ArgumentTypeError(f"{UnknownNameError.among('export', form, EXPORTS)}; to be written FORM=PATH")
    return form, path


def add_alt_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner alt` takes."""
    about = "Alt text for photos: one plain sentence of at most 125 characters each."
    more = "`patchioner batch --task alt` is the same, with more options."
    parser.set_defaults(task="alt")
    _add_common(spelling.declare(parser, run_batch, about, more), ".csv, .jsonl or .parquet")


def _add_common(add: Callable[..., Any], out: str) -> None:
    add("source", metavar="SOURCE", nargs="+", help="photos: folders, globs, lists, annotations, tars, tables, as one")
    add("--out", required=True, metavar="FILE|DIR", help=out)
    spelling.add_model(add)


def run_batch(options: argparse.Namespace) -> int:
    """Do the job and return the exit status; PatchionerError: nothing can be done at all."""
    bound_memory(_KERNELS)
    given: Mapping[str, Any] = vars(options)
    least = "threshold" if options.task == "label" else "min_confidence"
    how = {least: given["min_confidence"]} if given.get("min_confidence") else {}
    engine = given.get("engine", "local")
    try:
        asked_workers(engine)
        task = Task(options.task, given.get("labels", ()), how)
    except OptionError as error:
        options.error(str(error))
    written = [os.path.realpath(options.out)]
    for form, path in (*given.get("export", ()), ("gallery", given.get("gallery"))):
        if path and form != "xmp":  # txt and json may lie beside the photos, not on their regions
            sources = () if form in BESIDE else options.source
            require_other(path, *sources, given.get("region_file"))
        if path and form not in BESIDE:
            if os.path.realpath(path) in written:
                options.error(f"{path!r} would be written twice: give each form a file of its own")
            written.append(os.path.realpath(path))
    columns = {name: given.get(name) for name in ("image_column", "region_column")}
    reading = Reading(given.get("region_file"), **columns, **spelling.numbers_of_regions(options))
    settings: dict[str, Any] = {"task": task, "reading": reading, "retry": given.get("retry") is not None}
    settings |= {name: given.get(name) for name in ("device", "bank", "shards", "max_failures")}
    source = options.source if len(options.source) > 1 else options.source[0]
    found = run(source, options.out, model=options.model, engine=engine, **settings)
    spelling.report_left_out("the source", found.left_out)
    _tell(found, options.out)
    if found.stopped is None:
        _write_other_forms(given, source, reading)
    if (price := given.get("profile")) is not None:
        _tell_profile(found, stage_seconds(Job(source, options.out, options.model, **settings)), price)
    return found.status


def _write_other_forms(given: Mapping[str, Any], place: Any, reading: Reading) -> None:
    folder = run_folder(given["out"])[0]
    for form, path in given.get("export", ()):
        left = export(read_rows(folder), form, path, prefix=given["prefix"])
        report(f"{path}: written" + (f"; {left:,} rows have no place in {form}" if left else ""))
    if (page := given.get("gallery")) is not None:
        from patchioner.batch.exports import write_gallery

        source = open_source(place, reading)
        photos = ((one.photo, one.image) for one in source.samples(source.keys()))
        report(f"{page}: {write_gallery(read_rows(folder), photos, page):,} photos")


def _tell(found: Report, out: str) -> None:
    if found.stopped is not None:
        report(found.stopped)
    bad = sum(found.failed.values())
    write_line(f"{found.rows:,} rows in {Path(out)}: {found.rows - bad:,} well, {bad:,} failed")
    for kind, count in found.failed.items():
        write_line(f"  {count:8,}  {kind}")


def _tell_profile(found: Report, stages: Mapping[str, float], price: float) -> None:
    """Rates of the run and of a device that takes the stages in turn, while processors read for it; and costs."""
    rate, alone = found.photos / max(found.seconds, 1e-9), 1 / stages["backbone"]
    each = found.regions / max(1, found.photos)
    write_line(f"{rate:.2f} photos/s of {each:.1f} regions; the backbone alone {alone:.2f}: {rate / alone:.2f} of it")
    write_line("each stage alone, ms a photo: " + ", ".join(f"{name} {1000 * one:.1f}" for name, one in stages.items()))
    if price:
        hour = 3600 / (stages["backbone"] + stages["regions"])
        costs = f"{hour / price:,.0f} for 1, a million for {1e6 * price / hour:,.2f}"
        write_line(f"a device at {price:g} an hour: {hour:,.0f} photos an hour, {costs}")
