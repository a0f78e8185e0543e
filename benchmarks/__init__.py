"""Measures the captioner: data readers, metrics, intervals, quality and speed tables.

Knows: the public names of `patchioner`. Does NOT know: anything private of the packages.
Runs from a checkout: `python -m benchmarks.quality`, `python -m benchmarks.speed`.
"""

from __future__ import annotations

import sys

from patchioner.base.progress import quiet_interrupts

if sys.argv[:1] == ["-m"]:  # what it is while Python looks for the module of `python -m`
    quiet_interrupts()
