"""What one run is asked for: the options of a task's command, the same in YAML, and what they change of a model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.command import Parser, command_parser, natural, positive
from benchmarks.data import SAMPLE, Task, task_named
from decoders import DecodeOptions
from patchioner import Patchioner, Weighting
from patchioner.base.errors import OptionError
from patchioner.cli.spelling import not_negative

BASELINES = ("whole", "crop", "nearest", "majority", "random", "oracle", "clip")
# These decide how captions are scored, or where files lie; what is said is the same.
_SCORING = frozenset((
    "metrics", "java", "rounds", "baselines", "data", "images", "references", "clip_score", "pac_score",
))  # fmt: skip
KINDS = {"trace": "trace", "dense": "box", "region_set": "region_set", "image": "whole_image"}
"""The kind of region, as a model's settings name it, that each task asks about."""


def _option(default: Any, told: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": told, **more})


_own, _advanced = partial(_option, group="model"), partial(_option, group="advanced")
_WEIGHTINGS = ("uniform", "gaussian", "attention", "cls")


@dataclass(frozen=True)
class RunSettings:
    """Everything that one run is asked for; the options of a task's command. None: what the model itself says."""

    task: str
    model: str = _option("patchioner-mini", "shipped name, folder, YAML file or hub id")
    data: str = _option("", "holds annotations/ and photos/, or a file (default: the sample set)")
    images: str = _option("", "photos of a --data that is a file in the authors' form")
    references: str | None = _option(None, "captions of a --data without any", tasks=("image",))
    weighting: str | None = _own(None, "of patches", choices=_WEIGHTINGS)
    variance: float | None = _own(None, "of --weighting gaussian", type=not_negative)
    rounding: str | None = _own(None, "reference: as published", choices=("coverage", "reference"))
    beam: int | None = _own(None, "beam width, 1 = greedy", type=positive)
    crop: bool = _own(False, "caption each region's crop instead of its patches")
    strict: bool = _option(False, "refuse a malformed row; default: skip and report it")
    limit: int | None = _option(None, "only the first N samples of the file", type=positive)
    baselines: tuple[str, ...] = _option(
        (), f"also run a baseline ({', '.join(BASELINES)}); may be given again", flag="baseline"
    )
    clip_model: str | None = _advanced(None, "for the baseline clip: CLIP backbone and memory")
    seed: int = _advanced(0, "of every random choice", type=natural)
    batch: int = _advanced(16, "photos whose regions are decoded together", type=positive)
    device: str = _option("cpu", "cpu, cuda ...")
    metrics: tuple[str, ...] = _advanced((), "also: spice, or module:function", flag="metric")
    java: str = _advanced("auto", "official metrics; auto: if there", choices=("auto", "yes", "no"))
    rounds: int = _advanced(2000, "bootstrap resamples", type=positive)
    clip_score: str | None = _advanced(None, "ARCHITECTURE=FILE: CLIP-S by open_clip")
    pac_score: str | None = _advanced(None, "PAC-S, likewise, by its own checkpoint")

    def deciding(self) -> dict[str, Any]:
        """What predictions depend on: a run resumes only under the same. Files count by content, not by place."""
        return {key: value for key, value in vars(self).items() if key not in _SCORING}


def weighting_of(model: Patchioner, settings: RunSettings) -> Weighting | None:
    """The model's own weighting with what the run changes, then without a foreground; None where it changes nothing."""
    changes = {"kind": settings.weighting, "variance": settings.variance}
    changes |= {"rounding": settings.rounding}
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return None
    if settings.seed:
        given["seed"] = settings.seed
    own = model.settings.kinds.get(KINDS.get(settings.task, ""))
    weighting = None if own is None else own.weighting
    own_values = asdict(weighting or model.settings.weighting) | {"foreground": 0.0}
    return Weighting(**(own_values | given))


def options_of(model: Patchioner, settings: RunSettings) -> DecodeOptions | None:
    """The model's own decoding options with what the run changes; None where it changes nothing."""
    if settings.beam is None:
        return None
    if settings.beam == 1:
        return replace(model.settings.decode, strategy="greedy")
    return replace(model.settings.decode, strategy="beam", beam_width=settings.beam)


class _Parser(Parser):
    """Raises instead of ending the process, for arguments that come from a file."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def parser_of(task: Task, kind: type[Parser] = Parser) -> Parser:
    """The parser of a task's command."""
    told = f"Measure a model on {task.title}: predictions, scores, baselines."
    parser = command_parser(task.name, told, kind)
    own = parser.add_argument_group("model", "default: what the model itself says")
    groups = {"": parser, "model": own, "advanced": parser.add_argument_group("advanced")}
    for one in fields(RunSettings)[1:]:
        if task.name in one.metadata.get("tasks", (task.name,)):
            _add(groups[one.metadata.get("group", "")], one)
    add = parser.add_argument
    add("--out", type=Path, help="folder for predictions.jsonl, results.json and report.html")
    add("--resume", action="store_true", help="go on with what --out holds")
    return parser


def _add(group: Any, one: Field[Any]) -> None:
    """The option of a field: a flag, one that may be given again, or a value."""
    told = {key: one.metadata[key] for key in ("help", "type", "choices") if key in one.metadata}
    if isinstance(one.default, bool):
        told["action"] = "store_true"
    elif isinstance(one.default, tuple):
        told |= {"action": "append", "metavar": "NAME"}
    flag = one.metadata.get("flag", one.name).replace("_", "-")
    group.add_argument(f"--{flag}", dest=one.name, default=one.default or None, **told)


def settings_of(task: Task, arguments: argparse.Namespace) -> RunSettings:
    """The parsed arguments as settings, with the files that they lead to."""
    names = {one.name for one in fields(RunSettings)}
    given: dict[str, Any] = {
        key: tuple(dict.fromkeys(value)) if isinstance(value, list) else value
        for key, value in vars(arguments).items()
        if key in names and value is not None
    }
    data, images = task.files(Path(given.get("data", SAMPLE)), given.get("images"))
    return RunSettings(task.name, **given | {"data": str(data), "images": str(images)})


def settings_from(task_name: str, options: Mapping[str, Any], source: str) -> RunSettings:
    """Settings from options by name, as a YAML file has them; OptionError: a wrong name or value, of `source`."""
    task = task_named(task_name)
    words: list[str] = []
    for key, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                flag = f"--{str(key).replace('_', '-')}"
                words += [flag] if one is True else [f"{flag}={one}"]
    try:
        return settings_of(task, parser_of(task, _Parser).parse_args(words))
    except OptionError as error:
        raise OptionError(f"{source}: {error}") from error
