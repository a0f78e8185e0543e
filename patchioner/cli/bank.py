"""`patchioner bank build | info | compact | index`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchioner.base.errors import OptionError
from patchioner.base.files import read_json, require_new_folder
from patchioner.base.optional import asked_workers
from patchioner.cli.spelling import Run, argument, declare, positive_int, write_line

if TYPE_CHECKING:
    from memory_bank import IndexOptions
    from memory_bank.build import Embed
    from patchioner.text import TextTower

_EXAMPLES = """\
examples:
  patchioner bank build captions_train2017.json --text-encoder MODEL --out bank
  patchioner bank build captions.parquet --column sentence --out bank --sample 500000
  patchioner bank info bank
  patchioner bank compact bank small --rows 32768
  patchioner bank index bank --kind ivfsq
  patchioner caption photo.jpg --bank small
"""
_BANK = "folder of a bank or of a checkpoint"


def add_bank_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner bank` takes."""
    declare(parser, inform, "Build, look into, shrink or index a memory bank.", _EXAMPLES)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Run, about: str) -> Callable[..., Any]:
        return declare(commands.add_parser(name, help=about), run, about)

    add = command("build", build, "embed captions")
    known = ".json (COCO, Karpathy), .jsonl, .txt, .csv, .tsv, .parquet; .gz or .zst of those"
    add("captions", nargs="+", metavar="CAPTIONS", help=known)
    add("--out", metavar="DIR", type=Path, required=True, help="new folder")
    add("--text-encoder", default="patchioner-mini", metavar="ID|DIR", help="the bank's model (default: %(default)s)")
    add("--column", help="column or key of the captions (default: looked for)")
    add("--split", nargs="+", default=["train", "restval"], help="to read, of files with any (default: train restval)")
    add("--sample", type=positive_int, metavar="N", help="draw N captions at random")
    add("--rows", type=positive_int, metavar="N", help="compact the bank to N rows")
    add("--merge-duplicates", action="store_true", help="rows equal on disk become one with a count; projections stay")
    add("--lower", action="store_true", help="lower-case, drop a final full stop")
    add("--raw-norms", action="store_true", help="keep the lengths of the vectors, as published")
    add("--no-texts", action="store_true", help="leave the captions out")
    _add_storage(add)
    add("--device", help="cpu, cuda, ... (default: the model's choice)")
    add("--seed", type=int, default=0, help="of --sample and --rows")
    add("--resume", action="store_true", help="go on with a stopped run")
    add("--engine", type=argument(asked_workers), metavar="local|ray|ray:N", help="this process, or (N) workers of Ray")

    add = command("info", inform, "what is in a bank")
    add("bank", metavar="BANK", help=_BANK)

    add = command("compact", shrink, "shrink a bank")
    add("bank", metavar="BANK", help=_BANK)
    add("out", metavar="OUT", type=Path, help="new folder")
    add("--rows", type=positive_int, required=True, help="rows to keep")
    _add_storage(add)

    add = command("index", index, "let FAISS find nearest rows fast, for projections onto them (another index goes)")
    add("bank", metavar="BANK", help=_BANK)
    kind = "lists of rows; of rows in eight bits; all rows, on a GPU (default: %(default)s)"
    add("--kind", choices=["ivf", "ivfsq", "flat"], default="ivf", help=kind)
    add("--lists", type=positive_int, metavar="N", help="lists of rows (default: 4 times the root of the rows)")
    add("--probes", type=positive_int, metavar="N", help="lists looked at per query (default: an eighth of them)")


def build(options: argparse.Namespace) -> int:
    """Read captions, embed them, write the bank; returns the exit status."""
    from memory_bank import build_bank_folder, read_captions
    from memory_bank.build import RECORD, embed_on_ray
    from patchioner.base.weights import tensors_sha256

    captions = [one for path in options.captions for one in read_captions(path, options.column, splits=options.split)]
    tower, unit = _text_tower(options.text_encoder), not options.raw_norms
    spread = None
    if options.engine is not None:
        embedder = partial(_embedder, options.text_encoder, options.device)
        spread = partial(embed_on_ray, embedder, unit=unit, workers=options.engine, device=options.device)
    bank = build_bank_folder(
        captions,
        _placed(tower, options.device),
        options.out,
        encoder={"config": tower.config, "weights": tensors_sha256(tower.state_dict())},
        unit=unit,
        keep_texts=not options.no_texts,
        dtype=options.storage,
        spread=spread,
        **{name: getattr(options, name) for name in ("sample", "rows", "lower", "seed", "resume")},
    )
    distinct = read_json(options.out / RECORD).get("distinct", len(bank))
    if options.merge_duplicates and len(merged := bank.merge_duplicates()) < len(bank):
        merged.save(options.out, dtype=options.storage)
        bank = merged
    write_line(f"{options.out}: {bank!r} of {len(captions):,} captions; {distinct:,} distinct")
    return 0


