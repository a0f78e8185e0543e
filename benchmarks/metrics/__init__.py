"""Caption metrics, x 100: all over one set of captions from one tokenisation, each result saying how it was made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import caption, official
from benchmarks.metrics.caption import Floats, Groups, Texts, bleu, cider, rouge_l, stem_f, tokenize
from benchmarks.metrics.official import Meteor, find_java, java_available, official_score
from patchioner import __version__
from patchioner.base.errors import OptionError, UnknownNameError

__all__ = [
    "METRICS", "Meteor", "MetricResult", "bleu", "check_metric_names", "cider", "java_available", "official_score",
    "rouge_l", "score_captions", "stem_f", "tokenize",
]  # fmt: skip

Resample = Callable[[NDArray[np.int64]], Floats]
"""How often each of n samples counts, (rounds, n) -> the value of each such set, (rounds,)."""

BLEU: Final = ("bleu1", "bleu2", "bleu3", "bleu4")
NEED_JAVA: Final = ("meteor", "spice")
METRICS: Final = (*BLEU, "rouge_l", "cider", "stem_f", *NEED_JAVA)
"""Every built-in metric."""


@dataclass(frozen=True)
class MetricResult:
    """One metric over one set of captions.

    `corpus` is the value of the set, `samples` the n scores, whose mean it need not be: BLEU and METEOR pool counts,
    and have a `resample` (that of METEOR works while its program runs). `made`: libraries, versions, tokenizer.
    """

    name: str
    corpus: float
    samples: tuple[float, ...]
    made: str = field(repr=False)
    resample: Resample | None = field(default=None, repr=False, compare=False)


def score_captions(
    predictions: Texts, references: Groups, metrics: Sequence[str], *, meteor: Meteor | None = None,
    extra: Mapping[str, str] | None = None, samples: Sequence[Any] = (),
) -> dict[str, MetricResult]:  # fmt: skip
    """Score n captions, each against a list of at least one reference, by several metrics (names from `METRICS`).

    With a running `meteor`, it and the official programs (Stanford tokenizer, pycocoevalcap) are used for everything
    that they have; None: never Java. `extra` are metrics of your own, name -> "module:function"; the function takes
    predictions, references and the n `samples` and gives n scores, which are not scaled; they come last.
    """
    caption.check_pairs(predictions, references)
    check_metric_names(metrics)
    for name in metrics:
        if name in NEED_JAVA and meteor is None:
            told = f"{name!r} needs a Java runtime, the extra 'metrics', and java 'auto' or 'yes'"
            raise OptionError(f"{told}; without them, 'stem_f' is the nearest to METEOR")
    functions = {name: _resolve(name, source) for name, source in (extra or {}).items()}
    results = {}
    if metrics:
        tokenizer = _cut if meteor is None else official.ptb_tokenize
        words = official.tokenize_pairs(predictions, references, tokenizer)
    for name in metrics:
        results[name] = _result(name, *words, meteor)
    for name, function in functions.items():
        if name in results:
            raise OptionError(f"the extra metric {name!r} has a built-in one's name: rename it")
        given = function(predictions, references, samples)
        results[name] = _extra_result(name, given, (extra or {})[name], len(predictions))
    return results


def check_metric_names(metrics: Sequence[str]) -> None:
    """Refuse a metric that is neither built in nor "module:function"."""
    for name in metrics:
        if ":" not in name and name not in METRICS:
            raise UnknownNameError.among("metric", name, METRICS)


def _cut(texts: Texts) -> list[list[str]]:
    return [tokenize(text) for text in texts]


def _result(name: str, said: Texts, due: Groups, meteor: Meteor | None) -> MetricResult:
    """One metric over words: the official program's where there is one, else ours; on the same words both are equal."""
    resample: Resample | None = None
    if name in BLEU:
        order, counts = BLEU.index(name), caption.bleu_statistics(said, due, tokenizer=str.split)
        resample = lambda often: caption.bleu_of(often @ counts)[:, order]  # noqa: E731
        of_set = caption.bleu_of(counts.sum(axis=0, keepdims=True))[0]
        samples = caption.bleu_of(counts)
        if meteor is not None:
            of_set, samples = official_score("bleu", said, due)
        corpus, scores = of_set[order], samples[:, order]
    elif name == "meteor" and meteor is not None:
        pooled = meteor.statistics(said, due)
        corpus, scores = meteor.evaluate(pooled)
        resample = lambda often: meteor.evaluate(often @ pooled)[1]  # noqa: E731
    elif name == "spice":
        corpus, scores = official.official_spice(said, due)
    elif meteor is not None and name != "stem_f":  # nothing official about stem-F but the words
        corpus, scores = official_score(name, said, due)
    else:
        ours = {"rouge_l": rouge_l, "cider": cider, "stem_f": stem_f}
        corpus, scores = ours[name](said, due, tokenizer=str.split)
    made = _made(name, java=meteor is not None)
    return MetricResult(name, float(corpus), tuple(scores.tolist()), made, resample)


def _made(name: str, *, java: bool) -> str:
    if not java:
        return f"patchioner; patchioner {__version__}; tokenizer: patchioner"
    library = "patchioner" if name == "stem_f" else "pycocoevalcap"
    used = __version__ if library == "patchioner" else version(library)
    program = {"meteor": "meteor 1.5, ", "spice": "spice 1.0, "}.get(name, "")
    programs = f"{library} {used}, {program}java {find_java().version}"
    return f"{library}; {programs}; tokenizer: Stanford PTB 3.4.1"


def _extra_result(name: str, given: Any, where: str, count: int) -> MetricResult:
    """What a metric of the user's own gave, checked and not scaled."""
    try:
        scores = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        told = f"metric {name!r} gave {str(given)[:80]}"
        raise OptionError(f"{told}: give a number per prediction ({error})") from error
    if scores.shape != (count,):
        told = f"metric {name!r} gave scores of shape {scores.shape} for {count} predictions"
        raise OptionError(f"{told}: give one each")
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise OptionError(f"metric {name!r}: sample {index} is {scores[index]}, not finite")
    made = f"{where}; tokenizer: none"
    return MetricResult(name, float(scores.mean()), tuple(scores.tolist()), made)


def _resolve(name: str, metric: str) -> Callable[..., Any]:
    module, _, attribute = metric.partition(":")
    if not module or not attribute:
        raise OptionError(f"metric {name!r} is {metric!r}: give 'module:function'")
    try:
        function: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        told = f"metric {name!r}: {metric!r} cannot be imported ({error})"
        raise OptionError(f"{told}: check its spelling and the PYTHONPATH") from error
    if not callable(function):
        raise OptionError(f"metric {name!r}: {metric!r} is {function!r:.40}, not a function")
    return function  # type: ignore[no-any-return]
