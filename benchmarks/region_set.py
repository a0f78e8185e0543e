"""Command: measures a model on region-set captioning: several boxes, one caption.

    python -m benchmarks.region_set --model patchioner-mini --baseline whole --out build/benchmarks/region_set

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
    return run_command("region_set", argv, load_model=load_model)


if __name__ == "__main__":
    sys.exit(main())
