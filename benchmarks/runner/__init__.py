"""Runs the tasks: predictions, baselines, scores, and the files that they lie in.

Knows: samples, models' public methods, metrics. Does NOT know: how a data file is read (`benchmarks.tasks`) or how a
metric computes (`benchmarks.metrics`).
"""

from __future__ import annotations

from benchmarks.runner.command import run_command
from benchmarks.runner.plan import Outcome, Run, execute
from benchmarks.runner.predictions import Prediction, read_predictions
from benchmarks.runner.settings import RunSettings

__all__ = [
    "Outcome",
    "Prediction",
    "Run",
    "RunSettings",
    "execute",
    "read_predictions",
    "run_command",
]
