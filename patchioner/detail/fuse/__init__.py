"""Fusion: kept claims become one paragraph, each sentence with its sources.

Knows: claims, regions, and language models by their contract alone. Does NOT know: what is true of the photo (that is
the filter's), or who described it.
"""

from __future__ import annotations

from patchioner.detail.fuse.check import unsourced_words, without_source
from patchioner.detail.fuse.deterministic import DeterministicFuser
from patchioner.detail.fuse.language import LanguageFuser
from patchioner.detail.fuse.settings import FuseSettings

__all__ = [
    "DeterministicFuser",
    "FuseSettings",
    "LanguageFuser",
    "unsourced_words",
    "without_source",
]
