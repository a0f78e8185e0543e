"""`patchioner bank build | info | compact | index`.

Knows: the arguments and what is reported. Does not know: how banks are built, stored, indexed or made smaller.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from patchioner.base.errors import OptionError
from patchioner.cli.models import check_new_folder
from patchioner.cli.output import write_line
from patchioner.cli.spelling import positive_int

if TYPE_CHECKING:
    from memory_bank import IndexOptions

_EXAMPLES = """\
examples:
  patchioner bank build captions_train2017.json --text-encoder MODEL --out bank
  patchioner bank build captions.parquet --column sentence --out bank --sample 500000
  patchioner bank info bank
  patchioner bank compact bank small --rows 32768
  patchioner bank index bank --kind hnsw
  patchioner caption photo.jpg --bank small
"""


def add_bank_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner bank` takes."""
    parser.description = "Build, look into, shrink or index a memory bank."
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_build(commands.add_parser("build", help="embed captions"))
    info = commands.add_parser("info", help="what is in a bank")
    info.add_argument("bank", metavar="BANK", type=Path, help="folder of a bank or of a checkpoint")
    info.set_defaults(run=inform)
    smaller = commands.add_parser("compact", help="shrink a bank")
    smaller.add_argument("bank", metavar="BANK", type=Path, help="of a bank or of a checkpoint")
    smaller.add_argument("out", metavar="OUT", type=Path, help="new folder")
    smaller.add_argument("--rows", type=positive_int, required=True, help="rows to keep")
    smaller.add_argument(
        "--method",
        choices=["k-means", "k-center", "importance"],
        default="k-means",
        help="means of clusters, or rows kept as they are: the farthest apart, or drawn (default: %(default)s)",
    )
    smaller.add_argument("--seed", type=int, default=0, help="of the choice of rows")
    _add_storage(smaller)
    smaller.set_defaults(run=shrink)
    _add_index(commands.add_parser("index", help="find the nearest rows of a bank fast, by FAISS"))


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "captions",
        metavar="CAPTIONS",
        help=".json (COCO), .txt, .csv, .tsv, .parquet; .gz of those",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--text-encoder",
        default="patchioner-mini",
        metavar="ID|DIR",
        help="model whose text tower embeds; the bank is for that model (default: %(default)s)",
    )
    parser.add_argument("--column", help="column or key of the captions (default: looked for)")
    parser.add_argument(
        "--sample", type=positive_int, metavar="N", help="draw N captions at random"
    )
    parser.add_argument("--rows", type=positive_int, metavar="N", help="compact the bank to N rows")
    parser.add_argument(
        "--merge-duplicates",
        action="store_true",
        help="make rows that are equal on disk one row with a count; projections stay the same (equal captions "
        "are one row in any case)",
    )
    parser.add_argument("--lower", action="store_true", help="lower-case, drop a final full stop")
    parser.add_argument(
        "--raw-norms", action="store_true", help="keep the lengths of the vectors, as published"
    )
    parser.add_argument("--no-texts", action="store_true", help="leave the captions out")
    _add_storage(parser)
    parser.add_argument("--device", help="cpu, cuda, ... (default: the model's choice)")
    parser.add_argument("--seed", type=int, default=0, help="of --sample and --rows")
    parser.add_argument("--resume", action="store_true", help="go on with a stopped run")
    parser.set_defaults(run=build)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Build an index beside a bank, for projections onto the nearest rows only. Without being asked for them, "
        "captions stay those of the whole bank. A second index replaces the first."
    )
    parser.add_argument(
        "bank", metavar="BANK", type=Path, help="folder of a bank or of a checkpoint"
    )
    parser.add_argument(
        "--kind",
        choices=["flat", "ivf", "ivfsq", "ivfpq", "hnsw"],
        default="ivf",
        help="all rows; lists of rows; of rows in eight bits; of rows in a few bytes; a graph (default: %(default)s)",
    )
    for flag, meaning in (
        ("--lists", "of the ivf kinds (default: 4 times the root of the rows)"),
        ("--probes", "lists looked at per query (default: an eighth of them)"),
        ("--links", "of a row in the graph of hnsw (default: 32)"),
        ("--effort", "candidates kept in building and walking the graph (default: 256)"),
        ("--pieces", "bytes per row of ivfpq (default: about an eighth of the width)"),
    ):
        parser.add_argument(flag, type=positive_int, metavar="N", help=meaning)
    parser.add_argument("--seed", type=int, default=0, help="of the clustering into lists")
    parser.set_defaults(run=index)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage",
        choices=["float16", "float32", "int8"],
        default="float16",
        help="precision on disk (default: %(default)s)",
    )


