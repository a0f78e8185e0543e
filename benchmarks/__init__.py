"""Measures the captioner: data readers, metrics, intervals, quality and speed tables.

Knows: the public names of `patchioner`. Does NOT know: anything private of the packages.
Runs from a checkout: `python -m benchmarks.quality`, `python -m benchmarks.speed`.
"""
