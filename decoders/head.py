"""From the states of a network to its likeliest tokens, without ever holding all logits.

Knows: the product with the vocabulary, piece by piece while a piece is in the processor's cache; the
normaliser of the probabilities; the best tokens. Does NOT know: the layers below, strategies, text.

The vocabulary product is most of a step (58 % at 4 layers of 768 with 50,257 tokens). In one call it
runs at two thirds of the processor's matrix rate and its logits go through memory four times; in
pieces of 2,048 tokens it runs at nearly the full rate, and maximum, sum and top come out of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor

from patchioner.base.inference import PackedTable, can_pack

PIECE = 2048  # tokens: with a hundred rows 0.8 MB of float32 logits
_FEW_ROWS = 2  # fewer rows are limited by reading the matrix, not by the cache


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

    def best(self, states: Tensor, bans: Bans) -> Tensor:
        """Tokens (n,) of the highest logits that are not banned, without probabilities."""


class Bans(Protocol):
    """What may not come next; see `constraints.StepBans`."""

    def apply(self, logits: Tensor, first: int = 0) -> None:
        """Set banned tokens to minus infinity in the logits of tokens `first` and on, in place."""

    def rows(self, first: int, last: int) -> Bans:
        """The same for some of the rows alone."""


class TokenScreen(Protocol):
    """A faster way to the likeliest token; see `screen.Screen`."""

    def best(self, states: Tensor, bans: Bans) -> Tensor | None:
        """Tokens (n,), or None where it cannot decide."""


class LinearHead:
    """Logits as the product with a matrix.

    Args:
        matrix: (vocab, width), often the token embedding itself.
        screen: finds the likeliest token faster than the product, in a way that never errs (see `screen.Screen`);
            asked for only where probabilities are not wanted. None, or giving None: there is none.
        table: the matrix packed in stretches of `PIECE`, for inference. None, or giving None: there is none.
    """

    def __init__(
        self,
        matrix: Tensor,
        screen: Callable[[], TokenScreen | None] | None = None,
        table: Callable[[], PackedTable | None] | None = None,
    ) -> None:
        self.matrix, self._screen, self._table = matrix, screen, table

    def best(self, states: Tensor, bans: Bans) -> Tensor:
        """Tokens (n,) of the highest logits that are not banned, without probabilities."""
        screen = None if self._screen is None else self._screen()
        if screen is None:
            return best_of_all(self, states, bans)
        tokens = screen.best(states, bans)
        # The screen is rarely at a loss: not worth a second copy of the matrix.
        return best_of_all(LinearHead(self.matrix), states, bans) if tokens is None else tokens

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
        table = None if self._table is None or torch.is_grad_enabled() else self._table()
        if table is not None and first % PIECE == 0:
            return table.product(states, first, last)
        return functional.linear(states, self.matrix[first:last]).float()


def table_if_worth(matrix: Tensor) -> PackedTable | None:
    """A (vocab, width) matrix packed for `LinearHead`; None where that gains nothing.

    Example:
        >>> table_if_worth(torch.zeros(50, 8)) is None
        True
    """
    return PackedTable(matrix, PIECE) if can_pack(matrix) else None


class GivenLogits:
    """For networks that give logits themselves: the states are (n, vocab) logits."""

    whole = True

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def logits(self, states: Tensor, first: int, last: int) -> Tensor:
        """The states' own columns; a step's states are made for it alone, so nothing is copied."""
        return states[:, first:last].float()

    def best(self, states: Tensor, bans: Bans) -> Tensor:
        """Tokens (n,) of the highest logits that are not banned."""
        return best_of_all(self, states, bans)


def pieces(head: OutputHead, rows: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) token of each stretch of the vocabulary.

    Example:
        >>> list(pieces(LinearHead(torch.zeros(5000, 2)), rows=100))
        [(0, 2048), (2048, 4096), (4096, 5000)]
    """
    size = head.vocab_size if head.whole or rows <= _FEW_ROWS else PIECE
    for first in range(0, head.vocab_size, size):
        yield first, min(first + size, head.vocab_size)


def best_tokens(
    head: OutputHead, states: Tensor, bans: Bans, *, scores: bool = True
) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row that is not banned; of equals the first.

    Args:
        head: of the network.
        states: (n, width).
        bans: of this step.
        scores: whether the log-probabilities are wanted; their sum over all tokens costs a tenth.

    Returns:
        tokens (n,) int64, and their log-probabilities (n,) float32 under the network's own
        distribution, from before the bans; NaN without `scores`.
    """
    if not scores:
        tokens = head.best(states, bans)
        return tokens, torch.full((len(tokens),), torch.nan, device=tokens.device)
    totals: list[Tensor] = []
    tokens, top = _best_of_pieces(head, states, bans, totals)
    return tokens, top - torch.stack(totals).logsumexp(dim=0)


def best_of_all(head: OutputHead, states: Tensor, bans: Bans) -> Tensor:
    """Tokens (n,) of the highest logits that are not banned, by looking at every logit."""
    return _best_of_pieces(head, states, bans, None)[0]


def _best_of_pieces(
    head: OutputHead, states: Tensor, bans: Bans, totals: list[Tensor] | None
) -> tuple[Tensor, Tensor]:
    tops, places = [], []
    for first, last in pieces(head, len(states)):
        logits = head.logits(states, first, last)
        if totals is not None:
            totals.append(logits.logsumexp(dim=1))
        bans.apply(logits, first)
        top, place = logits.max(dim=1)
        tops.append(top)
        places.append(place + first)
    top, piece = torch.stack(tops).max(dim=0)
    return torch.stack(places).gather(0, piece[None]).squeeze(0), top


def top_tokens(head: OutputHead, states: Tensor, bans: Bans, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row, best first (all of them where there are fewer).

    Returns:
        log-probabilities (n, count) float32 under the network's own distribution, banned tokens at
        minus infinity; tokens (n, count) int64.
    """
    tops, places, totals = [], [], []
    for first, last in pieces(head, len(states)):
        logits = head.logits(states, first, last)
        totals.append(logits.logsumexp(dim=1))
        bans.apply(logits, first)
        top, place = logits.topk(min(count, last - first), dim=1)
        tops.append(top)
        places.append(place + first)
    tokens = torch.cat(places, dim=1)
    values, order = torch.cat(tops, dim=1).topk(min(count, head.vocab_size), dim=1)
    total = torch.stack(totals).logsumexp(dim=0)
    return values - total[:, None], tokens.gather(1, order)


def all_logits(head: OutputHead, states: Tensor) -> Tensor:
    """Float32 logits (n, vocab), which the caller may change, for strategies that need every token."""
    return head.logits(states, 0, head.vocab_size)
