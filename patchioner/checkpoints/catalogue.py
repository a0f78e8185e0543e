"""What models there are, and how much room they take.

Knows: the shipped checkpoints, the published ones by name, and how to measure a model's parts. Does not know: the
command line, downloads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from memory_bank import MemoryBank
from patchioner.base.files import read_json
from patchioner.base.packed import weights_of
from patchioner.base.weights import SCALE_SUFFIX
from patchioner.checkpoints.hub import find_model, shipped_models
from patchioner.checkpoints.parts import Parts


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


_OWNER = "Ruggero1912"
_STATED = "none stated"
_FLOAT = 4  # bytes
# Parameters in millions (docs/models.md); a bank row is 768 numbers, a norm and a count.
_BACKBONE, _DECAP, _PROMPTED = 86_600_000, 68_300_000, 168_200_000
_BANK = 591_753 * (768 * _FLOAT + 12)
_PUBLISHED = {
    "decap": (
        "DINOv2 ViT-B/14 + Talk2DINO, memory of 591,753 captions, DeCap decoder",
        _FLOAT * (_BACKBONE + _DECAP) + _BANK,
    ),
    "capdec": (
        "the same backbone, no memory, decoder trained with noise (CapDec)",
        _FLOAT * (_BACKBONE + _DECAP),
    ),
    "viecap": (
        "the same backbone, soft and entity prompts for GPT-2 (ViECap)",
        _FLOAT * (_BACKBONE + _PROMPTED),
    ),
    "meacap": (
        "the same backbone, prompts from retrieved captions for GPT-2 (MeaCap)",
        _FLOAT * (_BACKBONE + _PROMPTED) + _BANK,
    ),
}


def known_models() -> list[KnownModel]:
    """The models inside the package, then the published ones."""
    return [_shipped(name) for name in shipped_models()] + [
        _published(f"{_OWNER}/Patch-ioner_talk2dino_{key}_COCO_Captions", *facts)
        for key, facts in _PUBLISHED.items()
    ]


def _shipped(name: str) -> KnownModel:
    folder = find_model(name)
    config = read_json(folder / "config.json")
    kinds = [_kind(folder / part) for part in ("backbone", "text_tower", "decoder")]
    about = f"{', '.join(kind for kind in kinds if kind)}; projection: {config['projection']}"
    disk, memory = folder_bytes(folder), _loaded_bytes(folder)
    return KnownModel(name, about, config["licence"], "this package", memory, disk, True)


def _loaded_bytes(folder: Path) -> int:
    """Bytes in memory of a checkpoint of ours: networks become float32 whatever their storage, the bank stays."""
    total = 0
    for path in folder.glob("*/weights.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            shapes = [
                tensors.get_slice(name).get_shape()
                for name in tensors.keys()  # noqa: SIM118  (not a mapping)
                if not name.endswith(SCALE_SUFFIX)
            ]
        total += _FLOAT * sum(math.prod(shape) for shape in shapes)
    return total + sum(path.stat().st_size for path in folder.glob("memory_bank/bank.safetensors"))


def _kind(part: Path) -> str:
    """What a part of a checkpoint's folder is: the architecture where it has one, else its type; "" where absent."""
    path = part / "config.json"
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    return str(config.get("name") or config.get("type") or "")


def _published(name: str, about: str, memory: int) -> KnownModel:
    folder = _cached(name)
    size = None if folder is None else folder_bytes(folder)
    return KnownModel(name, about, _STATED, "the model hub", memory, size, folder is not None)


def _cached(name: str) -> Path | None:
    """The folder of a hub repository that has been fetched before; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.yaml")
    return Path(found).parent if isinstance(found, str) else None


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder; what links lead to is counted."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def part_sizes(parts: Parts) -> dict[str, tuple[int, int]]:
    """Numbers held and bytes in memory of each part of a loaded model: weights and buffers, a bank's rows.

    Example:
        >>> part_sizes(model.parts)["memory bank"]  # doctest: +SKIP
        (6291456, 12730368)
    """
    sizes = {"backbone": _module_size(parts.backbone)}
    if parts.text_tower is not None:
        sizes["text tower"] = _module_size(parts.text_tower)
    if parts.bank is not None:
        sizes["memory bank"] = _bank_size(parts.bank)
    module = getattr(parts.decoder, "module", None)  # a retrieval decoder has no weights
    sizes["decoder"] = _module_size(module) if isinstance(module, nn.Module) else (0, 0)
    return sizes


def _module_size(module: nn.Module) -> tuple[int, int]:
    tensors = [*weights_of(module), *module.buffers()]
    return sum(t.numel() for t in tensors), sum(t.numel() * t.element_size() for t in tensors)


def _bank_size(bank: MemoryBank) -> tuple[int, int]:
    tensors = [bank.keys, bank.norms, bank.counts]
    if bank.scales is not None:
        tensors.append(bank.scales)
    return bank.keys.numel(), sum(t.numel() * t.element_size() for t in tensors)
