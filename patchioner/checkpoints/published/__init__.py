"""Reading the published Patch-ioner models: their config.yaml, decoders, HDF5 banks and projections become our parts.

Knows: the authors' file formats and names (facts about their published files). Does not know: how a captioner works.
Everything is read strictly, nothing is unpickled; save what comes out to have it in our own format.
"""

from patchioner.checkpoints.published.files import PublishedConfig, bank_file_name, read_config
from patchioner.checkpoints.published.reading import read_published

__all__ = ["PublishedConfig", "bank_file_name", "read_config", "read_published"]