def inform(options: argparse.Namespace) -> int:
    """Print size, precision, lengths and a few texts of a bank; returns the exit status."""
    from memory_bank import MemoryBank
    from patchioner.checkpoints import folder_bytes

    folder = _bank_folder(options.bank)
    bank = MemoryBank.load(folder, memory_map=False)
    write_line(f"{folder}: {bank!r}")
    write_line(f"  on disk    {folder_bytes(folder) / 2**20:,.1f} MiB, checksum right")
    write_line(f"  norms      {bank.norms.min():.3g} to {bank.norms.max():.3g}, mean {bank.norms.mean():.3g}")
    write_line(f"  stands for {int(bank.counts.sum()):,} captions")
    write_line(f"  sha256     {bank.fingerprint()}")
    if bank.index is not None:
        write_line(f"  index      {_described(bank.index.options, len(bank))}")
    if bank.texts is not None:
        for row in dict.fromkeys((0, len(bank) // 2, len(bank) - 1)):
            write_line(f"  row {row:<7,} {bank.texts[row]}")
    return 0


def shrink(options: argparse.Namespace) -> int:
    """Write a smaller bank; returns the exit status."""
    from memory_bank import MemoryBank, compact

    require_new_folder(options.out)
    bank = MemoryBank.load(_bank_folder(options.bank))
    smaller = compact(bank, options.rows)
    smaller.save(options.out, dtype=options.storage)
    write_line(f"{options.out}: {len(smaller):,} of {len(bank):,} rows")
    return 0


def index(options: argparse.Namespace) -> int:
    """Build an index and write it beside its bank; returns the exit status."""
    from memory_bank import IndexOptions, MemoryBank
    from patchioner.checkpoints.folder import shipped_models

    if options.bank in shipped_models():
        raise OptionError(f"{options.bank} is the package's: patchioner convert {options.bank} COPY, then index COPY")
    wanted = IndexOptions(options.kind, options.lists, options.probes)
    folder = _bank_folder(options.bank)
    indexed = MemoryBank.load(folder).with_index(wanted)
    indexed.save_index(folder)
    size = (folder / "index.faiss").stat().st_size / 2**20
    write_line(f"{folder}: {_described(wanted, len(indexed))}, {size:,.1f} MiB")
    return 0


def _add_storage(add: Callable[..., object]) -> None:
    kinds = ["float16", "float32", "int8"]
    add("--storage", choices=kinds, default="float16", help="precision on disk (default: %(default)s)")


def _described(options: IndexOptions, rows: int) -> str:
    """The settings that this kind of index has."""
    lists = f", {options.lists_for(rows):,} lists, {options.probes_for(rows):,} probed"
    return options.kind + (lists if options.has_lists else "")


def _bank_folder(given: str) -> Path:
    """The folder of a bank, or the one inside a checkpoint, a shipped one included."""
    from memory_bank.storage import bank_folder
    from patchioner.checkpoints.folder import find_model, shipped_models

    return bank_folder(find_model(given) if given in shipped_models() else given)


def _placed(tower: TextTower, device: str | None) -> Embed:
    import torch

    from patchioner.base.weights import usable_device

    return tower.to(usable_device(device), torch.float32).encode


def _embedder(name: str, device: str | None) -> Embed:
    """What a worker on another machine embeds with."""
    return _placed(_text_tower(name), device)


def _text_tower(name: str) -> TextTower:
    """The text tower of a model; of a YAML file that names parts, it alone is read."""
    from patchioner.checkpoints import folder

    path = folder.find_model(name)
    if path.is_file() and folder.names_parts(path):
        tower = folder.read_model_config(path).make_text_tower()
    else:
        tower = folder.read_checkpoint(path).text_tower
    if not tower:
        raise OptionError(f"{name!r} has no text tower to embed with: choose another (`patchioner models ID` tells)")
    return tower
