"""The command: which parts are run, their reports, and whether the bars were reached.

Knows: arguments, files of reports. Does NOT know: what a part measures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.arguments import natural, positive
from benchmarks.detail.did_part import run_did
from benchmarks.detail.end_to_end import run_end_to_end, run_objects
from benchmarks.detail.part import LoadModel, PartResult, Setup
from benchmarks.detail.planted_part import run_planted
from benchmarks.metrics import Meteor, java_available
from patchioner import Patchioner
from patchioner.base.errors import PatchionerError
from patchioner.base.files import atomic_path, write_json

PARTS: Final[Mapping[str, Callable[[Setup], PartResult]]] = MappingProxyType(
    {
        "did": run_did,
        "objects": run_objects,
        "planted": run_planted,
        "end-to-end": run_end_to_end,
    }
)
REPORT, VALUES = "report.md", "report.json"


def main(
    argv: Sequence[str] | None = None, *, load_model: LoadModel = Patchioner.from_pretrained
) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.
        load_model: makes the model; tests put a tiny one in.

    Returns:
        0; 1 after an error, or with `--check` where a bar is missed; 130 when stopped.

    Example:
        >>> main(["--parts", "planted", "--limit", "20", "--out", "build/detail"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    java = arguments.java == "yes" or (arguments.java == "auto" and java_available())
    try:
        with Meteor() if java else nullcontext() as meteor:
            setup = Setup(
                arguments.data,
                arguments.out,
                load_model,
                arguments.model,
                arguments.limit,
                arguments.words,
                arguments.seed,
                meteor,
                arguments.fresh,
            )
            results = run_parts(arguments.parts, setup)
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            "stopped; the same command goes on with the photos that are not finished\n"
        )
        return 130
    missed = [f"{name}: {bar}" for name, result in results.items() for bar in result.missed]
    if arguments.json:
        sys.stdout.write(json.dumps(as_json(results, setup), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(report(results, setup))
    sys.stderr.writelines(f"missed: {bar}\n" for bar in missed)
    return int(arguments.check and bool(missed))


def run_parts(names: Sequence[str], setup: Setup) -> dict[str, PartResult]:
    """Run parts one after another; the report is written after each, so that what was finished stays.

    Args:
        names: keys of `PARTS`.
        setup: of the run.

    Raises:
        PatchionerError, OSError: of a part.
    """
    results: dict[str, PartResult] = {}
    for name in dict.fromkeys(names):
        started = time.perf_counter()
        results[name] = PARTS[name](setup)
        results[name].values["seconds"] = round(time.perf_counter() - started, 1)
        for file, text in {**results[name].files, REPORT: report(results, setup)}.items():
            with atomic_path(setup.out / file) as temporary:
                temporary.write_text(text, encoding="utf-8")
        write_json(setup.out / VALUES, as_json(results, setup))
    return results


def report(results: Mapping[str, PartResult], setup: Setup) -> str:
    """All sections as Markdown; the same figures give the same text."""
    bars = {name: result.missed for name, result in results.items() if result.missed}
    lines = [
        "# Detailed captions: how good",
        "",
        f"Model {setup.model_name}, seed {setup.seed}, "
        f"{'all photos' if setup.limit is None else f'the first {setup.limit} photos of each set'}.",
        "",
    ]
    for name, result in results.items():
        lines += [f"## {result.title}", "", result.text.rstrip(), ""]
        lines += [f"**Missed**: {bar}" for bar in bars.get(name, ())] + [""] * (name in bars)
    return "\n".join(lines)


def as_json(results: Mapping[str, PartResult], setup: Setup) -> dict[str, object]:
    """Settings and figures of all parts."""
    return {
        "settings": {
            "model": setup.model_name,
            "data": str(setup.data),
            "limit": setup.limit,
            "words": setup.words,
            "seed": setup.seed,
            "meteor": setup.meteor is not None,
        },
        "parts": {
            name: {**result.values, "missed": list(result.missed)}
            for name, result in results.items()
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detail",
        description="Measure detailed captions: DID-Bench with controls, objects, the filter, end to end.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"),
        help="holds annotations/, photos/ and did/")  # fmt: skip
    add(
        "--out",
        type=Path,
        default=Path("build/detail"),
        help="folder of the reports (build/detail)",
    )
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    add("--model", default="patchioner-mini", help="shipped name, folder or hub id")
    add("--limit", type=positive, help="photos of each set, the first ones")
    add("--words", type=positive, default=240, help="budget on DID-Bench (240)")
    add("--seed", type=natural, default=0)
    add("--java", choices=["auto", "yes", "no"], default="auto",
        help="METEOR: auto = where there is Java")  # fmt: skip
    add(
        "--fresh", action="store_true", help="describe photos again that a former run has described"
    )
    add("--check", action="store_true", help="exit status 1 when a bar is missed")
    add("--json", action="store_true", help="figures instead of tables")
    return parser
