"""Verbs on whole models: `patchioner models`, `convert` and `export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from patchioner.base.errors import OptionError
from patchioner.cli.output import report_error, write_line
from patchioner.cli.spelling import find_photos, positive_int

if TYPE_CHECKING:
    from patchioner.export import ExportReport
    from patchioner.model import Patchioner

_TRIED = 32
_CONVERT_EXAMPLES = """\
examples:
  patchioner convert Ruggero1912/Patch-ioner_talk2dino_decap_COCO_Captions decap
  patchioner convert mlp.karpathy.yaml decap --talk2dino weights/vitb_mlp_infonce.pth
  patchioner convert my-model.yaml my-model --bank bank
  patchioner caption photo.jpg --model decap

exit status: 0 written, and the tokens are the same; 1 they are not, or the source cannot be read; 2 wrong usage.
"""
_EXPORT_EXAMPLES = """\
examples:
  patchioner export patchioner-mini mini-openvino --format openvino --precision bf16 --photos photos
  patchioner export patchioner-mini mini-onnx --format onnx --size 224 --fit stretch
  patchioner caption photo.jpg --model mini-openvino

exit status: 0 written and tried; 1 it cannot be exported, or gives other features; 2 wrong usage.
"""


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner models` takes."""
    parser.description = "List the models that can be loaded by name, or the parts of one model."
    parser.add_argument("model", nargs="?", metavar="ID|DIR", help="load it and measure its parts")
    parser.set_defaults(run=list_models)


