"""Measures the captioner, by its public names, from a checkout: `python -m benchmarks.quality`."""

from __future__ import annotations

import sys

from patchioner.base.progress import quiet_interrupts

if sys.argv[:1] == ["-m"]:  # what it is while Python looks for the module of `python -m`
    quiet_interrupts()
