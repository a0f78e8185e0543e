"""results.json: every setting, fingerprint and score of a run. Nothing in it depends on when it was made.

Knows: the form of the file and of the terminal table. Does NOT know: how scores are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.runner.predictions import FILE, read_predictions
from benchmarks.runner.provenance import machine, versions
from benchmarks.runner.scoring import Scorer
from benchmarks.runner.settings import RunSettings
from benchmarks.tasks import Skipped
from patchioner.base.files import write_json

RESULTS_FILE = "results.json"
FORMAT, VERSION = "patchioner-benchmark", 1

SHOWN = (
    "object_hits", "object_hits_but_person", "object_margin", "object_wins", "mAP", "mAP (stem-F)", "cider", "meteor",
    "stem_f", "rouge_l", "bleu4", "bleu1", "spice", "cider_one_reference", "grounding_margin", "grounding_wins",
    "repeated_pairs",
)  # fmt: skip
"""Metrics of the terminal table, in this order; further ones follow. results.json has all."""


@dataclass(frozen=True)
class RunRecord:
    """What results.json says of a run beside its scores.

    Attributes:
        label: name of the row in tables.
        baseline: its name, or None for the model itself.
        settings: of the run.
        folder: where predictions.jsonl lies and results.json goes.
        model, data: fingerprints.
        skipped: malformed rows of the data file.
    """

    label: str
    baseline: str | None
    settings: RunSettings
    folder: Path
    model: dict[str, Any]
    data: dict[str, Any]
    skipped: tuple[Skipped, ...]


def write_results(
    record: RunRecord, scorer: Scorer, baselines: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Score the predictions of a run and write results.json beside them.

    Args:
        record: the run.
        scorer: makes the scores.
        baselines: results of the baselines, whose scores are summed up in the model's own file.

    Returns:
        What was written.

    Example:
        >>> write_results(record, scorer, {})["samples"]["ids"][0]  # doctest: +SKIP
        '359/0'
    """
    predictions = read_predictions(record.folder / FILE)
    scores = scorer.score(predictions, record.settings)
    said = [prediction for prediction in predictions if prediction.caption is not None]
    results: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "task": record.settings.task,
        "label": record.label,
        "baseline": record.baseline,
        "settings": record.settings.to_json(),
        "model": record.model,
        "data": record.data
        | {"samples": len(said), "photos": len({prediction.photo for prediction in said})},
        "versions": versions(),
        "machine": machine(record.settings.device),
        "metrics": {name: score.to_json() for name, score in scores.items()},
        "baselines": {
            name: {"folder": f"baselines/{name}", **_summary(result)}
            for name, result in baselines.items()
        },
        "skipped": {
            "malformed": [asdict(row) for row in record.skipped],
            "unanswered": [
                {"row": p.row, "where": p.id, "reason": p.skipped}
                for p in predictions
                if p.caption is None
            ],
        },
        # Columns of numbers, aligned with `ids`: the samples of predictions.jsonl that have a caption, in its order.
        "samples": {
            "ids": [prediction.id for prediction in said],
            "scores": {
                name: [round(value, 6) for value in score.samples]
                for name, score in scores.items()
                if score.samples is not None
            },
        },
    }
    write_json(record.folder / RESULTS_FILE, results)
    return results


def _summary(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"samples": result["data"]["samples"], "metrics": result["metrics"]}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Results as a Markdown table: runs down, metrics across, each with its interval over photos.

    Example:
        >>> table([{"label": "a", "data": {"samples": 2}, "metrics": {"cider": {"value": 1.0, "interval": None}}}])
        '| run | samples | cider |\\n|---|---|---|\\n| a | 2 | 1.0 |\\n'
    """
    there = dict.fromkeys(name for row in rows for name in row["metrics"])
    hidden = {
        "bleu2",
        "bleu3",
        "unique_captions",
        "detmap",
        "bleu4_one_reference",
        "rouge_l_one_reference",
    }
    names = [name for name in SHOWN if name in there]
    names += [name for name in there if name not in SHOWN and name not in hidden]
    lines = [f"| run | samples | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for row in rows:
        cells = [_cell(row["metrics"].get(name)) for name in names]
        lines.append(f"| {row['label']} | {row['data']['samples']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return ""
    interval = score["interval"]
    if interval is None or interval["low"] is None or interval["high"] is None:
        return f"{score['value']:z.1f}"
    return f"{score['value']:z.1f} ({interval['low']:z.1f} to {interval['high']:z.1f})"
