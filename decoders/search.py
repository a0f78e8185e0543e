"""The one loop from embeddings to captions: greedy, beam, sampling."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from decoders.base import Decoded, DecodeOptions, StepNetwork
from decoders.guidance import Guide, GuidedNetwork
from decoders.head import Constraints, StepBans, best_tokens, log_total, top_tokens
from decoders.tokenizers import Vocabulary
from patchioner.base.errors import DecoderError

# (states (m, width), bans, which rows they are (m,), step) -> chosen tokens and log-probabilities (m,)
Choose: TypeAlias = Callable[[Tensor, StepBans, Tensor, int], tuple[Tensor, Tensor]]

Search: TypeAlias = Callable[[StepNetwork, Tensor, Constraints], list["Hypothesis"]]

_BEAM_COPIES = 3  # scores, log-probabilities and the cache while beams are reordered
_TOP = 64  # tokens that nearly always hold the draw
_LARGE = 512  # tokens from which finding those beats sorting all
_ROWS = 16  # a multiple of it is read


class Hypothesis(NamedTuple):
    """Generated tokens, the end token included, and the log-probability of each."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


@torch.inference_mode()
def generate(
    network: StepNetwork,
    vocabulary: Vocabulary,
    embeddings: Tensor,
    options: DecodeOptions,
    device: torch.device,
    guide: Guide | None = None,
    *,
    draws: int = 1,
) -> list[Decoded]:
    """As `Decoder.generate`, of checked embeddings, by a network in evaluation mode on `device`.

    With more `draws` there are so many samples of each row, one after another, of seeds that follow `options.seed`.
    A row's caption does not depend on the others, up to the rounding of the platform's matrix product.
    """
    if options.max_tokens > network.max_tokens:
        raise DecoderError(
            f"max_tokens is {options.max_tokens}, but this decoder has positions for "
            f"{network.max_tokens}; lower max_tokens"
        )
    if not len(embeddings):
        return []
    parts = [embeddings]
    if guide is not None:
        network = GuidedNetwork(SharedRows(network), vocabulary, guide)
        parts += [guide.around, guide.evidence]
    rows = torch.cat([part.detach().to(device, torch.float32) for part in parts], dim=1)
    distinct, places = distinct_rows(rows)
    constraints = Constraints(vocabulary, options, device)
    sampling = partial(sample_search, draws=draws)
    searches: dict[str, Search] = {"greedy": greedy_search, "beam": beam_search, "sample": sampling}
    search = searches[options.strategy]
    found: list[Hypothesis] = []
    size = max(1, rows_per_batch(network, options) // draws)
    for first in range(0, len(distinct), size):
        part = distinct[first : first + size].repeat_interleave(draws, dim=0)
        found += search(network, part, constraints)
    captions = [Decoded(vocabulary.decode(ids), ids, log_probs) for ids, log_probs in found]
    return [one for place in places for one in captions[place * draws : (place + 1) * draws]]


def distinct_rows(embeddings: Tensor) -> tuple[Tensor, list[int]]:
    """Each different row once, in order of appearance, and for each row which of them it is."""
    keys = [row.tobytes() for row in embeddings.cpu().numpy()]
    firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return embeddings[[firsts[key] for key in order]], [order[key] for key in keys]


class SharedRows:
    """A network of the same interface that reads rows once that are alike: equal embeddings, then equal tokens.

    Of guided captions a third are: many regions of a photo have the same surroundings, and captions begin alike.
    """

    def __init__(self, network: StepNetwork) -> None:
        self._network = network
        self.max_tokens, self.head = network.max_tokens, network.head
        self.row_bytes = network.row_bytes

    def start(self, embeddings: Tensor, max_tokens: int) -> tuple[Tensor, _SharedCache]:
        """Read (n, dim) embeddings; see `StepNetwork`."""
        distinct, places = distinct_rows(embeddings)
        states, cache = self._network.start(distinct, max_tokens)
        rows = torch.tensor(places, device=embeddings.device)
        return states[rows], _SharedCache(cache, rows)

    def step(self, tokens: Tensor, cache: _SharedCache) -> Tensor:
        """Read (n,) tokens; see `StepNetwork`."""
        alike = torch.stack([cache.rows, tokens], dim=1)
        distinct, places = alike.unique(dim=0, return_inverse=True)
        order = _kept_in_place(distinct[:, 0])
        cache.rows = order.argsort()[places]
        # To one of few numbers of rows: for each, oneDNN prepares and keeps its kernels.
        more = order[:1].expand(-len(order) % _ROWS)
        sources, words = distinct[torch.cat([order, more])].unbind(1)
        cache.read.select(sources)
        return self._network.step(words, cache.read)[cache.rows]


@dataclass
class _SharedCache:
    """What was read of distinct rows, and which of them each row is, (n,) int64."""

    read: Any
    rows: Tensor

    def select(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]


def _kept_in_place(sources: Tensor) -> Tensor:
    """An order of rows of sorted sources (m,) in which the first of each source is at its place, where there is one."""
    count = len(sources)
    stays = (sources < count) & (sources != sources.roll(1))
    stays[:1] = sources[:1] < count
    order, free = torch.empty_like(sources), torch.ones_like(stays)
    order[sources[stays]] = stays.nonzero().squeeze(1)
    free[sources[stays]] = False
    order[free] = (~stays).nonzero().squeeze(1)
    return order


def rows_per_batch(network: StepNetwork, options: DecodeOptions) -> int:
    """Rows that fit the memory budget, at least one."""
    copies = _BEAM_COPIES * options.beam_width if options.strategy == "beam" else 1
    row = network.row_bytes(options.max_tokens) * copies
    return max(1, int(options.batch_memory_mb * 2**20 / row))


def greedy_search(
    network: StepNetwork, embeddings: Tensor, constraints: Constraints
) -> list[Hypothesis]:
    """The likeliest token at every step, for each row of (n, dim) embeddings."""
    head = network.head

    def choose(states: Tensor, bans: StepBans, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return best_tokens(head, states, bans)

    return _search(network, embeddings, constraints, choose)


def sample_search(
    network: StepNetwork, embeddings: Tensor, constraints: Constraints, draws: int = 1
) -> list[Hypothesis]:
    """A token drawn at every step, by inverting the cumulative distribution with uniform numbers of the row's own.

    Of `draws` equal rows, which follow one another, each has the next seed.
    """
    options = constraints.options
    each = [
        row_uniforms(embeddings[::draws], options.max_tokens, seed=options.seed + place)
        for place in range(draws)
    ]
    uniforms = torch.from_numpy(np.stack(each, axis=1)).flatten(0, 1).to(embeddings.device)
    head = network.head

    def choose(states: Tensor, bans: StepBans, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        logits = head.logits(states, 0, head.vocab_size)
        total = log_total(head, logits)  # before the bans: scores are the network's own
        bans.apply(logits)
        chosen = draw(logits / options.temperature, uniforms[rows, step], options.top_p)
        return chosen, logits.gather(1, chosen[:, None]).squeeze(1) - total

    return _search(network, embeddings, constraints, choose)


def draw(logits: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """Tokens (n,) of (n, vocab) logits, drawn from the nucleus of mass `top_p` (Holtzman et al. 2020).

    `uniforms` (n,) float64 in [0, 1) are the quantiles to take within the nucleus.
    """
    if logits.shape[1] < _LARGE:
        return _draw_among(logits, uniforms, top_p, logits.shape[1])[0]
    # Nearly every draw is among the likeliest few.
    chosen, sure = _draw_among(logits, uniforms, top_p, _TOP)
    rest = (~sure).nonzero().squeeze(1)
    if len(rest):
        chosen[rest] = _draw_among(logits[rest], uniforms[rest], top_p, logits.shape[1])[0]
    return chosen


def _draw_among(
    logits: Tensor, uniforms: Tensor, top_p: float, count: int
) -> tuple[Tensor, Tensor]:
    """`draw` by looking at the `count` likeliest; and whether it is sure that no other would have been drawn."""
    # The order of equal ones is that of the vocabulary.
    order = logits.topk(count, dim=1).indices.sort(dim=1).values
    ordered, among = logits.gather(1, order).sort(dim=1, descending=True, stable=True)
    order, highest = order.gather(1, among), ordered[:, :1]
    total = (logits - highest).exp().sum(dim=1, keepdim=True).double()
    probabilities = (ordered - highest).double().exp() / total
    mass = probabilities.cumsum(dim=1)
    # A token is inside when the mass before it is still short of top_p; the first always is.
    inside = ((mass - probabilities < top_p) & (probabilities > 0)).sum(dim=1, keepdim=True)
    last = inside.clamp(min=1) - 1
    whole = mass.gather(1, last) if top_p < 1 else torch.ones_like(mass[:, :1])
    place = torch.searchsorted(mass, uniforms.unsqueeze(1) * whole, right=True).minimum(last)
    sure = (ordered.gather(1, place) > ordered[:, -1:]) & ((mass[:, -1:] >= top_p) | (top_p == 1))
    return order.gather(1, place).squeeze(1), sure.squeeze(1)


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
    network: StepNetwork, embeddings: Tensor, constraints: Constraints, choose: Choose
) -> list[Hypothesis]:
    options = constraints.options
    count, device = len(embeddings), embeddings.device
    tokens = torch.full((count, options.max_tokens), -1, dtype=torch.int64, device=device)
    log_probs = torch.zeros((count, options.max_tokens), dtype=torch.float32, device=device)
    active = torch.arange(count, device=device)
    ends = constraints.ends
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

    So a row that ends costs its cache the copy of one row: of five rows 0, 2, 4 give [0, 4, 2].
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


def beam_search(
    network: StepNetwork, embeddings: Tensor, constraints: Constraints
) -> list[Hypothesis]:
    """The best finished hypothesis of each row of (n, dim) embeddings.

    A row stops once `beam_width` hypotheses have ended, or no living one can still win. A row where none has ended by
    `max_tokens` gives its best living one, cut. Width 1 equals greedy.
    """
    beams, options = _Beams(embeddings, constraints), constraints.options
    head, width = network.head, options.beam_width
    # Each hypothesis can end in `len(ends)` ways: with one more than that of each, enough remain to go on.
    most = (1 + len(constraints.ends)) * width
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
    """Living hypotheses (m rows still going, width, max_tokens) and the best finished one of every row."""

    def __init__(self, embeddings: Tensor, constraints: Constraints) -> None:
        self.options, self.ends = constraints.options, constraints.ends
        count, width, device = len(embeddings), self.options.beam_width, embeddings.device
        shape = (count, width, self.options.max_tokens)
        self.rows = torch.arange(count, device=device)  # which input each living row is
        self.tokens = torch.full(shape, -1, dtype=torch.int64, device=device)
        self.log_probs = torch.zeros(shape, dtype=torch.float32, device=device)
        self.sums = torch.full((count, width), -torch.inf, dtype=torch.float32, device=device)
        self.sums[:, 0] = 0.0  # all start alike, so only one may be extended at first
        self.ended = torch.zeros(count, dtype=torch.int64, device=device)  # how many, of each input
        self.scores = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        self.won_tokens, self.won_log_probs = (
            self.tokens[:, 0].clone(),
            self.log_probs[:, 0].clone(),
        )

    def written(self, step: int) -> Tensor:
        """(m * width, step): the tokens of every living hypothesis."""
        return self.tokens[:, :, :step].flatten(0, 1)

    def extend(self, log_probs: Tensor, tokens: Tensor, step: int) -> Tensor:
        """Add one token to every hypothesis, of its (m * width, k) likeliest, best first, banned ones at -inf.

        Gives back, for each living hypothesis, the index of the one it extends; empty when all are done.
        """
        rows, width = self.sums.shape
        each = log_probs.shape[1]
        totals = (self.sums.flatten()[:, None] + log_probs).view(rows, width * each)
        most = min((1 + len(self.ends)) * width, width * each)
        sums, places = totals.topk(most, dim=1)
        parents, row = places // each, torch.arange(rows, device=places.device)[:, None]
        written, values = self.tokens[row, parents], self.log_probs[row, parents]
        written[:, :, step] = tokens.view(rows, width * each).gather(1, places)
        values[:, :, step] = log_probs.view(rows, width * each).gather(1, places)
        ended = torch.isin(written[:, :, step], self.ends) & (sums > -torch.inf)
        self._finish(written, values, sums, ended[:, :width], step)
        # Living candidates first, each kind in order of score.
        order = ended.long().argsort(dim=1, stable=True)[:, :width]
        self.tokens, self.log_probs = written[row, order], values[row, order]
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
        self, tokens: Tensor, log_probs: Tensor, sums: Tensor, ended: Tensor, step: int
    ) -> None:
        """File the best candidate that ended among the best `width`; a lower one is no winner."""
        self.ended[self.rows] += ended.sum(dim=1)
        rank = ended.long().argmax(dim=1)  # the first: they are in order of score
        scores = sums.gather(1, rank[:, None]).squeeze(1).double() / self._length(step + 1)
        better = (ended.any(dim=1) & (scores > self.scores[self.rows])).nonzero().squeeze(1)
        row, rank = self.rows[better], rank[better]
        self.scores[row] = scores[better]
        self.won_tokens[row] = tokens[better, rank]
        self.won_log_probs[row] = log_probs[better, rank]

    def _drop_done(self, parents: Tensor) -> Tensor:
        """Let rows leave that are done; the rest stays in place where it can (see `close_ranks`)."""
        # Sums only fall, and a longer caption divides by more: the best that may still come.
        reach = self.sums.amax(dim=1).double() / self._length(self.options.max_tokens)
        found, width = self.ended[self.rows], self.options.beam_width
        done = (found >= width) | ((found > 0) & (self.scores[self.rows] >= reach))
        kept = close_ranks(~done)
        if len(kept) < len(self.rows):
            self.rows, self.tokens = self.rows[kept], self.tokens[kept]
            self.log_probs, self.sums = self.log_probs[kept], self.sums[kept]
        return (kept[:, None] * width + parents[kept]).flatten()

    def _length(self, tokens: int) -> float:
        return float(tokens**self.options.length_penalty)
