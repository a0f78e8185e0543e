"""One HTML page about described photos: which sentence comes from where, and what was dropped.

Knows: `DetailedCaption`s, photos, heat maps as arrays. Does NOT know: models, files of results, the command line.
"""

from __future__ import annotations

from patchioner.detail.report.heat import Heated, HeatMap, heat_maps
from patchioner.detail.report.page import ReportPhoto, report_html, write_report

__all__ = ["HeatMap", "Heated", "ReportPhoto", "heat_maps", "report_html", "write_report"]
