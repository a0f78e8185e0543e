"""The settings of one run, and which of them decide what a model says.

Knows: names, defaults and allowed values. Does NOT know: models, samples or files.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from benchmarks.captioner import Captioner, parts_of, with_settings
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
"""The kind of region (`patchioner.checkpoints.settings.KINDS`) that each task asks about."""


@dataclass(frozen=True)
class RunSettings:
    """Everything that one run is asked for. None stands for what the model itself says.

    Attributes:
        task: "trace", "dense", "region_set", "image" or "objects".
        model: shipped name, folder, YAML file or hub id.
        data, images, references: the annotations, the folder of photos, and the file of references if it is another.
        weighting, variance, rounding: of patches (`patchioner.regions.Weighting`).
        temperature, context: of the model (`patchioner.checkpoints.settings.ModelSettings`).
        size: side of the backbone's input in pixels (`patchioner.geometry.Preprocessing`).
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

    Example:
        >>> RunSettings("dense", weighting="gaussian").variance is None
        True
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

    def to_json(self) -> dict[str, Any]:
        """All settings, for results.json."""
        return asdict(self)

    def deciding(self) -> dict[str, Any]:
        """The settings that predictions depend on: a run resumes only under the same ones.

        Files count by their content, which is fingerprinted beside them, not by where they lie.
        """
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _SCORING
        }


def tuned(model: Captioner, settings: RunSettings) -> Captioner:
    """The model with the temperature and context of the run; a context counts for every kind of region.

    Example:
        >>> tuned(model, RunSettings("dense", context=0.2))  # doctest: +SKIP
    """
    parts, kinds = parts_of(model), None
    if parts is not None and settings.context is not None:
        kinds = {k: replace(own, context=None) for k, own in parts.settings.kinds.items()}
    return with_settings(
        model, temperature=settings.temperature, context=settings.context, kinds=kinds
    )


def resized(model: Captioner, size: int | None) -> Captioner:
    """The same networks with another input size; None leaves the model's own.

    Args:
        model: one whose backbone has a `preprocessing` (`patchioner.geometry.Preprocessing`).
        size: side of the square input in pixels, a multiple of the patch size.

    Raises:
        OptionError: a size that the backbone cannot take, or a backbone of one size only.

    Example:
        >>> resized(model, 518).parts.backbone.preprocessing.size  # doctest: +SKIP
        518
    """
    parts = parts_of(model)
    if size is None:
        return model
    own = getattr(getattr(parts, "backbone", None), "preprocessing", None)
    if parts is None or own is None:
        raise OptionError(
            f"the input size of this {type(model).__name__} cannot be changed: leave the size out"
        )
    if own.size == size:
        return model
    from patchioner import Patchioner

    backbone = copy.copy(parts.backbone)  # shares the weights; only the preprocessing differs
    backbone.preprocessing = replace(own, size=size)
    other: Captioner = Patchioner(
        replace(parts, backbone=backbone), device=getattr(model, "device", None)
    )
    return other


def weighting_of(model: Captioner, settings: RunSettings) -> Any:
    """The `Weighting` of the run: the model's own with what the run changes; None where it changes nothing.

    Example:
        >>> weighting_of(model, RunSettings("dense", variance=0.5))  # doctest: +SKIP
    """
    changes = {
        "kind": settings.weighting,
        "variance": settings.variance,
        "rounding": settings.rounding,
    }
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return None
    from patchioner.regions import Weighting

    if settings.seed and "seed" in {field.name for field in fields(Weighting)}:
        given["seed"] = settings.seed
    parts = parts_of(model)
    own = {} if parts is None else asdict(_own_weighting(parts.settings, settings.task))
    return Weighting(**(own | given))


def _own_weighting(own: Any, task: str) -> Any:
    """The model's weighting of the kind of region that a task asks about."""
    kind = own.kinds.get(KIND_OF_TASK.get(task, ""))
    return own.weighting if kind is None or kind.weighting is None else kind.weighting


def options_of(model: Captioner, settings: RunSettings) -> Any:
    """The `DecodeOptions` of the run: the model's own with what the run changes; None where it changes nothing.

    Example:
        >>> options_of(model, RunSettings("dense", beam=1)).strategy  # doctest: +SKIP
        'greedy'
    """
    given: dict[str, Any] = {}
    if settings.beam is not None:
        given["strategy"] = "greedy" if settings.beam == 1 else "beam"
        if settings.beam > 1:
            given["beam_width"] = settings.beam
    if settings.max_tokens is not None:
        given["max_tokens"] = settings.max_tokens
    if not given:
        return None
    from decoders import DecodeOptions

    parts = parts_of(model)
    own = {} if parts is None else vars(parts.settings.decode)
    return DecodeOptions(**(own | given))
