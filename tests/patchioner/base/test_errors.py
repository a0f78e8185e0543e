"""The error tree: one root, the promised parents, and names that are close."""

from __future__ import annotations

import pickle

import pytest

from patchioner.base import errors
from patchioner.base.errors import PatchionerError, UnknownNameError

PARENTS = {
    "RegionError": ValueError,
    "RegionFileError": ValueError,
    "ImageError": ValueError,
    "CheckpointError": ValueError,
    "MemoryBankError": ValueError,
    "DecoderError": ValueError,
    "DetailError": RuntimeError,
    "ExportError": RuntimeError,
    "FutileError": RuntimeError,
    "TextError": ValueError,
    "OptionError": ValueError,
    "OutOfMemoryError": MemoryError,
    "UnknownNameError": LookupError,
    "HubError": OSError,
    "MissingExtraError": ImportError,
}


@pytest.mark.parametrize(("name", "parent"), PARENTS.items())
def test_errors_are_caught_by_the_root_and_by_their_standard_parent(
    name: str, parent: type[Exception]
) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, PatchionerError)
    assert issubclass(kind, parent)
    assert str(kind("what was wrong")) == "what was wrong"


def test_unknown_name_offers_the_close_names_and_lists_all() -> None:
    error = UnknownNameError.among("model", "patchoner-mini", ["talk2dino", "patchioner-mini"])
    assert "unknown model 'patchoner-mini': did you mean 'patchioner-mini'?" in str(error)
    assert "Known: 'patchioner-mini', 'talk2dino'" in str(error)


def test_unknown_name_survives_pickling() -> None:
    error = UnknownNameError.among("model", "a", ["b"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
