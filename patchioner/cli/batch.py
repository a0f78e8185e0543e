"""`patchioner batch` and `patchioner alt`: many photos into rows, resumable."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchioner.base.errors import OptionError, UnknownNameError
from patchioner.batch.exports import BESIDE, EXPORTS, export
from patchioner.batch.job import Job, Report, backbone_rate, run
from patchioner.batch.rows import read_rows, run_folder
from patchioner.batch.sources import Reading, open_source
from patchioner.batch.tasks import TASKS, Task
from patchioner.cli import spelling
from patchioner.cli.output import report, write_line

_EXAMPLES = """\
A SOURCE is a folder (with those below it), a glob, a list of photos (.txt, one a line), a file of regions with
the photos beside it (COCO, LVIS, labelme, ...), WebDataset tars, Parquet or Arrow tables, a folder of datasets, or a
URL of them (s3://, gs://, memory://).

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
    parser.description = (
        "Caption the regions of many photos: one row each, none lost, none doubled."
    )
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run_batch, error=parser.error)
    add = parser.add_argument
    _add_common(parser, ".parquet, .jsonl or .csv; or a FOLDER/ of Parquet shards")
    add("--regions", metavar="FILE|DIR", help="regions of all photos, or a file for each")
    add("--task", choices=TASKS, default="caption", help="what is asked (default: %(default)s)")
    choice = "texts to choose among, for --task label"
    add("--labels", metavar='FILE|"A;B;C"', type=spelling.parse_texts, default=(), help=choice)
    add("--engine", choices=["local", "ray"], default="local", help="where the work is done")
    add("--shards", type=spelling.positive_int, metavar="N", help="pieces of a new run")
    add("--bank", metavar="DIR", help="memory bank in place of the model's")
    least = "leave out captions below this confidence (for calibrated models)"
    add("--min-confidence", type=spelling.number(0, 1), metavar="P", help=least)
    add("--profile", action="store_true", help="the rate beside that of the backbone alone")
    add = parser.add_argument_group("other forms of the rows, once all are there").add_argument
    forms = (
        f"{', '.join(EXPORTS)}; of {', '.join(BESIDE)} a file for each photo, in the folder PATH"
    )
    add("--export", action="append", type=_export, metavar="FORM=PATH", default=[], help=forms)
    add("--prefix", default="", metavar="TEXT", help="in front of the photos' names in --export")
    page = "photos, regions and captions on a page, sorted by confidence"
    add("--gallery", metavar="FILE.html", help=page)
    add = parser.add_argument_group("tables").add_argument
    add("--image-column", metavar="NAME", help="pictures or paths")
    add("--region-column", metavar="NAME", help="regions or boxes")
    numbers = "what the four numbers of a box column mean, in pixels"
    add("--box-format", choices=["xyxy", "xywh", "cxcywh"], help=numbers)


def _export(text: str) -> tuple[str, str]:
    form, _, path = text.partition("=")
    if form not in EXPORTS or not path:
        error = UnknownNameError.among("export", form, EXPORTS)
        raise argparse.ArgumentTypeError(f"{error}; to be written FORM=PATH")
    return form, path


def add_alt_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner alt` takes."""
    parser.description = "Alt text for photos: one plain sentence of at most 125 characters each."
    parser.set_defaults(run=run_batch, error=parser.error, task="alt", profile=False)
    _add_common(parser, ".csv, .jsonl or .parquet")


def _add_common(parser: argparse.ArgumentParser, out: str) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder, list, annotations, tars or tables of photos")
    add("--out", required=True, metavar="FILE|DIR", help=out)
    spelling.add_model(add)
    add("--retry", choices=["failed"], help="ask again about the photos of which rows failed")
    most = "stop when more rows have failed"
    add("--max-failures", type=int, metavar="N", help=most)


def run_batch(options: argparse.Namespace) -> int:
    """Do the job and return the exit status.

    Raises:
        PatchionerError: nothing can be done at all.
    """
    given: Mapping[str, Any] = vars(options)
    try:
        how = {"min_confidence": given.get("min_confidence")}
        task = Task(options.task, given.get("labels", ()), how if any(how.values()) else {})
    except OptionError as error:
        options.error(str(error))
    names = ("regions", "image_column", "region_column", "box_format")
    settings: dict[str, Any] = {
        "task": task,
        "reading": Reading(**{name: given.get(name) for name in names}),
        "retry": options.retry is not None,
        "max_failures": options.max_failures,
        "device": options.device,
        "bank": given.get("bank"),
        "shards": given.get("shards"),
    }
    engine = given.get("engine", "local")
    found = run(options.source, options.out, model=options.model, engine=engine, **settings)
    _tell(found, options.out)
    if found.stopped is None:
        _write_other_forms(given, settings["reading"])
    if options.profile:
        job = Job(options.source, options.out, options.model, options.device)
        alone = backbone_rate(replace(job, reading=settings["reading"]))
        rate = found.photos / found.seconds if found.seconds else 0.0
        each = found.regions / max(1, found.photos)
        write_line(f"{rate:.2f} photos/s with {each:.1f} regions each; the backbone alone "
                   f"{alone:.2f}: {rate / alone:.2f} of it")  # fmt: skip
    return found.status


def _write_other_forms(given: Mapping[str, Any], reading: Reading) -> None:
    folder = run_folder(given["out"])[0]
    for form, path in given.get("export", ()):
        left = export(read_rows(folder), form, path, prefix=given["prefix"])
        report(f"{path}: written" + (f"; {left:,} rows have no place in {form}" if left else ""))
    if (page := given.get("gallery")) is not None:
        from patchioner.batch.gallery import write_gallery

        source = open_source(given["source"], reading)
        photos = ((one.photo, one.image) for one in source.samples(source.keys()))
        report(f"{page}: {write_gallery(read_rows(folder), photos, page):,} photos")


def _tell(found: Report, out: str) -> None:
    if found.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.left_out.items()))
        report(f"left out of the source: {kinds}")
    if found.stopped is not None:
        report(found.stopped)
    bad = sum(found.failed.values())
    write_line(f"{found.rows:,} rows in {Path(out)}: {found.rows - bad:,} well, {bad:,} failed")
    for kind, count in found.failed.items():
        write_line(f"  {count:8,}  {kind}")
