"""The former name of `patchioner.regions.files`."""

from patchioner.regions.files import NamedRegion, read_regions

__all__ = ["NamedRegion", "read_regions"]
