"""Command: measures a model on class boxes: does the caption of a box name what is in it?

    python -m benchmarks.objects --model patchioner-mini --baseline whole --out build/benchmarks/objects

Knows: its task. Does NOT know: anything else (`benchmarks.runner.command` has the options).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.captioner import LoadModel, load_pretrained
from benchmarks.runner import run_command


def main(argv: Sequence[str] | None = None, *, load_model: LoadModel = load_pretrained) -> int:
    """Run the command; see `benchmarks.runner.run_command`.

    Example:
        >>> main(["--limit", "10"])  # doctest: +SKIP
    """
    return run_command("objects", argv, load_model=load_model)


if __name__ == "__main__":
    sys.exit(main())
