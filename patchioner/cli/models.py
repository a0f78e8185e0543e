"""Verbs on whole models: `models`, `convert`, `export`, `serve`; and `doctor`, on what is installed here."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import typing
from collections.abc import Iterator
from dataclasses import fields
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import patchioner
from patchioner.base.files import require_new_folder
from patchioner.base.optional import bound_memory, install_line, require
from patchioner.cli.spelling import add_model, declare, find_photos, positive_int, report, report_error, write_line
from patchioner.serve import ServeSettings

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
_SERVE_EXAMPLES = """\
examples:
  patchioner serve
  patchioner serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"

docs/serve.md has the API. Ctrl-C or SIGTERM finishes what is under way and stops.
"""
# Options of the server on the first screen; their other names.
_FIRST, _ALSO = ("host", "port", "token"), {"root": ("--review",)}
_DISTRIBUTION = "openpatchioner"
# Extra -> the modules that it installs.
EXTRAS = {
    "demo": "skimage", "coco": "pycocotools", "supervision": "supervision", "heic": "pillow_heif",
    "metrics": "pycocoevalcap yaml", "clip": "open_clip", "published": "open_clip yaml h5py pyarrow",
    "language-models": "transformers", "faiss": "faiss", "onnx": "onnx onnxruntime",
    "openvino": "openvino", "api": "openai", "batch": "pyarrow fsspec", "ray": "ray",
    "serve": "fastapi uvicorn python_multipart prometheus_client",
}  # fmt: skip
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
_ROOT = Path(patchioner.__file__).resolve().parent.parent


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner models` takes."""
    add = declare(parser, list_models, "List the models that can be loaded by name, or the parts of one model.")
    add("model", nargs="?", metavar="ID|DIR", help="load it and measure its parts")


