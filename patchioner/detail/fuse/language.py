"""Fusion with a language model that may sort and word statements, and may not add to them.

Knows: the two questions, one retry each, and what is done when no answer can be used. Does NOT know: which model
answers (`patchioner.detail.stages.TextModel`).

The published system reads free text with regular expressions, never retries and never checks the result (CVPR 2025).
Here a model answers with numbers of statements; every sentence that it writes names its numbers and is checked against
their words, so that what it invents is dropped, whatever the statements try to make it say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from patchioner.base.errors import DetailError, FutileError, OptionError
from patchioner.detail.fuse.answers import Sorted, Written, read_sorted, read_written
from patchioner.detail.fuse.check import unsourced_words
from patchioner.detail.fuse.deterministic import DeterministicFuser, count_words
from patchioner.detail.fuse.drafting import drafts_of
from patchioner.detail.fuse.drafts import Draft, dropped
from patchioner.detail.fuse.introductions import introduced
from patchioner.detail.fuse.locations import place_of
from patchioner.detail.fuse.ordering import in_order
from patchioner.detail.fuse.prompts import REWRITE, SORT, Prompt, again, numbered
from patchioner.detail.fuse.sentences import finished
from patchioner.detail.fuse.settings import FuseSettings
from patchioner.detail.stages import Photo, TextModel
from patchioner.detail.text import word_set
from patchioner.detail.values import DetailRegion, FusedSentence, Verdict

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
# Without sides: which of them is right, the statements say.
_ALLOWED: Final = word_set("there is are also and in on at the a an with")


class LanguageFuser:
    """Verdicts -> sentences of a paragraph, by a language model under check. Fulfils `patchioner.detail.stages.Fuser`.

    Args:
        model: answers prompts.
        settings: length, and everything of the deterministic path that is taken where the model gives no usable answer.
        most: at most so many statements are shown; the deterministic path takes over beyond.
        temperature: of both questions.
        max_tokens: of an answer.
        seed: handed to the model.

    Raises:
        OptionError: `most` or `max_tokens` below 1, a negative temperature.

    Example:
        >>> fuser = LanguageFuser(text_model, FuseSettings(max_words=80))  # doctest: +SKIP
        >>> sentences, left_out = fuser.fuse(photo, regions, kept)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: TextModel,
        settings: FuseSettings | None = None,
        *,
        most: int = 60,
        temperature: float = 0.2,
        max_tokens: int = 2048,
        seed: int = 0,
    ) -> None:
        if most < 1 or max_tokens < 1 or temperature < 0:
            raise OptionError(
                f"most={most} and max_tokens={max_tokens} must be at least 1, temperature={temperature} at least 0"
            )
        self._model = model
        self._settings = FuseSettings() if settings is None else settings
        self._plain = DeterministicFuser(self._settings)
        self._most, self._temperature = most, temperature
        self._max_tokens, self._seed = max_tokens, seed

    @property
    def settings(self) -> dict[str, object]:
        """Names and numbers, ready for JSON; no secrets."""
        return {
            "fuser": "language",
            "model": self._model.settings,
            "prompts": [SORT.name, REWRITE.name],
            "most": self._most,
            "temperature": self._temperature,
            "max_tokens": self._max_tokens,
            "seed": self._seed,
            **self._settings.as_json(),
        }

    def fuse(
        self, photo: Photo, regions: Sequence[DetailRegion], kept: Sequence[Verdict]
    ) -> tuple[list[FusedSentence], list[Verdict]]:
        """The sentences in order, and verdicts on kept claims that it left out.

        As `DeterministicFuser.fuse`, and besides: "contradiction" (the model put them in conflict with others that more
        texts say), "no source" (it was told only in sentences that say what no statement says, or not at all).
        """
        usable = [verdict for verdict in kept if verdict.kept]
        drafts, left_out = drafts_of(regions, usable, photo.size)
        if not 2 <= len(drafts) <= self._most:
            return self._plain.fuse(photo, regions, kept)
        drafts = in_order(drafts, regions, photo.size)
        found = self._asked(
            SORT, _user(drafts, photo.size), lambda said: read_sorted(said, len(drafts))
        )
        if found is None:
            return self._plain.fuse(photo, regions, kept)
        grouped, conflicting = _grouped(drafts, found)
        left_out += conflicting
        user = f"At most {self._settings.max_words} words.\n{_user(grouped, photo.size)}"
        written = self._asked(REWRITE, user, lambda said: read_written(said, len(grouped)))
        sentences = [] if written is None else self._checked(written, grouped)
        if not sentences:
            names = {one.claim.id for draft in grouped for one in draft.members}
            rest = [verdict for verdict in usable if verdict.claim.id in names]
            plain, more = self._plain.fuse(photo, regions, rest)
            return plain, [*left_out, *more]
        return sentences, [*left_out, *_untold(grouped, sentences)]

    def _asked(self, prompt: Prompt, user: str, read: Callable[[str], _Answer]) -> _Answer | None:
        """What the model answers, as `read` understands it; asked a second time with the error; None in the end."""
        asked = user
        for _ in range(2):
            try:
                said = self._model.ask(
                    prompt.system, asked, temperature=self._temperature, max_tokens=self._max_tokens, seed=self._seed
                )  # fmt: skip
            except FutileError:  # nobody would answer the next photo either: not ours to cover up
                raise
            except DetailError as error:
                _log.warning("%s: no answer (%s); fusing without a model", prompt.name, error)
                return None
            try:
                return read(said)
            except DetailError as error:
                _log.info("%s: %s", prompt.name, error)
                asked = again(user, str(error))
        _log.warning("%s: no usable answer in two tries; fusing without a model", prompt.name)
        return None

    def _checked(self, written: Sequence[Written], drafts: Sequence[Draft]) -> list[FusedSentence]:
        """The sentences whose every word has a source, each once, as far as they fit."""
        found: list[FusedSentence] = []
        seen: set[str] = set()
        for one in written:
            sources = [drafts[number - 1] for number in one.ids]
            text = finished(one.text)
            told = [draft.text for draft in sources]
            words = unsourced_words(text, told, allowed=_ALLOWED)
            if words:
                _log.info("dropped %r: no statement says %s", text, ", ".join(words))
                continue
            # The sentence that introduced a thing may have been dropped.
            sentence = _with_sources(introduced(text, [one.text for one in found]), sources)
            fits = count_words([*found, sentence]) <= self._settings.max_words
            if fits and text.casefold() not in seen:
                seen.add(text.casefold())
                found.append(sentence)
        return found


