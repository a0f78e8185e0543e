"""Command: calibrate the filter of a checkpoint, or an independent scorer, on photos with captions.

    python -m patchioner.detail.filter.calibrate --model patchioner-mini --pairs pairs.json --photos photos/ --out NEW

Knows: arguments, the file of pairs, where results go. Does NOT know: how anything is fitted (`calibration`).
Use photos that nothing is later measured on. The same command gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchioner import Patchioner
from patchioner.base.errors import OptionError, PatchionerError, TextError
from patchioner.base.files import write_json
from patchioner.detail.filter.calibration import (
    KEY,
    Captioned,
    FalseAccepts,
    calibrate_matcher,
    calibrate_model,
)
from patchioner.detail.filter.independent import SCORERS

LoadModel = Callable[[str], Patchioner]


def main(
    argv: Sequence[str] | None = None, *, load_model: LoadModel = Patchioner.from_pretrained
) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model from its name; tests put a small one in.

    Returns:
        0; 1 after an error.

    Example:
        >>> main(["--pairs", "pairs.json", "--photos", "photos", "--out", "mini-calibrated"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments, load_model)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m patchioner.detail.filter.calibrate", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--model", default="patchioner-mini", help="name or folder of the checkpoint"
    )
    parser.add_argument(
        "--pairs", type=Path, required=True, help='JSON: [{"file_name", "captions"}, ...]'
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of the photos")
    parser.add_argument(
        "--limit", type=int, default=300, help="photos, drawn by the seed (default 300)"
    )
    parser.add_argument("--seed", type=int, default=0)
    rates = FalseAccepts()
    parser.add_argument(
        "--false-accept", type=float, default=rates.sentence, metavar="RATE",
        help=f"of captions with one thing exchanged (default {rates.sentence})",
    )  # fmt: skip
    parser.add_argument(
        "--false-accept-object", type=float, default=rates.object, metavar="RATE",
        help=f"of things that are not there (default {rates.object})",
    )  # fmt: skip
    parser.add_argument(
        "--false-accept-attribute", type=float, default=rates.attribute, metavar="RATE",
        help=f"of colours and materials exchanged (default {rates.attribute})",
    )  # fmt: skip
    parser.add_argument(
        "--scorer",
        metavar="KIND:CHECKPOINT",
        help=f"calibrate this instead of a model: {', '.join(SCORERS.names())}",
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--out", type=Path, help="folder for the calibrated model; with --scorer a JSON file"
    )
    target.add_argument(
        "--write", action="store_true", help="into the config.json of the model's own folder"
    )
    return parser


def _run(arguments: argparse.Namespace, load_model: LoadModel) -> None:
    pairs = read_pairs(
        arguments.pairs, arguments.photos, limit=arguments.limit, seed=arguments.seed
    )
    if arguments.scorer is not None:
        found = _scorer(arguments, pairs)
        if arguments.out is not None:
            write_json(arguments.out, found)
    else:
        found = _model(arguments, pairs, load_model)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def _scorer(arguments: argparse.Namespace, pairs: Sequence[Captioned]) -> dict[str, Any]:
    kind, _, checkpoint = arguments.scorer.partition(":")
    if arguments.write:
        raise OptionError("--write is for models; give --out FILE.json with --scorer")
    matcher = SCORERS.get(kind)(checkpoint)
    fitted = calibrate_matcher(
        matcher.match, pairs, false_accept=arguments.false_accept, seed=arguments.seed
    )
    return fitted.to_json()


def _model(
    arguments: argparse.Namespace, pairs: Sequence[Captioned], load_model: LoadModel
) -> dict[str, Any]:
    config = Path(arguments.model) / "config.json"
    if arguments.write and not config.is_file():
        raise OptionError(
            f"--write needs the folder of a checkpoint, and {config} is no file: use --out FOLDER"
        )
    model = load_model(arguments.model)
    rates = FalseAccepts(
        arguments.false_accept, arguments.false_accept_object, arguments.false_accept_attribute
    )
    found = calibrate_model(model, pairs, rates=rates, seed=arguments.seed).to_json()
    if arguments.out is not None:
        settings = replace(model.settings, calibration={**model.settings.calibration, KEY: found})
        Patchioner(replace(model.parts, settings=settings), device=model.device).save_pretrained(
            arguments.out
        )
    if arguments.write:
        values = json.loads(config.read_text(encoding="utf-8"))
        values["calibration"] = {**values.get("calibration", {}), KEY: found}
        write_json(config, values)
    return found


def read_pairs(path: Path, photos: Path, *, limit: int, seed: int = 0) -> list[Captioned]:
    """Photos with captions from a JSON list of {"file_name", "captions"}, `limit` of them drawn by the seed.

    Raises:
        TextError: the file is not such a list, or a photo of it has no caption.
        OptionError: a limit below 2.
    """
    if limit < 2:
        raise OptionError(f"--limit {limit} is too few: a hundred photos or more")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        pairs: list[Captioned] = [
            (photos / str(row["file_name"]), tuple(map(str, row["captions"]))) for row in rows
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise TextError(
            f'{path} is not a JSON list of {{"file_name", "captions"}}: {error!r}'
        ) from error
    if any(not captions for _, captions in pairs):
        raise TextError(f"{path} has a photo without captions: leave it out")
    random.Random(seed).shuffle(pairs)
    return pairs[:limit]


if __name__ == "__main__":
    sys.exit(main())
