"""All caption metrics over one set of captions, from one tokenisation, each result saying how it was made.

Knows: the names of the metrics, which of them need Java, and how a metric of the user's own is called and checked.
Does NOT know: how any of them computes its score, or where captions come from.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics import official
from benchmarks.metrics.bleu import bleu, bleu_of, bleu_statistics
from benchmarks.metrics.cider import cider
from benchmarks.metrics.java import JavaError, find_java, java_version
from benchmarks.metrics.meteor import Meteor
from benchmarks.metrics.ngrams import check_pairs
from benchmarks.metrics.results import MetricResult, Provenance, Resample
from benchmarks.metrics.rouge import rouge_l
from benchmarks.metrics.spice import official_spice
from benchmarks.metrics.stem_f import stem_f
from benchmarks.metrics.tokenize import tokenize
from patchioner.base.errors import MissingExtraError, OptionError, UnknownNameError
from patchioner.base.optional import require

UseJava = Literal["auto", "yes", "no"]
Texts = Sequence[str]
Groups = Sequence[Sequence[str]]
Floats = NDArray[np.float64]

ExtraMetric = Callable[[Texts, Groups, Sequence[Any]], "ArrayLike | Mapping[str, Any]"]
"""(n predictions, n lists of references, n samples) -> n scores, or {"samples": n scores, "corpus": one number}."""

BLEU: Final = ("bleu1", "bleu2", "bleu3", "bleu4")
NEED_JAVA: Final = ("meteor", "spice")
METRICS: Final = (*BLEU, "rouge_l", "cider", "stem_f", *NEED_JAVA)
"""Every built-in metric."""

DEFAULT: Final = (*BLEU, "rouge_l", "cider")


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
            starts Java; "auto" is "yes" where Java and pycocoevalcap are there, else "no". Which it was is in each
            result's `made`.
        extra: metrics of your own, name -> function or "module:function"; see `ExtraMetric`.
        samples: what `extra` metrics get as their third argument, n objects; None gives n times None.
        meteor: a running METEOR to use and leave running.

    Returns:
        name -> result, in the order asked for, extra ones last. All times 100 but those of `extra`.

    Raises:
        UnknownNameError: a metric of another name.
        OptionError: the lists cannot be paired, METEOR or SPICE without Java, SPICE without its parser, an extra metric
            that gives something else than n finite scores.
        MissingExtraError: java="yes" without pycocoevalcap.

    Example:
        >>> results = score_captions(["a dog", "a cat"], [["a dog"], ["a bus"]], ["cider"], java="no")
        >>> results["cider"].samples[1]
        0.0
    """
    check_pairs(predictions, references)
    with_java = _use_java(java)
    names = _chosen(metrics, with_java)
    others = {name: _resolve(name, metric) for name, metric in (extra or {}).items()}
    for name in others:
        if name in names:
            raise OptionError(
                f"the extra metric {name!r} has the name of a built-in one: rename it"
            )
    build = _Official if with_java else _JavaFree
    scorer = build(predictions, references, meteor) if names else None
    results = {name: scorer.result(name) for name in names} if scorer is not None else {}
    rows = [None] * len(predictions) if samples is None else samples
    for name, metric in others.items():
        results[name] = extra_result(name, metric, predictions, references, rows)
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
                f"{name!r} needs Java and pycocoevalcap (pip install 'patchioner[metrics]' and a Java runtime, java="
                "'auto' or 'yes'); without them, 'stem_f' is the nearest to METEOR"
            )
    return tuple(dict.fromkeys(metrics))


class _JavaFree:
    """Our own metrics over our own words, tokenised once."""

    def __init__(self, predictions: Texts, references: Groups, meteor: Meteor | None) -> None:
        self.said = [" ".join(tokenize(text)) for text in predictions]
        self.due = [[" ".join(tokenize(text)) for text in group] for group in references]
        self.made = Provenance(
            "patchioner", (("patchioner", _version("patchioner")),), "patchioner"
        )
        self._bleu: tuple[Floats, Floats] | None = None
        self._counts: Floats | None = None
        self._meteor = meteor

    def result(self, name: str) -> MetricResult:
        """Score by one metric."""
        if name in BLEU:
            return self._order(BLEU.index(name))
        corpus, scores = self.score(name)
        return MetricResult(
            name, float(corpus), tuple(scores.tolist()), self.provenance(name), self.resample(name)
        )

    def resample(self, name: str) -> Resample | None:
        """See `MetricResult`."""
        return None

    def score(self, name: str) -> tuple[float, Floats]:
        """Value of the set and of the samples."""
        function = {"rouge_l": rouge_l, "cider": cider, "stem_f": stem_f}[name]
        return function(self.said, self.due, tokenizer=str.split)

    def bleu(self) -> tuple[Floats, Floats]:
        """All four orders at once."""
        return bleu(self.said, self.due, tokenizer=str.split)

    def provenance(self, name: str) -> Provenance:
        """How the metric of this name is made here."""
        return self.made

    def _order(self, index: int) -> MetricResult:
        if self._bleu is None:
            self._bleu = self.bleu()
        corpus, scores = self._bleu
        name = BLEU[index]
        rows = tuple(scores[:, index].tolist())
        if self._counts is None:  # ours equal the official ones on the same words
            self._counts = bleu_statistics(self.said, self.due, tokenizer=str.split)
        counts = self._counts
        return MetricResult(
            name, float(corpus[index]), rows, self.provenance(name),
            lambda often: bleu_of(often @ counts)[:, index],
        )  # fmt: skip