def list_models(options: argparse.Namespace) -> int:
    """Print what is known, or the parts of one model with their sizes; returns the exit status."""
    from patchioner.checkpoints.folder import find_model
    from patchioner.checkpoints.hub import folder_bytes, known_models, part_sizes

    if options.model is None:
        for model in known_models():
            disk = "" if model.disk is None else f"{_bytes(model.disk)} on disk, "
            place = "here" if model.here else "not fetched yet"
            write_line(f"{model.name}\n  {model.about}")
            write_line(
                f"  {_bytes(model.memory)} in memory, {disk}{place}; licence: {model.licence}; from {model.source}"
            )
        return 0
    from patchioner import Patchioner

    path = find_model(options.model)
    loaded = Patchioner.from_pretrained(options.model, device="cpu")
    place = f"{_bytes(folder_bytes(path))} on disk at {path}" if path.is_dir() else f"from {path}"
    write_line(f"{loaded.settings.name}: {place}")
    write_line(f"licence: {loaded.settings.licence}")
    sizes = part_sizes(loaded.parts)
    for part, (numbers, size) in sizes.items():
        write_line(
            f"  {part:<12} {numbers / 1e6:8.1f} million numbers  {_bytes(size):>10} in memory"
        )
    total = sum(size for _, size in sizes.values())
    write_line(f"  {'together':<12} {'':>25}  {_bytes(total):>10} in memory")
    return 0


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner convert` takes."""
    parser.description = (
        "Write any model that can be loaded (a published Patch-ioner model, a YAML file that names "
        "parts, one of ours) in our own format: safetensors, a memory bank with norms, JSON. Both then decode the "
        "same vectors, and their token ids are compared."
    )
    parser.epilog, parser.formatter_class = _CONVERT_EXAMPLES, argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("source", metavar="ID|DIR|YAML")
    add("out", metavar="OUT", type=Path, help="new folder")
    add(
        "--storage",
        choices=["fp32", "fp16", "int8"],
        default="fp32",
        help="precision of the networks on disk (default: %(default)s, which changes nothing)",
    )
    add(
        "--bank-storage",
        choices=["float32", "float16", "int8"],
        default="float16",
        help="precision of the memory bank (default: %(default)s)",
    )
    add("--bank", metavar="DIR", help="replace the memory bank by this one")
    add(
        "--merge-duplicates",
        action="store_true",
        help="equal rows of the memory bank become one that counts as often: projections stay the same",
    )
    published = parser.add_argument_group("published Patch-ioner models")
    published.add_argument(
        "--talk2dino",
        metavar="FILE|OWNER/NAME/FILE",
        help="projection of the text tower, which the repositories do not hold (captions need none)",
    )
    published.add_argument(
        "--fit",
        choices=["stretch", "crop"],
        help="how photos are fitted: stretch, as in all published numbers, or crop (default: stretch)",
    )
    parser.set_defaults(run=convert)


def convert(options: argparse.Namespace) -> int:
    """Convert, load the result, decode the same vectors with both; 1 when a token differs."""
    from patchioner import Patchioner

    check_new_folder(options.out)
    source = _load(options)
    bank = source.parts.bank
    if options.merge_duplicates and bank is not None:
        source = Patchioner(source.parts.with_bank(bank.merge_duplicates()), device="cpu")
    source.save_pretrained(options.out, storage=options.storage, bank_storage=options.bank_storage)
    same = _same_captions(source, Patchioner.from_pretrained(options.out, device="cpu"))
    write_line(
        f"{options.out}: token ids equal those of {options.source} for {same} of {_TRIED} vectors"
    )
    if same < _TRIED:
        report_error(
            f"{_TRIED - same} captions differ by the precision on disk: use --storage fp32 and --bank-storage float32 "
            "for the very same ones"
        )
    return int(same < _TRIED)


def check_new_folder(out: Path) -> None:
    """Refuse to write where something is; OptionError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} exists already: choose an empty or new folder")


def _load(options: argparse.Namespace) -> Patchioner:
    from patchioner import Patchioner

    if options.talk2dino is None and options.fit is None:
        return Patchioner.from_pretrained(options.source, device="cpu", bank=options.bank)
    from memory_bank import MemoryBank
    from patchioner.checkpoints.folder import find_model
    from patchioner.checkpoints.published import read_published

    parts = read_published(
        find_model(options.source), mode=options.fit or "stretch", talk2dino=options.talk2dino
    )
    if options.bank is not None:
        parts = parts.with_bank(MemoryBank.load(options.bank))
    return Patchioner(parts, device="cpu")


def _same_captions(source: Patchioner, converted: Patchioner) -> int:
    """How many of some random embeddings both models decode to the same tokens."""
    import torch

    from patchioner.embedding import project

    generator, bank = torch.Generator().manual_seed(0), source.parts.bank
    if bank is None:
        embeddings = torch.randn(_TRIED, source.parts.backbone.dim, generator=generator)
    else:  # mixtures of memory rows: where the embeddings of real regions lie
        rows = torch.randint(len(bank), (_TRIED, 4), generator=generator)
        embeddings = bank.units(rows.flatten()).view(*rows.shape, -1).sum(dim=1)
    one, other = (
        model.parts.decoder.generate(
            project(embeddings, model.settings, model.parts.bank),
            source.settings.decode,
            model.parts.bank,
        )
        for model in (source, converted)
    )
    pairs = zip(one, other, strict=True)
    return sum((a.token_ids, a.text) == (b.token_ids, b.text) for a, b in pairs)


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner export` takes."""
    parser.description = (
        "Write a model whose backbone runs in another runtime on the CPU, as a complete checkpoint. It is tried "
        "against the model: features on given photos or on pictures of our own, and on photos also captions."
    )
    parser.epilog, parser.formatter_class = _EXPORT_EXAMPLES, argparse.RawDescriptionHelpFormatter
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
    from patchioner.export import count_changed_captions, export_model

    photos = [photo.load() for photo in find_photos(options.photos)]
    model = Patchioner.from_pretrained(options.model, device="cpu")
    settings = {key: getattr(options, key) for key in ("format", "precision", "size", "fit")}
    report = export_model(model, options.out, photos=photos, **settings)
    write_line(_summary(options, report, given=bool(photos)))
    if photos:
        exported = Patchioner.from_pretrained(options.out, device="cpu")
        changed, total = count_changed_captions(model, exported, photos)
        same = options.size is None and options.fit is None
        note = "" if same else " (size or fit differ, too)"
        write_line(f"  captions that change: {changed} of {total}{note}")
    return 0


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