def list_models(options: argparse.Namespace) -> int:
    """Print what is known, or the parts of one model with their sizes; returns the exit status."""
    from patchioner.checkpoints import folder_bytes, known_models, part_sizes
    from patchioner.checkpoints.folder import find_model

    if options.model is None:
        for model in known_models():
            disk = "" if model.disk is None else f"{_bytes(model.disk)} on disk, "
            place = "here" if model.here else "not fetched yet"
            said = f"{_bytes(model.memory)} in memory, {disk}{place}; licence: {model.licence}; from {model.source}"
            write_line(f"{model.name}\n  {model.about}\n  {said}")
        return 0
    path = find_model(options.model)
    loaded = patchioner.Patchioner.from_pretrained(options.model, device="cpu")
    place = f"{_bytes(folder_bytes(path))} on disk at {path}" if path.is_dir() else f"from {path}"
    write_line(f"{loaded.settings.name}: {place}\nlicence: {loaded.settings.licence}")
    sizes = part_sizes(loaded.parts)
    for part, (numbers, size) in sizes.items():
        write_line(f"  {part:<12} {numbers / 1e6:8.1f} million numbers  {_bytes(size):>10} in memory")
    write_line(f"  {'together':<38}  {_bytes(sum(size for _, size in sizes.values())):>10} in memory")
    return 0


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner convert` takes."""
    about = "Write a model in our own format: safetensors, a memory bank with norms, JSON; compare what both decode."
    add = declare(parser, convert, about, _CONVERT_EXAMPLES)
    add("source", metavar="ID|DIR|YAML", help="published Patch-ioner model, YAML file that names parts, or one of ours")
    add("out", metavar="OUT", type=Path, help="new folder")
    add("--storage", choices=["fp32", "fp16", "int8"], default="fp32", help="of networks (default: %(default)s, exact)")
    add("--bank-storage", choices=["float32", "float16", "int8"], default="float16", help="of the bank (%(default)s)")
    add("--bank", metavar="DIR", help="replace the memory bank by this one")
    add("--merge-duplicates", action="store_true", help="rows equal on disk become one with a count; projections stay")
    add = parser.add_argument_group("published Patch-ioner models").add_argument
    add("--talk2dino", metavar="FILE|OWNER/NAME/FILE", help="for texts alone: the projection that repositories lack")
    add("--fit", choices=["stretch", "crop"], help="of photos: stretch, as in all published numbers (default), or crop")


def convert(options: argparse.Namespace) -> int:
    """Convert, load the result, decode the same vectors with both; 1 when a token differs."""
    require_new_folder(options.out)
    source = _load(options)
    bank = source.parts.bank
    if options.merge_duplicates and bank is not None:
        source = patchioner.Patchioner(source.parts.with_bank(bank.merge_duplicates()), device="cpu")
    source.save_pretrained(options.out, storage=options.storage, bank_storage=options.bank_storage)
    same = _same_captions(source, patchioner.Patchioner.from_pretrained(options.out, device="cpu"))
    write_line(f"{options.out}: token ids equal those of {options.source} for {same} of {_TRIED} vectors")
    if same == _TRIED:
        return 0
    report_error(f"{_TRIED - same} captions differ by the precision on disk: use --storage fp32 --bank-storage float32")
    return 1


def _load(options: argparse.Namespace) -> patchioner.Patchioner:
    from memory_bank import MemoryBank
    from patchioner.checkpoints.folder import find_model, read_checkpoint
    from patchioner.checkpoints.published import read_published

    path, how = find_model(options.source), {"mode": options.fit, "talk2dino": options.talk2dino}
    given: dict[str, Any] = {name: value for name, value in how.items() if value is not None}
    parts = read_published(path, **given) if given else read_checkpoint(path)
    if options.bank is not None:
        bank = MemoryBank.load(options.bank)
        parts.check_bank(bank)
        parts = parts.with_bank(bank)
    return patchioner.Patchioner(parts, device="cpu")


def _same_captions(source: patchioner.Patchioner, converted: patchioner.Patchioner) -> int:
    """How many of some random embeddings both models decode to the same tokens."""
    import torch

    from patchioner.embedding import project

    generator, bank = torch.Generator().manual_seed(0), source.parts.bank
    if bank is None:
        embeddings = torch.randn(_TRIED, source.parts.backbone.dim, generator=generator)
    else:  # mixtures of memory rows: where the embeddings of real regions lie
        rows = torch.randint(len(bank), (_TRIED, 4), generator=generator)
        embeddings = bank.units(rows.flatten()).view(*rows.shape, -1).sum(dim=1)
    decoded = []
    for model in (source, converted):
        texts = project(embeddings, model.settings, model.parts.bank)
        found = model.parts.decoder.generate(texts, source.settings.decode, model.parts.bank)
        decoded.append([(one.token_ids, one.text) for one in found])
    return sum(one == other for one, other in zip(*decoded, strict=True))


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner export` takes."""
    about = "Write a checkpoint whose backbone runs in another runtime on the CPU, and try it against the model."
    add = declare(parser, export, about, _EXPORT_EXAMPLES)
    add("model", metavar="MODEL", help="ID, folder or YAML file")
    add("out", metavar="OUT", type=Path, help="new folder")
    add("--format", choices=["onnx", "openvino"], required=True, help="whose files, whose runtime")
    arithmetic = "of the backbone; all but fp32 for openvino only (default: %(default)s)"
    add("--precision", choices=["fp32", "bf16", "int8", "int8-bf16"], default="fp32", help=arithmetic)
    add("--size", type=positive_int, metavar="PIXELS", help="input size, in place of the model's")
    add("--fit", choices=["stretch", "crop", "pad", "aspect"], help="of photos; all but aspect make one input size")
    add("--photos", nargs="+", default=[], metavar="PHOTO|DIR", help="try it on these, count captions that change")


def export(options: argparse.Namespace) -> int:
    """Export, try, report; returns the exit status."""
    require_new_folder(options.out)
    from patchioner.export import count_changed_captions, export_model

    photos = [photo.load() for photo in find_photos(options.photos)]
    model = patchioner.Patchioner.from_pretrained(options.model, device="cpu")
    settings = {key: getattr(options, key) for key in ("format", "precision", "size", "fit")}
    found = export_model(model, options.out, photos=photos, **settings)
    kind = "photos" if photos else "made-up pictures (give --photos for real ones)"
    off = f"at most {found.difference:.2g} of the largest, their mean cosine is {found.cosine:.6f}"
    write_line(f"{found.folder}: {options.format} {options.precision}, {found.megabytes:.1f} MiB")
    write_line(f"  tried on {found.pictures} {kind}")
    write_line(f"  tokens are off from torch's in float32 by {off}")
    if photos:
        exported = patchioner.Patchioner.from_pretrained(options.out, device="cpu")
        changed, total = count_changed_captions(model, exported, photos)
        note = " (size or fit differ, too)" if options.size or options.fit else ""
        write_line(f"  captions that change: {changed} of {total}{note}")
    return 0


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner serve` takes."""
    add_model(declare(parser, serve, "Serve one model: a page and an API, OpenAI's and Ollama's too.", _SERVE_EXAMPLES))
    advanced = parser.add_argument_group("advanced")
    hints = typing.get_type_hints(ServeSettings)
    for one in fields(ServeSettings):
        add = (parser if one.name in _FIRST else advanced).add_argument
        flags = (f"--{one.name.replace('_', '-')}", *_ALSO.get(one.name, ()))
        hint, told = hints[one.name], one.metadata["help"]
        if hint is bool:
            add(*flags, action="store_true", help=told)
            continue
        told += "" if one.default is None else " (default: %(default)s)"
        kind = next(one for one in (int, float, Path, str) if one in (hint, *typing.get_args(hint)))
        add(*flags, type=kind, default=one.default, metavar=one.metadata["metavar"], help=told)


