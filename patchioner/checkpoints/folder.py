"""A checkpoint folder <-> its parts.

Knows: the layout (config.json, backbone/, text_tower/, decoder/, memory_bank/) and who reads what is not in it. Does
not know: how the parts work together (`patchioner.model`), nor where a folder comes from (`hub`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from decoders import load_decoder
from memory_bank import MemoryBank, Precision
from patchioner.backbones import load_backbone
from patchioner.base.errors import CheckpointError
from patchioner.base.files import read_json, write_json
from patchioner.base.weights import Storage
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.settings import ModelSettings
from patchioner.text import load_tower

CONFIG_FILE = "config.json"
FOREIGN_CONFIG_FILE = "config.yaml"
MAPPED_FROM = 256 * 2**20  # bytes


def read_checkpoint(path: Path) -> Parts:
    """Read all parts.

    Args:
        path: a folder of ours; a folder of the published system (config.yaml); or a YAML file, either one of the
            published system or one that names the parts of a model (`patchioner.checkpoints.config`).

    Raises:
        CheckpointError, MemoryBankError: something is missing, corrupt or does not fit.
    """
    if path.is_dir() and (
        (path / CONFIG_FILE).exists() or not (path / FOREIGN_CONFIG_FILE).exists()
    ):
        return _read_own(path)
    from patchioner.checkpoints.config import build_model, names_parts
    from patchioner.checkpoints.published import read_published

    if path.is_file() and names_parts(path):
        return build_model(path)
    return read_published(path)


def _read_own(folder: Path) -> Parts:
    config = folder / CONFIG_FILE
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


def write_checkpoint(
    parts: Parts,
    folder: Path,
    *,
    storage: Storage = "fp16",
    bank_storage: Precision = "float16",
) -> None:
    """Write all parts; config.json goes first and comes last, so a folder that has it is whole.

    Over an older checkpoint, parts that this one lacks are removed: else they would be read with it.

    Raises:
        CheckpointError: the folder holds a checkpoint of the published system, which would be mixed up with ours.
    """
    config = folder / CONFIG_FILE
    if (folder / FOREIGN_CONFIG_FILE).exists():
        raise CheckpointError(
            f"{folder} holds a published checkpoint ({FOREIGN_CONFIG_FILE}): choose another folder"
        )
    if config.is_file():
        config.unlink()
        absent = {"memory_bank": parts.bank is None, "text_tower": parts.text_tower is None}
        for name in (name for name, is_absent in absent.items() if is_absent):
            shutil.rmtree(folder / name, ignore_errors=True)
    parts.backbone.save(folder / "backbone", storage=storage)
    parts.decoder.save(folder / "decoder", storage=storage)
    if parts.bank is not None:
        parts.bank.save(folder / "memory_bank", dtype=bank_storage)
    if parts.text_tower is not None:
        parts.text_tower.save(folder / "text_tower", storage=storage)
    write_json(config, parts.settings.to_json())
