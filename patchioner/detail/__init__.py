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
    from patchioner.detail.cache import clean_answer as clean_answer
    from patchioner.detail.captioner import DetailCaptioner as DetailCaptioner
    from patchioner.detail.captioner import DetailSettings as DetailSettings
    from patchioner.detail.captioner import preset as preset
    from patchioner.detail.client import read_reply as read_reply
    from patchioner.detail.values import Claim as Claim
    from patchioner.detail.values import DetailedCaption as DetailedCaption
    from patchioner.detail.values import DetailRegion as DetailRegion
    from patchioner.detail.values import FusedSentence as FusedSentence
    from patchioner.detail.values import Photo as Photo
    from patchioner.detail.values import Statement as Statement
    from patchioner.detail.values import Support as Support
    from patchioner.detail.values import Verdict as Verdict
    from patchioner.detail.values import open_photo as open_photo

_HOME = {
    "cache": ("clean_answer",),
    "captioner": ("DetailCaptioner", "DetailSettings", "preset"),
    "client": ("read_reply",),
    "values": (
        "Claim", "DetailRegion", "DetailedCaption", "FusedSentence", "Photo", "Statement", "Support", "Verdict",
        "open_photo",
    ),
}  # fmt: skip
_LAZY = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    """Load what needs torch only when it is asked for (PEP 562)."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
