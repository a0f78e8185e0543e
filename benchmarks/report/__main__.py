"""Command: the HTML report of finished runs.

    python -m benchmarks.report build/benchmarks --out report.html

Knows: arguments. Does NOT know: what is in the report (`benchmarks.report.page`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arguments import positive
from benchmarks.report.page import REPORT_FILE, SHOWN_SAMPLES, write_report
from patchioner.base.errors import PatchionerError

_SHOWN_NOTES = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes the process's.

    Returns:
        0; 1 after an error.

    Example:
        >>> main(["build/benchmarks", "--out", "report.html"])  # doctest: +SKIP
    """
    arguments = _parser().parse_args(argv)
    try:
        notes = write_report(
            arguments.run, arguments.out, images=arguments.images, shown=arguments.samples
        )
    except (PatchionerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for note in notes[:_SHOWN_NOTES]:
        sys.stderr.write(f"{note}\n")
    if len(notes) > _SHOWN_NOTES:
        sys.stderr.write(f"and {len(notes) - _SHOWN_NOTES} more photos\n")
    sys.stdout.write(f"The report is in {arguments.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description="Write the report of finished runs as one HTML file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "run",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a run, or one that holds such folders",
    )
    add("--out", type=Path, default=Path(REPORT_FILE), help="the HTML file (default: %(default)s)")
    add(
        "--images",
        type=Path,
        help="folder of the photos, if it is no longer where the runs found it",
    )
    add("--samples", type=positive, default=SHOWN_SAMPLES,
        help="best and worst samples of each run (default: %(default)s)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
