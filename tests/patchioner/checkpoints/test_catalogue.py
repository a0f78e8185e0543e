"""What is known by name, and how much room parts take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decoders.retrieval import RetrievalDecoder
from memory_bank import MemoryBank
from patchioner import Patchioner
from patchioner.checkpoints.hub import folder_bytes, known_models, part_sizes
from tests.support.published import as_hub_snapshot, write_capdec
from tests.support.tiny import DIM, tiny_parts


def test_shipped_models_come_first_and_are_here() -> None:
    first = known_models()[0]
    assert (first.name, first.here, first.source) == ("patchioner-mini", True, "this package")
    assert first.disk is not None and 10e6 < first.disk < 200e6
    assert first.licence == "Apache-2.0"
    assert "vit_small" in first.about and "projection: memory" in first.about


def test_published_models_are_known_and_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    published = known_models()[1:]
    assert [model.name for model in published] == [
        f"Ruggero1912/Patch-ioner_talk2dino_{kind}_COCO_Captions"
        for kind in ("decap", "capdec", "viecap", "meacap")
    ]
    assert all((model.disk, model.here) == (None, False) for model in published)
    assert {model.licence for model in published} == {"none stated"}


def test_a_fetched_model_has_a_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "Ruggero1912/Patch-ioner_talk2dino_capdec_COCO_Captions"
    snapshot = as_hub_snapshot(write_capdec(tmp_path / "theirs"), tmp_path / "cache", name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (found,) = [model for model in known_models() if model.name == name]
    assert found.here and found.disk == folder_bytes(snapshot)


def test_bytes_of_a_folder_go_down_into_it_and_follow_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "blob").write_bytes(bytes(7))
    (tmp_path / "a" / "one").write_bytes(bytes(5))
    (tmp_path / "a" / "b" / "link").symlink_to(tmp_path / "blob")
    assert folder_bytes(tmp_path / "a") == 12


def test_sizes_of_parts_are_those_of_their_tensors() -> None:
    parts = tiny_parts()
    sizes = part_sizes(parts)
    assert list(sizes) == ["backbone", "text tower", "memory bank", "decoder"]
    network = sum(tensor.numel() for tensor in parts.decoder.network.state_dict().values())  # type: ignore[attr-defined]
    tied = parts.decoder.network.config.vocab_size * parts.decoder.network.config.width  # type: ignore[attr-defined]
    assert sizes["decoder"][0] in (network, network - tied)
    assert sizes["decoder"][1] == 4 * sizes["decoder"][0]
    assert parts.bank is not None
    assert sizes["memory bank"][0] == len(parts.bank) * DIM
    assert sizes["memory bank"][1] == len(parts.bank) * (4 * DIM + 4 + 8)


def test_absent_parts_and_a_decoder_without_weights() -> None:
    parts = tiny_parts()
    bank = MemoryBank(torch.eye(DIM), [str(row) for row in range(DIM)], dtype="float16")
    plain = replace(parts, text_tower=None, bank=bank, decoder=RetrievalDecoder(DIM))
    sizes = part_sizes(plain)
    assert "text tower" not in sizes
    assert sizes["decoder"] == (0, 0)
    assert sizes["memory bank"][1] == DIM * (2 * DIM + 4 + 8)


def test_the_memory_of_a_known_model_is_what_it_takes_when_loaded() -> None:
    first = known_models()[0]
    loaded = sum(
        size for _, size in part_sizes(Patchioner.from_pretrained(first.name).parts).values()
    )
    assert first.memory == pytest.approx(loaded, rel=0.02)
    decap, capdec = known_models()[1:3]
    assert 2.2 < decap.memory / 2**30 < 2.4 and 0.5 < capdec.memory / 2**30 < 0.7
