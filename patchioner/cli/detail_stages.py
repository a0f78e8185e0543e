"""From the arguments of `patchioner detail` to the stages that they name.

Knows: which argument sets what. Does not know: photos, output, what the stages do.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchioner.base.errors import OptionError
from patchioner.base.files import read_json

if TYPE_CHECKING:
    from patchioner.detail import DetailCaptioner, DetailSettings
    from patchioner.detail.clients import Budget
    from patchioner.detail.clients.chat import ChatClient
    from patchioner.detail.describe.choosing import ClientOptions
    from patchioner.detail.report import Heated
    from patchioner.detail.stages import Describer, Scorer, TextModel
    from patchioner.model import Patchioner


@dataclass(frozen=True, eq=False)
class Stages:
    """What describes photos, and what the command must know of it besides.

    Attributes:
        captioner: describes.
        budget: counts requests to servers.
        heat: makes heat maps; None where nothing can.
        cache: where answers of others are kept; None keeps nothing.
        clients: of the servers that are asked.
    """

    captioner: DetailCaptioner
    budget: Budget
    heat: Heated | None
    cache: Path | None = None
    clients: tuple[ChatClient, ...] = ()


def build_stages(options: argparse.Namespace, *, regions_given: bool) -> Stages:
    """The captioner that the arguments describe.

    Args:
        options: as `detail_arguments.declare_arguments` has them.
        regions_given: whether every photo comes with regions: then none are looked for.

    Raises:
        OptionError, HubError, MissingExtraError, CheckpointError: a stage cannot be had.
    """
    from patchioner.detail import DetailCaptioner
    from patchioner.detail.clients import Budget, CallCache, Prices
    from patchioner.detail.clients.chat import ChatClient
    from patchioner.detail.describe.asking import VisionSettings
    from patchioner.detail.describe.choosing import ClientOptions, make_describer
    from patchioner.detail.fuse.language import LanguageFuser

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
    words = _words(options, calls, describer)
    scorer = _scorer(options, model)
    captioner = DetailCaptioner(
        model,
        describer=describer,
        scorer=scorer,
        fuser=None if words is None else LanguageFuser(words, settings.fuse, seed=options.seed),
        settings=settings,
    )
    heat: Any = scorer if hasattr(scorer, "heat_map") else None
    asked = [getattr(one, "client", None) for one in (describer, words)]
    clients = tuple(client for client in asked if isinstance(client, ChatClient))
    return Stages(captioner, budget, heat, cache, clients)


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


def _words(
    options: argparse.Namespace, calls: ClientOptions, describer: Describer
) -> TextModel | None:
    """What the fuser asks; None for the fuser that goes by rule."""
    if options.fuser == "patchioner":
        return None
    from patchioner.detail.clients.remote_text import RemoteTextModel
    from patchioner.detail.describe.choosing import make_text_model
    from patchioner.detail.describe.remote import RemoteDescriber

    if isinstance(describer, RemoteDescriber) and options.fuser == options.describer:
        # One client for both, so that together they keep to the bound on requests under way.
        return RemoteTextModel(describer.client, cache=calls.cache)
    return make_text_model(options.fuser, options=calls)


def _scorer(options: argparse.Namespace, model: Patchioner | None) -> Scorer | None:
    kind, _, name = options.scorer.partition(":")
    if options.scorer == "none":
        return None
    if options.scorer == "dense":
        return _dense(model, options.min_support)
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
