"""The former name of what `patchioner.regions` has on weights and pooling."""

from patchioner.regions import Kind, Weighting, feature_weights, pool_regions, region_weights

__all__ = ["Kind", "Weighting", "feature_weights", "pool_regions", "region_weights"]
