"""From the states of a network to its likeliest tokens that may come next, a vocabulary in pieces."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.base import DecodeOptions, Vocabulary
from patchioner.base.weights import (
    PackedTable,
    can_pack,
    has_fast_int8,
    int8_product,
    quantize_rows,
)

T = TypeVar("T")

PIECE = 2048  # tokens: with a hundred rows 0.8 MB of float32 logits
BLOCK = 32  # tokens that share one bound
_FEW_ROWS = 2  # fewer rows are limited by reading the matrix, not by the cache
_MOST = 64  # candidates of a row, on average, above which the full product is cheaper
_LARGE = 4_000_000  # numbers of a matrix: a smaller one is done before the candidates are looked at
_WIDEST = 1024  # float32 holds the 8-bit sums of this width exactly
_INTEGERS = torch.iinfo(torch.int32)
_SLACK = 1.0001  # for the float32 roundings of the bound itself
_ROUNDING = 16 * 2.0**-24  # of |h| |w|: closer logits are a tie to float32


class OutputHead(Protocol):
    """The last layer of a network: states in, float32 logits of any stretch of the vocabulary out."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""

    @property
    def whole(self) -> bool:
        """Whether the logits of all tokens are better had at once."""

    def logits(self, states: Tensor, first: int, last: int) -> Tensor:
        """Float32 logits (n, last - first) of these tokens; the caller may change them."""