def serve(options: argparse.Namespace) -> int:
    """Serve until told to stop; PatchionerError: the options, the model or the extra are not usable."""
    given = {one.name: getattr(options, one.name) for one in fields(ServeSettings)}
    settings = ServeSettings(**given | {"token": options.token or os.getenv("PATCHIONER_TOKEN")})
    for module in ("fastapi", "uvicorn", "python_multipart"):
        require(module, "serve")
    from patchioner.serve.app import run_server

    logging.getLogger("patchioner.serve").setLevel(logging.INFO)
    bound_memory()
    model = patchioner.Patchioner.from_pretrained(options.model, device=options.device)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    report(f"{model!r} listens on http://{host}:{settings.port}")
    run_server(model, settings)
    return 0


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare that `patchioner doctor` takes nothing."""
    declare(parser, doctor, "Say what is installed here and what is in its way; exit status 1 for that.")


def doctor(options: argparse.Namespace) -> int:
    """Write the report; the exit status."""
    parts = {"version": _versions, "devices": _devices, "extras": _extras, "model hub": _hub}
    for heading, part in parts.items():
        write_line(heading)
        for name, value in part():
            write_line(f"  {name:<16} {value}")
    others = set(metadata.packages_distributions().get("patchioner", ())) - {_DISTRIBUTION}
    for other in others:  # files that hide a package of ours are refused at import
        way = f"pip uninstall {other}, then install {_DISTRIBUTION} again"
        report_error(f"{other!r} (the Patch-ioner authors' own) is installed and has the same import name: {way}")
    if not others:
        write_line("no problem found")
    return int(bool(others))


def _versions() -> Iterator[tuple[str, str]]:
    where = "a checkout" if (_ROOT / "setup.cfg").is_file() else "installed"
    yield "patchioner", f"{patchioner.__version__} ({where}: {_ROOT})"
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in ("torch", "timm", "tokenizers", "safetensors", "huggingface_hub", "transformers"):
        found = next(iter(metadata.distributions(name=name)), None)
        yield name, "not installed" if found is None else found.version


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    yield "cpu", f"{os.cpu_count()} cores, torch works with {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        yield "cuda", f"none that torch {torch.__version__} can use"
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{found.name}, {found.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps", "there"


def _extras() -> Iterator[tuple[str, str]]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules.split() if find_spec(module) is None]
        yield extra, f"no {', '.join(missing)}: {install_line(extra)}" if missing else "installed"


def _hub() -> Iterator[tuple[str, str]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    yield "cache", f"{HF_HUB_CACHE} ({len(list(Path(HF_HUB_CACHE).glob('models--*')))} models)"
    for name in _SWITCHES:
        yield name, os.environ.get(name, "not set")
