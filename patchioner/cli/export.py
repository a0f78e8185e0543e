"""`patchioner export`: a model whose backbone runs in ONNX Runtime or OpenVINO.

Knows: the arguments, and what is reported. Does not know: how a network is exported or compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from patchioner.cli.models import check_new_folder
from patchioner.cli.output import write_line
from patchioner.cli.spelling import find_photos, positive_int

if TYPE_CHECKING:
    from PIL import Image

    from patchioner.export import ExportReport
    from patchioner.model import Patchioner

_EXAMPLES = """\
examples:
  patchioner export patchioner-mini mini-openvino --format openvino --precision bf16 --photos photos
  patchioner export patchioner-mini mini-onnx --format onnx --size 224 --fit stretch
  patchioner caption photo.jpg --model mini-openvino

needs: pip install 'patchioner[onnx]' or 'patchioner[openvino]', to export and to run
exit status: 0 written and tried; 1 it cannot be exported, or gives other features; 2 wrong usage.
"""


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner export` takes."""
    parser.description = (
        "Write a model whose backbone runs in another runtime on the CPU, as a complete checkpoint. It is tried "
        "against the model: features on given photos or on pictures of our own, and on photos also captions."
    )
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("model", metavar="MODEL", help="ID, folder or YAML file")
    add("out", metavar="OUT", type=Path, help="new folder")
    add("--format", choices=["onnx", "openvino"], required=True, help="whose files, whose runtime")
    add(
        "--precision",
        choices=["fp32", "bf16", "int8", "int8-bf16"],
        default="fp32",
        help="of the backbone's arithmetic; all but fp32 for openvino only (default: %(default)s)",
    )
    add("--size", type=positive_int, metavar="PIXELS", help="input size, in place of the model's")
    add(
        "--fit",
        choices=["stretch", "crop", "pad", "aspect"],
        help="how photos are fitted, in place of the model's; all but aspect make a network of one size",
    )
    add(
        "--photos",
        nargs="+",
        default=[],
        metavar="PHOTO|DIR",
        help="try the export on these, and count captions that change",
    )
    parser.set_defaults(run=export)


def export(options: argparse.Namespace) -> int:
    """Export, try, report; returns the exit status."""
    check_new_folder(options.out)
    from patchioner import Patchioner
    from patchioner.export import export_model

    photos = _load(options.photos)
    model = Patchioner.from_pretrained(options.model, device="cpu")
    report = export_model(
        model,
        options.out,
        format=options.format,
        precision=options.precision,
        size=options.size,
        fit=options.fit,
        photos=photos,
    )
    write_line(_summary(options, report, given=bool(photos)))
    if photos:
        write_line(_captions(model, options, photos))
    return 0


def _load(paths: Sequence[str]) -> list[Image.Image]:
    return [photo.load() for photo in find_photos(paths)]


def _summary(options: argparse.Namespace, report: ExportReport, *, given: bool) -> str:
    found = report.difference
    kind = "photos" if given else "made-up pictures (give --photos for real ones)"
    parts = [("tokens", found.tokens), ("CLS", found.cls), ("attention", found.attention)]
    largest = ", ".join(f"{name} {value:.2g}" for name, value in parts if value == value)
    return (
        f"{report.folder}: {options.format} {options.precision}, {report.megabytes:.1f} MiB\n"
        f"  tried on {report.pictures} {kind}\n"
        f"  largest difference from torch in float32: {largest}\n"
        f"  cosine of tokens: mean {found.mean_cosine:.6f}, least {found.least_cosine:.6f}"
    )


def _captions(model: Patchioner, options: argparse.Namespace, photos: Sequence[Image.Image]) -> str:
    from patchioner import Patchioner
    from patchioner.export import count_changed_captions

    exported = Patchioner.from_pretrained(options.out, device="cpu")
    changed, total = count_changed_captions(model, exported, photos)
    note = "" if options.size is None and options.fit is None else " (size or fit differ, too)"
    return f"  captions that change: {changed} of {total}{note}"
