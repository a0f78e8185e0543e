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
from decoders.options import DecodeOptions
from decoders.search import Hypothesis


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
    logits, cache = network.start(embeddings, options.max_tokens)
    width = options.beam_width
    first = torch.arange(len(embeddings), device=embeddings.device).repeat_interleave(width)
    cache.select(first)
    logits = logits[first]
    for step in range(options.max_tokens):
        log_probs = logits.log_softmax(dim=1)
        constraints.apply(log_probs, beams.tokens[:, :, :step].flatten(0, 1))
        source = beams.extend(log_probs, step)
        if step + 1 == options.max_tokens or not len(source):
            break
        cache.select(source)
        logits = network.step(beams.tokens[:, :, step].flatten(), cache)
    return beams.best()


class _Beams:
    """Living hypotheses (m rows still going, width) and the finished ones of every row."""

    def __init__(
        self, embeddings: Tensor, options: DecodeOptions, end_ids: tuple[int, ...]
    ) -> None:
        count, width, device = len(embeddings), options.beam_width, embeddings.device
        self.options = options
        self.ends = torch.tensor(end_ids, device=device)
        self.rows = torch.arange(count, device=device)  # which input each living row is
        self.tokens = torch.zeros(
            (count, width, options.max_tokens), dtype=torch.int64, device=device
        )
        self.log_probs = torch.zeros((count, width, options.max_tokens), device=device)
        self.sums = torch.full((count, width), -torch.inf, device=device)
        self.sums[:, 0] = 0.0  # all start alike, so only one may be extended at first
        self.finished: list[list[tuple[float, Hypothesis]]] = [[] for _ in range(count)]

    def extend(self, log_probs: Tensor, step: int) -> Tensor:
        """Add one token to every hypothesis.

        Args:
            log_probs: (m * width, vocab), banned tokens at minus infinity.

        Returns:
            For each living hypothesis the index of the one it extends; empty when all are done.
        """
        rows, width = self.sums.shape
        vocab = log_probs.shape[1]
        scores = (self.sums.flatten()[:, None] + log_probs).view(rows, width * vocab)
        # Each hypothesis can end in `len(ends)` ways: with one more than that of each, enough remain to go on.
        most = (1 + len(self.ends)) * width
        sums, places = scores.topk(min(most, width * vocab), dim=1)
        parents, tokens = places // vocab, places % vocab
        steps = log_probs.view(rows, width * vocab).gather(1, places)
        ended = torch.isin(tokens, self.ends) & (sums > -torch.inf)
        self._finish(parents, tokens, sums, steps, ended, step)
        # Living candidates first, each kind in order of score.
        order = ended.long().argsort(dim=1, stable=True)[:, :width]
        self._take(parents.gather(1, order), tokens.gather(1, order), steps.gather(1, order), step)
        self.sums = sums.gather(1, order).masked_fill(ended.gather(1, order), -torch.inf)
        return self._drop_done(parents.gather(1, order))

    def best(self) -> list[Hypothesis]:
        """The winner of every row."""
        for place, row in enumerate(self.rows.tolist()):
            if not self.finished[row]:
                beam = int(self.sums[place].argmax())
                self.finished[row].append((0.0, self._hypothesis(place, beam)))
        return [max(found, key=lambda pair: pair[0])[1] for found in self.finished]

    def _finish(
        self,
        parents: Tensor,
        tokens: Tensor,
        sums: Tensor,
        steps: Tensor,
        ended: Tensor,
        step: int,
    ) -> None:
        """File candidates that ended among the best `width`; a lower one is no winner."""
        width = self.options.beam_width
        for place, rank in ended[:, :width].nonzero().tolist():
            parent = int(parents[place, rank])
            before = self._hypothesis(place, parent, step)
            whole = Hypothesis(
                (*before.token_ids, int(tokens[place, rank])),
                (*before.log_probs, float(steps[place, rank])),
            )
            score = float(sums[place, rank]) / (step + 1) ** self.options.length_penalty
            self.finished[int(self.rows[place])].append((score, whole))

    def _take(self, parents: Tensor, tokens: Tensor, steps: Tensor, step: int) -> None:
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        self.tokens = self.tokens[rows, parents]
        self.log_probs = self.log_probs[rows, parents]
        self.tokens[:, :, step] = tokens
        self.log_probs[:, :, step] = steps

    def _drop_done(self, parents: Tensor) -> Tensor:
        going = [i for i, row in enumerate(self.rows.tolist()) if not self._done(i, row)]
        kept = torch.tensor(going, dtype=torch.int64, device=parents.device)
        width = self.options.beam_width
        source = (kept[:, None] * width + parents[kept]).flatten()
        if len(going) < len(self.rows):
            self.rows, self.tokens = self.rows[kept], self.tokens[kept]
            self.log_probs, self.sums = self.log_probs[kept], self.sums[kept]
        return source

    def _done(self, place: int, row: int) -> bool:
        found = self.finished[row]
        if len(found) >= self.options.beam_width:
            return True
        if not found:
            return False
        # Sums only fall, and a longer caption divides by more: the best that may still come.
        reach = float(self.sums[place].max())
        reach /= self.options.max_tokens**self.options.length_penalty
        return bool(max(score for score, _ in found) >= reach)

    def _hypothesis(self, place: int, beam: int, length: int | None = None) -> Hypothesis:
        return Hypothesis(
            tuple(self.tokens[place, beam, :length].tolist()),
            tuple(self.log_probs[place, beam, :length].tolist()),
        )
