"""One HTML file that says everything about finished runs, and needs no network.

Knows: the files that the benchmark commands write, photos, statistics. Does NOT know: models.
"""

from __future__ import annotations

from benchmarks.report.page import REPORT_FILE, write_report
from benchmarks.report.runs import MeasuredRun, read_runs

__all__ = ["REPORT_FILE", "MeasuredRun", "read_runs", "write_report"]
