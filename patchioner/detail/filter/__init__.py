"""The filter: which sentences about a photo may be used, and why the others may not.

Knows: sentences, regions, scorers. Does NOT know: how a describer works, or how a paragraph is made.
"""

from __future__ import annotations

from patchioner.detail.filter.agreement import Group, agreeing_groups
from patchioner.detail.filter.attributes import conflict, stated
from patchioner.detail.filter.blank import why_blank
from patchioner.detail.filter.calibration import Calibration, FalseAccepts, calibrate_model
from patchioner.detail.filter.contradictions import contradicted_groups
from patchioner.detail.filter.independent import (
    SCORERS,
    IndependentScorer,
    blip_scorer,
    clip_scorer,
)
from patchioner.detail.filter.rules import Cleaned, clean
from patchioner.detail.filter.statements import FilterSettings, filter_statements, split_claims
from patchioner.detail.filter.support import DenseScorer, unverifiable
from patchioner.detail.filter.things import things

__all__ = [
    "SCORERS",
    "Calibration",
    "Cleaned",
    "DenseScorer",
    "FalseAccepts",
    "FilterSettings",
    "Group",
    "IndependentScorer",
    "agreeing_groups",
    "blip_scorer",
    "calibrate_model",
    "clean",
    "clip_scorer",
    "conflict",
    "contradicted_groups",
    "filter_statements",
    "split_claims",
    "stated",
    "things",
    "unverifiable",
    "why_blank",
]
