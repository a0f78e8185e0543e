"""Long, faithful descriptions: divide a photo, describe its parts, keep what is supported, fuse it into a paragraph.

A client of the public interface of `patchioner`. After Patch Matters (Peng et al., CVPR 2025, arXiv 2504.06666).

Example:
    >>> from patchioner.detail import DetailCaptioner
    >>> DetailCaptioner("patchioner-mini").describe("photo.jpg").text  # doctest: +SKIP
    'A train is parked at the station. ...'
"""

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
