"""Patchioner: caption any part of a photo, zero-shot, from one backbone pass.

Importing this package is light: regions need numpy only, and torch is loaded when `Patchioner` is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from patchioner.base.errors import PatchionerError
from patchioner.base.optional import refuse_shadows as _refuse_shadows
from patchioner.regions import (
    Box,
    Mask,
    Patch,
    Point,
    Polygon,
    Region,
    RegionSet,
    Trace,
    Weighting,
    WholeImage,
    from_coco,
    from_sam,
    read_regions,
    read_trace,
)

if TYPE_CHECKING:
    from decoders import DecodeOptions
    from memory_bank import read_captions
    from patchioner.backbones import PatchFeatures
    from patchioner.model import Patchioner
    from patchioner.pipeline import Batching
    from patchioner.results import Caption, Explanation, Label, as_supervision

_refuse_shadows()  # before anything of ours is imported from a file of the user's

__version__ = "0.1.0"

__all__ = [
    "Batching",
    "Box",
    "Caption",
    "DecodeOptions",
    "Explanation",
    "Label",
    "Mask",
    "Patch",
    "PatchFeatures",
    "Patchioner",
    "PatchionerError",
    "Point",
    "Polygon",
    "Region",
    "RegionSet",
    "Trace",
    "Weighting",
    "WholeImage",
    "__version__",
    "as_supervision",
    "from_coco",
    "from_sam",
    "read_captions",
    "read_regions",
    "read_trace",
]

_LAZY = {
    "Batching": "patchioner.pipeline",
    "Caption": "patchioner.results",
    "DecodeOptions": "decoders",
    "Explanation": "patchioner.results",
    "Label": "patchioner.results",
    "PatchFeatures": "patchioner.backbones",
    "Patchioner": "patchioner.model",
    "as_supervision": "patchioner.results",
    "read_captions": "memory_bank",
}


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for (PEP 562)."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
