"""Long, faithful descriptions: divide a photo, describe its parts, keep what is supported, fuse it into a paragraph.

A client of the public interface of `patchioner`. After Patch Matters (Peng et al., CVPR 2025, arXiv 2504.06666).

Example:
    >>> from patchioner.detail import DetailCaptioner
    >>> DetailCaptioner("patchioner-mini").describe("photo.jpg").text  # doctest: +SKIP
    'A train is parked at the station. ...'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchioner.detail.batch import DetailCaptioner, DetailSettings, preset
    from patchioner.detail.client import read_reply
    from patchioner.detail.models import clean_answer
    from patchioner.detail.values import (
        Claim,
        DetailedCaption,
        DetailRegion,
        FusedSentence,
        Photo,
        Statement,
        Support,
        Verdict,
        open_photo,
    )  # fmt: skip

__all__ = [
    "Claim", "DetailCaptioner", "DetailRegion", "DetailSettings", "DetailedCaption", "FusedSentence", "Photo",
    "Statement", "Support", "Verdict", "clean_answer", "open_photo", "preset", "read_reply",
]  # fmt: skip
_HOMES = dict.fromkeys(("DetailCaptioner", "DetailSettings", "preset"), "batch")
_HOMES |= {"read_reply": "client", "clean_answer": "models"}


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'values')}"), name)
