"""Finds a model's best defaults per kind of region on the development sets: `python -m benchmarks.sweep`.

Knows: which settings there are to try, how they are scored, and how a choice is guarded against noise. Does NOT know:
how a model embeds or captions, nor how a metric is made.
"""
