"""Many photos, one resumable job: rows out, none lost, none doubled.

Importing it is light: torch, Arrow and Ray are loaded where they are used.
"""

from __future__ import annotations

from patchioner.batch.captioner import Captioner
from patchioner.batch.exports import export
from patchioner.batch.job import Job, Report, run
from patchioner.batch.rows import Row, schema
from patchioner.batch.sinks import read_rows
from patchioner.batch.sources import Reading
from patchioner.batch.tasks import Task

__all__ = [
    "Captioner",
    "Job",
    "Reading",
    "Report",
    "Row",
    "Task",
    "export",
    "read_rows",
    "run",
    "schema",
]