def _user(drafts: Sequence[Draft], size: tuple[int, int]) -> str:
    return numbered([(draft.text, _part(draft.region, size)) for draft in drafts])


def _part(region: DetailRegion, size: tuple[int, int]) -> str:
    if region.kind == "global":
        return "whole photo"
    place = place_of(region.box, size) or "part of the photo"
    # A name comes from outside as statements do: letters alone, so that it cannot close the bracket.
    name = "".join(letter for letter in region.name or "" if letter.isalnum() or letter == " ")
    return f"{name[:40]}, {place}" if name.strip() else place


def _grouped(drafts: Sequence[Draft], found: Sorted) -> tuple[list[Draft], list[Verdict]]:
    """One draft per group, in the model's order, without those that lose a conflict."""
    lost: dict[int, int] = {}
    for conflict in found.conflicts:
        best = max(conflict, key=lambda number: (_standing(drafts[number - 1]), -number))
        lost.update({number: best for number in conflict if number != best})
    heads = {group[0]: [number for number in group if number not in lost] for group in found.groups}
    grouped: list[Draft] = []
    for head in found.order:
        members = heads[head]
        if members:
            draft = drafts[members[0] - 1]
            for number in members[1:]:
                draft = draft.fold(drafts[number - 1])
            grouped.append(draft)
    notes = [
        dropped(one, "contradiction", f'contradicts "{drafts[best - 1].text}"')
        for number, best in sorted(lost.items())
        for one in drafts[number - 1].members
    ]
    return grouped, notes


def _standing(draft: Draft) -> tuple[int, float]:
    support = draft.verdict.support
    return draft.voices, 0.0 if support is None else support.score


def _with_sources(text: str, sources: Sequence[Draft]) -> FusedSentence:
    parts = [draft.sentence() for draft in sources]
    scores = [part.support for part in parts if part.support is not None]
    return FusedSentence(
        text,
        tuple(dict.fromkeys(name for part in parts for name in part.claim_ids)),
        tuple(dict.fromkeys(name for part in parts for name in part.region_ids)),
        max(part.agreement for part in parts),
        min(scores) if scores else None,
    )


def _untold(drafts: Sequence[Draft], sentences: Sequence[FusedSentence]) -> list[Verdict]:
    told = {name for sentence in sentences for name in sentence.claim_ids}
    note = "the language model told it in no sentence that its statements bear out"
    return [
        dropped(one, "no source", note)
        for draft in drafts
        for one in draft.members
        if one.claim.id not in told
    ]
