"""The four published tasks and our objects: readers of their JSON files into one kind of sample.

Knows: the JSON of each task, where photos lie, the region classes of `patchioner`. Does NOT know: models or metrics.
A malformed row is never dropped in silence: it is reported by its index, and skipped or refused.
"""

from __future__ import annotations

from benchmarks.tasks.photos import PhotoFolder
from benchmarks.tasks.samples import Reading, Sample, Skipped, region_json
from benchmarks.tasks.table import TASKS, ReadOptions, Task, task_named

__all__ = [
    "TASKS",
    "PhotoFolder",
    "ReadOptions",
    "Reading",
    "Sample",
    "Skipped",
    "Task",
    "region_json",
    "task_named",
]
