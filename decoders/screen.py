"""The likeliest token by screening: an 8-bit product finds the few candidates, exact ones decide.

Knows: rounding errors and their bound. Does NOT know: layers, strategies, probabilities.

With h = a p + r (p its 8-bit row, r what rounding left) and a vocabulary row w = c q + d likewise,

    h . w - (a p) . (c q) = h . d + r . (c q), so |h . w - ac p . q| <= |h| |d| + |r| |c q|

by Cauchy-Schwarz; p . q is an exact integer. Only tokens whose upper bound reaches the best lower bound
can be the likeliest; their logits are computed in float32, and in float64 where float32 is too coarse to
tell (its own error is bounded as well). So the answer is that of the exact product, always; where two
candidates are closer than a float32 product can be trusted to order, that product is asked, so that both
ways decide alike. Subtracting the mean row from every w first shifts all logits of a row equally and makes
the w shorter. With random weights of 50,257 x 768, seven candidates are left of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.head import PIECE, Bans
from decoders.int8 import int8_product, quantize_rows
from patchioner.base.inference import has_fast_int8

BLOCK = 32  # tokens that share one bound
_MOST = 64  # candidates of a row, on average, above which the full product is cheaper
_LARGE = 4_000_000  # numbers of a matrix: a smaller one is done before the candidates are looked at
_WIDEST = 1024  # float32 holds the 8-bit sums of this width exactly
_BLOCKS = PIECE // BLOCK
_ROWS = 128  # at a time: their sums are 26 MB
_LEAST = torch.iinfo(torch.int32).min  # in place of the sums of banned tokens
_SLACK = 1.0001  # for the float32 roundings of the bound itself
_ROUNDING = 16 * 2.0**-24  # of |h| |w|: closer logits are a tie to float32


def worth_screening(matrix: Tensor) -> bool:
    """Whether a screen of this matrix is faster than its float32 product: a large one, on a CPU with VNNI."""
    large = matrix.numel() >= _LARGE and matrix.shape[1] <= _WIDEST
    return large and matrix.dtype == torch.float32 and has_fast_int8(matrix.device)


def screen_if_worth(matrix: Tensor) -> Screen | None:
    """A screen of this matrix; None where it would gain nothing (see `worth_screening`).

    Example:
        >>> screen_if_worth(torch.zeros(50, 8)) is None  # too small to gain
        True
    """
    return Screen(matrix) if worth_screening(matrix) else None


class Screen:
    """A vocabulary matrix in 8 bits, with what rounding took from it.

    Args:
        matrix: (vocab, width) float32. It is kept (not copied), and must not change.

    Example:
        >>> matrix = torch.randn(5000, 16)
        >>> screen = Screen(matrix)
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self._vocab, width = matrix.shape
        blocks = -(-self._vocab // BLOCK)
        self._rows = matrix.new_zeros(blocks * BLOCK, width, dtype=torch.int8)
        self._scales, self._lost, self._kept = (matrix.new_zeros(blocks) for _ in range(3))
        self._mean = mean = matrix.mean(dim=0)
        self._longest = float(matrix.norm(dim=1).max() + mean.norm())
        # Centring and scaling round in float32 too: by some units of 6e-8 of the lengths.
        centring = 1e-6 * self._longest
        for first in range(0, blocks, _BLOCKS):
            last = min(first + _BLOCKS, blocks)
            part = matrix[first * BLOCK : last * BLOCK] - mean
            part = functional.pad(part, (0, 0, 0, (last - first) * BLOCK - len(part)))
            # One scale for a block, so that 8-bit sums compare within it as they are.
            rows, scales = quantize_rows(part.view(last - first, BLOCK * width))
            restored = (rows * scales[:, None]).view(-1, BLOCK, width)
            self._rows[first * BLOCK : last * BLOCK] = rows.view(-1, width)
            self._scales[first:last] = scales
            lost = (part.view(-1, BLOCK, width) - restored).norm(dim=2).amax(dim=1)
            self._lost[first:last] = lost + centring
            self._kept[first:last] = restored.norm(dim=2).amax(dim=1)

    def best(self, states: Tensor, bans: Bans) -> Tensor | None:
        """The likeliest token that is not banned, of each row.

        Args:
            states: (n, width) float32.
            bans: of this step.

        Returns:
            tokens (n,) int64; None where a row has two that float32 cannot tell apart, or is not a number, or
            where there are so many candidates that the screen is of no use: then the full product must be asked.
        """
        found: list[Tensor] = []
        for first in range(0, len(states), _ROWS):
            last = min(first + _ROWS, len(states))
            tokens = self._best(states[first:last], bans.rows(first, last))
            if tokens is None:
                return None
            found.append(tokens)
        return torch.cat(found)

    def _best(self, states: Tensor, bans: Bans) -> Tensor | None:
        rows, scales = quantize_rows(states)
        norms = states.norm(dim=1)
        rounding = (states - rows * scales[:, None]).norm(dim=1)
        # Everything in units of the row's scale, which does not change the order.
        bounds = norms[:, None] * self._lost + rounding[:, None] * self._kept
        bounds *= _SLACK / scales[:, None]
        sums, tops = self._sums(rows, bans)
        reach = tops * self._scales
        floors = torch.maximum(
            (reach - bounds).amax(dim=1), self._floors(states, sums, reach) / scales
        )
        row, block = (reach + bounds >= floors[:, None]).nonzero(as_tuple=True)
        missing = (floors[row] - bounds[row, block]) / self._scales[block]
        place, within = (sums[row, block] >= missing[:, None] - 2).nonzero(as_tuple=True)
        row, token = row[place], block[place] * BLOCK + within
        if len(row) > _MOST * len(states) or bool((tops.amax(dim=1) == _LEAST).any()):
            return None
        return self._decide(states, row, token, norms)

    def _floors(self, states: Tensor, sums: Tensor, reach: Tensor) -> Tensor:
        """Lower bounds (n,) of the best centred logit: that of the token that looks best, computed."""
        block = reach.argmax(dim=1)
        within = sums[torch.arange(len(states)), block].argmax(dim=1)
        rows = self.matrix[block * BLOCK + within] - self._mean
        error = self._error(states.norm(dim=1))
        best: Tensor = torch.linalg.vecdot(states, rows)
        return best - error

    def _error(self, norms: Tensor) -> Tensor:
        """Bound of the error of a float32 inner product with a vocabulary row: about k units of rounding."""
        return norms * (self._longest * self.matrix.shape[1] * 2.0**-23)

    def _sums(self, rows: Tensor, bans: Bans) -> tuple[Tensor, Tensor]:
        """8-bit sums (n, blocks, BLOCK) int32, banned tokens at the least, and the highest of each block."""
        blocks = len(self._scales)
        sums = torch.empty(len(rows), blocks, BLOCK, dtype=torch.int32)
        for first in range(0, blocks, _BLOCKS):
            last = min(first + _BLOCKS, blocks)
            piece = int8_product(rows, self._rows[first * BLOCK : last * BLOCK])
            bans.apply(piece, first * BLOCK)
            piece[:, max(self._vocab - first * BLOCK, 0) :] = _LEAST
            sums[:, first:last] = piece.view(len(rows), -1, BLOCK)
        return sums, sums.amax(dim=2)

    def _decide(self, states: Tensor, row: Tensor, token: Tensor, norms: Tensor) -> Tensor | None:
        """The best of the candidates, which are pairs of row and token; None where a row has a tie, or none at all.

        Float32 decides where it provably can, float64 the rest.
        """
        near = torch.linalg.vecdot(states[row], self.matrix[token])
        error = 2 * self._error(norms)
        close = near >= (_row_max(near, row, len(states)) - error)[row]
        row, token = row[close], token[close]
        exact = torch.linalg.vecdot(states[row].double(), self.matrix[token].double())
        best = _row_max(exact, row, len(states))
        close = exact >= (best - norms * (self._longest * _ROUNDING))[row]
        row, token = row[close], token[close]
        # As many as rows, and a different row each. A row of NaN has none: no comparison holds for it.
        if len(row) != len(states) or len(row.unique()) != len(row):
            return None
        found = torch.empty_like(token)
        found[row] = token
        return found


def _row_max(values: Tensor, row: Tensor, rows: int) -> Tensor:
    lowest = values.new_full((rows,), -torch.inf)
    return lowest.scatter_reduce(0, row, values, "amax")
