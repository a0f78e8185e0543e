"""The settings of one run, and how they reach a model."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from decoders import DecodeOptions
from patchioner import Patchioner, Weighting, __version__

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
