"""Reading published Patch-ioner models: their config.yaml, decoders, HDF5 banks and projections become our parts."""

from patchioner.checkpoints.published.files import PublishedConfig, bank_file_name, read_config
from patchioner.checkpoints.published.reading import read_published

__all__ = ["PublishedConfig", "bank_file_name", "read_config", "read_published"]
