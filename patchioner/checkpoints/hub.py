"""What models there are by name, how much memory their parts take, and which one it is; files of the model hub."""

from __future__ import annotations

import hashlib
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from patchioner.base.errors import HubError, first_line
from patchioner.base.files import file_sha256, read_json
from patchioner.base.weights import SCALE_SUFFIX, tensors_sha256
from patchioner.checkpoints.folder import Parts, find_model, shipped_models

if TYPE_CHECKING:
    from patchioner.model import Patchioner

_OWNER, _STATED = "Ruggero1912", "none stated"
_FLOAT = 4  # bytes
# Bytes of the published networks in float32, and of a bank whose rows are 768 numbers, a norm and a count.
_BACKBONE, _DECAP, _PROMPTED = _FLOAT * 86_600_000, _FLOAT * 68_300_000, _FLOAT * 168_200_000
_BANK = 591_753 * (768 * _FLOAT + 12)
_PUBLISHED = {
    "decap": ("DINOv2 ViT-B/14 + Talk2DINO, memory of 591,753 captions, DeCap", _DECAP + _BANK),
    "capdec": ("the same backbone, no memory, decoder trained with noise (CapDec)", _DECAP),
    "viecap": ("the same backbone, soft and entity prompts for GPT-2 (ViECap)", _PROMPTED),
    "meacap": ("the same backbone, retrieved captions for GPT-2 (MeaCap)", _PROMPTED + _BANK),
}


def upload(folder: Path, name: str) -> None:
    """Push a checkpoint folder to the hub repository `name`, made on demand."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # as for `folder.find_model`
        raise HubError(f"cannot push to {name!r} ({first_line(error)}): hf auth login") from error


def fetch(hub_id: str, name: str) -> Path:
    """One file of a hub repository, from the cache where it is there already; HubError where it cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, name))
    except Exception as error:  # as for `folder.find_model`
        raise HubError(f"{name!r} of {hub_id} cannot be fetched ({first_line(error)})") from error


@dataclass(frozen=True)
class KnownModel:
    """A model that `Patchioner.from_pretrained` takes by name.

    Attributes:
        about: backbone, projection and decoder in a few words.
        memory: bytes of its parts once it is loaded, networks in float32, by calculation from their shapes.
        disk: bytes of its files, None where they are not known before they are fetched.
        here: whether its files are on this machine.
    """

    name: str
    about: str
    licence: str
    source: str
    memory: int
    disk: int | None
    here: bool


def known_models() -> list[KnownModel]:
    """The models inside the package, then the published ones."""
    from huggingface_hub import try_to_load_from_cache

    models = [_shipped(name) for name in shipped_models()]
    for key, (about, memory) in _PUBLISHED.items():
        name = f"{_OWNER}/Patch-ioner_talk2dino_{key}_COCO_Captions"
        found = try_to_load_from_cache(name, "config.yaml")  # nothing is fetched
        disk = folder_bytes(Path(found).parent) if isinstance(found, str) else None
        here = disk is not None
        size = _BACKBONE + memory
        models.append(KnownModel(name, about, _STATED, "the model hub", size, disk, here))
    return models


def _shipped(name: str) -> KnownModel:
    folder = find_model(name)
    config = read_json(folder / "config.json")
    parts = [folder / part / "config.json" for part in ("backbone", "text_tower", "decoder")]
    configs = [read_json(part) for part in parts if part.is_file()]
    kinds = ", ".join(str(one.get("name") or one.get("type")) for one in configs)
    about = f"{kinds}; projection: {config['projection']}"
    disk, memory = folder_bytes(folder), _loaded_bytes(folder)
    return KnownModel(name, about, config["licence"], "this package", memory, disk, True)


def _loaded_bytes(folder: Path) -> int:
    """Bytes in memory of a checkpoint of ours: networks become float32 whatever their storage, the bank stays."""
    total = sum(path.stat().st_size for path in folder.glob("memory_bank/bank.safetensors"))
    for path in folder.glob("*/weights.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            names = [name for name in tensors.keys() if not name.endswith(SCALE_SUFFIX)]  # noqa: SIM118
            shapes = [tensors.get_slice(name).get_shape() for name in names]
        total += _FLOAT * sum(math.prod(shape) for shape in shapes)
    return total


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder; what links lead to is counted."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def part_sizes(parts: Parts) -> dict[str, tuple[int, int]]:
    """Numbers held and bytes in memory of each part of a loaded model: weights and buffers, a bank's rows."""
    held = {"backbone": parts.backbone, "text tower": parts.text_tower}
    sizes = {name: _tensor_sizes(one) for name, one in held.items() if one is not None}
    if (bank := parts.bank) is not None:
        tensors = [t for t in (bank.keys, bank.norms, bank.counts, bank.scales) if t is not None]
        size = sum(t.numel() * t.element_size() for t in tensors)
        sizes["memory bank"] = bank.keys.numel(), size
    return {**sizes, "decoder": _tensor_sizes(parts.decoder.network)}


def _tensor_sizes(module: nn.Module) -> tuple[int, int]:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() for t in tensors), sum(t.numel() * t.element_size() for t in tensors)


def saved_sha256(decoder: Any) -> str:
    """Sha256 (hex) over the files that a decoder saves in float32.

    A decoder need not be one network, so what it writes is the only complete account of it.
    """
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        decoder.save(folder, storage="fp32")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            # The head of a safetensors file is written in an order that changes from process to process.
            tensors = path.suffix == ".safetensors"
            found = tensors_sha256(load_file(path)) if tensors else file_sha256(path)
            digest.update(f"{path.relative_to(folder).as_posix()} {found}\n".encode())
    return digest.hexdigest()


def model_fingerprint(model: Patchioner) -> dict[str, Any]:
    """Sha256 of each part of a model; its settings are not among them."""
    parts = model.parts
    tower, bank = parts.text_tower, parts.bank
    return {
        "name": parts.settings.name,
        "backbone_config": parts.backbone.config,
        "backbone_sha256": tensors_sha256(parts.backbone.state_dict()),
        "decoder_class": type(parts.decoder).__name__,
        "decoder_sha256": saved_sha256(parts.decoder),
        "text_tower_sha256": None if tower is None else tensors_sha256(tower.state_dict()),
        "bank_sha256": None if bank is None else bank.fingerprint(),
        "bank_rows": None if bank is None else len(bank),
    }
