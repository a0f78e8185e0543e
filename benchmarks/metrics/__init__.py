"""Caption metrics as pure functions: strings in, scores out, no Java.

Knows: CIDEr-D, BLEU, ROUGE-L, and how to reach the official CIDEr where Java is there.
Does NOT know: models, images, data files. Every score is on the scale of papers' tables (x 100).
"""

from __future__ import annotations

from benchmarks.metrics.bleu import bleu
from benchmarks.metrics.cider import cider
from benchmarks.metrics.official import java_available, official_cider
from benchmarks.metrics.rouge import rouge_l
from benchmarks.metrics.tokenize import tokenize

__all__ = ["bleu", "cider", "java_available", "official_cider", "rouge_l", "tokenize"]
