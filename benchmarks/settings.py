"""The settings of one run, and how they reach a model."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from decoders import DecodeOptions
from patchioner import Patchioner, Weighting
from patchioner.base.errors import OptionError

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
        task: "trace", "dense", "region_set", "image" or "objects".
        model: shipped name, folder, YAML file or hub id.
        data, images, references: the annotations, the folder of photos, and the file of references if it is another.
        weighting, variance, rounding: of patches (`patchioner.Weighting`).
        temperature, context: of the model's settings; a context counts for every kind of region.
        size: side of the backbone's input in pixels.
        beam, max_tokens: of decoding; a beam of 1 is greedy.
        crop: caption each region's crop instead of pooling patches.
        merge_references: dense captioning: captions of one box are references of one sample.
        strict: refuse a malformed row instead of skipping it.
        limit: only the first samples of the file.
        baselines: names of baselines to run beside the model.
        clip_model: model of the baseline "clip".
        seed: of every random choice: baselines, bootstrap, the weighting's centre at variance 0.
        batch: photos whose regions are decoded together.
        device: "cpu", "cuda", ...
        metrics: further metrics, as "module:function".
        java: "auto", "yes" or "no": whether the official metrics run.
        rounds: bootstrap resamples.
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
    temperature: float | None = None
    context: float | None = None
    size: int | None = None
    beam: int | None = None
    max_tokens: int | None = None
    crop: bool = False
    merge_references: bool = False
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


def tuned(model: Patchioner, settings: RunSettings) -> Patchioner:
    """The same networks with the temperature and context of the run."""
    own, changes = model.settings, {}
    if settings.temperature is not None:
        changes["temperature"] = settings.temperature
    if settings.context is not None:
        kinds = {kind: replace(of, context=None) for kind, of in own.kinds.items()}
        changes |= {"context": settings.context, "kinds": kinds}  # type: ignore[dict-item]
    if not changes:
        return model
    parts = replace(model.parts, settings=replace(own, **changes))  # type: ignore[arg-type]
    # The weights keep their precision: a run does not change it, and float32 is the reference.
    return Patchioner(parts, device=model.device)


def resized(model: Patchioner, size: int | None) -> Patchioner:
    """The same networks with another side of the square input in pixels; None leaves the model's own.

    Raises:
        OptionError: a size that the backbone cannot take, or a backbone of one size only.
    """
    own = getattr(model.parts.backbone, "preprocessing", None)
    if size is None:
        return model
    if own is None:
        raise OptionError(
            f"size {size}: the input of this {type(model.parts.backbone).__name__} cannot be changed: leave --size out"
        )
    if own.size == size:
        return model
    backbone: Any = copy.copy(model.parts.backbone)  # shares the weights
    backbone.preprocessing = replace(own, size=size)
    return Patchioner(replace(model.parts, backbone=backbone), device=model.device)


def weighting_of(model: Patchioner, settings: RunSettings) -> Weighting | None:
    """The model's own weighting with what the run changes; None where it changes nothing."""
    changes = {
        "kind": settings.weighting, "variance": settings.variance, "rounding": settings.rounding
    }  # fmt: skip
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return None
    if settings.seed and "seed" in {field.name for field in fields(Weighting)}:
        given["seed"] = settings.seed
    own = model.settings.kinds.get(KIND_OF_TASK.get(settings.task, ""))
    weighting = None if own is None else own.weighting
    return Weighting(**(asdict(weighting or model.settings.weighting) | given))


def options_of(model: Patchioner, settings: RunSettings) -> DecodeOptions | None:
    """The model's own decoding options with what the run changes; None where it changes nothing."""
    given: dict[str, Any] = {}
    if settings.beam is not None:
        given["strategy"] = "greedy" if settings.beam == 1 else "beam"
        if settings.beam > 1:
            given["beam_width"] = settings.beam
    if settings.max_tokens is not None:
        given["max_tokens"] = settings.max_tokens
    return DecodeOptions(**(vars(model.settings.decode) | given)) if given else None
