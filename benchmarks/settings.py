"""The settings of one run, and how they reach a model."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from decoders import DecodeOptions
from patchioner import Patchioner, Weighting, __version__
from patchioner.base.files import file_sha256

# These decide how captions are scored, or where files lie; what is said is the same.
_SCORING = frozenset(
    {
        "metrics", "java", "rounds", "baselines", "data", "images", "references", "clip_score",
        "pac_score",
    }
)  # fmt: skip

KIND_OF_TASK = {
    "trace": "trace", "dense": "box", "region_set": "region_set", "image": "whole_image",
}  # fmt: skip
"""The kind of region, as a model's settings name it, that each task asks about."""


@dataclass(frozen=True)
class RunSettings:
    """Everything that one run is asked for. None stands for what the model itself says.

    Attributes:
        task, model: "trace", "dense", "region_set", "image" or "objects"; shipped name, folder, YAML file or hub id.
        data, images, references: the annotations, the folder of photos, and the file of references if it is another.
        weighting, variance, rounding: of the model's settings.
        beam: of decoding; 1 is greedy.
        crop: caption each region's crop instead of pooling patches.
        strict, limit: refuse a malformed row instead of skipping it; only the first samples of the file.
        baselines, clip_model: names of baselines to run beside the model; the model of the baseline "clip".
        seed: of every random choice: baselines, bootstrap, the weighting's centre at variance 0.
        batch: photos whose regions are decoded together.
        metrics, java, rounds: further ones, as "module:function"; whether the official ones run; bootstrap resamples.
        clip_score, pac_score: "ARCHITECTURE=FILE" of the weights that CLIP-S and PAC-S are made with.
    """

    task: str
    model: str = "patchioner-mini"
    data: str = ""
    images: str = ""
    references: str | None = None
    weighting: str | None = None
    variance: float | None = None
    rounding: str | None = None
    beam: int | None = None
    crop: bool = False
    strict: bool = False
    limit: int | None = None
    baselines: tuple[str, ...] = ()
    clip_model: str | None = None
    seed: int = 0
    batch: int = 16
    device: str = "cpu"
    metrics: tuple[str, ...] = ()
    java: str = "auto"
    rounds: int = 2000
    clip_score: str | None = None
    pac_score: str | None = None

    def deciding(self) -> dict[str, Any]:
        """The settings that predictions depend on: a run resumes only under the same ones.

        Files count by their content, which is fingerprinted beside them, not by where they lie.
        """
        return {key: value for key, value in vars(self).items() if key not in _SCORING}


def weighting_of(model: Patchioner, settings: RunSettings) -> Weighting | None:
    """The model's own weighting with what the run changes; None where it changes nothing."""
    changes = {
        "kind": settings.weighting, "variance": settings.variance, "rounding": settings.rounding
    }  # fmt: skip
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return None
    if settings.seed:
        given["seed"] = settings.seed
    own = model.settings.kinds.get(KIND_OF_TASK.get(settings.task, ""))
    weighting = None if own is None else own.weighting
    return Weighting(**(asdict(weighting or model.settings.weighting) | given))


def options_of(model: Patchioner, settings: RunSettings) -> DecodeOptions | None:
    """The model's own decoding options with what the run changes; None where it changes nothing."""
    if settings.beam is None:
        return None
    if settings.beam == 1:
        return replace(model.settings.decode, strategy="greedy")
    return replace(model.settings.decode, strategy="beam", beam_width=settings.beam)


PACKAGES = (
    "torch", "timm", "numpy", "pillow", "tokenizers", "transformers", "open_clip_torch", "pycocoevalcap",
)  # fmt: skip


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


def versions() -> dict[str, str]:
    """Version of Python and of each package that takes part; those that are not installed are left out."""
    found = {"python": platform.python_version(), "patchioner": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """What computes: processor family, cores, threads, system, and the accelerator where one is used."""
    found: dict[str, Any] = {
        "device": device,
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        found["accelerator"] = torch.cuda.get_device_name(torch.device(device))
    return found
