"""All caption metrics over one set of captions, from one tokenisation, each result saying how it was made."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics import official
from benchmarks.metrics.caption import bleu, bleu_of, bleu_statistics, cider, rouge_l, stem_f
from benchmarks.metrics.java import JavaError, Meteor, find_java, java_version
from benchmarks.metrics.words import check_pairs, tokenize
from patchioner import __version__
from patchioner.base.errors import MissingExtraError, OptionError, UnknownNameError
from patchioner.base.optional import require

UseJava = Literal["auto", "yes", "no"]
Texts = Sequence[str]
Groups = Sequence[Sequence[str]]
Floats = NDArray[np.float64]

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
    """One metric over one set of captions.

    Attributes:
        name: "cider", "bleu4", ...
        corpus: the value of the whole set, x 100.
        samples: the n scores of the single samples. Their mean need not be `corpus`: BLEU and METEOR pool their counts.
        made: how it was made.
        resample: of a metric that pools its counts, its values for other mixtures of the samples; None where the value
            is the mean of the samples, or there is no way. That of METEOR works while its program runs.

    Raises:
        OptionError: a number is not finite.
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
    predictions: Texts,
    references: Groups,
    metrics: Sequence[str] | None = None,
    *,
    java: UseJava = "auto",
    extra: Mapping[str, ExtraMetric | str] | None = None,
    samples: Sequence[Any] | None = None,
    meteor: Meteor | None = None,
) -> dict[str, MetricResult]:
    """Score captions by several metrics.

    Args:
        predictions: n captions.
        references: n lists of at least one reference each.
        metrics: names from `METRICS`. None: BLEU, ROUGE-L, CIDEr, and METEOR where Java is used.
        java: "yes" uses the official programs (Stanford tokenizer, pycocoevalcap) for everything they have; "no" never
            starts Java; "auto" is "yes" where Java and pycocoevalcap are there, else "no".
        extra: metrics of your own, name -> function or "module:function"; see `ExtraMetric`.
        samples: what `extra` metrics get as their third argument, n objects; None gives n times None.
        meteor: a running METEOR to use and leave running.

    Returns:
        name -> result, in the order asked for, extra ones last. All x 100 but those of `extra`.

    Raises:
        UnknownNameError: a metric of another name.
        OptionError: the lists cannot be paired, METEOR or SPICE without Java, SPICE without its parser, an extra metric
            that gives something else than n finite scores.
        MissingExtraError: java="yes" without pycocoevalcap.
    """
    check_pairs(predictions, references)
    with_java = _use_java(java)
    names = _chosen(metrics, with_java)
    others = {name: _resolve(name, metric) for name, metric in (extra or {}).items()}
    for name in others:
        if name in names:
            raise OptionError(f"the extra metric {name!r} has a built-in one's name: rename it")
    scorer = _Scorer(predictions, references, meteor, with_java)
    results = {name: scorer.result(name) for name in names}
    rows = [None] * len(predictions) if samples is None else samples
    for name, metric in others.items():
        source = (extra or {})[name]
        where = source if isinstance(source, str) else _name_of(metric)
        results[name] = _extra_result(name, metric, where, predictions, references, rows)
    return results


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


