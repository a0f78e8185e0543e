"""All caption metrics over one set of captions, from one tokenisation, each result saying how it was made."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics import official
from benchmarks.metrics.caption import (
    Floats,
    Groups,
    Texts,
    bleu_of,
    bleu_statistics,
    check_pairs,
    cider,
    rouge_l,
    stem_f,
    tokenize,
)  # fmt: skip
from benchmarks.metrics.official import JavaError, Meteor, find_java, java_version
from patchioner import __version__
from patchioner.base.errors import MissingExtraError, OptionError, UnknownNameError
from patchioner.base.optional import require

ExtraMetric = Callable[[Texts, Groups, Sequence[Any]], "ArrayLike | Mapping[str, Any]"]
"""(n predictions, n lists of references, n samples) -> n scores, or {"samples": n scores, "corpus": one number}."""

Resample = Callable[[NDArray[np.int64]], Floats]
"""How often each of n samples counts, (rounds, n) -> the value of each such set, (rounds,)."""

BLEU: Final = ("bleu1", "bleu2", "bleu3", "bleu4")
NEED_JAVA: Final = ("meteor", "spice")
METRICS: Final = (*BLEU, "rouge_l", "cider", "stem_f", *NEED_JAVA)
"""Every built-in metric."""

DEFAULT: Final = (*BLEU, "rouge_l", "cider")
TEXT_MEASURES: Final = ("METEOR", "stem-F", "ROUGE-L")
"""Measures of text for dense captioning, by the name that the mAP gets."""


@dataclass(frozen=True)
class Provenance:
    """How a score was made, so that a report can say so.

    Attributes:
        library: "pycocoevalcap", "patchioner" (the Java-free metrics), or "module:function" of a metric of one's own.
        versions: (what, version) pairs of everything that takes part in the number.
        tokenizer: what cut the captions into words; "none" where the metric takes whole captions.
        note: a setting or quirk that a reader of the figure should know; may be empty.
    """

    library: str
    versions: tuple[tuple[str, str], ...] = ()
    tokenizer: str = "none"
    note: str = ""

    @property
    def java(self) -> bool:
        """Whether a Java program took part."""
        return any(name == "java" for name, _ in self.versions)

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions)
        parts = [self.library, versions, f"tokenizer: {self.tokenizer}", self.note]
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class MetricResult:
    """One metric over one set of captions; OptionError for a number that is not finite.

    Attributes:
        name: "cider", "bleu4", ...
        corpus: the value of the whole set, x 100.
        samples: the n scores of the single samples. Their mean need not be `corpus`: BLEU and METEOR pool their counts.
        made: how it was made.
        resample: of a metric that pools its counts, its values for other mixtures of the samples; None where the value
            is the mean of the samples, or there is no way. That of METEOR works while its program runs.
    """

    name: str
    corpus: float
    samples: tuple[float, ...]
    made: Provenance = field(repr=False)
    resample: Resample | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for index, score in enumerate(self.samples):
            if not math.isfinite(score):
                raise OptionError(f"{self.name}: sample {index} is {score}, not finite")
        if not math.isfinite(self.corpus):
            raise OptionError(f"{self.name}: the corpus score is {self.corpus}, not finite")


def score_captions(
    predictions: Texts, references: Groups, metrics: Sequence[str] | None = None, *, java: str = "auto",
    extra: Mapping[str, ExtraMetric | str] | None = None, samples: Sequence[Any] | None = None,
    meteor: Meteor | None = None,
) -> dict[str, MetricResult]:  # fmt: skip
    """Score n captions, each against a list of at least one reference, by several metrics.

    Args:
        predictions, references: n captions, n lists.
        metrics: names from `METRICS`. None: BLEU, ROUGE-L, CIDEr, and METEOR where Java is used.
        java: "yes" uses the official programs (Stanford tokenizer, pycocoevalcap) for everything they have; "no" never
            starts Java; "auto" is "yes" where Java and pycocoevalcap are there, else "no".
        extra: metrics of your own, name -> function or "module:function"; see `ExtraMetric`.
        samples: what `extra` metrics get as their third argument, n objects; None gives n times None.
        meteor: a running METEOR to use and leave running.

    Returns:
        name -> result, in the order asked for, extra ones last. All x 100 but those of `extra`.

    UnknownNameError, OptionError, MissingExtraError: a metric that is not there or needs what is not there, lists that
    do not pair, an extra metric that gives something else than n finite scores.
    """
    check_pairs(predictions, references)
    with_java = _use_java(java)
    names = _chosen(metrics, with_java)
    others = {name: _resolve(name, metric) for name, metric in (extra or {}).items()}
    for name in others:
        if name in names:
            raise OptionError(f"the extra metric {name!r} has a built-in one's name: rename it")
    rows = [None] * len(predictions) if samples is None else samples
    if others and len(rows) != len(predictions):
        raise OptionError(f"{len(rows)} samples for {len(predictions)} predictions: give one each")
    results = {}
    if names and with_java:
        words = official.ptb_pairs(predictions, references)
    elif names:
        words = _cut(predictions), [_cut(group) for group in references]
    for name in names:
        results[name] = _result(name, *words, with_java, meteor)
    for name, metric in others.items():
        given = metric(predictions, references, rows)
        source = (extra or {})[name]
        where = source if isinstance(source, str) else f"{metric.__module__}:{metric.__qualname__}"
        results[name] = _extra_result(name, given, where, len(predictions))
    return results


def _cut(texts: Texts) -> list[str]:
    return [" ".join(tokenize(text)) for text in texts]


def _use_java(java: str) -> bool:
    if java not in ("auto", "yes", "no"):
        raise OptionError(f"java={java!r}: choose 'auto', 'yes' or 'no'")
    if java == "no":
        return False
    try:
        find_java()
        require("pycocoevalcap", "metrics")
    except (JavaError, MissingExtraError):
        if java == "yes":
            raise
        return False
    return True


def _chosen(metrics: Sequence[str] | None, with_java: bool) -> tuple[str, ...]:
    if metrics is None:
        return (*DEFAULT, "meteor") if with_java else DEFAULT
    if isinstance(metrics, str):
        raise OptionError(f"metrics={metrics!r}: give a list of names, [{metrics!r}]")
    for name in metrics:
        if name not in METRICS:
            raise UnknownNameError.among("metric", name, METRICS)
        if name in NEED_JAVA and not with_java:
            raise OptionError(
                f"{name!r} needs Java and pycocoevalcap (the extra 'metrics', a Java runtime, java='auto' or 'yes');"
                " without them, 'stem_f' is the nearest to METEOR"
            )
    return tuple(dict.fromkeys(metrics))


def _result(
    name: str, said: list[str], due: list[list[str]], java: bool, meteor: Meteor | None
) -> MetricResult:
    """One metric over words: the official program's where `java`, else ours; on the same words both are equal."""
    resample: Resample | None = None
    if name in BLEU:
        order, counts = BLEU.index(name), bleu_statistics(said, due, tokenizer=str.split)
        resample = lambda often: bleu_of(often @ counts)[:, order]  # noqa: E731
        of_set, samples = bleu_of(counts.sum(axis=0, keepdims=True))[0], bleu_of(counts)
        if java:
            of_set, samples = official.official_bleu(said, due, tokenized=True)
        corpus, scores = float(of_set[order]), samples[:, order]
    elif name == "meteor" and meteor is not None:
        pooled = meteor.statistics(said, due)
        corpus, scores = meteor.evaluate(pooled)
        resample = lambda often: meteor.evaluate(often @ pooled)[1]  # noqa: E731
    elif name == "spice":
        corpus, scores = official.official_spice(said, due)
    elif java and name != "stem_f":  # nothing official about stem-F but the words
        programs: dict[str, Any] = {
            "rouge_l": official.official_rouge_l, "cider": official.official_cider, "meteor": official.official_meteor,
        }  # fmt: skip
        corpus, scores = programs[name](said, due, tokenized=True)
    else:
        ours = {"rouge_l": rouge_l, "cider": cider, "stem_f": stem_f}
        corpus, scores = ours[name](said, due, tokenizer=str.split)
    return MetricResult(name, float(corpus), tuple(scores.tolist()), _made(name, java), resample)


