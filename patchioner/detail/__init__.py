"""Long, faithful descriptions: divide a photo, describe its parts, keep what is supported, fuse it into a paragraph.

A client of the public interface of `patchioner`, like any user: it knows `Patchioner`, regions and results, and nothing
of how they work inside. The four stages know one another only through `patchioner.detail.values` and
`patchioner.detail.stages`. After Patch Matters (Peng et al., CVPR 2025, arXiv 2504.06666).

Example:
    >>> from patchioner.detail import DetailCaptioner
    >>> DetailCaptioner("patchioner-mini").describe("photo.jpg").text  # doctest: +SKIP
    'There is a train on the tracks. On the left ...'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchioner.detail.captioner import DetailCaptioner
    from patchioner.detail.photos import open_photo
    from patchioner.detail.presets import DetailSettings, preset
    from patchioner.detail.stages import Photo
    from patchioner.detail.values import (
        Claim,
        DetailedCaption,
        DetailRegion,
        FusedSentence,
        Statement,
        Support,
        Verdict,
    )

__all__ = [
    "Claim",
    "DetailCaptioner",
    "DetailRegion",
    "DetailSettings",
    "DetailedCaption",
    "FusedSentence",
    "Photo",
    "Statement",
    "Support",
    "Verdict",
    "open_photo",
    "preset",
]

_VALUES = "patchioner.detail.values"
_LAZY = {
    "Claim": _VALUES,
    "DetailCaptioner": "patchioner.detail.captioner",
    "DetailRegion": _VALUES,
    "DetailSettings": "patchioner.detail.presets",
    "DetailedCaption": _VALUES,
    "FusedSentence": _VALUES,
    "Photo": "patchioner.detail.stages",
    "Statement": _VALUES,
    "Support": _VALUES,
    "Verdict": _VALUES,
    "open_photo": "patchioner.detail.photos",
    "preset": "patchioner.detail.presets",
}


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for (PEP 562)."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
