"""`patchioner models` and `patchioner convert`.

Knows: the table of models, and that a converted model is tried against its source. Does not know: how a model is read
or written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from patchioner.cli.output import write_line
from patchioner_base.errors import OptionError

if TYPE_CHECKING:
    from patchioner.model import Patchioner

_TRIED_REGIONS = 32


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner models` takes."""
    parser.description = "List the models that can be loaded by name, or the parts of one model."
    parser.add_argument("model", nargs="?", metavar="ID|DIR", help="load it and measure its parts")
    parser.set_defaults(run=list_models)


def list_models(options: argparse.Namespace) -> int:
    """Print what is known, or the parts of one model with their sizes; returns the exit status."""
    from patchioner.catalogue import folder_bytes, known_models, part_sizes
    from patchioner.hub import find_model

    if options.model is None:
        for model in known_models():
            room = "size known once fetched" if model.disk is None else _bytes(model.disk)
            place = "here" if model.here else "not fetched"
            write_line(f"{model.name}\n  {model.about}")
            write_line(f"  {room} on disk, {place}; licence: {model.licence}; from {model.source}")
        return 0
    from patchioner import Patchioner

    path = find_model(options.model)
    loaded = Patchioner.from_pretrained(options.model, device="cpu")
    sizes = part_sizes(loaded.parts)
    on_disk = folder_bytes(path) if path.is_dir() else path.stat().st_size
    write_line(f"{loaded.settings.name}: {_bytes(on_disk)} on disk at {path}")
    write_line(f"licence: {loaded.settings.licence}")
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
        "parts, one of ours) in our own format: safetensors, a memory bank with norms, JSON."
    )
    parser.add_argument("source", metavar="ID|DIR|YAML")
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder")
    parser.add_argument(
        "--storage",
        choices=["fp32", "fp16", "int8"],
        default="fp32",
        help="precision of the networks on disk (default: %(default)s, which changes nothing)",
    )
    parser.add_argument(
        "--bank-storage",
        choices=["float32", "float16"],
        default="float16",
        help="precision of the memory bank (default: %(default)s)",
    )
    parser.add_argument("--bank", metavar="DIR", help="replace the memory bank by this one")
    parser.set_defaults(run=convert)


def convert(options: argparse.Namespace) -> int:
    """Convert, load the result, caption the same regions with both; 1 when a token differs."""
    from patchioner import Patchioner

    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise OptionError(f"{options.out} exists already: choose an empty or new folder")
    source = Patchioner.from_pretrained(options.source, device="cpu", bank=options.bank)
    source.save_pretrained(options.out, storage=options.storage, bank_storage=options.bank_storage)
    same = _same_captions(source, Patchioner.from_pretrained(options.out, device="cpu"))
    write_line(
        f"{options.out}: token ids equal those of {options.source} for {same} of {_TRIED_REGIONS} "
        "regions of noise"
    )
    return 0 if same == _TRIED_REGIONS else 1


def _same_captions(source: Patchioner, converted: Patchioner) -> int:
    """How many of some random embeddings both models decode to the same tokens."""
    import torch

    if source.parts.bank is not None:
        # Mixtures of memory rows: where the embeddings of real regions lie.
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(len(source.parts.bank), (_TRIED_REGIONS, 4), generator=generator)
        embeddings = source.parts.bank.keys[rows].float().sum(dim=1)
    else:
        generator = torch.Generator().manual_seed(0)
        embeddings = torch.randn(_TRIED_REGIONS, source.parts.backbone.dim, generator=generator)
    options = source.settings.decode
    told, retold = (
        model.parts.decoder.generate(model.bridge(embeddings), options)
        for model in (source, converted)
    )
    return sum(
        (one.token_ids, one.text) == (other.token_ids, other.text)
        for one, other in zip(told, retold, strict=True)
    )


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
