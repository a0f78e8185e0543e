"""How metrics and figures are written for people.

Knows: names and formats. Does NOT know: where figures come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.report.differences import Change
from benchmarks.runner.results import SHOWN

NAMES = {
    "cider": "CIDEr", "meteor": "METEOR", "stem_f": "stem-F", "rouge_l": "ROUGE-L", "spice": "SPICE",
    "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4",
    "grounding_margin": "grounding margin", "grounding_wins": "grounding wins, %",
    "repeated_pairs": "repeated pairs, % (lower is better)", "unique_captions": "unique captions, %",
    "object_hits": "objects named, %", "object_hits_but_person": "objects named but people, %",
    "object_margin": "object margin, %", "object_wins": "object wins, %",
    "cider_one_reference": "CIDEr, one reference each", "rouge_l_one_reference": "ROUGE-L, one reference each",
    "bleu4_one_reference": "BLEU-4, one reference each",
    "clip_s": "CLIP-S", "ref_clip_s": "RefCLIP-S", "pac_s": "PAC-S", "ref_pac_s": "RefPAC-S",
    "clip_text_cosine": "best text cosine (CLIP)", "pac_text_cosine": "best text cosine (PAC), the tables' P",
}  # fmt: skip
_HIDDEN = ("bleu2", "bleu3", "detmap", "bleu4_one_reference", "rouge_l_one_reference")
_SIGNS = {"better": "\u25b2", "worse": "\u25bc", "within noise": "\u2248", "not judged": "\u2013"}


def metric_name(metric: str) -> str:
    """A metric as it is written in tables; one that is not known stays as it is.

    Example:
        >>> metric_name("rouge_l"), metric_name("my_own")
        ('ROUGE-L', 'my_own')
    """
    return NAMES.get(metric, metric)


def in_order(metrics: Iterable[str]) -> list[str]:
    """Metrics in the order of the terminal's table, without those that say little.

    Example:
        >>> in_order(["bleu2", "rouge_l", "cider"])
        ['cider', 'rouge_l']
    """
    there = list(dict.fromkeys(metrics))
    first = [name for name in SHOWN if name in there]
    return first + [name for name in there if name not in SHOWN and name not in _HIDDEN]


def number(value: float) -> str:
    """A score with one digit; never -0.0.

    Example:
        >>> number(-0.01), number(113.757)
        ('0.0', '113.8')
    """
    return f"{value:z.1f}"


def with_interval(score: Mapping[str, Any] | None) -> str:
    """A score of results.json with its interval, where it has one.

    Example:
        >>> with_interval({"value": 5.0, "interval": {"low": 4.0, "high": 6.04}})
        '5.0 (4.0 to 6.0)'
    """
    if score is None:
        return ""
    return figure(score["value"], *bounds_of(score["interval"]))


def figure(value: float, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """A value, with its bounds if it has them.

    Example:
        >>> figure(1.0, 0.5, 2.0, signed=True)
        '+1.0 (0.5 to 2.0)'
    """
    text = f"{value:+z.1f}" if signed else number(value)
    return text if low is None or high is None else f"{text} ({number(low)} to {number(high)})"


def bounds_of(interval: Mapping[str, Any] | None) -> tuple[float | None, float | None]:
    """(low, high) of an interval of results.json."""
    return (None, None) if interval is None else (interval["low"], interval["high"])


def verdict(change: Change) -> str:
    """What a change amounts to, with a sign that does not need colour.

    Example:
        >>> verdict(Change("cider", 2.0, 1.0, 3.0, "paired", 9, True))
        '▲ better'
    """
    return f"{_SIGNS[change.verdict]} {change.verdict}"
