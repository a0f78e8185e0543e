"""From the arguments of `patchioner detail` to the stages that they name.

Knows: which argument sets what. Does not know: photos, output, what the stages do.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchioner_base.errors import OptionError, UnknownNameError
from patchioner_base.files import read_json

if TYPE_CHECKING:
    from patchioner.detail import DetailCaptioner, DetailSettings
    from patchioner.detail.clients import Budget
    from patchioner.detail.describe.choosing import ClientOptions
    from patchioner.detail.report import Heated
    from patchioner.detail.stages import Describer, Fuser, Scorer, TextModel
    from patchioner.model import Patchioner

_FUSERS = ("patchioner", "hf:MODEL", "openai:MODEL")
_SCORERS = ("dense", "blip:MODEL", "clip:NAME", "none")


@dataclass(frozen=True, eq=False)
class Stages:
    """What describes photos, and what the command must know of it besides.

    Attributes:
        captioner: describes.
        budget: counts requests to servers.
        heat: makes heat maps; None where nothing can.
        cache: where answers of others are kept; None keeps nothing.
    """

    captioner: DetailCaptioner
    budget: Budget
    heat: Heated | None
    cache: Path | None = None


def build_stages(options: argparse.Namespace, *, regions_given: bool) -> Stages:
    """The captioner that the arguments describe.

    Args:
        options: as `detail_arguments.declare_arguments` has them.
        regions_given: whether every photo comes with regions: then none are looked for.

    Raises:
        UnknownNameError, OptionError, HubError, MissingExtraError, CheckpointError: a stage cannot be had.
    """
    from patchioner.detail import DetailCaptioner
    from patchioner.detail.clients import Budget, CallCache, Prices
    from patchioner.detail.describe.asking import VisionSettings
    from patchioner.detail.describe.choosing import ClientOptions, make_describer

    settings = _settings(options, regions_given)
    prices = Prices(options.price_in or 0.0, options.price_out or 0.0)
    budget = Budget(options.max_calls, options.max_cost, prices=prices)
    cache = cache_folder(options)
    calls = ClientOptions(
        base_url=options.base_url,
        key_env=options.key_env,
        timeout=options.timeout,
        concurrency=options.concurrency,
        device=options.device,
        cache=None if cache is None else CallCache(cache),
        budget=budget,
    )
    model = _model(options)
    vision = VisionSettings() if options.samples is None else VisionSettings(options.samples)
    describer = make_describer(
        options.describer, model=model, settings=vision, options=calls, own=settings.describe
    )
    scorer = _scorer(options, model)
    captioner = DetailCaptioner(
        model,
        describer=describer,
        scorer=scorer,
        fuser=_fuser(options, settings, calls, describer),
        settings=settings,
    )
    heat: Any = scorer if hasattr(scorer, "heat_map") else None
    return Stages(captioner, budget, heat, cache)


def cache_folder(options: argparse.Namespace) -> Path | None:
    """Where answers are kept; None keeps nothing: our own captioner answers the same every time."""
    if options.cache is not None:
        return Path(options.cache)
    if options.out is None or {options.describer, options.fuser} == {"patchioner"}:
        return None
    return Path(f"{options.out}.cache")


def _settings(options: argparse.Namespace, regions_given: bool) -> DetailSettings:
    from patchioner.detail import preset

    changes: dict[str, object] = {}
    if options.samples is not None:
        changes["describe.samples"] = options.samples
    if options.max_words is not None:
        changes["fuse.max_words"] = options.max_words
    if options.grid is not None:
        rows, columns = options.grid
        changes |= {"divide.spatial": "grid", "divide.rows": rows, "divide.columns": columns}
    if options.model == "none" and not regions_given:
        # Without a model there are no features to find things in.
        changes |= {"divide.objects": "none", "divide.grow": None}
    return preset(options.preset, changes)


def _model(options: argparse.Namespace) -> Patchioner | None:
    if options.model == "none":
        return None
    from patchioner import Patchioner

    return Patchioner.from_pretrained(options.model, device=options.device)


def _fuser(
    options: argparse.Namespace,
    settings: DetailSettings,
    calls: ClientOptions,
    describer: Describer,
) -> Fuser | None:
    if options.fuser == "patchioner":
        return None
    if options.fuser.partition(":")[0] not in ("hf", "openai"):
        raise UnknownNameError.among("fuser", options.fuser, _FUSERS)
    from patchioner.detail.clients.remote_text import RemoteTextModel
    from patchioner.detail.describe.choosing import make_text_model
    from patchioner.detail.describe.remote import RemoteDescriber
    from patchioner.detail.fuse.language import LanguageFuser

    words: TextModel
    if isinstance(describer, RemoteDescriber) and options.fuser == options.describer:
        # One client for both, so that together they keep to the bound on requests under way.
        words = RemoteTextModel(describer.client, cache=calls.cache)
    else:
        words = make_text_model(options.fuser, options=calls)
    return LanguageFuser(words, settings.fuse, seed=options.seed)


def _scorer(options: argparse.Namespace, model: Patchioner | None) -> Scorer | None:
    kind, _, name = options.scorer.partition(":")
    if options.scorer == "none":
        return None
    if options.scorer == "dense":
        return _dense(model, options.min_support)
    if kind not in ("blip", "clip") or not name:
        raise UnknownNameError.among("scorer", options.scorer, _SCORERS)
    if kind == "clip" and options.calibration is None and options.min_support is None:
        raise OptionError(
            "the cosines of CLIP mean nothing by themselves: give --calibration FILE (python -m "
            "patchioner.detail.filter.calibrate --scorer makes it), or --min-support"
        )
    from patchioner.detail.filter import SCORERS, IndependentScorer
    from patchioner.detail.filter.logistic import Logistic

    path = options.calibration
    calibration = None if path is None else Logistic.from_json(read_json(path), str(path))
    return IndependentScorer(
        SCORERS.get(kind)(name), calibration=calibration, threshold=options.min_support
    )


def _dense(model: Patchioner | None, least: float | None) -> Scorer:
    from patchioner.detail.filter import Calibration, DenseScorer

    if model is None:
        raise OptionError("the dense scorer needs a model: give --model, or --scorer none")
    calibration = Calibration.of(model)
    if least is not None:
        calibration = replace(
            calibration, sentences=replace(calibration.sentences, threshold=least)
        )
    return DenseScorer(model, calibration=calibration)
