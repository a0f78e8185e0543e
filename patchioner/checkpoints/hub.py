"""A model's name -> its folder on disk (a path, the shipped model, a hub repository); and what models there are.

Downloads go through huggingface_hub, which caches and honours offline mode.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from torch import nn

from patchioner.base.errors import HubError, UnknownNameError, first_line
from patchioner.base.files import read_json, recover_folder
from patchioner.base.weights import SCALE_SUFFIX

if TYPE_CHECKING:
    from patchioner.checkpoints.folder import Parts

SHIPPED = "patchioner-mini"
_OWNER, _STATED = "Ruggero1912", "none stated"
_FLOAT = 4  # bytes
# Bytes of the published networks in float32, and of a bank whose rows are 768 numbers, a norm and a count.
_BACKBONE, _DECAP, _PROMPTED = (_FLOAT * count for count in (86_600_000, 68_300_000, 168_200_000))
_BANK = 591_753 * (768 * _FLOAT + 12)
_PUBLISHED = {
    "decap": (
        "DINOv2 ViT-B/14 + Talk2DINO, memory of 591,753 captions, DeCap decoder",
        _BACKBONE + _DECAP + _BANK,
    ),
    "capdec": (
        "the same backbone, no memory, decoder trained with noise (CapDec)",
        _BACKBONE + _DECAP,
    ),
    "viecap": (
        "the same backbone, soft and entity prompts for GPT-2 (ViECap)",
        _BACKBONE + _PROMPTED,
    ),
    "meacap": (
        "the same backbone, prompts from retrieved captions for GPT-2 (MeaCap)",
        _BACKBONE + _PROMPTED + _BANK,
    ),
}


def shipped_models() -> tuple[str, ...]:
    """Names of the models inside the package."""
    return tuple(sorted(folder.name for folder in _shipped_folders()))


def find_model(name: str, *, revision: str | None = None) -> Path:
    """The folder of a checkpoint, or the YAML file that describes one.

    Args:
        name: a folder, a ``.yaml`` file, a shipped name, or a hub id ``owner/name``. Hub repositories of the published
            Patch-ioner are fetched whole, like our own; with ``HF_HUB_OFFLINE=1`` the hub's cache alone is used.
        revision: branch, tag or commit of a hub repository.

    Raises:
        UnknownNameError: neither a folder nor a known name; offers the close ones.
        HubError: the hub cannot be reached or has no such repository; offers the shipped model.
    """
    path = Path(os.path.expanduser(name))
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    if name.strip():
        recover_folder(path)
        if path.is_dir() or (path.is_file() and is_yaml):
            return path
    for shipped in _shipped_folders():
        if shipped.name == name:
            return shipped
    if path.is_file():
        raise UnknownNameError(
            f"{name!r} is a file that is no checkpoint: give its folder, or a .yaml file"
        )
    if name.startswith((".", "/", "~")) or is_yaml:
        kind = "model file" if is_yaml else "checkpoint folder"
        raise UnknownNameError(f"no {kind} at {name!r}: check the path")
    if name.count("/") != 1:
        raise UnknownNameError.among("model", name, shipped_models())
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision))
    except Exception as error:  # its transport raises errors of its own, others in each release
        raise HubError(
            f"no folder {name!r} here, and it cannot be fetched from the model hub ({first_line(error)}). Check the "
            f"name and the connection, or use the model inside the package: {SHIPPED!r}"
        ) from error


def _shipped_folders() -> Iterator[Path]:
    root = Path(str(resources.files("patchioner") / "checkpoints"))
    return (path for path in root.glob("*") if (path / "config.json").is_file())


def upload(folder: Path, name: str) -> None:
    """Push a checkpoint folder to the hub repository `name`, made on demand."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # as in `find_model`
        raise HubError(
            f"cannot push to {name!r} ({first_line(error)}). Log in with `hf auth login` and check the name"
        ) from error


def fetch(hub_id: str, name: str) -> Path:
    """One file of a hub repository, from the cache where it is there already; HubError where it cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, name))
    except Exception as error:  # as in `find_model`
        raise HubError(f"{name!r} of {hub_id} cannot be fetched ({first_line(error)})") from error


@dataclass(frozen=True)
class KnownModel:
    """A model that `Patchioner.from_pretrained` takes by name.

    Attributes:
        name: to load it by.
        about: backbone, projection and decoder in a few words.
        licence: of the weights.
        source: where it comes from.
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
        models.append(KnownModel(name, about, _STATED, "the model hub", memory, disk, here))
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
    module = getattr(parts.decoder, "module", None)  # a retrieval decoder has no weights
    bank, held = parts.bank, {"backbone": parts.backbone, "text tower": parts.text_tower}
    sizes = {name: _tensor_sizes(one) for name, one in held.items() if one is not None}
    if bank is not None:
        tensors = [t for t in (bank.keys, bank.norms, bank.counts, bank.scales) if t is not None]
        size = sum(t.numel() * t.element_size() for t in tensors)
        sizes["memory bank"] = bank.keys.numel(), size
    sizes["decoder"] = _tensor_sizes(module) if isinstance(module, nn.Module) else (0, 0)
    return sizes


def _tensor_sizes(module: nn.Module) -> tuple[int, int]:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() for t in tensors), sum(t.numel() * t.element_size() for t in tensors)