def build(options: argparse.Namespace) -> int:
    """Read captions, embed them, write the bank; returns the exit status."""
    from patchioner.bank_building import BankOptions, build_bank_folder, find_text_tower
    from patchioner.caption_files import read_captions
    from patchioner.model import usable_device

    wanted = BankOptions(
        sample=options.sample,
        rows=options.rows,
        lower=options.lower,
        unit=not options.raw_norms,
        keep_texts=not options.no_texts,
        dtype=options.storage,
        seed=options.seed,
    )
    captions = read_captions(options.captions, options.column)
    tower = find_text_tower(options.text_encoder).to(usable_device(options.device))
    bank = build_bank_folder(captions, tower, options.out, wanted, resume=options.resume)
    if options.merge_duplicates and len(merged := bank.merge_duplicates()) < len(bank):
        merged.save(options.out, dtype=options.storage)
        bank = merged
    write_line(f"{options.out}: {bank!r} of {len(captions):,} captions")
    return 0


def inform(options: argparse.Namespace) -> int:
    """Print size, precision, lengths and a few texts of a bank; returns the exit status."""
    from memory_bank import MemoryBank
    from patchioner.checkpoints.hub import folder_bytes

    folder = _bank_folder(options.bank)
    bank = MemoryBank.load(folder, memory_map=False)
    norms = bank.norms
    write_line(f"{folder}: {bank!r}")
    write_line(f"  on disk    {folder_bytes(folder) / 2**20:,.1f} MiB, checksum right")
    write_line(f"  norms      {norms.min():.3g} to {norms.max():.3g}, mean {norms.mean():.3g}")
    write_line(f"  stands for {int(bank.counts.sum()):,} captions")
    write_line(f"  sha256     {bank.fingerprint()}")
    if bank.index is not None:
        write_line(f"  index      {_described(bank.index.options, len(bank), bank.dim)}")
    if bank.texts is not None:
        for row in dict.fromkeys((0, len(bank) // 2, len(bank) - 1)):
            write_line(f"  row {row:<7,} {bank.texts[row]}")
    return 0


def shrink(options: argparse.Namespace) -> int:
    """Write a smaller bank; returns the exit status."""
    from memory_bank import MemoryBank, compact

    check_new_folder(options.out)
    bank = MemoryBank.load(_bank_folder(options.bank))
    smaller = compact(bank, options.rows, seed=options.seed, method=options.method)
    smaller.save(options.out, dtype=options.storage)
    write_line(f"{options.out}: {len(smaller):,} of {len(bank):,} rows")
    return 0


def index(options: argparse.Namespace) -> int:
    """Build an index and write it beside its bank; returns the exit status."""
    from memory_bank import IndexOptions, MemoryBank
    from patchioner.checkpoints.hub import shipped_models

    names = ("lists", "probes", "links", "effort", "pieces")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    wanted = IndexOptions(options.kind, seed=options.seed, **given)
    if str(options.bank) in shipped_models():
        raise OptionError(
            f"{options.bank} is part of the installed package and stays as it is: "
            f"patchioner convert {options.bank} COPY, then index COPY"
        )
    folder = _bank_folder(options.bank)
    indexed = MemoryBank.load(folder).with_index(wanted)
    indexed.save_index(folder)
    size = (folder / "index.faiss").stat().st_size / 2**20
    write_line(f"{folder}: {_described(wanted, len(indexed), indexed.dim)}, {size:,.1f} MiB")
    return 0


def _described(options: IndexOptions, rows: int, dim: int) -> str:
    """The settings that this kind of index has."""
    parts: list[str] = [options.kind]
    if options.has_lists:
        parts.append(f"{options.lists_for(rows):,} lists, {options.probes_for(rows):,} probed")
    if options.kind == "ivfpq":
        parts.append(f"{options.pieces_for(dim)} bytes a row")
    if options.kind == "hnsw":
        parts.append(f"{options.links} links, effort {options.effort}")
    return ", ".join(parts)


def _bank_folder(given: Path) -> Path:
    """A bank's own folder, or the one inside a checkpoint, a shipped one included."""
    from patchioner.checkpoints.hub import find_model, shipped_models

    folder = find_model(str(given)) if str(given) in shipped_models() else given
    inner = folder / "memory_bank"
    return inner if inner.is_dir() else folder
