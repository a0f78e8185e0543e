"""A checkpoint folder <-> its parts.

Knows: the layout (config.json, backbone/, text_tower/, decoder/, memory_bank/). Does not know: how the parts work
together (`patchioner.model`), nor where a folder comes from (`patchioner.hub`).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from decoders import Decoder, load_decoder
from memory_bank import MemoryBank
from patchioner.backbones import TimmViT, load_backbone, save_backbone
from patchioner.settings import ModelSettings
from patchioner.text_towers import BertTower, load_tower, save_tower
from patchioner_base.errors import CheckpointError
from patchioner_base.files import read_json, write_json
from patchioner_base.weights import Storage

MAPPED_FROM = 256 * 2**20  # bytes


@dataclass(frozen=True)
class Parts:
    """Everything a captioner consists of; `bank` and `text_tower` may be absent."""

    backbone: TimmViT
    decoder: Decoder
    bank: MemoryBank | None
    text_tower: BertTower | None
    settings: ModelSettings

    def __post_init__(self) -> None:
        widths = {"backbone": self.backbone.dim, "decoder": self.decoder.embedding_dim}
        widths |= {} if self.bank is None else {"memory bank": self.bank.dim}
        widths |= {} if self.text_tower is None else {"text tower": self.text_tower.dim}
        if len(set(widths.values())) > 1:
            raise CheckpointError(
                f"the parts have different widths and cannot work together: {widths}"
            )
        if self.settings.bridge == "memory" and self.bank is None:
            raise CheckpointError(
                "the settings ask for the memory bridge, but there is no memory bank"
            )


def read_checkpoint(folder: Path) -> Parts:
    """Read all parts; CheckpointError or MemoryBankError where something is missing, corrupt or does not fit."""
    config = folder / "config.json"
    settings = ModelSettings.from_json(read_json(config), str(config))
    bank, tower = folder / "memory_bank", folder / "text_tower"
    return Parts(
        backbone=load_backbone(folder / "backbone"),
        decoder=load_decoder(folder / "decoder"),
        bank=_read_bank(bank) if bank.is_dir() else None,
        text_tower=load_tower(tower) if tower.is_dir() else None,
        settings=settings,
    )


def _read_bank(folder: Path) -> MemoryBank:
    """A small bank is read whole and checked against its checksum; a large one is mapped, so that it opens at once."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return MemoryBank.load(folder, memory_map=size > MAPPED_FROM)


def write_checkpoint(parts: Parts, folder: Path, *, storage: Storage = "fp16") -> None:
    """Write all parts; config.json goes first and comes last, so a folder that has it is whole.

    Over an older checkpoint, parts that this one lacks are removed: else they would be read with it.
    """
    config = folder / "config.json"
    if config.is_file():
        config.unlink()
        absent = {"memory_bank": parts.bank is None, "text_tower": parts.text_tower is None}
        for name in (name for name, is_absent in absent.items() if is_absent):
            shutil.rmtree(folder / name, ignore_errors=True)
    save_backbone(parts.backbone, folder / "backbone", storage=storage)
    parts.decoder.save(folder / "decoder", storage=storage)
    if parts.bank is not None:
        parts.bank.save(folder / "memory_bank")
    if parts.text_tower is not None:
        save_tower(parts.text_tower, folder / "text_tower", storage=storage)
    write_json(config, parts.settings.to_json())
