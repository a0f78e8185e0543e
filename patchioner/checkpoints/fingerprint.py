"""Which model it is: sha256 of its parts."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from patchioner.base.files import file_sha256

if TYPE_CHECKING:
    from patchioner.model import Patchioner


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Sha256 (hex) over names, types, shapes and values, wherever the tensors lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
