"""Caption metrics as pure functions: strings (or boxes, or embeddings) in, scores out.

Knows: CIDEr-D, BLEU, ROUGE-L and stem-F without Java; the official programs where Java is there; dense-captioning mAP;
cosine scores; distinctness and grounding. Does NOT know: models, images, data files.
Every score is on the scale of papers' tables (x 100).
"""

from __future__ import annotations

from benchmarks.metrics.bleu import bleu
from benchmarks.metrics.cider import cider
from benchmarks.metrics.dense_map import DenseMap, DensePhoto, dense_map
from benchmarks.metrics.distinctness import Distinctness, distinctness
from benchmarks.metrics.grounding import Grounding, HitRate, fixed_cider, grounding, object_hits
from benchmarks.metrics.java import java_available, java_version
from benchmarks.metrics.meteor import Meteor
from benchmarks.metrics.official import official_cider
from benchmarks.metrics.region_sets import one_reference_each
from benchmarks.metrics.results import MetricResult, Provenance
from benchmarks.metrics.rouge import rouge_l
from benchmarks.metrics.stem_f import stem_f
from benchmarks.metrics.suite import METRICS, score_captions, text_measure
from benchmarks.metrics.text_cosine import best_reference_cosine, clip_s, pac_s, with_references
from benchmarks.metrics.tokenize import tokenize

__all__ = [
    "METRICS",
    "DenseMap",
    "DensePhoto",
    "Distinctness",
    "Grounding",
    "HitRate",
    "Meteor",
    "MetricResult",
    "Provenance",
    "best_reference_cosine",
    "bleu",
    "cider",
    "clip_s",
    "dense_map",
    "distinctness",
    "fixed_cider",
    "grounding",
    "java_available",
    "java_version",
    "object_hits",
    "official_cider",
    "one_reference_each",
    "pac_s",
    "rouge_l",
    "score_captions",
    "stem_f",
    "text_measure",
    "tokenize",
    "with_references",
]
