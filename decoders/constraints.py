"""What may not be generated next: unwritable tokens, an early end, repetitions, banned words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decoders.options import DecodeOptions

if TYPE_CHECKING:
    from decoders.base import Vocabulary


class StepBans:
    """What may not come next at one step.

    Args:
        never: sorted token ids that no row may write, as a list and as a tensor where the logits are.
        repeats: tokens (n, k) that rows have written, and whether (n, k) each would repeat an n-gram; or None.
        words: rows and tokens of banned words.
    """

    def __init__(
        self,
        never: tuple[list[int], Tensor],
        repeats: tuple[Tensor, Tensor] | None = None,
        words: tuple[list[int], list[int]] = ([], []),
    ) -> None:
        self._never_list, self._never = never
        self._repeats, self._words = repeats, words

    def apply(self, logits: Tensor, first: int = 0) -> None:
        """Set banned tokens to minus infinity (the least integer), in place, without waiting for the device.

        Args:
            logits: (n, m) float or int32 of the tokens `first` to `first + m`.
        """
        least, most = _extremes(logits.dtype)
        last = first + logits.shape[1]
        low, high = bisect_left(self._never_list, first), bisect_left(self._never_list, last)
        if low < high:
            logits.index_fill_(1, self._never[low:high] - first, least)
        if self._repeats is not None:
            tokens, banned = self._repeats
            banned = banned & (tokens >= first) & (tokens < last)
            ceilings = torch.full_like(tokens, most, dtype=logits.dtype)
            ceilings.masked_fill_(banned, least)
            places = (tokens - first).clamp(0, last - first - 1)
            logits.scatter_reduce_(1, places, ceilings, "amin")
        inside = [pair for pair in zip(*self._words, strict=True) if first <= pair[1] < last]
        if inside:
            rows, columns = zip(*inside, strict=True)
            logits[list(rows), [column - first for column in columns]] = least

    def rows(self, first: int, last: int) -> StepBans:
        """The same for some of the rows alone."""
        repeats = None
        if self._repeats is not None:
            repeats = self._repeats[0][first:last], self._repeats[1][first:last]
        kept = [
            (row - first, i) for row, i in zip(*self._words, strict=True) if first <= row < last
        ]
        words = [row for row, _ in kept], [i for _, i in kept]
        return StepBans((self._never_list, self._never), repeats, words)


class Constraints:
    """The bans of one call of the engine.

    Args:
        vocabulary: for the end tokens, the unwritable tokens and the token texts.
        options: `min_tokens`, `no_repeat_ngram` and `banned_words`.
        device: where the logits are.
    """

    def __init__(
        self, vocabulary: Vocabulary, options: DecodeOptions, device: torch.device
    ) -> None:
        self._min_tokens = options.min_tokens
        self._ngram = options.no_repeat_ngram
        unwritable = set(vocabulary.unwritable_ids)
        self._never = _sorted_ids(unwritable, device)
        self._never_or_end = _sorted_ids(unwritable | set(vocabulary.end_ids), device)
        self._texts = (
            [text.lower() for text in vocabulary.token_texts()] if options.banned_words else []
        )
        words = sorted({" ".join(word.lower().split()) for word in options.banned_words})
        self._banned = [_BannedWord(word, self._texts) for word in words]

    @property
    def reads_tokens(self) -> bool:
        """Whether the bans depend on the written tokens' texts, which are looked up on the host."""
        return bool(self._banned)

    def at(self, written: Tensor) -> StepBans:
        """The bans of one step.

        Args:
            written: (n, t) int64, the tokens of each row so far.
        """
        early = written.shape[1] < self._min_tokens
        repeats = None
        if 0 < self._ngram <= written.shape[1]:
            repeats = _repeats(written, self._ngram)
        return StepBans(self._never_or_end if early else self._never, repeats, self._words(written))

    def _words(self, written: Tensor) -> tuple[list[int], list[int]]:
        rows: list[int] = []
        forbidden: list[int] = []
        for row, tokens in enumerate(written.tolist() if self._banned else ()):
            tail = "".join(self._texts[token] for token in tokens)
            ids = sorted({i for word in self._banned for i in word.completed_by(tail)})
            rows += [row] * len(ids)
            forbidden += ids
        return rows, forbidden


def _extremes(dtype: torch.dtype) -> tuple[float, float]:
    if dtype.is_floating_point:
        return -torch.inf, torch.inf
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max


def _sorted_ids(ids: Iterable[int], device: torch.device) -> tuple[list[int], Tensor]:
    ordered = sorted(ids)
    return ordered, torch.tensor(ordered, dtype=torch.int64, device=device)


def _repeats(written: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The last token of every n-gram written, and whether it would now write that n-gram again."""
    ngrams = written.unfold(1, size, 1)
    begun = written[:, None, written.shape[1] - size + 1 :]
    return ngrams[:, :, -1], (ngrams[:, :, :-1] == begun).all(dim=2)


class _BannedWord:
    """Which tokens would complete one banned word or phrase, given the text before them.

    Every way to cut the word into tokens is covered: the word's beginning is looked for in the
    text, its rest in the tokens.
    """

    def __init__(self, word: str, texts: Sequence[str]) -> None:
        self._word = word
        # By number of characters already written: tokens that write the rest.
        self._rest: list[list[int]] = [
            [i for i, text in enumerate(texts) if _begins(text, word[done:])]
            for done in range(len(word))
        ]
        self._whole = [i for i, text in enumerate(texts) if _contains(text, word)]

    def completed_by(self, tail: str) -> list[int]:
        forbidden = list(self._whole)
        for done, tokens in enumerate(self._rest):
            if tokens and _ends(tail, self._word[:done]):
                forbidden += tokens
        return forbidden


def _begins(text: str, rest: str) -> bool:
    """Whether `text` opens with `rest`, and the word ends there."""
    return text.startswith(rest) and not text[len(rest) : len(rest) + 1].isalnum()


def _ends(tail: str, beginning: str) -> bool:
    """Whether `tail` closes with `beginning`, and the word starts there."""
    start = len(tail) - len(beginning)
    return tail.endswith(beginning) and (start == 0 or not tail[start - 1].isalnum())


def _contains(text: str, word: str) -> bool:
    """Whether `text` holds the word after a character that cannot belong to it."""
    place = text.find(word, 1)
    while place > 0:
        if not text[place - 1].isalnum() and _begins(text[place:], word):
            return True
        place = text.find(word, place + 1)
    return False