class DerivedCache(Generic[T]):
    """What a function makes of a matrix (None: nothing to gain): once, and anew when the matrix has changed.

    Threads may share one. A copy (`copy.deepcopy`) starts empty.

    Example:
        >>> DerivedCache(lambda matrix: matrix.norm(dim=1).max()).of(torch.tensor([[3.0, 4.0]]))
        tensor(5.)
    """

    def __init__(self, make: Callable[[Tensor], T | None]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[Tensor, int, T | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return DerivedCache, (self._make,)

    def of(self, matrix: Tensor) -> T | None:
        """What was made of this matrix. Changes in place are seen by torch's count of them, so not through `.data`.

        Of tensors made in inference mode, whose changes are not counted, nothing is made.
        """
        with self._lock:
            if matrix.is_inference():
                self._made = None
                return None
            # It holds the matrix it was made of, so no other can have come to lie in its place.
            if self._made is not None:
                held, version, result = self._made
                if version == matrix._version and held.data_ptr() == matrix.data_ptr():
                    return result
            held = matrix.detach()
            self._made = held, matrix._version, self._make(held)
            return self._made[2]


class LinearHead:
    """Logits as the product with a matrix (vocab, width), often the token embedding itself.

    `candidates` serve where probabilities are not wanted, the packed `table` where no gradients are.
    """

    def __init__(
        self,
        matrix: Tensor,
        candidates: DerivedCache[CandidatePruning] | None = None,
        table: DerivedCache[PackedTable] | None = None,
    ) -> None:
        self.matrix, self._candidates, self._table = matrix, candidates, table

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return int(self.matrix.shape[0])

    @property
    def whole(self) -> bool:
        """On an accelerator: there one large product beats many small ones."""
        return self.matrix.device.type != "cpu"

    def logits(self, states: Tensor, first: int, last: int) -> Tensor:
        """Float32 logits (n, last - first) of (n, width) states."""
        if self._table is not None and first % PIECE == 0 and not torch.is_grad_enabled():
            table = self._table.of(self.matrix)
            if table is not None:
                return table.product(states, first, last)
        return functional.linear(states, self.matrix[first:last]).float()

    def best(self, states: Tensor, bans: StepBans) -> Tensor:
        """Tokens (n,) of the highest logits that are not banned, without probabilities."""
        pruning = None if self._candidates is None else self._candidates.of(self.matrix)
        if pruning is None:
            return _best_of_pieces(self, states, bans, None)[0]
        tokens = pruning.best(states, bans)
        if tokens is None:  # rare: not worth a second, packed copy of the matrix
            return _best_of_pieces(LinearHead(self.matrix), states, bans, None)[0]
        return tokens


def table_if_worth(matrix: Tensor) -> PackedTable | None:
    """A (vocab, width) matrix packed for `LinearHead`; None where that gains nothing."""
    return PackedTable(matrix, PIECE) if can_pack(matrix) else None


class GivenLogits:
    """For networks that give logits themselves: the states are (n, vocab) logits, or scores of no softmax."""

    whole = True

    def __init__(self, vocab_size: int, *, scores: bool = False) -> None:
        self.vocab_size, self.scores = vocab_size, scores

    def logits(self, states: Tensor, first: int, last: int) -> Tensor:
        """The states' own columns; a step's states are made for it alone, so nothing is copied."""
        return states[:, first:last].float()


def pieces(head: OutputHead, rows: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) token of each stretch of the vocabulary: (0, 2048), (2048, 4096) ..."""
    size = head.vocab_size if head.whole or rows <= _FEW_ROWS else PIECE
    for first in range(0, head.vocab_size, size):
        yield first, min(first + size, head.vocab_size)


def best_tokens(
    head: OutputHead, states: Tensor, bans: StepBans, *, scores: bool = True
) -> tuple[Tensor, Tensor]:
    """The likeliest token (n,) int64 of each row of (n, width) states that is not banned; of equals the first.

    And its log-probability (n,) float32 under the network's own distribution, from before the bans; NaN without
    `scores` (the sum over all tokens costs a tenth).
    """
    if not scores:
        if isinstance(head, LinearHead):
            tokens = head.best(states, bans)
        else:
            tokens = _best_of_pieces(head, states, bans, None)[0]
        return tokens, torch.full((len(tokens),), torch.nan, device=tokens.device)
    totals: list[Tensor] = []
    tokens, top = _best_of_pieces(head, states, bans, totals)
    return tokens, top - torch.stack(totals).logsumexp(dim=0)


def _best_of_pieces(
    head: OutputHead, states: Tensor, bans: StepBans, totals: list[Tensor] | None
) -> tuple[Tensor, Tensor]:
    tops, places = [], []
    for first, last in pieces(head, len(states)):
        logits = head.logits(states, first, last)
        if totals is not None:
            totals.append(log_total(head, logits))
        bans.apply(logits, first)
        top, place = logits.max(dim=1)
        tops.append(top)
        places.append(place + first)
    top, piece = torch.stack(tops).max(dim=0)
    return torch.stack(places).gather(0, piece[None]).squeeze(0), top


def top_tokens(
    head: OutputHead, states: Tensor, bans: StepBans, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row, best first: log-probabilities and tokens, each (n, count).

    The log-probabilities are the network's own, with banned tokens at minus infinity.
    """
    tops, places, totals = [], [], []
    for first, last in pieces(head, len(states)):
        logits = head.logits(states, first, last)
        totals.append(log_total(head, logits))
        bans.apply(logits, first)
        top, place = logits.topk(min(count, last - first), dim=1)
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


def pruning_if_worth(matrix: Tensor) -> CandidatePruning | None:
    """Candidate pruning of a large matrix, on a CPU with fast int8 products; None where it would gain nothing."""
    large = matrix.numel() >= _LARGE and matrix.shape[1] <= _WIDEST
    worth = large and matrix.dtype == torch.float32 and has_fast_int8(matrix.device)
    return CandidatePruning(matrix) if worth else None


class CandidatePruning:
    """A vocabulary matrix (vocab, width) float32, kept and not to change, in 8 bits; and what rounding took from it.

    With h = a p + r (p the 8-bit row of a state, r what rounding left) and w = c q + d of a token likewise,
    |h . w - ac p . q| <= |h| |d| + |r| |c q|, where p . q is an exact integer. Tokens whose upper bound reaches the
    best lower bound are computed in float64. The mean row is subtracted from every w first, which shifts all logits of
    a state equally.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self._mean = matrix, matrix.mean(dim=0)
        self._longest = float(matrix.norm(dim=1).max() + self._mean.norm())
        parts = zip(*map(self._rounded, matrix.split(PIECE)), strict=True)
        self._rows, self._scales, self._lost, self._kept = map(torch.cat, parts)

    def _rounded(self, part: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows in 8 bits, and of each block the scale, the most that rounding took, the longest row that is left."""
        centred = functional.pad(part - self._mean, (0, 0, 0, -len(part) % BLOCK))
        blocks = centred.view(-1, BLOCK, part.shape[1])
        # One scale for a block, so that 8-bit sums compare within it as they are.
        rows, scales = quantize_rows(blocks.flatten(1))
        restored = (rows * scales[:, None]).view_as(blocks)
        # Centring and scaling round in float32 too: by some units of 6e-8 of the lengths.
        lost = (blocks - restored).norm(dim=2).amax(dim=1) + 1e-6 * self._longest
        return rows.view_as(centred), scales, lost, restored.norm(dim=2).amax(dim=1)

    def best(self, states: Tensor, bans: StepBans) -> Tensor | None:
        """The likeliest token (n,) int64 that is not banned, of each row of (n, width) float32 states.

        None where a row has two that float32 cannot tell apart, or is not a number, or where there are too many
        candidates: then the full product must be asked.
        """
        rows, scales = quantize_rows(states)
        norms = states.norm(dim=1)
        rounding = (states - rows * scales[:, None]).norm(dim=1)
        # Everything in units of the row's scale, which does not change the order.
        bounds = norms[:, None] * self._lost + rounding[:, None] * self._kept
        bounds *= _SLACK / scales[:, None]
        sums = self._sums(rows, bans)
        tops = sums.amax(dim=2)
        reach = tops * self._scales
        looks_best = self._floors(states, sums, reach) / scales
        floors = torch.maximum((reach - bounds).amax(dim=1), looks_best)
        row, block = (reach + bounds >= floors[:, None]).nonzero(as_tuple=True)
        missing = (floors[row] - bounds[row, block]) / self._scales[block]
        place, within = (sums[row, block] >= missing[:, None] - 2).nonzero(as_tuple=True)
        row, token = row[place], block[place] * BLOCK + within
        if len(row) > _MOST * len(states) or bool((tops.amax(dim=1) == _INTEGERS.min).any()):
            return None
        return self._decide(states, row, token, norms)

    def _floors(self, states: Tensor, sums: Tensor, reach: Tensor) -> Tensor:
        """Lower bounds (n,) of the best centred logit: that of the token that looks best, computed."""
        block = reach.argmax(dim=1)
        within = sums[torch.arange(len(states)), block].argmax(dim=1)
        rows = self.matrix[block * BLOCK + within] - self._mean
        # A float32 inner product with a vocabulary row errs by about k units of rounding.
        error = states.norm(dim=1) * (self._longest * self.matrix.shape[1] * 2.0**-23)
        best: Tensor = torch.linalg.vecdot(states, rows) - error
        return best

    def _sums(self, rows: Tensor, bans: StepBans) -> Tensor:
        """8-bit sums (n, blocks, BLOCK) int32, banned tokens at the least."""
        sums = int8_product(rows, self._rows)
        bans.apply(sums)
        sums[:, len(self.matrix) :] = _INTEGERS.min
        return sums.view(len(rows), -1, BLOCK)

    def _decide(self, states: Tensor, row: Tensor, token: Tensor, norms: Tensor) -> Tensor | None:
        """The best of the candidates (row, token); None where a row has a tie."""
        exact = torch.linalg.vecdot(states[row].double(), self.matrix[token].double())
        best = exact.new_full((len(states),), -torch.inf).scatter_reduce(0, row, exact, "amax")
        close = exact >= (best - norms * (self._longest * _ROUNDING))[row]
        row, token = row[close], token[close]
        # As many as rows, and a different row each. A row of NaN has none: no comparison holds for it.
        if len(row) != len(states) or len(row.unique()) != len(row):
            return None
        found = torch.empty_like(token)
        found[row] = token
        return found


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
        """Set banned tokens of (n, m) float or int32 logits, from token `first` on, to the least value, in place."""
        floating, limits = logits.dtype.is_floating_point, _INTEGERS
        least, most = (-torch.inf, torch.inf) if floating else (limits.min, limits.max)
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
        inside = [(row, token - first) for row, token in self._words if first <= token < last]
        if inside:
            rows, columns = map(list, zip(*inside, strict=True))
            logits[rows, columns] = least


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

    @property
    def reads_tokens(self) -> bool:
        """Whether the bans depend on the written tokens' texts, which are looked up on the host."""
        return bool(self._banned)

    def at(self, written: Tensor) -> StepBans:
        """The bans of one step, after the tokens `written` (n, t) int64."""
        early = written.shape[1] < self.options.min_tokens
        size = self.options.no_repeat_ngram
        repeats = _repeats(written, size) if 0 < size <= written.shape[1] else None
        return StepBans(self._never_or_end if early else self._never, repeats, self._words(written))

    def _words(self, written: Tensor) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for row, tokens in enumerate(written.tolist() if self._banned else ()):
            tail = "".join(self._texts[token] for token in tokens)
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
