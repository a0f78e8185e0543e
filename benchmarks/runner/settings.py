"""The settings of one run, and which of them decide what a model says.

Knows: names, defaults and allowed values. Does NOT know: models, samples or files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from benchmarks.captioner import Captioner, parts_of, with_settings

# These decide how captions are scored, or where files lie; what is said is the same.
_SCORING = frozenset(
    {
        "metrics", "java", "rounds", "baselines", "data", "images", "references", "clip_score",
        "pac_score",
    }
)  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """Everything that one run is asked for. None stands for what the model itself says.

    Attributes:
        task: "trace", "dense", "region_set" or "image".
        model: shipped name, folder, YAML file or hub id.
        data, images, references: the annotations, the folder of photos, and the file of references if it is another.
        weighting, variance, rounding: of patches (`patchioner.aggregate.Weighting`).
        temperature, context: of the model (`patchioner.settings.ModelSettings`).
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
    """The model with the temperature and context of the run.

    Example:
        >>> tuned(model, RunSettings("dense", context=0.2))  # doctest: +SKIP
    """
    return with_settings(model, temperature=settings.temperature, context=settings.context)


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
    from patchioner.aggregate import Weighting

    if settings.seed and "seed" in {field.name for field in fields(Weighting)}:
        given["seed"] = settings.seed
    parts = parts_of(model)
    own = {} if parts is None else asdict(parts.settings.weighting)
    return Weighting(**(own | given))


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
