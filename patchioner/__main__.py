"""`python -m patchioner` is the same as the `patchioner` command."""

from __future__ import annotations

import sys


def run() -> int:
    """`patchioner.cli.main`, which Ctrl-C may stop while it is still being imported."""
    try:
        from patchioner.cli import main

        return main()
    except KeyboardInterrupt:
        sys.stderr.write("patchioner: error: stopped\n")
        return 130


if __name__ == "__main__":
    sys.exit(run())
