"""From regions to embeddings: weights over the patches, then one weighted sum.

Knows: regions, geometry, patch tokens. Does NOT know networks, text or files; torch is needed only
by `pool_regions`, when it is called. What reference mode repeats: `Weighting`.
"""

from __future__ import annotations

from patchioner.aggregate.pooling import feature_weights, pool_regions
from patchioner.aggregate.weighting import Kind, Weighting
from patchioner.aggregate.weights import region_weights

__all__ = ["Kind", "Weighting", "feature_weights", "pool_regions", "region_weights"]
