"""Runs the evaluation of detailed captions.

    python -m benchmarks.detail --data ../shared/data --out build/detail [--parts did objects planted end-to-end]
        [--limit 10] [--check] [--json]

Knows: nothing but where the command is. Does NOT know: what it measures (`benchmarks.detail.command`).
"""

from __future__ import annotations

import sys

from benchmarks.detail.command import main

if __name__ == "__main__":
    sys.exit(main())
