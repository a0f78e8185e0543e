"""From the states of a network to its likeliest tokens that may come next, a vocabulary in pieces."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.base import DecodeOptions
from decoders.tokenizers import Vocabulary
from patchioner.base.weights import PackedTable

PIECE = 2048  # tokens: with a hundred rows 0.8 MB of float32 logits
_FEW_ROWS = 2  # fewer rows are limited by reading the matrix, not by the cache


class LinearHead:
    """Logits as the product with a matrix (vocab, width), often the token embedding itself; any stretch at a time.

    The packed `table` of an inference copy serves where no gradients are wanted.
    """

    def __init__(self, matrix: Tensor, table: PackedTable | None = None) -> None:
        self.matrix, self._table = matrix, table

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return int(self.matrix.shape[0])

    @property
    def whole(self) -> bool:
        """Whether all logits are better had at once: on an accelerator one large product beats many small ones."""
        return self.matrix.device.type != "cpu"

    def logits(self, states: Tensor, first: int, last: int) -> Tensor:
        """Float32 logits (n, last - first) of (n, width) states; the caller may change them."""
        if self._table is not None and first % PIECE == 0 and not torch.is_grad_enabled():
            return self._table.product(states, first, last)
        return functional.linear(states, self.matrix[first:last]).float()


class GivenLogits:
    """For networks that give logits themselves: the states are (n, vocab) logits, or scores of no softmax."""

    whole = True

    def __init__(self, vocab_size: int, *, scores: bool = False) -> None:
        self.vocab_size, self.scores = vocab_size, scores

    def logits(self, states: Tensor, first: int, last: int) -> Tensor:
        """The states' own columns; a step's states are made for it alone, so nothing is copied."""
        return states[:, first:last].float()


OutputHead: TypeAlias = LinearHead | GivenLogits


def _scored(
    head: OutputHead, states: Tensor, bans: StepBans, totals: list[Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """First token and logits, bans applied, of each stretch of the vocabulary, 0 to 2047 and so on; fills `totals`."""
    at_once = head.whole or len(states) <= _FEW_ROWS
    size = head.vocab_size if at_once else PIECE
    for first in range(0, head.vocab_size, size):
        logits = head.logits(states, first, min(first + size, head.vocab_size))
        totals.append(log_total(head, logits))  # before the bans: of the network's own distribution
        bans.apply(logits, first)
        yield first, logits


def best_tokens(head: OutputHead, states: Tensor, bans: StepBans) -> tuple[Tensor, Tensor]:
    """The likeliest token (n,) int64 of each row of (n, width) states that is not banned; of equals the first.

    And its log-probability (n,) float32 under the network's own distribution, from before the bans.
    """
    tops, places, totals = list[Tensor](), list[Tensor](), list[Tensor]()
    for first, logits in _scored(head, states, bans, totals):
        top, place = logits.max(dim=1)
        tops.append(top)
        places.append(place + first)
    top, piece = torch.stack(tops).max(dim=0)
    tokens = torch.stack(places).gather(0, piece[None]).squeeze(0)
    return tokens, top - torch.stack(totals).logsumexp(dim=0)


def top_tokens(
    head: OutputHead, states: Tensor, bans: StepBans, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row, best first: log-probabilities and tokens, each (n, count).

    The log-probabilities are the network's own, with banned tokens at minus infinity.
    """
    tops, places, totals = list[Tensor](), list[Tensor](), list[Tensor]()
    for first, logits in _scored(head, states, bans, totals):
        top, place = logits.topk(min(count, logits.shape[1]), dim=1)
        tops.append(top)
        places.append(place + first)
    tokens = torch.cat(places, dim=1)
    values, order = torch.cat(tops, dim=1).topk(min(count, head.vocab_size), dim=1)
    total = torch.stack(totals).logsumexp(dim=0)
    return values - total[:, None], tokens.gather(1, order)


def log_total(head: OutputHead, logits: Tensor) -> Tensor:
    """What is taken off each row of logits to make log-probabilities of them; nothing (0) off scores."""
    if isinstance(head, GivenLogits) and head.scores:
        return logits.new_zeros(len(logits))
    return logits.logsumexp(dim=1)


