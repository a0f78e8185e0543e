"""Caption metrics as pure functions: strings (or boxes, or embeddings) in, scores x 100 out."""

from __future__ import annotations

from benchmarks.metrics.caption import bleu, cider, rouge_l, stem_f, tokenize
from benchmarks.metrics.dense_map import DenseMap, DensePhoto, dense_map
from benchmarks.metrics.grounding import Distinctness, Grounding, distinctness, grounding
from benchmarks.metrics.official import Meteor, java_available, official_cider
from benchmarks.metrics.suite import METRICS, MetricResult, Provenance, score_captions, text_measure

__all__ = [
    "METRICS",
    "DenseMap",
    "DensePhoto",
    "Distinctness",
    "Grounding",
    "Meteor",
    "MetricResult",
    "Provenance",
    "bleu",
    "cider",
    "dense_map",
    "distinctness",
    "grounding",
    "java_available",
    "official_cider",
    "rouge_l",
    "score_captions",
    "stem_f",
    "text_measure",
    "tokenize",
]
