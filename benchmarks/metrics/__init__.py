"""Caption metrics as pure functions: strings (or boxes, or embeddings) in, scores x 100 out."""

from __future__ import annotations

from benchmarks.metrics.caption import bleu, cider, rouge_l, stem_f, tokenize
from benchmarks.metrics.official import Meteor, java_available, official_score, ptb_pairs
from benchmarks.metrics.suite import METRICS, MetricResult, score_captions

__all__ = [
    "METRICS",
    "Meteor",
    "MetricResult",
    "bleu",
    "cider",
    "java_available",
    "official_score",
    "ptb_pairs",
    "rouge_l",
    "score_captions",
    "stem_f",
    "tokenize",
]
