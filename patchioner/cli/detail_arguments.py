"""The arguments of `patchioner detail`, and which of them go together.

Knows: argparse. Does not know: stages, models, photos, output.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from patchioner.base.errors import UnknownNameError
from patchioner.cli import spelling

_EXAMPLES = """\
A PHOTO is a picture, a folder of pictures, a JSON list of photos, or one that scikit-image ships (see patchioner
caption --help). A list is ["a.jpg", {"photo": "b.jpg", "regions": FILE or [{"box": [10, 20, 200, 220]}, ...]}].

examples:
  patchioner detail photo.jpg
  patchioner detail photo.jpg --report photo.html
  patchioner detail photos/ --out photos.jsonl               (stop it, start it again: it goes on)
  patchioner detail photo.jpg --describer openai:qwen2.5vl:7b --base-url http://localhost:11434/v1
  patchioner detail photos/ --out photos.jsonl --describer openai:gpt-4o-mini --fuser openai:gpt-4o-mini \\
      --max-cost 2.50 --price-in 0.15 --price-out 0.60
  patchioner detail photo.jpg --describer hf:HuggingFaceTB/SmolVLM-256M-Instruct --scorer none

Keys of servers come from the environment alone: OPENAI_API_KEY, or the variable that --key-env names.

exit status: 0 all described; 1 a photo failed or the run was stopped by a budget, a key, a model (see standard error;
what is finished stays); 2 wrong usage; 130 stopped with Ctrl-C.
"""
_REMOTE = "openai:"
_MODELS = ("patchioner", "hf:MODEL", "openai:MODEL")
_SCORERS = ("dense", "blip:MODEL", "clip:NAME", "none")


def declare_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare everything that `patchioner detail` takes."""
    parser.description = (
        "Describe photos at length, saying only what they bear out: divide, describe, filter, fuse."
    )
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="picture, folder, LIST.json, scikit-image:NAME"
    )
    _add_output(parser.add_argument_group("output"))
    _add_regions(parser.add_argument_group("regions; found in the photo where none are given"))
    _add_stages(parser.add_argument_group("who does the work"))
    _add_calls(parser.add_argument_group("models of others"))


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--json", action="store_true", help="one JSON object per photo and line, with provenance")
    add(
        "--out",
        type=_named(".jsonl"),
        metavar="FILE.jsonl",
        help="write the JSON lines there, each when its photo is finished; photos that have their line are skipped",
    )
    add(
        "--report",
        type=_named(".html", ".htm"),
        metavar="FILE.html",
        help="a page that shows where each sentence comes from, and what was dropped",
    )


def _add_regions(group: argparse._ArgumentGroup) -> None:
    for flag, metavar, parse, meaning in (
        ("--box", "X1,Y1,X2,Y2", spelling.parse_box, "left, top, right, bottom in pixels"),
        ("--mask", "PNG", spelling.parse_mask, "picture of the photo's size, not black inside"),
    ):
        group.add_argument(
            flag,
            metavar=metavar,
            type=parse,
            action="append",
            dest="regions",
            default=[],
            help=meaning,
        )
    group.add_argument(
        "--regions",
        metavar="FILE",
        dest="region_file",
        type=Path,
        help="JSON of regions, COCO annotations, or SAM masks (.json, .npz, .npy)",
    )
    group.add_argument(
        "--grid", metavar="RxC", type=_grid, help="rows and columns of cells in place of quadrants"
    )


def _add_stages(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        default="patchioner-mini",
        metavar="ID|DIR",
        help="our captioner; 'none' where others do all the work (default: %(default)s)",
    )
    add(
        "--preset",
        choices=["default", "published"],
        default="default",
        help="all numbers of the stages (default: %(default)s)",
    )
    add(
        "--describer",
        type=_who("describer", _MODELS),
        default="patchioner",
        metavar="WHO",
        help="patchioner, hf:MODEL or openai:MODEL: who says what is in a region (default: %(default)s)",
    )
    add(
        "--fuser",
        type=_who("fuser", _MODELS),
        default="patchioner",
        metavar="WHO",
        help="patchioner (by rule), hf:MODEL or openai:MODEL: who makes a paragraph of it (default: %(default)s)",
    )
    add(
        "--scorer",
        type=_who("scorer", _SCORERS),
        default="dense",
        metavar="WHO",
        help="dense (our model's own alignment), blip:MODEL, clip:NAME, or none (default: %(default)s)",
    )
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="of blip: or clip:, as python -m patchioner.detail.filter.calibrate --scorer writes it",
    )
    add(
        "--min-support",
        type=_share,
        metavar="0..1",
        help="least support of a sentence that is kept (default: as calibrated)",
    )
    add("--samples", type=spelling.positive_int, metavar="N", help="texts about every region")
    add("--max-words", type=spelling.positive_int, metavar="N", help="of the paragraph")
    add("--seed", type=int, default=0, help="of everything drawn (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1 ... (default: the model's choice)")


