"""Many photos, one resumable job: rows out, none lost, none doubled. Torch, Arrow and Ray are loaded where used."""

from patchioner.batch.exports import export
from patchioner.batch.job import Job, Report, run
from patchioner.batch.rows import Row, read_rows, schema
from patchioner.batch.sources import Reading
from patchioner.batch.tasks import Captioner, Task

__all__ = [
    "Captioner", "Job", "Reading", "Report", "Row", "Task", "export", "read_rows", "run", "schema",
]  # fmt: skip
