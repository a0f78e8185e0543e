"""Long, faithful descriptions: divide a photo, describe its parts, keep what is supported, fuse it into a paragraph.

A client of the public interface of `patchioner`, like any user: it knows `Patchioner`, regions and results, and nothing
of how they work inside. The four stages know one another only through `patchioner.detail.values` and
`patchioner.detail.stages`. After Patch Matters (Peng et al., CVPR 2025, arXiv 2504.06666).
"""