class StepBans:
    """What may not come next at one step.

    Args:
        never: sorted token ids that no row may write, as a list and as a tensor where the logits are.
        repeats: tokens (n, k) that rows have written, and whether (n, k) each would repeat an n-gram; or None.
        words: (row, token) pairs of banned words.
    """

    def __init__(
        self,
        never: tuple[list[int], Tensor],
        repeats: tuple[Tensor, Tensor] | None = None,
        words: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._never_list, self._never = never
        self._repeats, self._words = repeats, words

    def apply(self, logits: Tensor, first: int = 0) -> None:
        """Set banned tokens of (n, m) logits, from token `first` on, to minus infinity, in place."""
        last = first + logits.shape[1]
        low, high = bisect_left(self._never_list, first), bisect_left(self._never_list, last)
        if low < high:
            logits.index_fill_(1, self._never[low:high] - first, -torch.inf)
        if self._repeats is not None:
            tokens, banned = self._repeats
            banned = banned & (tokens >= first) & (tokens < last)
            ceilings = torch.full_like(tokens, torch.inf, dtype=logits.dtype)
            ceilings.masked_fill_(banned, -torch.inf)
            places = (tokens - first).clamp(0, last - first - 1)
            logits.scatter_reduce_(1, places, ceilings, "amin")
        inside = [(row, token - first) for row, token in self._words if first <= token < last]
        if inside:
            rows, columns = map(list, zip(*inside, strict=True))
            logits[rows, columns] = -torch.inf


class Constraints:
    """The options and bans of one call of the loop, and the tokens that end a caption, where the logits are."""

    def __init__(
        self, vocabulary: Vocabulary, options: DecodeOptions, device: torch.device
    ) -> None:
        self.options = options
        self.ends = torch.tensor(vocabulary.end_ids, device=device)
        unwritable = set(vocabulary.unwritable_ids)
        self._never = _sorted_ids(unwritable, device)
        self._never_or_end = _sorted_ids(unwritable | set(vocabulary.end_ids), device)
        self._texts = (
            [text.lower() for text in vocabulary.token_texts()] if options.banned_words else []
        )
        words = sorted({" ".join(word.lower().split()) for word in options.banned_words})
        self._banned = [_BannedWord(word, self._texts) for word in words]

    def at(self, written: Tensor) -> StepBans:
        """The bans of one step, after the tokens `written` (n, t) int64."""
        early = written.shape[1] < self.options.min_tokens
        size = self.options.no_repeat_ngram
        repeats = _repeats(written, size) if 0 < size <= written.shape[1] else None
        return StepBans(self._never_or_end if early else self._never, repeats, self._words(written))

    def _words(self, written: Tensor) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for row, tokens in enumerate(written.tolist() if self._banned else ()):
            tail = "".join(self._texts[token] for token in tokens if token < len(self._texts))
            ids = {i for word in self._banned for i in word.completed_by(tail)}
            found += [(row, token) for token in sorted(ids)]
        return found


def _sorted_ids(ids: Iterable[int], device: torch.device) -> tuple[list[int], Tensor]:
    ordered = sorted(ids)
    return ordered, torch.tensor(ordered, dtype=torch.int64, device=device)


def _repeats(written: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The last token of every n-gram written, and whether it would now write that n-gram again."""
    ngrams = written.unfold(1, size, 1)
    begun = written[:, None, written.shape[1] - size + 1 :]
    return ngrams[:, :, -1], (ngrams[:, :, :-1] == begun).all(dim=2)


class _BannedWord:
    """Which tokens would complete one banned word or phrase, however it is cut into tokens."""

    def __init__(self, word: str, texts: Sequence[str]) -> None:
        self._word = word
        # By number of characters already written: tokens that write the rest, which none is longer than.
        first = max(0, len(word) - max(map(len, texts), default=0))
        self._rest: dict[int, list[int]] = {
            done: [i for i, text in enumerate(texts) if _begins(text, word[done:])]
            for done in range(first, len(word))
        }
        self._whole = [i for i, text in enumerate(texts) if _contains(text, word)]

    def completed_by(self, tail: str) -> list[int]:
        forbidden = list(self._whole)
        for done, tokens in self._rest.items():
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
    places = range(1, len(text) - len(word) + 1)
    return any(not text[i - 1].isalnum() and _begins(text[i:], word) for i in places)
