"""`patchioner models` and `patchioner convert`.

Knows: the table of models, and that a converted model is tried against its source. Does not know: how a model is read
or written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from patchioner.base.errors import OptionError
from patchioner.cli.output import report_error, write_line

if TYPE_CHECKING:
    from decoders import Decoded
    from patchioner.model import Patchioner

_TRIED = 32
_EXAMPLES = """\
examples:
  patchioner convert Ruggero1912/Patch-ioner_talk2dino_decap_COCO_Captions decap
  patchioner convert mlp.karpathy.yaml decap --talk2dino weights/vitb_mlp_infonce.pth
  patchioner convert my-model.yaml my-model --bank bank
  patchioner caption photo.jpg --model decap

exit status: 0 written, and the tokens are the same; 1 they are not, or the source cannot be read; 2 wrong usage.
"""


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner models` takes."""
    parser.description = "List the models that can be loaded by name, or the parts of one model."
    parser.add_argument("model", nargs="?", metavar="ID|DIR", help="load it and measure its parts")
    parser.set_defaults(run=list_models)


def list_models(options: argparse.Namespace) -> int:
    """Print what is known, or the parts of one model with their sizes; returns the exit status."""
    from patchioner.checkpoints.hub import find_model, folder_bytes, known_models, part_sizes

    if options.model is None:
        for model in known_models():
            room = f"{_bytes(model.memory)} in memory, "
            room += "" if model.disk is None else f"{_bytes(model.disk)} on disk, "
            place = "here" if model.here else "not fetched yet"
            write_line(f"{model.name}\n  {model.about}")
            write_line(f"  {room}{place}; licence: {model.licence}; from {model.source}")
        return 0
    from patchioner import Patchioner

    path = find_model(options.model)
    loaded = Patchioner.from_pretrained(options.model, device="cpu")
    sizes = part_sizes(loaded.parts)
    place = f"{_bytes(folder_bytes(path))} on disk at {path}" if path.is_dir() else f"from {path}"
    write_line(f"{loaded.settings.name}: {place}")
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
        "parts, one of ours) in our own format: safetensors, a memory bank with norms, JSON. Both then decode the "
        "same vectors, and their token ids are compared."
    )
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
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
        choices=["float32", "float16", "int8"],
        default="float16",
        help="precision of the memory bank (default: %(default)s)",
    )
    parser.add_argument("--bank", metavar="DIR", help="replace the memory bank by this one")
    parser.add_argument(
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
    return 0 if same == _TRIED else 1


def check_new_folder(out: Path) -> None:
    """Refuse to write where something is; OptionError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} exists already: choose an empty or new folder")


def _load(options: argparse.Namespace) -> Patchioner:
    from patchioner import Patchioner

    if options.talk2dino is None and options.fit is None:
        return Patchioner.from_pretrained(options.source, device="cpu", bank=options.bank)
    from memory_bank import MemoryBank
    from patchioner.checkpoints.hub import find_model
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

    from patchioner.model import project

    generator, bank = torch.Generator().manual_seed(0), source.parts.bank
    if bank is None:
        embeddings = torch.randn(_TRIED, source.parts.backbone.dim, generator=generator)
    else:  # mixtures of memory rows: where the embeddings of real regions lie
        rows = torch.randint(len(bank), (_TRIED, 4), generator=generator)
        embeddings = bank.units(rows.flatten()).view(*rows.shape, -1).sum(dim=1)

    def decoded(model: Patchioner) -> Sequence[Decoded]:
        return model.parts.decoder.generate(
            project(embeddings, model.settings, model.parts.bank),
            source.settings.decode,
            model.parts.bank,
        )

    return sum(
        (one.token_ids, one.text) == (other.token_ids, other.text)
        for one, other in zip(decoded(source), decoded(converted), strict=True)
    )


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