class _Scorer:
    """Metrics over one tokenisation: the official programs on the Stanford tokenizer's words, or ours on our own."""

    def __init__(
        self, predictions: Texts, references: Groups, meteor: Meteor | None, with_java: bool
    ) -> None:
        self._raw, self._meteor, self._java = (predictions, references), meteor, with_java

    @cached_property
    def _words(self) -> tuple[list[str], list[list[str]]]:
        said, due = self._raw
        if self._java:
            return official.ptb_pairs(said, due)
        return [" ".join(tokenize(text)) for text in said], [
            [" ".join(tokenize(text)) for text in group] for group in due
        ]

    @cached_property
    def _bleu(self) -> tuple[Floats, Floats]:
        if self._java:
            return official.official_bleu(*self._words, tokenized=True)
        return bleu(*self._words, tokenizer=str.split)

    @cached_property
    def _bleu_counts(self) -> Floats:
        # Ours equal the official ones on the same words.
        return bleu_statistics(*self._words, tokenizer=str.split)

    def result(self, name: str) -> MetricResult:
        """Score by one metric."""
        resample: Resample | None = None
        if name in BLEU:
            order, counts = BLEU.index(name), self._bleu_counts
            corpus, scores = float(self._bleu[0][order]), self._bleu[1][:, order]
            resample = lambda often: bleu_of(often @ counts)[:, order]  # noqa: E731
        elif name == "meteor" and self._meteor is not None:
            meteor, pooled = self._meteor, self._meteor.statistics(*self._words)
            corpus, scores = meteor.evaluate(pooled)
            resample = lambda often: meteor.evaluate(often @ pooled)[1]  # noqa: E731
        else:
            corpus, scores = self._plain(name)
        return MetricResult(name, float(corpus), tuple(scores.tolist()), self._made(name), resample)

    def _plain(self, name: str) -> tuple[float, Floats]:
        if name == "spice":
            return official.official_spice(*self._words)
        if name == "meteor":
            return official.official_meteor(*self._words, tokenized=True)
        if self._java and name != "stem_f":  # nothing official about stem-F but the words
            programs = {"rouge_l": official.official_rouge_l, "cider": official.official_cider}
            return programs[name](*self._words, tokenized=True)
        ours = {"rouge_l": rouge_l, "cider": cider, "stem_f": stem_f}
        return ours[name](*self._words, tokenizer=str.split)

    def _made(self, name: str) -> Provenance:
        if not self._java:
            return Provenance("patchioner", (("patchioner", __version__),), "patchioner")
        library = "patchioner" if name == "stem_f" else "pycocoevalcap"
        program = {"meteor": (("meteor", "1.5"),), "spice": (("spice", "1.0"),)}.get(name, ())
        java = ("java", java_version() or "unknown")
        used = __version__ if library == "patchioner" else version(library)
        versions = ((library, used), *program, java)
        return Provenance(library, versions, "Stanford PTB 3.4.1")


def _extra_result(
    name: str, metric: ExtraMetric, where: str, said: Texts, due: Groups, samples: Sequence[Any]
) -> MetricResult:
    """Run a metric of the user's own and check what it gives; nothing is scaled."""
    if len(samples) != len(said):
        raise OptionError(
            f"{len(samples)} samples for {len(said)} predictions: give one per prediction"
        )
    given = metric(said, due, samples)
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
    if scores.shape != (len(said),):
        raise OptionError(
            f"metric {name!r} gave scores of shape {scores.shape} for {len(said)} predictions: give one each"
        )
    note = "corpus score by the metric itself" if corpus is not None else ""
    return MetricResult(name, value, tuple(scores.tolist()), Provenance(where, note=note))


def _name_of(function: ExtraMetric) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}:{getattr(function, '__qualname__', type(function).__name__)}"


def _resolve(name: str, metric: ExtraMetric | str) -> ExtraMetric:
    if callable(metric):
        return metric
    module, colon, attribute = str(metric).partition(":")
    if not isinstance(metric, str) or not colon or not module or not attribute:
        raise OptionError(f"metric {name!r} is {metric!r}: give a function, or 'module:function'")
    try:
        function: ExtraMetric = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"metric {name!r}: {metric!r} cannot be imported ({error}): check its spelling and the PYTHONPATH"
        ) from error
    if not callable(function):
        raise OptionError(
            f"metric {name!r}: {metric!r} is {type(function).__name__}, not a function"
        )
    return function


@contextmanager
def text_measure(
    name: str, *, meteor: Meteor | None = None
) -> Iterator[Callable[[Texts, Groups], Floats]]:
    """Open the text measure of a dense mAP: (captions, lists of references) -> scores within 0..1.

    "METEOR" is the published one: the official program on untokenised captions; "stem-F" and "ROUGE-L" need no Java.

    Raises:
        UnknownNameError: another name.
        OptionError, MissingExtraError: "METEOR" without Java or pycocoevalcap.
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