class _Official(_JavaFree):
    """The official scorers over the Stanford tokenizer's words, tokenised once."""

    def __init__(self, predictions: Texts, references: Groups, meteor: Meteor | None) -> None:
        self.said, self.due = official.ptb_pairs(predictions, references)
        self.raw = (predictions, references)
        self.java = ("java", java_version() or "unknown")
        self._bleu = None
        self._counts = None
        self._meteor = meteor

    def score(self, name: str) -> tuple[float, Floats]:
        if name == "stem_f":  # nothing official about it but the words
            return super().score(name)
        if name == "spice":
            return official_spice(self.said, self.due)
        if name == "meteor" and self._meteor is not None:
            self._pooled = self._meteor.statistics(self.said, self.due)
            return self._meteor.evaluate(self._pooled)
        if name == "meteor":
            return official.official_meteor(self.said, self.due, tokenized=True)
        function = {"rouge_l": official.official_rouge_l, "cider": official.official_cider}[name]
        return function(self.said, self.due, tokenized=True)

    def resample(self, name: str) -> Resample | None:
        meteor = self._meteor
        if name != "meteor" or meteor is None:
            return None
        counts = self._pooled
        return lambda often: meteor.evaluate(often @ counts)[1]

    def bleu(self) -> tuple[Floats, Floats]:
        return official.official_bleu(self.said, self.due, tokenized=True)

    def provenance(self, name: str) -> Provenance:
        ours = name == "stem_f"
        library = "patchioner" if ours else "pycocoevalcap"
        program = {"meteor": (("meteor", "1.5"),), "spice": (("spice", "1.0"),)}.get(name, ())
        versions = ((library, _version(library)), *program, self.java)
        return Provenance(library, versions, "Stanford PTB 3.4.1")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from the checkout"


def extra_result(
    name: str,
    metric: ExtraMetric | str,
    predictions: Texts,
    references: Groups,
    samples: Sequence[Any],
) -> MetricResult:
    """Run a metric of the user's own and check what it gives; see `ExtraMetric`.

    Without a corpus value of its own the result's is the mean of the samples. Nothing is scaled.

    Raises:
        OptionError: not n finite scores, another number of samples than of predictions, or a "module:function" that
            cannot be imported.

    Example:
        >>> extra_result("words", lambda said, due, rows: [len(s.split()) for s in said], ["a dog"], [["b"]], [None])
        MetricResult(name='words', corpus=2.0, samples=(2.0,))
    """
    function = _resolve(name, metric)
    if len(samples) != len(predictions):
        raise OptionError(
            f"{len(samples)} samples for {len(predictions)} predictions: give one per prediction"
        )
    given = function(predictions, references, samples)
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
    if scores.shape != (len(predictions),):
        raise OptionError(
            f"metric {name!r} gave scores of shape {scores.shape} for {len(predictions)} predictions: give one each"
        )
    source = metric if isinstance(metric, str) else _name_of(function)
    note = "corpus score by the metric itself" if corpus is not None else ""
    return MetricResult(name, value, tuple(scores.tolist()), Provenance(source, note=note))


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


TEXT_MEASURES: Final = ("METEOR", "stem-F", "ROUGE-L")
"""Measures of text for dense captioning, by the name that the mAP gets."""


@contextmanager
def text_measure(
    name: str, *, meteor: Meteor | None = None
) -> Iterator[Callable[[Texts, Groups], Floats]]:
    """Open the text measure of a dense mAP: (captions, lists of references) -> scores within 0..1.

    "METEOR" is the published one: the official program on untokenised captions; "stem-F" and "ROUGE-L" need no Java.

    Raises:
        UnknownNameError: another name.
        OptionError, MissingExtraError: "METEOR" without Java or pycocoevalcap.

    Example:
        >>> with text_measure("ROUGE-L") as measure:
        ...     measure(["a dog"], [["a dog"]]).tolist()
        [1.0]
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
