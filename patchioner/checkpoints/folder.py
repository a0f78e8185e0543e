"""A checkpoint folder <-> its parts: config.json, backbone/, text_tower/, decoder/, memory_bank/."""

from __future__ import annotations

from pathlib import Path

from decoders import Decoder, load_decoder
from memory_bank import MemoryBank, Precision
from patchioner.backbones import Backbone, load_backbone
from patchioner.base.errors import CheckpointError
from patchioner.base.files import read_json, recover_folder, replace_folder, write_json
from patchioner.base.weights import Storage
from patchioner.checkpoints.parts import Parts
from patchioner.checkpoints.settings import ModelSettings
from patchioner.text import TextTower, load_tower

CONFIG_FILE = "config.json"
_PARTS = ("backbone", "decoder", "text_tower", "memory_bank")
FOREIGN_CONFIG_FILE = "config.yaml"
MAPPED_FROM = 256 * 2**20  # bytes of a bank from which it is mapped rather than read


def read_checkpoint(path: Path) -> Parts:
    """Read all parts.

    Args:
        path: a folder of ours; a folder of the published system (config.yaml); or a YAML file, either one of the
            published system or one that names the parts of a model (`patchioner.checkpoints.config`).

    Raises:
        CheckpointError, MemoryBankError: something is missing, corrupt or does not fit.
    """
    recover_folder(path)
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
        bank=read_own_bank(bank) if bank.is_dir() else None,
        text_tower=load_tower(tower) if tower.is_dir() else None,
        settings=settings,
    )


def read_own_bank(folder: Path) -> MemoryBank:
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
    """Write all parts beside the folder and swap them in: after a kill it is whole, or as it was.

    Over an older checkpoint, parts that this one lacks are removed; what is no part of one stays.

    Raises:
        CheckpointError: the folder holds a checkpoint of the published system, which would be mixed up with ours.
    """
    if (folder / FOREIGN_CONFIG_FILE).exists():
        raise CheckpointError(
            f"{folder} holds a published checkpoint ({FOREIGN_CONFIG_FILE}): choose another folder"
        )
    networks: dict[str, Backbone | Decoder | TextTower] = {
        "backbone": parts.backbone,
        "decoder": parts.decoder,
    }
    if parts.text_tower is not None:
        networks["text_tower"] = parts.text_tower
    was_ours = (folder / CONFIG_FILE).is_file()
    owned = {*networks, CONFIG_FILE, *(_PARTS if was_ours else ())}
    with replace_folder(
        folder, owned=owned | ({"memory_bank"} if parts.bank is not None else set())
    ) as fresh:
        for name, network in networks.items():
            network.save(fresh / name, storage=storage)
        if parts.bank is not None:
            parts.bank.save(fresh / "memory_bank", dtype=bank_storage)
        write_json(fresh / CONFIG_FILE, parts.settings.to_json())