def _add_calls(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--base-url", metavar="URL", help="of an OpenAI-compatible server, with its /v1")
    add("--key-env", metavar="NAME", help="environment variable with the key (OPENAI_API_KEY)")
    add(
        "--cache",
        metavar="DIR",
        type=Path,
        help="keeps every answer, so that nothing is asked twice (default: FILE.jsonl.cache beside --out)",
    )
    add("--max-calls", type=_count, metavar="N", help="most requests to servers, retries included")
    add("--max-cost", type=spelling.not_negative, metavar="X", help="most to spend on servers")
    for flag, what in (("--price-in", "sent"), ("--price-out", "that come back")):
        add(
            flag,
            type=spelling.not_negative,
            metavar="X",
            help=f"price of a million tokens {what}, in the currency of --max-cost",
        )
    add(
        "--concurrency",
        type=spelling.positive_int,
        default=4,
        metavar="N",
        help="photos, and requests to one model, under way at once, with openai: (default: %(default)s)",
    )
    add(
        "--timeout",
        type=spelling.positive,
        default=120.0,
        metavar="SECONDS",
        help="for one request (default: %(default)g)",
    )


def is_remote(options: argparse.Namespace) -> bool:
    """Whether a server is asked for anything."""
    return any(word.startswith(_REMOTE) for word in (options.describer, options.fuser))


def check_combinations(options: argparse.Namespace) -> str | None:
    """What is wrong about arguments that are right one by one; None when nothing is."""
    if options.json and options.out is not None:
        return "--out writes the JSON lines: leave --json out"
    priced = options.price_in is not None or options.price_out is not None
    if options.max_cost is not None and not priced:
        return "--max-cost needs prices: give --price-in and --price-out, per million tokens"
    if options.calibration is not None and options.scorer in ("dense", "none"):
        return f"--calibration belongs to --scorer blip: or clip:, not {options.scorer}"
    unscaled = options.calibration is None and options.min_support is None
    if options.scorer.startswith("clip:") and unscaled:
        return (
            "the cosines of CLIP mean nothing by themselves: give --calibration FILE (python -m "
            "patchioner.detail.filter.calibrate --scorer makes it), or --min-support"
        )
    if options.min_support is not None and options.scorer == "none":
        return "--min-support needs a scorer: leave --scorer none out"
    if options.model == "none" and options.describer == "patchioner":
        return "--model none leaves nobody to describe: name another --describer"
    if options.model == "none" and options.scorer == "dense":
        return "--model none leaves the dense scorer without a model: add --scorer none"
    return None


def idle_options(options: argparse.Namespace) -> list[str]:
    """Options of servers that were given though no server is asked."""
    if is_remote(options):
        return []
    names = ("base_url", "key_env", "max_calls", "max_cost", "price_in", "price_out")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]


def _who(what: str, known: tuple[str, ...]) -> Callable[[str], str]:
    """Reads who does a part of the work: one of the `known` words, with a model of one's own where they have one."""
    kinds = {word.partition(":")[0]: word for word in known}

    def parse(text: str) -> str:
        kind, colon, name = text.partition(":")
        if kind not in kinds:
            error = UnknownNameError.among(what, kind, kinds)
            raise argparse.ArgumentTypeError(f"{error}; to be written {', '.join(known)}")
        if ":" in kinds[kind] and not name:
            raise argparse.ArgumentTypeError(f"{text!r} names no model; write {kinds[kind]}")
        if ":" not in kinds[kind] and colon:
            raise argparse.ArgumentTypeError(f"{text!r}: {kind!r} takes no model after a colon")
        return text

    return parse


def _grid(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,2})[xX]([1-9]\d{0,2})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ROWSxCOLUMNS, such as 3x4")
    return int(found[1]), int(found[2])


def _share(text: str) -> float:
    value = spelling.not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _count(text: str) -> int:
    return 0 if text == "0" else spelling.positive_int(text)


def _named(*suffixes: str) -> Callable[[str], Path]:
    def parse(text: str) -> Path:
        if not text.lower().endswith(suffixes):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        return Path(text)

    return parse
