"""Beam search: several hypotheses for each row, all rows at once.

Knows: how hypotheses are extended, ranked, finished, and when a row can stop.
Does NOT know: memory budgets, text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from decoders.base import StepNetwork
from decoders.constraints import Constraints
from decoders.head import top_tokens
from decoders.options import DecodeOptions
from decoders.search import Hypothesis, close_ranks, hypotheses


def beam_search(
    network: StepNetwork[Any],
    embeddings: Tensor,
    constraints: Constraints,
    options: DecodeOptions,
    end_ids: tuple[int, ...],
) -> list[Hypothesis]:
    """The best finished hypothesis of each row of (n, dim) embeddings.

    A row stops once `beam_width` hypotheses have ended, or no living one can still win. A row
    where none has ended by `max_tokens` gives its best living one, cut. Width 1 equals greedy.
    """
    beams = _Beams(embeddings, options, end_ids)
    head, width = network.head, options.beam_width
    # Each hypothesis can end in `len(ends)` ways: with one more than that of each, enough remain to go on.
    most = (1 + len(end_ids)) * width
    states, cache = network.start(embeddings, options.max_tokens)
    log_probs, tokens = top_tokens(head, states, constraints.at(beams.written(0)[::width]), most)
    # All hypotheses start alike: one is read, and its continuations shown to each.
    first = torch.arange(len(embeddings), device=embeddings.device).repeat_interleave(width)
    cache.select(first)
    log_probs, tokens = log_probs[first], tokens[first]
    for step in range(options.max_tokens):
        source = beams.extend(log_probs, tokens, step)
        if step + 1 == options.max_tokens or not len(source):
            break
        cache.select(source)
        states = network.step(beams.written(step + 1)[:, -1], cache)
        bans = constraints.at(beams.written(step + 1))
        log_probs, tokens = top_tokens(head, states, bans, most)
    return beams.best()


class _Beams:
    """Living hypotheses (m rows still going, width) and the best finished one of every row."""

    def __init__(
        self, embeddings: Tensor, options: DecodeOptions, end_ids: tuple[int, ...]
    ) -> None:
        count, width, device = len(embeddings), options.beam_width, embeddings.device
        shape = (count, width, options.max_tokens)
        self.options = options
        self.ends = torch.tensor(end_ids, device=device)
        self.rows = torch.arange(count, device=device)  # which input each living row is
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        self.log_probs = torch.zeros(shape, device=device)
        self.sums = torch.full((count, width), -torch.inf, device=device)
        self.sums[:, 0] = 0.0  # all start alike, so only one may be extended at first
        self.ended = torch.zeros(count, dtype=torch.int64, device=device)  # how many, of each input
        self.scores = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        self.won_tokens = torch.full(
            (count, options.max_tokens), -1, dtype=torch.int64, device=device
        )
        self.won_log_probs = torch.zeros((count, options.max_tokens), device=device)

    def written(self, step: int) -> Tensor:
        """(m * width, step): the tokens of every living hypothesis."""
        return self.tokens[:, :, :step].flatten(0, 1)

    def extend(self, log_probs: Tensor, tokens: Tensor, step: int) -> Tensor:
        """Add one token to every hypothesis.

        Args:
            log_probs, tokens: (m * width, k) the likeliest continuations of each, best first; banned
                ones at minus infinity.

        Returns:
            For each living hypothesis the index of the one it extends; empty when all are done.
        """
        rows, width = self.sums.shape
        each = log_probs.shape[1]
        totals = (self.sums.flatten()[:, None] + log_probs).view(rows, width * each)
        most = min((1 + len(self.ends)) * width, width * each)
        sums, places = totals.topk(most, dim=1)
        parents = places // each
        chosen = tokens.view(rows, width * each).gather(1, places)
        steps = log_probs.view(rows, width * each).gather(1, places)
        ended = torch.isin(chosen, self.ends) & (sums > -torch.inf)
        self._finish(parents, chosen, sums, steps, ended, step)
        # Living candidates first, each kind in order of score.
        order = ended.long().argsort(dim=1, stable=True)[:, :width]
        self._take(parents.gather(1, order), chosen.gather(1, order), steps.gather(1, order), step)
        self.sums = sums.gather(1, order).masked_fill(ended.gather(1, order), -torch.inf)
        return self._drop_done(parents.gather(1, order))

    def best(self) -> list[Hypothesis]:
        """The winner of every row."""
        cut = (self.ended[self.rows] == 0).nonzero().squeeze(1)
        if len(cut):
            beams = self.sums[cut].argmax(dim=1)
            self.won_tokens[self.rows[cut]] = self.tokens[cut, beams]
            self.won_log_probs[self.rows[cut]] = self.log_probs[cut, beams]
        return hypotheses(self.won_tokens.tolist(), self.won_log_probs.tolist())

    def _finish(
        self,
        parents: Tensor,
        tokens: Tensor,
        sums: Tensor,
        steps: Tensor,
        ended: Tensor,
        step: int,
    ) -> None:
        """File the best candidate that ended among the best `width`; a lower one is no winner."""
        ended = ended[:, : self.options.beam_width]
        self.ended[self.rows] += ended.sum(dim=1)
        rank = ended.long().argmax(dim=1, keepdim=True)  # the first: they are in order of score
        scores = sums.gather(1, rank).squeeze(1).double() / self._length(step + 1)
        better = (ended.any(dim=1) & (scores > self.scores[self.rows])).nonzero().squeeze(1)
        if not len(better):
            return
        row, rank = self.rows[better], rank[better]
        parent = parents[better].gather(1, rank).squeeze(1)
        self.scores[row] = scores[better]
        self.won_tokens[row, :step] = self.tokens[better, parent, :step]
        self.won_log_probs[row, :step] = self.log_probs[better, parent, :step]
        self.won_tokens[row, step] = tokens[better].gather(1, rank).squeeze(1)
        self.won_log_probs[row, step] = steps[better].gather(1, rank).squeeze(1)

    def _take(self, parents: Tensor, tokens: Tensor, steps: Tensor, step: int) -> None:
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        self.tokens = self.tokens[rows, parents]
        self.log_probs = self.log_probs[rows, parents]
        self.tokens[:, :, step] = tokens
        self.log_probs[:, :, step] = steps

    def _drop_done(self, parents: Tensor) -> Tensor:
        """Let rows leave that are done; the rest stays in place where it can (see `close_ranks`)."""
        # Sums only fall, and a longer caption divides by more: the best that may still come.
        reach = self.sums.amax(dim=1).double() / self._length(self.options.max_tokens)
        found = self.ended[self.rows]
        done = (found >= self.options.beam_width) | (
            (found > 0) & (self.scores[self.rows] >= reach)
        )
        kept = close_ranks(~done)
        if len(kept) < len(self.rows):
            self.rows, self.tokens = self.rows[kept], self.tokens[kept]
            self.log_probs, self.sums = self.log_probs[kept], self.sums[kept]
        return (kept[:, None] * self.options.beam_width + parents[kept]).flatten()

    def _length(self, tokens: int) -> float:
        return float(tokens**self.options.length_penalty)
