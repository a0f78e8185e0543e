"""Parts must fit one another, and another bank takes the place of the old one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from decoders.retrieval import RetrievalDecoder
from memory_bank import MemoryBank, Precision
from patchioner.base.errors import CheckpointError
from patchioner.checkpoints.parts import Parts, resident_precision
from tests.support.tiny import DIM, tiny_decoder, tiny_parts, tiny_tower


@pytest.fixture(scope="module")
def parts() -> Parts:
    return tiny_parts()


def without_bank(parts: Parts, bridge: str = "raw") -> Parts:
    return replace(parts, bank=None, settings=replace(parts.settings, projection=bridge))


def test_parts_of_another_width_are_named_with_their_widths(parts: Parts) -> None:
    for changes in (
        {"decoder": tiny_decoder(dim=32)},
        {"text_tower": tiny_tower(dim=32)},
        {"bank": MemoryBank(torch.eye(32))},
    ):
        with pytest.raises(CheckpointError, match="'backbone': 64.*: 32"):
            replace(parts, **changes)  # type: ignore[arg-type]


def test_what_needs_a_bank_is_refused_without(parts: Parts) -> None:
    with pytest.raises(CheckpointError, match="memory projection, but there is no memory bank"):
        without_bank(parts, "memory")
    with pytest.raises(CheckpointError, match="RetrievalDecoder draws on a memory bank"):
        replace(without_bank(parts), decoder=RetrievalDecoder(DIM))


def test_text_tower_and_bank_may_be_absent(parts: Parts) -> None:
    assert replace(without_bank(parts), text_tower=None).bank is None


def test_another_bank_keeps_the_bridge_that_there_was(parts: Parts) -> None:
    bank = MemoryBank(torch.eye(DIM), [str(row) for row in range(DIM)])
    assert parts.with_bank(bank).settings == parts.settings
    assert parts.with_bank(bank).bank is bank and parts.bank is not bank
    # A decoder that retrieves sends nothing through its bank, and still does not.
    retrieving = replace(
        parts, decoder=RetrievalDecoder(DIM), settings=replace(parts.settings, projection="none")
    )
    assert retrieving.with_bank(bank).settings.projection == "none"


def test_a_first_bank_is_the_bridge(parts: Parts) -> None:
    bank = MemoryBank(torch.eye(DIM))
    assert without_bank(parts).with_bank(bank).settings.projection == "memory"
    with pytest.raises(CheckpointError, match="different widths"):
        without_bank(parts).with_bank(MemoryBank(torch.eye(8)))


def test_parts_cannot_be_changed(parts: Parts) -> None:
    with pytest.raises(FrozenInstanceError):
        parts.bank = None  # type: ignore[misc]


@pytest.mark.parametrize(
    ("stored", "device", "dtype", "kept"),
    [
        ("float32", "cuda", torch.bfloat16, "float16"),
        ("float32", "cuda", torch.float16, "float16"),
        ("float32", "cuda", torch.float32, "float32"),
        ("int8", "cuda", torch.bfloat16, "int8"),
        ("float16", "cuda", torch.float32, "float16"),
        ("float32", "cpu", torch.bfloat16, "float32"),
    ],
)
def test_half_networks_on_a_gpu_halve_the_bank(
    stored: Precision, device: str, dtype: torch.dtype, kept: Precision
) -> None:
    assert resident_precision(stored, torch.device(device), dtype) == kept


def test_on_a_cpu_the_bank_keeps_its_memory(parts: Parts) -> None:
    assert parts.bank is not None
    placed = parts.bank_on(torch.device("cpu"), torch.bfloat16)
    assert placed is not None and placed.keys is parts.bank.keys
    assert without_bank(parts).bank_on(torch.device("cpu"), torch.float32) is None
