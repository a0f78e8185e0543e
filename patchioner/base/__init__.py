"""The ground floor: errors, registries, files, weights and progress, shared by every package.

Importing it pulls in no torch; `patchioner.base.weights` and `patchioner.base.inference` do, and are therefore imported
by their own names.
"""

from __future__ import annotations

from patchioner.base.errors import (
    CheckpointError,
    DecoderError,
    DetailError,
    ExportError,
    FutileError,
    HubError,
    ImageError,
    MemoryBankError,
    MissingExtraError,
    OptionError,
    PatchionerError,
    RegionError,
    RegionFileError,
    TextError,
    UnknownNameError,
)
from patchioner.base.files import atomic_path, read_json, write_json
from patchioner.base.optional import require
from patchioner.base.progress import progress
from patchioner.base.registry import Registry

__all__ = [
    "CheckpointError",
    "DecoderError",
    "DetailError",
    "ExportError",
    "FutileError",
    "HubError",
    "ImageError",
    "MemoryBankError",
    "MissingExtraError",
    "OptionError",
    "PatchionerError",
    "RegionError",
    "RegionFileError",
    "Registry",
    "TextError",
    "UnknownNameError",
    "atomic_path",
    "progress",
    "read_json",
    "require",
    "write_json",
]
