"""One hypothesis for each row: greedy choice and sampling.

Knows: the loop over steps, rows that leave the batch when they end, how a token is drawn.
Does NOT know: beams, memory budgets, text, how logits are made (`head`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from decoders.base import StepNetwork
from decoders.constraints import Constraints, StepBans
from decoders.head import all_logits, best_tokens
from decoders.options import DecodeOptions

# (states (m, width), bans, which rows they are (m,), step) -> chosen tokens and log-probabilities (m,)
Choose: TypeAlias = Callable[[Tensor, StepBans, Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Hypothesis:
    """Generated tokens, the end token included, and the log-probability of each."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


def greedy_search(
    network: StepNetwork[Any],
    embeddings: Tensor,
    constraints: Constraints,
    options: DecodeOptions,
    end_ids: tuple[int, ...],
) -> list[Hypothesis]:
    """The likeliest token at every step, for each row of (n, dim) embeddings."""

    head = network.head

    def choose(states: Tensor, bans: StepBans, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return best_tokens(head, states, bans, scores=options.scores)

    return _search(network, embeddings, constraints, options, end_ids, choose)


def sample_search(
    network: StepNetwork[Any],
    embeddings: Tensor,
    constraints: Constraints,
    options: DecodeOptions,
    end_ids: tuple[int, ...],
) -> list[Hypothesis]:
    """A token drawn at every step, by inverting the cumulative distribution.

    The uniform numbers of a row come from the seed and the row's own bytes, so that its caption
    does not depend on its neighbours or its place.
    """
    uniforms = row_uniforms(embeddings, options.max_tokens, seed=options.seed)
    draws = torch.from_numpy(uniforms).to(embeddings.device)

    head = network.head

    def choose(states: Tensor, bans: StepBans, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        logits = all_logits(head, states)
        total = logits.logsumexp(dim=1)  # before the bans: scores are the network's own
        bans.apply(logits)
        chosen = draw(logits / options.temperature, draws[rows, step], options.top_p)
        return chosen, logits.gather(1, chosen[:, None]).squeeze(1) - total

    return _search(network, embeddings, constraints, options, end_ids, choose)


def draw(logits: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """Tokens (n,) drawn from the nucleus of mass `top_p` (Holtzman et al. 2020).

    Args:
        logits: (n, vocab).
        uniforms: (n,) float64 in [0, 1): the quantile to take within the nucleus.
        top_p: the nucleus is the smallest set of likeliest tokens with at least this mass.
    """
    ordered, order = logits.sort(dim=1, descending=True, stable=True)
    probabilities = ordered.double().softmax(dim=1)
    mass = probabilities.cumsum(dim=1)
    # A token is inside when the mass before it is still short of top_p; the first always is.
    inside = (mass - probabilities < top_p) & (probabilities > 0)
    inside[:, 0] = True
    last = inside.sum(dim=1, keepdim=True) - 1
    quantile = uniforms.unsqueeze(1) * mass.gather(1, last)
    place = torch.searchsorted(mass, quantile, right=True).minimum(last)
    return order.gather(1, place).squeeze(1)


def row_uniforms(
    embeddings: Tensor, count: int, *, seed: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """(n, count) uniform numbers in [0, 1), each row a function of `seed` and of its embedding.

    Of an embedding only the signs count: the last bits of a matrix product vary with the number of
    its rows, and a draw must not depend on the batch.
    """
    rows = np.packbits((embeddings > 0).cpu().numpy(), axis=1)
    uniforms = np.empty((len(rows), count))
    for place, row in enumerate(rows):
        digest = hashlib.blake2b(row.tobytes(), digest_size=16, salt=seed.to_bytes(16, "little"))
        stream = np.random.default_rng(int.from_bytes(digest.digest(), "little"))
        uniforms[place] = stream.random(count)
    return uniforms


def _search(
    network: StepNetwork[Any],
    embeddings: Tensor,
    constraints: Constraints,
    options: DecodeOptions,
    end_ids: tuple[int, ...],
    choose: Choose,
) -> list[Hypothesis]:
    count, device = embeddings.shape[0], embeddings.device
    tokens = torch.full((count, options.max_tokens), -1, dtype=torch.int64, device=device)
    log_probs = torch.zeros((count, options.max_tokens), device=device)
    active = torch.arange(count, device=device)
    ends = torch.tensor(end_ids, device=device)
    states, cache = network.start(embeddings, options.max_tokens)
    for step in range(options.max_tokens):
        bans = constraints.at(tokens[active, :step])
        chosen, values = choose(states, bans, active, step)
        tokens[active, step], log_probs[active, step] = chosen, values
        kept = close_ranks(torch.isin(chosen, ends, invert=True))
        if step + 1 == options.max_tokens or not len(kept):
            break
        if len(kept) < len(active):
            active, chosen = active[kept], chosen[kept]
            cache.select(kept)
        states = network.step(chosen, cache)
    return hypotheses(tokens.tolist(), log_probs.tolist())


def close_ranks(going: Tensor) -> Tensor:
    """The places (m,) int64 of rows that go on: each stays where it is, or fills the place of one that ended.

    So a row that ends costs its cache the copy of one row, not of all.

    Example:
        >>> close_ranks(torch.tensor([True, False, True, False, True])).tolist()
        [0, 4, 2]
    """
    places = going.nonzero().squeeze(1)
    count = len(places)
    kept = torch.arange(count, device=going.device)
    kept[(~going[:count]).nonzero().squeeze(1)] = places[places >= count]
    return kept


def hypotheses(
    tokens: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]
) -> list[Hypothesis]:
    """Rows of tokens, padded with -1, and of log-probabilities, without the padding."""
    found = []
    for ids, values in zip(tokens, log_probs, strict=True):
        length = sum(token >= 0 for token in ids)
        found.append(Hypothesis(tuple(ids[:length]), tuple(values[:length])))
    return found
