"""From regions to questions and back: what every describer with a model of other people has in common.

Knows: regions, prompts, views, the cache. Does NOT know: who answers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image

from patchioner.base.errors import DetailError, OptionError
from patchioner.detail.clients.answers import Answer, Question, mask_digest
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.retry import Sleeper
from patchioner.detail.describe.prompts import DETAIL, MARKED, Prompt, prompt_named
from patchioner.detail.describe.views import View
from patchioner.detail.stages import Photo
from patchioner.detail.values import DetailRegion, Statement

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class VisionSettings:
    """How a vision-language model is asked.

    The defaults of numbers of samples and temperatures are those of Patch Matters: three of every part at 0.7, one of
    the whole at 0.2, 512 tokens each.

    Attributes:
        samples, temperature: of every region but the global one.
        global_samples, global_temperature: of the global one.
        top_p: share of the probability that is sampled from; 1 for all.
        max_tokens: longest answer.
        view: how a region is shown.
        prompt: id of the instruction; None: "marked" for a marked region, "detail" otherwise.

    Raises:
        OptionError: a number outside its range. UnknownNameError: an unknown prompt.

    Example:
        >>> VisionSettings(samples=1, view=View("context")).max_tokens
        512
    """

    samples: int = 3
    temperature: float = 0.7
    global_samples: int = 1
    global_temperature: float = 0.2
    top_p: float = 1.0
    max_tokens: int = 512
    view: View = field(default_factory=View)
    prompt: str | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "global_samples", "max_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} is {value!r}; it must be a whole number, at least 1")
        for name in ("temperature", "global_temperature"):
            if not 0 <= getattr(self, name) <= 10:
                raise OptionError(f"{name} is {getattr(self, name)!r}; it must be between 0 and 10")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p is {self.top_p!r}; it must be over 0 and at most 1")
        if self.prompt is not None:
            prompt_named(self.prompt)

    def as_json(self) -> dict[str, object]:
        """Names and numbers."""
        values = {name: value for name, value in vars(self).items() if name != "view"}
        return {**values, "view": self.view.as_json()}

    def prompt_of(self, region: DetailRegion) -> Prompt:
        """What is asked about a region."""
        if self.prompt is not None:
            return prompt_named(self.prompt)
        return MARKED if self.view.kind == "marked" and region.kind != "global" else DETAIL


@dataclass(frozen=True, eq=False)
class Row:
    """One text that is wanted.

    Attributes:
        photo, region: of what.
        sample: which of the texts about the region.
        temperature: of its sampling.
        question: its identity.
    """

    photo: Photo
    region: DetailRegion
    sample: int
    temperature: float
    question: Question


def rows_of(
    photo: Photo,
    regions: Sequence[DetailRegion],
    settings: VisionSettings,
    *,
    model: str,
    seed: int,
    extra: Mapping[str, object] | None = None,
) -> list[Row]:
    """One row per region and sample, ordered by region, then sample.

    Regions are told apart by what is seen of them, not by their ids: two that show the same are one question.

    Args:
        photo, regions, settings: what to describe, and how.
        model: id for the question.
        seed: of the run.
        extra: more that the answers depend on, such as the precision of the weights.
    """
    rows = []
    for region in regions:
        whole = region.kind == "global"
        temperature = settings.global_temperature if whole else settings.temperature
        prompt = settings.prompt_of(region)
        sampling = {
            "temperature": float(temperature),
            "top_p": float(settings.top_p),
            "max_tokens": settings.max_tokens,
            **(extra or {}),
        }
        for sample in range(settings.global_samples if whole else settings.samples):
            question = Question(
                "describe",
                model,
                prompt.text,
                prompt=prompt.label,
                sampling=sampling,
                seed=seed,
                sample=sample,
                photo=photo.sha256,
                box=region.box,
                mask=mask_digest(region.mask),
                view={**settings.view.as_json(), "whole": whole},
            )
            rows.append(Row(photo, region, sample, temperature, question))
    return rows


def picture_of(row: Row, settings: VisionSettings) -> Image.Image:
    """What is shown for a row."""
    return settings.view.of(row.photo.image, row.region)


class Answers:
    """The answers to rows: those in the cache, and those that come in. One object per call of a describer.

    Args:
        rows: all that are wanted.
        cache: where answers are kept; None keeps nothing.
    """

    def __init__(self, rows: Sequence[Row], cache: CallCache | None) -> None:
        self.rows, self._cache = list(rows), cache
        self._known: dict[str, Answer] = {}
        self._failed: dict[str, DetailError] = {}
        distinct = {row.question.key: row for row in rows}
        if cache is not None:
            found = {key: cache.get(row.question) for key, row in distinct.items()}
            self._known = {key: answer for key, answer in found.items() if answer is not None}
        self.missing = [row for key, row in distinct.items() if key not in self._known]
        """Rows to ask, each question once."""

    @contextmanager
    def in_turn(self, rows: Sequence[Row], *, pause: Sleeper) -> Iterator[list[Row]]:
        """The rows that still need asking, while no other thread, and no process with the same cache, asks them.

        Args:
            rows: of `missing`.
            pause: see `CallCache.in_turn`.
        """
        if self._cache is None:
            yield list(rows)
            return
        with self._cache.in_turn([row.question for row in rows], pause=pause) as since:
            self._known.update(since)
            yield [row for row in rows if row.question.key not in since]

    def add(self, row: Row, answer: Answer) -> None:
        """Take an answer in, and keep it. Threads may call this for different rows."""
        if self._cache is not None:
            self._cache.put(row.question, answer)
        self._known[row.question.key] = answer

    def fail(self, row: Row, error: DetailError) -> None:
        """Take in that there will be none."""
        self._failed[row.question.key] = error

    def statements(self, rows: Sequence[Row] | None = None) -> list[Statement]:
        """One for every row that has an answer, in their order. Single failures are logged.

        Raises:
            DetailError: a region all of whose rows failed.
        """
        given: list[Statement] = []
        lost: dict[str, list[Row]] = {}
        for row in self.rows if rows is None else rows:
            answer = self._known.get(row.question.key)
            if answer is None:
                lost.setdefault(row.region.id, []).append(row)
            else:
                given.append(Statement(row.region.id, row.sample, answer.text, answer.log_prob))
        described = {statement.region_id for statement in given}
        for region_id, failed in lost.items():
            reason = self._failed.get(failed[0].question.key)
            name = failed[0].photo.name
            if region_id not in described:
                raise DetailError(f"{name}, region {region_id!r}: no description; {reason}")
            _LOG.warning(
                "%s, region %r: %d samples failed; %s", name, region_id, len(failed), reason
            )
        return given
