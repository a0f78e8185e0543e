"""From regions to embeddings: weights over the patches, then one weighted sum.

Knows: regions, geometry, patch tokens. Does NOT know networks, text or files; torch is needed only
by `pool_regions`, when it is called.
"""

from __future__ import annotations

from patchioner.aggregate.pooling import pool_regions
from patchioner.aggregate.weighting import Weighting
from patchioner.aggregate.weights import region_weights

__all__ = ["Weighting", "pool_regions", "region_weights"]