def _made(name: str, java: bool) -> Provenance:
    if not java:
        return Provenance("patchioner", (("patchioner", __version__),), "patchioner")
    library = "patchioner" if name == "stem_f" else "pycocoevalcap"
    program = {"meteor": (("meteor", "1.5"),), "spice": (("spice", "1.0"),)}.get(name, ())
    used = __version__ if library == "patchioner" else version(library)
    versions = ((library, used), *program, ("java", java_version() or "unknown"))
    return Provenance(library, versions, "Stanford PTB 3.4.1")


def _extra_result(name: str, given: Any, where: str, count: int) -> MetricResult:
    """What a metric of the user's own gave, checked and not scaled."""
    corpus = None
    if isinstance(given, Mapping):
        if "samples" not in given:
            raise OptionError(
                f"metric {name!r} gave a mapping with {sorted(map(str, given))}: give 'samples', and 'corpus' if any"
            )
        corpus, given = given.get("corpus"), given["samples"]
    try:
        scores = np.asarray(given, dtype=np.float64)
        value = float(scores.mean()) if corpus is None else float(corpus)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"metric {name!r} gave {str(given)[:80]}: give numbers ({error})"
        ) from error
    if scores.shape != (count,):
        raise OptionError(
            f"metric {name!r} gave scores of shape {scores.shape} for {count} predictions: give one each"
        )
    note = "corpus score by the metric itself" if corpus is not None else ""
    return MetricResult(name, value, tuple(scores.tolist()), Provenance(where, note=note))


def _resolve(name: str, metric: ExtraMetric | str) -> Any:
    if callable(metric):
        return metric
    module, _, attribute = str(metric).partition(":")
    if not isinstance(metric, str) or not module or not attribute:
        raise OptionError(f"metric {name!r} is {metric!r}: give a function, or 'module:function'")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"metric {name!r}: {metric!r} cannot be imported ({error}): check its spelling and the PYTHONPATH"
        ) from error
    if not callable(function):
        kind = type(function).__name__
        raise OptionError(f"metric {name!r}: {metric!r} is {kind}, not a function")
    return function


@contextmanager
def text_measure(
    name: str, *, meteor: Meteor | None = None
) -> Iterator[Callable[[Texts, Groups], Floats]]:
    """Open the text measure of a dense mAP: (captions, lists of references) -> scores within 0..1.

    "METEOR" is the published one: the official program on untokenised captions (it needs Java and pycocoevalcap);
    "stem-F" and "ROUGE-L" need no Java. UnknownNameError: another name.
    """
    if name not in TEXT_MEASURES:
        raise UnknownNameError.among("text measure", name, TEXT_MEASURES)
    if name == "METEOR":
        running = meteor if meteor is not None else Meteor()
        try:
            yield lambda said, due: running.score(said, due)[1] / 100.0
        finally:
            if meteor is None:
                running.close()
    else:
        function = stem_f if name == "stem-F" else rouge_l
        yield lambda said, due: function(said, due)[1] / 100.0
